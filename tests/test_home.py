"""A path may begin with ~ wherever one is given: no call makes a folder of that name, or misses what lies at home."""
import json
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from genre_study.core.archive import unpack, whole_folder
from genre_study.core.files import whole_file, write_whole
from genre_study.corpora.gtzan import fetch_gtzan
from genre_study.grid.page import last_line, write_page
from genre_study.grid.results import grid_names, grid_runs, read_runs
from genre_study.grid.runner import finished_runs
from genre_study.network.checkpoint import checkpoint_file
from genre_study.network.frozen import frozen_values
from genre_study.plot import save_figure
from genre_study.score.compare import read_songs
from genre_study.synth.minicorpus import render_minicorpus


def finished(home):
    """Files of a finished run of a grid, at home."""
    run = home / "runs" / "key"
    run.mkdir(parents=True)
    songs = pd.DataFrame({"track_id": ["a", "b"], "genre": ["x", "y"], "split": "test"})
    songs.assign(x=[0.9, 0.2], y=[0.1, 0.8]).to_parquet(run / "songs.parquet")
    metrics = {"scored_side": "test", "genres": ["x", "y"], "parameters": {"rate": 1}, "song": {"accuracy": 1.0}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "run.json").write_text(json.dumps({"key": "key", "name": "toy", "given": {}, "study_sha256": "0"}))
    points = [{"key": "key", "label": "base", "compared_to": True}]
    (run.parent / "grid.grid.json").write_text(json.dumps({"question": "?", "points": points}))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Toy")]), run / "toy.ipynb")
    write_archive(home / "music.zip")


def write_archive(file):
    """A zip with two recordings that are none; nobody reads them."""
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rock/a.wav", "x")
        archive.writestr("jazz/b.wav", "x")


def frozen(folder):
    """Keep the values of a frozen layer."""
    import keras

    inputs = keras.Input((4, 3, 1))
    middle = keras.layers.Flatten(name="descriptors")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(middle))
    store = SimpleNamespace(frames=lambda name, start=0, stop=None: np.ones((3, 4), "float16"), unit="db",
                            silence=-100.0, spec=SimpleNamespace(n_mels=4))
    chunks = pd.DataFrame({"track_id": ["a"], "genre": "x", "start_frame": 0, "n_frames": 3})
    frozen_values(model, store, chunks, scaling="none", folder=folder)


def write_draft(path):
    with whole_file(path) as draft:
        draft.write_text("whole")


def fill(folder):
    with whole_folder(folder) as draft:
        (draft / "a").write_text("whole")


def figure():
    from matplotlib.figure import Figure

    return Figure()


CALLS = {  # name: what is called, and what is there afterwards
    "whole_file": (lambda: write_draft("~/new.txt"), "new.txt"),
    "write_whole": (lambda: write_whole("~/new.txt", "x"), "new.txt"),
    "whole_folder": (lambda: fill("~/new"), "new/a"),
    "unpack": (lambda: unpack("~/music.zip", "~/new"), "new/jazz/b.wav"),
    "fetch_gtzan": (lambda: fetch_gtzan("~/new", "~/music.zip"), "new/genres/rock"),
    "render_minicorpus": (lambda: render_minicorpus("~/new", 1, seconds=0.2), "new/tracks.csv"),
    "checkpoint_file": (lambda: checkpoint_file("~/new"), "new"),
    "frozen_values": (lambda: frozen("~/new"), "new"),
    "save_figure": (lambda: save_figure(figure(), "~/new", "a"), "new/a.png"),
    "write_page": (lambda: write_page("~/runs/key/toy.ipynb", "~/new.html"), "new.html"),
    "last_line": (lambda: last_line("~/runs/key/toy.ipynb"), ""),
    "read_runs": (lambda: read_runs("~/runs").shape[0] or fail(), ""),
    "finished_runs": (lambda: len([*finished_runs("~/runs")]) or fail(), ""),
    "grid_names": (lambda: grid_names("~/runs") or fail(), ""),
    "grid_runs": (lambda: grid_runs("~/runs", "grid").finished.all() or fail(), ""),
    "read_songs": (lambda: read_songs("~/runs/key"), ""),
}


def fail():
    raise AssertionError("it was not found at home")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_home_is_expanded(name, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    finished(tmp_path / "home")
    call, made = CALLS[name]
    call()
    assert (tmp_path / "home" / made).exists()
    assert not list((tmp_path / "work").iterdir())
