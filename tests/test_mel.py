"""Spectrograms against librosa and against the definition; bounds on memory and time."""
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study.core.audio import load_audio
from genre_study.mel import MelSpec, band_groups, log_mel, mel_blocks, mel_spectrogram

librosa = pytest.importorskip("librosa")


def librosa_mel(waveform, spec):
    return librosa.feature.melspectrogram(
        y=waveform, sr=spec.sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, n_mels=spec.n_mels,
        fmin=spec.fmin_hz, fmax=spec.fmax_hz, htk=spec.mel_scale == "htk")


def assert_equal_to_librosa(waveform, spec):
    theirs, ours = librosa_mel(waveform, spec), mel_spectrogram(waveform, spec)
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1e-5 * theirs.max()


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None)
@given(n_samples=st.integers(1, 40000), sample_rate=st.sampled_from([8000, 16000, 22050, 44100]),
       n_fft=st.integers(2, 4096), hop_length=st.integers(50, 3000), n_mels=st.integers(1, 200),
       mel_scale=st.sampled_from(["slaney", "htk"]), fmin_hz=st.floats(0, 1000),
       fmax_hz=st.one_of(st.none(), st.floats(1500, 4000)), dtype=st.sampled_from(["float32", "float64"]),
       seed=st.integers(0, 1000))
def test_equal_to_librosa(n_samples, dtype, seed, **parameters):
    waveform = np.random.default_rng(seed).normal(0, 0.3, n_samples).astype(dtype)
    assert_equal_to_librosa(waveform, MelSpec(**parameters))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n_samples", [1, 2, 511, 512, 513, 1024, 2047, 2048, 2049, 131071, 131072, 131073, 134000])
@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
def test_equal_to_librosa_at_every_edge(n_samples, mel_scale):
    waveform = np.random.default_rng(0).normal(0, 0.3, n_samples).astype(np.float32)
    assert_equal_to_librosa(waveform, MelSpec(mel_scale=mel_scale))


def test_equal_to_the_definition():
    """The sum written out: window, discrete Fourier transform, squares, triangles."""
    spec = MelSpec(sample_rate=8000, n_fft=64, hop_length=16, n_mels=6)
    waveform = np.random.default_rng(1).normal(size=300)
    padded = np.r_[np.zeros(32), waveform, np.zeros(32)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    transform = np.exp(-2j * np.pi * np.outer(np.arange(33), np.arange(64)) / 64)
    frames = np.stack([np.abs(transform @ (window * padded[i:i + 64])) ** 2 for i in range(0, 301, 16)], axis=1)
    expected = librosa.filters.mel(**spec.to_librosa()) @ frames
    assert np.allclose(mel_spectrogram(waveform, spec), expected, rtol=1e-5, atol=1e-6)


def test_equal_to_librosa_on_real_tracks(gtzan):
    files = sorted((gtzan / "mini" / "genres").rglob("*.flac"))[::20]
    assert files
    for file in files:
        waveform = load_audio(file)
        assert np.array_equal(waveform, soundfile.read(file, dtype="float32")[0])
        assert_equal_to_librosa(waveform, MelSpec())
        quiet = 10 * np.log10(np.maximum(librosa_mel(waveform.astype(np.float64), MelSpec()), 1e-10))
        assert np.abs(log_mel(waveform) - quiet).max() < 0.05  # dB, down to -100


def test_silence_and_extremes():
    assert (log_mel(np.zeros(5000)) == -100).all()
    assert (log_mel(np.full(5000, 1e-30)) == -100).all()
    assert np.isfinite(log_mel(np.full(5000, 1e15))).all()
    with pytest.raises(ValueError, match="too large"):
        mel_spectrogram(np.full(5000, 1e25))
    with pytest.raises(ValueError, match="infinite"):
        mel_spectrogram(np.r_[np.zeros(9000), np.inf, np.zeros(9000)])
    with pytest.raises(ValueError, match="empty"):
        mel_spectrogram(np.zeros(0))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 300_000), max_size=20), hop_length=st.sampled_from([100, 512, 5000]),
       n_fft=st.sampled_from([501, 2048]))
def test_pieces_give_the_same_bits(cuts, hop_length, n_fft):
    waveform = np.random.default_rng(0).normal(0, 0.3, 300_000).astype(np.float32)
    spec = MelSpec(n_fft=n_fft, hop_length=hop_length, n_mels=40)
    pieces = np.split(waveform, sorted(cuts))
    assert np.array_equal(np.hstack(list(mel_blocks(iter(pieces), spec))), mel_spectrogram(waveform, spec))


def test_an_hour_needs_no_more_memory_than_its_result():
    spec = MelSpec(hop_length=2048)
    hour = np.zeros(3600 * 22050, np.float32)
    tracemalloc.start()
    frames = mel_spectrogram(hour, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < frames.nbytes + 40e6


def test_the_same_bits_with_one_thread_and_with_all():
    from threadpoolctl import threadpool_limits
    waveform = np.random.default_rng(0).normal(0, 0.3, 300_000).astype(np.float32)
    with threadpool_limits(1):
        one = mel_spectrogram(waveform)
    assert np.array_equal(one, mel_spectrogram(waveform))


def test_a_process_that_gets_its_bands_from_another_loads_no_librosa(tmp_path):
    (tmp_path / "groups").write_bytes(pickle.dumps(band_groups(MelSpec())))
    code = ("import pickle, sys, numpy as np; from genre_study.mel import mel_blocks, power_to_db; "
            f"groups = pickle.load(open({str(tmp_path / 'groups')!r}, 'rb')); "
            "print([power_to_db(block).shape for block in mel_blocks([np.zeros(9999)], groups=groups)], "
            "[m for m in ('librosa', 'numba', 'keras', 'jax', 'matplotlib', 'pandas') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[(128, 20)] []\n"


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8"])
def test_whole_numbers_are_no_samples(kind):
    """Their scale can't be told; divided by nothing they would be noise a thousand times too loud."""
    with pytest.raises(TypeError, match=kind):
        mel_spectrogram(np.ones(4096, kind))


@pytest.mark.parametrize("second", [0.5, 9.0, 21.0])
def test_a_sample_that_is_too_large_is_placed_in_time(second):
    """Wherever it is: before, in and after the first group of 256 windows that is computed together."""
    waveform = np.zeros(25 * 22050, np.float32)
    waveform[int(second * 22050)] = 3e38  # finite, but its power is not
    with pytest.raises(ValueError, match="too large near") as refused:
        mel_spectrogram(waveform)
    assert float(str(refused.value).split()[-2]) == pytest.approx(second, abs=0.06)
