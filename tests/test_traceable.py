"""Every figure quoted in README.md and under reports/ names its source, and agrees with it.

How to quote a figure
---------------------
The figure is the text of a link to where it comes from:

    Song accuracy is [61.2% (95% interval 55.1% to 66.7%)](reports/filtered/metrics.json#song.accuracy).
    It was tested on [290 songs](reports/filtered/metrics.json#n_tracks.test).
    The published picture says [83.8%](https://example.org/paper).

* To a `.json` file: what follows `#` is the path of keys to the number (`valid.song.accuracy`, `confusion.0.3`).
  The first number of the text is compared with it, rounded as quoted; with `%` it is the number times 100. A figure
  with an interval beside it in the file (key + `_ci95`, or `_ci95_artists`) has to quote one: two more numbers.
* To a `.csv` file: `#row/column`, the row by the value in its first column.
* To a notebook or a Markdown file: the text of the link, as it stands, has to be found there.
* To another site (http): a figure that others published. It is not checked.

In HTML the same is written `<a href="metrics.json#song.accuracy">61.2% (55.1% to 66.7%)</a>`, or any element with the
attribute `data-source="metrics.json#song.accuracy"`. Paths are relative to the file that holds the link. The source has
to be a file that git keeps or could keep, not one of runs/ or data/.

What counts as a figure: percentages, decimals below 1 with two or more places, and numbers with ms, MB, GB, points,
times, x or samples a second; also in words ("seventy per cent", "two thirds of the songs") or in backticks. Not: a
percentage that names a setting (50% overlap, 95% interval), code, and the executed outputs of a notebook, which are
their own source. Counts without a unit are a matter of test_quotations.py.
"""

import csv
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest

NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:\s?%)?")
SETTING = re.compile(r"\b\d+\s?%\s+(?:\w+\s+)?(?:overlap|intervals?|bootstrap|confidence)\b")
FIGURE = re.compile(
    r"(?<![\w.])[-−+]?(?:\d[\d,]*(?:\.\d+)?\s?%|0\.\d{2,}(?!\d|\.\d)"
    r"|\d[\d,]*(?:\.\d+)?\s?(?:ms|MB|GB|points|times|x|samples a second)\b)"
)

QUOTED_AS_CODE = re.compile(r"[-−+]?\d[\d,.]*\s?(?:%|points|times)(?: \(.*\))?")
SMALL = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
IN_WORDS = re.compile(
    rf"(?i)\b(?:(?:{SMALL}|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)[- ]?)+(?:percent|per cent)\b"
    rf"|\b(?:{SMALL})[- ](?:thirds|quarters|fifths|tenths) of (?:the |all )?(?:(?!their)\w+ )?"
    r"(?:songs|tracks|chunks|answers)\b"
    rf"|\b(?:{SMALL}) out of (?:{SMALL}|\d+)\b"
)


@dataclass
class Link:
    text: str
    target: str


# What a document says: its links, and the text outside links and code.


def read_markdown(text):
    "Links and remaining text of Markdown; code is left out, HTML inside is read as HTML."
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", lambda code: code[1] if QUOTED_AS_CODE.fullmatch(code[1]) else "", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)  # pictures
    links = []

    def keep(found):
        links.append(Link(found[1], found[2].strip()))
        return " "

    rest = re.sub(r"\[([^\]]*)\]\(([^)\s]*)[^)]*\)", keep, text)
    inner, rest = read_html(rest)
    return links + inner, rest


class _Reader(HTMLParser):
    "Collects links and sourced elements; passes over code, scripts, pictures and the outputs of notebooks."

    SKIPPED = ("pre", "code", "script", "style", "svg", "head")
    OUTPUTS = frozenset(("jp-OutputArea", "jp-Cell-outputWrapper", "output"))  # nbconvert's classes
    VOID = ("br", "img", "hr", "meta", "link", "input", "col", "wbr")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.rest = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag in self.VOID:
            return
        attributes = dict(attributes)
        skipped = tag in self.SKIPPED or not self.OUTPUTS.isdisjoint((attributes.get("class") or "").split())
        source = attributes.get("data-source") or (attributes.get("href") if tag == "a" else None)
        link = Link("", source) if source else None
        self.open.append((tag, skipped, link))
        if link and not any(entry[1] for entry in self.open):
            self.links.append(link)

    def handle_endtag(self, tag):
        if tag in [entry[0] for entry in self.open]:
            while self.open and self.open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        if any(skipped for _, skipped, _ in self.open):
            return
        around = [link for _, _, link in self.open if link]
        if around:
            around[-1].text += data
        else:
            self.rest.append(data)


def read_html(text):
    "Links and remaining text of HTML."
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.links, "".join(reader.rest)


def read_notebook(text):
    "Links and remaining text of a notebook's Markdown cells."
    cells = json.loads(text)["cells"]
    return read_markdown("\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))


READERS = {".md": read_markdown, ".html": read_html, ".ipynb": read_notebook}

# What the source says.


def follow(content, path):
    "The value at a dotted path of keys; a key may hold dots itself."
    if not path:
        return content
    names = path.split(".")
    for end in range(len(names), 0, -1):
        name, rest = ".".join(names[:end]), ".".join(names[end:])
        if isinstance(content, dict) and name in content:
            return follow(content[name], rest)
        if isinstance(content, list) and name.isdigit() and int(name) < len(content):
            return follow(content[int(name)], rest)
    raise KeyError(path)


def numbers_in(text):
    "Numbers of a link's text as (value, places, is a percentage), without the 95% of '95% interval'."
    found = NUMBER.findall(SETTING.sub(" ", text))
    plain = [(each.replace(",", "").replace("−", "-").replace("%", "").strip(), "%" in each) for each in found]
    return [(float(value), len(value.partition(".")[2]), percent) for value, percent in plain]


def agrees(quoted, value):
    "Is the quoted number the value, rounded?"
    number, places, percent = quoted
    return abs(number - value * (100 if percent else 1)) <= 0.5 * 10**-places + 1e-9


def complaint_of_json(link, file, path):
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        value = follow(content, path)
    except KeyError:
        return f"{file.name} has no {path!r}"
    quoted = numbers_in(link.text)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return f"{path!r} of {file.name} is not a number"
    if not quoted:
        return "the text of the link has no number"
    if not agrees(quoted[0], value):
        return f"{file.name} says {value} for {path!r}"
    intervals = []
    for ending in ("_ci95", "_ci95_artists"):
        try:
            intervals.append(follow(content, path + ending))
        except KeyError:
            continue
    if not intervals:
        return None
    if len(quoted) != 3:
        return f"bare figure: quote its interval too, {intervals[0]}"
    percent = quoted[0][2]
    ends = [(number, places, percent) for number, places, _ in quoted[1:]]
    if not any(agrees(ends[0], low) and agrees(ends[1], high) for low, high in intervals):
        return f"{file.name} says {intervals} for the interval of {path!r}"
    return None


def complaint_of_csv(link, file, path):
    name, _, column = path.partition("/")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = [row for row in rows if next(iter(row.values())) == name]
    if len(found) != 1 or column not in found[0]:
        return f"{file.name} has {len(found)} rows {name!r}, columns {list(rows[0]) if rows else []}"
    quoted = numbers_in(link.text)
    if not quoted or not agrees(quoted[0], float(found[0][column])):
        return f"{file.name} says {found[0][column]} for {path!r}"
    return None


def complaint(link, document, root):
    "What is wrong with a link that quotes a figure, or None."
    target, _, path = link.target.partition("#")
    if re.match(r"\w+:", target) or not target:
        return None
    file = (document.parent / target).resolve()
    if not file.is_file():
        return f"there is no {target}" if path or FIGURE.search(link.text) else None
    root = root.resolve()
    if not file.is_relative_to(root) or file.relative_to(root).parts[0] in ("runs", "data", ".venv"):
        return f"{target} is not kept by git; quote a file under reports/"
    if file.suffix == ".json" and path:
        return complaint_of_json(link, file, path)
    if file.suffix == ".csv" and path:
        return complaint_of_csv(link, file, path)
    if not FIGURE.search(SETTING.sub(" ", link.text)):
        return None
    if file.suffix in (".md", ".ipynb"):
        return None if link.text in file.read_text(encoding="utf-8") else f"{link.text!r} is not found in {target}"
    return f"{target} is no source of a figure: link to a .json with #keys, a .csv, a notebook or another site"


def complaints(document, root):
    "Everything that is wrong with the figures of one document."
    links, rest = READERS[document.suffix](document.read_text(encoding="utf-8"))
    for link in links:
        wrong = complaint(link, document, root)
        if wrong:
            yield f"[{link.text}]({link.target}): {wrong}"
    rest = SETTING.sub(" ", rest)
    for found in (*FIGURE.finditer(rest), *IN_WORDS.finditer(rest)):
        around = " ".join(rest[max(0, found.start() - 40) : found.end() + 30].split())
        yield f"no source for {found[0].strip()!r} in '{around}'"


def documents(root):
    found = [root / "README.md", *(path for path in sorted((root / "reports").rglob("*")) if path.suffix in READERS)]
    return [path for path in found if path.is_file() and ".ipynb_checkpoints" not in path.parts]


def test_every_figure_has_a_source_and_agrees_with_it(root):
    wrong = [f"{path.relative_to(root)}: {each}" for path in documents(root) for each in complaints(path, root)]
    assert not wrong, "\n".join(["figures without a source, or that differ from it:", *wrong])


# The check itself is checked: it must pass what is right and fail what is wrong.

METRICS = {
    "song": {"accuracy": 0.61234, "accuracy_ci95": [0.5512, 0.6671], "accuracy_ci95_artists": [0.52, 0.7], "top3": 0.9},
    "n_tracks": {"test": 290}, "n_parameters": 243454, "confusion": [[3, 1], [0, 4]], "seconds": {"training": 1834.26},
    "parameters": {"learning.rate": 0.001},
}


@pytest.fixture
def page(tmp_path):
    "Write a document beside reports/a/metrics.json and return what the check complains of."
    folder = tmp_path / "reports" / "a"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "table.csv").write_text("run,song.accuracy,seconds\nsmall,0.5512,12.31\nlarge,0.61,40\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "claims.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": ["2,678 is 83.8%"]}]}))

    def check(text, name="README.md"):
        (tmp_path / name).write_text(text)
        return list(complaints(tmp_path / name, tmp_path))

    return check


@pytest.mark.parametrize("text", [
    "[61.2% (95% interval 55.1% to 66.7%)](reports/a/metrics.json#song.accuracy)",
    "[0.612 (0.55 to 0.67)](reports/a/metrics.json#song.accuracy)",
    "[61% (52 to 70)](reports/a/metrics.json#song.accuracy), drawn by artist",
    "| run | top 3 |\n| --- | --- |\n| a | [90.0%](reports/a/metrics.json#song.top3) |",
    "[290 songs](reports/a/metrics.json#n_tracks.test), [243,454 parameters](reports/a/metrics.json#n_parameters)",
    "[1,834 s](reports/a/metrics.json#seconds.training) and [3](reports/a/metrics.json#confusion.0.0)",
    "[0.001](reports/a/metrics.json#parameters.learning.rate)",
    "[55.1%](reports/a/table.csv#small/song.accuracy) in [12.3 s](reports/a/table.csv#small/seconds)",
    "the picture says [83.8%](https://example.org/picture), and so it does: [83.8%](reports/a/claims.ipynb)",
    "chunks of 3 s with 50% overlap, 19 a track; the 95% interval; `0.25`; Python 3.11, jax 0.10.2, 1.5 s",
    "```\naccuracy 0.93 12%\n```\nand ![curves 12%](reports/a/curves.png)",
    "[how it works](nbs/index.ipynb) and [the report](reports/a/table.csv)",
    '<td data-source="reports/a/metrics.json#song.top3">90%</td>',
])
def test_right_figures_pass(page, text):
    assert page(text) == []


@pytest.mark.parametrize("text, why", [
    ("accuracy is 61.2%", "no source for '61.2%'"),
    ("accuracy is 0.61.", "no source for '0.61'"),
    ("it is 2.1 times faster and takes 18 ms", "no source for '2.1 times'"),
    ("| run | accuracy |\n| --- | --- |\n| a | 61.2% |", "no source for '61.2%'"),
    ("[61.3% (55.1% to 66.7%)](reports/a/metrics.json#song.accuracy)", "says 0.61234"),
    ("[61.2% (55.9% to 66.7%)](reports/a/metrics.json#song.accuracy)", "for the interval of"),
    ("[61.2%](reports/a/metrics.json#song.accuracy)", "bare figure"),
    ("[61.2%](reports/a/metrics.json#song.f1)", "has no 'song.f1'"),
    ("[61.2%](reports/a/metrics.json#song)", "is not a number"),
    ("[accuracy](reports/a/metrics.json#song.accuracy)", "has no number"),
    ("[61.2%](reports/b/metrics.json#song.accuracy)", "there is no reports/b/metrics.json"),
    ("[61.2% (55.1% to 66.7%)](runs/metrics.json#song.accuracy)", "not kept by git"),
    ("[291 songs](reports/a/metrics.json#n_tracks.test)", "says 290"),
    ("[55.3%](reports/a/table.csv#small/song.accuracy)", "says 0.5512"),
    ("[55.1%](reports/a/table.csv#medium/song.accuracy)", "has 0 rows 'medium'"),
    ("[84.0%](reports/a/claims.ipynb)", "is not found in"),
    ("[61.2%](reports/a/metrics.json)", "is no source of a figure"),
    ("<table><tr><td>61.2%</td></tr></table>", "no source for '61.2%'"),
    ("accuracy is `61.2%`", "no source for '61.2%'"),
    ("accuracy is `61.2% (95% interval 55.1% to 66.7%)`", "no source for '61.2%'"),
    ("sixty-one per cent of the songs", "no source for 'sixty-one per cent'"),
    ("Two thirds of the songs are classified correctly", "no source for 'Two thirds of the songs'"),
    ("nine out of ten songs", "no source for 'nine out of ten'"),
])
def test_wrong_figures_fail(page, text, why):
    found = page(text)
    assert len(found) >= 1 and why in found[0]


def test_html_and_notebooks_are_read_too(page):
    right = '<p>Accuracy <a href="reports/a/metrics.json#song.accuracy">61.2% (55.1% to 66.7%)</a><br>, 50% overlap</p>'
    assert page(right, "page.html") == []
    assert "no source" in page("<p>Accuracy 61.2%</p>", "page.html")[0]
    assert page('<div class="jp-OutputArea"><div>0.61</div><br></div><style>a{width:50%}</style>', "page.html") == []
    assert "no source" in page('<div class="jp-OutputArea"><br></div><p>0.61</p>', "page.html")[0]
    text, code = {"cell_type": "markdown", "source": ["It is 61.2%\n"]}, {"cell_type": "code", "source": ["0.61"]}
    assert len(page(json.dumps({"cells": [text, code]}), "notebook.ipynb")) == 1


def test_documents_are_found(tmp_path):
    for name in ("README.md", "reports/index.html", "reports/a/reproduce.ipynb", "reports/a/figures/x.svg", "other.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [str(path.relative_to(tmp_path)) for path in documents(tmp_path)] == [
        "README.md", "reports/a/reproduce.ipynb", "reports/index.html"
    ]
