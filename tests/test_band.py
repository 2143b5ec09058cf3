"""Recordings that lack a part of the spectrum: found whatever cut them, named in Hz, and never seen in whole music."""
import io
import json
import shutil
import subprocess
from dataclasses import replace
from itertools import product

import librosa
import numpy as np
import pytest
import soundfile
import soxr

from genre_study.command import main
from genre_study.mel import MelSpec, band_centres, log_mel
from genre_study.predict.bundle import Bundle, save_bundle
from genre_study.predict.novelty import NARROW_TRUST, SongSummary, band_limits
from genre_study.predict.song import predict_song
from genre_study.synth.minicorpus import render_minicorpus

RATE, SPEC = 22050, MelSpec(hop_length=1709)
WHOLE = band_limits(SPEC)


@pytest.fixture(scope="module")
def bundle():
    from genre_study.model import build_network

    network = build_network("quick_cnn", (128, 39, 1), 3, seed=1, filters=4)
    return Bundle(network, ("blues", "jazz", "rock"), SPEC, floor_db=80.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return render_minicorpus(tmp_path_factory.mktemp("corpus") / "corpus", 2, seconds=6.0)


@pytest.fixture(scope="module")
def music(corpus):
    """One track, with the hiss of a real recording, so that every band holds something."""
    wave = soundfile.read(corpus.path.iloc[0])[0]
    return 0.5 * wave / np.abs(wave).max() + np.random.default_rng(0).normal(0, 0.003, len(wave))


def band_of_wave(wave):
    frames = log_mel(wave.astype(np.float32), SPEC).T
    summary = SongSummary(SPEC)
    summary.add(np.maximum(frames, frames.max() - 80))
    return summary.band_hz


def ffmpeg(*options, wave, rate):
    """A wave through ffmpeg and back; the options end with the container."""
    data = io.BytesIO()
    soundfile.write(data, wave, rate, format="WAV", subtype="PCM_16")
    coded = subprocess.run(["ffmpeg", "-v", "error", "-i", "-", *options, "-"], input=data.getvalue(), check=True,
                           capture_output=True).stdout
    back = subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-f", "f32le", "-ac", "1", "-ar", str(RATE), "-"],
                          input=coded, check=True, capture_output=True).stdout
    return np.frombuffer(back, np.float32).astype(float)


def brickwall(wave, hz):
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > hz] = 0
    return np.fft.irfft(spectrum, len(wave))


def by_soxr(wave, hz):
    return soxr.resample(soxr.resample(wave, RATE, 2 * hz), 2 * hz, RATE)


def by_scipy(wave, hz):
    from scipy.signal import resample_poly

    return resample_poly(resample_poly(wave, 2 * hz, RATE), RATE, 2 * hz)


def by_ffmpeg(wave, hz):
    return ffmpeg("-ar", str(2 * hz), "-f", "wav", wave=wave, rate=RATE)


def by_way_of_44100(wave, hz):
    return soxr.resample(soxr.resample(by_soxr(wave, hz), RATE, 44_100), 44_100, RATE)


def as_mp3(wave, hz):
    return ffmpeg("-b:a", "64k", "-cutoff", str(hz), "-f", "mp3", wave=wave, rate=RATE)


def as_mulaw(wave, hz):
    return ffmpeg("-ar", str(2 * hz), "-c:a", "pcm_mulaw", "-f", "wav", wave=wave, rate=RATE)


def in_8_bits(wave, hz):
    low_rate = soxr.resample(wave, RATE, 2 * hz)
    scale = 127 / np.abs(low_rate).max()
    return soxr.resample(np.round(low_rate * scale) / scale, 2 * hz, RATE)


WAYS = (brickwall, by_soxr, by_scipy, by_ffmpeg, by_way_of_44100, as_mp3, as_mulaw, in_8_bits)
NEEDS_FFMPEG = (by_ffmpeg, as_mp3, as_mulaw)
LEAKING = (by_scipy, by_ffmpeg, as_mulaw, as_mp3)  # short filters, which let mirror images pass above the cut


@pytest.mark.parametrize("hz", [3500, 4000, 5512, 6000, 7000, 8000])
@pytest.mark.parametrize("way", WAYS)
def test_cut_is_found_whatever_made_it(music, way, hz):
    if way in NEEDS_FFMPEG and not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    for gain in (1.0, 0.03):
        low, high = band_of_wave(way(gain * music, hz))
        assert low == WHOLE[0] and 0.92 < high / hz < (1.18 if way in LEAKING else 1.08), (gain, low, high)


@pytest.mark.parametrize("hz", [250, 400, 700])
def test_cut_below_is_found(music, hz):
    low, high = band_of_wave(music - brickwall(music, hz))
    assert abs(low / hz - 1) < 0.2 and high == WHOLE[1]
    low, high = band_of_wave(brickwall(music, 4000) - brickwall(music, hz))
    assert abs(low / hz - 1) < 0.2 and abs(high / 4000 - 1) < 0.08


def test_whole_music_is_not_called_cut(corpus, music):
    """Quiet treble, a dull tone control, 8 bits, clipping, little level and a click leave it whole."""
    from scipy.signal import butter, lfilter

    changes = (lambda x: x, lambda x: 0.01 * x, lambda x: np.round(x * 127) / 127, lambda x: np.clip(20 * x, -1, 1),
               *(lambda x, n=n, hz=hz: lfilter(*butter(n, hz, fs=RATE), x) for n, hz in product((1, 2), (1000, 4000))))
    for wave in (*(soundfile.read(path)[0] for path in corpus.path), music):
        for number, change in enumerate(changes):
            assert band_of_wave(change(wave)) == WHOLE, number


def test_a_step_above_which_much_is_left_is_not_a_cut():
    """Treble 26 dB down from one frequency on is still there."""
    noise = np.random.default_rng(1).normal(0, 0.1, 6 * RATE)
    assert band_of_wave(brickwall(noise, 4000) + 0.05 * noise) == WHOLE
    assert band_of_wave(brickwall(noise, 4000) + 1e-4 * noise)[1] < 4400


def test_one_click_does_not_hide_a_cut(music):
    click = np.zeros(len(music))
    click[len(music) // 2] = 0.9
    assert abs(band_of_wave(brickwall(music, 5000) + click)[1] / 5000 - 1) < 0.08


@pytest.mark.parametrize("spec", [MelSpec(), MelSpec(n_mels=64), MelSpec(mel_scale="htk", hop_length=1024),
                                  MelSpec(n_mels=256, n_fft=4096), MelSpec(sample_rate=44_100),
                                  MelSpec(sample_rate=32_000, fmin_hz=50.0, fmax_hz=14_000.0)])
def test_cut_is_found_with_other_frames(music, spec):
    wave = soxr.resample(music, RATE, spec.sample_rate)
    peaks_hz = librosa.filters.mel(**spec.to_librosa()).argmax(axis=1) * spec.sample_rate / spec.n_fft
    assert np.abs(band_centres(spec) - peaks_hz).max() <= spec.sample_rate / spec.n_fft
    for hz in (2500, 6000):
        summary = SongSummary(spec)
        summary.add(log_mel(soxr.resample(by_soxr(music, hz), RATE, spec.sample_rate).astype(np.float32), spec).T)
        assert abs(summary.band_hz[1] / hz - 1) < 0.1
    whole = SongSummary(spec)
    whole.add(log_mel(wave.astype(np.float32), spec).T)
    if spec.sample_rate == RATE:
        assert whole.band_hz == band_limits(spec)


def test_said_in_every_output(bundle, music, tmp_path, capsys):
    soundfile.write(tmp_path / "call.wav", by_soxr(music, 4000), RATE)
    soundfile.write(tmp_path / "song.wav", music, RATE)
    save_bundle(tmp_path / "bundle", bundle)
    said = "holds nothing above 4.0 kHz"
    song, whole = predict_song(tmp_path / "call.wav", bundle), predict_song(tmp_path / "song.wav", bundle)
    assert song.reasons == [said] and song.trust == 1 and abs(song.band_hz[1] / 4000 - 1) < 0.05
    assert whole.reasons == [] and whole.band_hz == WHOLE
    command = ["predict", str(tmp_path / "call.wav"), "--model", str(tmp_path / "bundle")]
    assert main(command) == 0 and f"[{said}]" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["band_hz"] == list(song.band_hz) and facts["reasons"] == [said]
    table_of = ["predict", str(tmp_path), "--out", str(tmp_path / "tags.csv"), "--model", str(tmp_path / "bundle")]
    assert main(table_of) == 0 and said in (tmp_path / "tags.csv").read_text()


def test_doubted_where_the_training_music_held_more(bundle, music):
    """By a reference that finds nothing else strange."""
    known = dict(songs=[[0.0] * 48], spread=[1.0] * 48, limit=1e6, min_tonality=-1e6)
    for band, hz, trust in (([0.0, 11025.0], 8000, NARROW_TRUST), ([0.0, 3400.0], 8000, 1.0),
                            ([0.0, 3400.0], 3400, 1.0), ([0.0, 3400.0], 2500, NARROW_TRUST)):
        song = predict_song(brickwall(music, hz), replace(bundle, reference=known | dict(band_hz=band)), RATE)
        assert song.trust == trust and ("less than it was trained for" in song.reasons[0]) == (trust < 1)
    deep = predict_song(music - brickwall(music, 500), replace(bundle, reference=known | dict(band_hz=WHOLE)), RATE)
    assert deep.trust == NARROW_TRUST
    assert predict_song(brickwall(music, 4000), replace(bundle, reference=known), RATE).trust == 1  # not known


def test_empty_bands_are_not_strange_to_a_network_that_knows_them(corpus, tmp_path):
    """Novelty is that of the bands which hold something; noise with the same cut stays strange."""
    from genre_study.chunk import ChunkSpec
    from genre_study.predict.novelty import fit_reference
    from genre_study.store import build_store

    store = build_store(corpus, tmp_path / "store", workers=1, progress=False)
    whole = fit_reference(store, list(corpus.track_id))
    assert whole["band_hz"] == list(band_limits(store.spec))

    def judged(frames, **changes):
        summary = SongSummary(store.spec)
        summary.add(frames)
        return summary.judge(whole | changes, ChunkSpec(3.0), 6.0)

    rng = np.random.default_rng(0)
    noise = np.where(np.arange(128) < 100, rng.normal(-20, 5, (260, 128)), -80)
    seen = 0
    for track_id in corpus.track_id:
        frames = np.asarray(store.frames(track_id), float)
        frames = np.maximum(frames, frames.max() - 60)
        cut = np.where(np.arange(128) < 100, frames, frames.max() - 80)
        known, unknown = judged(cut, band_hz=[0.0, 3400.0]), judged(cut)
        if any("holds nothing" in reason for reason in known.reasons):  # some synthetic tracks hold little up there
            assert known.novelty < unknown.novelty / 2
            assert unknown.trust <= NARROW_TRUST
            seen += 1
    assert seen >= 10
    strange = judged(noise, band_hz=[0.0, 3400.0])
    assert strange.novelty > 1 and any("holds nothing" in reason for reason in strange.reasons)
