"""The claims study: its arithmetic on real GTZAN lengths, and the committed notebook against what it says."""

import json
from collections import Counter

import pytest


def cells(root):
    notebook = json.loads((root / "nbs/studies/claims.ipynb").read_text(encoding="utf-8"))
    return notebook["cells"]


def test_every_row_of_the_table_has_an_executed_cell(root):
    with_row = [cell for cell in cells(root) if "\nrow(" in "\n" + "".join(cell["source"])]
    assert len(with_row) >= 14
    assert all(cell["outputs"] for cell in with_row)


def test_published_loop_on_real_lengths(root, gtzan):
    import soundfile

    sources = ("".join(cell["source"]) for cell in cells(root))
    source = next(source for source in sources if "def published_chunks_ms" in source)
    names = {}
    exec(source.split("\n\n\n")[0], names)  # the function alone, as the notebook has it
    loop = names["published_chunks_ms"]
    lengths_s = [soundfile.info(file).duration for file in sorted(gtzan.glob("mini/genres/*/*.flac"))]
    assert len(lengths_s) == 100
    assert Counter(round(s, 3) for s in lengths_s).most_common(1)[0][0] == 30.013
    made = [loop(round(1000 * s)) for s in lengths_s]
    assert Counter(map(len, made)) == {21: 69, 20: 31}
    assert Counter(sum(end - start == 3000 for start, end in spans) for spans in made) == {19: 97, 18: 3}


def test_numbers_of_the_published_picture(root):
    numbers = json.loads((root / "reports/claims/metrics.json").read_text(encoding="utf-8"))
    assert numbers["published_accuracy"] == pytest.approx(2678 / 3196)
    assert (numbers["chunks_of_30_s"], numbers["chunks_of_30_013_s"], numbers["n_chunks"]) == (20, 21, 19_000)
    assert numbers["n_parameters"] == 243_454
    assert numbers["overlap_in_train"] == pytest.approx((17 * (1 - 0.15**2) + 2 * 0.85) / 19, abs=0.01)
