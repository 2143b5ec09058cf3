"""Two finished runs are compared from their folders, and the result is written as text, CSV and LaTeX."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from genre_study.corpus import gtzan_tracks
from genre_study.score.compare import compare_run_folders, comparison_table, format_table, read_songs, run_table
from genre_study.split import artist_groups

GENRES = ["jazz", "metal", "pop"]


def made_up_run(folder, seed=0, skill=1.0, artists=True, n=60, **metrics):
    """The files of a finished run that a comparison reads."""
    rng = np.random.default_rng(seed)
    tracks = pd.DataFrame({"track_id": [f"t{i:03d}" for i in range(2 * n)], "split": ["test", "valid"] * n})
    tracks["genre"] = [GENRES[i // 6 % 3] for i in range(2 * n)]
    logits = skill * (tracks["genre"].to_numpy()[:, None] == np.array(GENRES)) + rng.normal(size=(2 * n, 3))
    power = np.exp(logits)
    table = tracks.assign(**dict(zip(GENRES, (power / power.sum(axis=1, keepdims=True)).T)))
    if artists:
        table["artist"] = [f"band {i // 8}" for i in range(2 * n)]
    folder.mkdir()
    table.sample(frac=1, random_state=seed).to_parquet(folder / "songs.parquet", index=False)
    (folder / "metrics.json").write_text(json.dumps({"scored_side": "test", "genres": GENRES, **metrics}))
    return table


def test_difference_against_plain_counting(tmp_path):
    one, other = made_up_run(tmp_path / "one", 0, 0.8), made_up_run(tmp_path / "other", 1, 2.0)
    found = compare_run_folders(tmp_path / "one", tmp_path / "other")
    right = [(table[table.split == "test"][GENRES].idxmax(axis=1) == table.genre[table.split == "test"]).to_numpy()
             for table in (one, other)]
    assert found["n"] == 60 and found["side"] == "test"
    assert found["difference"] == pytest.approx(right[1].mean() - right[0].mean())
    assert found["only_second_right"] == (right[1] & ~right[0]).sum()
    for name, each in zip(("first", "second"), right):
        assert found[f"accuracy_{name}"] == pytest.approx(each.mean())
        for end in ("ci95", "ci95_artists"):
            low, high = found[f"accuracy_{name}_{end}"]
            assert low < each.mean() < high
    valid = compare_run_folders(tmp_path / "one", tmp_path / "other", side="valid")
    assert valid["side"] == "valid" and valid["difference"] != found["difference"]
    turned = compare_run_folders(tmp_path / "other", tmp_path / "one")
    assert turned["difference"] == pytest.approx(-found["difference"])


def test_runs_without_artists_are_read(tmp_path):
    made_up_run(tmp_path / "nameless", 0, artists=False)
    made_up_run(tmp_path / "named", 1)
    _, tracks, genres, side = read_songs(tmp_path / "nameless")
    assert list(tracks) == ["track_id", "genre"] and genres == GENRES and side == "test"
    both = compare_run_folders(tmp_path / "nameless", tmp_path / "named")  # one of the two knows the artists
    assert "difference_ci95_artists" in both
    made_up_run(tmp_path / "other", 2, artists=False)
    assert "difference_ci95_artists" not in compare_run_folders(tmp_path / "nameless", tmp_path / "other")


def test_runs_on_gtzan_get_its_artists(root):
    run = root / "reports" / "mel999-filtered-fourteen"
    _, tracks, _, _ = read_songs(run)
    assert len(tracks) == 290 and len(set(artist_groups(tracks)[0])) == 124
    reproduced = read_songs(root / "reports" / "reproduce")[1]
    assert set(reproduced.track_id) <= set(gtzan_tracks().track_id)  # the same names, and other music
    assert not set(reproduced.artist) & set(gtzan_tracks().artist)
    same = compare_run_folders(run, run)
    assert same["difference_ci95_artists"] == [0.0, 0.0] and same["mcnemar_p"] == 1.0


def test_runs_that_can_not_be_compared_are_refused(tmp_path):
    one = made_up_run(tmp_path / "one")
    made_up_run(tmp_path / "shorter", n=57)
    made_up_run(tmp_path / "elsewhere", scored_side="valid")
    with pytest.raises(FileNotFoundError, match=r"has no songs\.parquet and no metrics\.json; expected the folder"):
        compare_run_folders(tmp_path / "one", tmp_path / "none")
    with pytest.raises(ValueError, match="3 tracks were predicted by one run only: t114, t116, t118"):
        compare_run_folders(tmp_path / "one", tmp_path / "shorter")
    with pytest.raises(ValueError, match="has no songs of side 'train'; it has test and valid"):
        compare_run_folders(tmp_path / "one", tmp_path / "one", side="train")
    assert compare_run_folders(tmp_path / "elsewhere", tmp_path / "one")["side"] == "valid"
    for change, problem in (({"genre": "pop"}, "another genre for 42 tracks"),
                            ({"artist": "nobody"}, "another artist for 60 tracks")):
        (tmp_path / "changed").mkdir(exist_ok=True)
        one.assign(**change).to_parquet(tmp_path / "changed" / "songs.parquet")
        (tmp_path / "changed" / "metrics.json").write_text((tmp_path / "one" / "metrics.json").read_text())
        with pytest.raises(ValueError, match=f"{problem}.*; expected two runs on the same corpus"):
            compare_run_folders(tmp_path / "one", tmp_path / "changed")
    polka = one.rename(columns={"pop": "polka"}).assign(genre=one.genre.replace("pop", "polka"))
    polka.to_parquet(tmp_path / "changed" / "songs.parquet")
    metrics = {"scored_side": "test", "genres": ["jazz", "metal", "polka"]}
    (tmp_path / "changed" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match="one run alone knows the genres polka, pop"):
        compare_run_folders(tmp_path / "one", tmp_path / "changed")


def test_table_as_text_csv_and_latex(tmp_path):
    made_up_run(tmp_path / "one", 0, 0.8)
    made_up_run(tmp_path / "other", 1, 2.5)
    found = compare_run_folders(tmp_path / "one", tmp_path / "other")
    table = comparison_table(found, ("50%_net", "b & c"))
    text, csv, latex = (format_table(table, kind) for kind in ("text", "csv", "latex"))
    back = pd.read_csv(io.StringIO(csv)).set_index("measure")
    row = back.loc["b & c minus 50%_net"]
    assert row["value"] == pytest.approx(found["difference"])
    assert row[["low, artists", "high, artists"]].tolist() == pytest.approx(found["difference_ci95_artists"])
    assert row[["low, songs", "high, songs"]].tolist() == pytest.approx(found["difference_ci95"])
    assert f"{found['difference']:.3f}" in text and f"{found['difference']:.3f}" in latex
    assert r"b \& c minus 50\%\_net" in latex and latex.startswith(r"\begin{tabular}{lrrrrr}")
    assert len(text.splitlines()) == 8 and "None" not in text + csv + latex and "nan" not in text + csv + latex
    assert "1.2e-05" in format_table(pd.DataFrame({"p": [1.2e-5]}))


def test_every_row_of_the_tables_is_of_the_measure_that_it_names(tmp_path):
    made_up_run(tmp_path / "one", 0, 0.8, n=200)
    made_up_run(tmp_path / "other", 1, 1.4, n=200)
    found = compare_run_folders(tmp_path / "one", tmp_path / "other", seed=5, n_resamples=31)
    table = comparison_table(found, ("A", "B")).set_index("measure")
    right = [read_songs(tmp_path / name)[0].set_index("track_id")[GENRES].idxmax(axis=1) for name in ("one", "other")]
    truth = read_songs(tmp_path / "one")[1].set_index("track_id").genre
    one, other = (each == truth.reindex(each.index) for each in right)
    expected = {"accuracy of A": one.mean(), "accuracy of B": other.mean(), "B minus A": other.mean() - one.mean(),
                "songs right in A only": (one & ~other).sum(), "songs right in B only": (other & ~one).sum(),
                "songs": 200, "McNemar's exact test: p": found["mcnemar_p"]}
    assert table["value"].to_dict() == pytest.approx(expected)
    other_seed = compare_run_folders(tmp_path / "one", tmp_path / "other", seed=6, n_resamples=31)
    for key in ("difference_ci95", "accuracy_first_ci95", "accuracy_second_ci95", "difference_ci95_artists"):
        assert other_seed[key] != found[key]
    part = {"accuracy": 0.71, "macro_f1": 0.62, "top3": 0.93, "n": 60, "accuracy_ci95": [0.6, 0.8],
            "macro_f1_ci95": [0.5, 0.7]}
    (tmp_path / "one" / "metrics.json").write_text(json.dumps({"song": part, "chunk": part | {"macro_f1": 0.41}}))
    rows = run_table(tmp_path / "one").set_index("measure")
    assert rows["value"].to_dict() == {f"{unit}: {name}": value for unit, f1 in (("songs", 0.62), ("chunks", 0.41))
                                       for name, value in (("accuracy", 0.71), ("macro F1", f1),
                                                           ("true genre among three", 0.93), ("number", 60))}
    assert rows.loc["songs: macro F1", ["low, songs", "high, songs"]].tolist() == [0.5, 0.7]


def test_runs_scored_on_different_sides_are_compared_on_one(tmp_path):
    """The side of the first: a tuned run against a finished one, both on valid."""
    made_up_run(tmp_path / "one", 0, scored_side="valid")
    made_up_run(tmp_path / "other", 1, scored_side="test")
    found = compare_run_folders(tmp_path / "one", tmp_path / "other")
    made_up_run(tmp_path / "same", 1, scored_side="valid")
    assert found == compare_run_folders(tmp_path / "one", tmp_path / "same") and found["side"] == "valid"


def test_command_line(tmp_path, capsys):
    from genre_study.command import main

    for seed, name in enumerate(("one", "other")):
        made_up_run(tmp_path / name, seed, 0.8 + seed)
    found = compare_run_folders(tmp_path / "one", tmp_path / "other")
    runs = [str(tmp_path / "one"), str(tmp_path / "other") + "/"]
    for option, kind in (([], "text"), (["--csv"], "csv"), (["--latex"], "latex")):
        assert main(["compare", *runs, *option]) == 0
        assert capsys.readouterr().out == format_table(comparison_table(found, ("one", "other")), kind) + "\n"
    assert main(["compare", *runs, "--side", "valid", "--csv"]) == 0
    assert capsys.readouterr().out != format_table(comparison_table(found, ("one", "other")), "csv") + "\n"
    assert main(["compare", runs[0], str(tmp_path / "none")]) == 1
    assert "expected the folder of a finished run" in capsys.readouterr().err
    assert main(["compare", runs[0], runs[0], "--csv"]) == 0
    same = capsys.readouterr().out  # a run and itself
    assert f"{runs[0]} minus {runs[0]},0.0" in same and len(same.splitlines()) == 8


def test_synthetic_music_with_names_of_gtzan_gets_no_artists(tmp_path):
    """A run that does not know its artists gets those of the index only if it is on that music."""
    known = gtzan_tracks().groupby("genre").head(4)
    genres = sorted(known.genre.unique())
    table = known[["track_id", "genre"]].assign(split="test", **dict.fromkeys(genres, 0.1))
    for corpus, columns in (("path/to/genres", ["track_id", "genre", "artist"]), ("minicorpus", ["track_id", "genre"])):
        (tmp_path / corpus).mkdir(parents=True)
        table.to_parquet(tmp_path / corpus / "songs.parquet")
        facts = {"scored_side": "test", "genres": genres, "corpus": corpus}
        (tmp_path / corpus / "metrics.json").write_text(json.dumps(facts))
        assert list(read_songs(tmp_path / corpus)[1]) == columns
