"""Predictions of every kind of file, of long ones, after interruptions, and with floors."""
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_study.core.audio import AudioError
from genre_study.mel import MelSpec
from genre_study.predict.bundle import Bundle, bundle_of_run, load_bundle, save_bundle
from genre_study.predict.export import waveform_model
from genre_study.predict.folder import predict_folder
from genre_study.predict.novelty import SongSummary, fit_reference, measure_novelty
from genre_study.predict.song import Prediction, predict_song
from genre_study.predict.source import Recording
from genre_study.store import build_store
from genre_study.synth.minicorpus import render_minicorpus
from genre_study.synth.song import compose
from genre_study.synth.sound import SAMPLE_RATE, render_song

GENRES = ("blues", "jazz", "rock")
SUFFIXES = (".csv", ".parquet", ".jsonl")
# a reference that finds nothing new
ANYTHING = dict(songs=[[0.0] * 48], spread=[1.0] * 48, limit=1e6, min_tonality=0.5)


@pytest.fixture(scope="module")
def bundle():
    """An untrained network with fixed weights: these tests are about the way to it."""
    from genre_study.model import build_network

    return Bundle(build_network("quick_cnn", (128, 130, 1), 3, seed=1, filters=8, depth=3), GENRES, temperature=0.7)


@pytest.fixture(scope="module")
def wave():
    return render_song(compose("country", 3, seconds=4.0)) / 32768


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty short tracks of the synthetic corpus."""
    return render_minicorpus(tmp_path_factory.mktemp("corpus") / "corpus", 6, seconds=4.0)


@pytest.fixture(scope="module")
def floored():
    """Coarse frames, chunks of four seconds, a floor: how a network trained on ready-made pictures is used."""
    from genre_study.chunk import ChunkSpec
    from genre_study.mel import MelSpec
    from genre_study.model import build_network

    network = build_network("quick_cnn", (128, 52, 1), 3, seed=1, filters=8)
    return Bundle(network, GENRES, MelSpec(hop_length=1709), ChunkSpec(seconds=4.0), floor_db=40.0)


def close(one, other, eps):
    assert list(one.vector) == list(other.vector)
    np.testing.assert_allclose(list(one.vector.values()), list(other.vector.values()), atol=eps)


@pytest.mark.parametrize(("suffix", "subtype", "eps"), [
    ("wav", "PCM_16", 1e-4), ("wav", "PCM_U8", 0.1), ("wav", "PCM_24", 1e-4), ("wav", "FLOAT", 1e-6),
    ("wav", "DOUBLE", 1e-6), ("au", "PCM_16", 1e-4), ("flac", "PCM_16", 1e-4), ("ogg", "VORBIS", 0.1),
    ("mp3", "MPEG_LAYER_III", 0.1)])
def test_formats(bundle, wave, tmp_path, suffix, subtype, eps):
    path = tmp_path / f"song.{suffix}"
    soundfile.write(path, wave, SAMPLE_RATE, subtype=subtype)
    song = predict_song(path, bundle)
    close(song, predict_song(wave, bundle, SAMPLE_RATE), eps)
    assert song.name == path.name
    close(predict_song(path.read_bytes(), bundle), song, 1e-6)
    with open(path, "rb") as file:
        close(predict_song(file, bundle), song, 1e-6)


def test_opus_and_rates_and_channels(bundle, wave, tmp_path):
    import soxr

    for rate, channels in ((8000, 1), (11_025, 1), (44_100, 6), (48_000, 2), (192_000, 6)):
        heard = soxr.resample(wave, SAMPLE_RATE, rate)  # what is above half the rate is lost
        reference = predict_song(soxr.resample(heard, rate, SAMPLE_RATE), bundle, SAMPLE_RATE)
        sound = np.repeat(heard[:, None], channels, axis=1)
        soundfile.write(tmp_path / "song.wav", sound, rate, subtype="FLOAT")
        close(predict_song(tmp_path / "song.wav", bundle), reference, 0.02)
        close(predict_song(sound, bundle, rate), reference, 0.02)
        if rate == 48_000:
            soundfile.write(tmp_path / "song.opus", sound, rate, format="OGG", subtype="OPUS")
            close(predict_song(tmp_path / "song.opus", bundle), reference, 0.2)


def test_m4a(bundle, wave, tmp_path, monkeypatch):
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    soundfile.write(tmp_path / "song.wav", wave, SAMPLE_RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "song.wav", "-c:a", "aac", tmp_path / "song.m4a"],
                   check=True)
    song = predict_song(tmp_path / "song.m4a", bundle)
    close(song, predict_song(wave, bundle, SAMPLE_RATE), 0.1)
    data = (tmp_path / "song.m4a").read_bytes()
    close(predict_song(data, bundle), song, 1e-6)
    with open(tmp_path / "song.m4a", "rb") as file:
        close(predict_song(file, bundle), song, 1e-6)
    with subprocess.Popen(["cat", tmp_path / "song.m4a"], stdout=subprocess.PIPE) as pipe:  # it can't go back
        close(predict_song(pipe.stdout, bundle), song, 1e-6)
    with pytest.raises(AudioError, match="is longer than 2 s"):
        predict_song(data, bundle, max_duration_s=2)
    with pytest.raises(AudioError, match="not by ffmpeg either"):
        predict_song(b"#EXTM3U\n#EXTINF:4,\nsong.m4a\n", bundle)  # a playlist names other files: never followed
    (tmp_path / "text.m4a").write_text("no music at all")
    with pytest.raises(AudioError, match="not by ffmpeg either"):
        predict_song(tmp_path / "text.m4a", bundle)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for source in (tmp_path / "song.m4a", data):
        with pytest.raises(AudioError, match="Install ffmpeg, which reads more formats"):
            predict_song(source, bundle)


@pytest.mark.parametrize(("source", "says"), [
    (b"", "is empty"), (b"RIFF", "cannot be decoded"), (np.zeros(0), "expected samples of shape"),
    (np.full(50_000, np.nan), "NaN"), (np.zeros((4, 5, 6)), "expected samples of shape"), ({}, "got dict"),
    (np.array(["a"]), "numbers")])
def test_sources_that_are_not_music(bundle, source, says):
    with pytest.raises((ValueError, TypeError), match=says):
        predict_song(source, bundle, sample_rate=SAMPLE_RATE)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float16", "float32", "float64"])
def test_arrays_of_every_kind(bundle, wave, kind):
    signed = wave * (2 ** (8 * np.dtype(kind).itemsize - 1) - 1)
    samples = {"u": wave * 128 + 128, "i": signed, "f": wave}[np.dtype(kind).kind]
    stereo = np.repeat(samples.astype(kind)[:, None], 2, axis=1)
    close(predict_song(stereo, bundle, SAMPLE_RATE), predict_song(wave, bundle, SAMPLE_RATE),
          0.1 if kind == "uint8" else 0.02)


def test_samples_of_unsigned_bytes_are_around_their_middle(wave):
    """128 is silence: without that a song sits on a step."""
    heard = np.concatenate(list(Recording((np.rint(wave * 128 + 128).clip(0, 255).astype("uint8"), SAMPLE_RATE))))
    np.testing.assert_allclose(heard, wave, atol=0.01)


def test_missing_file(bundle, tmp_path):
    with pytest.raises(AudioError, match="cannot be opened"):
        predict_song(tmp_path / "nothing.wav", bundle)


def test_picture_and_player(bundle, wave):
    song = predict_song(wave, bundle, SAMPLE_RATE)
    assert song._repr_png_().startswith(b"\x89PNG")
    assert len(song.play().data) > 100_000
    assert json.loads(json.dumps(song.to_dict()))["top"] == song.top[0][0]


def test_picture_of_names_with_dollars(bundle, wave, tmp_path):
    file = tmp_path / "Ke$^$ha.wav"
    soundfile.write(file, wave, SAMPLE_RATE)
    odd = replace(bundle, genres=("Hits 4 $_$", "R&B $^$", "rock"))
    assert predict_song(file, odd)._repr_png_().startswith(b"\x89PNG")


def test_speech_noise_and_silence_get_a_reason(bundle, corpus, tmp_path):
    """Sounds other than music are out of distribution; tracks of the corpus that were left out of the fit rarely."""
    tracks = corpus
    store = build_store(tracks, tmp_path / "store", workers=1, progress=False)
    known = replace(bundle, reference=fit_reference(store, list(tracks.track_id[tracks.index % 6 < 5])))
    fresh = [predict_song(path, known) for path in tracks.path[tracks.index % 6 == 5]]
    assert sum(bool(song.reasons) for song in fresh) <= 3
    rng = np.random.default_rng(0)
    for sound in (rng.normal(0, 0.1, 150_000), np.zeros(150_000), 0.3 * np.sin(np.arange(150_000) * 0.1)):
        song = predict_song(sound, known, SAMPLE_RATE)
        assert song.reasons and song.uncertainty > 0.5
    if shutil.which("espeak-ng"):
        text = "The study ends with a vector of predicted genres, but this is a voice that reads aloud, not music."
        speech = subprocess.run(["espeak-ng", "--stdout", text], capture_output=True, check=True).stdout
        path = tmp_path / "speech.wav"
        path.write_bytes(speech)
        song = predict_song(path, known)
        assert any("unlike" in reason for reason in song.reasons), song


def test_folder_goes_on_where_it_stopped(bundle, wave, tmp_path, monkeypatch):
    import genre_study.predict.folder as predict

    for shift, name in enumerate("abc"):
        soundfile.write(tmp_path / f"{name}.wav", np.roll(wave, shift), SAMPLE_RATE)
    (tmp_path / "d.mp3").write_bytes(b"nothing")
    (tmp_path / "._d.mp3").write_bytes(b"what macOS leaves on foreign disks")
    seen, whole = [], predict.predict_song

    def stops_at_c(path, model):
        seen.append(path.name)
        if path.name == "c.wav" and len(seen) == 3:
            raise KeyboardInterrupt
        return whole(path, model)

    monkeypatch.setattr(predict, "predict_song", stops_at_c)
    out = tmp_path / "table.csv"
    with pytest.raises(KeyboardInterrupt):
        predict_folder(tmp_path, out, bundle, progress=False)
    assert len(pd.read_csv(out)) == 2
    table = predict_folder(tmp_path, out, bundle, progress=False)
    assert seen == ["a.wav", "b.wav", "c.wav", "c.wav", "d.mp3"]
    assert list(table.path) == ["a.wav", "b.wav", "c.wav", "d.mp3"]
    assert list(table.problem == "") == [True, True, True, False]
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_folder_of_nothing_is_an_empty_table(bundle, tmp_path, suffix):
    (tmp_path / "music").mkdir()
    for _ in range(2):
        assert len(predict_folder(tmp_path / "music", tmp_path / f"table.{suffix}", bundle, progress=False)) == 0


def test_folder_is_written_on_the_way(bundle, tmp_path, monkeypatch):
    """A machine that is switched off loses fifty songs at most."""
    from types import SimpleNamespace

    from genre_study.predict import folder

    def answer(path, _):
        number = int(path.stem)
        kept = len(pd.read_csv(tmp_path / "table.csv")) if (tmp_path / "table.csv").exists() else 0
        assert number - 50 <= kept <= number
        return SimpleNamespace(top=[("jazz", 1.0)], uncertainty=0.0, reasons=[], novelty=0.5, duration_s=3.0,
                               vector=dict.fromkeys(GENRES, 1 / 3))

    (tmp_path / "music").mkdir()
    for number in range(130):
        (tmp_path / "music" / f"{number:03}.wav").write_text(f"song {number}")
    monkeypatch.setattr(folder, "predict_song", answer)
    assert len(predict_folder(tmp_path / "music", tmp_path / "table.csv", bundle, progress=False)) == 130


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_folder_keeps_numbers_beside_a_broken_file(bundle, wave, tmp_path, suffix):
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE)
    (tmp_path / "b.mp3").write_bytes(b"nothing")
    table = predict_folder(tmp_path, tmp_path / f"table.{suffix}", bundle, progress=False)
    assert table.duration_s[0] == pytest.approx(4.0, abs=0.1) and np.isnan(table.duration_s[1])
    assert table[list(GENRES)].sum(axis=1).tolist() == [pytest.approx(1.0), 0]
    assert table.reasons.tolist() == ["", ""] and table["top"].tolist()[1] == ""


@pytest.mark.torture
def test_three_hours_in_bounded_memory(bundle, wave, tmp_path):
    """A file of three hours: under 600 MB, and the same vector as its frames give in one piece."""
    path = tmp_path / "long.wav"
    loud = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE * 60).astype(np.float32)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for minute in range(180):
            file.write(loud * (0.1 + minute % 7 / 7))
    save_bundle(tmp_path / "bundle", bundle)
    code = ("import time; from genre_study.predict.bundle import load_bundle;"
            "from genre_study.predict.song import predict_song; from long_run import highest_mb;"
            "b = load_bundle('bundle'); t = time.perf_counter(); s = predict_song('long.wav', b);"
            "print(len(s.timeline), 10800 / (time.perf_counter() - t)); print(highest_mb())")
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": path})
    n_chunks, speed, peak_mb = map(float, done.stdout.split())
    print(f"{speed:.0f} times real time, {peak_mb:.0f} MB")
    assert n_chunks == 7199 and peak_mb < 600


def test_floor_holds_on_every_route(floored, wave, tmp_path):
    """Song, folder, saved bundle and exported graph share one floor; a louder clip in the batch changes nothing."""
    song = predict_song(wave, floored, SAMPLE_RATE)
    free = predict_song(wave, replace(floored, floor_db=None), SAMPLE_RATE)
    difference = np.abs(song.timeline - free.timeline).to_numpy().max()
    assert difference > 1e-3, "this floor changes the network's input"
    save_bundle(tmp_path / "bundle", floored)
    close(predict_song(wave, tmp_path / "bundle", SAMPLE_RATE), song, 1e-6)
    soundfile.write(tmp_path / "song.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    table = predict_folder(tmp_path, tmp_path / "table.parquet", floored, progress=False)
    np.testing.assert_allclose(table[list(GENRES)].iloc[0], list(song.vector.values()), atol=1e-6)
    clips = np.stack([wave, wave * 0.03, np.zeros_like(wave)]).astype(np.float32)
    vectors = np.asarray(waveform_model(floored)(clips))
    for clip, vector in zip(clips[:2], vectors):
        np.testing.assert_allclose(list(predict_song(clip, floored, SAMPLE_RATE).vector.values()), vector, atol=1e-4)

    facts = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert facts.pop("floor_db") == 40.0
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(facts))
    assert load_bundle(tmp_path / "bundle").floor_db is None, "a floor is optional"


def test_floor_of_a_long_song_is_the_same_in_pieces(floored):
    """The loudest moment comes last: the frames before it are raised too."""
    from genre_study.mel import log_mel
    from genre_study.predict.song import SongFrames

    noise = np.random.default_rng(0).normal(0, 1e-4, SAMPLE_RATE * 330).astype(np.float32)
    noise[-SAMPLE_RATE:] *= 1e3
    frames = log_mel(noise, floored.mel).T.astype(np.float16).astype(np.float32)
    frames = np.maximum(frames, frames.max() - 40)
    with SongFrames(Recording(noise, SAMPLE_RATE), floored.mel, 40.0) as song:
        assert song.n_frames == len(frames) > 4096 and np.median(frames) == frames.min()
        np.testing.assert_allclose(song.read(0, len(frames)), frames, atol=0.05)
        for ours, theirs in zip(song.summary.moments(), (frames.mean(axis=0), np.square(frames).mean(axis=0))):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_song_is_summarised_alike_in_pieces_of_any_size(piece):
    """The steps from the last frames of one piece to the first of the next count as all others do."""
    frames = np.random.default_rng(0).normal(-40, 10, (230, 128)).cumsum(axis=0) / 10
    whole, parts = SongSummary(MelSpec()), SongSummary(MelSpec())
    whole.add(frames)
    for start in range(0, len(frames), piece):
        parts.add(frames[start:start + piece])
    np.testing.assert_allclose(parts.shape, whole.shape, rtol=1e-9)
    assert parts.tonality == pytest.approx(whole.tonality, rel=1e-9)
    np.testing.assert_array_equal(parts.levels, whole.levels)


REPEATED = ["shorter than one chunk of 4 s, so it was repeated"]


def by_hand(clip, bundle):
    """The network's answer to a clip that is repeated to four seconds, without any of the package's streaming."""
    from genre_study.mel import log_mel

    n = 4 * SAMPLE_RATE
    frames = log_mel(np.concatenate([clip] * (n // len(clip) + 1))[:n].astype(np.float32), bundle.mel)
    frames = frames.astype(np.float16).astype(np.float32)
    frames = np.maximum(frames, frames.max() - bundle.floor_db)
    scaled = (frames - frames.mean()) / frames.std()
    return bundle.network.predict(scaled[None, :, :, None], verbose=0)[0]


@pytest.mark.parametrize("n_samples", [40, 1709, SAMPLE_RATE // 2, 2 * SAMPLE_RATE + 7, 4 * SAMPLE_RATE - 2000])
def test_shorter_than_a_chunk_is_repeated(floored, wave, tmp_path, n_samples):
    """The same from an array and from a file in blocks; silence plays no part; nothing reaches beyond the end."""
    clip = wave[SAMPLE_RATE:][:n_samples] if n_samples < SAMPLE_RATE else wave[:n_samples]
    song = predict_song(clip, floored, SAMPLE_RATE)
    np.testing.assert_allclose(song.timeline[list(GENRES)].to_numpy()[0], by_hand(clip, floored), atol=1e-4)
    assert len(song.timeline) == 1 and song.reasons == REPEATED
    assert song.duration_s == pytest.approx(n_samples / SAMPLE_RATE) == song.heard["end_s"].iloc[-1]
    assert song.overview.shape[1] == int(song.duration_s * floored.mel.frames_per_second) + 1
    assert song.plot().axes[2].get_xlim()[1] == pytest.approx(song.duration_s)
    for rate in (SAMPLE_RATE, 2 * SAMPLE_RATE):  # read in blocks; and resampled, where the last digits differ
        heard = clip if rate == SAMPLE_RATE else np.repeat(clip, 2)
        soundfile.write(tmp_path / "clip.wav", heard, rate, subtype="FLOAT")
        close(predict_song(tmp_path / "clip.wav", floored), song if rate == SAMPLE_RATE else predict_song(
            heard, floored, rate), 1e-4)


def test_silence_around_a_chunk_does_not_make_it_short(floored, wave):
    """A clip that lacks no more than the tolerance is a whole chunk; so is music that falls silent."""
    assert predict_song(wave[: int(3.96 * SAMPLE_RATE)], floored, SAMPLE_RATE).reasons == []
    assert predict_song(np.r_[wave[:SAMPLE_RATE], np.zeros(3 * SAMPLE_RATE)], floored, SAMPLE_RATE).reasons == []
    assert predict_song(np.zeros(SAMPLE_RATE), floored, SAMPLE_RATE).reasons == ["silent"]


def test_under_three_seconds_the_vector_is_flatter(floored, wave):
    """By the square root of the share of three seconds; from there on it is the network's own."""
    plain = replace(floored, temperature=1.0)
    for seconds, kept in ((0.75, 0.5), (3.0, 1.0), (3.5, 1.0)):
        song = predict_song(wave[: int(seconds * SAMPLE_RATE)], plain, SAMPLE_RATE)
        network = song.timeline[list(GENRES)].to_numpy()[0]
        np.testing.assert_allclose(list(song.vector.values()), kept * network + (1 - kept) / 3, atol=1e-5)


@pytest.fixture(scope="module")
def graph(floored):
    return waveform_model(floored)


@pytest.mark.parametrize("seconds", [0.02, 1.0, 3.9, 3.96, 4.0, 5.9, 6.1, 11.7])
def test_graph_takes_clips_of_any_length(floored, graph, wave, seconds):
    n, longer = round(seconds * SAMPLE_RATE), np.tile(wave, 4)
    clips = np.stack([np.roll(longer, -5000)[:n], np.roll(longer, -9000)[:n] * 0.05]).astype(np.float32)
    for clip, vector in zip(clips, np.asarray(graph(clips))):
        np.testing.assert_allclose(list(predict_song(clip, floored, SAMPLE_RATE).vector.values()), vector, atol=1e-4)


@pytest.mark.parametrize("scaling", ["none", "power", "track", "band"])
@pytest.mark.parametrize("chunk", [dict(seconds=1.5, overlap=0.9), dict(seconds=2.5, overlap=0.0),
                                   dict(seconds=0.7, overlap=2 / 3)], ids=str)
def test_graph_cuts_chunks_as_the_song_is_cut(wave, scaling, chunk):
    from genre_study.chunk import ChunkSpec
    from genre_study.model import build_network

    spec = ChunkSpec(**chunk)
    network = build_network("quick_cnn", (128, spec.n_frames(MelSpec().frames_per_second), 1), 3, seed=1, filters=4)
    some = Bundle(network, GENRES, chunk=spec, scaling=scaling)
    model = waveform_model(some)
    for n in (9000, 2 * SAMPLE_RATE, len(wave)):
        vector = np.asarray(model(wave[None, :n].astype(np.float32)))[0]
        np.testing.assert_allclose(list(predict_song(wave[:n], some, SAMPLE_RATE).vector.values()), vector, atol=1e-4)


def test_novelty_of_pictures_and_of_sound(floored, corpus, tmp_path):
    """Pictures of 40 dB from the loudest down say the same of a song as its sound."""
    tracks = corpus[::3].reset_index(drop=True)
    store = build_store(tracks, tmp_path / "store", spec=floored.mel, workers=1, progress=False)

    class Pictures:
        unit, spec, frames_per_second = "relative", store.spec, store.frames_per_second

        def frames(self, track_id):
            frames = store.frames(track_id).astype(np.float32)
            return np.maximum(1 + (frames - frames.max()) / 40, 0)

    ids = list(tracks.track_id)
    heard, seen = fit_reference(store, ids, 40.0), fit_reference(Pictures(), ids, 40.0)
    apart = np.multiply(seen["songs"], seen["spread"]) - np.multiply(heard["songs"], heard["spread"])
    assert np.abs(apart / heard["spread"]).max() < 0.05
    assert seen["limit"] == pytest.approx(heard["limit"], rel=1e-2)
    with pytest.raises(ValueError, match="or pictures with floor_db"):
        fit_reference(Pictures(), ids)


def test_novelty_does_not_depend_on_loudness(floored, corpus, tmp_path):
    """Tracks that begin with silence, and the same at a tenth of the level, are the same music."""
    tracks, found = corpus[::3].reset_index(drop=True), []
    for name, gain in (("loud", 1.0), ("quiet", 0.1)):
        table = tracks.assign(path=[str(tmp_path / f"{name}-{track_id}.wav") for track_id in tracks.track_id])
        for source, path in zip(tracks.path, table.path):
            samples, rate = soundfile.read(source)
            soundfile.write(path, np.r_[np.zeros(rate // 2), samples * gain], rate, subtype="FLOAT")
        store = build_store(table, tmp_path / name, spec=floored.mel, workers=1, progress=False)
        found.append(fit_reference(store, list(table.track_id), 40.0))
    assert measure_novelty(found[0], store, list(tracks.track_id), 40.0)["novelty"].max() < 0.05
    assert found[1]["limit"] == pytest.approx(found[0]["limit"], rel=1e-2)


def test_noise_has_no_autocorrelation_and_music_has(floored, corpus):
    from genre_study.core.audio import load_audio
    from genre_study.mel import log_mel

    def autocorrelation(sound):
        frames, summary = log_mel(np.asarray(sound, np.float32), floored.mel).T, SongSummary(floored.mel)
        summary.add(np.maximum(frames, frames.max() - 80))
        return summary.shape[32:]

    random, n = np.random.default_rng(3), SAMPLE_RATE * 5
    for slope in (0, 1, 2):
        spectrum = np.fft.rfft(random.normal(size=n)) / np.maximum(np.arange(n // 2 + 1), 1) ** (slope / 2)
        noise = np.fft.irfft(spectrum)
        assert abs(autocorrelation(noise / np.abs(noise).max()).mean()) < (0.05, 0.05, 0.25)[slope]
    assert np.median([autocorrelation(load_audio(path, SAMPLE_RATE)).mean() for path in corpus.path]) > 0.3


def test_reference_of_many_tracks_stays_small():
    """Of more than 2000 tracks some are kept, because the file of a bundle takes no more."""
    class Many:
        unit, spec, frames_per_second = "db", MelSpec(), 22050 / 512

        def frames(self, track_id):
            return np.random.default_rng(track_id).normal(-40, 10, (5, 128)).astype(np.float16)

    reference = fit_reference(Many(), list(range(4500)))
    assert len(reference["songs"]) == 1500 and len(json.dumps(reference)) < 1_000_000


@pytest.mark.parametrize(("change", "says"), [
    (dict(limit="1"), "not made of numbers"), (dict(limit=-1.0), "limit -1.0"), (dict(songs=[]), r"songs \(0,\)"),
    (dict(songs=[[1.0] * 48] * 2001), r"songs \(2001, 48\)"), (dict(songs=[[1.0], [1.0, 2.0]]), "not made of numbers"),
    (dict(spread=[1e400] * 48), "expected"), (dict(code="print()"), "expected the parts"),
    (dict(songs={"a": 1}), "not made of numbers")])
def test_reference_of_a_file_is_checked(bundle, tmp_path, change, says):
    """A bundle may come from anywhere: a reference is made of numbers of the right shape, or it is refused."""
    save_bundle(tmp_path, bundle)
    file = tmp_path / "bundle.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | dict(reference=ANYTHING | change)))
    with pytest.raises(ValueError, match=says):
        load_bundle(tmp_path)


def test_description_of_a_bundle_is_checked(bundle, tmp_path):
    save_bundle(tmp_path, bundle)
    file = tmp_path / "bundle.json"
    facts = json.loads(file.read_text())
    for wrong in (facts | dict(likeness=None), {name: value for name, value in facts.items() if name != "mel"}, []):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="does not describe a bundle"):
            load_bundle(tmp_path)
    file.write_text(" " * 5_000_001)
    with pytest.raises(ValueError, match="expected at most 5,000,000"):
        load_bundle(tmp_path)


def test_bytes_io_is_a_file(bundle, wave):
    data = io.BytesIO()
    soundfile.write(data, wave, SAMPLE_RATE, format="FLAC")
    data.seek(0)
    assert predict_song(data, bundle).duration_s == pytest.approx(4.0, abs=0.05)


def song_bytes(wave, suffix):
    data = io.BytesIO()
    soundfile.write(data, wave, SAMPLE_RATE, format=suffix)
    return data.getvalue()


class OnlyReads:
    """A file object that can do nothing else."""
    def __init__(self, data, kind=io.BytesIO):
        self._data = kind(data)

    def read(self, size=-1):
        return self._data.read(size)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_file_objects_that_cannot_go_back(bundle, wave, tmp_path, suffix):
    data = song_bytes(wave, suffix)
    expected = predict_song(data, bundle).vector
    (tmp_path / "song").write_bytes(data)
    with subprocess.Popen(["cat", str(tmp_path / "song")], stdout=subprocess.PIPE) as process:
        piped = predict_song(process.stdout, bundle)
    assert piped.vector == expected and piped.name == "file object"
    assert predict_song(OnlyReads(data), bundle).vector == expected


def test_file_objects_are_read_from_their_beginning(bundle, wave, tmp_path):
    written = io.BytesIO()
    soundfile.write(written, wave, SAMPLE_RATE, format="WAV")  # and left at its end
    first = predict_song(written, bundle)
    assert first.vector == predict_song(written, bundle).vector == predict_song(written.getvalue(), bundle).vector
    assert first.play().data  # reads it once more
    for text in (io.StringIO("not bytes"), OnlyReads("not bytes", io.StringIO)):
        with pytest.raises(TypeError, match="mode 'rb'"):
            predict_song(text, bundle)
    with pytest.raises(AudioError, match="the file object: cannot be decoded"):
        predict_song(OnlyReads(b"no music" * 100), bundle)


def test_length_is_that_of_the_samples(bundle, tmp_path):
    soundfile.write(tmp_path / "song.wav", np.zeros(16 * SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(tmp_path / "more.flac", np.zeros(16 * 48000 + 24), 48000)
    assert predict_song(tmp_path / "song.wav", bundle).duration_s == 16.0
    assert predict_song(tmp_path / "more.flac", bundle).duration_s == pytest.approx(16.0005, abs=1e-4)


@pytest.mark.parametrize("rest", [0.0, 0.01])
def test_opposite_phase_is_named(bundle, wave, tmp_path, rest):
    """Two channels that cancel each other, wholly or but for some noise."""
    noise = np.random.default_rng(0).normal(0, rest * wave.std(), len(wave)) if rest else 0
    stereo = 0.5 * np.stack([wave, noise - wave], axis=1)
    soundfile.write(tmp_path / "song.wav", stereo, SAMPLE_RATE)
    for source in (tmp_path / "song.wav", (stereo, SAMPLE_RATE)):
        song = predict_song(source, bundle)
        assert len(song.reasons) == 1 and "opposite phase" in song.reasons[0]
        assert song.uncertainty == pytest.approx(1)
    assert predict_song((np.stack([wave, 0 * wave], axis=1), SAMPLE_RATE), bundle).reasons == []


def test_sample_rates_of_numpy_types(bundle, wave):
    expected = predict_song(wave, bundle, SAMPLE_RATE).vector
    for rate in (np.int64(SAMPLE_RATE), np.float32(SAMPLE_RATE)):
        assert predict_song((wave, rate), bundle).vector == expected
    for rate in (True, np.bool_(True), "22050", float("nan")):
        with pytest.raises(ValueError, match="needs its sample_rate"):
            predict_song((wave, rate), bundle)


def test_folder_with_another_network_and_changed_files(bundle, wave, tmp_path):
    folder, out = tmp_path / "songs", tmp_path / "table.csv"
    folder.mkdir()
    soundfile.write(folder / "a.wav", wave, SAMPLE_RATE)
    soundfile.write(folder / "b.wav", wave, SAMPLE_RATE)
    first = predict_folder(folder, out, bundle, progress=False)
    assert first.equals(predict_folder(folder, out, bundle, progress=False))
    other = predict_folder(folder, out, replace(bundle, temperature=2.0), progress=False)
    assert (other["uncertainty"] > first["uncertainty"]).all() and (other["network"] != first["network"]).all()
    facts = (folder / "a.wav").stat()
    soundfile.write(folder / "a.wav", wave[::-1], SAMPLE_RATE)  # as many bytes
    os.utime(folder / "a.wav", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    changed = predict_folder(folder, out, replace(bundle, temperature=2.0), progress=False)
    assert changed["content"][0] != other["content"][0] and changed["content"][1] == other["content"][1]
    assert changed["uncertainty"][0] != other["uncertainty"][0] and changed["uncertainty"][1] == other["uncertainty"][1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_change_places_are_noticed(bundle, wave, tmp_path, suffix):
    """Two files of equal size and time; names, sizes and times stay as they were."""
    for name, sound in (("a.wav", wave), ("b.wav", wave[::-1])):
        soundfile.write(tmp_path / name, sound, SAMPLE_RATE)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    first = predict_folder(tmp_path, tmp_path / f"table{suffix}", bundle, progress=False)
    os.rename(tmp_path / "a.wav", tmp_path / "c")
    os.rename(tmp_path / "b.wav", tmp_path / "a.wav")
    os.rename(tmp_path / "c", tmp_path / "b.wav")
    second = predict_folder(tmp_path, tmp_path / f"table{suffix}", bundle, progress=False)
    assert list(second["path"]) == ["a.wav", "b.wav"]
    assert list(second["uncertainty"]) == pytest.approx(list(first["uncertainty"])[::-1], abs=1e-12)


def test_rows_that_were_not_reached_survive_an_interruption(bundle, wave, tmp_path, monkeypatch):
    import genre_study.predict.folder as predict

    for name, sound in (("b.wav", wave), ("c.wav", wave[::-1])):
        soundfile.write(tmp_path / name, sound, SAMPLE_RATE)
    out = tmp_path / "table.csv"
    predict_folder(tmp_path, out, bundle, progress=False)
    soundfile.write(tmp_path / "a.wav", np.roll(wave, 9), SAMPLE_RATE)

    def interrupted(path, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict_song", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(tmp_path, out, bundle, progress=False)
    assert list(pd.read_csv(out)["path"]) == ["b.wav", "c.wav"]


def test_fault_of_the_network_ends_a_folder_and_is_no_problem_of_a_file(bundle, wave, tmp_path):
    """An error of the backend, whatever its kind, is never taken for bad audio."""
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE)

    class Fails:
        input_shape, output_shape = bundle.network.input_shape, bundle.network.output_shape

        def get_weights(self):
            return []

        def predict_on_batch(self, chunks):
            raise ValueError("INVALID_ARGUMENT: Invalid buffer passed to Execute()")

    broken = replace(bundle, network=Fails())
    for predict in (lambda: predict_song(tmp_path / "a.wav", broken),
                    lambda: predict_folder(tmp_path, tmp_path / "table.csv", broken, progress=False)):
        with pytest.raises(RuntimeError, match="the network could not be computed: ValueError: INVALID_ARGUMENT"):
            predict()


def test_table_without_hashes_is_predicted_anew(bundle, wave, tmp_path):
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE)
    for out in (tmp_path / "table.csv", tmp_path / "table.parquet"):
        new = predict_folder(tmp_path, out, bundle, progress=False)
        old = new.drop(columns=["content", "network"]).assign(top="old")
        old.to_csv(out, index=False) if out.suffix == ".csv" else old.to_parquet(out, index=False)
        assert predict_folder(tmp_path, out, bundle, progress=False).equals(new)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_with_a_name_that_is_not_utf8(bundle, wave, tmp_path, suffix):
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs/a.wav", wave, SAMPLE_RATE)
    try:
        os.rename(tmp_path / "songs/a.wav", os.fsencode(tmp_path / "songs") + b"/caf\xe9.wav")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    for _ in range(2):
        table = predict_folder(tmp_path / "songs", tmp_path / f"table{suffix}", bundle, progress=False)
        assert (table["path"].tolist(), table["problem"].tolist()) == (["caf\\xe9.wav"], [""])


def test_length_unknown_to_the_header(bundle, wave, tmp_path):
    """A FLAC file that was written into a pipe."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    soundfile.write(tmp_path / "song.wav", wave, SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "song.wav"), "-f", "flac", "pipe:1"]
    (tmp_path / "song.flac").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert soundfile.info(tmp_path / "song.flac").frames > 2**62
    streamed, plain = predict_song(tmp_path / "song.flac", bundle), predict_song(tmp_path / "song.wav", bundle)
    assert streamed.duration_s == plain.duration_s and streamed.vector == pytest.approx(plain.vector, abs=1e-6)
    with pytest.raises(AudioError, match="longer than 2 s"):
        predict_song(tmp_path / "song.flac", bundle, max_duration_s=2)


def surf(cutoff_hz, period_s, seconds=20):
    """Low-passed noise that swells slowly."""
    from scipy.signal import butter, lfilter

    random, time_s = np.random.default_rng(cutoff_hz), np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    noise = lfilter(*butter(1, cutoff_hz, fs=SAMPLE_RATE), random.normal(size=len(time_s)))
    return (0.3 * noise * (1.1 + np.sin(2 * np.pi * time_s / period_s))).astype(np.float32)


@pytest.mark.parametrize("cutoff_hz", [400, 800, 2000, 5000])
@pytest.mark.parametrize("period_s", [2, 7, 12])
def test_surf_is_not_music(bundle, cutoff_hz, period_s):
    """Even if the reference lets every spectrum pass."""
    song = predict_song(surf(cutoff_hz, period_s), replace(bundle, reference=ANYTHING), SAMPLE_RATE)
    assert "like noise" in " ".join(song.reasons) and song.uncertainty > 0.95
    assert predict_song(surf(cutoff_hz, period_s), bundle, SAMPLE_RATE).reasons == []  # without a reference


def test_music_is_not_taken_for_noise(bundle, corpus):
    for path in corpus.path:
        assert predict_song(path, replace(bundle, reference=ANYTHING)).reasons == []


def test_network_trained_on_noise_does_not_call_it_noise():
    """The limit comes from the training tracks if these have fewer notes."""
    class Waves:
        unit, spec, frames_per_second = "db", MelSpec(), 22050 / 512

        def frames(self, track_id):
            from genre_study.mel import log_mel

            return log_mel(surf(400 + 100 * track_id, 5, seconds=4)).T

    assert fit_reference(Waves(), list(range(20)))["min_tonality"] < 0.2


# ---------------------------------------------------------------- threads

@pytest.mark.parametrize("kind", ["songs", "songs and exports", "a folder each"])
def test_threads(bundle, wave, tmp_path, kind):
    """Eight threads use one network at once, and each gets what it gets alone."""
    from concurrent.futures import ThreadPoolExecutor

    songs = [np.roll(wave, 1000 * shift)[:SAMPLE_RATE * 3] for shift in range(16)]
    alone = [list(predict_song(song, bundle, SAMPLE_RATE).vector.values()) for song in songs]
    name = bundle.network_hash()

    def ask(number):
        if kind == "a folder each":
            folder = tmp_path / str(number)
            folder.mkdir()
            soundfile.write(folder / "a.wav", songs[number], SAMPLE_RATE, subtype="FLOAT")
            return predict_folder(folder, folder / "table.csv", bundle, progress=False)[list(GENRES)].to_numpy()[0]
        if kind == "songs and exports" and number % 4 == 0:
            waveform_model(bundle)
            assert bundle.network_hash() == name
        return list(predict_song(songs[number], bundle, SAMPLE_RATE).vector.values())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, list(range(16)) * (1 if kind == "a folder each" else 4)))
    np.testing.assert_allclose(found, alone * (len(found) // 16), atol=1e-4)


def test_threads_open_the_shipped_network_once(wave):
    from concurrent.futures import ThreadPoolExecutor

    from genre_study.predict.bundle import _shipped, open_bundle

    _shipped.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert len({id(bundle) for bundle in pool.map(lambda _: open_bundle(), range(8))}) == 1


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from genre_study.predict.bundle import load_bundle
from genre_study.predict.song import predict_song
bundle, songs = load_bundle("bundle"), np.load("songs.npy")
def ask(song):
    return list(predict_song(song, bundle, 22050).vector.values())
alone = [ask(song) for song in songs]
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(ask, list(songs) * 4))
assert np.abs(np.array(found) - alone * 4).max() < 1e-5
"""


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])  # JAX: the test above
def test_threads_on_every_backend(bundle, wave, tmp_path, root, backend):
    """TensorFlow may stand in an environment of its own (`make speed` makes one), beside the packages of this one."""
    python, path = sys.executable, [str(root)]
    if importlib.util.find_spec(backend) is None:
        python = root / ".venv-tensorflow" / "bin" / "python"
        if backend != "tensorflow" or not python.is_file():
            pytest.skip(f"{backend} is not installed")
        path += [folder for folder in sys.path if folder.endswith("site-packages")]
    save_bundle(tmp_path / "bundle", bundle)
    np.save(tmp_path / "songs.npy", [np.roll(wave, 1000 * shift)[:SAMPLE_RATE * 3] for shift in range(12)])
    code = f"import sys; sys.path += {path}" + THREADS
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=500,
                          env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- sources that are not what they seem

class Stream:
    """A file object that gives a beginning, and then zeros for ever."""

    def __init__(self, begin):
        self.begin, self.n_bytes = begin, 0

    def read(self, size):
        piece, self.begin = self.begin[:size] or bytes(size), self.begin[size:]
        self.n_bytes += len(piece)
        return piece


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux lists them")
@pytest.mark.parametrize("most_s", [None, 1.0])
def test_no_file_stays_open(wave, tmp_path, most_s):
    """Though the object lives on, the file that it read can be moved and deleted, also if only a part was wanted."""
    (tmp_path / "song.wav").write_bytes(song_bytes(wave, "wav"))
    recording = Recording(tmp_path / "song.wav", first_s=most_s)
    assert sum(len(block) for block in recording) == recording.n_samples > 0
    assert str(tmp_path / "song.wav") not in [os.path.realpath(f"/proc/self/fd/{number}") for number in
                                              os.listdir("/proc/self/fd")]


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "au"])
def test_stream_without_an_end_is_bounded(bundle, wave, suffix):
    """Whatever the header says of the length, the disk does not fill up."""
    stream = Stream(song_bytes(wave, suffix))
    with pytest.raises(AudioError, match="longer than 30 s"):
        predict_song(stream, bundle, max_duration_s=30)
    assert stream.n_bytes < 200_000_000


def test_wav_without_a_length_is_bounded(bundle, wave):
    """As a program writes it into a pipe: the size in the header is 4 GB."""
    data = bytearray(song_bytes(wave, "wav"))
    data[4:8] = data[40:44] = b"\xff" * 4
    stream = Stream(bytes(data))
    with pytest.raises(AudioError, match="longer than 30 s"):
        predict_song(stream, bundle, max_duration_s=30)
    assert stream.n_bytes < 200_000_000


def test_stream_in_no_known_format_is_bounded(bundle):
    stream = Stream(b"no format at all")
    with pytest.raises(AudioError, match="longer than 30 s"):
        predict_song(stream, bundle, max_duration_s=30)
    assert stream.n_bytes < 200_000_000


@pytest.mark.parametrize("error", [ConnectionError("the server hung up"), ValueError("closed"), KeyError("chunk"),
                                   TimeoutError()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("after", [0, 2])
def test_exception_of_a_file_object_passes_through(bundle, wave, error, after):
    """It is the caller's own, and is not called bad audio."""
    class Fails(Stream):
        def read(self, size):
            if self.n_bytes >= after:
                raise error
            return super().read(1)

    with pytest.raises(type(error)) as caught:
        predict_song(Fails(song_bytes(wave, "wav")), bundle)
    assert caught.value is error


def test_large_file_without_sound_does_not_keep_ffmpeg_busy(bundle, tmp_path, monkeypatch):
    """A Matroska header, and 4 GB that take no room on the disk."""
    from genre_study.core import audio

    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    (tmp_path / "sparse.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    os.truncate(tmp_path / "sparse.mkv", 2**32)
    monkeypatch.setattr(audio, "_FFMPEG_PATIENCE_S", 2.0)
    begun = time.monotonic()
    with pytest.raises(AudioError, match="not by ffmpeg either"):
        predict_song(tmp_path / "sparse.mkv", bundle)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "uint32", "list", "float64"])
def test_whole_numbers_are_right_or_refused(bundle, wave, kind, scale):
    """A scale that can't be told is refused: it would turn music into silence."""
    samples = np.round(wave / np.abs(wave).max() * 0.9 * (scale - 1))
    expected = predict_song((wave / np.abs(wave).max() * 0.9).astype(np.float32), bundle, SAMPLE_RATE)
    if kind == "list":
        samples = [int(sample) for sample in samples]
    elif np.dtype(kind).kind == "f" or np.abs(samples).max() < 2.0 ** (8 * np.dtype(kind).itemsize - 1):
        samples = samples.astype(np.int64).astype(kind)
    else:
        return
    if kind == "int16" or (kind == "int32" and scale == 2**31):
        close(predict_song(samples, bundle, SAMPLE_RATE), expected, 1e-3)
    else:
        with pytest.raises(ValueError, match=r"full scale|divide"):
            predict_song(samples, bundle, SAMPLE_RATE)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("seconds", [1.0, 3.0, 3.2, 7.77, 12.0])
def test_song_has_the_chunks_of_its_length(wave, tmp_path, overlap, seconds):
    """Read in blocks, resampled or from an array, it is cut as a table of its length says."""
    from genre_study.chunk import ChunkSpec, chunk_table
    from genre_study.model import build_network

    spec = ChunkSpec(1.0, overlap)
    some = Bundle(build_network("quick_cnn", (128, 44, 1), 3, seed=1, filters=4), GENRES, chunk=spec)
    sound = np.tile(wave, 4)[:int(seconds * SAMPLE_RATE)]
    direct = chunk_table(pd.DataFrame(dict(track_id=["a"], duration_s=[len(sound) / SAMPLE_RATE])), spec)
    soundfile.write(tmp_path / "a.wav", sound, SAMPLE_RATE)
    soundfile.write(tmp_path / "b.flac", np.repeat(sound, 2), 2 * SAMPLE_RATE)
    for source in (tmp_path / "a.wav", tmp_path / "b.flac", (sound, SAMPLE_RATE),
                   (np.repeat(sound, 2), 2 * SAMPLE_RATE)):
        starts = predict_song(source, some).timeline["start_s"]
        np.testing.assert_allclose(starts, direct["start_s"])


# ---------------------------------------------------------------- paths and bundles

def test_home_is_expanded_wherever_a_path_comes_in(bundle, wave, tmp_path, monkeypatch):
    from genre_study.predict.export import export_waveform_model
    from genre_study.predict.safe_loading import load_network

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "a.wav", wave, SAMPLE_RATE)
    save_bundle("~/bundle", bundle)
    expected = predict_song("songs/a.wav", "bundle").vector
    assert predict_song("~/songs/a.wav", "~/bundle").vector == expected
    assert list(predict_folder("~/songs", "~/table.csv", "~/bundle", progress=False)["path"]) == ["a.wav"]
    assert load_network("~/bundle/network.keras").input_shape == bundle.network.input_shape
    export_waveform_model("~/bundle", "~/song.keras", progress=False)
    visible = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert visible == ["bundle", "song.keras", "songs", "table.csv"]


@pytest.mark.parametrize("value", [2**40, 2**70, 1.5, "2048", None, True, -1])
def test_bundle_with_an_impossible_spectrogram_is_refused(bundle, tmp_path, value):
    save_bundle(tmp_path, bundle)
    facts = json.loads((tmp_path / "bundle.json").read_text())
    for name in ("n_fft", "hop_length", "n_mels", "sample_rate"):
        (tmp_path / "bundle.json").write_text(json.dumps(facts | dict(mel=facts["mel"] | {name: value})))
        with pytest.raises(ValueError, match=name):
            load_bundle(tmp_path)


def test_backend_that_does_not_work_is_not_the_fault_of_the_file(tmp_path):
    code = "from genre_study.predict.bundle import load_pretrained; load_pretrained()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cuda"})
    last = done.stderr.strip().splitlines()[-1]
    assert "RuntimeError: Keras can't compute on jax" in done.stderr, done.stderr[-1500:]
    assert "network.keras" not in last, done.stderr[-1500:]
    assert "JAX_PLATFORMS" in last


def test_file_that_was_cut_off_is_predicted_and_says_so(bundle, wave, tmp_path):
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:len(data) * 4 // 5])
    for source in (tmp_path / "cut.wav", data[:len(data) * 4 // 5]):
        song = predict_song(source, bundle)
        assert song.duration_s == pytest.approx(3.2, abs=0.01) and song.reasons[0].startswith("is cut off: 4.0")
    assert predict_song(tmp_path / "a.wav", bundle).reasons == []


def test_a_bundle_is_what_its_run_was(tmp_path):
    """Temperature of the validation side, reference of the training side, scaling, rate and chunks of the run."""
    from genre_study.evaluate import song_vectors
    from genre_study.model import build_network
    from genre_study.score.calibrate import fit_temperature

    rng, names = np.random.default_rng(0), [f"t{k:02d}" for k in range(60)]
    rows = pd.DataFrame({"track_id": names[30:], "start_s": 0.0, "genre": ["a", "b"] * 15,
                         "split": ["valid"] * 16 + ["test"] * 14})
    sure = np.where(rows.split == "valid", 0.95, 0.55)  # too sure on valid, not sure enough on test
    right = np.where(rows.split == "valid", np.arange(30) % 4 > 0, True)
    rows["a"] = np.where((rows.genre == "a") == right, sure, 1 - sure)
    rows["b"] = 1 - rows.a
    rows.to_parquet(tmp_path / "chunks.parquet")
    build_network("quick_cnn", (16, 41, 1), 2, seed=1, filters=4).save(tmp_path / "model.keras")
    (tmp_path / "metrics.json").write_text(json.dumps({
        "parameters": {"chunk_seconds": 2.0, "overlap": 0.25, "scaling": "track"}, "training": {"scaling": "band"},
        "spectrograms": {"unit": "db", "frames_per_second": 20.0, "mel": MelSpec(n_mels=16).to_dict()},
        "genres": ["a", "b"], "n_tracks": {"train": 30}, "corpus": "c"}))
    frames = {name: rng.normal(-40, 10, (50, 16)).astype("float16") for name in names}

    class Made:
        unit, spec, frames_per_second, tracks = "db", MelSpec(n_mels=16), 20.0, pd.DataFrame({"track_id": names})

        def frames(self, track_id):
            return frames[track_id]

    found = bundle_of_run(tmp_path, Made())
    valid = rows[rows.split == "valid"]
    expected = fit_temperature(song_vectors(valid[["track_id", "a", "b"]]), valid[["track_id", "genre"]], ["a", "b"])
    assert found.temperature == pytest.approx(expected) and expected > 1
    assert found.reference == fit_reference(Made(), names[:30])
    assert (found.scaling, found.chunk.overlap, found.mel.hop_length) == ("band", 0.25, 1102)


@pytest.mark.parametrize(("top", "trust", "named"),
                         [(0.9, 1.0, True), (0.9, 0.6, True), (0.9, 0.4, False), (0.4, 1.0, False)])
def test_a_genre_is_named_only_if_it_is_trusted_and_clear(top, trust, named):
    song = Prediction(vector={"jazz": top, "pop": (1 - top) / 2, "rock": (1 - top) / 2}, timeline=pd.DataFrame(),
                      uncertainty=0.5, reasons=[], novelty=0.5, name="x", duration_s=3.0, trained_on="", trust=trust)
    assert song.genre == ("jazz" if named else None)
    assert song.top[0] == ("jazz", top) and song.top[1][1] == pytest.approx((1 - top) / 2)


def test_a_network_is_known_by_its_weights_and_settings(bundle):
    """Rows of a table are taken over if its hash is the same: one weight or one setting makes another one."""
    import keras

    def with_weights(change):
        network = keras.models.clone_model(bundle.network)
        network.set_weights([weight + change for weight in bundle.network.get_weights()])
        return replace(bundle, network=network)

    same, other = with_weights(0.0), with_weights(0.01)
    assert same.network_hash() == bundle.network_hash()
    hashes = [each.network_hash() for each in (bundle, other, replace(bundle, temperature=0.8), replace(
        bundle, scaling="band"), replace(bundle, genres=("blues", "jazz", "pop")))]
    assert len(set(hashes)) == 5
    layers = keras.models.clone_model(bundle.network, clone_function=lambda layer: layer.__class__.from_config(
        layer.get_config() | ({"activation": "elu"} if "Conv" in type(layer).__name__ else {})))
    layers.set_weights(bundle.network.get_weights())  # the same numbers in other layers
    assert replace(bundle, network=layers).network_hash() != bundle.network_hash()


def test_a_bundle_is_one_network_and_its_description(bundle, tmp_path):
    """A network that was copied into the folder of another bundle is refused; one without a hash is an older bundle."""
    import keras

    other = keras.models.clone_model(bundle.network)
    for folder, each in ((tmp_path / "one", bundle), (tmp_path / "other", replace(bundle, network=other))):
        save_bundle(folder, each)
        assert load_bundle(folder).network_hash() == each.network_hash()
    shutil.copy(tmp_path / "other" / "network.keras", tmp_path / "one")
    with pytest.raises(ValueError, match=r"is not the network that bundle\.json was written for"):
        load_bundle(tmp_path / "one")
    settings = json.loads((tmp_path / "one" / "bundle.json").read_text())
    del settings["network_sha256"]
    (tmp_path / "one" / "bundle.json").write_text(json.dumps(settings))
    assert load_bundle(tmp_path / "one").network_hash() == replace(bundle, network=other).network_hash()


def test_a_bundle_has_the_genres_of_its_network_in_their_order(bundle):
    import keras

    network = keras.models.clone_model(bundle.network)
    network.genres = GENRES
    assert Bundle(network, list(GENRES)).genres == GENRES
    for genres in (GENRES[::-1], ("blues", "jazz", "pop")):
        with pytest.raises(ValueError, match=r"trained on \['blues', 'jazz', 'rock'\], in this order"):
            Bundle(network, genres)


@pytest.mark.parametrize("rate", [8000, 44100.0])
def test_a_rate_is_given_once(bundle, wave, tmp_path, rate):
    """Beside an array or as an argument; a file has its own."""
    alone = predict_song((wave, SAMPLE_RATE), bundle)
    close(predict_song((wave, SAMPLE_RATE), bundle, sample_rate=SAMPLE_RATE), alone, 0)
    close(predict_song(wave, bundle, sample_rate=SAMPLE_RATE), alone, 0)
    with pytest.raises(ValueError, match=f"sample_rate is {rate}, and 22050 beside the array"):
        predict_song((wave, SAMPLE_RATE), bundle, sample_rate=rate)
    soundfile.write(tmp_path / "song.wav", wave, SAMPLE_RATE, subtype="DOUBLE")
    close(predict_song(tmp_path / "song.wav", bundle, sample_rate=rate), alone, 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_as_they_are_read(value):
    samples = np.zeros(30_000, np.float32)
    samples[20_000] = value
    with pytest.raises(AudioError, match="NaN, infinite"):
        list(Recording((samples, 22050)))


@pytest.mark.parametrize("temperature, trust", [(1.0, 1.0), (2.5, 0.7)])
def test_the_stretches_of_a_song_are_those_in_which_one_genre_leads(temperature, trust):
    """Each from its first chunk to the next stretch, the last to the end; its probability as the vector's is made."""
    leads = pd.DataFrame({"start_s": np.arange(6) * 1.5, "jazz": [0.7, 0.9, 0.2, 0.3, 0.8, 0.6]})
    timeline = leads.assign(pop=1 - leads.jazz)
    song = Prediction(vector={"jazz": 0.6, "pop": 0.4}, timeline=timeline, uncertainty=0.0, reasons=[], novelty=1.0,
                      name="x", duration_s=9.8, trained_on="", trust=trust, temperature=temperature, chunk_s=3.0)
    heard = song.heard
    assert heard.genre.tolist() == ["jazz", "pop", "jazz"]
    assert heard.start_s.tolist() == [0.0, 3.0, 6.0] and heard.end_s.tolist() == [3.0, 6.0, 9.8]
    for mean, found in zip((0.8, 0.75, 0.7), heard.probability, strict=True):
        sharp = mean ** (1 / temperature) / (mean ** (1 / temperature) + (1 - mean) ** (1 / temperature))
        assert found == pytest.approx(trust * sharp + (1 - trust) / 2)
    assert replace(song, duration_s=20.0).heard.end_s.iloc[-1] == 10.5  # where its last chunk ends


@pytest.mark.parametrize("probability, trust, named", [(0.5, 0.5, True), (0.49, 1.0, False), (0.9, 0.49, False),
                                                       (0.51, 0.51, True)])
def test_a_genre_is_named_from_one_half_on(probability, trust, named):
    song = Prediction(vector={"jazz": probability, "pop": 0.2, "rock": 0.8 - probability}, timeline=None,
                      uncertainty=0.0, reasons=[], novelty=1.0, name="x", duration_s=9.0, trained_on="", trust=trust)
    top = song.top[0][0]
    assert song.genre == (top if named else None)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize("extra, remark", [(-1, False), (0, False), (1, True), (5000, True)])
def test_a_recording_is_cut_where_it_was_asked_to_be(rate, extra, remark):
    """At `first_s` seconds of the network's rate; one sample less or none more is the whole recording."""
    wave = np.random.default_rng(0).normal(0, 0.1, 2 * rate + extra).astype("float32")
    recording = Recording(wave, rate, rate, 100.0, 2.0)
    n_read = sum(map(len, recording))
    assert n_read == recording.n_samples == min(2 * rate + extra, 2 * rate)
    assert any("only the first" in one for one in recording.remarks) == remark


@pytest.mark.parametrize("n_channels", [2, 4])
@pytest.mark.parametrize("share, cancels", [(1.0, False), (0.013, False), (0.008, True), (0.0, True)])
def test_channels_cancel_if_their_sum_has_under_a_hundredth_of_their_power(n_channels, share, cancels):
    rng, n = np.random.default_rng(1), 40000
    channels = np.repeat(rng.normal(0, 0.1, (n, 1)), n_channels, axis=1) * ([1, -1] * (n_channels // 2))
    together = rng.normal(0, 0.1, (n, 1))
    together *= np.sqrt(share * n_channels / (n_channels**2 - share * n_channels))  # so that the sum has that share
    channels = channels + together if share < 1 else rng.normal(0, 0.1, (n, n_channels))
    found = (channels.sum(axis=1) ** 2).sum() / (channels**2).sum()
    assert share in (0.0, 1.0) or abs(found - share) < 0.001
    recording = Recording(channels.astype("float32"), 22050, 22050, 100.0, None)
    list(recording)
    assert recording.channels_cancel == cancels


def test_the_temperature_of_a_bundle_is_that_of_songs():
    """Not of chunks: a song vector is a mean, and less sure of itself."""
    from genre_study.evaluate import song_vectors
    from genre_study.predict.bundle import _valid_temperature
    from genre_study.score.calibrate import fit_temperature

    rng = np.random.default_rng(0)
    chunks = pd.DataFrame({"track_id": np.repeat([f"t{k:03d}" for k in range(200)], 10), "split": "valid",
                           "genre": np.repeat(["jazz", "pop"] * 100, 10), "start_s": np.tile(np.arange(10) * 1.5, 200)})
    share = np.clip(np.where(chunks.genre == "jazz", 0.7, 0.3) + rng.normal(0, 0.35, 2000), 0.02, 0.98)
    chunks = chunks.assign(jazz=share, pop=1 - share)
    other = chunks.assign(split="test", jazz=1 - share, pop=share, track_id="x" + chunks.track_id)
    truth = chunks[["track_id", "genre"]].drop_duplicates()
    of_songs = fit_temperature(song_vectors(chunks, ["jazz", "pop"]), truth, ["jazz", "pop"])
    of_chunks = fit_temperature(chunks[["track_id", "start_s", "jazz", "pop"]], truth, ["jazz", "pop"])
    assert _valid_temperature(pd.concat([chunks, other]), ["jazz", "pop"]) == pytest.approx(of_songs, rel=1e-3)
    assert abs(of_songs - of_chunks) > 0.1
