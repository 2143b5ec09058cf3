"""The house: which module may import which, and what may cross. It reads the source; nothing is imported."""
import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "genre_study"
STORY = ("corpus", "chunk", "mel", "store", "split", "feed", "model", "train", "evaluate", "plot", "study")
OPEN_TO_STORY = ("core", "storage", "network", "score")  # the wings that a story module may import


def module_name(path):
    """`predict.song` for genre_study/predict/song.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
         if path.name not in ("_modidx.py", "__init__.py", "__main__.py")}


def imports(module):
    """(imported module, name or None) for each import from this package, at the top of a module or in a function."""
    parents = ["genre_study", *module.split(".")[:-1]]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            base = parents[:len(parents) - node.level + 1] if node.level else []
            full = ".".join([*base, *(node.module or "").split(".")] if node.module else base)
            if full.partition(".")[0] != "genre_study":
                continue
            full = full.partition(".")[2]
            for alias in node.names:
                inner = f"{full}.{alias.name}".lstrip(".")
                yield (inner, None) if inner in TREES else (full, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("genre_study."):
                    yield alias.name.partition(".")[2], None


def defined(module):
    """Names that a module defines itself at its top level."""
    names = set()
    for node in TREES[module].body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_story_is_eleven_numbered_chapters_in_the_order_of_their_imports():
    chapters = [re.fullmatch(r"(\d\d)_(\w+)", path.stem).groups()
                for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    assert [int(number) for number, _ in chapters] == list(range(1, 12))
    assert tuple(name for _, name in chapters) == STORY
    late = {module: later for module in STORY
            if (later := {name for name, _ in imports(module) if name in STORY[STORY.index(module) + 1:]})}
    assert not late, f"a chapter imports a later one: {late}"


def test_module_has_the_path_of_its_notebook():
    exported = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        text = "".join("".join(cell["source"]) + "\n" for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
                       if cell["cell_type"] == "code")
        place = path.relative_to(ROOT / "nbs").with_suffix("")
        for name in re.findall(r"^#\| ?default_exp (\S+)", text, re.M):
            exported[name] = ".".join([*place.parent.parts, re.sub(r"^\d\d_", "", place.name)])
    assert all(module == place for module, place in exported.items()), exported
    assert set(exported) == set(TREES)


def test_story_imports_only_story_and_the_wings_below_it():
    wrong = [(module, name) for module in STORY for name, _ in imports(module)
             if name not in STORY and name.partition(".")[0] not in OPEN_TO_STORY]
    assert not wrong


def test_no_module_imports_in_a_circle():
    graph = {module: {name for name, _ in imports(module) if name in TREES} for module in TREES}
    while free := [module for module in graph if not graph[module] & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph, "in circles, or above one"


def test_names_come_from_where_they_are_defined_and_none_is_private():
    private = [(module, f"{name}.{what}") for module in TREES for name, what in imports(module)
               if what and what.startswith("_")]
    assert not private, "private names that cross modules; what a neighbour needs is public and documented"
    again = [(module, f"{name}.{what}") for module in TREES for name, what in imports(module)
             if what and name in TREES and what not in defined(name)]
    assert not again, "imported from a module that only imports it itself"


@pytest.mark.parametrize("module", TREES)
def test_no_name_is_kept_for_a_past(module):
    assert "__getattr__" not in defined(module)
    exported = next((ast.literal_eval(node.value) for node in TREES[module].body if isinstance(node, ast.Assign)
                     and node.targets[0].id == "__all__"), [])
    assert set(exported) <= defined(module), "re-exports of another module's names"


def test_private_attributes_stay_with_their_class():
    """`other._x` reaches into another object's privacy, whatever module it comes from."""
    reached = [(module, node.lineno, ast.unparse(node)) for module, tree in TREES.items() for node in ast.walk(tree)
               if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
               and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "ast", "os", "sys"))]
    assert not reached
