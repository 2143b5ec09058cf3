"""What people really point a study at: each ends as a clear error, or as a problem that says what to do."""
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genre_study.storage.writer import open_store
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
    from genre_study.storage.writer import open_store

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


def written(folder, name, **arrays):
    """An archive in a folder."""
    np.savez(folder / name, **arrays)
    return folder / name


IDS = np.array([f"{genre}.{i}" for genre in "ab" for i in range(4)])
MEL = np.random.default_rng(0).random((8, 32, 60), "float32")


@pytest.mark.parametrize("make, message", [
    (lambda folder: tone(folder / "a.wav") or folder / "a.wav", "one folder per genre"),
    (lambda folder: (folder / "a.csv").write_text("a,b") and folder / "a.csv", "expected path, genre"),
    (lambda folder: np.save(folder / "a.npy", MEL) or folder / "a.npy", "expected an .npz with ids and mel"),
    (lambda folder: (folder / "a.npz").touch() or folder / "a.npz", "expected an .npz with ids and mel"),
    (lambda folder: written(folder, "a.npz", mel=MEL), "has no array 'ids', it has mel.npy"),
    (lambda folder: written(folder, "a.npz", ids=IDS.astype(object), mel=MEL), "never loaded"),
    (lambda folder: written(folder, "a.npz", ids=IDS, mel=-80 * MEL), "8 have a problem.*expected 0 to 1"),
])
def test_a_file_that_is_no_archive_of_spectrograms_is_named(tmp_path, make, message):
    file = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        prepare_data(settings(file, tmp_path, n_mels=32))
    assert file.name in str(caught.value) and "pickle" not in str(caught.value)


def test_half_an_archive_is_named_wherever_it_is_cut(tmp_path):
    whole = written(tmp_path, "whole.npz", ids=IDS, mel=MEL).read_bytes()
    for n_bytes in (1, 100, 700, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"cut\.npz is not a whole NumPy archive"):
            prepare_data(settings(tmp_path / "cut.npz", tmp_path, n_mels=32))
    for place in (40, 900, len(whole) - 600):  # the length is right, the content is not
        (tmp_path / "cut.npz").write_bytes(whole[:place] + bytes(300) + whole[place + 300:])
        with pytest.raises(ValueError, match=r"cut\.npz"):
            prepare_data(settings(tmp_path / "cut.npz", tmp_path, n_mels=32))


def test_spectrograms_that_are_ready_made_keep_their_bands(tmp_path):
    file = written(tmp_path, "a.npz", ids=IDS, mel=MEL)
    own = prepare_data(settings(file, tmp_path, n_mels=32, frames_per_second=0))
    assert len(prepare_data(settings(own.folder, tmp_path, n_mels=32, frames_per_second=0))) == 8
    for corpus, others, message in [
        (file, {}, "n_mels is 32 there, and n_mels=128 was asked.*Set n_mels=32"),
        (file, {"n_mels": 32, "mel_scale": "htk"}, "mel_scale is 'slaney' there, and mel_scale='htk' was asked"),
        (own.folder, {"n_mels": 64}, "n_mels is 32 there, and n_mels=64 was asked"),
        (own.folder, {"n_mels": 32}, "frames_per_second is 2.0 there, and frames_per_second=43.06640625 was asked"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare_data(settings(corpus, tmp_path, **others))


def test_a_corpus_where_no_file_can_be_used_says_so(tmp_path):
    for genre in "ab":
        for i in range(4):
            path = tmp_path / "corpus" / genre / f"{genre}{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"RIFF" + bytes(200))
    with pytest.raises(ValueError,
                       match=r"no track of corpus=.* can be used, 8 have a problem: the first, a0 \(.*a0.wav\)"):
        prepare_data(settings(tmp_path / "corpus", tmp_path))
