"""Builds of a store that are killed at any moment: the next call finishes the work, and the result is the same."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
from forks import forked
from test_store import assert_clean, content, write_corpus

from genre_study.storage.writer import open_store
from genre_study.store import build_store

BUILD = """
import sys, pandas as pd
from genre_study.store import build_store
print("ready", flush=True)
build_store(pd.read_json(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


def start(tracks, folder, workers, wait=True):
    """A builder in a process group of its own, so that its workers can be killed with it."""
    table = folder.parent / "tracks.json"
    tracks.to_json(table)
    builder = subprocess.Popen([sys.executable, "-c", BUILD, str(table), str(folder), str(workers)],
                               stdout=subprocess.PIPE, text=True, start_new_session=True)
    if wait:
        builder.stdout.readline()
    return builder


FORKED = """
import sys, pandas as pd
from genre_study.store import build_store
from scipy.fft import rfft
import soundfile
tracks = pd.read_json(sys.argv[1])
def job(line):
    build_store(tracks, sys.argv[2], workers=1, progress=False)
"""


def wait_for(folder, n_tracks, chance):
    """Until the store has so many tracks, and a moment more, so that any step of the next one can be hit."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < 20 and len(list((folder / "rows").glob("noise*"))) < n_tracks:
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))


@contextmanager
def forked_builders(tracks, folder):
    """Yields a function that starts a build, waits until it is told to kill it, and kills it."""
    table = folder.parent / "tracks.json"
    tracks.to_json(table)
    with forked(FORKED, str(table), str(folder)) as run:
        yield lambda wait: run("build", lambda child: wait())


@contextmanager
def builders_with_workers(tracks, folder):
    """The same with two worker processes, all killed at once."""
    def build(wait):
        builder = start(tracks, folder, 2)
        wait()
        os.killpg(builder.pid, signal.SIGKILL)
        builder.wait()

    yield build


def kill_and_finish(tracks, folder, builders, n_kills, seed=0):
    """Kill builds at random moments; what can be read is whole each time, the end is the same. Tracks after each."""
    chance, whole_then = random.Random(seed), []
    reference = content(build_store(tracks, folder.parent / "alone", workers=1, progress=False))
    with builders(tracks, folder) as build:
        for number in range(n_kills):
            if (folder / "zarr.json").exists() and len(open_store(folder)) >= len(reference[0]) - 1:
                assert content(build_store(tracks, folder, workers=1, progress=False)) == reference
                folder.rename(folder.parent / f"done{number}")  # too little is left to be killed in: begin anew
            there = len(open_store(folder)) if (folder / "zarr.json").exists() else 0
            n_tracks = min(there + chance.randint(0, 15), len(reference[0]) - 1)
            build(partial(wait_for, folder, n_tracks, chance))
            try:
                store = open_store(folder)
            except FileNotFoundError:  # killed before there was a store
                whole_then.append(0)
                continue
            assert not any("damaged" in problem for problem in store.problems.problem)
            for track_id in store.tracks.track_id:
                assert store.frames(track_id).tobytes() == reference[0][track_id]
            whole_then.append(len(store))
    finished = build_store(tracks, folder, workers=1, progress=False)
    assert content(finished) == reference
    assert_clean(folder)
    return whole_then


def test_killed_builds_end_in_the_same_store(tmp_path):
    whole_then = kill_and_finish(write_corpus(tmp_path / "audio", 30), tmp_path / "store", forked_builders, n_kills=8)
    assert max(whole_then) > 0


@pytest.mark.torture
@pytest.mark.parametrize(("name", "builders", "n_kills"), [("one_process", forked_builders, 100),
                                                           ("two_workers", builders_with_workers, 20)])
def test_a_hundred_kills(tmp_path, root, name, builders, n_kills):
    tracks = write_corpus(tmp_path / "audio", 60)
    tracks.loc[60] = ["gone", str(tmp_path / "gone.wav"), "genre0", None]
    begin = time.perf_counter()
    whole_then = kill_and_finish(tracks, tmp_path / "store", builders, n_kills)
    in_work = sum(0 < n < 60 for n in whole_then)
    assert in_work >= n_kills // 4, f"most kills hit nothing: {whole_then}"
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"kill_build_store_{name}.json").write_text(json.dumps({
        "builder": name.replace("_", " "), "kills": n_kills, "tracks": 60, "kills_amid_the_tracks": in_work,
        "half_tracks_read": 0, "whole_tracks_after_each_kill": whole_then, "same_as_undisturbed": True,
        "seconds": time.perf_counter() - begin}, indent=1) + "\n")


@pytest.mark.torture
def test_four_builders_and_a_kill(tmp_path, root):
    """Four build together, two are killed: the others finish the store."""
    tracks = write_corpus(tmp_path / "audio", 200)
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    builders = [start(tracks, tmp_path / "store", 1, wait=False) for _ in range(4)]
    while len(list((tmp_path / "store" / "rows").glob("noise*"))) < 10:  # they are at work
        time.sleep(0.01)
    for builder in builders[:2]:
        os.killpg(builder.pid, signal.SIGKILL)
    assert [builder.wait() for builder in builders] == [-9, -9, 0, 0]
    assert content(open_store(tmp_path / "store")) == content(alone)
    build_store(tracks, tmp_path / "store", progress=False)
    assert_clean(tmp_path / "store")
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "together_build_store.json").write_text(json.dumps({
        "builders": 4, "killed": 2, "tracks": 200, "same_as_undisturbed": True, "left_behind": 0}, indent=1) + "\n")
