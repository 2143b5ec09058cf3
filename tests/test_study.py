"""The study notebook as papermill runs it: parameters, refusals, the run folder."""
import ast
import inspect
import json
import os
import subprocess
import sysconfig
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import papermill as pm
import pytest
import yaml

from genre_study.predict.bundle import bundle_of_run
from genre_study.predict.song import predict_song
from genre_study.study import StudySettings, check_settings

NOTEBOOK = "nbs/studies/reproduce.ipynb"


def papermill(root, run_dir, **parameters):
    """Run the study as a reader does; return the finished process."""
    command = [str(Path(sysconfig.get_path("scripts")) / "papermill"), "--no-log-output", "--no-progress-bar", NOTEBOOK,
               str(run_dir / "out.ipynb"), "-y", yaml.safe_dump({"run_dir": str(run_dir), **parameters})]
    run_dir.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ})


def test_parameters_cell_has_the_defaults_of_the_settings(root):
    shown = pm.inspect_notebook(str(root / NOTEBOOK))
    assert {name: ast.literal_eval(entry["default"]) for name, entry in shown.items()} == asdict(StudySettings())
    assert all(entry["help"] for entry in shown.values()), "every parameter is explained"
    kinds = {name: entry["inferred_type_name"] for name, entry in shown.items()}
    assert kinds == {name: kind if isinstance(kind, str) else kind.__name__
                     for name, kind in inspect.get_annotations(StudySettings).items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The parameters of a run of some seconds, on a corpus shared by the tests of this module."""
    return {"tracks_per_genre": 8, "epochs": 1, "network": "quick_cnn", "workers": 1, "protocol": "track",
            "data_dir": str(tmp_path_factory.mktemp("data"))}


def test_a_run_leaves_all_it_should(root, tmp_path, small):
    done = papermill(root, tmp_path / "run", **small)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run"
    for name in ("parameters.yaml", "history.csv", "chunks.parquet", "songs.parquet", "model.keras"):
        assert (folder / name).stat().st_size > 0, name
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("corpus", "protocol", "network", "seed", "backend", "versions", "n_tracks", "n_chunks", "seconds"):
        assert metrics[name] not in (None, {}), name
    songs = pd.read_parquet(folder / "songs.parquet")
    test = songs[songs.split == "test"]
    share = (test[metrics["genres"]].idxmax(axis=1) == test.true_genre).mean()
    assert metrics["song"]["accuracy"] == pytest.approx(share)
    confusion = np.array(metrics["song"]["confusion"])
    assert confusion.sum() == len(test) == metrics["n_tracks"]["test"]
    rows = dict(zip(metrics["genres"], confusion.sum(axis=1)))
    assert rows == test.true_genre.value_counts().to_dict(), "rows of the confusion matrix are the true genres"
    low, high = metrics["song"]["accuracy_ci95"]
    assert 0 <= low <= share <= high <= 1
    assert len(list((folder / "figures").glob("*.png"))) == len(list((folder / "figures").glob("*.svg"))) >= 4

    again = papermill(root, folder, **small)
    assert again.returncode != 0 and "holds a finished run" in again.stderr
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def test_the_studys_own_network_by_its_recipe(root, tmp_path, small):
    """Audio at 12.9 frames a second, chunks of 15 s, experts on fixed layers, no epoch chosen."""
    asked = {"network": "study_cnn", "chunk_seconds": 15, "frames_per_second": 12.9, "epochs": 3,
             "network_options": {"groups": ["timbre", "dynamics"]}}
    done = papermill(root, tmp_path / "run", **small | asked)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["training"]["optimizer"] == "adamw" and metrics["training"]["monitor"] == "last"
    assert metrics["training"]["epochs"] == 3 == len(pd.read_csv(tmp_path / "run" / "history.csv"))
    assert metrics["n_chunks"]["test"] == 3 * metrics["n_tracks"]["test"]
    assert metrics["song"]["accuracy"] > 0.3  # chance is 10%
    assert len(list(Path(small["data_dir"], "values").glob("*.npy"))) == 1
    bundle = bundle_of_run(tmp_path / "run")  # as `--model` opens it: without the store
    assert bundle.mel.hop_length == metrics["spectrograms"]["mel"]["hop_length"] == 1709
    song = next(Path(small["data_dir"]).glob("minicorpus-8/jazz/*.wav"))
    assert sum(predict_song(song, bundle).vector.values()) == pytest.approx(1)


@pytest.mark.parametrize("parameters, message", [
    ({"network": "study_cnn", "chunk_seconds": 5, "frames_per_second": 12.9, "tracks_per_genre": 8}, "at least 128 columns"),
    ({"training": {"rate": 0.1}}, "expected fields of TrainSpec"),
    ({"epoch": 3}, "did you mean 'epochs'?"),
    ({"epochs": "many"}, "epochs='many' is of type str; expected int"),
    ({"overlap": 1.5}, "overlap=1.5 is out of range"),
    ({"corpus": "no/such/folder"}, "corpus='no/such/folder' does not exist"),
])
def test_bad_parameters_stop_the_run_at_once(root, tmp_path, small, parameters, message):
    done = papermill(root, tmp_path / "run", **{"data_dir": small["data_dir"], **parameters})
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("value", ["__import__('os').system('touch hacked')", "'; import os; os.system('touch hacked') #",
                                   "a\nimport os; os.system('touch hacked')"])
def test_parameters_are_data_not_code(root, tmp_path, value):
    done = papermill(root, tmp_path / "run", corpus=value)
    assert done.returncode != 0 and "does not exist" in done.stderr
    assert not (root / "hacked").exists() and not (root / "nbs/studies/hacked").exists()


def test_settings_refuse_nan_and_bool():
    with pytest.raises(ValueError, match="out of range"):
        check_settings({"overlap": float("nan")})
    with pytest.raises(TypeError, match="expected int"):
        check_settings({"seed": True})


def test_settings_of_other_types_never_pass_as_the_default():
    made = check_settings({"corpus": Path("x"), "epochs": np.int64(3), "overlap": np.float32(0.25),
                           "allow_leakage": np.bool_(True), "training": {"learning_rate": np.float64(0.01)}})
    assert made == StudySettings(corpus="x", epochs=3, overlap=0.25, allow_leakage=True, training={"learning_rate": 0.01})
    assert yaml.safe_load(yaml.safe_dump(asdict(made))) == asdict(made)
    for value in (object(), np.zeros(2), json, Path, b"x", np.datetime64("2020")):
        with pytest.raises(TypeError, match=r"corpus=.*expected str"):
            check_settings({"corpus": value})
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        check_settings({"epoch": np.int64(3)})
    for name in ("corpus", "data_dir", "run_dir"):
        with pytest.raises(ValueError, match=f"{name}='' is empty"):
            check_settings({name: ""})
