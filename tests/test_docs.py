"""Docstrings: the examples of every module are run, and every public function documents each of its parameters."""
import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PACKAGE = Path(__file__).parent.parent / "genre_study"
MODULES = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))
           if path.stem not in ("_modidx", "__init__", "__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "pd": pd}, optionflags=flags)
    assert not found.failed


def parts(text):
    """Names under the headings Parameters and Attributes of a numpydoc text."""
    sections = re.findall(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=^\w[\w ]*\n-+$|\Z)", text, re.S | re.M)
    heads = re.findall(r"^(\S[^\n:]*?)(?: ?:|$)", "\n".join(sections), re.M)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_of_a_public_function_is_documented(name):
    module, missing = importlib.import_module(name), {}
    for public in module.__all__:
        member = getattr(module, public)
        if not (inspect.isfunction(member) or inspect.isclass(member)):
            continue
        text = inspect.getdoc(member) or ""
        error = inspect.isclass(member) and issubclass(member, Exception)
        asked = set() if error else set(inspect.signature(member).parameters) - {"self", "args", "kwargs"}
        unsaid = asked - parts(text) - set(re.findall(r"`(\w+)`", text))
        if unsaid or not text:
            missing[public] = sorted(unsaid)
    assert not missing
