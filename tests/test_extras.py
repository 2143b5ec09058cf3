"""The base install is enough for all imports and for `predict`; whatever needs an extra says what to type."""
import ast
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_house import installed_by

OWNERS = {module: {canonicalize_name(name) for name in names} for module, names in
          metadata.packages_distributions().items()}


FINDER = """
from importlib.machinery import PathFinder
class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.missing else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Base
"""


def on_base(code, *arguments, cwd, **environ):
    """Run Python as if nothing were installed but what the base brings."""
    base = installed_by([]) | {"genre-study"}
    missing = [module for module, owners in OWNERS.items() if not owners & base]
    assert {"matplotlib", "papermill", "yaml", "zarr"} & set(missing) == {"matplotlib", "papermill", "zarr"}
    code = f"import sys\n{FINDER}\nBase.missing = {missing!r}\n{code}"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=os.environ | environ,
                          capture_output=True, text=True, timeout=300, check=False)


COMMAND = "from genre_study.command import main; sys.exit(main())"


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "song.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16 * 22050), 22050)
    return path


def test_every_module_imports(tmp_path):
    done = on_base("import genre_study, pkgutil\n"
                   "for found in pkgutil.walk_packages(genre_study.__path__, 'genre_study.'):\n"
                   "    if not found.name.endswith('__main__'):\n"
                   "        __import__(found.name)\n"
                   "        print(found.name)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"genre_study.study", "genre_study.plot", "genre_study.grid.grid"} <= set(done.stdout.split())


def test_song_and_folder_are_predicted(song, tmp_path):
    done = on_base(COMMAND, "predict", song, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert abs(sum(json.loads(done.stdout)["vector"].values()) - 1) < 1e-6
    done = on_base(COMMAND, "predict", song.parent, "--out", "tags.parquet", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "tags.parquet").exists(), done.stderr[-3000:]


@pytest.mark.parametrize(("arguments", "says", "extra"), [
    (["reproduce"], r"genre-study reproduce needs .*papermill.* zarr", "study"),
    (["grid", "dropout"], r"genre-study grid needs .*papermill.*", "study"),
    (["ablate", "epochs=1,2"], r"genre-study ablate needs .*papermill.*", "study"),
    (["page", "any.ipynb"], r"a page needs nbconvert", "study"),
    (["render", "corpus"], r"the synthetic corpus needs pretty_midi, symusic", "study"),
    (["predict", "SONG", "--timeline", "song.png"], r"--timeline needs matplotlib", "study"),
    (["serve"], r"the page needs gradio, matplotlib", "app"),
    (["fetch", "gtzan", "corpus"], r"a download needs huggingface_hub", "hub")])
def test_command_without_its_extra_ends_in_one_line(song, tmp_path, arguments, says, extra):
    done = on_base(COMMAND, *[song if word == "SONG" else word for word in arguments], cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "" and not list(tmp_path.iterdir()), "nothing half done"
    assert re.fullmatch(rf'genre-study: {says}: pip install "genre_study\[{extra}\]".*\n', done.stderr), done.stderr


@pytest.mark.parametrize(("call", "says"), [
    ("plot.plot_confusion([[1]], ['jazz'])", "a picture needs matplotlib, seaborn: pip install"),
    ("compare.format_table(pd.DataFrame({'a': [1]}), 'latex')", "a LaTeX table needs jinja2: pip install"),
    ("store.build_store(corpus.read_corpus('music'), 'new')", "making a store needs psutil, zarr: pip install"),
    ("bundle.load_pretrained('me/songs')", "the network 'me/songs' on the Hugging Face Hub needs huggingface_hub: ")])
def test_call_without_its_extra_says_what_to_type(song, tmp_path, call, says):
    for genre in ("jazz", "rock"):
        (tmp_path / "music" / genre).mkdir(parents=True)
        (tmp_path / "music" / genre / "a.wav").write_bytes(song.read_bytes())
    done = on_base(f"import pandas as pd\nfrom genre_study import corpus, plot, store\nfrom genre_study.predict import "
                   f"bundle\nfrom genre_study.score import compare\n{call}", cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith(f"ModuleNotFoundError: {says}"), done.stderr[-3000:]


def test_extra_that_is_named_brings_what_is_missing(root):
    """Every `need_extra(what, extra, *modules)` in the package, and the commands' list of all that a run imports."""
    from genre_study import command

    settings = ConfigParser(delimiters=["="])
    settings.read(root / "settings.ini", encoding="utf-8")
    study = {canonicalize_name(Requirement(line).name) for line in
             settings["DEFAULT"]["study_requirements"].strip().splitlines()}
    assert set().union(*(OWNERS[module] for module in command._STUDY)) == study
    asked = [[argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant)]
             for path in (root / "genre_study").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need_extra"]
    assert len(asked) > 8
    for extra, *modules in asked:
        brought, base = installed_by([extra]), installed_by([])
        for module in modules:
            assert OWNERS.get(module, set()) <= brought, f"genre_study[{extra}] does not bring {module}"
            assert not OWNERS.get(module, set()) & base, f"{module} comes without {extra}: it need not be asked for"


def test_whoever_runs_the_study_installs_it(root):
    """README, Dockerfile, environment.yml, Makefile, the workflow and .ci/run: no line installs the base alone."""
    lines = {(name, line.strip()) for name in ("README.md", "Dockerfile", "environment.yml", "Makefile", ".ci/run",
                                               ".github/workflows/test.yml")
             for line in (root / name).read_text(encoding="utf-8").splitlines()
             if re.search(r"(-c constraints\.txt|\$\(INSTALL\)).* -e |^ +- -e ", line)}
    assert len(lines) == 10 and not {line for line in lines if "[study" not in line[1]}
