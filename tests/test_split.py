"""Properties of the splits over random corpora, and the splits of GTZAN itself."""

import warnings
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_study import study
from genre_study.core.names import name_key, tidy_name
from genre_study.corpus import gtzan_replicas, gtzan_tracks
from genre_study.score.leakage import chunk_features, neighbour_share
from genre_study.split import SIDES, LeakageError, artist_groups, check_split, split_chunks, split_tracks
from genre_study.study import StudySettings, deal

pytestmark = pytest.mark.filterwarnings("ignore:.*have no artist")
quick = settings(max_examples=25, deadline=None, derandomize=True)  # the same examples in every run of the tests


@st.composite
def corpora(draw):
    """Two to four genres of different sizes, artists of different sizes, some across genres, some without a name."""
    sizes = draw(st.lists(st.integers(12, 40), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tracks = pd.DataFrame({"genre": [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]})
    tracks["track_id"] = [f"t{n:04d}" for n in rng.permutation(len(tracks))]
    n_artists = draw(st.integers(8, 20))
    number = np.minimum(rng.geometric(0.15, len(tracks)), n_artists)
    own = [f"{genre} artist {k}" for genre, k in zip(tracks.genre, number)]
    crossing = rng.random(len(tracks)) < draw(st.sampled_from([0, 0.1]))
    unnamed = rng.random(len(tracks)) < draw(st.sampled_from([0, 0.3]))
    artist = np.where(crossing, "everywhere", own).astype(object)
    artist[unnamed] = None
    return tracks.assign(artist=artist)


def as_chunks(tracks, n=19):
    chunks = tracks.loc[tracks.index.repeat(n), ["track_id", "genre"]].reset_index(drop=True)
    chunks["start_s"] = np.tile(np.arange(n) * 1.5, len(tracks))
    chunks["start_frame"] = np.floor(chunks.start_s * 22050 / 512).astype(int)
    return chunks.assign(n_frames=130)


def split_or_reason(tracks, *arguments, **options):
    """The split, or None if whole artists can't give every side every genre and the error says so."""
    try:
        return split_tracks(tracks, *arguments, **options)
    except ValueError as error:
        reasons = ("artists; at least", "every side needs every genre", "whole artists")
        assert any(reason in str(error) for reason in reasons)
        return None


@quick
@given(corpora(), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.15, 0.25]))
def test_track_meets_the_sizes_and_strata_asked_for(tracks, seed, valid_share, test_share):
    n, n_genres = len(tracks), tracks.genre.nunique()
    result = split_tracks(tracks, "track", seed, (1 - valid_share - test_share, valid_share, test_share))
    assert result.drop(columns="split").equals(tracks)
    size = result.split.value_counts()
    assert abs(size["test"] - test_share * n) <= 0.5 and abs(size["valid"] - valid_share * n) <= 0.5
    of_genre = pd.crosstab(result.genre, result.split)
    total = of_genre.sum(axis=1)
    assert (abs(of_genre["test"] - size["test"] * total / n) < 1).all()
    rest = total - of_genre["test"]
    assert (abs(of_genre["valid"] - size["valid"] * rest / rest.sum()) < 1).all()
    assert len(check_split(result, split_chunks(as_chunks(result), result), "track")) == n_genres


@quick
@given(corpora(), st.integers(0, 5), st.sampled_from(["track", "artist"]), st.sampled_from([None, 0, 3]))
def test_no_track_and_no_artist_straddles(tracks, seed, protocol, fold):
    result = split_or_reason(tracks, protocol, seed, fold=fold)
    if result is None:
        return
    chunks = split_chunks(as_chunks(tracks), result)
    assert chunks.groupby("track_id").split.nunique().max() == 1
    assert set(result.split) == set(SIDES)
    if protocol == "artist":  # counted here from the names, not from artist_groups
        assert result[result.artist.notna()].groupby("artist").split.nunique().max() == 1
        assert result.attrs["n_unnamed_artists"] == tracks.artist.isna().sum()
    check_split(result, chunks, protocol)


@quick
@given(corpora(), st.integers(0, 5), st.sampled_from(["track", "artist", "chunk"]), st.randoms(use_true_random=False))
def test_same_seed_same_split_whatever_the_order_of_rows(tracks, seed, protocol, random):
    order = list(range(len(tracks)))
    random.shuffle(order)
    one = split_or_reason(tracks, protocol, seed, allow_leakage=True)
    if one is None:
        return
    other = split_tracks(tracks.iloc[order], protocol, seed, allow_leakage=True)
    assert other.sort_index().split.tolist() == one.split.tolist()
    chunks = as_chunks(tracks, n=5)
    shuffled = chunks.sample(frac=1, random_state=seed)
    sides = split_chunks(chunks, one, seed).split
    assert split_chunks(shuffled, other, seed).split.sort_index().tolist() == sides.tolist()


@quick
@given(corpora(), st.integers(0, 5))
def test_chunk_straddles_and_is_refused_unless_asked_for(tracks, seed):
    with pytest.raises(LeakageError, match="allow_leakage=True"):
        split_tracks(tracks, "chunk", seed)
    mixed = split_tracks(tracks, "chunk", seed, allow_leakage=True)
    chunks = split_chunks(as_chunks(tracks), mixed, seed)
    assert chunks.groupby("track_id").split.nunique().max() > 1
    assert abs((chunks.split == "test").mean() - 0.15) < 1 / len(chunks)
    with pytest.raises(LeakageError, match="chunks on more than one side"):
        check_split(tracks.assign(split="mixed"), chunks, "track")
    with pytest.warns(UserWarning, match="allowed leakage"):
        check_split(mixed, chunks, "chunk", allow_leakage=True)
    assert neighbour_share(chunks)["overlap_in_train"] > 0.8


@settings(quick, max_examples=8)
@given(corpora(), st.integers(0, 3), st.sampled_from(["track", "artist"]))
def test_five_folds_test_each_track_once(tracks, seed, protocol):
    folds = [split_or_reason(tracks, protocol, seed, fold=k) for k in range(5)]
    if all(fold is not None for fold in folds):
        tested = pd.concat([fold.track_id[fold.split == "test"] for fold in folds])
        assert sorted(tested) == sorted(tracks.track_id)


def test_seeds_give_different_test_sets():
    tracks = gtzan_tracks()
    for protocol in ("track", "artist"):
        tests = [set(split_tracks(tracks, protocol, seed).query("split == 'test'").track_id) for seed in range(4)]
        assert np.mean([len(a & b) / len(a) for a, b in pairwise(tests)]) < 0.35


def test_splits_of_gtzan():
    tracks = gtzan_tracks()
    with pytest.warns(UserWarning, match="81 of 1000 tracks have no artist"):
        by_artist = split_tracks(tracks, "artist")
    assert abs((by_artist.split == "test").mean() - 0.15) < 0.02
    assert by_artist.attrs["n_unnamed_artists"] == 81
    filtered = split_tracks(tracks, "filtered")
    assert filtered.split.value_counts().to_dict() == {"train": 443, "test": 290, "valid": 197, "": 70}
    assert check_split(filtered, protocol="filtered").sum().to_dict() == {"train": 443, "valid": 197, "test": 290}
    by_track = split_tracks(tracks, "track")
    with pytest.raises(LeakageError, match="artists have tracks on more than one side"):
        check_split(by_track, protocol="artist")


def test_filtered_wants_gtzan():
    tracks = gtzan_tracks()
    renamed = tracks.assign(track_id=tracks.track_id.replace("blues.00000", "delta.00000"))
    with pytest.raises(ValueError, match=r"1 of 1000 track_id are not on it: delta\.00000"):
        split_tracks(renamed, "filtered")


class TestFaultyTables:
    tracks = pd.DataFrame({"track_id": [f"t{i:02d}" for i in range(40)], "genre": ["jazz", "pop"] * 20})

    def fails(self, tracks, protocol, match, **options):
        with pytest.raises((ValueError, TypeError), match=match):
            split_tracks(tracks, protocol, **options)

    def test_ids(self):
        twice = self.tracks.assign(track_id=self.tracks.track_id.replace("t07", "t06"))
        self.fails(twice, "track", r"not unique: t06 \(row 6\), t06 \(row 7\)")
        self.fails(self.tracks.assign(track_id=self.tracks.track_id.where(self.tracks.index != 4)), "track", "in row 4")

    def test_artists(self):
        self.fails(self.tracks, "artist", "lacks the column artist")
        self.fails(self.tracks.assign(artist=""), "artist", "no artist is named")
        half = self.tracks.assign(artist=[f"a{i // 3}" if i < 20 else np.nan for i in range(40)])
        with pytest.warns(UserWarning, match="20 of 40 tracks have no artist"):
            result = split_tracks(half, "artist")
        assert result.attrs["n_unnamed_artists"] == 20
        two = self.tracks.assign(artist=[f"{genre} {i % 4}" for i, genre in enumerate(self.tracks.genre)])
        self.fails(two, "artist", "genre 'jazz' has 2 artists; at least 3 are needed: t00, t02")
        four = two.assign(artist=two.artist + (two.index // 20).astype(str))
        self.fails(four, "artist", "has 4 artists; at least 5", fold=0)

    def test_few_tracks(self):
        few = self.tracks[(self.tracks.genre == "pop") | (self.tracks.index < 8)]
        self.fails(few, "track", "genre 'jazz' has 4 tracks; at least 5 are needed: t00, t02, t04, t06", fold=1)
        self.fails(few.iloc[4:], "track", "genre 'jazz' has 2 tracks; at least 3 are needed: t04, t06")
        self.fails(self.tracks.head(0), "track", "empty")
        self.fails({}, "track", "expected a pandas DataFrame")

    def test_chunks_of_unknown_tracks(self):
        side = split_tracks(self.tracks, "track")
        with pytest.raises(ValueError, match="not in tracks: t39"):
            split_chunks(as_chunks(self.tracks), side.iloc[:39])
        with pytest.raises(ValueError, match="column split"):
            split_chunks(as_chunks(self.tracks), self.tracks)


def test_three_artists_a_genre_are_enough():
    genre = np.repeat([f"g{i}" for i in range(10)], 9)
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(90)], "genre": genre})
    tracks["artist"] = [f"a{i // 3}" for i in range(90)]
    for seed in range(5):
        sizes = check_split(split_tracks(tracks, "artist", seed), protocol="artist")
        assert (sizes == 3).all(axis=None)


@pytest.mark.parametrize("dtype", [object, "string", "category", "str"])
def test_a_missing_artist_is_missing_in_every_dtype(dtype):
    names = pd.Series(["Nina", None, " nina", "", None, "Miles"]).astype(dtype)
    tracks = pd.DataFrame({"track_id": list("abcdef"), "artist": names})
    groups, n_unnamed = artist_groups(tracks)
    assert groups.tolist() == [0, 1, 0, 2, 3, 4] and n_unnamed == 3
    with pytest.raises(ValueError, match="no artist is named in 1 tracks"):
        artist_groups(tracks.iloc[[1]])


def test_artist_groups_and_names_that_look_like_ids():
    tracks = pd.DataFrame({"track_id": ["a", "b", "c", "d"], "artist": ["b", None, " B ", ""]})
    groups, n_unnamed = artist_groups(tracks)
    assert groups[0] == groups[2] and len(set(groups)) == 3 and n_unnamed == 2


def test_replicas_on_two_sides_are_named():
    tracks = split_tracks(TestFaultyTables.tracks, "track")
    train, test = (tracks.track_id[tracks.split == side].iloc[0] for side in ("train", "test"))
    inside = tracks.track_id[tracks.split == "train"].iloc[1]
    replicas = pd.DataFrame({"track_id": [train, train, "gone"], "other_track_id": [inside, test, test]})
    with pytest.raises(LeakageError, match=f"1 pairs of replicas lie on two sides: {train} = {test}"):
        check_split(tracks, replicas=replicas)
    with pytest.warns(UserWarning, match="1 pairs of replicas"):
        check_split(tracks, replicas=replicas, allow_leakage=True)
    check_split(tracks, replicas=replicas.head(1))


@quick
@given(corpora(), st.integers(0, 5), st.sampled_from(["track", "artist"]), st.sampled_from([None, 2]))
def test_copies_that_are_known_stay_on_one_side(tracks, seed, protocol, fold):
    """Counted along the pairs, not by groups: nothing that a walk from a track reaches is on another side."""
    drawn = np.random.default_rng(seed).choice([*tracks.track_id, "gone"], (5, 2))
    pairs = pd.DataFrame(drawn, columns=["track_id", "other_track_id"])
    result = split_or_reason(tracks, protocol, seed, fold=fold, replicas=pairs)
    if result is None:
        return
    side = result.set_index("track_id").split.to_dict()
    for start in set(side) & set(pairs.to_numpy().ravel()):
        reached = {start}
        for _ in range(len(pairs)):
            reached |= {other for pair in pairs.to_numpy() if reached & set(pair) for other in pair}
        assert {side[name] for name in reached if name in side} == {side[start]}
    check_split(result, split_chunks(as_chunks(tracks), result), protocol, replicas=pairs)
    again = split_tracks(tracks.sample(frac=1, random_state=seed), protocol, seed, fold=fold, replicas=pairs[::-1])
    assert again.set_index("track_id").split.to_dict() == side


def test_copies_in_gtzan():
    """Twenty-six of the pairs lie on two sides of the drawn split (reports/leakage), none once they are known."""
    tracks = gtzan_tracks().query("track_id != 'jazz.00054'").reset_index(drop=True)
    pairs = gtzan_replicas()
    problem = r"26 pairs of replicas lie on two sides.*give split_tracks the same replicas"
    with pytest.raises(LeakageError, match=problem):
        check_split(split_tracks(tracks, "track"), replicas=pairs)
    for protocol in ("track", "artist"):
        whole = split_tracks(tracks, protocol, replicas=pairs)
        check_split(whole, protocol=protocol, replicas=pairs)
        assert 120 < (whole.split == "test").sum() < 180
    with pytest.raises(ValueError, match="leave one track of each pair out"):
        split_tracks(tracks, "filtered", replicas=pairs)


def test_copies_of_a_copy_are_copies():
    tracks = pd.DataFrame({"track_id": list("ABCDEFGH"), "genre": list("xxxxyyyy"),
                           "split": ["", "train", "test", "valid", "train", "valid", "test", "train"]})
    replicas = pd.DataFrame({"track_id": ["A", "A", "E"], "other_track_id": ["B", "C", "H"]})
    with pytest.raises(LeakageError, match="1 pairs of replicas lie on two sides: B = C"):
        check_split(tracks, replicas=replicas)
    check_split(tracks, replicas=replicas.drop(1))
    chain = pd.DataFrame({"track_id": ["B", "gone", "gone too"], "other_track_id": ["gone", "gone too", "G"]})
    with pytest.raises(LeakageError, match="1 pairs of replicas lie on two sides: B = G"):
        check_split(tracks, replicas=chain)


@quick
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=12),
       st.randoms(use_true_random=False))
def test_replicas_against_a_plain_search(pairs, random):
    ids = [f"t{i:02d}" for i in range(12)]
    sides = dict(zip(ids, random.choices(["train", "valid", "test", ""], k=12)))
    near = {one: {one} for one in range(12)}
    for _ in range(12):  # whoever is reached by twelve steps
        for a, b in pairs:
            near[a] = near[b] = near[a] | near[b]
    leaks = any(len({sides[ids[i]] for i in group} - {""}) > 1 for group in near.values())
    tracks = pd.DataFrame({"track_id": ids, "genre": "x", "split": sides.values()})
    everywhere = pd.DataFrame({"track_id": ["a", "b", "c"], "genre": "x", "split": SIDES})
    tracks = pd.concat([tracks, everywhere], ignore_index=True)
    replicas = pd.DataFrame([(ids[a], ids[b]) for a, b in pairs], columns=["track_id", "other_track_id"])
    if leaks:
        with pytest.raises(LeakageError, match="pairs of replicas lie on two sides"):
            check_split(tracks, replicas=replicas)
    else:
        check_split(tracks, replicas=replicas)


def test_tables_without_their_columns_are_named():
    tracks = split_tracks(TestFaultyTables.tracks, "track")
    chunks = split_chunks(as_chunks(TestFaultyTables.tracks), tracks)
    with pytest.raises(ValueError, match=r"chunks lacks the column split; it has .*: make it with split_chunks"):
        check_split(tracks, chunks.drop(columns="split"))
    with pytest.raises(ValueError, match="replicas lacks the column other_track_id"):
        check_split(tracks, replicas=pd.DataFrame({"track_id": ["t00"], "other": ["t01"]}))
    with pytest.raises(TypeError, match="replicas is a list"):
        check_split(tracks, replicas=[("t00", "t01")])


@pytest.mark.parametrize("protocol", ["track", "chunk"])
def test_chunks_whose_rows_share_a_name(protocol):
    tracks = split_tracks(TestFaultyTables.tracks, protocol, allow_leakage=True)
    chunks = as_chunks(TestFaultyTables.tracks)
    same = chunks.set_axis(np.arange(len(chunks)) % 7)
    result = split_chunks(same, tracks, seed=3)
    assert result.split.tolist() == split_chunks(chunks, tracks, seed=3).split.tolist()
    assert result.drop(columns="split").equals(same)


@quick
@given(st.lists(st.sampled_from([3, 4, 5, 7, 30, 300]), min_size=2, max_size=17), st.sampled_from([None, 2]),
       st.integers(0, 5), st.sampled_from([(0.15, 0.15), (0.05, 0.05), (0.3, 0.3), (0.1, 0.2), (0.45, 0.45)]))
def test_three_tracks_of_a_genre_are_enough(sizes, fold, seed, shares):
    sizes = [max(size, 5) for size in sizes] if fold else sizes
    tracks = pd.DataFrame([(f"g{k:02d}.{i}", f"g{k:02d}") for k, size in enumerate(sizes) for i in range(size)],
                          columns=["track_id", "genre"])
    shares = (1 - sum(shares), *shares)
    result = split_tracks(tracks, "track", seed, shares, fold=fold)
    count = pd.crosstab(result.genre, result.split)
    assert (count[list(SIDES)] >= 1).all(axis=None)
    n, n_genres = len(tracks), len(sizes)
    if fold is None:
        assert count["test"].sum() == np.clip(round(shares[2] * n), n_genres, n - 2 * n_genres)
    left = n - count["test"].sum()
    assert count["valid"].sum() == np.clip(round(shares[1] * n), n_genres, left - n_genres)
    again = split_tracks(tracks[::-1], "track", seed, shares, fold=fold)
    assert again.sort_index().split.tolist() == result.split.tolist()


def test_neighbour_share_against_a_plain_count():
    rng = np.random.default_rng(0)
    tracks = pd.DataFrame({"track_id": [f"t{i}" for i in range(8)], "genre": ["jazz", "pop"] * 4})
    chunks = as_chunks(tracks, n=9).assign(split=rng.choice(SIDES, 72)).sample(frac=1, random_state=0)
    features = rng.normal(size=(72, 5)) * [1, 10, 100, 1, 1]
    train, test = (np.flatnonzero(chunks.split == side) for side in ("train", "test"))
    scaled = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    near = [train[np.argmin(((scaled[train] - scaled[i]) ** 2).sum(axis=1))] for i in test]
    ids, start = chunks.track_id.to_numpy(), chunks.start_s.to_numpy()
    share = neighbour_share(chunks, features)
    assert share["nearest_same_track"] == pytest.approx(np.mean([ids[i] == ids[j] for i, j in zip(test, near)]))
    beside = [ids[i] == ids[j] and abs(start[i] - start[j]) < 2.7 for i, j in zip(test, near)]
    assert share["nearest_overlaps"] == pytest.approx(np.mean(beside))
    overlap = [any(ids[i] == ids[j] and abs(start[i] - start[j]) < 2.7 for j in train) for i in test]
    assert share["overlap_in_train"] == pytest.approx(np.mean(overlap))


def test_chunk_features():
    spectrograms = np.random.default_rng(0).normal(size=(4, 6, 10, 1)).astype("float32")
    features = chunk_features(spectrograms)
    assert features.shape == (4, 12)
    np.testing.assert_allclose(features[1, 2], spectrograms[1, 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(features[1, 8], spectrograms[1, 2].std(), rtol=1e-5)
    np.testing.assert_array_equal(features, chunk_features(spectrograms[..., 0]))


def test_splitting_warns_of_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fold in (None, 2):
            split_tracks(TestFaultyTables.tracks, "track", fold=fold)
            split_tracks(TestFaultyTables.tracks.assign(artist=[f"a{i}" for i in range(40)]), "artist", fold=fold)


SHARES = (0.5, 0.2, 0.3)  # all different, so that sides which change places are noticed


@pytest.mark.parametrize("protocol", ["track", "artist", "chunk", "published"])
def test_each_side_gets_its_own_share(protocol):
    shares = (0.7, 0.0, 0.3) if protocol == "published" else SHARES
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(400)], "genre": ["jazz", "pop"] * 200})
    tracks["artist"] = [f"{genre} {i // 4}" for i, genre in enumerate(tracks.genre)]
    split = split_tracks(tracks, protocol, seed=1, shares=shares, allow_leakage=True)
    chunks = split_chunks(as_chunks(tracks, n=5), split, seed=1, shares=shares, protocol=protocol)
    found = (chunks.split.value_counts() / len(chunks)).reindex(SIDES, fill_value=0)
    np.testing.assert_allclose(found, shares, atol=0.1 if protocol == "artist" else 0.002)


@pytest.mark.parametrize("shares, problem", [
    ((0.85, 0.0, 0.15), "leaves a side empty: valid has 0.0"), ((1.0, 0.0, 0.0), "a side empty: train has 1.0"),
    ((0.7, 0.2, 0.2), "three numbers that sum to 1"), ((0.7, 0.3), "three numbers"), (0.15, "three numbers"),
    ((1.2, -0.1, -0.1), "a side empty"), ((0.7, 0.15, float("nan")), "sum to 1"), ((True, 0.0, 0.0), "three numbers"),
    (("0.7", "0.15", "0.15"), "three numbers"), ("abc", "three numbers"),
])
def test_shares_that_make_no_split_are_refused(shares, problem):
    tracks = TestFaultyTables.tracks
    for protocol in ("track", "filtered"):
        with pytest.raises(ValueError, match=problem):
            split_tracks(tracks, protocol, shares=shares)
    mixed = split_tracks(tracks, "chunk", allow_leakage=True)
    with pytest.raises(ValueError, match=problem):
        split_chunks(as_chunks(tracks), mixed, shares=shares)


class TestPublished:
    """The protocol of the published study: 85/15 over chunks, unstratified, validation on the test chunks."""

    tracks = pd.DataFrame({"track_id": [f"t{i:02d}" for i in range(40)], "genre": ["jazz"] * 30 + ["pop"] * 10})

    def test_is_refused_unless_leakage_is_allowed(self):
        with pytest.raises(LeakageError, match=r"protocol 'published'.*allow_leakage=True"):
            split_tracks(self.tracks, "published")
        mixed = split_tracks(self.tracks, "published", allow_leakage=True)
        chunks = split_chunks(as_chunks(self.tracks), mixed, protocol="published")
        with pytest.raises(LeakageError, match=r"protocol 'published'.*allow_leakage=True"):
            check_split(mixed, chunks, "published")
        with pytest.warns(UserWarning, match="allowed leakage"):
            sizes = check_split(mixed, chunks, "published", allow_leakage=True)
        assert sizes.sum().to_dict() == {"train": 646, "valid": 0, "test": 114}

    def test_has_no_valid_side_of_its_own(self):
        mixed = split_tracks(self.tracks, "published", allow_leakage=True)
        with pytest.raises(ValueError, match="validates on test"):
            split_chunks(as_chunks(self.tracks), mixed, shares=(0.7, 0.15, 0.15), protocol="published")
        with pytest.raises(ValueError, match="'mixed' and protocol is 'track'"):
            split_chunks(as_chunks(self.tracks), mixed, protocol="track")

    def test_is_not_stratified(self):
        mixed = split_tracks(self.tracks, "published", allow_leakage=True)
        drawn = [split_chunks(as_chunks(self.tracks), mixed, seed, protocol="published") for seed in range(8)]
        jazz = {int((chunks.genre[chunks.split == "test"] == "jazz").sum()) for chunks in drawn}
        assert len(jazz) > 3  # a stratified draw has the same number each time
        assert len({tuple(chunks.index[chunks.split == "test"]) for chunks in drawn}) == 8  # another seed, another draw
        again = split_chunks(as_chunks(self.tracks).sample(frac=1, random_state=0), mixed, 3, protocol="published")
        assert again.split.sort_index().tolist() == drawn[3].split.tolist()

    def test_nearly_every_test_chunk_has_a_neighbour_in_training(self):
        mixed = split_tracks(self.tracks, "published", allow_leakage=True)
        chunks = split_chunks(as_chunks(self.tracks), mixed, protocol="published")
        assert neighbour_share(chunks)["overlap_in_train"] > 0.9


@quick
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_one_artist_in_several_spellings_stays_on_one_side(seed, random):
    """Composed and decomposed letters, case, blanks, wide and invisible characters: the kinds that look alike."""
    import unicodedata

    ways = [lambda name: unicodedata.normalize("NFC", name), lambda name: unicodedata.normalize("NFD", name),
            str.upper, str.title, lambda name: f"  {name} ", lambda name: name.replace(" ", "\u00a0"),
            lambda name: name.replace(" ", " \t "),
            lambda name: "\ufeff" + name, lambda name: name.replace("1", "１")]
    names = [f"{stem} {k}" for stem in ("Béla", "Sigur Rós", "Motörhead", "Ñandú") for k in range(6)]
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(96)], "true": [names[i // 4] for i in range(96)]})
    tracks["genre"] = [("pop", "soul")[i // 4 % 2] for i in range(96)]
    tracks["artist"] = [random.choice(ways)(name) for name in tracks.true]
    result = split_tracks(tracks, "artist", seed)
    assert result.groupby("true").split.nunique().max() == 1
    astray = result.assign(split=result.split.where(result.index > 0, {"train": "test"}.get(result.split[0], "train")))
    with pytest.raises(LeakageError, match="1 artists have tracks on more than one side"):
        check_split(astray.drop(index=[1, 2]), protocol="artist")


def test_a_tidy_name_has_one_spelling_and_keeps_its_letters():
    import unicodedata

    for name in ("Béla", "Sigur Rós", "クラシック", "Guns N’ Roses", "AC/DC"):
        for form in ("NFC", "NFD"):
            assert tidy_name(f"\t {unicodedata.normalize(form, name)}  ") == name
    assert tidy_name("ABBA") != tidy_name("Abba") and name_key("ABBA") == name_key("Abba")
    assert [tidy_name(missing) for missing in (None, np.nan, pd.NA, "  ")] == [""] * 4


@pytest.mark.parametrize("other", ["Rock", "rock ", "ROCK", "\u200brock", "ｒock"])
def test_one_genre_in_two_spellings_is_refused(other):
    from genre_study.evaluate import evaluate

    tracks = pd.DataFrame({"track_id": [f"t{i:02d}" for i in range(40)], "genre": ["jazz", "rock"] * 20})
    two = tracks.assign(genre=tracks.genre.where(tracks.index != 7, other))
    with pytest.raises(ValueError, match="genres differ in spelling only"):
        split_tracks(two, "track")
    with pytest.raises(ValueError, match="genres differ in spelling only"):
        check_split(two.assign(split="train"))
    with pytest.raises(ValueError, match="genres differ in spelling only"):
        evaluate(tracks[["track_id"]].assign(jazz=0.5, rock=0.5), two, ["jazz", "rock"])


def test_tables_that_contradict_each_other_are_refused():
    tracks = split_tracks(TestFaultyTables.tracks, "track")
    chunks = as_chunks(TestFaultyTables.tracks)
    with pytest.raises(ValueError, match="another genre than their tracks: t03"):
        split_chunks(chunks.assign(genre=chunks.genre.where(chunks.track_id != "t03", "jazz")), tracks)


def test_a_seed_changes_what_is_drawn():
    tracks = TestFaultyTables.tracks.assign(artist=[f"a{i // 2}" for i in range(40)])
    mixed, chunks = split_tracks(tracks, "chunk", allow_leakage=True), as_chunks(tracks)
    draws = [lambda seed: split_tracks(tracks, "track", seed), lambda seed: split_tracks(tracks, "artist", seed),
             lambda seed: split_tracks(tracks, "track", seed, fold=1), lambda seed: split_chunks(chunks, mixed, seed)]
    for draw in draws:
        drawn = [draw(seed).split for seed in (0, 0, 1, 2, 3)]
        for side in ("valid", "test"):  # each side is drawn anew
            rows = [tuple(np.flatnonzero(sides == side)) for sides in drawn]
            assert rows[0] == rows[1] and len(set(rows)) > 2


def small_store():
    """As much of a store as `deal` needs."""
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(120)], "genre": ["jazz", "pop"] * 60})
    return SimpleNamespace(tracks=tracks.assign(duration_s=30.0), frames_per_second=43.0)


@pytest.mark.filterwarnings("ignore:allowed leakage")
def test_a_run_as_published_validates_on_its_test_chunks():
    with pytest.raises(ValueError, match="protocol='published' puts chunks of one track on both sides"):
        StudySettings(protocol="published")
    tracks, chunks = deal(small_store(), StudySettings(protocol="published", allow_leakage=True))
    of_side = {side: chunks[chunks.split == side][["track_id", "start_s"]] for side in SIDES}
    assert set(tracks.split) == {"mixed"} and not chunks.duplicated(["track_id", "start_s", "split"]).any()
    assert of_side["valid"].reset_index(drop=True).equals(of_side["test"].reset_index(drop=True))
    assert len(of_side["test"]) == round(0.15 * 120 * 19) and len(of_side["train"]) == 120 * 19 - len(of_side["test"])


def test_a_run_splits_by_its_shares():
    tracks, chunks = deal(small_store(), StudySettings(protocol="track", shares=[0.5, 0.2, 0.3]))
    assert tracks.split.value_counts().to_dict() == {"train": 60, "test": 36, "valid": 24}
    assert chunks.split.value_counts().to_dict() == {"train": 60 * 19, "test": 36 * 19, "valid": 24 * 19}
    with pytest.raises(ValueError, match="leaves a side empty: valid has"):
        StudySettings(protocol="track", shares=[0.85, 0.0, 0.15])


def test_thinning_the_training_side_leaves_the_others_alone():
    store = small_store()
    whole, _ = deal(store, StudySettings(protocol="track", seed=4))
    for share in (0.5, 0.1):
        thin, chunks = deal(store, StudySettings(protocol="track", seed=4, train_share=share))
        for side in ("valid", "test"):
            assert set(thin.track_id[thin.split == side]) == set(whole.track_id[whole.split == side])
            assert set(chunks.track_id[chunks.split == side]) == set(whole.track_id[whole.split == side])
        assert (thin.split == "train").sum() == round(share * (whole.split == "train").sum())
        assert set(thin.track_id[thin.split == "train"]) < set(whole.track_id[whole.split == "train"])
        store.tracks = store.tracks.sample(frac=1, random_state=1)  # the order of the rows says nothing
        again, _ = deal(store, StudySettings(protocol="track", seed=4, train_share=share))
        assert set(zip(again.track_id, again.split)) == set(zip(thin.track_id, thin.split))


def gtzan_store():
    """As much of a store of GTZAN as `deal` needs."""
    return SimpleNamespace(tracks=gtzan_tracks().assign(duration_s=30.0), frames_per_second=43.0)


@pytest.mark.filterwarnings("ignore:allowed leakage")
@pytest.mark.parametrize("parameters", [{"protocol": "track"}, {"protocol": "chunk", "allow_leakage": True},
                                        {"protocol": "filtered", "train_share": 0.5}])
def test_the_seed_of_a_run_decides_its_split_its_chunks_and_its_thinning(parameters):
    dealt = [deal(gtzan_store(), StudySettings(seed=seed, **parameters))[1] for seed in (0, 0, 1)]
    sides = [set(zip(chunks.track_id, chunks.start_s, chunks.split)) for chunks in dealt]
    assert sides[0] == sides[1] and sides[0] != sides[2]


def test_the_folds_of_a_run_test_each_track_once():
    tested = [deal(small_store(), StudySettings(protocol="track", fold=fold))[0].query("split == 'test'").track_id
              for fold in range(5)]
    assert sorted(track for fold in tested for track in fold) == sorted(small_store().tracks.track_id)


def test_a_run_refuses_a_split_that_leaks(monkeypatch):
    """Whatever split_tracks may do: an artist on two sides ends the run."""
    store = small_store()
    store.tracks["artist"] = [f"{genre} {i // 8}" for i, genre in enumerate(store.tracks.genre)]
    deal(store, StudySettings(protocol="artist"))
    monkeypatch.setattr(study, "split_tracks", lambda tracks, protocol, **rest: split_tracks(tracks, "track", **rest))
    with pytest.raises(LeakageError, match="artists have tracks on more than one side"):
        deal(store, StudySettings(protocol="artist"))


@pytest.mark.parametrize("sides, apart, learned", [(("train", "test"), 1, 1), (("train", "valid"), 1, 0),
                                                   (("test", "test"), 0, 0)])
def test_copies_on_two_sides_of_a_run_are_counted(sides, apart, learned):
    facts, pair = gtzan_tracks(), gtzan_replicas().iloc[0]
    tracks = facts[facts.track_id.isin(pair)]
    chunks = tracks.assign(split=tracks.track_id.map(dict(zip(pair, sides))))
    found = study.replicas_apart(tracks, chunks)
    assert found == {"pairs": 1, "on_two_sides": apart, "one_in_train_one_in_test": learned}


def small_split():
    """Twelve tracks of two genres on three sides, each by an artist of its own, and their chunks."""
    tracks = pd.DataFrame({"track_id": [f"t{n:02d}" for n in range(12)], "genre": ["jazz", "rock"] * 6,
                           "artist": [f"artist {n}" for n in range(12)],
                           "split": np.repeat(["train", "valid", "test"], 4)})
    chunks = tracks[["track_id", "genre", "split"]].loc[np.repeat(np.arange(12), 3)].reset_index(drop=True)
    return tracks, chunks


@pytest.mark.parametrize("protocol", ["artist", "filtered"])
def test_an_artist_on_two_sides_is_found_under_every_protocol_that_promises_none(protocol):
    tracks, chunks = small_split()
    check_split(tracks, chunks, protocol=protocol)
    tracks.loc[[0, 11], "artist"] = "one and the same"
    with pytest.raises(LeakageError, match="artists have tracks on more than one side"):
        check_split(tracks, chunks, protocol=protocol)


def test_chunks_on_another_side_than_their_track_are_found():
    tracks, chunks = small_split()
    chunks.loc[chunks.track_id == "t00", "split"] = "test"  # whole, so that no track lies on two sides
    with pytest.raises(LeakageError, match="another side than the table of tracks says: t00"):
        check_split(tracks, chunks)


def test_every_side_needs_every_genre():
    tracks, _ = small_split()
    with pytest.raises(ValueError, match="no track of jazz in valid"):
        check_split(tracks[~((tracks.genre == "jazz") & (tracks.split == "valid"))])
