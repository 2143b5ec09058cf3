"""The feed: every chunk once an epoch, whatever fits in memory, and always the same for one seed."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from backend_probe import small_store
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study.feed import SCALINGS, ChunkFeed, read_chunks

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
