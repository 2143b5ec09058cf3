"""Levels of a grid are compared on the songs that were scored, seed by seed, and on one corpus only."""
import json

import numpy as np
import pandas as pd
import pytest

from genre_study.grid.expand import Study, expand_grid
from genre_study.grid.results import compare_levels, read_runs


def run_folders(out, right, genres_of=None, runs=None):
    """Finished runs of a grid over `rate`: `right[rate][seed]` are the numbers of right test songs, of 20.

    Its validation songs are all right, whatever the level.
    """
    points = []
    for rate, of_seed in right.items():
        for seed, n_right in of_seed.items():
            key = f"rate-{rate}_{seed}"
            folder = out / key
            folder.mkdir(parents=True)
            tracks = pd.DataFrame({"track_id": [f"t{place:02d}" for place in range(40)], "genre": ["x", "y"] * 20,
                                   "split": ["test"] * 20 + ["valid"] * 20})
            is_right = np.arange(40) < n_right
            is_right[20:] = True
            says_x = (tracks.genre == "x") == is_right
            if genres_of and rate in genres_of:
                tracks["genre"] = genres_of[rate]
            tracks.assign(x=says_x * 1.0, y=1.0 - says_x).to_parquet(folder / "songs.parquet")
            (folder / "metrics.json").write_text(json.dumps({
                "scored_side": "test", "parameters": {"rate": rate, "seed": seed},
                "seconds": {"training": 2.0 + 3.0 * seed**2},
                "song": {"accuracy": n_right / 20, "accuracy_ci95": [n_right / 30, n_right / 20]}}))
            (folder / "run.json").write_text(json.dumps({"key": key, "name": "toy", "study_sha256": "0",
                                                         "given": {"rate": rate, "seed": seed}}))
            (folder / "toy.ipynb").write_text("{}")
            points.append({"key": key, "label": f"rate={rate}", "compared_to": rate == 0, "rate": rate, "seed": seed})
    (out / "g.grid.json").write_text(json.dumps({"question": "?", "points": points}))
    return compare_levels(out, "g").set_index("label")


def test_levels_against_plain_counting(tmp_path):
    found = run_folders(tmp_path, {0: {0: 10, 1: 12}, 1: {0: 18, 1: 20}, 2: {0: 2, 1: 1}})
    assert found["accuracy"].tolist() == pytest.approx([22 / 40, 38 / 40, 3 / 40])  # of test songs, not of all
    assert found["difference"].tolist()[1:] == pytest.approx([16 / 40, -19 / 40])
    assert found["verdict"].tolist() == ["compared to", "better", "worse"]
    assert found["n_runs"].tolist() == [2, 2, 2] and len(read_runs(tmp_path)) == 6


def test_runs_are_paired_by_their_seed(tmp_path):
    """A level that has only seed 1 is compared to the base with seed 1, not to all of it."""
    found = run_folders(tmp_path, {0: {0: 0, 1: 12}, 1: {1: 12}})
    assert found["difference"].tolist()[1] == 0.0 and found["verdict"].tolist()[1] == "no difference shown"
    assert found["accuracy"].tolist() == pytest.approx([12 / 40, 12 / 20])
    alone = run_folders(tmp_path / "alone", {0: {0: 10}, 1: {1: 12}})
    assert np.isnan(alone["difference"]["rate=1"]) and alone["verdict"]["rate=1"] == ""


def test_a_level_with_more_seeds_is_compared_by_those_of_the_base(tmp_path):
    found = run_folders(tmp_path, {0: {0: 10, 1: 10}, 1: {0: 12, 1: 12, 2: 0, 3: 0}})
    assert found["difference"]["rate=1"] == pytest.approx(2 / 20) and found["accuracy"]["rate=1"] == 24 / 80
    assert found["n_runs"].tolist() == [2, 4] and found["seconds"].tolist() == [(2 + 5) / 2, (5 + 14) / 2]
    runs = read_runs(tmp_path)
    assert (runs["song.accuracy_low"] <= runs["song.accuracy"]).all()
    assert (runs["song.accuracy_high"] == runs["song.accuracy"]).all()


def test_the_seed_of_the_bootstrap_reaches_every_interval(tmp_path):
    rng = np.random.default_rng(0)
    run_folders(tmp_path, {0: {seed: int(n) for seed, n in enumerate(rng.integers(8, 14, 4))},
                           1: {seed: int(n) for seed, n in enumerate(rng.integers(6, 16, 4))}})
    tables = [compare_levels(tmp_path, "g", seed=seed).set_index("label") for seed in range(8)]
    for column in ("low", "high", "difference_low", "difference_high"):
        assert len({table[column]["rate=1"] for table in tables}) > 1, column
    assert compare_levels(tmp_path, "g", seed=3).set_index("label").equals(tables[3])


def test_runs_of_two_corpora_are_not_compared(tmp_path):
    """The same names, and other genres: each song would be judged by the labels of another."""
    with pytest.raises(ValueError, match=r"'rate=1': the runs name several genres for 20 tracks: t00.*one corpus"):
        run_folders(tmp_path, {0: {0: 10}, 1: {0: 12}}, genres_of={1: ["y", "x"] * 20})


STUDY = Study("toy", "", {"rate": 0.5, "seed": 0, "training": {}, "run_dir": "run"}, "0")


def given(grid, **rest):
    """The parameters of all runs of a grid."""
    return expand_grid(grid, STUDY, **rest)["given"].tolist()


def test_seeds_reach_every_run():
    found = given({"cross": {"rate": [0.1, 0.2]}, "seeds": [3, 4]})
    assert found == [{"rate": 0.1, "seed": 3}, {"rate": 0.2, "seed": 3}, {"rate": 0.1, "seed": 4},
                     {"rate": 0.2, "seed": 4}]
    assert given({"base": {"seed": 4}, "seeds": [3, 4]}) == [{"seed": 3}, {"seed": 4}]


@pytest.mark.parametrize("grid, base", [
    ({"base": {"seed": 5}, "seeds": [0, 1]}, None), ({"seeds": [0, 1]}, {"seed": 5}),
    ({"cases": {"a": {"seed": 5}}, "seeds": [0, 1]}, None), ({"cross": {"seed": [5]}, "seeds": [0]}, None)])
def test_a_seed_beside_other_seeds_is_refused(grid, base):
    """It would be lost without a word."""
    with pytest.raises(ValueError, match="has seed=5, which is not among the seeds"):
        given(grid, base=base)


@pytest.mark.parametrize("seeds", [["0"], [0.0], [True], ["010"]])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(ValueError, match="seeds: seed="):
        given({"seeds": seeds})


@pytest.mark.parametrize("part", ["base", "case"])
def test_an_option_in_two_places_is_refused_unless_both_say_the_same(part):
    def grid(value):
        values = {"training": {"epochs": 3}, "training.epochs": value}
        return {"base": values} if part == "base" else {"cases": {"a": values}}

    assert given(grid(3)) == [{"training": {"epochs": 3}}]
    for order in (grid(5), {key: dict(reversed(list(value.items()))) for key, value in grid(5).items()}):
        with pytest.raises(ValueError, match=r"training.epochs=5 and training={'epochs': 3} contradict each other"):
            given(order)


def test_what_is_left_out_is_left_out_and_cases_keep_the_base():
    grid = {"base": {"training.epochs": 2}, "cross": {"rate": [0.1, 0.2]}, "leave_out": [{"rate": 0.2}],
            "cases": {"a": {"rate": 0.9}}}
    assert given(grid) == [{"training": {"epochs": 2}, "rate": 0.1}, {"training": {"epochs": 2}, "rate": 0.9}]
