"""The tests of figures are tested: falsehoods of many kinds are planted into README and reports, one at a time."""
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import test_figures
from test_claims import complaints_about_claims
from test_quotations import CARD, LINK, QUOTED, README, complaints_about_counts, complaints_about_words, counted
from test_traceable import complaints, documents

ROOT = Path(__file__).parent.parent
KEPT = ("*.md", "*.json", "*.csv", "*.parquet", "*.ipynb")


@pytest.fixture(scope="module")
def known():
    return counted()


@pytest.fixture
def copy(tmp_path):
    """README, reports and the notebook of the claims, to be falsified; figures and histories stay away."""
    names = [path for pattern in KEPT for path in (ROOT / "reports").rglob(pattern)]
    for path in [ROOT / README, ROOT / "nbs" / "studies" / "claims.ipynb", *names]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def noticed(root, known, monkeypatch):
    """Yield what the tests of figures say of README, reports and claims in a folder."""
    for document in (README, CARD):
        yield from complaints(root / document, root)
        yield from complaints_about_words(root, document)
        yield from complaints_about_counts(root, document, known)
    yield from complaints_about_claims(root)
    monkeypatch.setattr(test_figures, "ROOT", root)
    monkeypatch.setattr(test_figures, "REPORTS", root / "reports")
    checks = [lambda place=place: test_figures.test_accuracy_is_what_its_predictions_say(place)
              for place in test_figures.FIGURES]
    checks += [test_figures.test_the_recipes_seeds_and_their_mean_network,
               test_figures.test_protocols_are_what_their_predictions_say,
               test_figures.test_the_synthetic_report_is_what_its_predictions_say,
               lambda: test_figures.test_no_accuracy_is_quoted_that_can_not_be_computed_again(README)]
    for check in checks:
        try:
            check()
        except AssertionError as error:
            yield f"test_figures: {error}"


def replace(root, name, old, new):
    """Replace a text that stands in a file at least once."""
    text = (root / name).read_text(encoding="utf-8")
    assert old in text, f"{name} has no {old!r}"
    (root / name).write_text(text.replace(old, new), encoding="utf-8")


def quoted(root, document, path):
    """The link of a document to a key, as it stands."""
    text = (root / document).read_text(encoding="utf-8")
    return next(found[0] for found in LINK.finditer(text) if found[2].endswith(path))


def raise_both(root, name, path, amount=0.1):
    """Raise an accuracy and its intervals in metrics.json, and quote the new one in README and the model card."""
    file, keys = root / "reports" / name / "metrics.json", path.split(".")
    content = json.loads(file.read_text(encoding="utf-8"))
    part = content
    for key in keys[:-1]:
        part = part[key]
    for key in [key for key in part if key.startswith(keys[-1])]:
        part[key] = [end + amount for end in part[key]] if isinstance(part[key], list) else part[key] + amount
    file.write_text(json.dumps(content), encoding="utf-8")
    for document in (README, CARD) if name == "accuracy" else (README,):
        link = quoted(root, document, f"metrics.json#{path}")
        higher = re.sub(r"\d+\.\d(?=%)", lambda number: f"{float(number[0]) + 100 * amount:.1f}", link)
        replace(root, document, link, higher)


def with_figure(root, path, text, link=None):
    """Give the link of README to a key another text, and another target if there is one."""
    old = quoted(root, README, path)
    target = link or LINK.fullmatch(old)[2]
    replace(root, README, old, f"[{text}]({target})")


def value(root, name, path):
    """A figure with its interval over songs, as README writes it."""
    part = json.loads((root / "reports" / name / "metrics.json").read_text(encoding="utf-8"))
    for key in path.split("."):
        last, part = part, part[key]
    low, high = last[f"{key}_ci95"]
    return f"{part:.1%} (95% interval {low:.1%} to {high:.1%})"


def claims_and_metrics(root):
    replace(root, "reports/claims/metrics.json", '"chunks_of_30_s": 20', '"chunks_of_30_s": 30')
    for name in ("reports/claims/claims.csv", "nbs/studies/claims.ipynb", README):
        replace(root, name, "20 or 21 chunks a track", "30 or 21 chunks a track")


SYNTHETIC = "reports/reproduce/metrics.json#"
PLANTS = {
    "README and metrics.json changed together": lambda root: raise_both(root, "accuracy", "test.accuracy"),
    "both changed together, a rule of the split": lambda root: raise_both(root, "protocols", "rules.artists.accuracy"),
    "both changed together, of the synthetic run": lambda root: raise_both(root, "reproduce", "song.accuracy"),
    "another key with that key's right value": lambda root: with_figure(
        root, "accuracy/metrics.json#test.accuracy", "77.4% (95% interval 72.6% to 82.0%)",
        "reports/accuracy/metrics.json#artist_folds.accuracy"),
    "chunks for songs": lambda root: with_figure(
        root, "reproduce/metrics.json#song.accuracy", value(root, "reproduce", "chunk.accuracy"),
        SYNTHETIC + "chunk.accuracy"),
    "valid for test": lambda root: with_figure(
        root, "reproduce/metrics.json#song.accuracy", value(root, "reproduce", "valid.song.accuracy"),
        SYNTHETIC + "valid.song.accuracy"),
    "an interval over songs for one over artists": lambda root: with_figure(
        root, "accuracy/metrics.json#test.accuracy", value(root, "accuracy", "test.accuracy")),
    "an interval over songs for one over artists, in the card": lambda root: replace(
        root, CARD, "57.9% to 80.3%", "64.3% to 74.6%"),
    "an interval over artists for one over splits": lambda root: with_figure(
        root, "rules.artists.accuracy", "75.7% (95% interval 67.3% to 82.3%)"),
    "an interval that is said to be over something else": lambda root: replace(
        root, README, "intervals here draw whole artists", "intervals here draw songs"),
    "more training tracks": lambda root: replace(root, README, "from 442 tracks", "from 842 tracks"),
    "more training tracks, in the card": lambda root: replace(
        root, CARD, "from the 442 training", "from the 842 training"),
    "more seeds": lambda root: replace(root, README, "mean of five seeds", "mean of fifty seeds"),
    "more splits": lambda root: replace(root, README, "over ten random splits", "over a hundred random splits"),
    "more chunks of a track": lambda root: replace(root, README, "| 19 a track of 30 s", "| 29 a track of 30 s"),
    "more songs that were not learned": lambda root: replace(root, CARD, "of which 89 were", "of which 8 were"),
    "fewer tracks of one artist": lambda root: replace(root, CARD, "35 of 100 reggae", "5 of 100 reggae"),
    "a count that nothing says": lambda root: replace(
        root, README, "All figures for GTZAN are", "All figures for GTZAN are of 200 epochs and"),
    "a count in words that nothing says": lambda root: replace(
        root, README, "All figures for GTZAN are", "All figures for GTZAN are of twenty epochs and"),
    "a count in backticks": lambda root: replace(root, README, "from 442 tracks", "from `842` tracks"),
    "a figure in words": lambda root: replace(
        root, README, quoted(root, README, "accuracy/metrics.json#test.accuracy"), "seventy-nine per cent"),
    "a figure as a fraction in words": lambda root: replace(
        root, README, "[studies/accuracy](reports", "It knows nine tenths of the songs. [studies/accuracy](reports"),
    "a figure in backticks": lambda root: replace(
        root, README, quoted(root, README, "accuracy/metrics.json#test.accuracy"), "`79.5%`"),
    "the table of claims in README": lambda root: replace(root, README, "20 or 21 chunks", "30 or 31 chunks"),
    "a finding in the table of claims": lambda root: replace(
        root, "reports/claims/claims.csv", "76.3% (74.2%", "86.3% (84.2%"),
    "what the published text says": lambda root: replace(
        root, "reports/claims/claims.csv", '"80% or 12,000', '"80% or 15,000'),
    "the table of claims, its metrics and its notebook together": claims_and_metrics,
}


def test_nothing_is_said_of_what_is_true(copy, known, monkeypatch):
    assert not list(noticed(copy, known, monkeypatch))
    assert documents(copy)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_falsehood_is_noticed(copy, known, monkeypatch, kind):
    PLANTS[kind](copy)
    assert next(noticed(copy, known, monkeypatch), None), kind


@pytest.mark.parametrize("document", [README, CARD])
def test_any_two_figures_that_change_places_are_noticed(copy, document):
    """Their links and values are right, but they stand in each other's sentence."""
    text = (copy / document).read_text(encoding="utf-8")
    links = [found[0] for found in LINK.finditer(text)
             if any(key.endswith(found[2].rpartition("/")[2]) and "#" in found[2] for key in QUOTED[document])]
    assert len(links) == len(QUOTED[document])
    for one, other in itertools.combinations(links, 2):
        swapped = text.replace(one, "\0").replace(other, one).replace("\0", other)
        (copy / document).write_text(swapped, encoding="utf-8")
        assert next(complaints_about_words(copy, document), None), f"{one} and {other}"
