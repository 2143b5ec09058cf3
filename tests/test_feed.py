"""The feed: every chunk once an epoch, whatever fits in memory, and always the same for one seed."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from backend_probe import small_store
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study.feed import SCALINGS, ChunkFeed, fit_scaling, mask, mixup, read_chunks

STORE, CHUNKS = small_store()
GENRES = ["a", "b", "c"]


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9),
       memory_mb=st.floats(0.001, 1.0))
def test_every_chunk_at_most_once_an_epoch(batch_size, seed, epoch, memory_mb):
    """Whole batches, no chunk twice, only the last few left out, another order in the next epoch."""
    feed = ChunkFeed(STORE, CHUNKS, GENRES, batch_size, seed=seed, memory_mb=memory_mb)
    feed.epoch = epoch
    order = feed.order().copy()
    assert sorted(order) == list(range(len(CHUNKS)))
    assert 0 <= len(CHUNKS) - len(feed) * feed.batch_size < feed.batch_size
    feed.epoch = epoch + 1
    assert not np.array_equal(order, feed.order())


@pytest.mark.parametrize("scaling", ["none", "power", "track", "band"])
def test_batches_are_the_chunks_of_the_table(scaling):
    """Shuffled or not, from memory or not: each row of a batch is the chunk and the label of its row of the table."""
    assert scaling in SCALINGS
    every = read_chunks(STORE, CHUNKS, scaling)
    for memory_mb in (100, 0.02):
        feed = ChunkFeed(STORE, CHUNKS, GENRES, 16, seed=3, scaling=scaling, memory_mb=memory_mb)
        for index in range(len(feed)):
            rows = feed.order()[index * 16:index * 16 + 16]
            batch, labels = feed[index]
            assert np.array_equal(batch, every[rows])
            assert [GENRES[place] for place in labels.argmax(1)] == CHUNKS["genre"].iloc[rows].tolist()


def test_tracks_are_read_once_an_epoch_and_memory_is_bounded():
    """With room for 5 of 24 tracks, an epoch reads each track about once and never holds more."""
    reads, held = [], []
    store, chunks = small_store()
    frames = store.frames
    store.frames = lambda track_id, start=0, stop=None: reads.append(track_id) or frames(track_id, start, stop)
    track_mb = frames("track000").nbytes / 1e6
    feed = ChunkFeed(store, chunks, GENRES, 8, memory_mb=5 * track_mb)
    for index in range(len(feed)):
        feed[index]
        held.append(feed.reader.used / 1e6)
    assert max(held) <= 5 * track_mb + 1e-9
    assert 24 <= len(reads) <= 30  # a batch that lies over the border of two groups may read a track again


def test_batches_depend_on_seed_epoch_and_number_only():
    """Reading batches in another order, or twice, changes nothing: masks and mixup included."""
    options = {"batch_size": 16, "seed": 7, "mixup_alpha": 0.4, "time_mask": 10, "band_mask": 4}
    one, other = (ChunkFeed(STORE, CHUNKS, GENRES, **options) for _ in range(2))
    expected = [one[index] for index in range(len(one))]
    for index in reversed(range(len(other))):
        for ours, theirs in zip(other[index], expected[index], strict=True):
            assert np.array_equal(ours, theirs)
    other.epoch = 1
    assert not np.array_equal(other[0][0], expected[0][0])


@pytest.mark.parametrize("options", [{"mixup_alpha": 0.4}, {"time_mask": 20}, {"band_mask": 8}])
def test_masks_and_mixup_are_drawn_anew_for_each_seed_epoch_and_batch(options):
    """The batches are of the same chunks; what differs is drawn."""
    same = CHUNKS.loc[[*CHUNKS.index[:8]] * 2]
    seen = []
    for seed, epoch, index in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)):
        feed = ChunkFeed(STORE, same, GENRES, 8, shuffle=False, seed=seed, **options)
        feed.epoch = epoch
        seen.append(feed[index][0].tobytes())
    assert len(set(seen)) == 4 and seen[0] == seen[4]


@pytest.mark.parametrize("scaling", ["none", "track"])
def test_past_the_end_of_a_track_lies_silence(scaling):
    """The store's own, scaled as the track is."""
    frames = np.random.default_rng(0).normal(-40, 9, (100, 16)).astype("float16")
    store = SimpleNamespace(frames=lambda track_id: frames, unit="db", silence=-90.0, spec=STORE.spec)
    table = pd.DataFrame({"track_id": ["a"], "start_frame": [70], "n_frames": [40]})
    chunk = read_chunks(store, table, scaling)[0, :, :, 0]
    whole = np.concatenate([frames[70:].astype("float64"), np.full((10, 16), -90.0)])
    mean, spread = frames.astype("float64").mean(), frames.astype("float64").std()
    np.testing.assert_allclose(chunk, ((whole - mean) / spread if scaling == "track" else whole).T, atol=1e-3)


def test_power_is_ten_to_the_tenth_of_the_decibels():
    """A step of 10 dB is ten times the power, at any level."""
    decibels = np.array([[-20.0, 0.0, 10.0, 20.0]] * 8, dtype="float16")
    store = SimpleNamespace(frames=lambda track_id: decibels, unit="db", silence=-100.0, spec=SimpleNamespace(n_mels=4))
    chunks = pd.DataFrame({"track_id": ["a"], "start_frame": [0], "n_frames": [8]})
    np.testing.assert_allclose(read_chunks(store, chunks, scaling="power")[0, :, 0, 0], [0.01, 1, 10, 100], rtol=1e-3)


def test_labels_stand_in_the_order_of_the_genres_that_are_given():
    """Not in the order in which the chunks name them: a batch that begins with rock has its one in rock's column."""
    frames = np.zeros((8, 4), "float16")
    frames[:, 0] = np.arange(8)
    store = SimpleNamespace(frames=lambda track_id: frames, unit="db", silence=-100.0, spec=SimpleNamespace(n_mels=4))
    chunks = pd.DataFrame({"track_id": list("abc"), "genre": ["rock", "blues", "jazz"], "start_frame": 0,
                           "n_frames": 8})
    _, labels = ChunkFeed(store, chunks, ["blues", "jazz", "rock"], batch_size=3, shuffle=False)[0]
    assert np.asarray(labels).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_draws_a_share_for_each_chunk_and_pairs_at_random(alpha):
    """With a label of its own for each chunk, a blend tells its partner and its share: Beta(alpha, alpha)."""
    n, rng = 600, np.random.default_rng(4)
    chunks, identity = rng.random((n, 2, 3, 1), dtype="float32"), np.eye(n, dtype="float32")
    partners = []
    for _ in range(2):
        blended, labels = mixup(chunks, identity, rng, alpha)
        share, rest = labels.diagonal(), labels * (1 - identity)
        partner = np.where(rest.any(axis=1), rest.argmax(axis=1), np.arange(n))
        wide = share[:, None, None, None]
        np.testing.assert_allclose(blended, chunks * wide + chunks[partner] * (1 - wide), atol=1e-5)
        assert len(set(share.tolist())) > n / 2
        assert np.var(share) == pytest.approx(1 / (8 * alpha + 4), rel=0.15)
        partners.append(partner)
    assert (partners[0] != partners[1]).mean() > 0.9  # no fixed pairs
    assert abs(np.corrcoef(partners[0], np.arange(n))[0, 1]) < 0.2  # nor neighbours or opposites


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mask_hides_a_run_behind_the_mean_of_its_own_chunk(axis):
    rng = np.random.default_rng(0)
    before = rng.normal(0, 1, (40, 12, 20, 1)).astype("float32") + np.arange(40, dtype="float32")[:, None, None, None]
    after = before.copy()
    mask(after, rng, 6, axis)
    widths, first = [], []
    for one, other in zip(before[..., 0], after[..., 0], strict=True):
        lines = np.flatnonzero((one != other).any(axis=2 - axis))
        widths.append(len(lines))
        first += lines[:1].tolist()
        assert lines.size == 0 or lines.size == lines[-1] - lines[0] + 1
        np.testing.assert_allclose(np.take(other, lines, axis=axis - 1), one.mean(), rtol=1e-5)
    assert set(widths) == set(range(7)) and len(set(first)) > 5


def test_what_hardly_varies_is_not_blown_up():
    """Rounding alone moves a constant band by less than a thousandth of a decibel: that is no signal."""
    frames = np.random.default_rng(0).normal(0, 1, (400, 3)) * [1e-4, 5e-3, 10.0] - 50
    shift, gain = fit_scaling(frames, "band")
    np.testing.assert_allclose(shift, -50, atol=2)
    np.testing.assert_allclose(gain, [0, 200, 0.1], rtol=0.1)
    assert fit_scaling(frames[:, :1], "track")[1].tolist() == [0.0]
