"""Chunk tables over many lengths, rates and overlaps, against a count written out longhand."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study.chunk import ChunkSpec, chunk_table

RATE = 22050 / 512


def test_the_study_has_19_chunks_a_track_and_19000_in_all():
    tracks = pd.DataFrame({"track_id": [f"g{i // 100}.{i:05d}" for i in range(1000)], "duration_s": 30.0})
    tracks["genre"] = tracks.track_id.str.split(".").str[0]
    chunks = chunk_table(tracks)
    assert len(chunks) == 19000
    assert (chunks.groupby("track_id").size() == 19).all()
    assert (chunks.start_frame + chunks.n_frames).max() == 1292


@settings(max_examples=200, deadline=None)
@given(n_track_frames=st.integers(1, 20000), seconds=st.floats(0.2, 20), overlap=st.floats(0, 0.9),
       tolerance=st.floats(0, 0.5), rate=st.sampled_from([RATE, 12.9, 100.0, 86.1328125]))
def test_starts_are_those_of_a_plain_loop(n_track_frames, seconds, overlap, tolerance, rate):
    spec = ChunkSpec(seconds, overlap, tolerance_s=min(tolerance, seconds / 2))
    if spec.step_s * rate < 1:
        return
    chunks = chunk_table(pd.DataFrame({"track_id": ["x"], "n_frames": [n_track_frames]}), spec, rate)
    end_s, starts, number = n_track_frames / rate, [], 0
    while number * spec.step_s + spec.seconds <= end_s + spec.tolerance_s + 1e-9:
        starts.append(number * spec.step_s)
        number += 1
    starts = starts or [0.0]
    room_s = end_s + spec.tolerance_s - spec.seconds - starts[-1]
    if min(abs(room_s), abs(room_s - spec.step_s)) > 1e-4:  # where the last one fits exactly, rounding decides
        assert len(chunks) == len(starts)
    else:
        assert abs(len(chunks) - len(starts)) <= 1
    n = min(len(chunks), len(starts))
    assert np.allclose(chunks.start_s[:n], starts[:n])
    assert (chunks.start_frame >= 0).all() and (chunks.n_frames == spec.n_frames(rate)).all()


@pytest.mark.parametrize("seconds", [29.95, 29.97, 29.98, 30.0, 30.01, 30.3])
def test_real_lengths_of_gtzan_give_19(seconds):
    assert len(chunk_table(pd.DataFrame({"track_id": ["x"], "duration_s": [seconds]}))) == 19


def test_duration_and_frames_agree_for_every_length():
    n_samples = np.arange(60_000, 700_000, 977)
    ids = [str(n) for n in n_samples]
    by_duration = chunk_table(pd.DataFrame({"track_id": ids, "duration_s": n_samples / 22050}))
    by_frames = chunk_table(pd.DataFrame({"track_id": ids, "n_frames": 1 + n_samples // 512}))
    pd.testing.assert_frame_equal(by_duration, by_frames)


def test_a_missing_length_is_named():
    tracks = pd.DataFrame({"track_id": ["a", "b"], "n_frames": pd.array([10, None], dtype="Int64")})
    with pytest.raises(ValueError, match=r"1 of 2 tracks have no usable n_frames: b"):
        chunk_table(tracks)


def test_order_of_tracks_is_kept():
    tracks = pd.DataFrame({"track_id": ["z", "a", "m"], "duration_s": [6.0, 6.0, 6.0]})
    assert chunk_table(tracks).track_id.drop_duplicates().tolist() == ["z", "a", "m"]


@pytest.mark.parametrize("overlap, step_s", [(0.0, 2.0), (0.25, 1.5), (0.5, 1.0), (0.75, 0.5)])
def test_overlap_is_the_share_that_two_neighbours_have_in_common(overlap, step_s):
    starts = chunk_table(pd.DataFrame({"track_id": ["x"], "duration_s": [10.0]}), ChunkSpec(2.0, overlap)).start_s
    assert len(starts) == 1 + round(8.0 / step_s)
    np.testing.assert_allclose(np.diff(starts), step_s)


def test_every_hundredth_of_a_second_has_its_frame():
    """In floating point 0.29 s times 100 frames a second is a little less than 29."""
    assert [ChunkSpec(k / 100, tolerance_s=0.0).n_frames(100) for k in range(1, 700)] == list(range(2, 701))


def test_chunks_of_many_tracks_are_those_of_each():
    """They inherit genre and side; the frames of a track count, not the duration that its header says."""
    tracks = pd.DataFrame({"track_id": list("cab"), "genre": ["pop", "jazz", "pop"], "n_frames": [300, 900, 140],
                           "split": ["test", "train", "valid"], "duration_s": 30.0})
    chunks = chunk_table(tracks)
    each = [chunk_table(tracks.iloc[[row]].drop(columns="duration_s")) for row in range(3)]
    pd.testing.assert_frame_equal(chunks, pd.concat(each, ignore_index=True))
    sides = chunks.groupby("track_id").split.agg(set).to_dict()
    assert sides == {"a": {"train"}, "b": {"valid"}, "c": {"test"}}
    ends = (chunks.start_frame + chunks.n_frames).groupby(chunks.track_id).max()
    assert (ends <= tracks.set_index("track_id").n_frames.reindex(ends.index) + 2).all()


@pytest.mark.parametrize("short, n_of_a_short_one", [("pad", 1), ("drop", 0)])
def test_a_track_that_is_exactly_as_long_as_its_chunks_loses_none(short, n_of_a_short_one):
    """Without tolerance: one frame less is one chunk less, or a padded one where there would be none."""
    spec = ChunkSpec(3.0, 0.5, short=short, tolerance_s=0.0)
    n_frames = [299, 300, 449, 450, 600]
    tracks = pd.DataFrame({"track_id": [str(n) for n in n_frames], "n_frames": n_frames})
    found = chunk_table(tracks, spec, 100.0).track_id.value_counts()
    assert [found.get(str(n), 0) for n in n_frames] == [n_of_a_short_one, 1, 1, 2, 3]


@pytest.mark.parametrize("rate, accepted", [(43.07, True), (40.0, True), (46.0, True), (12.9, False), (86.1, False)])
def test_another_rate_than_the_tracks_have_is_refused(rate, accepted):
    """Unless the tracks don't agree with each other: then a header is wrong, and not the rate."""
    tracks = pd.DataFrame({"track_id": list("abcdef"), "n_frames": 1292, "duration_s": 30.0})
    if accepted:
        assert len(chunk_table(tracks, frames_per_second=rate)) > 6
    else:
        with pytest.raises(ValueError, match=rf"43\.1 frames a second .* frames_per_second={rate:g}; pass"):
            chunk_table(tracks, frames_per_second=rate)
    assert len(chunk_table(tracks.assign(duration_s=[30.0, 30.0, 30.0, 120.0, 120.0, 120.0]), frames_per_second=rate))
