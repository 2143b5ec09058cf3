"""Builds of a store that are killed at any moment: the next call finishes the work, and the result is the same."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_store import assert_clean, content, write_corpus

from genre_study.store import build_store, open_store

BUILD = """
import sys, pandas as pd
from genre_study.store import build_store
print("ready", flush=True)
build_store(pd.read_json(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


def start(tracks, folder, workers):
    """A builder in a process group of its own, so that its workers can be killed with it."""
    table = folder.parent / "tracks.json"
    tracks.to_json(table)
    builder = subprocess.Popen([sys.executable, "-c", BUILD, str(table), str(folder), str(workers)],
                               stdout=subprocess.PIPE, text=True, start_new_session=True)
    builder.stdout.readline()
    return builder


def kill_and_finish(tracks, folder, alone, workers, n_kills, seed=0):
    """Kill builds at random moments of their work; what is readable is whole each time, and the end is the same."""
    chance, whole_then = random.Random(seed), []
    build_s = time_of_a_build(tracks, folder.parent / "timed", workers)
    reference = content(alone)
    for number in range(n_kills):
        if number % 10 == 0 and folder.exists():  # begin anew now and then: also the making of the store is hit
            folder.rename(folder.parent / f"done{number}")
        builder = start(tracks, folder, workers)
        time.sleep(chance.uniform(0, build_s * 0.7))
        os.killpg(builder.pid, signal.SIGKILL)
        builder.wait()
        try:
            store = open_store(folder)
        except FileNotFoundError:
            whole_then.append(0)
            continue
        assert not any("damaged" in problem for problem in store.problems.problem)
        for track_id in store.tracks.track_id:
            assert store.frames(track_id).tobytes() == reference[0][track_id]
        whole_then.append(len(store))
    finished = build_store(tracks, folder, workers=workers, progress=False)
    assert content(finished) == reference
    assert_clean(folder)
    return whole_then


def time_of_a_build(tracks, folder, workers):
    builder, begin = start(tracks, folder, workers), time.perf_counter()
    builder.wait()
    return time.perf_counter() - begin


def test_killed_builds_end_in_the_same_store(tmp_path):
    tracks = write_corpus(tmp_path / "audio", 60)
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    whole_then = kill_and_finish(tracks, tmp_path / "store", alone, workers=1, n_kills=4)
    assert max(whole_then) > 0


@pytest.mark.torture
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_kills(tmp_path, root, workers):
    n_kills, tracks = 50, write_corpus(tmp_path / "audio", 150)
    tracks.loc[150] = ["gone", str(tmp_path / "gone.wav"), "genre0", None]
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    begin = time.perf_counter()
    whole_then = kill_and_finish(tracks, tmp_path / "store", alone, workers, n_kills, seed=workers)
    in_work = sum(0 < n < 150 for n in whole_then)
    assert in_work >= n_kills // 4, f"most kills hit nothing: {whole_then}"
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"kill_build_store_{workers}.json").write_text(json.dumps({
        "workers": workers, "kills": n_kills, "tracks": 150, "kills_amid_the_tracks": in_work, "half_tracks_read": 0,
        "whole_tracks_after_each_kill": whole_then, "same_as_undisturbed": True,
        "seconds": time.perf_counter() - begin}, indent=1) + "\n")


@pytest.mark.torture
def test_four_builders_and_a_kill(tmp_path, root):
    """Four build together, two are killed: the others finish the store."""
    tracks = write_corpus(tmp_path / "audio", 200)
    alone = build_store(tracks, tmp_path / "alone", workers=1, progress=False)
    builders = [start(tracks, tmp_path / "store", 1) for _ in range(4)]
    time.sleep(1)
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
