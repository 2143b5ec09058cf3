"""The site as files: no dead link, nothing from elsewhere, hostile names escaped, failures shown."""
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup

from genre_study.site.render import clean_html, draw_formulas, markdown_html
from genre_study.site.report import build_site, fill

HOSTILE = "<script>alert('x')</script>\"&'"


class Links(HTMLParser):
    """Every address, id and element of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.tags, self.events = [], set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("href", "src"):
                self.addresses.append((tag, value))
            if name == "id":
                self.ids.add(value)
            if name.startswith("on"):
                self.events.append((tag, name))


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    """The site of this repository."""
    out = tmp_path_factory.mktemp("site")
    table = build_site(root / "reports", root / "nbs", out)
    return out, table


def notebook(*cells):
    """A notebook of Markdown texts and of (source, outputs)."""
    made = [nbformat.v4.new_markdown_cell(cell) if isinstance(cell, str)
            else nbformat.v4.new_code_cell(cell[0], outputs=cell[1]) for cell in cells]
    return nbformat.v4.new_notebook(cells=made)


def test_every_link_leads_somewhere(site):
    out, table = site
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}
    assert len(pages) == len(table) + 1 and len(pages) > 10
    dead = []
    for path, links in pages.items():
        for tag, address in links.addresses:
            place, _, anchor = address.partition("#")
            if address.startswith(("http:", "https:", "mailto:", "data:")):
                assert tag == "a" or address.startswith("data:"), f"{path.name} loads {address}"
                continue
            target = Path(os.path.normpath(path.parent / unquote(place))) if place else path
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                dead.append((str(path.relative_to(out)), address))
    assert not dead, dead


def test_nothing_in_a_page_can_run_but_the_sites_own_script(site):
    out, _ = site
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        root = "../" * (len(path.relative_to(out).parts) - 1)
        assert re.findall(r"<script[^>]*>", text) == [f'<script src="{root}site/site.js" defer>']
        links = Links(text)
        assert not links.events and not links.tags & {"iframe", "object", "embed", "form", "base", "style"}, path


def test_no_chapter_is_red(site):
    _, table = site
    chapters = table[table["kind"] != "report"]
    assert not chapters["error"].any(), chapters[chapters["error"] != ""].to_dict("records")
    assert {"chapter", "module"} <= set(table["kind"])


def test_exported_functions_are_linked_from_the_text(site):
    out, _ = site
    assert '<a href="../api/grid.html#run_grid">' in (out / "chapters" / "grid/grid.html").read_text(encoding="utf-8")
    page = (out / "api" / "grid.html").read_text(encoding="utf-8")
    assert 'id="run_grid"' in page and "dask.distributed.Client" in page and "grid/grid.html" in page


def test_exported_functions_are_linked_from_code_at_the_first_build(tmp_path):
    reports, nbs = tmp_path / "reports", tmp_path / "nbs"
    (reports / "one").mkdir(parents=True)
    nbs.mkdir()
    for place in (nbs / "00_one.ipynb", reports / "one" / "one.ipynb"):
        nbformat.write(notebook("# One", ("fill(text)", [])), place)
    for _ in range(2):
        build_site(reports, nbs, reports)
        for page in ("chapters/00_one.html", "one/index.html"):
            assert '<pre><a href="../api/report.html#fill">fill</a>(text)' in (reports / page).read_text(), page


def test_search_index_is_a_script_with_every_function(site):
    out, _ = site
    text = (out / "site" / "search.js").read_text(encoding="utf-8")
    entries = json.loads(text.removeprefix("window.searchIndex = ").rstrip(";\n"))
    assert {"run_grid", "build_site", "mel_spectrogram"} <= {entry["t"] for entry in entries}
    assert all((out / entry["u"].partition("#")[0]).is_file() for entry in entries)


def test_hostile_names_and_metrics_are_text(tmp_path):
    reports, nbs = tmp_path / "reports", tmp_path / "nbs"
    folder = reports / "a & <b> 'c' é #1"
    folder.mkdir(parents=True)
    nbs.mkdir()
    drawn = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    shown = [{"text/html": f"<p>{HOSTILE.replace('<', '&lt;')}</p><img src=x onerror=alert(1)>", "text/plain": HOSTILE},
             {"image/svg+xml": drawn}, {"application/javascript": "alert(1)", "text/markdown": HOSTILE}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text=HOSTILE))
    nbformat.write(notebook(f"# Title {HOSTILE}\n\n> why {HOSTILE}", ("x", outputs)), folder / "run.ipynb")
    metrics = {"corpus": HOSTILE, "song": {"accuracy": 0.5}, "versions": {"keras": HOSTILE}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    build_site(reports, nbs, reports)
    for page in (reports / "index.html", folder / "index.html"):
        links = Links(page.read_text(encoding="utf-8"))
        assert not links.events and "iframe" not in links.tags
        assert len(re.findall(r"<script", page.read_text(encoding="utf-8"))) == 1
        for tag, address in links.addresses:
            if not address.startswith(("data:", "#")):
                assert (page.parent / unquote(address.partition("#")[0])).resolve().exists(), (tag, address)


def test_failures_are_red_pages_and_missing_files_are_said(tmp_path):
    reports, nbs = tmp_path / "reports", tmp_path / "nbs"
    for name in ("stopped", "cut", "empty", "fine"):
        (reports / name).mkdir(parents=True)
    nbs.mkdir()
    stop = nbformat.v4.new_output("error", ename="ValueError", evalue="\x1b[31mno such genre\x1b[0m", traceback=["1"])
    nbformat.write(notebook("# Study", ("train()", [stop])), reports / "stopped" / "stopped.failed.ipynb")
    whole = nbformat.writes(notebook("# Fine\n\n[gone](gone.csv) ![gone](gone.png) [there](metrics.json)"))
    (reports / "cut" / "cut.ipynb").write_text(whole[:60])
    (reports / "fine" / "fine.ipynb").write_text(whole)
    (reports / "fine" / "metrics.json").write_text("{}")
    (reports / "empty" / "metrics.json").write_text('{"song"')
    table = build_site(reports, nbs, reports).query("kind == 'report'").set_index("page")["error"]
    assert table["stopped/index.html"] == "This notebook stopped with ValueError: no such genre"
    assert "cut.ipynb can't be read" in table["cut/index.html"]
    assert table["empty/index.html"] and not table["fine/index.html"]
    red = (reports / "stopped" / "index.html").read_text()
    assert red.index('role="alert"') < red.index("<main") and 'href="#cell-2"' in red and 'id="cell-2"' in red
    assert (reports / "fine" / "index.html").read_text().count('class="absent"') == 2
    assert (reports / "index.html").read_text().count('class="card failed"') == 3


def test_pages_of_what_is_gone_are_removed_and_results_never(tmp_path):
    reports, nbs = tmp_path / "reports", tmp_path / "nbs"
    (reports / "one").mkdir(parents=True)
    nbs.mkdir()
    nbformat.write(notebook("# One"), reports / "one" / "one.ipynb")
    (reports / "one" / "img").mkdir()
    (reports / "one" / "img" / "0123456789ab.png").write_bytes(b"old")
    (reports / "one" / "img" / "mine.png").write_bytes(b"kept")
    (reports / "notes").mkdir()
    (reports / "notes" / "index.html").write_text("a page by hand")
    build_site(reports, nbs, reports)
    assert [path.name for path in (reports / "one" / "img").iterdir()] == ["mine.png"]
    assert (reports / "notes" / "index.html").exists(), "not written by the site, so not its to remove"
    (reports / "one" / "one.ipynb").unlink()
    build_site(reports, nbs, reports)
    assert not (reports / "one" / "index.html").exists()


def test_report_yaml_is_checked(tmp_path):
    reports, nbs = tmp_path / "reports", tmp_path / "nbs"
    (reports / "one").mkdir(parents=True)
    nbs.mkdir()
    nbformat.write(notebook("# One"), reports / "one" / "one.ipynb")
    for text, message in [("answer: '{song.accuracy:.1%}'", "metrics.json has no 'song.accuracy'"),
                          ("picture: figures/none.png", "picture 'figures/none.png' is not in the folder"),
                          ("titel: x", "report.yaml of 'one' has \\['titel'\\]"), ("- a", "expected keys"),
                          ("!!python/object/apply:os.abort []", "not plain YAML")]:
        (reports / "one" / "report.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            build_site(reports, nbs, reports)
    with pytest.raises(FileNotFoundError, match="root of the repository"):
        build_site(reports, tmp_path / "none", reports)


def test_fill_reads_values_only():
    assert fill("{a.b} {c.1:.2f} {x", {"a": {"b": "ok"}, "c": [1, 2.0]}) == "ok 2.00 {x"
    for text in ("{a.__class__}", "{a.b.upper}", "{0}"):
        with pytest.raises(ValueError, match=r"metrics\.json has no"):
            fill(text, {"a": {"b": "x"}})


@pytest.mark.parametrize("text", [
    "<a href=' javascript:alert(1)'>x</a>", "<a href='&#106;avascript:alert(1)'>x</a>", "<base href='//far'>",
    "<img src='data:text/html,<script>alert(1)</script>'>", "<b><style></b><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>", "<!--><img src=x onerror=alert(1)>-->",
    "<svg><p><style><g title='</style><img src=x onerror=alert(1)>'>", "<link rel=stylesheet href='//far'>",
    "<meta http-equiv=refresh content='0;url=//far'>"])
def test_clean_html_leaves_nothing_that_runs(text):
    links = Links(clean_html(text))
    assert not links.events and not links.tags & {"script", "style", "base", "meta", "link", "svg", "noscript"}
    assert not any("javascript" in str(address) or (tag == "a" and "data:" in str(address))
                   for tag, address in links.addresses)


FORMULAS = [r"\text{<script>alert(1)</script>}", r"\text{<svg/onload=alert(1)>}", r"\text{<img/src=x/onerror=alert(1)>}",
            r"\href{javascript:alert(1)}{x}", r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}", r"\class{x}{y}",
            r"\style{background:url(//far)}{x}", r"\color{red\" onclick=\"alert(1)}{x}", r"\hspace{1em\" onclick=\"x}",
            r"\mathrm{</mtext></math><script>alert(1)</script>}", r"a<b onclick=alert(1)>c"]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mark", ["$", "$$"])
def test_a_formula_can_neither_run_nor_load(formula, mark):
    soup = BeautifulSoup(markdown_html(f"x\n\n{mark}{formula}{mark}\n"), "html.parser")
    draw_formulas(soup)
    text = str(soup)
    links = Links(text)
    assert not links.events and not links.addresses, text
    assert links.tags <= {"p", "span", "div", "code", "math", "mrow", "mi", "mo", "mn", "mtext", "mstyle", "mspace"}, text
    assert not re.search(r"<[^>]*(style|class)=\"(?!tex\")", text), text


def test_formulas_are_drawn_as_before():
    from latex2mathml.converter import convert
    for formula in [r"\frac{a}{b} \le \sum_{i=1}^n x_i^2", r"\begin{matrix}a&b\\c&d\end{matrix}", r"\sqrt[3]{x}", r"\text{ if }z",
                    r"\left( \hat{y} \right)", r"\color{red}{x}", r"\mathbf{x} \approx 10 \log_{10} p"]:
        soup = BeautifulSoup('<span class="tex"></span>', "html.parser")
        soup.span.string = formula
        draw_formulas(soup)
        drawn = BeautifulSoup(convert(formula), "html.parser").math
        del drawn["xmlns"]
        assert str(soup.math) == str(drawn), formula


def test_every_page_has_a_policy_that_stops_scripts_from_elsewhere(site):
    out, _ = site
    for path in out.rglob("*.html"):
        head = path.read_text(encoding="utf-8").partition("<title>")[0]
        assert "Content-Security-Policy\" content=\"default-src 'none'; script-src 'self';" in head, path


def test_make_reports_is_what_the_docs_say(root):
    if "reports:" not in (root / "Makefile").read_text():
        pytest.skip("the Makefile has no target reports yet")
    told = subprocess.run(["make", "-n", "reports"], cwd=root, capture_output=True, text=True).stdout
    assert "genre_study.site.report" in told or "genre_study report" in told
