"""The claims study: its arithmetic on real GTZAN lengths, and the committed notebook against what it says."""

import csv
import html
import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest
from test_traceable import agrees, follow, numbers_in


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


def numbers_of_claims():
    """The figures of claims/metrics.json, worked out here in another way, but for those that tests below look at."""
    rng = np.random.default_rng(0)
    said = rng.dirichlet(np.full(10, 0.048), size=50_000)
    true = (said.cumsum(axis=1) > rng.random((50_000, 1))).argmax(axis=1)
    onehot, kept = np.eye(10)[true], np.clip(said, 1e-7, 1 - 1e-7)
    parts = -onehot * np.log(kept), -(1 - onehot) * np.log(1 - kept)
    htk = [2595 * math.log10(1 + hz / 700) for hz in (0, 11025)]
    slaney = 15 + 27 * math.log(11025 / 1000) / math.log(6.4)  # linear to 1,000 Hz, then 27 steps to 6.4 times as much
    place = np.arange(1, 129) / 129
    hz = {"htk": 700 * (10 ** (place * htk[1] / 2595) - 1),
          "slaney": np.where(place * slaney < 15, place * slaney * 200 / 3, 1000 * 6.4 ** ((place * slaney - 15) / 27))}
    band = int(np.abs(hz["htk"] - hz["slaney"]).argmax())
    filters, side, parameters = (1, 16, 32, 64, 128, 64), [128, 130], 0
    for before, after in itertools.pairwise(filters):
        parameters, side = parameters + (9 * before + 1) * after, [(length - 2) // 2 for length in side]
    for before, after in zip((64 * side[0] * side[1], 200, 100), (200, 100, 10)):
        parameters += (before + 1) * after
    wilson = binomtest(2678, 3196).proportion_ci(method="wilson")
    return {"chunks_of_30_s": len(range(0, 60_000, 3000)), "chunks_of_30_013_s": len(range(0, 60_026, 3000)),
            "mel_band": {"number": band + 1, **{name: values[band] for name, values in hz.items()}},
            "n_parameters": parameters,
            "loss": {"uniform_binary": -(math.log(0.1) + 9 * math.log(0.9)) / 10,
                     "right": (said.argmax(axis=1) == true).mean(), "categorical": parts[0].sum(axis=1).mean(),
                     "binary": (parts[0] + parts[1]).mean()},
            "n_chunks": 19 * 1000, "published_accuracy": 2678 / 3196,
            "published_accuracy_wilson_ci95": [wilson.low, wilson.high], "published_lowest_recall": 224 / 319.6}


def numbers_of_table(numbers, leakage):
    """The numbers in each row of the table of claims: of the text, of its code, and checked here."""
    def of(protocol, *keys):
        found = follow(leakage["fourteen_layer_cnn"][protocol], ".".join(keys))
        return [found["accuracy"], *found["accuracy_ci95"]]

    artist, band, loss, power = of("artist", "chunk"), numbers["mel_band"], numbers["loss"], numbers["power"]
    low, high = numbers["published_accuracy_wilson_ci95"]
    protocols = [value for name in ("chunk", "track", "artist", "filtered") for value in of(name, "chunk")]
    return {
        "data": ([10, 100, 30], [], [1000, 10]), "scripts": ([], [], []),
        "chunks": ([3, 19], [numbers["chunks_of_30_s"], numbers["chunks_of_30_013_s"], 3], [19, 3, 19]),
        "array of chunks": ([128, 130], [], [1 + 3 * 22050 // 512, 1 + 33075 // 512]),
        "mel scale": ([2595, 1, 700], [], [band["number"], 128, band["htk"], band["slaney"]]),
        "features": ([], [], [power["below_one_percent"], 0.01, power["median_below_loudest_db"]]),
        "layers": ([14], [], [14, numbers["n_parameters"], 128, 130]), "activation": ([], [100], []),
        "loss": ([0.68, 0.69, 55], [],
                 [loss["uniform_binary"], loss["binary"], loss["right"], 0.69, loss["categorical"]]),
        "sizes": ([0.80, 12_000, 0.20, 3_200], [0.15], [19, 1000, numbers["n_chunks"], 15_200, 0.80, 3_196]),
        "curves": ([0.79, 55], [50, 40], [numbers["published_accuracy"], low, high]),
        "confusion matrix": ([], [], [3196 / 10, numbers["published_lowest_recall"]]),
        "split": ([0.80], [], [numbers["overlap_in_train"], 1.0]),
        "validation": ([], [], [*of("artist", "valid", "chunk"), *artist]),
        "song": ([], [], [*artist, *of("artist", "song")]),
        "result": ([numbers["published_accuracy"], 3_196], [], protocols),
    }


def complaints_about_claims(root):
    """Yield what is wrong with the table of claims: its numbers, its figures' file, and the notebook that shows it."""
    numbers, leakage = (json.loads((root / "reports" / name / "metrics.json").read_text(encoding="utf-8"))
                        for name in ("claims", "leakage"))
    for key, value in numbers_of_claims().items():
        pairs = value if isinstance(value, dict) else {"": value}
        for part, expected in pairs.items():
            found = numbers[key][part] if part else numbers[key]
            if found != pytest.approx(expected, rel=1e-4):
                yield f"claims/metrics.json: {key} {part} is {found}; worked out again it is {expected}"
    table = list(csv.DictReader((root / "reports" / "claims" / "claims.csv").open(encoding="utf-8", newline="")))
    expected = numbers_of_table(numbers, leakage)
    if [row["part"] for row in table] != list(expected):
        yield f"claims.csv has the rows {[row['part'] for row in table]}; expected {list(expected)}"
    shown = html.unescape(json.dumps([cell.get("outputs", []) for cell in cells(root)], ensure_ascii=False))
    for row in table:
        for (column, text), values in zip(list(row.items())[1:], expected.get(row["part"], ()), strict=False):
            said = numbers_in(re.sub(r"(?: if chunks were|Accuracy with each|With the audio:).*|log10", "", text))
            if len(said) != len(values) or not all(map(agrees, said, values)):
                yield f"claims.csv, {row['part']}, {column}: {text!r}, but its numbers are {values}"
            if json.dumps(text, ensure_ascii=False)[1:-1] not in shown:
                yield f"claims.csv, {row['part']}, {column}: the notebook does not show {text!r}"


def test_every_number_of_the_table_is_worked_out_again(root):
    wrong = list(complaints_about_claims(root))
    assert not wrong, "\n".join(wrong)


def test_power_of_the_synthetic_track_against_librosa(root):
    import librosa

    from genre_study.synth.song import compose
    from genre_study.synth.sound import render_song

    power = librosa.feature.melspectrogram(y=render_song(compose("rock", 0)).astype("float32") / 32768, sr=22050)
    numbers = json.loads((root / "reports/claims/metrics.json").read_text(encoding="utf-8"))["power"]
    assert numbers["below_one_percent"] == pytest.approx((power < 0.01 * power.max()).mean(), abs=1e-3)
    assert numbers["median_below_loudest_db"] == pytest.approx(10 * np.log10(power.max() / np.median(power)), abs=0.05)
