"""The ablation study over runs of a toy study whose skill is known, so that each verdict is known before."""
import json
import math
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from genre_study.command import main
from genre_study.grid.grid import run_grid

CELLS = ["# # Toy", 'corpus: str = "one.npz"\nskill: float = 0.5\nlength: int = 1\nseed: int = 0\nrun_dir: str = "run"',
         """
import json
from pathlib import Path
import numpy as np
import pandas as pd
rng, genres = np.random.default_rng([seed, int(100 * skill)]), ["blues", "disco", "jazz", "rock"]
right = np.repeat(genres, 60)
said = np.where(rng.random(len(right)) < skill + 0.05 * length, right, np.roll(right, 60))
songs = pd.DataFrame((said[:, None] == np.array(genres)).astype(float), columns=genres)
songs = songs.assign(track_id=[f"t{n}" for n in range(len(right))], split="valid", genre=right, artist="somebody")
songs.to_parquet(Path(run_dir) / "songs.parquet")
share = float((said == right).mean())
metrics = {"scored_side": "valid", "song": {"accuracy": share, "accuracy_ci95": [share - 0.1, share + 0.1]},
           "seconds": {"training": 10.0 * length}, "network": "toy",
           "parameters": {"corpus": corpus, "skill": skill, "length": length, "seed": seed}}
(Path(run_dir) / "metrics.json").write_text(json.dumps(metrics))"""]
SKILL = {"question": "What does skill bring?", "cross": {"skill": [0.2, 0.5, 0.8], "length": [0, 1]},
         "compare_to": {"skill": 0.5, "length": 0}, "seeds": [0]}
MUSIC = {"question": "And with other music?", "base": {"corpus": "two.npz"}, "cross": {"length": [0, 4]},
         "compare_to": {"length": 0}, "seeds": [0]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, folder / "toy.ipynb")
    for name, grid in (("skill", SKILL), ("music", MUSIC)):
        table = run_grid({"name": name, **grid}, folder / "toy.ipynb", folder / "runs", workers=2, progress=False)
        assert table["state"].eq("finished").all()
    return folder / "runs"


def report(root, runs, out):
    papermill = pytest.importorskip("papermill")
    papermill.execute_notebook(root / "nbs/studies/ablation.ipynb", out / "out.ipynb", cwd=root, progress_bar=False,
                               parameters={"runs": str(runs), "run_dir": str(out)})
    return (out / "out.ipynb").read_text(encoding="utf-8")


def assert_holm(levels):
    """Each p-value is the largest, over those up to it, of p times the number of those that are left."""
    spread = (levels["difference_high"] - levels["difference_low"]) / 3.919928
    p_values = [math.erfc(abs(z) / math.sqrt(2)) for z in levels["difference"] / spread]
    for own, corrected in zip(p_values, levels["p_holm"]):
        larger = [p * sum(q >= p for q in p_values) for p in p_values if p <= own]
        assert corrected == pytest.approx(min(1, max(larger)), rel=1e-3, abs=1e-12)
    assert (levels["p_holm"].to_numpy() > np.array(p_values) * 1.01).any()


@pytest.mark.filterwarnings("ignore")
def test_verdicts_are_those_that_were_built_in(root, runs, tmp_path):
    text = report(root, runs, tmp_path)
    levels = pd.read_csv(tmp_path / "levels.csv").set_index(["grid", "label"])
    assert_holm(levels.dropna(subset="difference"))
    skill = levels.loc["skill"]
    assert len(skill) == 6 and skill["n_runs"].eq(1).all()
    expected = {"0.2": "worse", "0.8": "better"}
    for label, level in skill.iterrows():
        for part, verdict in expected.items():
            if part in label:
                assert level["verdict"] == verdict, (label, level)
                assert (level["difference"] > 0) == (verdict == "better")
    assert (skill["verdict"] == "compared to").sum() == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n_runs"] == 8 and metrics["music"] == ["one.npz", "two.npz"]
    assert "0.8" in metrics["best"]["one.npz"]["level"] and metrics["best"]["two.npz"]["grid"] == "music"
    assert (tmp_path / "figures/skill-together.png").stat().st_size > 5000  # two choices are crossed
    assert not (tmp_path / "figures/music-together.png").exists()
    assert "Not started: " in text and str(runs.parent.parent) not in "".join(
        "".join(output.get("text", "")) for cell in json.loads(text)["cells"] for output in cell.get("outputs", []))


@pytest.mark.filterwarnings("ignore")
def test_without_any_run_it_says_so(root, tmp_path):
    (tmp_path / "none").mkdir()
    assert "nothing below can be shown yet" in report(root, tmp_path / "none", tmp_path)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.filterwarnings("ignore")
def test_one_command_ends_in_the_report(root, runs, tmp_path, capsys, monkeypatch):
    """The level of the study's own value is there without being asked for, and is what the other is compared to."""
    monkeypatch.chdir(root)
    asked = ["ablate", "skill=0.9", "--seeds", "2", "-p", "length", "0", "--study", str(runs.parent / "toy.ipynb")]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    own, other, last = capsys.readouterr().out.splitlines()[-3:]
    assert own.startswith("skill=0.5: ") and own.endswith("2 runs); compared to")
    assert other.startswith("skill=0.9: ") and "points (+" in other and other.endswith(", better")
    page = Path(last.removeprefix("The report: "))
    text = page.read_text(encoding="utf-8")
    assert "What does skill change?" in text and "Not started" not in text and "<script" not in text
    assert 'alt="Song accuracy with its interval' in text
    assert (page.parent / "levels.csv").is_file()
    for wrong, message in ((["skill"], "expected NAME=VALUE"), (["skill=0.9", "-p", "skill=0.1"], "each name once"),
                           (["skill=010"], "read as another number"), (["skil=1"], "no parameter 'skil'"),
                           (["skill=0.9", "--seeds", "0"], "seeds=0, expected")):
        assert main([*asked[:1], *wrong, *asked[-2:], "--out", str(tmp_path / "none")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
