"""The package in processes that refuse what Windows refuses (windows/sitecustomize.py says what)."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_study.core.layouts import find_tracks
from genre_study.storage.disk import LocalDisk, open_disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="plays Windows on Linux")
HERE = Path(__file__).parent


def windows(arguments, cwd, **environ):
    """Run Python as on Windows; return what it printed."""
    path = os.pathsep.join([str(HERE / "windows"), str(HERE.parent)])
    settings = {"PYTHONPATH": path, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ | settings | environ, timeout=600,
                         capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode("cp1252", "replace")[-4000:]
    return run.stdout.decode("cp1252")


REFUSALS = """
import genre_study, os, pathlib
refused = []
def attempt(name, call, error):
    try:
        call()
    except error:
        refused.append(name)
with open("open.txt", "w") as file:
    file.write("x")
with open("open.txt", "rb") as file:
    attempt("fsync", lambda: os.fsync(file.fileno()), OSError)
    pathlib.Path("new.txt").write_text("\\u20ac")
    attempt("replace", lambda: os.replace("new.txt", "open.txt"), PermissionError)
    attempt("unlink", lambda: pathlib.Path("open.txt").unlink(), PermissionError)
attempt("rename", lambda: os.rename("new.txt", "open.txt"), FileExistsError)
attempt("text", lambda: pathlib.Path("new.txt").write_text("\\u97f3"), UnicodeEncodeError)
attempt("print", lambda: print("\\u97f3"), UnicodeEncodeError)
attempt("fcntl", lambda: __import__("fcntl", {"__name__": "genre_study.x"}), ImportError)
attempt("fork", lambda: __import__("os", {"__name__": "genre_study.x"}).fork, AttributeError)
attempt("link", lambda: os.link("new.txt", "link"), AttributeError)
import subprocess, sys
attempt("pass_fds", lambda: subprocess.Popen([sys.executable, "-V"], pass_fds=[0]), ValueError)
print(*refused)
"""


def test_the_play_refuses_what_windows_refuses(tmp_path):
    found = windows(["-c", REFUSALS], tmp_path).split()
    assert found == "fsync replace unlink rename text print fcntl fork link pass_fds".split()


MODULES = """
import importlib, pkgutil, sys
import genre_study
found = pkgutil.walk_packages(genre_study.__path__, "genre_study.")
names = [module.name for module in found if not module.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert sys.modules["genre_study.storage.disk"].os.name == "nt"
print(len(names))
"""


def test_every_module_is_imported(tmp_path):
    assert int(windows(["-c", MODULES], tmp_path)) > 40


def test_the_study_runs(tmp_path):
    """Its kernel, and the processes that make spectrograms, are on Windows too."""
    windows(["-m", "genre_study", "reproduce", "--out", "run", "-p", "tracks_per_genre", "3", "-p", "epochs", "1",
             "-p", "workers", "2"], tmp_path)
    assert "accuracy" in json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["song"]


CELLS = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
with open(sys.argv[1], encoding="utf-8") as file:
    cells = json.load(file)["cells"]
os.chdir(os.path.dirname(sys.argv[1]))
for cell in cells:
    source = "".join(cell["source"])
    if cell["cell_type"] == "code" and "eval: false" not in source and not source.startswith("#| slow"):
        shell.run_cell(source).raise_error()
"""
CHAPTERS = sorted(name for name in HERE.parent.glob("nbs/**/*.ipynb")
                  if "studies" not in name.parts and "tutorials" not in name.parts and name.stem != "index")
AT_ONCE = ("01_corpus", "04_store", "audio", "layouts", "workers", "runner", "source")  # files and processes


@pytest.mark.parametrize("chapter", [
    pytest.param(name, id=name.stem, marks=[] if name.stem in AT_ONCE else pytest.mark.torture) for name in CHAPTERS])
def test_cells_of_a_chapter_run(chapter, tmp_path):
    """In JupyterLab on Windows each cell of a chapter does what it does here."""
    (tmp_path / "cells.py").write_text(CELLS, encoding="utf-8")
    windows([tmp_path / "cells.py", chapter], tmp_path, PYTHONIOENCODING="utf-8")


@pytest.fixture
def music(tmp_path):
    """A folder with songs, one of which has a name that the console can't write."""
    (tmp_path / "music" / "a").mkdir(parents=True)
    for number, name in enumerate(["one.wav", "a/音楽.wav"]):
        wave = np.sin(np.arange(4 * 22050) * (0.05 + 0.02 * number)).astype("float32")
        soundfile.write(tmp_path / "music" / name, wave, 22050)
    return tmp_path


def test_songs_are_predicted(music):
    out = windows(["-m", "genre_study", "predict", "music/one.wav", "music/a/音楽.wav"], music)
    assert out.startswith("music/one.wav: ") and "\\u97f3\\u697d.wav: " in out
    for _ in range(2):  # the second call continues the table
        windows(["-m", "genre_study", "predict", "music", "--out", "tags.csv"], music)
    assert "a/音楽.wav," in (music / "tags.csv").read_text("utf-8-sig")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_bytes_are_decoded_by_ffmpeg(music):
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", "one.wav", "one.mka"], cwd=music / "music", check=True)
    code = ("from genre_study.core.audio import read_header as read; import io; from pathlib import Path; "
            "print(read(io.BytesIO(Path('music/one.mka').read_bytes())).duration_s)")
    assert abs(float(windows(["-c", code], music)) - 4) < 0.1


GRID = """
from genre_study.grid.grid import run_grid
from genre_study.grid.results import read_runs
for _ in range(2):
    table = run_grid({"cross": {"rate": [0.25, 0.5]}}, "toy.ipynb", "out", workers=2, progress=False)
    print(*table["state"])
print(*sorted(read_runs("out")["rate"]))
"""
TOY = ['rate: float = 0.5\nrun_dir: str = "run"', """
import json, os
from genre_study.core.files import write_whole
from ipykernel.connect import get_connection_info
metrics = {"song": {"accuracy": rate, "accuracy_ci95": [0.0, 1.0]}, "parameters": {"rate": rate}, "name": os.name,
           "transport": get_connection_info(unpack=True)["transport"]}
write_whole(f"{run_dir}/metrics.json", json.dumps(metrics))"""]


def test_grids_run(tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in TOY])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    assert windows(["-c", GRID], tmp_path).splitlines() == ["finished finished", "skipped skipped", "0.25 0.5"]
    made = [json.loads(path.read_text()) for path in tmp_path.glob("out/*/metrics.json")]
    assert [(one["name"], one["transport"]) for one in made] == [("nt", "tcp")] * 2


@pytest.mark.parametrize("folder", [r"C:\music", "C:/music", "c://music", r"\\server\share"])
def test_a_drive_is_not_taken_for_the_scheme_of_a_url(folder):
    disk = open_disk(folder)
    assert isinstance(disk, LocalDisk) and os.path.normpath(disk.root) == os.path.normpath(folder)


def test_a_table_that_was_written_on_windows_is_read(music):
    rows = [(r"music\one.wav", "rock"), ("music\\a\\音楽.wav", "jazz")]
    pd.DataFrame(rows, columns=["path", "genre"]).to_csv(music / "tracks.csv", index=False, lineterminator="\r\n")
    found = find_tracks(music / "tracks.csv").tracks
    assert found["genre"].tolist() == ["rock", "jazz"] and all(path.is_file() for path in found["path"])


@pytest.mark.parametrize("path", [None, "music/one.wav"])
def test_packed_songs_get_names_that_windows_allows(music, path):
    """And paths to songs become copies where links are refused."""
    content = None if path else (music / "music" / "one.wav").read_bytes()
    row = {"audio": {"bytes": content, "path": path and str(music / path)}, "genre": 'R&B: "slow"? .'}
    pd.DataFrame([row]).to_parquet(music / "songs.parquet")
    code = "from genre_study.core.layouts import find_tracks; find_tracks('songs.parquet')"
    windows(["-c", code], music)
    songs = [found for found in music.rglob("*.wav") if found.parent.name == "R&B- -slow--"]
    assert len(songs) == 1 and not songs[0].is_symlink()


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_no_name_is_used_that_a_system_lacks(system):
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed (pip install pyright)")
    command = [pyright, "--pythonpath", sys.executable, "--pythonplatform", system, "--outputjson", "genre_study"]
    run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=900, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    assert [one for one in found if "is not a known attribute of module" in one["message"]] == []
