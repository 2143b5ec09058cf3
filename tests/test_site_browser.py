"""The site in headless Chromium, from files: no error, pictures there, tables sort, search finds, a phone fits."""
import json
import re
import shutil

import nbformat
import pytest
from chromium import chromium, needs_chromium

from genre_study.site.report import build_site

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install selenium)")
pytestmark = needs_chromium


FORMULAS = "\n\n".join(rf"$\text{{{tag}}}$" for tag in (
    "<img/src/onerror=document.title=6>", "<svg/onload=document.title=6>", "<script>document.title=6</script>"))


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    """The site of this repository, with one report more that has a table, a wide table, a picture and hostile text."""
    place = tmp_path_factory.mktemp("browser")
    reports = place / "reports"
    shutil.copytree(root / "reports", reports)
    (reports / "tried").mkdir()
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td><td>{share}</td></tr>" for name, value, share in
                   [("blues", "9", "83.1%"), ("jazz", "1,200", "nan"), ("pop", "-3.5", "9%"), ("rock", "40", "55%")])
    table = f"<table><thead><tr><th>genre</th><th>n</th><th>share</th></tr></thead><tbody>{rows}</tbody></table>"
    wide = "<table><tr>" + "".join(f"<td>column{i}</td>" for i in range(60)) + "</tr></table>"
    pixel = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
    hostile = "y" * 400 + "<script>document.title='broken in'</script>"
    shown = [{"text/html": table}, {"text/html": wide}, {"image/png": pixel}, {"text/html": hostile},
             {"text/plain": hostile}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    cells = [nbformat.v4.new_markdown_cell(f"# Tried out\n\n> Does it hold?\n\n{FORMULAS}\n\n## Table"),
             nbformat.v4.new_code_cell("x" * 300, outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), reports / "tried" / "tried.ipynb")
    song = {"accuracy": 0.6, "accuracy_ci95": [0.5, 0.7]}
    (reports / "tried" / "metrics.json").write_text(json.dumps({"song": song}))
    return reports, build_site(reports, root / "nbs", reports)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. It reaches nothing: every name resolves to nowhere."""
    with chromium("--host-resolver-rules=MAP * ~NOTFOUND") as driver:
        yield driver


def width(browser, pixels):
    """Give the page this width, as a phone would (a window of Chromium can't be that narrow)."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": pixels < 600})


def test_every_page_opens_without_error_and_fits_a_phone(site, browser):
    reports, table = site
    browser.get_log("browser")
    for page in ["index.html", *table["page"]]:
        width(browser, 1280)
        browser.get((reports / page).as_uri())
        broken = browser.execute_script(
            "const images = [...document.images]; images.forEach(i => i.loading = 'eager');"
            "return Promise.all(images.map(i => i.decode().then(() => 0, () => i.src))).then(l => l.filter(Boolean))")
        assert not broken, f"{page}: pictures not there: {broken}"
        for pixels in (390, 1280):
            width(browser, pixels)
            scroll, seen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert scroll <= seen == pixels, f"{page} is {scroll} px wide in a window of {seen}"
        assert browser.title not in ("broken in", "6"), page
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def test_tables_sort_by_number_and_by_text(site, browser):
    reports, _ = site
    width(browser, 1280)
    browser.get((reports / "tried" / "index.html").as_uri())

    def order(column):
        browser.execute_script("document.querySelectorAll('main thead th')[arguments[0]].click()", column)
        return browser.execute_script(
            "return [...document.querySelector('main table').tBodies[0].rows].map(row => row.cells[0].textContent)")

    assert order(1) == ["jazz", "rock", "blues", "pop"], "1,200 is more than 40"
    assert order(1) == ["pop", "blues", "rock", "jazz"]
    assert order(2) == ["blues", "rock", "pop", "jazz"], "what is not a number comes last"
    assert order(0) == ["blues", "jazz", "pop", "rock"]
    assert order(0) == ["rock", "pop", "jazz", "blues"]
    state = browser.execute_script("return [...document.querySelectorAll('main thead th')].map(head => head.ariaSort)")
    assert state == ["descending", "none", "none"]


def test_a_figure_opens_large_and_closes(site, browser):
    reports, _ = site
    browser.get((reports / "tried" / "index.html").as_uri())
    browser.execute_script("document.querySelector('main figure img').click()")
    assert browser.execute_script("return document.querySelector('dialog').open") is True
    assert browser.execute_script(
        "const large = document.querySelector('dialog img'); return large.decode().then(() => large.naturalWidth)") == 1
    browser.execute_script("document.querySelector('dialog').click()")
    assert browser.execute_script("return document.querySelector('dialog').open") is False


def test_search_works_from_a_file(site, browser):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
    reports, _ = site
    browser.get((reports / "tried" / "index.html").as_uri())
    browser.find_element("id", "search").send_keys("run_grid")
    first = WebDriverWait(browser, 30).until(lambda b: b.find_elements("css selector", "#found a"))[0]
    assert first.text.startswith("run_grid") and first.get_attribute("href").endswith("api/grid.html#run_grid")
    browser.find_element("id", "search").send_keys(Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda b: b.current_url.endswith("api/grid.html#run_grid"))
    browser.find_element("id", "search").send_keys("zzzz qqqq")
    WebDriverWait(browser, 30).until(lambda b: "Nothing found" in b.find_element("id", "found").text)


def test_light_and_dark(site, browser):
    reports, _ = site

    def paper():
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    colours = []
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get((reports / "index.html").as_uri())
        colours.append(paper())
    assert colours[0] == "rgb(253, 253, 251)" and colours[1] == "rgb(20, 25, 27)"
    browser.find_element("id", "theme").click()
    assert paper() == colours[0], "the reader's choice wins over the system's"
    browser.get((reports / "tried" / "index.html").as_uri())
    assert paper() == colours[0], "and is remembered"
    browser.execute_script("localStorage.clear()")


def test_a_script_that_got_into_a_page_does_not_run(site, browser):
    reports, _ = site
    browser.get_log("browser")
    page = reports / "tried" / "index.html"
    attack = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"
    pages = {"with.html": page.read_text(encoding="utf-8")}
    pages["without.html"] = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", pages["with.html"])
    titles = {}
    for name, text in pages.items():
        place = page.with_name(name)
        place.write_text(text.replace("<main id=\"content\">", f"<main id=\"content\">{attack}"), encoding="utf-8")
        browser.get(place.as_uri())
        titles[name] = browser.title
        place.unlink()
    browser.get_log("browser")
    assert titles["without.html"] == "broken in", "the attack is none"
    assert titles["with.html"].startswith("Tried out")
