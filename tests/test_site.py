"""The site: no warning, no dead link, nothing from elsewhere; looked at in headless Chromium, from files."""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from chromium import chromium, needs_chromium

SphinxError = pytest.importorskip("sphinx.errors",
                                  reason="Sphinx is not installed (pip install -e .[docs])").SphinxError
pytest.importorskip("furo", reason="Sphinx's theme is not installed (pip install -e .[docs])")

ATTACK = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"
FRONT, TRIED = "docs/index.html", "reports/tried/tried.html"


class Page(HTMLParser):
    """Every address, id and event handler of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.events = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src"):
                self.addresses.append((tag, value))
            if name == "id":
                self.ids.add(value)
            if name.startswith("on"):
                self.events.append((tag, name))


def write_report(folder, answer="It is {song.accuracy:.0%}: {note}", outputs=(), **card):
    """A report with a hostile note among its metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    song = {"accuracy": 0.6, "accuracy_ci95": [0.5, 0.7]}
    (folder / "metrics.json").write_text(json.dumps({"song": song, "note": ATTACK, "runs": [{"n": 7}]}))
    card = {"title": "Tried out", "question": "Does it hold?", "answer": answer, "measured_on": ATTACK, "order": 99,
            **card}
    (folder / "report.yaml").write_text(json.dumps(card))
    cells = [nbformat.v4.new_markdown_cell("# Tried out\n\n> Does it hold,\n> or not?\n\n"
                                           "A [file](metrics.json#note), a [folder](../../tests), $x^2$\n\n"
                                           "A [study](../../nbs/studies/audit.ipynb)"),
             nbformat.v4.new_code_cell("#| hide\nhidden_from_readers = 1"),
             nbformat.v4.new_code_cell("run_grid(" + "x" * 300 + ")", outputs=list(outputs))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{folder.name}.ipynb")


@pytest.fixture(scope="session")
def site(root, tmp_path_factory):
    """The site with one report more, of hostile text, wide tables and a failure; and what Sphinx said."""
    copy = tmp_path_factory.mktemp("site")
    files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root, text=True,
                           capture_output=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, copy / name)
    columns = "".join(f"<td>column{i}</td>" for i in range(60))
    wide = f"<table><tr>{columns}</tr></table>{ATTACK}<a href='../run/x'>x</a>"
    shown = [{"text/html": wide}, {"text/plain": "y" * 400 + ATTACK},
             {"application/javascript": "document.title='broken in'"}]
    write_report(copy / "reports" / "tried", interval="song.accuracy",
                 outputs=[nbformat.v4.new_output("display_data", data) for data in shown])
    stop = nbformat.v4.new_output("error", ename="ValueError", evalue="no such genre", traceback=["1"])
    write_report(copy / "reports" / "stopped", outputs=[stop])
    made = subprocess.run([sys.executable, "-m", "sphinx", "-qE", "-c", "docs", ".", "docs/_build/html"], cwd=copy,
                          text=True, capture_output=True)
    assert made.returncode == 0, made.stderr
    return copy / "docs/_build/html", made.stderr


@pytest.fixture(scope="session")
def pages(site):
    """Every page as it was written, by its path."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(site[0].rglob("*.html"))}


def test_sphinx_has_nothing_to_remark(site):
    assert not site[1]


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(pages):
    parsed = {path: Page(text) for path, text in pages.items()}
    dead = []
    for path, page in parsed.items():
        for tag, address in page.addresses:
            place, _, anchor = address.partition("#")
            if re.match("https?:|mailto:|data:", address):
                assert tag == "a" or address.startswith("data:"), f"{path.name} loads {address}"
                continue
            target = Path(os.path.normpath(path.parent / unquote(place.partition("?")[0]))) if place else path
            if not target.exists() or (anchor and target in parsed and unquote(anchor) not in parsed[target].ids):
                dead.append((path.name, address))
    assert len(parsed) > 100 and set(dead) <= {("tried.html", "x")}, "the picture of the attack is not there"


def test_every_page_has_a_policy_that_stops_what_is_not_its_own(pages):
    for path, text in pages.items():
        if path.parent.name != "html":  # the first page only leads on
            assert "Content-Security-Policy\" content=\"default-src 'none'; script-src 'self' 'sha256-" in text, path
            assert not re.search("cdn|googleapis|unpkg", text.partition("</head>")[0]), path


def test_card_escapes_what_metrics_say(site, pages):
    front = pages[site[0] / FRONT]
    assert not Page(front).events and "&lt;script&gt;document.title" in front and "It is 60%: " in front
    assert "60.0% (95% interval 50.0% to 70.0%)" in front
    assert "The notebook stopped with ValueError: no such genre" in front
    assert front.index("How much of the accuracy comes from the split?") < front.index("The study on synthetic music")


def test_names_lead_to_their_description_with_types_and_source(site, pages):
    tried = pages[site[0] / TRIED]
    assert 'href="../../docs/api/genre_study.grid.grid.html#genre_study.grid.grid.run_grid"' in tried
    assert "or not?" not in tried, "the card asks the question"
    assert "hidden_from_readers" not in tried and "<math" in tried and "metrics.json" in tried
    assert 'href="../audit/audit.html"' in tried, "a study that was not executed here: its report is shown"
    described = pages[site[0] / "docs/api/genre_study.grid.grid.html"]
    assert 'id="genre_study.grid.grid.run_grid"' in described
    assert "viewcode-link" in described and "/nbs/grid/" in described
    assert '<span class="classifier">' in described


@pytest.fixture(scope="module")
def conf(root):
    """The functions of docs/conf.py."""
    return runpy.run_path(str(root / "docs/conf.py"))


def test_fill_reads_values_only(conf):
    assert conf["fill"]("{a.b} {c.1:.2f} {x", {"a": {"b": "ok"}, "c": [1, 2.0]}) == "ok 2.00 {x"
    for text in ("{a.__class__}", "{a.b.upper}", "{0}", "{a.b:.1%}"):
        with pytest.raises(SphinxError, match=r"metrics\.json has no such figure"):
            conf["fill"](text, {"a": {"b": "x"}})


@pytest.mark.parametrize("card, message", [
    ({"answer": "{song.recall}"}, "metrics.json has no such figure"),
    ({"picture": "none.png"}, "there is no picture 'none.png'"),
    ({"titel": "x"}, "expected \\['answer'"), ({"interval": "note"}, "metrics.json has no interval of 'note'")])
def test_report_yaml_is_checked(conf, tmp_path, monkeypatch, card, message):
    monkeypatch.setitem(conf["read_report"].__globals__, "ROOT", tmp_path)
    write_report(tmp_path / "tried")
    conf["read_report"](tmp_path / "tried/report.yaml")
    write_report(tmp_path / "tried", **card)
    with pytest.raises(SphinxError, match=message):
        conf["read_report"](tmp_path / "tried/report.yaml")


def test_what_cannot_be_read_is_said(conf, tmp_path, monkeypatch):
    monkeypatch.setitem(conf["read_report"].__globals__, "ROOT", tmp_path)
    for name, text in [("tried.ipynb", "[1"), ("metrics.json", "[1"),
                       ("report.yaml", "!!python/object/apply:os.abort []")]:
        write_report(tmp_path / "tried")
        (tmp_path / "tried" / name).write_text(text)
        with pytest.raises(SphinxError, match="can't be read"):
            conf["read_report"](tmp_path / "tried/report.yaml")


FORMULAS = [r"\text{<script>alert(1)</script>}", r"\text{<img/src=x/onerror=alert(1)>}",
            r"\href{javascript:alert(1)}{x}", r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}",
            r"\color{red\" onclick=\"alert(1)}{x}", r"a<b onclick=alert(1)>c",
            r"\mathrm{</mtext></math><script>alert(1)</script>}"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_can_neither_run_nor_load(conf, formula):
    drawn = Page(conf["formula"](formula, as_block=True))
    assert not drawn.events and not drawn.addresses


def test_make_reports_builds_the_site(root):
    told = subprocess.run(["make", "-n", "reports"], cwd=root, capture_output=True, text=True).stdout
    assert "sphinx-build" in told and "docs/_build/html/index.html" in told


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. It reaches nothing: every name resolves to nowhere."""
    with chromium("--host-resolver-rules=MAP * ~NOTFOUND") as driver:
        yield driver


def look(browser, page, pixels=1280, scheme="light"):
    """Open a page as wide as this (a window of Chromium can't be as narrow as a phone)."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": pixels < 600})
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())


@needs_chromium
def test_every_page_opens_without_error_and_fits_a_phone(site, pages, browser):
    browser.get_log("browser")
    wrong = []
    for page in pages:
        look(browser, page, 390)
        broken = browser.execute_script(
            "const images = [...document.images]; images.forEach(i => i.loading = 'eager');"
            "return Promise.all(images.map(i => i.decode().then(() => 0, () => i.src))).then(l => l.filter(Boolean))")
        scroll, seen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        if page.name == "tried.html":
            assert browser.title.startswith("Tried out") and errors, "the attack in its output has to be stopped"
        elif broken or errors or scroll > 390 or seen != 390:
            wrong.append((page.name, broken, errors, scroll))
    assert not wrong, wrong


@needs_chromium
@pytest.mark.parametrize("pixels", [390, 1280])
def test_wide_output_scrolls_inside(site, browser, pixels):
    look(browser, site[0] / TRIED, pixels)
    outer, inner, place = browser.execute_script(
        "const table = [...document.querySelectorAll('table')].find(t => t.rows[0].cells.length == 60);"
        "let box = table; "
        "const inside = b => b.scrollWidth > b.clientWidth && getComputedStyle(b).overflowX != 'visible';"
        "while (!inside(box)) box = box.parentElement;"
        "return [document.documentElement.scrollWidth, box.scrollWidth, box.clientWidth]")
    assert outer <= pixels and inner > place


@needs_chromium
def test_tables_of_a_runs_page_keep_their_words_whole(browser, tmp_path):
    """On a phone a table of seven columns scrolls inside; its words and numbers are not broken."""
    from genre_study.grid.page import write_page

    names = "".join(f"<th>{name}</th>" for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"))
    table = f"<table class='dataframe'><tr>{names}</tr><tr>{'<td>0.3632</td>' * 6}</tr></table>"
    table += f"<table id='long'><tr><th>flags</th><td>--{'xla_cpu_' * 9}</td></tr></table>"
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", {"text/html": table})])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "run.ipynb")
    look(browser, write_page(tmp_path / "run.ipynb"), 390)
    width, highest = browser.execute_script(
        "return [document.documentElement.scrollWidth, "
        "Math.max(...[...document.querySelectorAll('.dataframe :is(th, td)')].map("
        "cell => cell.getBoundingClientRect().height))]")
    assert width <= 390 and 0 < highest < 40
    long = browser.execute_script("return document.querySelector('#long td').getBoundingClientRect().right")
    assert long < 390, "a word that is longer than the page is broken"


@needs_chromium
def test_a_script_that_got_into_a_page_does_not_run(site, browser):
    page = site[0] / TRIED
    text = page.read_text().replace("Content-Security-Policy", "None")
    page.with_name("open.html").write_text(text, encoding="utf-8")
    look(browser, page.with_name("open.html"))
    assert browser.title == "broken in", "the attack is none"
    page.with_name("open.html").unlink()
    look(browser, page)
    assert browser.title.startswith("Tried out")


@needs_chromium
@pytest.mark.parametrize("words, wanted", [("run_grid", "genre_study.grid.grid.run_grid"),
                                           ("chunk length", "What chunk length, mel bands")])
def test_search_works_from_a_file(site, browser, words, wanted):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
    look(browser, site[0] / TRIED)
    browser.get_log("browser")
    browser.find_element("css selector", ".sidebar-search").send_keys(words, Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda b: "found" in b.find_element("id", "search-results").text)
    found = [link.text for link in browser.find_elements("css selector", "#search-results a")]
    assert any(wanted in text for text in found[:3]), found
    assert not browser.get_log("browser")


@needs_chromium
def test_light_and_dark(site, browser):
    def paper(page, scheme):
        look(browser, site[0] / page, scheme=scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert paper(FRONT, "light") > 700 and paper(FRONT, "dark") < 100
    browser.find_element("css selector", ".theme-toggle-content .theme-toggle").click()
    assert paper(TRIED, "dark") > 700, "the reader's choice wins over the system's, and is remembered"
    browser.execute_script("localStorage.clear()")
