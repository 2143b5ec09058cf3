"""A setting that can be given in two places is decided in one; run, bundle and predictions agree on what was used."""
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_command import typed

from genre_study.predict.bundle import bundle_of_run
from genre_study.predict.song import predict_song
from genre_study.study import StudySettings
from genre_study.train import TrainSpec

SHARED = sorted({one.name for one in fields(TrainSpec)} & {one.name for one in fields(StudySettings)})


def another(name, default):
    """A value of a field of `TrainSpec` that differs from `default`."""
    meta = TrainSpec.__dataclass_fields__[name].metadata
    if "choices" in meta:
        return next(value for value in meta["choices"] if value != default)
    low, high = meta["range"]
    value = next(value for value in (low, high, (low + high) / 2) if value != default)
    return TrainSpec.__dataclass_fields__[name].type(value)


@pytest.mark.parametrize("name", [one.name for one in fields(TrainSpec)])
def test_every_field_of_training_is_what_the_run_trains_with(name):
    default = getattr(StudySettings().train_spec, name)
    value = another(name, default)
    assert getattr(StudySettings(training={name: value}).train_spec, name) == value
    if name in SHARED:
        assert getattr(StudySettings(**{name: value}).train_spec, name) == value
        assert getattr(StudySettings(**{name: value}, training={name: value}).train_spec, name) == value
    for other in fields(TrainSpec):
        if other.name != name:
            expected = getattr(StudySettings().train_spec, other.name)
            assert getattr(StudySettings(training={name: value}).train_spec, other.name) == expected


@pytest.mark.parametrize("name", SHARED)
def test_two_places_may_not_contradict_each_other(name):
    first = another(name, StudySettings.__dataclass_fields__[name].default)
    second = another(name, first)
    if second == getattr(StudySettings().train_spec, name):
        second = TrainSpec.__dataclass_fields__[name].metadata.get("choices", (None, None, None))[-1] or first + 1
    with pytest.raises(ValueError, match=f"{name}.*contradict"):
        StudySettings(**{name: first}, training={name: second})


NETS = """
from keras import Sequential, layers

def my_cnn(input_shape, n_genres, width=8):
    return Sequential([layers.Conv2D(width, 5, strides=3, activation="relu"), layers.GlobalMaxPooling2D(),
                       layers.Dense(n_genres, activation="softmax")])
"""
ASKED = {"tracks_per_genre": 3, "epochs": 2, "workers": 1, "protocol": "track", "chunk_seconds": 2.0, "overlap": 0.25,
         "n_mels": 64, "mel_scale": "htk", "frames_per_second": 30.0, "scaling": "band",
         "network": "nets.py:my_cnn", "network_options": "{width: 4}"}


@pytest.fixture(scope="module")
def typed_run(tmp_path_factory):
    """A folder, and what was printed by a run that a reader typed there: a network of their own, few defaults."""
    place = tmp_path_factory.mktemp("place")
    (place / "nets.py").write_text(NETS)
    options = [word for name, value in ASKED.items() for word in ("-p", name, str(value))]
    done = typed("reproduce", *options, "--out", "my run", cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, done.stdout


def test_study_runs_where_the_user_stands(typed_run):
    """From the command alone, as after `pip install`: data, run and report lie in the folder that it was typed in."""
    place, printed = typed_run
    assert printed.endswith(f": {Path('my run/reproduce.html')}\n") and printed.count("\n") == 1
    assert {path.name for path in place.iterdir()} - {"__pycache__"} == {"data", "my run", "nets.py"}
    metrics = json.loads((place / "my run" / "metrics.json").read_text())
    assert metrics["parameters"]["epochs"] == 2 and (place / "my run" / "reproduce.html").stat().st_size > 10_000


def test_a_bundle_predicts_as_its_run_did(typed_run):
    """Bands, mel scale, frame rate, chunks and scaling aren't the defaults; each chunk gets the run's own answer.

    That `training` counts as much as the setting is asked in test_study.
    """
    run = typed_run[0] / "my run"
    metrics, bundle = json.loads((run / "metrics.json").read_text()), bundle_of_run(run)
    assert metrics["training"]["scaling"] == bundle.scaling == "band"
    assert (bundle.chunk.seconds, bundle.chunk.overlap) == (2.0, 0.25)
    assert (bundle.mel.n_mels, bundle.mel.mel_scale) == (64, "htk")
    chunks, genres = pd.read_parquet(run / "chunks.parquet"), metrics["genres"]
    for track_id, rows in list(chunks.groupby("track_id"))[:4]:
        song, = (typed_run[0] / "data").rglob(f"{track_id}.wav")
        found = predict_song(song, bundle).timeline[genres].to_numpy()
        np.testing.assert_allclose(found, rows.sort_values("start_s")[genres].to_numpy(), atol=2e-3)


def test_own_network_in_a_study_and_in_prediction(typed_run):
    """`-p network nets.py:my_cnn` with an option of its own; the run's folder then predicts as any other."""
    bundle = bundle_of_run(typed_run[0] / "my run")
    assert bundle.network.count_params() == 4 * 26 + 5 * 10
    song = next((typed_run[0] / "data").rglob("*.wav"))
    assert sum(predict_song(song, bundle).vector.values()) == pytest.approx(1)
