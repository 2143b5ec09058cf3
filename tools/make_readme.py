"""Write the tree of notebooks into nbs/index.ipynb, and README.md from it.

Usage: python tools/make_readme.py [README.md [INDEX.ipynb]], from the root of the repository.
"""
import re
import sys
from itertools import groupby
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ORDER = ("core", "storage", "network", "score", "corpora", "synth", "predict", "grid", "studies", "studies/log",
         "tutorials")
NBS = Path("nbs")


def summary(path):
    """The sentence behind `>` under the title of a notebook, else the title, on one line."""
    head = nbformat.read(path, as_version=4).cells[0].source
    quoted = re.search(r"^> ?(.*(?:\n>.*)*)", head, re.M)
    text = re.sub(r"\n> ?", " ", quoted[1]) if quoted else re.search(r"^# (.*)", head, re.M)[1]
    return re.sub(r"\s+", " ", text).rstrip(".")


def tree():
    """One line for each notebook: the story first, then the wings, studies and tutorials, folder by folder."""
    paths = [path for path in NBS.rglob("*.ipynb")
             if path.name != "index.ipynb" and ".ipynb_checkpoints" not in path.parts]
    places = {path: path.parent.relative_to(NBS).as_posix() for path in paths}

    def rank(path):
        folder = places[path]
        return (ORDER.index(folder) + 1 if folder in ORDER else 0 if folder == "." else len(ORDER) + 1, folder,
                path.name)

    lines = []
    for folder, group in groupby(sorted(paths, key=rank), key=places.get):
        lines += ["", f"**nbs/{'' if folder == '.' else folder + '/'}**", ""]
        lines += [f"- [{path.stem}]({path.relative_to(NBS).as_posix()}): {summary(path)}" for path in group]
    return "\n".join(lines).strip()


def readme(notebook):
    """The notebook as Markdown, with links that are right at the root of the repository."""
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells = [cell for cell in notebook.cells if not re.match(r"#\|\s*hide\b", cell.source)]
    text, resources = MarkdownExporter(exclude_input_prompt=True,
                                       exclude_output_prompt=True).from_notebook_node(notebook)
    assert not resources["outputs"], "index.ipynb has a picture in its outputs; link one from reports/ instead"
    text = re.sub(r"\]\((?!\.\./|https?:|#)", "](nbs/", text).replace("](../", "](")
    text = re.sub(r"#\| .*\n+", "", re.sub(r"\n{3,}", "\n\n", text)).strip()
    return f"<!-- made from nbs/index.ipynb by `make readme` -->\n\n{text}\n"


target, index = (sys.argv[1:] + ["README.md", str(NBS / "index.ipynb")][len(sys.argv) - 1:])[:2]
notebook = nbformat.read(NBS / "index.ipynb", as_version=4)
for cell in notebook.cells:
    cell.source = re.sub(r"(?s)(?<=<!-- tree -->).*(?=<!-- /tree -->)", lambda found: f"\n\n{tree()}\n\n", cell.source)
Path(index).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
Path(target).write_text(readme(notebook), encoding="utf-8")
