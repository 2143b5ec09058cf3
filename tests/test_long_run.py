"""A large corpus through store, training and prediction: memory must not grow with it."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genre_study.synth.minicorpus import render_minicorpus

MEMORY_MB = 64  # of frames kept by the feed of training; the default is 1024, which a larger corpus would fill slowly
FLAT_MB = 100  # how much more ten times the tracks may need: their table
CACHE_MB = 256  # frames that prediction keeps


def stage(name, folder, n_tracks):
    """One stage in a process with one thread; its figures."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}
    done = subprocess.run([sys.executable, Path(__file__).with_name("long_run.py"), name, folder, str(n_tracks),
                           str(MEMORY_MB)],
                          capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def long_run(folder, sizes, stages=("store", "train", "predict")):
    """Figures of every stage at every size, from the pieces of music in folder/pieces."""
    pieces = stage("cut", folder, max(sizes))["pieces"]
    return {"pieces": pieces, "memory_mb": MEMORY_MB,
            "stages": [stage(name, folder, size) for size in sizes for name in stages]}


def test_a_short_run(tmp_path):
    render_minicorpus(tmp_path / "pieces", 3, seconds=8.0)  # a genre needs three artists
    store, train = long_run(tmp_path, [60], stages=("store", "train"))["stages"]
    assert store["tracks"] == 60 and store["problems"] == 0 and train["chunks"] > 0
    for row in (store, train):  # what was sampled is what the system counted
        assert 0.7 * row["peak_mb"] < max(memory for _, memory in row["memory"]) < 1.1 * row["peak_mb"]


SIZES = [100, 1000, 10_000]


def check(figures):
    """Ten times the tracks need no more memory, but for what each stage may keep."""
    peak = {(row["stage"], row["n_tracks"]): row["peak_mb"] for row in figures["stages"]}
    for name, kept_mb in (("store", 0), ("train", 0), ("predict", CACHE_MB)):
        assert peak[name, SIZES[2]] < peak[name, SIZES[1]] + kept_mb + FLAT_MB, f"{name} grows with the tracks: {peak}"
    assert figures["stages"][-3]["tracks"] == figures["stages"][-1]["songs"] == SIZES[2]
    assert all(row["open_files"] == figures["stages"][0]["open_files"] for row in figures["stages"])


@pytest.mark.torture
def test_ten_thousand_tracks(tmp_path, root):
    """10,000 tracks of 5 s, the halves of 5,000 pieces. Needs about 6 GB of disk."""
    try:
        render_minicorpus(tmp_path / "pieces", SIZES[2] // 20, seconds=10.0)
        figures = long_run(tmp_path, SIZES)
    finally:
        shutil.rmtree(tmp_path)
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "long_run.json").write_text(json.dumps(figures) + "\n")
    check(figures)


if __name__ == "__main__":  # python tests/test_long_run.py FOLDER: the same with the pieces in FOLDER/pieces
    measured = long_run(Path(sys.argv[1]), SIZES)
    Path("reports/reliability/long_run.json").write_text(json.dumps(measured) + "\n")
    check(measured)
