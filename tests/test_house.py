"""The house rules: notebooks and modules in step, clean notebooks, README from the index, lint, a working wheel."""
import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import warnings
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from forks import forked
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import genre_study

SCRIPTS = Path(sysconfig.get_path("scripts"))
NOTEBOOKS = sorted(str(path.relative_to(Path(__file__).parent.parent)) for path in
                   (Path(__file__).parent.parent / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def run(*command, cwd, **environment):
    """Run a command of this environment and return what it did."""
    command = [str(SCRIPTS / command[0]), *command[1:]]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """A copy of every file that git tracks or could (untracked files count), for all tests of this module."""
    place = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() and not name.startswith("reports/"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, place / name)
    return place


def differences(left, right, folder, suffix):
    """Files under `folder` that are on one side only or differ."""
    names = {path.relative_to(base) for base in (left, right) for path in (base / folder).rglob(f"*{suffix}")
             if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}
    return sorted(str(name) for name in names if not ((left / name).is_file() and (right / name).is_file()
                                                      and filecmp.cmp(left / name, right / name, shallow=False)))


def test_export_leaves_no_difference(root, copy):
    for module in (copy / "genre_study").rglob("*.py"):
        if module.name not in ("__init__.py", "__main__.py"):
            module.unlink()
    done = run("nbdev_export", cwd=copy)
    assert done.returncode == 0, done.stderr
    changed = differences(root, copy, "genre_study", ".py")
    assert not changed, f"modules and notebooks are out of step; run nbdev_export: {changed}"


def test_clean_leaves_no_difference(root, copy):
    done = run("nbdev_clean", cwd=copy)
    assert done.returncode == 0, done.stderr
    changed = differences(root, copy, "nbs", ".ipynb")
    assert not changed, f"notebooks are not clean; run nbdev_clean: {changed}"


def test_ruff_finds_nothing(root):
    done = run("ruff", "check", ".", cwd=root)
    assert done.returncode == 0, done.stdout


def test_readme_and_its_tree_are_made_from_the_notebooks(root, tmp_path):
    made = tmp_path / "README.md", tmp_path / "index.ipynb"
    done = subprocess.run([sys.executable, "tools/make_readme.py", *made], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for new, kept in zip(made, (root / "README.md", root / "nbs" / "index.ipynb"), strict=True):
        assert new.read_text("utf-8").rstrip() == kept.read_text("utf-8").rstrip(), "run `make readme`"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_shows_no_machine_path_and_no_error(root, notebook):
    content = json.loads((root / notebook).read_text(encoding="utf-8"))
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    for output in outputs:
        output.get("data", {}).pop("image/png", None)  # base64 may hold any letters
    assert not re.search(r"(/work/|/tmp/|/root/|/home/\w)", json.dumps(content)), "a path of a machine is in it"
    assert not any(output["output_type"] == "error" for output in outputs)


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if "/studies/" in name])
def test_study_has_its_parameters_cell(root, notebook):
    cells = json.loads((root / notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill injects at the top where no cell is tagged, and the defaults win"


CHAPTERS = """
import json, os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import genre_study, keras, matplotlib.pyplot, nbdev.test, pandas, scipy.stats, sklearn.model_selection, soundfile
def job(line):
    notebook, log = json.loads(line)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    skipped = nbdev.test.get_config().tst_flags.split()
    passed, _ = nbdev.test.test_nb(nbdev.test.Path(notebook).absolute(), skip_flags=skipped)
    assert passed
"""


@pytest.fixture(scope="session")
def chapter(root):
    """A function that runs a chapter in a process of its own, which shares the import of libraries with the others."""
    with forked(CHAPTERS, str(root)) as run_chapter:
        yield run_chapter


def end_of(pid, patience_s=900):
    """Wait until a child that nobody has waited for ends, or for as long as a chapter may take."""
    begun = time.monotonic()
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() - begun < patience_s:
        time.sleep(0.05)


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if "/studies/" not in name])
def test_chapter_runs(chapter, root, tmp_path, notebook):
    """In a fork; on its own, and with a warning, if it fails there because of what was imported before."""
    log = tmp_path / "log.txt"
    if chapter(json.dumps([notebook, str(log)]), end_of) == 0:
        return
    done = run("nbdev_test", "--path", notebook, "--n_workers", "0", cwd=root)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    warnings.warn(f"{notebook} runs on its own only: {log.read_text(errors='replace')[-2000:]}", stacklevel=1)


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if "/studies/" not in name])
def test_chapter_imports_the_package_before_keras(root, notebook):
    """The package chooses the backend, and the runs above don't show it: they share an import of both."""
    cells = json.loads((root / notebook).read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    ours, keras = (re.search(rf"^(?:import|from) {name}\b", code, re.M) for name in ("genre_study", "keras"))
    assert keras is None or (ours and ours.start() < keras.start())


def imported(notebook):
    """Top-level packages that a notebook imports anywhere."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines = ["pass" if line[0] in "%!" else line for line in "".join(cell["source"]).splitlines() if line]
            for node in ast.walk(ast.parse("\n".join(lines))):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    yield node.module.partition(".")[0]


def installed_by(extras):
    """Every package that `pip install genre_study[extras]` brings, as far as it is installed here."""
    settings = ConfigParser(delimiters=["="])
    settings.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
    names = ["requirements", *(f"{extra}_requirements" for extra in extras)]
    waiting = [line for name in names for line in settings["DEFAULT"][name].strip().splitlines()]
    found = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        extras_of = requirement.extras or {""}
        if name not in found and (not requirement.marker or any(requirement.marker.evaluate({"extra": extra})
                                                                for extra in ("", "distributed"))):
            found.add(name)
            try:
                waiting += [line for line in metadata.requires(name) or [] if "extra ==" not in line or any(
                    f'"{extra}"' in line for extra in extras_of if extra)]
            except metadata.PackageNotFoundError:
                pass
    return found


def test_lab_installs_all_that_the_notebooks_import(root):
    """`make lab`: what is not installed in the tested environment either (onnx) is looked for by the chapter itself."""
    extras = re.search(r"\.venv/lab: .*\n.*'\.\[(.*)\]'", (root / "Makefile").read_text()).group(1).split(",")
    brought, owners = installed_by(extras), metadata.packages_distributions()
    missing = {(name, notebook) for notebook in NOTEBOOKS for name in imported(root / notebook)
               if name in owners and name != "genre_study"
               and not brought & {canonicalize_name(owner) for owner in owners[name]}}
    assert not missing, f"`make lab` does not install {sorted(missing)}"


def test_wheel_installs_and_imports(root, copy, tmp_path):
    """A wheel holds every module and data file; the tested environment lends its libraries."""
    out = tmp_path / "wheels"
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out,
                           copy],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "site"
    wheel = next(out.glob("genre_study-*.whl"))
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel], check=True,
                   capture_output=True)
    missing = [path.name for path in (root / "genre_study").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts
               and not (target / path.relative_to(root)).is_file()]
    studies = [*(root / "nbs" / "studies").glob("*.ipynb"), *(root / "nbs" / "studies" / "grids").glob("*.yaml")]
    missing += [path.name for path in studies
                if not (target / "genre_study" / "studies" / path.relative_to(root / "nbs" / "studies")).is_file()]
    assert not missing, f"not in the wheel: {missing}"
    version = subprocess.run([sys.executable, "-m", "genre_study", "--version"], cwd=tmp_path, capture_output=True,
                             text=True, env={**os.environ, "PYTHONPATH": str(target)})
    assert version.stdout == f"genre-study {genre_study.__version__}\n", version.stderr
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import genre_study, genre_study.corpus as c; "
            "assert genre_study.__file__.startswith(sys.argv[1]), genre_study.__file__; print(len(c.gtzan_tracks())); "
            "heavy = {'keras', 'jax', 'nbdev', 'fastcore', 'matplotlib'} & set(sys.modules); assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1000"


def test_package_imports_no_development_tool(root):
    for module in (root / "genre_study").rglob("*.py"):
        if module.name not in ("_modidx.py", "__init__.py", "__main__.py"):
            assert not re.search(r"^\s*(import|from) (nbdev|fastcore|execnb)\b", module.read_text(), re.M), module.name
