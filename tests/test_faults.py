"""Errors and death at any change to the disk, while a store is built, imported, replaced or relabelled."""
import json
import shutil

import numpy as np
import pytest
import soundfile
from injection import Fault, injector, run_faults
from test_store import content, write_corpus

from genre_study.storage.ready_made import import_spectrograms
from genre_study.storage.writer import open_store
from genre_study.store import build_store

SETUP = """
import pandas as pd, scipy.fft, soundfile, zarr
from genre_study.mel import MelSpec, band_groups
from genre_study.storage.ready_made import import_spectrograms
from genre_study.store import build_store
band_groups(MelSpec())
def job(argument):
    if "npz" in argument:
        import_spectrograms(argument["npz"], argument["folder"], seconds=2.0, progress=False)
    else:
        build_store(pd.DataFrame(argument["tracks"]), argument["folder"], workers=1, progress=False)
"""


def frames_of(store):
    return {track_id: store.frames(track_id).tobytes() for track_id in store.tracks.track_id}


class BuildNew:
    """A new store of three tracks and a file that is gone."""

    def __init__(self, folder):
        tracks = write_corpus(folder / "audio", 3)
        tracks.loc[3] = ["gone", str(folder / "gone.wav"), "genre0", None]
        self.start, self.old, self.tracks = None, {}, tracks
        self.argument = {"tracks": tracks.to_dict("list")}

    def run(self, folder):
        return build_store(self.tracks, folder, workers=1, progress=False)


class Rebuild(BuildNew):
    """A store of which one file has changed, one has become useless, and one has another genre."""

    def __init__(self, folder):
        super().__init__(folder)
        self.start = folder / "start"
        self.old = frames_of(self.run(self.start))
        soundfile.write(self.tracks.path[0], np.random.default_rng(9).normal(0, 0.1, 30000), 22050)
        (folder / "audio" / "noise.00001.wav").write_text("not audio")
        self.tracks.loc[2, "genre"] = "another"
        self.argument = {"tracks": self.tracks.to_dict("list")}


class Import(BuildNew):
    """Ready-made spectrograms."""

    def __init__(self, folder):
        mel = np.random.default_rng(0).random((3, 8, 20), dtype=np.float32)
        np.savez(folder / "mel.npz", ids=np.array(["a.0", "a.1", "b.0"]), mel=mel)
        self.start, self.old, self.argument = None, {}, {"npz": str(folder / "mel.npz")}

    def run(self, folder):
        return import_spectrograms(self.argument["npz"], folder, seconds=2.0, progress=False)


def look(folder, old, new):
    """What a reader finds is whole, and is what a track was or what it will be."""
    try:
        store = open_store(folder)
    except FileNotFoundError:  # not begun
        return
    assert not any("damaged" in problem for problem in store.problems.problem)
    assert old.keys() <= {*store.tracks.track_id, *store.problems.track_id}, "a track that was there is gone"
    for track_id, found in frames_of(store).items():
        assert found in (old.get(track_id), new.get(track_id)), f"{track_id} is neither the old track nor the new one"


def inject(case, run, tmp_path, most):
    """All faults of one case, one after the other; how they ended."""
    whole = case.run(tmp_path / "whole") if case.start is None else None
    if case.start is not None:
        shutil.copytree(case.start, tmp_path / "whole")
        whole = case.run(tmp_path / "whole")
    new, reference, folder = frames_of(whole), content(whole), tmp_path / "store"

    def prepare():
        if case.start is not None:
            shutil.copytree(case.start, folder)

    def check(outcome, fault):
        look(folder, case.old, new)
        if outcome.ended == "returned":
            assert content(open_store(folder)) == reference, fault

    def complete(fault):
        assert content(case.run(folder)) == reference, fault
        assert not list((folder / ".new").iterdir()), fault

    return run_faults(run, most, case.argument | {"folder": str(folder)}, folder, prepare, check, complete)


def test_a_few_faults_of_a_store(tmp_path):
    with injector(SETUP, tmp_path) as run:
        ends = inject(Rebuild(tmp_path), run, tmp_path, most=12)
    assert ends["died"] and ends["raised"]


@pytest.mark.torture
def test_faults_of_a_store(tmp_path, root):
    figures = {}
    with injector(SETUP, tmp_path) as run:
        for case in (BuildNew, Rebuild, Import):
            folder = tmp_path / case.__name__
            folder.mkdir()
            figures[case.__name__] = inject(case(folder), run, folder, most=150)
    n_faults = sum(ends[end] for ends in figures.values() for end in ("returned", "raised", "died"))
    assert n_faults >= 300
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults_store.json").write_text(json.dumps({"faults": n_faults, "bad": 0, **figures}, indent=1) + "\n")


def test_a_fault_is_noticed_by_this_test(tmp_path):
    """A writer that writes in place leaves half a file: the harness must be able to show that."""
    setup = """
def job(argument):
    with open(argument["path"], "w") as file:
        file.write("second " * 100)
"""
    (tmp_path / "watched").mkdir()
    path = tmp_path / "watched" / "text"
    with injector(setup, tmp_path) as run:
        outcome = run({"path": str(path)}, tmp_path / "watched")
        assert [change.split()[0] for change in outcome.changes] == ["create", "write"] and outcome.ended == "returned"
        assert run({"path": str(path)}, tmp_path / "watched", Fault(2, "death")).ended == "died"
        assert 0 < len(path.read_text()) < 700
        assert run({"path": str(path)}, tmp_path / "watched", Fault(1, "ENOSPC"))[:2] == ("raised", "OSError")
