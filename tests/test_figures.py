"""Accuracies, computed again from the predictions that are committed beside them, by code of this test's own.

A figure in metrics.json could be changed together with its quotation in README or the model card. Here it is counted
from the predictions and the table of tracks: right answers, intervals that draw songs and intervals that draw artists.
"""
import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports"
with (ROOT / "genre_study" / "data" / "gtzan_tracks.csv").open(encoding="utf-8") as file:
    TRACKS = {row["track_id"]: row for row in csv.DictReader(file)}
GENRES = sorted({row["genre"] for row in TRACKS.values()})


def right_answers(*files, side=None):
    """One row per track: mean share of right answers over the files (the seeds), and the artist (else the track)."""
    shares = []
    for name in files:
        table = pd.read_parquet(REPORTS / name)
        if side is not None:
            table = table[table.split == side]
        assert not table.track_id.duplicated().any(), name
        predicted = np.array(GENRES)[table[GENRES].to_numpy().argmax(axis=1)]
        truth = [TRACKS[track]["genre"] for track in table.track_id]
        shares.append(pd.Series(predicted == truth, index=table.track_id.to_numpy()))
    share = pd.concat(shares, axis=1).astype(float).mean(axis=1)
    artists = [TRACKS[track]["artist"].strip().casefold() or track for track in share.index]
    return pd.DataFrame({"share": share, "artist": artists})


def interval(rows, by, n_resamples=4000):
    """Percentile interval of the mean share, drawing `by` (tracks or artists) with replacement."""
    rng = np.random.default_rng(11)
    sums, counts = (rows.groupby(by)["share"].agg(how).to_numpy(float) for how in ("sum", "count"))
    drawn = rng.integers(len(sums), size=(n_resamples, len(sums)))
    return np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])


PUBLISHED = {"as_coded": "binary", "as_drawn": "categorical"}  # the key of each loss, and its word in names of runs
RULES = ("chunks", "tracks", "artists", "artists_clean", "official")
FIGURES = {  # metrics.json # key: the files of predictions
    "accuracy/metrics.json#test": [f"accuracy/predictions-{seed}.parquet" for seed in range(5)],
    "accuracy/metrics.json#artist_folds": ["accuracy/predictions-folds.parquet"],
    "accuracy/metrics.json#shipped": ["accuracy/predictions-shipped.parquet"],
    "horse/metrics.json#shipped": ["horse/predictions-shipped.parquet"],
    "kernels/metrics.json#train": ["kernels/predictions-train.parquet"],
    "kernels/metrics.json#train_and_valid": ["kernels/predictions-train_and_valid.parquet"],
    "pretraining/metrics.json#test": ["pretraining/predictions.parquet"],
    "mel999-filtered-fourteen/metrics.json#song": ["mel999-filtered-fourteen/songs.parquet"],
}


def value(place):
    """What a link such as accuracy/metrics.json#test leads to."""
    name, _, path = place.partition("#")
    part = json.loads((REPORTS / name).read_text(encoding="utf-8"))
    for key in path.split("."):
        part = part[int(key) if isinstance(part, list) else key]
    return part


@pytest.mark.parametrize("place", FIGURES)
def test_accuracy_is_what_its_predictions_say(place):
    said, side = value(place), "test" if place.startswith("mel999") else None
    rows = right_answers(*FIGURES[place], side=side)
    assert said["n_tracks"] == len(rows)
    assert said["accuracy"] == pytest.approx(rows.share.mean(), abs=1e-9)
    assert said["accuracy_ci95"] == pytest.approx(list(interval(rows, rows.index)), abs=0.008)
    assert said["accuracy_ci95_artists"] == pytest.approx(list(interval(rows, "artist")), abs=0.02)


def test_the_recipes_seeds_and_their_mean_network():
    said, each = value("accuracy/metrics.json#test"), FIGURES["accuracy/metrics.json#test"]
    assert said["per_seed"] == pytest.approx([right_answers(name).share.mean() for name in each], abs=1e-9)
    assert said["n"] == len(each) * said["n_tracks"]
    mean = sum(pd.read_parquet(REPORTS / name).set_index("track_id")[GENRES] for name in each)
    truth = [TRACKS[track]["genre"] for track in mean.index]
    predicted = np.array(GENRES)[mean.to_numpy().argmax(axis=1)]
    counts = pd.crosstab(pd.Categorical(truth, GENRES), pd.Categorical(predicted, GENRES), dropna=False).to_numpy()
    assert (counts == value("accuracy/metrics.json#ensemble.confusion")).all()


def test_the_tested_tracks_are_the_test_side():
    """The predictions of each figure are of all tracks that the fault-filtered split calls test, and of no others."""
    test = {track for track, row in TRACKS.items() if row["filtered_split"] == "test"}
    for place, files in FIGURES.items():
        if "folds" not in place:
            side = "test" if place.startswith("mel999") else None
            assert set(right_answers(*files, side=side).index) == test, place
    assert len(test) == 290


ACCURACY = re.compile(r"\]\((?:\.\./)*(?:reports/)?([\w./-]*metrics\.json#[\w.]*accuracy)\)")


@pytest.mark.parametrize("document", ["README.md", "reports/accuracy/MODEL_CARD.md"])
def test_no_accuracy_is_quoted_that_can_not_be_computed_again(document):
    folder = "" if document == "README.md" else "accuracy/"
    targets = ACCURACY.findall((ROOT / document).read_text("utf-8"))
    quoted = {target if "/" in target else folder + target for target in targets}
    covered = {f"{place}.accuracy" for place in FIGURES}
    covered |= {f"protocols/metrics.json#rules.{rule}.accuracy" for rule in RULES}
    added = ("matched.artists", "nested.shipped", "nested.nested",
             *(f"fourteen_layers.rules.{rule}" for rule in ("chunks", "tracks", "artists")))
    covered |= {f"protocols/metrics.json#{key}.accuracy" for key in added}
    covered |= {f"published/metrics.json#{key}.accuracy" for key in PUBLISHED}
    covered |= {f"horse/metrics.json#changes.{change}.{recipe}.accuracy"
                for change in value("horse/metrics.json#changes") for recipe in ("plain", "copies")}
    covered |= {"reproduce/metrics.json#song.accuracy", "claims/metrics.json#published_accuracy"}
    assert quoted and not quoted - covered


def accuracy_of_runs(runs):
    """Mean accuracy of runs, each the share of its test tracks whose predicted genre is the table's."""
    right = runs.predicted.astype(str) == [TRACKS[track]["genre"] for track in runs.track_id]
    return right.groupby([runs.split, runs.seed]).mean().groupby("split").mean()


def test_protocols_are_what_their_predictions_say():
    answers = pd.read_parquet(REPORTS / "protocols" / "predictions.parquet")
    means = {key: accuracy_of_runs(group) for key, group in answers.groupby(["rule", "n_train"], observed=True)}
    said = value("protocols/metrics.json#rules")
    said["artists_matched"] = value("protocols/metrics.json#matched.artists")
    for rule, figures in said.items():
        found = means[rule.replace("_", ", "), 442]
        assert figures["accuracy"] == pytest.approx(found.mean(), abs=1e-9), rule
        assert figures["n_splits"] == len(found)
        if len(found) > 1:  # Student's interval over splits: t is 2.262 for nine degrees of freedom
            half = 2.2622 * found.std(ddof=1) / np.sqrt(10)
            assert figures["accuracy_ci95"] == pytest.approx([found.mean() - half, found.mean() + half], abs=1e-4)
    steps = value("protocols/metrics.json#steps")
    for before, after in (("tracks", "artists"), ("chunks", "tracks")):
        gap = means[before, 442].mean() - means[after, 442].mean()
        assert steps[f"{before}_minus_{after}"]["difference"] == pytest.approx(gap, abs=1e-9)
    deep = value("protocols/metrics.json#fourteen_layers.rules")
    for rule, figures in deep.items():
        rows = answers[answers.rule == f"14 layers, {rule}"]
        right = rows.predicted.astype(str).to_numpy() == [TRACKS[track]["genre"] for track in rows.track_id]
        assert figures["accuracy"] == pytest.approx(right.mean(), abs=1e-9) and figures["n"] == len(rows)
        rows = rows.assign(share=right, artist=[TRACKS[track]["artist"].strip().casefold() or track
                                                for track in rows.track_id.astype(str)])
        assert figures["accuracy_ci95_artists"] == pytest.approx(list(interval(rows, "artist")), abs=0.02)
    n_deep = len(deep) * len(value("protocols/metrics.json#fourteen_layers.splits"))
    assert len(answers.groupby(["rule", "n_train", "split", "seed"], observed=True)) == 7 * 10 * 3 + 10 + 2 + n_deep
    for rule, key in (("nested", "nested"), ("nested shipped", "shipped")):
        rows = answers[answers.rule == rule]
        right = rows.predicted.astype(str).to_numpy() == [TRACKS[track]["genre"] for track in rows.track_id]
        assert value(f"protocols/metrics.json#nested.{key}.accuracy") == pytest.approx(right.mean(), abs=1e-9)
        assert len(rows) == rows.track_id.nunique() == 999
    official = {track for track, row in TRACKS.items() if row["filtered_split"] == "test"}
    assert set(answers.track_id[answers.rule == "official"]) == official


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_published_experiment_is_what_its_predictions_say(key):
    answers = pd.read_parquet(REPORTS / "published" / "predictions.parquet")
    answers = answers[answers.run.astype(str).str.startswith(f"{PUBLISHED[key]}-power")]
    track = answers.track_id.astype(str)
    right = answers.predicted.astype(str).to_numpy() == [TRACKS[name]["genre"] for name in track]
    artist = [TRACKS[name]["artist"].strip().casefold() or name for name in track]
    rows, said = pd.DataFrame({"share": right, "artist": artist}), value(f"published/metrics.json#{key}")
    assert said["n"] == len(answers) and said["n_tracks"] == track.nunique()
    assert said["accuracy"] == pytest.approx(right.mean(), abs=1e-9)
    assert said["accuracy_ci95"] == pytest.approx(list(interval(rows, track.to_numpy())), abs=0.008)
    assert said["accuracy_ci95_artists"] == pytest.approx(list(interval(rows, "artist")), abs=0.02)


def test_coarse_spectrograms_cost_what_the_predictions_say():
    answers = pd.read_parquet(REPORTS / "decimation" / "predictions.parquet")
    answers["right"] = answers.predicted.astype(str) == [TRACKS[track]["genre"] for track in answers.track_id]
    means = answers.groupby(["corpus", "kind"], observed=True).right.mean()
    said = json.loads((REPORTS / "decimation/metrics.json").read_text("utf-8"))
    for corpus, figures in said.items():
        fine, coarse = means[corpus, "fine"], means[corpus, "coarse"]
        assert figures["fine"]["accuracy"] == pytest.approx(fine, abs=1e-9)
        assert figures["fine_minus_coarse"]["difference"] == pytest.approx(fine - coarse, abs=1e-9)


def test_the_synthetic_report_is_what_its_predictions_say():
    table = pd.read_parquet(REPORTS / "reproduce" / "songs.parquet").query("split == 'test'")
    predicted = np.array(GENRES)[table[GENRES].to_numpy().argmax(axis=1)]
    assert value("reproduce/metrics.json#song.accuracy") == pytest.approx((predicted == table.genre).mean(), abs=1e-9)


def test_the_range_of_the_synthetic_study_is_what_its_predictions_say():
    """Five seeds with two kinds of vector instructions, on one core and on two; and one run with a third kind."""
    answers = pd.read_parquet(REPORTS / "reproduce" / "range.parquet").astype({"isa": str, "genre": str})
    found = (answers.predicted.astype(str) == answers.genre).groupby([answers.isa, answers.seed, answers.cores]).mean()
    said = value("reproduce/range.json#runs")
    assert {(run["isa"], run["seed"], run["cores"]): run["accuracy"] for run in said} == pytest.approx(found.to_dict())
    assert value("reproduce/range.json#lowest") == found.min() and value("reproduce/range.json#highest") == found.max()
    assert value("reproduce/range.json#n_seeds") == answers.seed.nunique() == 5
    assert (answers.groupby(["isa", "seed", "cores"]).size() == 40).all()
    assert {(isa, seed, cores) for isa in ("AVX2", "AVX512") for seed in range(5)
            for cores in (1, 2)} < set(found.index)
    assert found["AVX512", 0, 2] == value("reproduce/metrics.json#song.accuracy")  # the run that README quotes


def test_answers_to_changed_recordings_are_what_their_predictions_say():
    """Of each change and network: the accuracy, the loss against the same songs, and its interval over artists."""
    answers = pd.read_parquet(REPORTS / "horse" / "predictions.parquet").astype({"answer": str, "track_id": str})
    answers["share"] = (answers.answer == [TRACKS[track]["genre"] for track in answers.track_id]).astype(float)
    answers["key"] = ["_".join(re.sub(r"[^0-9A-Za-z]", " ", change).split()) for change in answers.change.astype(str)]
    bases = {"last_15_s": "first_15_s"}
    for key, said in value("horse/metrics.json#changes").items():
        for recipe in ("plain", "copies"):
            mine = answers[answers.recipe == recipe]
            part = mine[mine.key == key]
            coded = key.startswith(("audio", "mp3", "at_16", "telephone", "8_bits", "very_quiet", "clipped", "played"))
            unchanged = "audio_as_it_is" if coded else bases.get(key, "as_it_is")
            base = mine[(mine.key == unchanged) & mine.seed.isin(part.seed)]
            right, before = (one.groupby("track_id").share.mean() for one in (part, base))
            artists = [TRACKS[track]["artist"].strip().casefold() or track for track in right.index]
            assert said[recipe]["n_tracks"] == len(right)
            assert said[recipe]["accuracy"] == pytest.approx(right.mean(), abs=1e-9)
            lost = pd.DataFrame({"share": before[right.index] - right, "artist": artists})
            assert said[recipe]["lost"] == pytest.approx(lost.share.mean(), abs=1e-9)
            assert said[recipe]["lost_ci95_artists"] == pytest.approx(list(interval(lost, "artist")), abs=0.025)
