"""Make README.md from nbs/index.ipynb with nbconvert. Usage: python tests/make_readme.py README.md"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

notebook = nbformat.read("nbs/index.ipynb", as_version=4)
notebook.metadata["language_info"] = {"name": "python"}
notebook.cells = [cell for cell in notebook.cells if not re.match(r"#\|\s*hide\b", cell.source)]
text, resources = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(notebook)
assert not resources["outputs"], "index.ipynb has a picture in its outputs; link one from reports/ instead"
text = re.sub(r"\]\((?!\.\./|https?:|#)", "](nbs/", text).replace("](../", "](")  # links of nbs/ seen from the root
text = re.sub(r"#\| .*\n+", "", re.sub(r"\n{3,}", "\n\n", text)).strip()
Path(sys.argv[1]).write_text(f"<!-- made from nbs/index.ipynb by `make readme` -->\n\n{text}\n", encoding="utf-8")
