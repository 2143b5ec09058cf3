"""Pictures hold the numbers they were given, survive odd input, and are the same file every time."""

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from genre_study import plot
from genre_study.mel import MelSpec

GENRES = ["blues", "jazz", "metal", "pop"]
HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "loss": [2.0, 1.0, 0.5], "accuracy": [0.3, 0.5, 0.9],
                        "val_loss": [1.9, 1.2, 1.4], "val_accuracy": [0.4, 0.6, 0.55]})
CURVE = pd.DataFrame({"low": [0.5], "high": [1.0], "confidence": [0.7], "accuracy": [0.6], "n": [3]})


def grey(colour):
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), [0.2126, 0.7152, 0.0722]))


def test_curves_mark_the_epoch_that_valid_chose():
    figure = plot.plot_curves(HISTORY)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["epoch 2: 0.600", "best epoch 2: 1.200"]
    assert figure.axes[0].lines[-1].get_xydata().tolist() == [[2, 0.6]]
    assert plot.plot_curves(HISTORY.head(1)).axes[1].get_title(loc="left") == "best epoch 1: 1.900"
    with pytest.raises(ValueError, match="0 epochs"):
        plot.plot_curves(HISTORY.head(0))


def test_lines_and_marks_differ_in_grey():
    lines = plot.plot_curves(HISTORY).axes[0].lines[:2]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert abs(grey(lines[0].get_color()) - grey(lines[1].get_color())) > 0.2
    looks = [plot.SIDE_LOOK[side] for side in ("train", "valid", "test")]
    assert looks[1].get("hatch") and grey(looks[0]["facecolor"]) - grey(looks[2]["facecolor"]) > 0.4


@pytest.mark.parametrize("n", [2, 4, 10])
def test_confusion_numbers_stand_out_from_their_cells(n):
    counts = np.random.default_rng(0).integers(0, 30, (n, n))
    figure = plot.plot_confusion(counts, [f"g{i}" for i in range(n)])
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert [int(text.get_text()) for text in ax.texts] == counts.ravel().tolist()
    for text, colour, count in zip(ax.texts, ax.collections[0].get_facecolors(), counts.flat):
        light, dark = sorted([grey(text.get_color()), grey(colour[:3])], reverse=True)
        assert count == 0 or light - dark > 0.3, f"{text.get_text()} on {colour}"


def test_confusion_with_an_empty_row_has_no_nan():
    figure = plot.plot_confusion([[0, 0], [1, 3]], ["jazz", "pop"], normalise=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0", "25", "75"]
    with pytest.raises(ValueError, match="expected a row and a column each"):
        plot.plot_confusion([[1, -1], [0, 1]], ["jazz", "pop"])


@pytest.mark.parametrize("spec", [
    MelSpec(), MelSpec(mel_scale="htk"), MelSpec(n_mels=40, fmin_hz=300.0, fmax_hz=9000.0), MelSpec(sample_rate=8000),
])
def test_each_frequency_lies_in_its_mel_band(spec):
    from librosa.filters import mel as mel_filters

    ax = plot.plot_spectrogram(np.zeros((10, spec.n_mels)), spec).axes[0]
    edges_hz = ax.collections[0].get_coordinates()[:, 0, 1]
    assert len(edges_hz) == spec.n_mels + 1 and ax.get_yscale() == "symlog"
    bins_hz = np.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1)
    weights = mel_filters(**spec.to_librosa())
    low, high = ax.get_ylim()
    ticks = [hz for hz in ax.get_yticks() if max(low, 1) <= hz <= high]
    assert len(ticks) >= 3
    for hz in ticks:
        drawn = np.searchsorted(edges_hz, hz) - 1
        heaviest = np.array([bins_hz[row.argmax()] for row in weights])
        assert abs(np.abs(heaviest - hz).argmin() - drawn) < 1.5, f"{hz} Hz is drawn in band {drawn}"


def test_spectrogram_time_axis():
    spec = MelSpec()
    ax = plot.plot_spectrogram(np.zeros((431, 128)), spec, start_s=3.0, unit="relative").axes[0]
    assert ax.get_xlim() == pytest.approx((3.0, 3.0 + 431 * 512 / 22050))
    ax.figure.draw_without_rendering()
    assert {"6", "9", "12"} <= {label.get_text() for label in ax.get_xticklabels()}


def test_spectrograms_and_maps_have_one_scale_each():
    """White is 0% and black 100% in every map of shares, whatever its values; loud is light in every spectrogram."""
    tables = [[1, 9], [2, 8]], [[5, 5], [5, 5]]
    few, many = (plot.plot_confusion(counts, ["a", "b"]).axes[0].collections[0] for counts in tables)
    assert few.get_clim() == many.get_clim() == (0, 100)
    assert [grey(few.to_rgba(share)[:3]) for share in (0, 100)] == pytest.approx([1, 0], abs=0.02)
    assert plot.plot_confusion(np.eye(2, dtype=int), ["a", "b"]).axes[1].get_ylabel() == "per cent of the true genre"
    quiet_then_loud = np.concatenate([np.full((5, 128), -60.0), np.zeros((5, 128))])
    picture = plot.plot_spectrogram(quiet_then_loud, MelSpec()).axes[0].collections[0]
    colours = picture.to_rgba(np.array([-80.0, 0.0]))
    assert grey(colours[0][:3]) < 0.1 and grey(colours[1][:3]) > 0.9 and picture.get_clim() == (-80, 0)


@pytest.mark.parametrize("picture", [
    lambda: plot.plot_curves(HISTORY),
    lambda: plot.plot_chunks(pd.DataFrame({"start_s": [0.0, 1.5, 3.0], "split": ["train", "valid", "test"]})),
    lambda: plot.plot_intervals(pd.DataFrame({"run": "a", "accuracy": [0.9], "low": 0.8, "high": 0.99}), chance=0.1),
    lambda: plot.plot_reliability({"one": CURVE}),
])
def test_a_legend_covers_no_data(picture):
    figure = picture()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not any(ax.get_legend() for ax in figure.axes)
    for ax in figure.axes:
        assert not legend.get_window_extent().overlaps(ax.get_window_extent())


def test_cells_of_a_map_may_hold_intervals():
    texts = [["60\n52-68", "71\n63-79"]]
    figure = plot.plot_shares([[60.0, 71.0]], ["a"], ["b", "c"], texts)
    assert [text.get_text() for text in figure.axes[0].texts] == texts[0]
    figure = plot.plot_shares([[60.0] * 6] * 4, [f"chunk_seconds {n}.0" for n in range(4)], list("efghij"),
                              [["60\n52 to 68"] * 6] * 4)
    figure.draw_without_rendering()
    cell = figure.axes[0].get_window_extent().width / 6
    assert max(text.get_window_extent().width for text in figure.axes[0].texts) < cell, "each text is inside its cell"
    with pytest.raises(ValueError, match="from 0 to 100"):
        plot.plot_shares([[0.6, 120]], ["a"], ["b", "c"])


def test_latex_that_is_asked_for_and_missing_is_named(monkeypatch):
    import matplotlib

    monkeypatch.setattr(plot.shutil, "which", lambda name: None)
    with matplotlib.rc_context({"text.usetex": True}), pytest.raises(RuntimeError, match="no latex on this machine"):
        plot.plot_curves(HISTORY)


def test_chunk_picture_with_other_overlaps():
    for step, rows in ((3.0, 1), (1.5, 2), (1.0, 3), (0.75, 4)):
        chunks = pd.DataFrame({"start_s": np.arange(0, 27.01, step)})
        figure = plot.plot_chunks(chunks, seconds=3.0, duration_s=30)
        bars = [path.get_extents() for bar in figure.axes[0].collections for path in bar.get_paths()][1:]
        assert len(bars) == len(chunks) and len({round(bar.y0, 3) for bar in bars}) == rows
        for a in bars:  # no two bars of a row cover each other
            assert sum(a.y0 == b.y0 and a.x0 < b.x1 - 1e-6 and b.x0 < a.x1 - 1e-6 for b in bars) == 1
    plot.plot_chunks(pd.DataFrame({"start_s": [0.0]}))
    with pytest.raises(ValueError, match="one track"):
        plot.plot_chunks(pd.DataFrame({"start_s": [0.0, 0.0], "track_id": ["a", "b"]}))


def test_intervals_are_drawn_where_they_are():
    table = pd.DataFrame({"run": ["a", "b"], "accuracy": [0.5, 0.7], "low": [0.4, 0.65], "high": [0.55, 0.8]})
    ax = plot.plot_intervals(table).axes[0]
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose([[s[0, 0], s[1, 0]] for s in segments], table[["low", "high"]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_reliability_counts_every_bin():
    curve = pd.DataFrame({"low": [0.4, 0.9], "high": [0.5, 1.0], "confidence": [0.45, 0.95], "accuracy": [0.5, 0.8]})
    counts, _, _ = plot.plot_reliability(curve.assign(n=[3, 7])).axes[1].patches[0].get_data()
    assert counts.tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 0, 7]


def test_timeline_of_one_chunk_and_with_a_gap():
    rng = np.random.default_rng(0)
    song = pd.DataFrame(rng.dirichlet(np.ones(4), 6), columns=GENRES).assign(start_s=[0, 1.5, 3.0, 9.0, 10.5, 12.0])
    for part in (song, song.head(1), song.sample(frac=1, random_state=1)):
        figure = plot.plot_timeline(part, GENRES)
        assert len(figure.axes[0].collections) == len(part) + 1
        bars = [patch.get_width() for patch in figure.axes[1].patches]
        assert bars == pytest.approx(sorted(part[GENRES].mean(), reverse=True))
    with pytest.raises(ValueError, match="one song"):
        plot.plot_timeline(song.assign(track_id=list("aabbcc")), GENRES)


@pytest.mark.parametrize("starts, message", [([0, 1.5, 1.5, 3], "2 rows with start_s 1.5"),
                                             ([0, 0, 0, 0], "4 rows with start_s 0"), ([0, 1.5, np.nan, 3], "NaN")])
def test_chunks_without_a_start_of_their_own_are_refused(starts, message):
    chunks = pd.DataFrame(np.full((4, 4), 0.25), columns=GENRES).assign(start_s=starts)
    with pytest.raises(ValueError, match=f"^chunks has .*{message}"):
        plot.plot_chunks(chunks)
    with pytest.raises(ValueError, match=f"^predictions has .*{message}"):
        plot.plot_timeline(chunks, GENRES)


def test_files_are_the_same_bytes_in_another_process(tmp_path):
    code = """
import sys
import warnings
import numpy as np
from genre_study import plot
from genre_study.mel import MelSpec
every = ("png", "svg", "pdf")
plot.save_figure(plot.plot_confusion(np.eye(3, dtype=int) * 9, list("abc")), sys.argv[1], "confusion", every)
spectrogram = plot.plot_spectrogram(np.arange(1280.0).reshape(10, 128), MelSpec())
plot.save_figure(spectrogram, sys.argv[1], "spectrogram", every)
"""
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [f"{name}.{kind}" for name in ("confusion", "spectrogram") for kind in ("pdf", "png", "svg")]
    for name in files:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert len(content) < 150_000 and str(tmp_path).encode() not in content
        assert b"<dc:date>" not in content and b"CreationDate" not in content
        assert not name.endswith("pdf") or b"/FontFile2" in content  # the font is in the file


def test_a_figure_is_saved_for_screens_pages_and_papers(tmp_path):
    png, svg, pdf = plot.save_figure(plot.plot_curves(HISTORY), tmp_path, "curves")
    assert [png.name, svg.name, pdf.name] == ["curves.png", "curves.svg", "curves.pdf"]
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF") and b"/FontFile2" in content and b"/Type3" not in content, "the font itself"


def test_pictures_of_notebooks_follow_the_house(root):
    """One function draws spectrograms, a legend stands outside the axes, and no class is told by a colour alone."""
    wrong = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
            wrong += [(path.stem, line) for line in code.splitlines()
                      if re.search(r"imshow\(|tab:|cmap=\"Blues|(?<!figure)(?<!fig)\.legend\(", line)]
            if code.count(".legend(") > code.count('loc="outside'):
                wrong.append((path.stem, "a legend inside the axes"))
            if "specshow(" in code and path.stem != "10_plot":
                wrong.append((path.stem, "a spectrogram that plot_spectrogram should draw"))
    assert not wrong


def test_save_figure_refuses_odd_names(tmp_path):
    for name in ("", "a/b", "a.png", "../x"):
        with pytest.raises(ValueError, match="name is"):
            plot.save_figure(plot.plot_curves(HISTORY), tmp_path, name)


def test_figures_do_not_pile_up():
    import matplotlib.pyplot as plt

    before = len(plt.get_fignums())
    for _ in range(3):
        plot.plot_curves(HISTORY)
    assert len(plt.get_fignums()) == before


ODD = ["Hits 4 $_$", "R&B $^$", "$\\frac$ off", "クラシック"]


@pytest.mark.parametrize("picture", [
    lambda: plot.plot_confusion(np.eye(4, dtype=int), ODD),
    lambda: plot.plot_timeline(pd.DataFrame([[0.25] * 4] * 2, columns=ODD).assign(start_s=[0, 1.5]), ODD, title=ODD[1]),
    lambda: plot.plot_intervals(pd.DataFrame({"run": ODD, "accuracy": 0.5, "low": 0.4, "high": 0.6, "unit": ODD[::-1]}),
                                group="unit"),
    lambda: plot.plot_reliability(dict.fromkeys(ODD, CURVE))])
@pytest.mark.filterwarnings("ignore:the font of the pictures lacks letters")
def test_names_are_never_formulas_and_missing_letters_warn_once(picture, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        _, svg, _ = plot.save_figure(picture(), tmp_path, "odd")
    assert all(f"<!-- {name} -->" in svg.read_text(encoding="utf-8") for name in ["Hits 4 $_$", "$\\frac$ off"])


def test_a_letter_without_a_font_says_what_to_do():
    with pytest.warns(UserWarning, match="Name one that has them"):
        assert plot.plain_label("\ue000") == "□"
    assert plot.plain_label("Ünïcode – “Блюз” ☃") == "Ünïcode – “Блюз” ☃"


def test_confusion_has_true_genres_in_rows():
    """Eight jazz songs that are called pop stand in jazz's row, under pop."""
    counts = np.array([[5, 8, 0], [1, 4, 2], [0, 0, 9]])
    ax = plot.plot_confusion(counts, ["jazz", "pop", "rock"]).axes[0]
    assert ax.get_xlabel() == "predicted genre" and ax.get_ylabel().startswith("true genre")
    shown = {(text.get_position(), text.get_text()) for text in ax.texts}
    rows = dict(zip([label.get_text() for label in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    columns = dict(zip([label.get_text() for label in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert ((columns["pop"], rows["jazz"]), "8") in shown and ((columns["jazz"], rows["pop"]), "1") in shown


def test_a_cell_of_a_timeline_lies_around_the_middle_of_its_chunk():
    chunks = pd.DataFrame({"start_s": [0.0, 1.5, 3.0], "blues": 0.4, "jazz": 0.3, "metal": 0.2, "pop": 0.1})
    ax = plot.plot_timeline(chunks, GENRES, seconds=3.0).axes[0]
    cells = [cell.get_coordinates()[..., 0] for cell in ax.collections if hasattr(cell, "get_coordinates")]
    assert [(cell.min(), cell.max()) for cell in cells] == [(0.75, 2.25), (2.25, 3.75), (3.75, 5.25)]
    marks = next(marks for marks in ax.collections if not hasattr(marks, "get_coordinates"))
    assert marks.get_offsets()[:, 0].tolist() == [1.5, 3.0, 4.5]


@pytest.mark.parametrize("group", [None, "unit"])
def test_every_interval_stands_in_the_row_of_its_label(group):
    table = pd.DataFrame({"run": ["a", "b", "c"] * 2, "accuracy": [0.2, 0.5, 0.9, 0.3, 0.6, 0.8],
                          "unit": ["x"] * 3 + ["y"] * 3})
    table = table.assign(low=table.accuracy - 0.1, high=table.accuracy + 0.05)[: 6 if group else 3]
    ax = plot.plot_intervals(table, group=group).axes[0]
    names = dict(zip(ax.get_yticks(), [label.get_text() for label in ax.get_yticklabels()], strict=True))
    found = {}
    for text in ax.texts:
        at = text.xy[1] if hasattr(text, "xy") else text.get_position()[1]
        found.setdefault(names[min(names, key=lambda row: abs(row - at))], []).append(float(text.get_text()))
    expected = {run: part.accuracy.tolist() for run, part in table.groupby("run")}
    assert found == expected
