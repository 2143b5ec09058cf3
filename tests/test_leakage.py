"""The leakage study over run folders whose predictions are drawn by lot, so that no network has to be trained."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from genre_study import study
from genre_study.corpus import gtzan_tracks
from genre_study.score.leakage import neighbour_share


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "Twenty tracks of each genre of GTZAN by name; their spectrograms are noise around a mean of the track's own."
    ids = gtzan_tracks().groupby("genre").head(100).iloc[::5].track_id.tolist()
    rng = np.random.default_rng(0)
    level = rng.integers(40, 200, size=(len(ids), 128, 1))
    file = tmp_path_factory.mktemp("corpus") / "noise.npz"
    pictures = np.clip(level + rng.normal(0, 20, (len(ids), 128, 60)), 1, 255).astype("uint8")
    np.savez(file, ids=np.array(ids), mel=pictures)
    return file


def made_up_run(folder, corpus, protocol, seed, skill):
    "A finished run folder; `skill` is how far the right genre is preferred."
    settings = study.StudySettings(
        corpus=str(corpus), protocol=protocol, allow_leakage=protocol == "chunk", network="quick_cnn", epochs=2,
        seed=seed, frames_per_second=0.0, chunk_seconds=5.0, data_dir=str(corpus.parent), run_dir=str(folder),
    )
    store = study.prepare_data(settings)
    tracks, chunks = study.deal(store, settings)
    genres = sorted(tracks.genre.unique())
    rng, predictions = np.random.default_rng(seed), {}
    study.start_run(settings)
    for side in ("valid", "test"):
        part = chunks[chunks.split == side]
        logits = rng.normal(size=(len(part), len(genres)))
        logits += skill * (part.genre.to_numpy()[:, None] == np.array(genres))
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = pd.DataFrame(probability, columns=genres)
        table.insert(0, "track_id", part.track_id.to_numpy())
        table.insert(1, "start_s", part.start_s.to_numpy())
        predictions[side] = table
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.3, 0.5], "val_loss": [2.0, 1.5],
                            "val_accuracy": [0.3, 0.4]})
    return study.finish_run(settings, store, tracks, chunks, predictions, history, {"training": 1.0})


@pytest.mark.filterwarnings("ignore")
def test_leakage_study_reads_run_folders(root, corpus, tmp_path):
    papermill = pytest.importorskip("papermill")
    runs, asked = tmp_path / "runs", {"chunk": 3.0, "track": 0.5, "artist": 0.5, "filtered": 0.5}
    metrics = {f"{name}-0": made_up_run(runs / f"{name}-0", corpus, name, 0, skill) for name, skill in asked.items()}
    metrics["track-1"] = made_up_run(runs / "track-1", corpus, "track", 1, 0.5)
    shutil.copy(root / "nbs/studies/leakage.ipynb", tmp_path / "leakage.ipynb")
    out = tmp_path / "report"
    papermill.execute_notebook(
        tmp_path / "leakage.ipynb", tmp_path / "out.ipynb", cwd=tmp_path, progress_bar=False,
        parameters={"runs": [str(runs)], "out_dir": str(out)},
    )
    report = json.loads((out / "metrics.json").read_text())
    found = report["quick_cnn"]
    assert found["chunk"]["chunk"]["accuracy"] == pytest.approx(metrics["chunk-0"]["chunk"]["accuracy"])
    both = [metrics[name]["chunk"] for name in ("track-0", "track-1")]
    pooled = sum(each["accuracy"] * each["n"] for each in both) / sum(each["n"] for each in both)
    assert found["track"]["chunk"]["accuracy"] == pytest.approx(pooled) and found["track"]["seeds"] == [0, 1]
    assert report["neighbours"]["5_s"]["chunk"]["overlap_in_train"] > 0.8
    assert report["neighbours"]["5_s"]["track"]["track_in_train"] == 0
    for pair in report["paired_with_chunk"]["quick_cnn"].values():
        low, high = pair["chunk"]["difference_ci95"]
        assert 0 < low < pair["chunk"]["difference"] < high and pair["n_chunks"] > 20
    assert list(found) == list(asked) and set(report["replicas"]) == {"track", "artist", "filtered"}
    assert 0 <= found["track"]["calibration"]["error"] <= 1
    assert (out / "figures" / "protocols-quick_cnn.svg").is_file()
    with pytest.raises(papermill.PapermillExecutionError, match="no finished run"):
        papermill.execute_notebook(tmp_path / "leakage.ipynb", tmp_path / "out.ipynb", cwd=tmp_path, progress_bar=False,
                                   parameters={"runs": [str(tmp_path / "nothing")], "out_dir": str(out)})


@pytest.mark.parametrize("apart, min_shared, neighbours", [(89, 0.1, True), (90, 0.1, False), (99, 0.1, False),
                                                           (99, 0.0, True), (100, 0.0, False), (-89, 0.1, True)])
def test_neighbours_share_more_than_the_part_that_is_asked_for(apart, min_shared, neighbours):
    chunks = pd.DataFrame({"track_id": "a", "start_frame": [200, 200 + apart], "n_frames": 100,
                           "split": ["train", "test"]})
    assert neighbour_share(chunks, min_shared=min_shared)["overlap_in_train"] == neighbours
    if min_shared == 0.1:
        assert neighbour_share(chunks)["overlap_in_train"] == neighbours  # that is the default


def test_the_nearest_chunk_is_found_on_the_scale_of_the_training_side():
    """A test chunk far out would shrink one feature for all others, if the scale were taken from it too."""
    chunks = pd.DataFrame({"track_id": ["a", "b", "b", "c"], "genre": ["blues", "jazz", "jazz", "jazz"],
                           "start_frame": [0, 0, 60, 0], "n_frames": 100, "split": ["train", "train", "test", "test"]})
    features = np.array([[0.0, 0.0], [1.0, 10.0], [0.9, 4.0], [1000.0, 0.0]])
    assert neighbour_share(chunks, features) == {
        "n_test": 2, "track_in_train": 0.5, "overlap_in_train": 0.5, "nearest_same_track": 0.5,
        "nearest_overlaps": 0.5, "nearest_same_genre": 1.0}
    elsewhere = chunks.assign(start_frame=[0, 0, 95, 0])
    assert neighbour_share(elsewhere, features)["nearest_overlaps"] == 0
    assert neighbour_share(elsewhere, features)["nearest_same_track"] == 0.5
