"""A full or broken disk, lost permissions or death at any change to a folder (write, rename, unlink, mkdir, ...).

A small C library is preloaded into a process that imports everything once. For each fault that process forks; the child
arms the library, calls `job(argument)` and says how it ended. Whatever writes is covered, also h5py and pyarrow, which
don't use Python's files.

    SETUP = '''
    from genre_study.store import build_store
    def job(argument):
        build_store(read_table(argument["tracks"]), argument["folder"], workers=1, progress=False)
    '''
    with injector(SETUP, tmp_path) as run:
        undisturbed = run({"tracks": ..., "folder": str(folder)}, folder)
        for fault in faults(len(undisturbed.changes), most=200):
            ... a fresh folder ...
            outcome = run(argument, folder, fault)
            ... outcome.ended is "returned", "raised" or "died"; what is on disk must be whole ...
"""
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

KINDS = ("death", "ENOSPC", "EIO", "EACCES")

LOOP = """
import ctypes, json, os, sys
arm = ctypes.CDLL(None).injection_arm
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the pipe to the caller is this process's
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if order["argument"].get("arm_programs"):
            os.environ |= {f"INJECTION_{name.upper()}": str(order[name]) for name in ("folder", "number", "error")}
            os.environ |= {"INJECTION_FOREVER": "1"} if order["forever"] else {}
        arm(order["folder"].encode(), order["number"], order["error"], order["forever"], log)
        outcome = ["returned", "", ""]
        try:
            job(order["argument"])
        except BaseException as error:
            outcome = ["raised", type(error).__name__, str(error)]
        finally:
            arm(b"", 0, 0, 0, -1)
            with open(order["log"] + ".outcome", "w") as file:
                json.dump(outcome, file)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


class Fault(NamedTuple):
    """What happens at which change."""

    number: int  # of the change, from 1 on
    kind: str  # one of KINDS
    forever: bool = False  # each later change fails as well


class Outcome(NamedTuple):
    """How a job ended."""

    ended: str  # "returned", "raised" or "died"
    error: str  # name of the exception's type
    text: str  # its message
    changes: list  # "rename path", "write", ... in their order


def faults(n_changes, most=200, seed=0):
    """At most so many faults, spread over all changes: each dies once, and fails with each error, once or for good."""
    every = [Fault(number, kind, forever) for number in range(1, n_changes + 1) for kind in KINDS
             for forever in ((False,) if kind == "death" else (False, True))]
    return every if len(every) <= most else sorted(random.Random(seed).sample(every, most))


def library(folder):
    """The compiled library; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("faults are injected on Linux, with a C compiler")
    target = Path(folder) / "injection.so"
    source = Path(__file__).with_name("injection.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(target), str(source), "-ldl"], check=True)
    return target


@contextmanager
def injector(setup, folder):
    """Yield run(argument, watched, fault=None); `setup` is Python source with a job(argument), `folder` is for logs."""
    log = Path(folder) / "injection.log"
    environment = os.environ | {"LD_PRELOAD": str(library(folder)), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", setup + LOOP], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=environment)

    def run(argument, watched, fault=None):
        Path(f"{log}.outcome").unlink(missing_ok=True)
        number, kind, forever = fault or Fault(0, "EIO")
        order = {"argument": argument, "folder": os.path.realpath(watched), "log": str(log), "number": number,
                 "error": -1 if kind == "death" else getattr(errno, kind), "forever": int(forever)}
        print(json.dumps(order), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        assert answer, "the server of the faults has ended"
        changes = log.read_text(errors="replace").splitlines() if log.exists() else []
        outcome = Path(f"{log}.outcome")
        return Outcome(*(json.loads(outcome.read_text()) if outcome.exists() else ("died", "", "")), changes)

    try:
        yield run
    finally:
        server.stdin.close()
        server.wait()


def run_faults(run, most, argument, folder, prepare, check, complete, errors=("OSError", "PermissionError")):
    """All faults of one case: the number of changes, and how the faults ended.

    `prepare` fills the folder, `check` looks at what a fault left, `complete` calls again without one; `errors` are the
    kinds of exceptions that may come out.
    """
    ends = {"returned": 0, "raised": 0, "died": 0}

    def attempt(fault):
        shutil.rmtree(folder, ignore_errors=True)
        prepare()
        return run(argument, folder, fault)

    undisturbed = attempt(None)
    assert undisturbed.ended == "returned", undisturbed
    for fault in faults(len(undisturbed.changes), most):
        outcome = attempt(fault)
        ends[outcome.ended] += 1
        assert outcome.ended != "raised" or outcome.error in errors, (fault, outcome)
        check(outcome, fault)
        complete(fault)
    return {"changes": len(undisturbed.changes), **ends}
