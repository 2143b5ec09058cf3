"""Grids under faults: kills, two grids in one folder, a full disk, hostile values, a cluster that loses a worker."""
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genre_study.grid.expand import expand_grid, read_grid, read_study
from genre_study.grid.grid import run_grid
from genre_study.grid.results import compare_levels, read_runs
from genre_study.grid.runner import unfinished

CELLS = ["# # Toy\n# counts slowly, as a training would",
         'rate: float = 0.5\ntext: str = ""  # a = b: a comment with a second equals sign\nsteps: int = 4\n'
         'seed: int = 0\ndata: str = ""\nmode: str = ""\nrun_dir: str = "run"',
         """
import json, os, time
from pathlib import Path
from ipykernel.connect import get_connection_info
run_dir = Path(run_dir)
with open(run_dir / "pids.txt", "a") as file: file.write(f"{os.getpid()}\\n")
if mode == "hog": hog = bytearray(600 << 20); time.sleep(60)  # it is ended long before
if mode == "fill": (run_dir / "big").write_bytes(bytes(64 << 20))
if mode == "die": os.kill(os.getpid(), 9)
threads = os.environ["OMP_NUM_THREADS"]
transport = get_connection_info(unpack=True)["transport"]""",
         """
done = run_dir / "steps.txt"                 # continues where it was, as training does
start = int(done.read_text() or 0) if done.exists() else 0
for step in range(start, steps):
    time.sleep(0.1)
    Path(f"{done}.part").write_text(str(step + 1))
    os.replace(f"{done}.part", done)
if mode == "slow": time.sleep(600)""",
         """
metrics = {"song": {"accuracy": rate / (seed + 1), "accuracy_ci95": [0.0, 1.0]}, "threads": threads,
           "transport": transport, "steps": steps,
           "parameters": {"rate": rate, "text": text, "steps": steps, "seed": seed, "data": data, "mode": mode}}
Path(run_dir / "metrics.part").write_text(json.dumps(metrics))
os.replace(run_dir / "metrics.part", run_dir / "metrics.json")""",
         'assert mode != "late", "an error after the metrics are written"']


@pytest.fixture
def study(tmp_path):
    """A study notebook that takes about a second and does what `mode` says."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    return tmp_path / "toy.ipynb"


def kernels(out):
    """Process numbers of all kernels that a folder of runs has seen."""
    return {int(line) for path in Path(out).glob("*/pids.txt") for line in path.read_text().split()}


def wait_until(condition, seconds=20):
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def alive(pids):
    """The processes that still run."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def start_grid(study, out, grid, workers=2):
    """run_grid in a process of its own; it prints the table of states."""
    code = ("import json, signal, sys; from genre_study.grid.grid import run_grid; "
            "s, o, g, w = json.loads(sys.argv[1]); "
            "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job ignores it
            "table = run_grid(g, s, o, workers=w, progress=False); "
            "print(json.dumps(table[['key', 'state', 'error']].to_numpy().tolist()))")
    return subprocess.Popen([sys.executable, "-c", code, json.dumps([str(study), str(out), grid, workers])],
                            stdout=subprocess.PIPE, text=True, cwd=study.parent)


def metrics_of(out):
    """Key to metrics of each run folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in Path(out).glob("*/metrics.json")}


def test_papermill_would_lose_a_parameter_that_the_grid_sees(study):
    from papermill import inspect_notebook
    assert "text" not in inspect_notebook(str(study))
    assert read_study(study).parameters == {"rate": 0.5, "text": "", "steps": 4, "seed": 0, "data": "", "mode": "",
                                            "run_dir": "run"}


HOSTILE = ['"; import os; os.abort() #', "'''\nraise SystemExit\n'''", "\\\"\n\\", "{rate.__class__}", "é\u2028 \x00",
           "__import__('os').abort()", "$(touch x) `touch x`", "<script>alert(1)</script>"]


def test_hostile_text_arrives_as_text(study, tmp_path):
    out = tmp_path / "a {rate} folder"  # papermill would fill the braces in
    texts = [*HOSTILE[:2], "".join(HOSTILE)]
    table = run_grid({"base": {"steps": 0}, "cross": {"text": texts}}, study, out, workers=2, progress=False)
    assert table["state"].tolist() == ["finished"] * 3, table["error"].tolist()
    assert sorted(read_runs(out)["text"]) == sorted(texts)
    assert not (tmp_path / "x").exists()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.binary(max_size=3)
    | st.text(st.characters() | st.sampled_from("\0\ud800\udfff.{}"), max_size=8)
    | st.sampled_from(["rate", "text", "seed", "run_dir"]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(
        st.sampled_from(["rate", "text", "seed"]) | inner.filter(lambda key: isinstance(key, str | int | float)),
        inner, max_size=3), max_leaves=6)
KEYS = ("name", "question", "base", "cross", "cases", "leave_out", "compare_to", "seeds")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grid=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_any_grid_is_expanded_or_refused_in_words(study, grid):
    """Nothing foreign is raised, and each key is that of its parameters, also after they were JSON."""
    try:
        table = expand_grid(grid, study)
    except ValueError as error:
        assert len(str(error)) > 20
    else:
        given = table["given"].tolist()
        assert table["key"].is_unique and json.loads(json.dumps(given, ensure_ascii=False).encode()) == given


ODD_FILES = ["[" * 3000, "{a: " * 3000, "\0", "base: {text: \"\\uD800\"}", "base: !!python/complex 1j", "a: *b",
             "? [1]\n: 2", "base: &a {text: *a}", "seeds: [0o7, 010]", "base: {rate: 1:30}", "base: 2020-99-99", "\xff",
             "name: ../up"]


@pytest.mark.parametrize("text", ODD_FILES)
def test_odd_files_are_refused_in_words(study, tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"odd|base|seed|text|name"):
        expand_grid(tmp_path / "odd.yaml", study)
    (tmp_path / "odd.ipynb").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"odd\.ipynb' is not a Jupyter notebook"):
        read_study(tmp_path / "odd.ipynb")


def test_states_of_runs(study, tmp_path):
    out = tmp_path / "runs"
    grid = {"base": {"steps": 1}, "cases": {"good": {"seed": 3}, "late": {"mode": "late"}, "died": {"mode": "die"},
                                            "hog": {"mode": "hog"}}}
    table = run_grid(grid, study, out, workers=2, memory_gb=0.5, progress=False).set_index("label")
    assert table["state"].to_dict() == {"good": "finished", "late": "failed", "died": "failed", "hog": "failed"}
    assert "an error after the metrics are written" in table.loc["late", "error"]
    assert table.loc["late", "cell"] == 'In [7]: assert mode != "late", "an error after the metrics are written"'
    assert "GiB, more than its bound of 0.50 GiB" in table.loc["hog", "error"]
    assert "Kernel died" in table.loc["died", "error"]
    assert (Path(table.loc["late", "folder"]) / "metrics.json").exists(), "it must look finished to a careless eye"
    assert read_runs(out)["seed"].tolist() == [3]
    assert read_runs(out)["threads"].tolist() == [str(max(1, len(os.sched_getaffinity(0)) // 2))]
    executed = (Path(table.loc["good", "folder"]) / "toy.ipynb").read_text()
    assert json.loads(executed)["metadata"]["papermill"]["output_path"] == "toy.ipynb"
    assert "mode == 'slow'" not in (Path(table.loc["good", "folder"]) / "log.txt").read_text()


def test_kernels_take_no_port_that_another_could_take(study, tmp_path, monkeypatch):
    grid = {"base": {"steps": 0}, "seeds": [0, 1]}
    assert run_grid(grid, study, tmp_path / "runs", workers=2, progress=False)["state"].tolist() == ["finished"] * 2
    assert [run["transport"] for run in metrics_of(tmp_path / "runs").values()] == ["ipc", "ipc"]
    deep = tmp_path / ("a folder whose name is too long for the address of a Unix socket" * 2)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert run_grid({**grid, "seeds": [0]}, study, tmp_path / "deep", progress=False)["state"].tolist() == ["finished"]
    assert [run["transport"] for run in metrics_of(tmp_path / "deep").values()] == ["tcp"]


def test_results_of_other_parameters_are_moved_aside(study, tmp_path):
    out = tmp_path / "runs"
    folder = Path(run_grid({"base": {"steps": 0}}, study, out, progress=False)["folder"][0])
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["parameters"]["rate"] = 0.25
    (folder / "metrics.json").write_text(json.dumps(metrics))
    settings = {**read_study(study).parameters, "steps": 0}
    assert "made with rate=0.25, not with 0.5" in unfinished(folder, "toy", settings)
    assert run_grid({"base": {"steps": 0}}, study, out, progress=False)["state"].tolist() == ["finished"]
    assert len(list((out / "superseded").glob("*/metrics.json"))) == 1
    assert len(read_runs(out)) == 1


def rewritten(study, cell, old, new):
    """The study with a text in one of its cells changed."""
    notebook = nbformat.read(study, 4)
    assert old in notebook.cells[cell].source
    notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)
    nbformat.write(notebook, study)
    return study


def test_an_edit_of_the_study_is_told(study, tmp_path):
    out, grid = tmp_path / "runs", {"base": {"steps": 0}, "seeds": [0, 1]}
    run_grid(grid, study, out, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_grid(grid, study, out, progress=False)["state"].tolist() == ["skipped"] * 2
        assert len(read_runs(out)) == 2
    rewritten(study, 4, "rate / (seed + 1)", "rate / (seed + 2)")
    with pytest.warns(UserWarning, match=r"2 of 3 runs are skipped that another version of toy.ipynb has finished"):
        table = run_grid({**grid, "seeds": [0, 1, 2]}, study, out, progress=False)
    assert table["state"].tolist() == ["skipped", "skipped", "finished"]
    with pytest.warns(UserWarning, match=r"2 versions of toy.ipynb \(column study_sha256: 2 of \w+, 1 of \w+\)"):
        assert read_runs(out)["study_sha256"].nunique() == 2


def test_a_study_of_ones_own_is_told_what_it_lacks(study, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is finished and has no songs\.parquet"):
        run_grid({"base": {"steps": 0}}, study, tmp_path / "songs", progress=False)
        compare_levels(tmp_path / "songs", "grid")
    rewritten(study, 4, '"parameters": {', '"settings": {')
    (row,) = run_grid({"base": {"steps": 0}}, study, tmp_path / "runs", progress=False).itertuples()
    assert row.state == "failed" and 'metrics.json has no "parameters"; a study must write them' in row.error
    rewritten(study, 3, "start = int", "\nstop_here()\nstart = int")
    (row,) = run_grid({"base": {"steps": 0}}, study, tmp_path / "more", progress=False).itertuples()
    assert row.cell == ("In [5]: done = run_dir / \"steps.txt\"                 # continues where it was, "
                        "as training does ... line 3: stop_here()")


def test_a_study_that_ignores_its_parameters_is_found_out(study, tmp_path):
    notebook = nbformat.read(study, 4)
    notebook.cells[2].source = "rate = 0.1\n" + notebook.cells[2].source
    nbformat.write(notebook, study)
    table = run_grid({"base": {"steps": 0}}, study, tmp_path / "runs", progress=False)
    assert "ran to its end, but metrics.json was made with rate=0.1, not with 0.5" in table["error"][0]


def steps_done(out):
    """Steps of all runs in a folder."""
    return sum(int(path.read_text()) for path in Path(out).glob("*/steps.txt"))


def wait_for_steps(process, out, enough):
    """Until a grid has done so many steps, or has ended."""
    wait_until(lambda: process.poll() is not None or steps_done(out) >= enough, 300)


def check_kills(study, tmp_path, kills, runs, steps, record=lambda figures: None):
    """SIGKILL a grid at random moments; after any number of them the results are those of an undisturbed grid.

    `record` is called with the figures so far whenever a killed grid has come to its end.
    """
    grid, chance = {"base": {"steps": steps}, "seeds": list(range(runs))}, random.Random(0)
    begin, calm = time.monotonic(), start_grid(study, tmp_path / "calm", grid)
    wait_until(lambda: steps_done(tmp_path / "calm"), 300)
    startup_s, rows = time.monotonic() - begin, json.loads(calm.communicate()[0])
    assert {state for _, state, _ in rows} == {"finished"}, rows
    killed = rounds = 0
    finished_then = []
    while killed < kills:
        out, rounds, finished = tmp_path / f"killed{rounds}", rounds + 1, False
        while killed < kills and not finished:
            process = start_grid(study, out, grid)
            n_new = chance.choice([0, 1, chance.randint(2, steps)])
            wait_for_steps(process, out, steps_done(out) + n_new)
            try:
                finished = process.wait(chance.uniform(0, 0.5 if n_new else startup_s)) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                finished_then.append(check_leftovers(study, out))
        rows = json.loads(start_grid(study, out, grid).communicate(timeout=1200)[0])
        assert {state for _, state, _ in rows} <= {"finished", "skipped"}, rows
        assert metrics_of(out) == metrics_of(tmp_path / "calm")
        names = {path.name for path in out.glob("*/*")}
        assert names == {".lock", "log.txt", "metrics.json", "pids.txt", "run.json", "steps.txt", "toy.ipynb"}
        record({"kills": killed, "grids_finished": rounds, "runs_a_grid": runs, "kernels_left": 0,
                "same_as_undisturbed": True, "finished_runs_after_each_kill": finished_then})


def check_leftovers(study, out):
    """After a kill no kernel lives on, and what looks finished is; how many runs are."""
    assert wait_until(lambda: not alive(kernels(out)), 60), "a kernel outlived its grid"
    finished = [path.parent for path in Path(out).glob("*/run.json") if not unfinished(path.parent, "toy")]
    for folder in finished:
        cells = nbformat.read(folder / "toy.ipynb", 4).cells
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return len(finished)


def test_killed_grid_ends_with_the_same_results(study, tmp_path):
    check_kills(study, tmp_path, kills=2, runs=3, steps=10)


@pytest.mark.torture
def test_grid_killed_a_hundred_times(study, tmp_path, root):
    """Writes its figures as it goes: a run that is cut off leaves what it has shown."""
    file = root / "reports" / "reliability" / "kill_run_grid.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    check_kills(study, tmp_path, kills=100, runs=12, steps=60,
                record=lambda figures: file.write_text(json.dumps(figures) + "\n"))
    assert json.loads(file.read_text())["kills"] == 100


def test_interrupt_ends_all_and_keeps_what_is_finished(study, tmp_path):
    out = tmp_path / "runs"
    process = start_grid(study, out, {"base": {"steps": 0}, "cases": {"quick": {}, "a": {"mode": "slow"},
                                                                      "b": {"mode": "slow", "seed": 1}}})
    assert wait_until(lambda: len(kernels(out)) == 3 and len(metrics_of(out)) == 1, 90)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert wait_until(lambda: not alive(kernels(out)), 10)
    assert len(read_runs(out)) == 1
    assert [path.parent.name for path in out.glob("*/toy.ipynb")] == read_runs(out)["key"].tolist()


def test_killed_run_is_listed_and_its_kernel_dies(study, tmp_path):
    out = tmp_path / "runs"
    process = start_grid(study, out, {"base": {"steps": 0, "mode": "slow"}}, workers=1)
    assert wait_until(lambda: kernels(out), 60)
    worker = psutil.Process(next(iter(kernels(out)))).parent()
    worker.kill()
    (row,) = json.loads(process.communicate(timeout=60)[0])
    assert row[1] == "failed" and "killed by signal 9" in row[2]
    assert wait_until(lambda: not alive(kernels(out)), 10)


def test_two_grids_share_a_folder(study, tmp_path):
    out, grid = tmp_path / "runs", {"base": {"steps": 5}, "seeds": [0, 1, 2, 3]}
    both = [start_grid(study, out, grid, workers=1) for _ in range(2)]
    tables = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert all(state in ("finished", "skipped") for table in tables for _, state, _ in table), tables
    assert sum(state == "finished" for table in tables for _, state, _ in table) == 4, "one of them did each run"
    assert all(len(path.read_text().split()) == 1 for path in out.glob("*/pids.txt"))
    assert len(read_runs(out)) == 4


def test_full_disk_is_named_and_the_next_call_continues(study, tmp_path):
    out = tmp_path / "small"
    out.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", out],
                                           capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        grid = {"base": {"steps": 0}, "cases": {"first": {}, "fills": {"mode": "fill"}, "third": {"seed": 1}}}
        table = run_grid(grid, study, out, min_free_gb=0.001, progress=False).set_index("label")
        assert table["state"].to_dict() == {"first": "finished", "fills": "failed", "third": "not started"}
        assert "No space left on device" in table.loc["third", "error"]
        assert len(read_runs(out)) == 1
        for path in out.glob("*/big"):
            path.unlink()
        early = run_grid(grid, study, out, min_free_gb=1, progress=False).set_index("label")
        assert early["state"].tolist() == ["skipped", "not started", "not started"]
        assert "GiB free, a run needs 1.0 GiB" in early.loc["third", "error"]
        del grid["cases"]["fills"]
        last = run_grid(grid, study, out, min_free_gb=0.001, progress=False)
        assert last["state"].tolist() == ["skipped", "finished"]
    finally:
        subprocess.run(["umount", "-l", out], check=True)


# ---------------------------------------------------------------- a cluster on loopback

@contextmanager
def started_cluster(folder):
    """A client of a scheduler with two workers, each its own process, on loopback; and the workers' processes."""
    pytest.importorskip("distributed", reason="dask is not installed (pip install genre_study[dask])")
    from distributed import Client
    place = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address_file = folder / "scheduler.json"
    dask = [sys.executable, "-m"]
    started = [subprocess.Popen([*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                                 "--no-dashboard", "--scheduler-file", str(address_file)], **place)]
    assert wait_until(address_file.exists, 30)
    for number in range(2):
        started.append(subprocess.Popen(
            [*dask, "distributed.cli.dask_worker", "--scheduler-file", str(address_file), "--nthreads", "1",
             "--no-nanny", "--no-dashboard", "--local-directory", str(folder), "--name", f"worker{number}"], **place))
    client = Client(scheduler_file=str(address_file), timeout=30)
    client.wait_for_workers(2, timeout=60)
    try:
        yield client, started[1:]
    finally:
        client.close()
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The client of a cluster whose workers live as long as these tests."""
    with started_cluster(tmp_path_factory.mktemp("cluster")) as (client, _):
        yield client


def test_a_cluster_loses_a_worker_and_no_run(study, tmp_path):
    import threading
    out = tmp_path / "runs"
    with started_cluster(tmp_path) as (client, workers):
        def kill():
            wait_until(lambda: len(kernels(out)) >= 2, 60)
            workers[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        table = run_grid({"base": {"steps": 15}, "seeds": [0, 1, 2, 3]}, study, out, client=client, progress=False)
        killer.join()
        assert workers[0].wait() == -9
    assert table["state"].isin(["finished", "skipped"]).all(), table[["key", "state", "error"]]
    assert len(read_runs(out)) == 4
    assert len(kernels(out)) == 5, "four runs, and one begun twice"


def test_a_cluster_waits_for_a_run_that_another_call_does(study, tmp_path, cluster):
    import threading
    out, grid = tmp_path / "runs", {"base": {"steps": 0}, "seeds": [0, 1]}
    taken = expand_grid(grid, study)["key"][0]
    (out / taken).mkdir(parents=True)
    with open(out / taken / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def release():  # when the other run is done
            wait_until(lambda: metrics_of(out), 120)
            fcntl.flock(lock, fcntl.LOCK_UN)

        threading.Thread(target=release).start()
        table = run_grid(grid, study, out, client=cluster, progress=False)
    assert table["state"].tolist() == ["finished"] * 2
    first, second = ((out / key / "metrics.json").stat().st_mtime for key in table["key"])
    assert first > second, "the run that was taken went to the end of the queue"


def test_interrupt_ends_the_runs_of_a_cluster(study, tmp_path, cluster):
    import threading
    out = tmp_path / "runs"

    def interrupt():  # a real signal: it also ends a wait for a lock
        wait_until(lambda: len(kernels(out)) == 2, 60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_grid({"base": {"steps": 0, "mode": "slow"}, "seeds": [0, 1, 2]}, study, out, client=cluster,
                     progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert wait_until(lambda: not alive(kernels(out)), 20)
    assert len(kernels(out)) == 2, "the third was not begun any more"


def test_a_cluster_without_the_corpus_is_told_so(study, tmp_path, cluster, monkeypatch):
    corpus = tmp_path / "corpus" / "gtzan"
    corpus.mkdir(parents=True)
    from genre_study.grid import grid as module
    corpus.rmdir()
    exists = os.path.exists  # here it exists; the workers look for themselves
    monkeypatch.setattr(module.os.path, "exists", lambda path: path == str(corpus) or exists(path))
    with pytest.raises(FileNotFoundError, match=r"no worker of the cluster sees .*: tcp://.* has no .*gtzan"):
        run_grid({"base": {"data": str(corpus)}}, study, tmp_path / "runs", client=cluster, progress=False)


# ---------------------------------------------------------------- the grids that are shipped

SHIPPED = sorted((Path(__file__).parent.parent / "nbs" / "studies" / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grid_fits_the_study(root, path):
    points = expand_grid(path, root / "nbs" / "studies" / "reproduce.ipynb")
    assert read_grid(path)["question"]
    assert len(points) >= 2 and points["key"].is_unique
