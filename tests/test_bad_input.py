"""What people really point a study at: each ends as a clear error, or as a row of the problems table that says what to do."""
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genre_study.store import open_store
from genre_study.study import check_settings, deal, prepare_data

RATE = 22050


def tone(path, seconds=4.0, hz=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * time_s), RATE)


@pytest.fixture
def corpus(tmp_path):
    """Two genres with eight good tracks each."""
    for genre, hz in (("high", 1000), ("low", 100)):
        for i in range(8):
            tone(tmp_path / "corpus" / genre / f"{genre}{i}.wav", hz=hz + 10 * i)
    return tmp_path / "corpus"


def settings(corpus, tmp_path, **others):
    return check_settings({"corpus": str(corpus), "data_dir": str(tmp_path / "data"), "protocol": "track", "workers": 1,
                           **others})


def test_a_good_folder_is_read_and_dealt(corpus, tmp_path):
    chosen = settings(corpus, tmp_path)
    store = prepare_data(chosen)
    tracks, chunks = deal(store, chosen)
    assert len(store.problems) == 0 and len(tracks) == 16
    assert set(chunks.split) == {"train", "valid", "test"}


def test_a_run_sees_the_tracks_of_today(corpus, tmp_path):
    """Removed, renamed, moved and mended files leave no ghosts: a ghost is a copy, and can be on the other side."""
    chosen = settings(corpus, tmp_path)
    (corpus / "low" / "spoiled.wav").write_text("not audio " * 100)
    first = prepare_data(chosen)
    assert len(first) == 16 and first.problems.track_id.tolist() == ["spoiled"]
    for path in sorted((corpus / "low").glob("low*.wav")):
        path.rename(path.with_name(path.name.replace("low", "song")))
    (corpus / "low" / "spoiled.wav").unlink()
    (corpus / "high" / "high0.wav").unlink()
    (corpus / "high" / "high1.wav").rename(corpus / "low" / "high1.wav")
    tone(corpus / "high" / "high2.wav", seconds=5.0, hz=3000)
    second = prepare_data(chosen)
    names = {path.stem for path in corpus.glob("*/*.wav")}
    assert len(names) == 15 and set(second.tracks.track_id) == names and not len(second.problems)
    assert second.tracks.set_index("track_id").genre["high1"] == "low"
    assert len(second.frames("high2")) > len(first.frames("high3"))
    tracks, _ = deal(second, chosen)
    assert all(map(Path.exists, map(Path, tracks.path)))
    assert len(open_store(second.folder)) > len(second), "the folder keeps what it has"


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: None, "does not exist"),
    (lambda folder: folder.mkdir(), "no|empty"),
    (lambda folder: tone(folder / "only" / "a.wav"), "genre"),
    (lambda folder: [tone(folder / genre / f"{genre}.wav") for genre in "ab"], "a"),
])
def test_a_folder_that_can_not_be_studied_is_refused(tmp_path, spoil, message):
    folder = tmp_path / "corpus"
    spoil(folder)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        deal(prepare_data(settings(folder, tmp_path)), settings(folder, tmp_path))
    assert len(str(caught.value)) > 30, "says what was expected"


def spoiled_files(corpus):
    """A bad file of each kind in the genre `low`; its name says what is wrong with it."""
    low = corpus / "low"
    (low / "empty.wav").write_bytes(b"")
    (low / "text.wav").write_text("this is not audio " * 100)
    soundfile.write(low / "silent.wav", np.zeros(4 * RATE), RATE)
    soundfile.write(low / "nan.wav", np.full(4 * RATE, np.nan, "float32"), RATE, subtype="FLOAT")
    soundfile.write(low / "nosamples.wav", np.zeros(0), RATE)
    whole = (low / "low0.wav").read_bytes()
    (low / "header.wav").write_bytes(whole[:44])
    return {"empty", "text", "silent", "nan", "nosamples", "header"}


def test_bad_files_become_rows_and_stop_nothing(corpus, tmp_path):
    bad = spoiled_files(corpus)
    store = prepare_data(settings(corpus, tmp_path))
    assert set(store.tracks.track_id) == {f"{genre}{i}" for genre in ("high", "low") for i in range(8)}
    assert set(store.problems.track_id) == bad
    for row in store.problems.itertuples():
        assert row.track_id in row.path and row.problem and row.advice, row


def test_a_track_shorter_than_a_chunk_is_padded(corpus, tmp_path):
    tone(corpus / "low" / "short.wav", seconds=1.0)
    chosen = settings(corpus, tmp_path)
    _, chunks = deal(prepare_data(chosen), chosen)
    assert (chunks.track_id == "short").sum() == 1
    assert chunks.n_frames.nunique() == 1


def test_a_store_of_other_parameters_is_not_mixed_up(corpus, tmp_path):
    from genre_study.corpus import read_corpus
    from genre_study.mel import MelSpec
    from genre_study.store import build_store

    tracks = read_corpus(corpus)
    build_store(tracks, tmp_path / "store", MelSpec(n_mels=64), workers=1)
    with pytest.raises(ValueError, match="64"):
        build_store(tracks, tmp_path / "store", MelSpec(n_mels=128), workers=1)


def test_a_half_written_store_is_completed(corpus, tmp_path):
    from genre_study.corpus import read_corpus
    from genre_study.store import build_store

    tracks = read_corpus(corpus)
    whole = build_store(tracks, tmp_path / "whole", workers=1)
    part = build_store(tracks.head(5), tmp_path / "part", workers=1)
    assert len(part.tracks) == 5
    part = build_store(tracks, tmp_path / "part", workers=1)
    for track_id in tracks.track_id:
        np.testing.assert_array_equal(part.frames(track_id), whole.frames(track_id))


def test_a_folder_that_is_no_store_is_named(tmp_path):
    from genre_study.store import open_store

    (tmp_path / "nothing").mkdir()
    with pytest.raises((ValueError, OSError), match="nothing"):
        open_store(tmp_path / "nothing")


def test_too_few_tracks_to_split_names_the_genre(tmp_path):
    for i in range(8):
        tone(tmp_path / "corpus" / "many" / f"many{i}.wav", hz=100 + 10 * i)
    tone(tmp_path / "corpus" / "scarce" / "one.wav", hz=900)
    chosen = settings(tmp_path / "corpus", tmp_path)
    with pytest.raises(ValueError, match="scarce"):
        deal(prepare_data(chosen), chosen)
