"""The list of hand-made faults fits the package, and the committed table has an answer of the tests to each."""
import csv
import importlib.util
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("faults", ROOT / "tools" / "faults.py")
faults = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(faults)
FAULTS = faults.read_faults()
MODULES = ("chunk", "mel", "store", "storage.disk", "storage.writer", "storage.ready_made", "split", "feed", "train",
           "network.checkpoint", "network.frozen", "model", "evaluate", "score.compare", "score.calibrate", "study",
           "predict.song", "predict.novelty", "predict.bundle", "predict.folder", "predict.source", "predict.export",
           "predict.classifier", "grid.expand", "grid.results", "grid.runner", "core.files", "core.names", "core.paths",
           "network.backend", "corpus")


def test_every_fault_can_be_put_in():
    """Its place occurs exactly once, and what comes out is Python; its tests exist."""
    for fault in FAULTS:
        compile(faults.with_fault(faults.source(fault["module"]).read_text(encoding="utf-8"), fault), "fault", "exec")
        assert all((ROOT / "tests" / f"test_{shlex.split(tests)[0]}.py").is_file() for tests in fault["tests"]), fault
    assert len(FAULTS) >= 330 and set(MODULES) <= {fault["module"] for fault in FAULTS}
    assert len({(fault["module"], fault["name"]) for fault in FAULTS}) == len(FAULTS)


def test_a_fault_whose_place_is_gone_is_refused():
    for text, times in (("a = 1", 0), ("b = 1; b = 1", 2)):
        with pytest.raises(ValueError, match=f"occurs {times} times"):
            faults.with_fault(text, {"module": "x", "name": "y", "old": "b = 1", "new": "b = 2"})


def test_table_has_every_fault_and_the_tests_notice_nearly_all():
    with faults.TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["module"], row["fault"]) for row in rows] == [(fault["module"], fault["name"]) for fault in FAULTS], \
        "run tools/faults.py for the faults that are new, see its docstring"
    results = [row["result"] for row in rows]
    assert "not asked" not in results, "run tools/faults.py new"
    assert set(results) <= {"caught", "survived", "equivalent"}
    assert results.count("caught") >= 0.95 * (len(results) - results.count("equivalent"))
    assert all(row["by"] if row["result"] == "caught" else row["reason"] for row in rows)
