"""A large corpus through store, training and prediction: memory must not grow with it."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genre_study.minicorpus import render_minicorpus

MEMORY_MB = 64  # of frames kept by the feed of training; the default is 1024, which a larger corpus would fill slowly
FLAT_MB = 60  # growth that is allowed in the second half of a stage


def stage(name, folder, n_tracks):
    """One stage in a process with one thread; its figures."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}
    done = subprocess.run([sys.executable, Path(__file__).with_name("long_run.py"), name, folder, str(n_tracks), str(MEMORY_MB)],
                          capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def growth_mb(figures):
    """How much higher memory is at its highest in the last quarter of a stage than in the quarter before the middle."""
    curve = [memory for _, memory in figures["memory"]]
    quarter = len(curve) // 4
    return max(curve[-quarter:]) - max(curve[quarter:2 * quarter])


def long_run(folder, sizes, stages=("store", "train", "predict")):
    """Figures of every stage at every size, from the pieces of music in folder/pieces."""
    pieces = stage("cut", folder, max(sizes))["pieces"]
    return {"pieces": pieces, "memory_mb": MEMORY_MB, "stages": [stage(name, folder, size) for size in sizes for name in stages]}


def test_a_short_run(tmp_path):
    render_minicorpus(tmp_path / "pieces", 2, seconds=8.0)
    store, train = long_run(tmp_path, [40], stages=("store", "train"))["stages"]
    assert store["tracks"] == 40 and store["problems"] == 0 and train["chunks"] > 0
    for row in (store, train):  # what was sampled is what the system counted
        assert 0.7 * row["peak_mb"] < max(memory for _, memory in row["memory"]) < 1.1 * row["peak_mb"]


SIZES = [100, 1000, 10_000]


def check(figures):
    """Memory neither grows along a stage nor with the corpus."""
    for row in figures["stages"][-3:]:
        assert growth_mb(row) < FLAT_MB, f"{row['stage']} grows: {row['memory']}"
    peak = {(row["stage"], row["n_tracks"]): row["peak_mb"] for row in figures["stages"]}
    for name in ("store", "train"):
        assert peak[name, SIZES[2]] < peak[name, SIZES[1]] + FLAT_MB, f"{name} needs more memory for more tracks: {peak}"
    assert figures["stages"][-3]["tracks"] == figures["stages"][-1]["songs"] == SIZES[2]


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
