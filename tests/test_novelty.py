"""Novelty and trust against their definitions, written out once more."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from genre_study.chunk import ChunkSpec
from genre_study.mel import MelSpec
from genre_study.predict import novelty
from genre_study.predict.novelty import MIN_TONALITY, SongSummary, fit_reference, measure_novelty, novelty_of

SPEC = MelSpec()


def frames_of(seed, n=400, change=3.0):
    """Frames of something like music: a sloping spectrum that moves, and notes that come and go."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(-20, -45, 128) + 4 * np.sin(np.arange(128) / 9 + rng.uniform(0, 6))
    walk = np.cumsum(rng.normal(0, 1, (n, 1)), axis=0) * 0.2
    notes = np.repeat(rng.normal(0, change, (n // 8, 128)), 8, axis=0)
    return slope + walk + notes + rng.normal(0, 1, (n, 128))


@pytest.fixture(scope="module")
def store():
    """Two hundred tracks in memory."""
    kept = {f"t{seed:03d}": frames_of(seed).astype("float16") for seed in range(240)}
    return SimpleNamespace(frames=kept.__getitem__, unit="db", spec=SPEC, frames_per_second=SPEC.frames_per_second)


@pytest.fixture(scope="module")
def reference(store):
    return fit_reference(store, [f"t{seed:03d}" for seed in range(200)])


@pytest.mark.parametrize("sizes", [(400,), (1, 2, 5, 92, 300), (50,) * 8])
def test_a_summary_is_the_same_in_pieces_of_any_size(sizes):
    frames, summary = frames_of(7), SongSummary(SPEC)
    for stop, size in zip(np.cumsum(sizes), sizes):
        summary.add(frames[stop - size:stop])
    fine = frames - np.stack([np.convolve(np.pad(row, 4, mode="edge"), np.full(9, 1 / 9), "valid") for row in frames])
    lag = math.ceil(2048 / 512)  # a later window shares no sample with the first
    step = np.square(fine[lag:] - fine[:-lag]).mean(axis=0)
    expected = np.quantile(np.square(fine).mean(axis=0) - fine.mean(axis=0) ** 2 - step / 2, 0.75)
    assert summary.lag == lag and summary.tonality == pytest.approx(expected)
    groups = [list(group) for group in np.array_split(np.arange(128), 16)]
    mean = np.array([frames[:, group].mean() for group in groups])
    spread = np.array([frames[:, group].std(axis=0).mean() for group in groups])
    np.testing.assert_allclose(summary.shape[:32], np.r_[mean - mean.mean(), spread])
    step = np.square(np.diff(frames, axis=0)).mean(axis=0)
    memory = [(frames[:, group].var(axis=0).mean() - step[group].mean() / 2) / (frames[:, group].var(axis=0).mean() + 1)
              for group in groups]
    np.testing.assert_allclose(summary.shape[32:], memory)
    np.testing.assert_allclose(summary.moments()[1], np.square(frames).mean(axis=0))


def test_the_limit_is_the_distance_that_99_in_100_left_out_tracks_stay_under(store, reference):
    songs = np.array(reference["songs"])
    tenth = np.arange(200) % 10
    nearest = [cdist(songs[[k]], songs[tenth != tenth[k]]).min() for k in range(200)]
    assert reference["limit"] == pytest.approx(np.quantile(nearest, 0.99), abs=1e-3)
    others = measure_novelty(reference, store, [f"t{seed:03d}" for seed in range(200, 240)])
    assert (others["novelty"] > 1).mean() <= 0.1 and others["novelty"].median() > 0.3
    assert measure_novelty(reference, store, ["t000"])["novelty"].iloc[0] < 0.05
    tonality = measure_novelty(reference, store, [f"t{seed:03d}" for seed in range(200)])["tonality"]
    assert reference["min_tonality"] == pytest.approx(min(MIN_TONALITY, np.quantile(tonality, 0.01)), abs=1e-3)


def test_novelty_from_some_groups_of_bands_is_on_the_scale_of_all(reference):
    """The distance grows with the number of groups; what is left out is made up for."""
    songs, spread = np.array(reference["songs"]), np.array(reference["spread"])
    shapes = songs[:40] * spread + np.random.default_rng(0).normal(0, 1, (40, 48)) * spread
    every = novelty_of(shapes, reference)
    np.testing.assert_allclose(novelty_of(shapes, reference, np.arange(16)), every, rtol=0.35)
    half = novelty_of(shapes, reference, np.arange(8))
    assert np.median(half) == pytest.approx(np.median(every), rel=0.25)


def test_the_band_of_a_reference_is_the_narrowest_that_one_in_a_hundred_has(store):
    """Here a fifth of the tracks lack what is above about 4 kHz, and some all below 200 Hz."""
    from genre_study.mel import band_centres

    hz = band_centres(SPEC)

    def frames(track_id):
        number = int(track_id[1:])
        made = store.frames(track_id).astype(float)
        made[:, hz > (4000 if number % 5 == 0 else 20000)] = -110.0
        made[:, hz < (200 if number % 7 == 0 else 0)] = -110.0
        return made

    cut = SimpleNamespace(frames=frames, unit="db", spec=SPEC, frames_per_second=SPEC.frames_per_second)
    low, high = fit_reference(cut, [f"t{seed:03d}" for seed in range(200)])["band_hz"]
    assert 150 < low < 300 and 3300 < high < 4500
    whole = fit_reference(store, [f"t{seed:03d}" for seed in range(200)])["band_hz"]
    assert whole == [0.0, 11025.0]


@pytest.mark.parametrize("distance, duration_s, lacking, trust", [
    (0.9, 30.0, 0.0, 1.0), (1.2, 30.0, 0.0, 1.2**-8), (0.5, 30.0, -0.1, 0.9**8), (1.01, 30.0, -0.4, 0.6**8),
    (2.0, 30.0, -0.1, 2.0**-8), (0.9, 0.75, 0.0, 0.5), (0.9, 2.0, -0.4, math.sqrt(2 / 3))])
def test_trust_falls_by_the_eighth_power(distance, duration_s, lacking, trust, monkeypatch):
    """Of the distance beyond the limit, or of the tonality that is lacking; of a short song by the square root."""
    summary = SongSummary(SPEC)
    summary.add(frames_of(1))
    monkeypatch.setattr(novelty, "novelty_of", lambda *arguments: np.array([distance]))
    monkeypatch.setattr(SongSummary, "tonality", 0.5 + lacking * MIN_TONALITY)
    found = summary.judge({"min_tonality": 0.5}, ChunkSpec(15.0), duration_s)
    assert found.trust == pytest.approx(trust) and found.novelty == distance


@pytest.mark.parametrize("chunk_s, duration_s, trust", [(15.0, 0.75, 0.5), (15.0, 3.0, 1.0), (1.5, 0.375, 0.5),
                                                        (1.5, 1.5, 1.0)])
def test_a_short_song_is_trusted_by_its_share_of_three_seconds_or_of_a_chunk(chunk_s, duration_s, trust):
    assert novelty.trust_in_length(duration_s, ChunkSpec(chunk_s)) == pytest.approx(trust)
