"""Put hand-made faults into the package, one at a time, and ask the tests whether they notice.

Usage, from the root of the repository: python tools/faults.py [WORD ...]

The faults stand in tools/faults.toml, by module: a name in words, the text that is replaced, the new text, and the
tests that are asked, the cheapest first. Each fault goes into a copy of the repository, in which these tests are run.
The answers go to reports/faults/faults.csv. Words choose the faults of these modules or names, in this order; the rows
of the others are kept; the word "new" stands for those that were not asked yet. All of them take an hour on an idle
machine. It forks, so it runs on Linux and macOS.

To repair the list after a change of a module: a text that is replaced has to occur in its module exactly once.
"""
import csv
import importlib
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "reports" / "faults" / "faults.csv"
COLUMNS = ("module", "fault", "result", "by", "reason", "seconds")
COPIED = ("genre_study", "nbs", "reports", "tests", "tools", "README.md", "settings.ini", "setup.py", "constraints.txt")
LIMIT_S = 600  # for the tests of one string; longer is a hang
LIBRARIES = ("pytest", "hypothesis", "pandas", "scipy.stats", "sklearn.model_selection", "sklearn.metrics", "soundfile",
             "librosa.filters", "pyarrow.parquet", "zarr", "keras", "jax.numpy")  # loaded once, for all forks


def load_libraries():
    """Import what the tests need, but nothing of this package: each test run is a fork of this process."""
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                   "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    for name in LIBRARIES:
        importlib.import_module(name)
    if backend == "jax":
        del os.environ["KERAS_BACKEND"]
    assert not any(name.partition(".")[0] == "genre_study" for name in sys.modules)


def read_faults():
    """Return all faults as dicts: module, name, old, new, tests, and equivalent or survives with a reason."""
    parts = tomllib.loads((ROOT / "tools" / "faults.toml").read_text(encoding="utf-8"))["module"]
    return [{"tests": part["tests"], **fault, "module": part["name"]} for part in parts for fault in part["fault"]]


def source(module, root=ROOT):
    """Return the file of a module such as "score.compare"."""
    return root / "genre_study" / (module.replace(".", "/") + ".py")


def with_fault(text, fault):
    """Return the text of a module with the fault in it; ValueError if the place can't be told."""
    found = text.count(fault["old"])
    if found != 1 or fault["old"] == fault["new"]:
        raise ValueError(f"{fault['module']}, {fault['name']!r}: the text that is replaced occurs {found} times; "
                         "expected once, and another new text: repair tools/faults.toml")
    return text.replace(fault["old"], fault["new"])


def run_tests(options, folder):
    """In a forked process: run pytest in the copy, whose package is the one that is imported, also by its children."""
    os.setsid()
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(folder.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(folder), *(path for path in sys.path if path and not Path(path).is_relative_to(ROOT / "tools"))]
    sys.dont_write_bytecode = True
    code = 99
    try:
        import hypothesis
        import pytest

        hypothesis.settings.register_profile("short", phases=("explicit", "generate"), database=None)  # never shrink
        hypothesis.settings.load_profile("short")
        code = int(pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *options]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def ask(options, folder):
    """Run tests in a copy; return "" if they pass, else the test that failed first."""
    (folder.parent / "output.txt").write_text("")
    child, end = os.fork(), time.monotonic() + LIMIT_S
    if child == 0:
        run_tests(options, folder)
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hang: {' '.join(options)}"
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(done[1])
    if code == 5:
        raise SystemExit(f"no test is chosen by {' '.join(options)}; repair tools/faults.toml")
    output = (folder.parent / "output.txt").read_text(errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", output, re.M)
    return "" if code == 0 else failed[1] if failed else f"exit status {code}: {output.strip()[-300:]}"


def verdict(fault, folder, passed):
    """Put one fault into the copy, ask its tests, and return its row of the table.

    The test that fails has to pass without the fault, or it says nothing; those that do are kept in `passed`.
    """
    start, file, by = time.monotonic(), source(fault["module"], folder), ""
    whole = file.read_text(encoding="utf-8")
    try:
        file.write_text(with_fault(whole, fault), encoding="utf-8")
        for tests in fault["tests"]:
            name, *options = shlex.split(tests)
            by = by or ask([f"tests/test_{name}.py", *options], folder)
    finally:
        file.write_text(whole, encoding="utf-8")
    if "::" in by and by not in passed:
        if ask([by], folder):
            why = f"{by} fails without the fault, too"
            return dict(zip(COLUMNS, (fault["module"], fault["name"], "not asked", "", why, "")))
        passed.add(by)
    reason = fault.get("equivalent") or fault.get("survives") or ""
    result = "caught" if by else "equivalent" if "equivalent" in fault else "survived"
    return dict(zip(COLUMNS, (fault["module"], fault["name"], result, by, "" if by else reason,
                              round(time.monotonic() - start))))


def read_table():
    """Return the rows of the table by module and fault."""
    if not TABLE.is_file():
        return {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {(row["module"], row["fault"]): row for row in csv.DictReader(file)}


def write_table(rows, faults):
    """Write a row for each fault of the list, in its order; a fault that was not put in yet is "not asked"."""
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for fault in faults:
            key = fault["module"], fault["name"]
            writer.writerow(rows.get(key, dict(zip(COLUMNS, (*key, "not asked", "", "", "")))))


def main(words):
    """Try the chosen faults and write the table after each."""
    faults, table, passed = read_faults(), read_table(), set()
    kept = {key for key, row in table.items() if row["result"] != "not asked"}
    chosen = [fault for word in words for fault in faults if word in (fault["module"], fault["name"])
              or (word == "new" and (fault["module"], fault["name"]) not in kept)] if words else faults
    load_libraries()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "repository"
        folder.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)
        for number, fault in enumerate(chosen, 1):
            row = verdict(fault, folder, passed)
            write_table(read_table() | {(fault["module"], fault["name"]): row}, faults)
            print(f"{number}/{len(chosen)} {row['result']}: {row['module']}, {row['fault']} ({row['by']})", flush=True)
    results = [row["result"] for row in read_table().values()]
    print(f"{len(results)} faults:", *(f"{results.count(one)} {one}" for one in sorted(set(results))))


if __name__ == "__main__":
    main(sys.argv[1:])
