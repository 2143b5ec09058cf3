"""Metrics and intervals against computations made another way, faulty predictions, and a real Keras model."""

from math import comb
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genre_study.evaluate import (
    bootstrap_interval,
    check_predictions,
    evaluate,
    output_genres,
    predict_chunks,
    song_vectors,
    wilson_interval,
)
from genre_study.feed import read_chunks
from genre_study.score.calibrate import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
)
from genre_study.score.compare import accuracy_gap, compare_runs, pooled_accuracy
from genre_study.split import LeakageError

GENRES = ["blues", "jazz", "metal", "pop"]
quick = settings(max_examples=25, deadline=None, derandomize=True)


def made_up(n_tracks=80, n_chunks=5, skill=1.5, seed=0, n_artists=30):
    """Tracks and chunk predictions whose logits lean to the true genre by `skill`."""
    rng = np.random.default_rng(seed)
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(n_tracks)], "genre": rng.choice(GENRES, n_tracks)})
    tracks["artist"] = [f"a{k}" for k in rng.integers(n_artists, size=n_tracks)]
    right = tracks.genre.to_numpy()[:, None] == np.array(GENRES)
    logits = np.repeat(skill * right + rng.normal(size=right.shape), n_chunks, axis=0)
    logits = logits + rng.normal(size=logits.shape)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chunks = pd.DataFrame(probability, columns=GENRES)
    chunks.insert(0, "track_id", np.repeat(tracks.track_id.to_numpy(), n_chunks))
    chunks.insert(1, "start_s", np.tile(np.arange(n_chunks) * 1.5, n_tracks))
    return tracks, chunks


@quick
@given(st.integers(0, 10_000), st.integers(12, 60))
def test_metrics_against_plain_counting(seed, n_tracks):
    tracks, chunks = made_up(n_tracks, seed=seed)
    songs = song_vectors(chunks).sample(frac=1, random_state=seed)
    result = evaluate(songs, tracks, GENRES, n_resamples=50)
    truth = tracks.set_index("track_id").genre.reindex(songs.track_id).to_numpy()
    guess = [max(GENRES, key=lambda genre: row[genre]) for row in songs.to_dict("records")]
    table = [[sum(t == a and g == b for t, g in zip(truth, guess)) for b in GENRES] for a in GENRES]
    assert result["confusion"] == table
    assert result["accuracy"] == pytest.approx(sum(table[i][i] for i in range(4)) / n_tracks)
    f1 = []
    for i, genre in enumerate(GENRES):
        row, column = sum(table[i]), sum(line[i] for line in table)
        each = result["per_genre"][genre]
        assert each["n"] == row
        assert each["recall"] == pytest.approx(table[i][i] / row if row else 0)
        assert each["precision"] == pytest.approx(table[i][i] / column if column else 0)
        f1.append(2 * table[i][i] / (row + column) if row + column else 0)
    assert result["macro_f1"] == pytest.approx(np.mean(f1))
    ranks = [sorted(GENRES, key=lambda genre: -row[genre]).index(t) for row, t in zip(songs.to_dict("records"), truth)]
    assert result["top3"] == pytest.approx(np.mean(np.array(ranks) < 3))


def test_confusion_is_not_swapped():
    tracks = pd.DataFrame({"track_id": list("abcdef"), "genre": ["jazz"] * 4 + ["pop"] * 2})
    said = ["pop", "pop", "pop", "jazz", "pop", "pop"]  # three jazz tracks are taken for pop, no pop track for jazz
    songs = pd.DataFrame({"track_id": list("abcdef"), **{g: [float(s == g) for s in said] for g in ("jazz", "pop")}})
    result = evaluate(songs, tracks, ["jazz", "pop"])
    assert result["confusion"] == [[1, 3], [0, 2]]
    assert result["per_genre"]["jazz"] == {"precision": 1.0, "recall": 0.25, "f1": 0.4, "n": 4}


def test_song_vector_is_the_mean_of_the_chunks():
    tracks, chunks = made_up(seed=3)
    uneven = chunks.drop(index=[0, 1, 2, 7])  # two chunks of t000, four of t001
    table = uneven.sample(frac=1, random_state=0).assign(split="test", genre="pop")
    songs = song_vectors(table).set_index("track_id")
    np.testing.assert_allclose(songs.loc["t000"], chunks.loc[3:4, GENRES].mean(), rtol=1e-12)
    check_predictions(songs.reset_index(), tracks, GENRES)


@pytest.mark.parametrize("by", ["track", "artist"])
def test_interval_of_chunk_accuracy_against_a_loop(by):
    tracks, chunks = made_up(seed=1)
    result = evaluate(chunks, tracks, GENRES)
    truth = chunks.track_id.map(tracks.set_index("track_id").genre)
    right = (chunks[GENRES].idxmax(axis=1) == truth).to_numpy()
    unit = chunks.track_id if by == "track" else chunks.track_id.map(tracks.set_index("track_id").artist)
    parts = [right[unit == name] for name in unit.unique()]
    rng = np.random.default_rng(9)
    drawn = [np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))]).mean() for _ in range(3000)]
    key = "accuracy_ci95" if by == "track" else "accuracy_ci95_artists"
    np.testing.assert_allclose(result[key], np.quantile(drawn, [0.025, 0.975]), atol=0.012)


def test_interval_against_scipy():
    tracks, chunks = made_up(200, seed=2)
    result = evaluate(song_vectors(chunks), tracks, GENRES)
    guess = song_vectors(chunks)[GENRES].idxmax(axis=1)
    right = (guess == tracks.genre).to_numpy()
    peer = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    np.testing.assert_allclose(result["accuracy_ci95"], peer, atol=0.012)
    wilson = stats.binomtest(int(right.sum()), 200).proportion_ci(method="wilson")
    np.testing.assert_allclose(result["accuracy_ci95"], wilson, atol=0.015)


def test_macro_f1_interval_against_scipy():
    from sklearn.metrics import f1_score

    tracks, chunks = made_up(120, seed=4)
    songs = song_vectors(chunks)
    truth, guess = tracks.genre.to_numpy(), songs[GENRES].idxmax(axis=1).to_numpy()

    def statistic(index):
        index = index.astype(int)
        return f1_score(truth[index], guess[index], labels=GENRES, average="macro", zero_division=0)

    peer = stats.bootstrap(
        (np.arange(120),), statistic, vectorized=False, method="percentile", n_resamples=600, rng=0
    ).confidence_interval
    np.testing.assert_allclose(evaluate(songs, tracks, GENRES)["macro_f1_ci95"], peer, atol=0.025)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(200):
        right = rng.random(150) < 0.7
        low, high = bootstrap_interval(right[:, None], lambda c: c[:, 0] / 150, n_resamples=400, seed=trial)
        inside += low <= 0.7 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_interval_over_artists_is_wider_where_artists_agree():
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(100)], "genre": "jazz"})
    tracks["artist"] = [f"a{i // 10}" for i in range(100)]
    right = np.repeat([1, 1, 0, 1, 0, 1, 1, 0, 1, 1], 10).astype(float)
    songs = tracks[["track_id"]].assign(jazz=0.2 + 0.6 * right, pop=0.8 - 0.6 * right)
    result = evaluate(songs, tracks, ["jazz", "pop"])
    width = {key: np.ptp(result[key]) for key in ("accuracy_ci95", "accuracy_ci95_artists")}
    assert result["n_artists"] == 10 and width["accuracy_ci95_artists"] > 2 * width["accuracy_ci95"]


def test_comparison_against_scipy_and_the_binomial_sum():
    tracks, first = made_up(150, skill=1.0, seed=5)
    second = made_up(150, skill=1.6, seed=5)[1]
    songs = song_vectors(first), song_vectors(second)
    result = compare_runs(songs[0], songs[1].sample(frac=1, random_state=1), tracks, GENRES)
    a, b = ((table[GENRES].idxmax(axis=1) == tracks.genre).to_numpy() for table in songs)
    assert result["difference"] == pytest.approx(b.mean() - a.mean())
    lost, won = (a & ~b).sum(), (b & ~a).sum()
    assert (result["only_first_right"], result["only_second_right"]) == (lost, won)
    tail = sum(comb(int(lost + won), k) for k in range(min(lost, won) + 1)) / 2.0 ** (lost + won)
    assert result["mcnemar_p"] == pytest.approx(min(1.0, 2 * tail))
    peer = stats.bootstrap(
        (b.astype(float), a.astype(float)),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True, method="percentile", n_resamples=5000, rng=0,
    ).confidence_interval
    np.testing.assert_allclose(result["difference_ci95"], peer, atol=0.015)


def test_comparison_refuses_what_cannot_be_paired():
    tracks, chunks = made_up()
    songs = song_vectors(chunks)
    with pytest.raises(ValueError, match="2 tracks were predicted by one run only: t000, t001"):
        compare_runs(songs.iloc[2:], songs, tracks, GENRES)
    with pytest.raises(ValueError, match="first has a row per chunk"):
        compare_runs(chunks, songs, tracks, GENRES)
    same = compare_runs(songs, songs, tracks, GENRES)
    assert same["difference_ci95"] == [0.0, 0.0] and same["mcnemar_p"] == 1.0


@pytest.mark.parametrize("fault, match", [
    (lambda p: p.assign(pop=p["pop"].where(p.index != 3)), "1 of 400 rows: is NaN; the first is t000"),
    (lambda p: p.assign(pop=p["pop"] * 0.5), "of 400 rows: don't sum to 1"),
    (lambda p: p.assign(pop=p["pop"] - 2, jazz=p["jazz"] + 2), r"is outside \[0, 1\]"),
    (lambda p: p.drop(columns="metal"), "lacks the column metal"),
    (lambda p: pd.concat([p, p.iloc[[7]]]), "duplicate rows: t001 at 3.0"),
    (lambda p: p.drop(columns="start_s"), "duplicate rows: t000"),
    (lambda p: p.head(0), "predictions is empty"),
    (lambda p: p.assign(track_id=p.track_id.replace("t004", "x")), "not in tracks: x"),
])
def test_faulty_predictions_are_named(fault, match):
    tracks, chunks = made_up()
    for use in (evaluate, reliability_curve, fit_temperature):
        with pytest.raises(ValueError, match=match):
            use(fault(chunks), tracks, GENRES)


def test_faulty_tracks_are_named():
    tracks, chunks = made_up()
    with pytest.raises(ValueError, match="genre polka of"):
        evaluate(chunks, tracks.assign(genre=tracks.genre.replace("pop", "polka")), GENRES)
    with pytest.raises(ValueError, match=r"track_id is not unique: t000 \(row 0\), t000 \(row 0\)"):
        evaluate(chunks, pd.concat([tracks, tracks.head(1)]), GENRES)
    with pytest.raises(ValueError, match="expected sorted names"):
        evaluate(chunks, tracks, GENRES[::-1])


def test_a_track_without_prediction_is_reported():
    tracks, chunks = made_up()
    sides = tracks.assign(split=["test"] * 60 + ["train"] * 20)
    tested = chunks[chunks.track_id < "t059"]
    with pytest.warns(UserWarning, match="1 tracks of test have no prediction: t059"):
        evaluate(tested, sides, GENRES)


def test_metrics_are_ready_for_json():
    import json

    tracks, chunks = made_up()
    result = evaluate(chunks, tracks, GENRES)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert evaluate(chunks, tracks, GENRES) == result  # the seed decides the interval
    assert "n_artists" not in evaluate(chunks, tracks.drop(columns="artist"), GENRES)


def test_calibration_error_by_hand():
    tracks = pd.DataFrame({"track_id": list("abcd"), "genre": ["jazz", "jazz", "pop", "pop"]})
    songs = pd.DataFrame({"track_id": list("abcd"), "jazz": [0.95, 0.91, 0.62, 0.38], "pop": [0.05, 0.09, 0.38, 0.62]})
    curve = reliability_curve(songs, tracks, ["jazz", "pop"])
    assert curve.n.tolist() == [2, 2] and curve.accuracy.tolist() == [0.5, 1.0]
    expected = 0.5 * abs(0.62 - 0.5) + 0.5 * abs(0.93 - 1.0)
    assert expected_calibration_error(songs, tracks, ["jazz", "pop"]) == pytest.approx(expected)


def test_temperature_puts_a_network_right_that_is_too_sure():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(4), size=4000)  # says exactly how sure it may be
    truth = [rng.choice(GENRES, p=p) for p in probability]
    tracks = pd.DataFrame({"track_id": [f"t{i:04d}" for i in range(4000)], "genre": truth})
    honest = tracks[["track_id"]].assign(**dict(zip(GENRES, probability.T)))
    too_sure = apply_temperature(honest, 1 / 3, GENRES)
    assert fit_temperature(honest, tracks, GENRES) == pytest.approx(1.0, abs=0.08)
    temperature = fit_temperature(too_sure, tracks, GENRES)
    assert temperature == pytest.approx(3.0, abs=0.25)
    cured = apply_temperature(too_sure, temperature, GENRES)
    assert expected_calibration_error(too_sure, tracks, GENRES) > 0.15
    assert expected_calibration_error(cured, tracks, GENRES) < 0.03
    assert negative_log_likelihood(cured, tracks, GENRES) < negative_log_likelihood(too_sure, tracks, GENRES)
    before, after = (evaluate(table, tracks, GENRES, n_resamples=20)["accuracy"] for table in (too_sure, cured))
    assert before == after


def test_certain_predictions_have_no_infinite_loss():
    tracks = pd.DataFrame({"track_id": ["a", "b"], "genre": ["jazz", "pop"]})
    songs = pd.DataFrame({"track_id": ["a", "b"], "jazz": [1.0, 1.0], "pop": [0.0, 0.0]})
    assert np.isfinite(negative_log_likelihood(songs, tracks, ["jazz", "pop"]))
    assert np.isfinite(fit_temperature(songs, tracks, ["jazz", "pop"]))


class Tracks:
    """Spectrograms of a few tracks in memory."""

    unit, silence = "db", -100.0

    def frames(self, track_id):
        rng = np.random.default_rng(int(track_id[1:]))
        return rng.normal(-40, 10, size=(300, 16)).astype("float16")


def test_predict_chunks_with_a_keras_model():
    keras = pytest.importorskip("keras")
    from genre_study.feed import read_chunks

    keras.utils.set_random_seed(0)
    layers = [keras.layers.AveragePooling2D((16, 13)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    model = keras.Sequential([keras.Input((16, 130, 1)), *layers])
    chunks = pd.DataFrame({"track_id": [f"t{i % 5}" for i in range(23)], "start_frame": np.arange(23) * 7})
    chunks = chunks.assign(start_s=chunks.start_frame * 512 / 22050, n_frames=130)
    table = predict_chunks(model, Tracks(), chunks, GENRES, batch_size=8)
    assert table.track_id.tolist() == chunks.track_id.tolist() and list(table)[2:] == GENRES
    whole = model.predict(read_chunks(Tracks(), chunks), verbose=0)
    np.testing.assert_allclose(table[GENRES], whole, atol=1e-5)
    with pytest.raises(ValueError, match="no chunk"):
        predict_chunks(model, Tracks(), chunks.head(0), GENRES)
    with pytest.raises(ValueError, match="4 outputs for 3 genres"):
        predict_chunks(model, Tracks(), chunks, GENRES[:3])


@pytest.mark.parametrize("n, right", [(290, True), (290, False), (7, True), (1, False)])
def test_all_right_or_none_is_no_certainty(n, right):
    artist = [f"a{i // 5}" for i in range(n)]
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(n)], "genre": "jazz", "artist": artist})
    songs = tracks[["track_id"]].assign(jazz=float(right), pop=float(not right))
    result = evaluate(songs, tracks, ["jazz", "pop"])
    for key, units in (("accuracy_ci95", n), ("accuracy_ci95_artists", result["n_artists"])):
        wilson = stats.binomtest(units * right, units).proportion_ci(method="wilson")
        np.testing.assert_allclose(result[key], wilson, atol=1e-6)
    chunks = pd.concat([songs.assign(start_s=start_s) for start_s in (0.0, 1.5)])
    of_chunks = evaluate(chunks, tracks, ["jazz", "pop"])
    assert of_chunks["accuracy_ci95"] == result["accuracy_ci95"]  # a track is one answer


@pytest.mark.parametrize("artist", ["", " ", None, np.nan])
def test_artists_without_a_name_are_no_artists(artist):
    tracks, chunks = made_up(20, seed=2)
    plain = evaluate(song_vectors(chunks), tracks.drop(columns="artist", errors="ignore"), GENRES)
    assert evaluate(song_vectors(chunks), tracks.assign(artist=artist), GENRES) == plain


@quick
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(seed, random):
    """Artists belong to tracks by name, not by the place of a row; so does everything else."""
    tracks, chunks = made_up(30, 2, seed=seed, n_artists=8)
    songs, order = song_vectors(chunks), list(range(30))
    random.shuffle(order)
    for table in (chunks, songs):
        one = evaluate(table, tracks, GENRES, n_resamples=100)
        assert evaluate(table.sample(frac=1, random_state=seed), tracks.iloc[order], GENRES, n_resamples=100) == one
    other = song_vectors(made_up(30, 2, skill=2.0, seed=seed, n_artists=8)[1])
    both = compare_runs(songs, other, tracks, GENRES, n_resamples=100)
    assert compare_runs(songs.iloc[order], other, tracks.iloc[order[::-1]], GENRES, n_resamples=100) == both


def test_artist_interval_against_a_loop_over_names():
    """Predictions in another order than the tracks, and a third of the tracks untested."""
    tracks, chunks = made_up(90, seed=7, n_artists=12)
    songs = song_vectors(chunks).sample(60, random_state=3)
    right = dict(zip(songs.track_id, songs[GENRES].idxmax(axis=1)))
    truth, artist = (dict(zip(tracks.track_id, tracks[name])) for name in ("genre", "artist"))
    of_artist = {}
    for track_id, guess in right.items():
        of_artist.setdefault(artist[track_id], []).append(guess == truth[track_id])
    names, rng = sorted(of_artist), np.random.default_rng(1)
    drawn = [np.concatenate([of_artist[names[i]] for i in rng.integers(len(names), size=len(names))]).mean()
             for _ in range(4000)]
    result = evaluate(songs, tracks, GENRES, n_resamples=4000)
    np.testing.assert_allclose(result["accuracy_ci95_artists"], np.quantile(drawn, [0.025, 0.975]), atol=0.015)


def correlated(n_tracks=200, seed=0):
    """Song vectors of two networks that mostly fail on the same tracks."""
    tracks, _ = made_up(n_tracks, seed=seed)
    rng = np.random.default_rng(seed)
    hard, tables = rng.random(n_tracks) < 0.4, []
    for luck in (0.05, 0.1):
        wrong = hard ^ (rng.random(n_tracks) < luck)
        said = [GENRES[(GENRES.index(genre) + miss) % 4] for genre, miss in zip(tracks.genre, wrong)]
        tables.append(tracks[["track_id"]].assign(**{g: [0.7 if g == s else 0.1 for s in said] for g in GENRES}))
    return tracks, tables


def test_paired_intervals_are_narrower_than_unpaired_ones():
    tracks, (first, second) = correlated()
    a, b = ((table[GENRES].idxmax(axis=1) == tracks.genre).to_numpy(float) for table in (first, second))
    assert np.corrcoef(a, b)[0, 1] > 0.5
    rng = np.random.default_rng(5)
    rows, others = rng.integers(200, size=(2, 4000, 200))
    paired = np.quantile((b[rows] - a[rows]).mean(axis=1), [0.025, 0.975])
    unpaired = np.quantile(b[rows].mean(axis=1) - a[others].mean(axis=1), [0.025, 0.975])
    assert np.ptp(unpaired) > 1.5 * np.ptp(paired)
    for result in (compare_runs(first, second, tracks, GENRES), accuracy_gap([second], [first], tracks, GENRES)):
        np.testing.assert_allclose(result["difference_ci95"], paired, atol=0.012)


def test_pooled_interval_draws_tracks_with_all_their_answers():
    tracks, (first, _) = correlated(120, seed=2)
    one = pooled_accuracy([first], tracks, GENRES)
    many = pooled_accuracy([first] * 9, tracks, GENRES)
    assert many["n"] == 9 * one["n"] and many["n_tracks"] == one["n_tracks"] == 120
    assert many["accuracy_ci95"] == pytest.approx(one["accuracy_ci95"])  # nine copies of a run are no more evidence
    assert many["accuracy_ci95_artists"] == pytest.approx(one["accuracy_ci95_artists"])
    wilson = stats.binomtest(round(one["accuracy"] * 120), 120).proportion_ci(method="wilson")
    np.testing.assert_allclose(many["accuracy_ci95"], wilson, atol=0.02)


def test_pooled_runs_that_are_all_right_are_no_certainty():
    tracks, _ = correlated(40)
    sure = tracks[["track_id"]].assign(**{genre: (tracks.genre == genre).astype(float) for genre in GENRES})
    assert pooled_accuracy([sure] * 3, tracks, GENRES)["accuracy_ci95"] == pytest.approx(wilson_interval(40, 40))


@pytest.mark.parametrize("n_right, n", [(0, 1), (1, 1), (0, 37), (20, 37), (37, 37), (290, 290)])
def test_wilson_interval_solves_its_equation(n_right, n):
    """The ends are those shares p that lie 1.96 standard errors, at p itself, from what was found."""
    low, high = wilson_interval(n_right, n)
    for end in (low, high):
        assert abs(n_right / n - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n), abs=1e-5)
    assert 0 <= low < high <= 1


def test_a_temperature_above_one_softens():
    songs = pd.DataFrame({"track_id": ["a", "b"], "jazz": [0.9, 0.2], "pop": [0.1, 0.8]})
    cold, warm = (apply_temperature(songs, temperature, ["jazz", "pop"]) for temperature in (0.5, 2.0))
    for table, power in ((cold, 2.0), (warm, 0.5)):
        expected = songs.jazz**power / (songs.jazz**power + songs["pop"]**power)
        np.testing.assert_allclose(table.jazz, expected)
    assert (cold[["jazz", "pop"]].max(axis=1) > songs[["jazz", "pop"]].max(axis=1)).all()
    assert (warm[["jazz", "pop"]].max(axis=1) < songs[["jazz", "pop"]].max(axis=1)).all()
    tracks = pd.DataFrame({"track_id": [f"t{i}" for i in range(100)], "genre": ["jazz"] * 70 + ["pop"] * 30})
    for confidence, side in ((0.95, "above"), (0.55, "below")):  # right in 70%: too sure, and not sure enough
        said = tracks[["track_id"]].assign(jazz=confidence, pop=1 - confidence)
        temperature = fit_temperature(said, tracks, ["jazz", "pop"])
        assert (temperature > 1) == (side == "above")
        np.testing.assert_allclose(apply_temperature(said, temperature, ["jazz", "pop"]).jazz, 0.7, atol=0.01)


def test_calibration_error_weighs_bins_by_their_songs():
    """Ninety songs without an error and ten with an error of 0.55 are 0.055, not the mean of the two bins."""
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(100)], "genre": ["jazz"] * 63 + ["pop"] * 37})
    jazz = np.r_[np.full(90, 0.7), np.full(10, 0.55)]  # 63 of 90 are jazz; of the ten others, none
    songs = tracks[["track_id"]].assign(jazz=jazz, pop=1 - jazz)
    assert expected_calibration_error(songs, tracks, ["jazz", "pop"]) == pytest.approx(0.055)


def test_a_seed_changes_the_resamples():
    tracks, chunks = made_up(60, seed=11)
    songs, others = song_vectors(chunks), song_vectors(made_up(60, seed=11, skill=2.5)[1])
    measures = [lambda seed: evaluate(songs, tracks, GENRES, seed=seed)["macro_f1_ci95"],
                lambda seed: compare_runs(songs, others, tracks, GENRES, seed=seed)["difference_ci95_artists"],
                lambda seed: pooled_accuracy([songs, others], tracks, GENRES, seed=seed)["accuracy_ci95_artists"],
                lambda seed: accuracy_gap([songs], [others], tracks, GENRES, seed=seed)["difference_ci95_artists"]]
    for measure in measures:
        found = [tuple(measure(seed)) for seed in (0, 0, 1, 2, 3, 4)]
        assert found[0] == found[1] and len(set(found)) > 2


def test_macro_f1_interval_counts_what_was_missed():
    """A genre that is named once and missed often: precision says 1, and F1 does not."""
    from sklearn.metrics import f1_score

    tracks = pd.DataFrame({"track_id": [f"t{place:02d}" for place in range(60)], "genre": ["jazz"] * 30 + ["pop"] * 30})
    said = np.array(["jazz"] * 10 + ["pop"] * 50)
    songs = tracks[["track_id"]].assign(jazz=(said == "jazz") * 1.0, pop=(said == "pop") * 1.0)
    result = evaluate(songs, tracks, ["jazz", "pop"], seed=3, n_resamples=400)
    drawn = np.random.default_rng(3).multinomial(60, np.full(60, 1 / 60), size=400)
    truth = tracks.genre.to_numpy()
    peers = [f1_score(np.repeat(truth, times), np.repeat(said, times), average="macro") for times in drawn]
    np.testing.assert_allclose(result["macro_f1_ci95"], np.quantile(peers, [0.025, 0.975]), rtol=1e-9)
    assert result["macro_f1_ci95"][0] < result["macro_f1"] < result["macro_f1_ci95"][1]


class Network:
    """Four outputs; what it carries of its training can be set."""

    input_shape, output_shape, genres, learned = (None, 16, 130, 1), (None, 4), None, None

    def predict_on_batch(self, batch):
        return np.tile([0.4, 0.3, 0.2, 0.1], (len(batch), 1))


@pytest.mark.parametrize("carried", [None, tuple(GENRES), GENRES])
def test_the_order_of_the_genres_is_that_of_the_outputs(carried):
    chunks = pd.DataFrame({"track_id": ["t1", "t2"], "start_frame": 0, "start_s": 0.0, "n_frames": 130})
    network = Network()
    network.genres = carried
    wrong = [GENRES[::-1], ["jazz", "blues", "metal", "pop"], ["blues", "blues", "jazz", "pop"]]
    wrong += [["blues", "jazz", "metal", "rock"]] if carried else []
    for genres in wrong:
        with pytest.raises(ValueError, match=r"genres is .*; (expected sorted names|the network was trained on)"):
            predict_chunks(network, Tracks(), chunks, genres)
    table = predict_chunks(network, Tracks(), chunks, None if carried else GENRES)
    assert list(table)[2:] == GENRES and table.blues.tolist() == pytest.approx([0.4, 0.4])
    if not carried:
        with pytest.raises(ValueError, match="carries no genres; pass genres"):
            output_genres(network)


@pytest.mark.parametrize("scaling", ["none", "power", "track", "band"])
def test_chunks_are_predicted_in_the_scaling_that_is_asked_for(scaling):
    """What the network is given is what training gives it."""
    chunks = pd.DataFrame({"track_id": ["t1", "t2", "t1"], "start_frame": [0, 4, 9], "start_s": [0.0, 0.1, 0.2],
                           "n_frames": 130})
    network, seen = Network(), []
    network.predict_on_batch = lambda batch: seen.append(np.array(batch)) or np.full((len(batch), 4), 0.25)
    predict_chunks(network, Tracks(), chunks, GENRES, scaling=scaling)
    np.testing.assert_array_equal(np.concatenate(seen), read_chunks(Tracks(), chunks, scaling))


class Disk(Tracks):
    """A store that knows what its tracks hold; t3 is t1 under another name."""

    tracks = pd.DataFrame({"track_id": ["t1", "t2", "t3"]})

    def content_hash(self, track_id):
        return {"t3": "t1"}.get(track_id, track_id)


def test_copies_of_what_was_learned_are_not_evaluated(tmp_path):
    """A renamed track is the same track, whether a table of chunks holds the other one or not."""
    chunks = pd.DataFrame({"track_id": ["t2", "t3"], "start_frame": 0, "start_s": 0.0, "n_frames": 130})
    tracks = pd.DataFrame({"track_id": ["t2", "t3"], "genre": ["jazz", "blues"]})
    network = Network()
    network.genres, network.learned, network.learned_content = GENRES, ("t1",), frozenset({"t1"})
    table = predict_chunks(network, Disk(), chunks)
    song_vectors(table).to_parquet(tmp_path / "songs.parquet")
    for predictions in (table, pd.read_parquet(tmp_path / "songs.parquet")):
        with pytest.raises(LeakageError, match="learned from 1 of these tracks: t3"):
            evaluate(predictions, tracks, GENRES)
        assert evaluate(predictions, tracks, GENRES, learned=["t1"])["n_tracks"] == 2
        assert evaluate(predictions[predictions.track_id != "t3"], tracks, GENRES)["n_tracks"] == 1
    both = pd.concat([table[:1], table[1:]])
    with pytest.raises(LeakageError, match="t3"):
        evaluate(both, tracks, GENRES)


def test_tracks_that_were_learned_from_are_not_evaluated(tmp_path):
    chunks = pd.DataFrame({"track_id": np.repeat(["t1", "t2", "t3"], 2), "start_frame": [0, 65] * 3, "n_frames": 130})
    chunks["start_s"] = chunks.start_frame * 512 / 22050
    tracks = pd.DataFrame({"track_id": ["t1", "t2", "t3"], "genre": ["blues", "jazz", "blues"]})
    network = Network()
    network.genres, network.learned = GENRES, ("t2", "t9")
    table = predict_chunks(network, Tracks(), chunks)
    songs = song_vectors(table)
    songs.to_parquet(tmp_path / "songs.parquet")
    for predictions in (table, songs, pd.read_parquet(tmp_path / "songs.parquet")):
        with pytest.raises(LeakageError, match=r"learned from 1 of these tracks: t2; .*, or pass learned=\[\]"):
            evaluate(predictions, tracks, GENRES)
        assert evaluate(predictions, tracks, GENRES, learned=[])["n_tracks"] == 3
    plain = songs.copy()
    plain.attrs.clear()
    for measure in (lambda **learned: compare_runs(plain, songs, tracks, GENRES, **learned),
                    lambda **learned: compare_runs(songs, plain, tracks, GENRES, **learned),
                    lambda **learned: pooled_accuracy([plain, table], tracks, GENRES, **learned),
                    lambda **learned: accuracy_gap([plain], [table], tracks, GENRES, **learned)):
        with pytest.raises(LeakageError, match="learned from 1 of these tracks: t2"):
            measure()
        with pytest.raises(LeakageError, match="learned from 1 of these tracks: t1"):
            measure(learned=["t1"])
        assert measure(learned=[])
    for predictions in (table, songs):
        assert evaluate(predictions[predictions.track_id != "t2"], tracks, GENRES)["n_tracks"] == 2
    songs.attrs.clear()
    assert evaluate(songs, tracks, GENRES)["n_tracks"] == 3  # nothing is known of the network
    with pytest.raises(LeakageError, match="learned from 2 of these tracks: t1, t3"):
        evaluate(songs, tracks, GENRES, learned={"t1", "t3"})


@pytest.mark.filterwarnings("ignore")
def test_a_trained_network_carries_its_genres_and_what_it_learned():
    pytest.importorskip("keras")
    from genre_study.model import build_network
    from genre_study.train import TrainSpec, train

    store = Tracks()
    store.spec = SimpleNamespace(n_mels=16)
    tracks = pd.DataFrame({"track_id": [f"t{i}" for i in range(8)], "genre": ["pop", "jazz"] * 4})
    chunks = tracks.assign(start_frame=0, start_s=0.0, n_frames=130, split=["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    network = build_network("quick_cnn", (16, 130, 1), 2, seed=0)
    train(network, store, chunks, TrainSpec(epochs=1, batch_size=4), progress=False)
    table = predict_chunks(network, store, chunks)
    assert list(table)[2:] == ["jazz", "pop"]
    for genres in (["pop", "jazz"], ["blues", "jazz"], list(chunks.genre.unique())):
        with pytest.raises(ValueError, match="the network was trained on jazz, pop, in this order"):
            predict_chunks(network, store, chunks, genres)
    with pytest.raises(LeakageError, match="learned from 4 of these tracks: t0, t1, t2, t3"):
        evaluate(table, tracks, ["jazz", "pop"])
    train(network, store, chunks[2:4], TrainSpec(epochs=1, batch_size=4), progress=False)  # it forgets nothing
    with pytest.raises(LeakageError, match="learned from 4 of these tracks: t0, t1, t2, t3"):
        evaluate(predict_chunks(network, store, chunks), tracks, ["jazz", "pop"])
    test = table[table.track_id.isin(["t6", "t7"])]
    assert evaluate(song_vectors(test), tracks, ["jazz", "pop"])["n_tracks"] == 2


def test_certain_answers_are_in_the_highest_bin():
    """A confidence of exactly 1 is no bin of its own; every answer is in one, between its edges."""
    confidence = np.r_[np.linspace(0.5, 1.0, 51), [1.0] * 9]
    tracks = pd.DataFrame({"track_id": [f"t{i:02d}" for i in range(60)], "genre": "jazz"})
    songs = tracks[["track_id"]].assign(jazz=confidence, pop=1 - confidence)
    curve = reliability_curve(songs, tracks, ["jazz", "pop"], n_bins=5)
    assert curve.n.sum() == 60 and curve.high.max() == 1.0 and curve.low.is_unique and len(curve) == 3
    assert ((curve.low - 1e-9 <= curve.confidence) & (curve.confidence <= curve.high)).all()


def test_intervals_have_the_level_and_the_resamples_that_are_asked_for():
    counts = np.column_stack([np.random.default_rng(0).random(200) < 0.7, np.ones(200)])
    share = counts[:, 0].mean()

    def interval(**options):
        return bootstrap_interval(counts, lambda c: c[:, 0] / c[:, 1], **options)

    for level in (0.5, 0.9, 0.99):
        half = stats.norm.ppf((1 + level) / 2) * np.sqrt(share * (1 - share) / 200)
        np.testing.assert_allclose(interval(level=level), (share - half, share + half), atol=0.012)
        peer = stats.binomtest(140, 200).proportion_ci(level, method="wilson")
        assert wilson_interval(140, 200, level) == pytest.approx((peer.low, peer.high))
    seen = []
    bootstrap_interval(counts, lambda c: seen.append(len(c)) or c[:, 0] / c[:, 1], n_resamples=37)
    assert seen == [37]


def test_one_artist_alone_leaves_an_interval_no_width():
    """All resamples are the whole then: its two ends are the value itself, of chunks and of songs, of F1 as well."""
    tracks, chunks = made_up(n_tracks=30, skill=0.8)
    tracks = tracks.assign(artist="a band", genre=["blues"] * 18 + ["jazz"] * 8 + ["metal"] * 3 + ["pop"])
    for table in (chunks, song_vectors(chunks)):
        found = evaluate(table, tracks, GENRES)
        assert found["n_artists"] == 1 and found["macro_f1"] != pytest.approx(found["accuracy"], abs=1e-3)
        for name in ("accuracy", "macro_f1"):
            assert found[f"{name}_ci95_artists"] == pytest.approx([found[name]] * 2)
        pooled = pooled_accuracy([table, table[::2]], tracks, GENRES)
        assert pooled["n"] == len(table) + len(table[::2])
        assert pooled["accuracy_ci95_artists"] == pytest.approx([pooled["accuracy"]] * 2)


def test_the_interval_over_artists_draws_as_many_as_there_are():
    """Five bands of twenty songs are five draws: against SciPy, over the sums of each band."""
    rng = np.random.default_rng(2)
    right = rng.random((5, 20)) < np.linspace(0.2, 0.9, 5)[:, None]
    counts = np.column_stack([right.ravel(), np.ones(100)])
    found = bootstrap_interval(counts, lambda c: c[:, 0] / c[:, 1], np.repeat(list("abcde"), 20), n_resamples=9999)
    peer = stats.bootstrap((right.mean(axis=1),), np.mean, n_resamples=9999, method="percentile", rng=1)
    np.testing.assert_allclose(found, tuple(peer.confidence_interval), atol=0.03)


def test_artists_are_counted_on_the_side_that_was_predicted():
    tracks, chunks = made_up(n_tracks=40, n_artists=12)
    half = tracks.track_id[:15]
    found = evaluate(chunks[chunks.track_id.isin(half)], tracks, GENRES)
    assert found["n_artists"] == tracks.artist[:15].nunique() < tracks.artist.nunique()
    assert found["n_tracks"] == 15


def test_a_genre_that_is_never_named_has_no_precision():
    tracks = pd.DataFrame({"track_id": list("abc"), "genre": ["blues", "jazz", "pop"]})
    songs = tracks[["track_id"]].assign(blues=1.0, jazz=0.0, pop=0.0)
    found = evaluate(songs, tracks, ["blues", "jazz", "pop"])["per_genre"]
    assert [found[name]["precision"] for name in ("blues", "jazz", "pop")] == pytest.approx([1 / 3, 0, 0])
    assert [found[name]["recall"] for name in ("blues", "jazz", "pop")] == [1, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 4, 9, 23])
def test_a_batch_that_is_not_full_changes_no_prediction(batch_size):
    """Filled up with zeros, in the precision of the others."""
    from genre_study.feed import read_chunks
    from genre_study.model import build_network

    chunks = pd.DataFrame({"track_id": [f"t{i % 5}" for i in range(23)], "start_frame": np.arange(23) * 7})
    chunks = chunks.assign(start_s=chunks.start_frame * 512 / 22050, n_frames=130)
    network = build_network("quick_cnn", (16, 130, 1), 4, seed=2)
    expected = network.predict(read_chunks(Tracks(), chunks), verbose=0)
    found = predict_chunks(network, Tracks(), chunks, GENRES, batch_size=batch_size)[GENRES].to_numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.4, 3.0, 8.0])
def test_a_temperature_that_was_applied_is_found_again(temperature):
    """Probabilities that are right as often as they say, made too sure or not sure enough."""
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(4, 3.0), 4000)
    truth = [rng.choice(GENRES, p=row) for row in honest]
    tracks = pd.DataFrame({"track_id": [f"t{i:04d}" for i in range(4000)], "genre": truth})
    songs = tracks[["track_id"]].assign(**dict(zip(GENRES, honest.T)))
    other = apply_temperature(songs, 1 / temperature, GENRES)
    assert fit_temperature(other, tracks, GENRES) == pytest.approx(temperature, rel=0.1)


def test_a_reliability_curve_has_the_bins_and_the_means_that_it_names():
    confidence = np.r_[np.full(9, 0.62), 0.69, np.full(10, 0.75)]
    tracks = pd.DataFrame({"track_id": [f"t{i:02d}" for i in range(20)], "genre": ["jazz"] * 15 + ["pop"] * 5})
    songs = tracks[["track_id"]].assign(jazz=confidence, pop=1 - confidence)
    for n_bins, confidences in ((10, [(9 * 0.62 + 0.69) / 10, 0.75]), (2, [confidence.mean()])):
        curve = reliability_curve(songs, tracks, ["jazz", "pop"], n_bins)
        assert curve.confidence.tolist() == pytest.approx(confidences)
        error = np.average(abs(curve.confidence - curve.accuracy), weights=curve.n)
        assert expected_calibration_error(songs, tracks, ["jazz", "pop"], n_bins) == pytest.approx(error)
    one, two = (expected_calibration_error(songs, tracks, ["jazz", "pop"], n) for n in (10, 2))
    assert one != pytest.approx(two)
