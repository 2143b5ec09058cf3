"""The study notebook as papermill runs it: parameters, refusals, the run folder."""
import ast
import hashlib
import inspect
import json
import os
import re
import subprocess
import sysconfig
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import papermill as pm
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study import study
from genre_study.corpus import gtzan_tracks
from genre_study.evaluate import evaluate
from genre_study.grid.page import write_page
from genre_study.mel import MelSpec
from genre_study.predict.bundle import bundle_of_run
from genre_study.predict.song import predict_song
from genre_study.split import LeakageError
from genre_study.storage.writer import open_store
from genre_study.study import StudySettings, check_settings
from genre_study.train import TrainSpec

NOTEBOOK = "nbs/studies/reproduce.ipynb"


def papermill(root, run_dir, *options, **parameters):
    """Run the study as a reader does; return the finished process."""
    command = [str(Path(sysconfig.get_path("scripts")) / "papermill"), "--no-log-output", "--no-progress-bar", NOTEBOOK,
               str(run_dir / "out.ipynb"), "-y", yaml.safe_dump({"run_dir": str(run_dir), **parameters}), *options]
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
    asked = {**small, "training": {"scaling": "band"}}
    done = papermill(root, tmp_path / "run", "-p", "network_options", '{"dropout": 0.25}', **asked)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run"
    for name in ("parameters.yaml", "history.csv", "chunks.parquet", "songs.parquet", "model.keras"):
        assert (folder / name).stat().st_size > 0, name
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("corpus", "protocol", "network", "seed", "backend", "versions", "n_tracks", "n_chunks", "seconds"):
        assert metrics[name] not in (None, {}), name
    songs = pd.read_parquet(folder / "songs.parquet")
    test = songs[songs.split == "test"]
    share = (test[metrics["genres"]].idxmax(axis=1) == test.genre).mean()
    assert metrics["song"]["accuracy"] == pytest.approx(share)
    confusion = np.array(metrics["song"]["confusion"])
    assert confusion.sum() == len(test) == metrics["n_tracks"]["test"]
    rows = dict(zip(metrics["genres"], confusion.sum(axis=1)))
    assert rows == test.genre.value_counts().to_dict(), "rows of the confusion matrix are the true genres"
    low, high = metrics["song"]["accuracy_ci95"]
    assert 0 <= low <= share <= high <= 1
    png, svg, pdf = (len(list((folder / "figures").glob(f"*.{kind}"))) for kind in ("png", "svg", "pdf"))
    assert png == svg == pdf >= 4

    assert metrics["parameters"]["network_options"] == {"dropout": 0.25}, "text is read as JSON"
    check_learned_from(metrics, songs, pd.read_parquet(folder / "chunks.parquet"))
    check_that_prediction_scales_as_training_did(folder, metrics, Path(small["data_dir"]))
    check_page(write_page(folder / "out.ipynb").read_text(encoding="utf-8"), metrics)

    again = papermill(root, folder, "-p", "network_options", '{"dropout": 0.25}', **asked)
    assert again.returncode != 0 and "holds a finished run" in again.stderr
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def check_learned_from(metrics, songs, chunks):
    """The hashes are those of the tracks in the tables, worked out here once more."""
    for side in ("valid", "test"):
        for table in (songs, chunks):
            lines = "".join(f"{name}\n" for name in sorted(set(table.track_id[table.split == side])))
            assert hashlib.sha256(lines.encode()).hexdigest() == metrics["learned_from"]["track_ids_sha256"][side]
    assert len(set(metrics["learned_from"]["track_ids_sha256"].values())) == 3
    assert metrics["processor"]["machine"] and metrics["versions"]["keras"]


def check_that_prediction_scales_as_training_did(folder, metrics, data_dir):
    """`training: {scaling: band}` holds for the run, its bundle and a prediction of one of its songs alike."""
    assert metrics["training"]["scaling"] == "band" and metrics["parameters"]["scaling"] == "track"
    bundle, chunks = bundle_of_run(folder), pd.read_parquet(folder / "chunks.parquet")
    assert bundle.scaling == "band"
    title = chunks.track_id[chunks.split == "test"].iloc[0]
    song = predict_song(next(data_dir.glob(f"minicorpus-8/*/{title}.wav")), bundle)
    expected = chunks.loc[chunks.track_id == title, metrics["genres"]].to_numpy()
    np.testing.assert_allclose(song.timeline[metrics["genres"]].to_numpy()[:len(expected)], expected, atol=5e-3)


def check_page(page, metrics):
    """The headline stands at the top; pictures have texts; wrong songs can be heard; nothing comes from elsewhere."""
    song = metrics["song"]
    headline = f"Song accuracy {song['accuracy']:.1%} (95% interval {song['accuracy_ci95'][0]:.1%}"
    assert headline in page and page.index(headline) < page.index("<h2") + 2000 < page.index("<img")
    assert "<summary>Parameters: protocol track, network_options {" in page and "epochs 1" in page
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(pictures) >= 5 and all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)
    n_wrong = round(song["n"] * (1 - song["accuracy"]))
    assert page.count('src="data:audio/mpeg') == min(6, n_wrong)
    assert not re.findall(r'<script|(?:src|href)="(?!data:|#)', page)
    assert "is not finished" not in page and f"--model {metrics['parameters']['run_dir']}" in page


def test_the_studys_own_network_by_its_recipe_where_an_editor_opens_it(root, tmp_path):
    """Audio at 12.9 frames a second, chunks of 15 s, heads on frozen layers, no epoch chosen. From nbs/studies the
    notebook goes up to the root, takes a new run folder, and leaves nothing beside itself.
    """
    place = tmp_path / "nbs" / "studies"
    place.mkdir(parents=True)
    (tmp_path / "settings.ini").touch()
    asked = {"tracks_per_genre": 8, "workers": 1, "protocol": "track", "network": "study_cnn", "chunk_seconds": 15,
             "frames_per_second": 12.9, "epochs": 3, "network_options": {"groups": ["timbre", "dynamics"]}}
    pm.execute_notebook(root / NOTEBOOK, tmp_path / "executed.ipynb", asked, cwd=place, progress_bar=False)
    run, = (tmp_path / "runs").iterdir()
    data = tmp_path / "data"
    assert run.name.startswith("reproduce-2") and (data / "minicorpus-8").is_dir() and not any(place.iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"]["optimizer"] == "adamw" and metrics["training"]["monitor"] == "last"
    assert metrics["training"]["epochs"] == 3 == len(pd.read_csv(run / "history.csv"))
    assert metrics["n_chunks"]["test"] == 3 * metrics["n_tracks"]["test"]
    assert metrics["song"]["accuracy"] > 0.3  # chance is 10%
    assert len(list((data / "values").glob("*.npy"))) == 1
    bundle = bundle_of_run(run)  # as `--model` opens it: without the store
    assert bundle.mel.hop_length == metrics["spectrograms"]["mel"]["hop_length"] == 1709
    song = next(data.glob("minicorpus-8/jazz/*.wav"))
    assert sum(predict_song(song, bundle).vector.values()) == pytest.approx(1)


@pytest.mark.parametrize("parameters, message", [
    ({"training": {"rate": 0.1}}, "expected fields of TrainSpec"),
    ({"epoch": 3}, "did you mean 'epochs'?"),
    ({"epochs": "many"}, "epochs='many' is of type str; expected int"),
    ({"overlap": 1.5}, "overlap must be a number from 0.0 to 0.95; received 1.5")])
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        check_settings(parameters)


@pytest.mark.parametrize("parameters, message", [
    ({"network": "study_cnn", "chunk_seconds": 5, "frames_per_second": 12.9, "tracks_per_genre": 8},
     "at least 128 frames"),
    ({"epoch": 3}, "did you mean 'epochs'?")])
def test_bad_parameters_stop_the_run_at_once(root, tmp_path, small, parameters, message):
    """The first is known to be bad once the network is built, the second when the notebook checks its names."""
    done = papermill(root, tmp_path / "run", **{"data_dir": small["data_dir"], **parameters})
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_parameters_are_data_not_code(root, tmp_path):
    done = papermill(root, tmp_path / "run", corpus="__import__('os').system('touch hacked')",
                     data_dir="'; import os; os.system('touch hacked') #",
                     network_options={"a\nimport os; os.system('touch hacked')": "\"\nimport os; os.mkdir('hacked')"})
    assert done.returncode != 0 and "does not exist" in done.stderr
    assert not (root / "hacked").exists() and not (root / "nbs/studies/hacked").exists()


def test_the_result_is_written_in_the_last_cell(root):
    """What fails after metrics.json is there would leave a finished run that the same call refuses."""
    cells = [cell["source"] for cell in json.loads((root / NOTEBOOK).read_text())["cells"]
             if cell["cell_type"] == "code"]
    cells = ["".join(source) for source in cells]
    assert [number for number, source in enumerate(cells) if "finish_run" in source] == [len(cells) - 1]
    assert [line for line in cells[-1].splitlines() if line.strip()][-1] == "print(result)"


def finished(folder, learned=(), relabelled=False, content=None, noise=0.0, **parameters):
    """Finish a run of two tracks a genre and side; its validation songs are all right, its test songs all wrong."""
    rows = [(f"{genre} {side} {k}", genre, f"{genre} {side}", side) for genre in "ab" for side in
            ("train", "valid", "test") for k in range(2)]
    tracks = pd.DataFrame(rows, columns=["track_id", "genre", "artist", "split"])
    if relabelled:
        tracks["genre"] = tracks.genre.where(tracks.track_id != "a train 0", "b")
    chunks = tracks.loc[tracks.index.repeat(3)].reset_index(drop=True).assign(start_s=np.arange(36) % 3 * 1.5)
    tables = {}
    for side, right in (("valid", 0.9), ("test", 0.1)):
        some = chunks[chunks.split == side]
        is_a = np.where(some.genre == "a", right, 1 - right)
        is_a = np.clip(is_a + np.random.default_rng(len(side)).normal(0, noise, len(is_a)), 0.0, 1.0) if noise else is_a
        tables[side] = some[["track_id", "start_s"]].assign(a=is_a, b=1 - is_a)
        tables[side].attrs["learned"] = list(learned)
    store = SimpleNamespace(problems=[], unit="db", frames_per_second=43.0, spec=MelSpec())
    if content:
        store.content_hash = content
    chosen = StudySettings(run_dir=str(folder), **parameters)
    study.start_run(chosen)
    history = pd.DataFrame({"epoch": [1]})
    return study.finish_run(chosen, store, tracks, chunks, tables, history, {}), tracks, chosen


@pytest.mark.parametrize("side, accuracy", [("test", 0.0), ("valid", 1.0)])
def test_a_run_quotes_the_side_it_was_scored_on(tmp_path, side, accuracy):
    metrics, _, _ = finished(tmp_path / "run", scored_side=side)
    assert metrics["song"]["accuracy"] == metrics["chunk"]["accuracy"] == accuracy
    assert metrics["valid"]["song"]["accuracy"] == 1.0
    assert metrics["n_tracks"] == dict.fromkeys(("train", "valid", "test"), 4)
    assert metrics["n_chunks"] == dict.fromkeys(("train", "valid", "test"), 12)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_metrics_of_a_run_are_those_of_its_tables(tmp_path, seed, monkeypatch):
    """Songs are the means of their chunks; both are scored from what the run has written, with its own seed."""
    seeds = []
    monkeypatch.setattr(study, "evaluate", lambda *a, seed, **b: seeds.append(seed) or evaluate(*a, seed=seed, **b))
    metrics, tracks, _ = finished(tmp_path / "run", noise=0.6, seed=seed, scored_side="test")
    assert set(seeds) == {seed}
    chunks, songs = (pd.read_parquet(tmp_path / "run" / f"{name}.parquet") for name in ("chunks", "songs"))
    means = chunks.groupby("track_id")[["a", "b"]].mean()
    pd.testing.assert_frame_equal(songs.set_index("track_id")[["a", "b"]].sort_index(), means, rtol=1e-6)
    for side, found in (("test", metrics), ("valid", metrics["valid"])):
        for name, table in (("song", songs), ("chunk", chunks)):
            columns = [column for column in ("track_id", "start_s", "a", "b") if column in table]
            part = table[table.split == side][columns]
            assert found[name]["n"] == len(part) and (name == "song" or 0 < found[name]["accuracy"] < 1)
            assert found[name] == evaluate(part, tracks, ["a", "b"], seed=seed)


def test_a_run_says_what_it_learned_from(tmp_path):
    """Hashes of the tracks of each side and of all labels, worked out here once more; another label is another hash."""
    def digest(lines):
        return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()

    metrics, tracks, _ = finished(tmp_path / "run")
    other, _, _ = finished(tmp_path / "other", relabelled=True)
    of_side = metrics["learned_from"]["track_ids_sha256"]
    assert of_side == {side: digest(tracks.track_id[tracks.split == side]) for side in ("train", "valid", "test")}
    assert metrics["learned_from"]["labels_sha256"] == digest(tracks.track_id + "\t" + tracks.genre)
    assert other["learned_from"]["labels_sha256"] != metrics["learned_from"]["labels_sha256"]


def test_a_run_does_not_score_what_it_learned_unless_it_may(tmp_path):
    with pytest.raises(LeakageError, match="learned from 1 of these tracks: b test 1"):
        finished(tmp_path / "run", learned=["b test 1", "a train 0"])
    finished(tmp_path / "leaky", learned=["b test 1"], protocol="chunk", allow_leakage=True)


def test_a_run_does_not_score_its_training_side_whatever_the_predictions_say(tmp_path, monkeypatch):
    """Predictions whose notes were lost, as in a table that was read from a CSV."""
    monkeypatch.setattr(study, "side_metrics", lambda table, *rest: seen.append(rest[-1]) or {"chunk": {}, "song": {}})
    seen = []
    finished(tmp_path / "run")
    assert seen == [{f"{genre} train {k}" for genre in "ab" for k in range(2)}] * 2


def test_the_sides_of_a_run_are_what_its_network_and_its_reference_are_known_by(tmp_path, monkeypatch):
    """A store may hold tracks that the run left out: they are neither learned nor like what was learned."""
    from genre_study.model import build_network
    from genre_study.predict import bundle

    folder = tmp_path / "run"
    finished(folder, content=lambda track_id: f"content of {track_id}")
    sides = pd.read_csv(folder / "sides.csv")
    assert sides.groupby("split").track_id.nunique().to_dict() == {"test": 4, "train": 4, "valid": 4}
    learned = [f"{genre} train {k}" for genre in "ab" for k in range(2)]
    assert sides.track_id[sides.split == "train"].tolist() == learned
    assert (sides.content == "content of " + sides.track_id).all() and (sides.genre == sides.track_id.str[0]).all()
    build_network("quick_cnn", (128, 129, 1), 2, seed=0, filters=4).save(folder / "model.keras")
    monkeypatch.setattr(bundle, "fit_reference", lambda store, ids, floor_db: seen.append(ids))
    store, seen = SimpleNamespace(tracks=pd.DataFrame({"track_id": [*sides.track_id, "left out"]})), []
    network = bundle_of_run(folder, store).network
    assert seen == [learned]
    assert network.genres == ("a", "b") and network.learned == tuple(learned)
    assert network.learned_content == {f"content of {track_id}" for track_id in learned}
    (folder / "sides.csv").unlink()  # a run of version 0.1
    assert bundle_of_run(folder, store).genres == ("a", "b") and seen[1] == [*learned, "left out"]


def test_copies_on_two_sides_that_were_not_learned_of_are_named(tmp_path):
    """The same frames under two names; known pairs are kept on one side, and a protocol that leaks says nothing."""
    tracks = pd.DataFrame([(f"{genre}{k:02d}", genre, f"artist {genre}{k}", 30.0) for genre in "ab" for k in range(10)],
                          columns=["track_id", "genre", "artist", "duration_s"])
    store = SimpleNamespace(tracks=tracks, frames_per_second=43.0, spec=MelSpec())
    store.content_hash = lambda track_id: f"{track_id[0]}{int(track_id[1:]) // 2}"  # each track is there twice
    with pytest.warns(UserWarning, match="recordings lie on two sides of the split, under several names: a0., a0."):
        study.deal(store, StudySettings(protocol="track"))
    pairs = pd.DataFrame({"track_id": tracks.track_id[::2].tolist(), "other_track_id": tracks.track_id[1::2].tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.deal(store, StudySettings(protocol="track"), replicas=pairs)
    with pytest.warns(UserWarning) as caught:
        study.deal(store, StudySettings(protocol="chunk", allow_leakage=True))
    assert not any("under several names" in str(one.message) for one in caught)


def test_exact_copies_are_kept_on_one_side_of_a_run(root, tmp_path):
    """A corpus in which some files are there twice: no copy of what was learned is scored, and the run ends."""
    rng, corpus = np.random.default_rng(0), tmp_path / "own"
    for genre in ("folk", "rock", "polka"):
        (corpus / genre).mkdir(parents=True)
        for number in range(8):
            wave = rng.normal(0, 0.1, 5 * 22050) * (1 + np.sin(np.arange(5 * 22050) / (500 + 100 * len(genre))))
            soundfile.write(corpus / genre / f"{genre} {number}.wav", wave / 4, 22050)
            if genre == "folk":
                soundfile.write(corpus / genre / f"{genre} {number} (1).wav", wave / 4, 22050)
    settings = StudySettings(corpus=str(corpus), protocol="track", data_dir=str(tmp_path / "data"))
    store = study.prepare_data(settings)
    pairs = study.exact_copies(store)
    assert sorted(zip(pairs.track_id, pairs.other_track_id)) == [(f"folk {k}", f"folk {k} (1)") for k in range(8)]
    run = tmp_path / "run"
    done = papermill(root, run, corpus=str(corpus), protocol="track", epochs=1, data_dir=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr[-2000:]
    side = pd.read_csv(run / "sides.csv").set_index("track_id").split
    assert all(side[one] == side[other] for one, other in zip(pairs.track_id, pairs.other_track_id))
    assert "exact copies of others" in (run / "out.ipynb").read_text(encoding="utf-8")


def test_the_range_of_ready_made_spectrograms_is_that_of_the_settings(tmp_path):
    """In dB: the values 0 and 1 stand for its ends; another range is another store."""
    ids = np.array([f"{genre}.{place:05}" for genre in ("blues", "jazz") for place in range(4)])
    mel = np.random.default_rng(0).random((8, 16, 40)).astype("float32")
    np.savez(tmp_path / "mel.npz", ids=ids, mel=mel)
    stores = {}
    for ends in ([-50.0, 30.0], [-80.0, 0.0], []):
        stores[tuple(ends)] = study.prepare_data(StudySettings(
            corpus=str(tmp_path / "mel.npz"), data_dir=str(tmp_path), n_mels=16, frames_per_second=0.0, db_range=ends))
    assert len({str(store.folder) for store in stores.values()}) == 3
    for ends, store in stores.items():
        low, high = ends or (0.0, 1.0)
        np.testing.assert_allclose(store.frames("jazz.00002"), low + (high - low) * mel[6].T, atol=0.07)
        assert store.unit == ("db" if ends else "relative")


def test_a_finished_run_and_one_with_other_parameters_are_left_alone(tmp_path):
    _, _, chosen = finished(tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds a finished run"):
        study.start_run(chosen)
    study.start_run(StudySettings(run_dir=str(tmp_path / "begun")))
    study.start_run(StudySettings(run_dir=str(tmp_path / "begun")))
    with pytest.raises(FileExistsError, match="unfinished run with other parameters"):
        study.start_run(StudySettings(run_dir=str(tmp_path / "begun"), seed=1))


@settings(max_examples=50, deadline=None)
@given(rate=st.floats(5.0, 300.0))
def test_the_hop_is_the_one_nearest_to_the_rate(rate):
    hop = StudySettings(frames_per_second=rate).mel_spec.hop_length
    assert abs(hop - 22050 / rate) <= 0.5


def test_each_corpus_and_each_spectrogram_has_its_own_store(tmp_path):
    """Two folders of one name and two mel scales, one after another: each run gets what it asked for."""
    for place, level in (("one", 0.1), ("other", 0.01)):
        for name in ("jazz", "pop"):
            (tmp_path / place / "genres" / name).mkdir(parents=True)
            noise = np.random.default_rng(0).normal(0, level, 22050)
            soundfile.write(tmp_path / place / "genres" / name / f"{name}.00000.wav", noise, 22050)
    found, folders = {}, {}
    for place in ("one", "other", "one"):
        for scale in ("slaney", "htk"):
            chosen = StudySettings(corpus=str(tmp_path / place / "genres"), mel_scale=scale, workers=1,
                                   data_dir=str(tmp_path / "data"))
            store = study.prepare_data(chosen)
            frames = store.frames(store.tracks.track_id[0])
            assert store.spec.mel_scale == scale and np.array_equal(frames, found.setdefault((place, scale), frames))
            folders[place, scale] = store.folder
    assert len({frames.tobytes() for frames in found.values()}) == 4 == len(set(folders.values()))
    for key, folder in folders.items():  # none has taken the place of another
        store = open_store(folder)
        assert np.array_equal(store.frames(store.tracks.track_id[0]), found[key])


@pytest.mark.parametrize("asked, says", [
    ({"n_mels": 128}, "n_mels is 16 there, and n_mels=128 was asked for.*Set n_mels=16"),
    ({"mel_scale": "htk"}, "mel_scale is 'slaney' there"),
    ({"frames_per_second": 10.0}, "frames_per_second is 43.06.* there")])
def test_ready_made_spectrograms_of_another_kind_are_refused(tmp_path, asked, says):
    for name in ("jazz", "pop"):
        (tmp_path / "genres" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "genres" / name / "a.wav", np.random.default_rng(0).normal(0, 0.1, 22050), 22050)
    data = {"data_dir": str(tmp_path), "workers": 1}
    store = study.prepare_data(StudySettings(corpus=str(tmp_path / "genres"), n_mels=16, **data))
    again = study.prepare_data(StudySettings(corpus=str(store.folder), **{"n_mels": 16, **data}))
    assert len(again) == 2
    with pytest.raises(ValueError, match=says):
        study.prepare_data(StudySettings(corpus=str(store.folder), **{"n_mels": 16, **data, **asked}))


class Broken(OSError):
    pass


@pytest.mark.parametrize("n", range(8))
def test_a_fault_at_any_write_leaves_a_run_that_can_be_continued_or_is_finished(tmp_path, monkeypatch, n):
    """The n-th change to the disk fails: the run either ends well, or the same call goes on and ends well."""
    rows = [(f"{genre} {side}", genre, side, side) for genre in "ab" for side in ("train", "valid", "test")]
    tracks = pd.DataFrame(rows, columns=["track_id", "genre", "artist", "split"])
    chunks = tracks.assign(start_s=0.0)
    tables = {side: chunks.loc[chunks.split == side, ["track_id", "start_s"]].assign(a=0.6, b=0.4)
              for side in ("valid", "test")}
    store = SimpleNamespace(problems=[], unit="db", frames_per_second=43.0, spec=MelSpec())
    chosen, history = StudySettings(run_dir=str(tmp_path / "run")), pd.DataFrame({"epoch": [1]})
    seen = [0]

    def failing(function):
        def call(*args, **options):
            seen[0] += 1
            if seen[0] == n + 1:
                raise Broken("no room")
            return function(*args, **options)
        return call

    def run():
        study.start_run(chosen)
        (tmp_path / "run" / study.CHECKPOINT).touch()
        return study.finish_run(chosen, store, tracks, chunks, tables, history, {})

    with monkeypatch.context() as faults:
        for owner, name in ((study, "write_whole"), (pd.DataFrame, "to_parquet"), (pd.DataFrame, "to_csv"),
                            (Path, "unlink"), (Path, "mkdir")):
            faults.setattr(owner, name, failing(getattr(owner, name)))
        try:
            run()
        except Broken:
            assert not (tmp_path / "run" / "metrics.json").exists()
        else:
            assert json.loads((tmp_path / "run" / "metrics.json").read_text())["song"]["n"] == 2
            return
    assert run()["song"]["n"] == 2


OTHER = {"epochs": 7, "batch_size": 32, "seed": 5, "learning_rate": 0.01, "loss": "binary_crossentropy",
         "scaling": "band", "optimizer": "adamw", "weight_decay": 0.1, "schedule": "one_cycle", "warmup_share": 0.5,
         "label_smoothing": 0.2, "mixup_alpha": 0.3, "time_mask": 4, "band_mask": 5, "ema_momentum": 0.9,
         "monitor": "last"}


@pytest.mark.parametrize("name", [one.name for one in fields(TrainSpec)])
def test_one_place_decides_every_field_of_training(name):
    """`training` holds for each field; a parameter of the same name that contradicts it is refused, default or not."""
    value = OTHER[name]
    assert getattr(StudySettings(training={name: value}).train_spec, name) == value
    if name in StudySettings.__dataclass_fields__:
        assert getattr(StudySettings(**{name: value}).train_spec, name) == value
        assert getattr(StudySettings(**{name: value}, training={name: value}).train_spec, name) == value
        third = {"epochs": 3, "batch_size": 16, "seed": 2, "scaling": "none"}[name]
        with pytest.raises(ValueError, match=f"{name}=.* contradict each other; give {name} once"):
            StudySettings(**{name: third}, training={name: value})


def test_bounds_stand_in_the_class_that_uses_the_value():
    """What MelSpec, ChunkSpec and TrainSpec refuse, the settings refuse, with the parameter's name."""
    for name, value in (("n_mels", -1), ("mel_scale", "bark"), ("chunk_seconds", 0.0), ("overlap", 1.0), ("epochs", -3),
                        ("batch_size", 0), ("seed", 2**32), ("scaling", "loud"), ("frames_per_second", 1e6)):
        with pytest.raises(ValueError, match=name):
            StudySettings(**{name: value})
        with pytest.raises(ValueError, match=name):
            check_settings({name: value})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.binary(max_size=3)
    | st.text(st.characters() | st.sampled_from("\0\ud800\udfff{}[]\""), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    | st.tuples(inner), max_leaves=5)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(["corpus", "network_options", "training", "seed", "overlap", "run_dir", "network"]),
       value=ANYTHING)
def test_any_value_is_kept_as_it_is_or_refused_in_words(name, value):
    """Nothing foreign is raised, and what is taken is what parameters.yaml and metrics.json then say."""
    try:
        made = asdict(check_settings({name: value}))
    except (ValueError, TypeError) as error:
        assert name in str(error)
    else:
        assert yaml.safe_load(yaml.safe_dump(made)) == made == json.loads(json.dumps(made))


def test_json_text_is_the_dict_that_it_describes():
    """papermill -p passes text on as it is."""
    assert check_settings({"network_options": '{"dropout": 0.5}', "training": '{"epochs": 3}'}).train_spec.epochs == 3
    for text in ("dropout=0.5", "{", "", "[" * 100_000, '{"dropout": NaN}'):
        with pytest.raises((ValueError, TypeError), match="network_options"):
            check_settings({"network_options": text})
    with pytest.raises(TypeError, match=r"network_options.*list; expected dict"):
        check_settings({"network_options": "[1, 2]"})


def test_spectrograms_replaced_by_others_of_equal_size_and_time_are_noticed(tmp_path):
    """The store is the content's, whatever the file's size and time say."""
    rng, file = np.random.default_rng(0), tmp_path / "some.npz"
    ids = np.array([f"{genre}.{n:05d}" for genre in ("blues", "jazz") for n in range(4)])
    pictures = rng.integers(0, 256, (8, 16, 40), dtype=np.uint8)
    settings = StudySettings(corpus=str(file), data_dir=str(tmp_path), n_mels=16, frames_per_second=0.0)
    np.savez(file, ids=ids, mel=pictures)
    state, first = file.stat(), study.prepare_data(settings)
    one, other = first.frames("blues.00000"), first.frames("blues.00001")
    np.savez(file, ids=ids, mel=pictures[[1, 0, *range(2, 8)]])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    second = study.prepare_data(settings)
    assert second.folder == first.folder
    np.testing.assert_array_equal(second.frames("blues.00000"), other)
    np.testing.assert_array_equal(second.frames("blues.00001"), one)


def test_another_file_with_the_tracks_of_mel999_is_noticed(tmp_path, monkeypatch, recwarn):
    """Results from other pictures of the same tracks need not be those of the reports."""
    tracks, rng = gtzan_tracks(), np.random.default_rng(0)
    ids = tracks.track_id[tracks.track_id != "jazz.00054"].to_numpy(str)
    monkeypatch.setattr(study, "import_spectrograms", lambda *arguments, **options: "a store")
    options = {"data_dir": str(tmp_path), "n_mels": 4, "frames_per_second": 0.0}
    for name, n_tracks in (("part", 998), ("all", 999)):
        np.savez(tmp_path / f"{name}.npz", ids=ids[:n_tracks], mel=rng.integers(0, 256, (n_tracks, 4, 30), np.uint8))
        study.prepare_data(StudySettings(corpus=str(tmp_path / f"{name}.npz"), **options))
        noticed = [str(warning.message) for warning in recwarn if "mel999" in str(warning.message)]
        assert len(noticed) == (n_tracks == 999)
    assert re.search(r"all\.npz .*sha256 [0-9a-f]{64}, expected f2a8d3ed", noticed[0])


def test_the_file_of_the_reports_is_known(gtzan):
    assert study.MEL999_SHA256 == hashlib.sha256((gtzan / "mel999.npz").read_bytes()).hexdigest()


def test_latex_that_is_not_there_is_named_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = pytest.raises(ValueError, match=r"text\.usetex is True in .* no latex")
    with matplotlib.rc_context({"text.usetex": True}), refused:
        study.start_run(StudySettings(run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert study.start_run(StudySettings(run_dir="~/run")) == tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="no/such"):
        study.prepare_data(StudySettings(corpus="~/no/such"))
    assert not Path("~").exists()


def test_settings_refuse_nan_and_bool():
    with pytest.raises(ValueError, match="is not a finite number"):
        check_settings({"overlap": float("nan")})
    with pytest.raises(TypeError, match="expected int"):
        check_settings({"seed": True})


def test_settings_of_other_types_never_pass_as_the_default():
    made = check_settings({"corpus": Path("x"), "epochs": np.int64(3), "overlap": np.float32(0.25),
                           "allow_leakage": np.bool_(True), "training": {"learning_rate": np.float64(0.01)}})
    assert made == StudySettings(corpus="x", epochs=3, overlap=0.25, allow_leakage=True,
                                 training={"learning_rate": 0.01})
    assert yaml.safe_load(yaml.safe_dump(asdict(made))) == asdict(made)
    for value in (object(), np.zeros(2), json, Path, b"x", np.datetime64("2020")):
        with pytest.raises(TypeError, match=r"corpus=.*expected str"):
            check_settings({"corpus": value})
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        check_settings({"epoch": np.int64(3)})
    for name in ("corpus", "data_dir", "run_dir"):
        with pytest.raises(ValueError, match=f"{name}='' is empty"):
            check_settings({name: ""})
