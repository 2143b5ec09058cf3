"""Runs that start at the same moment and need the same store: they make it together, once, and all read the same."""
import json
import os
import subprocess
import sys
import time

import numpy as np
from test_store import assert_clean, content, write_corpus

from genre_study.storage.writer import open_store
from genre_study.study import check_settings, prepare_data

RUN = """
import json, os, sys, time
from genre_study import store
from genre_study.study import check_settings, prepare_data
settings, made, here = check_settings(json.loads(sys.argv[1])), sys.argv[2], store.track_frames
def features(path, spec, groups):
    with open(made, "a") as file:
        file.write(path + "\\n")
    return here(path, spec, groups)
store.track_frames = features
print("ready", flush=True)
sys.stdin.readline()
found = prepare_data(settings)
print(json.dumps([str(found.folder), len(found), len(found.problems)]), flush=True)
"""


def together(settings, made, n_runs):
    """What each of so many runs, started at one moment, found: (folder, number of tracks, number of problems)."""
    runs = [subprocess.Popen([sys.executable, "-c", RUN, json.dumps(settings), made], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            for _ in range(n_runs)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * n_runs
    for run in runs:
        print("go", file=run.stdin, flush=True)
    answers = [json.loads(run.communicate(timeout=300)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0] * n_runs
    return answers


def test_three_runs_make_one_store_of_audio(tmp_path):
    tracks = write_corpus(tmp_path / "all", 60, seconds=3.0)
    for row in tracks.itertuples():
        (tmp_path / "corpus" / row.genre).mkdir(parents=True, exist_ok=True)
        os.rename(row.path, tmp_path / "corpus" / row.genre / f"{row.track_id}.wav")
    settings = {"corpus": str(tmp_path / "corpus"), "data_dir": str(tmp_path / "data"), "workers": 1}
    answers = together(settings, str(tmp_path / "made.txt"), 3)
    assert answers == [answers[0]] * 3 and answers[0][1:] == [60, 0]
    made = (tmp_path / "made.txt").read_text().split()
    assert len(set(made)) == 60
    assert len(made) < 90, f"{len(made)} spectrograms were made for 60 tracks: the runs did not share the work"
    alone = prepare_data(check_settings(settings | {"data_dir": str(tmp_path / "alone")}))
    assert content(open_store(answers[0][0])) == content(alone)
    prepare_data(check_settings(settings))
    assert_clean(open_store(answers[0][0]).folder)


def test_three_runs_make_one_store_of_spectrograms(tmp_path):
    random = np.random.default_rng(0)
    ids = np.array([f"{genre}.{number:05d}" for genre in ("blues", "jazz") for number in range(9)])
    np.savez(tmp_path / "some.npz", ids=ids,
             mel=random.integers(0, 256, (18, 128, 388), dtype="uint8"))
    settings = {"corpus": str(tmp_path / "some.npz"), "data_dir": str(tmp_path / "data")}
    answers = together(settings, str(tmp_path / "made.txt"), 3)
    assert answers == [answers[0]] * 3 and answers[0][1:] == [18, 0]
    alone = prepare_data(check_settings(settings | {"data_dir": str(tmp_path / "alone")}))
    assert content(open_store(answers[0][0])) == content(alone)


def test_a_track_that_is_there_is_not_written_again(tmp_path):
    """A second build writes nothing; a corrected label writes a row and no frames."""
    from genre_study.store import build_store

    tracks = write_corpus(tmp_path / "audio", 2)
    store = build_store(tracks, tmp_path / "store", workers=1, progress=False)

    def written():
        return {file: file.stat().st_ino for file in sorted((tmp_path / "store").rglob("*")) if file.is_file()}

    first = written()
    time.sleep(2.1)  # the files settle: their states are kept with their times
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    settled = written()
    assert {file.parent.name for file in first if settled[file] != first[file]} <= {"rows", "store"}
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    assert written() == settled
    tracks.loc[1, "artist"] = "Someone"
    build_store(tracks, tmp_path / "store", workers=1, progress=False)
    changed = {file.name for file, place in written().items() if settled[file] != place}
    assert changed == {"noise.00001.json", "index.json"}
    assert open_store(store.folder).tracks.artist.tolist()[1] == "Someone"
