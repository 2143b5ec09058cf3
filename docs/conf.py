"""The site: chapters, reports and API as pages that are read from files, with nothing loaded from elsewhere (Sphinx).

The source directory is the root of the repository, so that the links between notebooks, reports and modules hold as
they are.
"""
import base64
import hashlib
import html
import importlib
import inspect
import json
import pkgutil
import re
import sys
from pathlib import Path

import furo
import nbformat
import yaml
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jinja2 import Environment, FileSystemLoader
from sphinx import addnodes
from sphinx.errors import SphinxError
from sphinx.util.logging import getLogger

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = html_title = "genre_study"
root_doc = "docs/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "sphinx_design"]
include_patterns = ["docs/**", "nbs/**", "reports/**"]
exclude_patterns = [".*", "*.egg-info", "build", "data", "genre_study", "runs", "tests", "tools", "docs/_build",
                    "**/.*"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show code", "Hide code"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
default_role = "py:obj"
numpydoc_show_class_members = add_module_names = False
autodoc_preserve_defaults = True
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_search_scorer = str(DOCS / "search.js")
pygments_dark_style = "github-dark"
html_show_search_summary = False  # a page that is read from a file may not fetch the others
html_show_sourcelink = html_copy_source = html_show_copyright = False
suppress_warnings = ["toc.not_included"]


def read(path):
    """Read a notebook: its address, title, the summary under the title, whether it was run, and what stopped it."""
    try:
        cells = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4).cells
    except (ValueError, nbformat.ValidationError) as error:
        raise SphinxError(f"{path} can't be read: {str(error)[:200]}. Run it again, or remove it.") from error
    head = re.match(r"# (.+)\n*(?:> ?(.+(?:\n> ?.+)*))?", cells[0].source if cells else "")
    if not head:
        raise SphinxError(f"{path} has no title; its first cell has to begin with '# '")
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    errors = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    return {"doc": path.relative_to(ROOT).with_suffix("").as_posix(), "title": head[1], "executed": bool(outputs),
            "summary": re.sub(r"\n> ?", " ", head[2] or ""), "errors": errors}


# Reports: one folder each, with report.yaml, metrics.json and an executed notebook.

KEYS = {"title", "question", "answer", "measured_on"}


def look_up(name, metrics):
    """Return the value at a dotted path of keys."""
    for key in name.split("."):
        metrics = metrics[int(key) if isinstance(metrics, list) else key]
    return metrics


def fill(text, metrics):
    """Replace each ``{dotted.name:format}`` of a text with the figure that metrics.json has under that name."""
    def put(match):
        try:
            return format(look_up(match[1], metrics), match[2] or "")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SphinxError(f"{match[0]!r} in {text!r}: metrics.json has no such figure ({error!r})") from None
    return re.sub(r"\{([\w.-]+)(?::([^{}]*))?\}", put, " ".join(text.split()))


def read_report(settings_file):
    """Read what the card of a report shows."""
    folder = settings_file.parent
    try:
        card = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise SphinxError(f"{folder}: report.yaml or metrics.json can't be read: {error}") from error
    if not isinstance(card, dict) or not KEYS <= set(card) <= KEYS | {"interval", "order", "picture"}:
        raise SphinxError(f"{settings_file} has {card}; expected {sorted(KEYS)}, and perhaps interval, order, picture")
    if "picture" in card and not (folder / card["picture"]).is_file():
        raise SphinxError(f"{settings_file}: there is no picture {card['picture']!r} in the folder")
    notebooks = sorted(folder.glob("*.ipynb"), key=lambda path: (".failed" in path.name, path.stem != folder.name))
    notebooks += (ROOT / "nbs/studies").rglob(f"{folder.name}.ipynb")
    if not notebooks:
        raise SphinxError(f"{folder} has no executed notebook; run the study into this folder, or remove report.yaml")
    page = read(notebooks[0])
    card |= {"doc": page["doc"], "folder": folder.relative_to(ROOT).as_posix(), "stopped": page["errors"]}
    stopped = page["errors"]
    card["answer"] = f"The notebook stopped with {stopped[0]}" if stopped else fill(card["answer"], metrics)
    if "interval" in card:
        try:
            *path, name = card["interval"].split(".")
            place = look_up(".".join(path), metrics) if path else metrics
            value, (low, high) = place[name], place.get(f"{name}_ci95_artists", place[f"{name}_ci95"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SphinxError(f"{settings_file}: metrics.json has no interval of {card['interval']!r} "
                              f"({error!r})") from None
        shown = f"{value:.1%} (95% interval {low:.1%} to {high:.1%})"
        card["interval"] = {"value": value, "low": low, "high": high, "shown": shown}
    versions = metrics.get("versions", {})
    card["facts"] = [card["measured_on"],
                     *(f"{name} {versions[name]}" for name in ("keras", "jax") if name in versions)]
    card["synthetic"] = str(metrics.get("corpus", "")).startswith("minicorpus")
    return card


# Everything that the pages under docs/ list.

def read_modules():
    """Read the modules of the package: name, summary, and the public functions and classes."""
    package = importlib.import_module("genre_study")
    for found in pkgutil.walk_packages(package.__path__, "genre_study."):
        if found.name.rpartition(".")[2].startswith("_"):  # importing `__main__` runs the command
            continue
        module = importlib.import_module(found.name)
        members = [getattr(module, name) for name in getattr(module, "__all__", [])]
        described = [member.__name__ for member in members if inspect.isroutine(member) or inspect.isclass(member)]
        if described:
            yield {"name": found.name, "summary": (module.__doc__ or "").strip().split("\n")[0], "members": described}


def chapter_module(path):
    """Return the module that a chapter is exported to, by its path."""
    return ".".join(["genre_study", *path.relative_to(ROOT / "nbs").parent.parts, re.sub(r"^\d\d_", "", path.stem)])


PAGES = Environment(loader=FileSystemLoader(DOCS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
SITE = {}  # reports, notebooks and modules as the pages under docs/ list them; filled by `collect`


def collect(app, config):
    """Read everything once. A study without outputs is no page but a file to run: links to it lead to its report."""
    notebooks = {path: read(path) for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
                 if ".ipynb_checkpoints" not in path.parts}
    modules = list(read_modules())
    names = [name for module in modules for name in module["members"]]
    SITE["notebooks"], SITE["modules"] = notebooks, modules
    SITE["reports"] = sorted(map(read_report, (ROOT / "reports").glob("*/report.yaml")),
                             key=lambda card: card.get("order", 100))
    SITE["metrics"] = {file.parent.name: json.loads(file.read_text(encoding="utf-8"))
                       for file in (ROOT / "reports").glob("*/metrics.json")}
    SITE["addresses"] = {name: (f"docs/api/{module['name']}", f"{module['name']}.{name}") for module in modules
                         for name in module["members"] if names.count(name) == 1}
    shown = {Path(card["folder"]).name: f"/{card['doc']}.ipynb" for card in SITE["reports"]}
    SITE["to_run"] = {path: shown.get(path.stem, f"path:/{page['doc']}.ipynb") for path, page in notebooks.items()
                      if "studies" in path.parts and not page["executed"]}
    config.exclude_patterns += [path.relative_to(ROOT).as_posix() for path in SITE["to_run"]]


def write_api_pages(app):
    """Write one page a module for autodoc, where it is not there yet."""
    chapters = {chapter_module(path): page["doc"] for path, page in SITE["notebooks"].items()}
    for module in SITE["modules"]:
        name, chapter = module["name"], chapters.get(module["name"])
        text = f"{name}\n{'=' * len(name)}\n\n" + (f"Chapter: :doc:`/{chapter}`\n\n" if chapter else "")
        text += f".. automodule:: {name}\n   :members:\n   :member-order: bysource\n"
        page = DOCS / "api" / f"{name}.rst"
        page.parent.mkdir(exist_ok=True)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def leave_out(app, what, name, member, skip, options):
    """Leave out methods that a library puts on a class, such as scikit-learn's set_score_request."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def prepare(app, docname, source):
    """Fill the lists of a page under docs/; prepare a notebook."""
    if app.env.doc2path(docname).suffix == ".ipynb":
        notebook = nbformat.reads(source[0], as_version=4)
        prepare_notebook(notebook, Path(app.srcdir, docname).parent)
        card = next((card for card in SITE["reports"] if card["doc"] == docname), None)
        if card:
            open_report(notebook, card)
        source[0] = nbformat.writes(notebook)
    elif docname.startswith("docs/") and not docname.startswith("docs/api/"):
        source[0] = PAGES.from_string(source[0]).render(SITE)


def prepare_notebook(notebook, folder):
    """Put aside what nbdev keeps in a notebook, and links without a page: to folders and to runs kept elsewhere."""
    def keep_link(match):
        target = (folder / match[2]).resolve()
        return match[1] if target.is_dir() else f"[{match[1]}]({SITE['to_run'].get(target, match[2])})"

    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.cells = [cell for cell in notebook.cells
                      if not re.search(r"^#\| *(hide|default_exp)\b", cell.source, re.M)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n")
        elif cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^]]+)\]\(([^)#]+)\)", keep_link, cell.source)
        for data in [output.data for output in cell.get("outputs", []) if "text/html" in output.get("data", {})]:
            data["text/html"] = re.sub(r"<a href=[\"'](?!\w+:|#)[^>]*>(.*?)</a>", r"\1", data["text/html"], flags=re.S)


def open_report(notebook, card):
    """Put the card of a report under its title, in place of its question, and fold its code."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.setdefault("tags", []).append("hide-input")
    head = f"# {card['title']}\n\n{PAGES.get_template('card.html').render(card=card)}\n"
    asked = r"\A\s*(?:>[^\n]*(?:\n|\Z))+|\*\*What this answers:\*\*.*?(?:\n\n|\Z)"
    notebook.cells[0].source = head + re.sub(asked, "", notebook.cells[0].source.partition("\n")[2], flags=re.S)


# Links: from a name in code to its description, and to what is no page.

def link_names(app, doctree):
    """Lead a name in running text that is written as code (``run_grid``) to its description."""
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().partition("(")[0]
        inside = literal.parent
        while inside is not None and not isinstance(inside, nodes.reference | addnodes.pending_xref | nodes.title):
            inside = inside.parent
        if inside is None and name in SITE["addresses"] and re.search(r"[_(]|^[A-Z]", literal.astext()):
            reference = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=SITE["addresses"][name][1],
                                              refexplicit=True, refdoc=app.env.docname)
            literal.replace_self(reference)
            reference += literal


def finish(app, pagename, templatename, context, doctree):
    """Link called names in code cells to their description, open data in the browser, load nothing from elsewhere."""
    def link(match):
        page, anchor = SITE["addresses"][match[2]]
        return f'<a href="{context["pathto"](page).removesuffix("#")}#{anchor}">{match[0]}</a>'

    if not pagename.startswith("_modules/"):
        called = rf'<span class="(n|nf|nc)">({"|".join(SITE["addresses"])})</span>(?=<span class="p">\(|\()'
        context["body"] = re.sub(called, link, context.get("body", "")).replace(' download=""', "")
    rule = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = rule + context.get("metatags", "")


def policy():
    """What a page may load and run: its own files, and the one script that furo has in each page."""
    base = (Path(furo.__file__).parent / "theme/furo/base.html").read_text()
    script = re.search(r"<script>(.*?)</script>", base, re.S)[1]
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (f"default-src 'none'; script-src 'self' 'sha256-{mark}'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; media-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'self'")


POLICY = policy()


def formula(tex, as_block):
    """Write a formula as MathML, which browsers draw without a script; as code if MathML lacks one of its commands."""
    try:
        return tex2mathml(tex, as_block=as_block)
    except MathError as error:
        getLogger(__name__).warning("formula %r: %s", tex, error)
        return f"<code>{html.escape(tex)}</code>"


def visit_formula(as_block):
    """Put the MathML of a formula into the page."""
    def visit(writer, node):
        writer.body.append(formula(node.astext(), as_block))
        raise nodes.SkipNode
    return visit, None


def write_start(app, error):
    """Lead from the top of the site to its front page."""
    if not error:
        start = Path(app.outdir, "index.html")
        start.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">',
                         encoding="utf-8")


def setup(app):
    app.add_html_math_renderer("mathml", visit_formula(False), visit_formula(True))
    app.connect("config-inited", collect)
    app.connect("builder-inited", write_api_pages)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("source-read", prepare)
    app.connect("doctree-read", link_names)
    app.connect("html-page-context", finish)
    app.connect("build-finished", write_start)
