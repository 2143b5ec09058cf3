"""A training that is killed at any moment and called again ends like an undisturbed one, to the last bit."""
import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from forks import forked
from test_train import EVERYTHING, PLAIN, checkpoint_epochs, run, same

from genre_study.network.checkpoint import CHECKPOINT, load_checkpoint
from genre_study.train import TrainSpec

EPOCHS = 12

TRAIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import keras  # but no backend is started
from genre_study.network import fast
from test_train import run, TrainSpec
def job(line):
    folder, spec = json.loads(line)
    run(TrainSpec(**spec), run_dir=folder)
"""


def ended(pid):
    """Tell whether a child that no one has waited for has ended."""
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for(folder, chance, startup_s):
    """Make a function that waits for up to three new checkpoints (or during the start), then a moment more."""
    n_new, share = chance.randint(0, 3), chance.random()

    def wait(pid):
        begun, enough = time.perf_counter(), checkpoint_epochs(folder) + n_new
        while n_new and not ended(pid) and checkpoint_epochs(folder) < enough and time.perf_counter() - begun < 300:
            time.sleep(0.002)
        time.sleep(share * (0.1 if n_new else startup_s))

    return wait


def check_checkpoint(folder, history):
    """Check that the checkpoint is whole and begins like the undisturbed history; return how many epochs it has."""
    file = Path(folder) / CHECKPOINT
    if not file.exists():
        return 0
    facts, arrays = load_checkpoint(file)
    for row, expected in zip(facts["rows"], history.to_dict("records")):
        assert {name: value for name, value in row.items() if name != "seconds"} == expected
    assert {"model", "optimizer", "best"} <= set(arrays)
    return len(facts["rows"])


@pytest.fixture(scope="module")
def training():
    """A function that starts a training in a fork, and kills it."""
    with forked(TRAIN, os.path.dirname(__file__)) as start_training:
        yield start_training


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_killed_training_continues_as_if_undisturbed(training, options, tmp_path):
    spec, chance = {"epochs": EPOCHS, **options}, random.Random(0)
    expected = run(TrainSpec(**spec))
    ends = [training(json.dumps([str(tmp_path), spec]), wait_for(tmp_path, chance, startup_s=1)) for _ in range(2)]
    assert signal.SIGKILL in ends and check_checkpoint(tmp_path, expected[0]) > 0
    assert same(run(TrainSpec(**spec), run_dir=tmp_path), expected)
    drafts = {entry.name for entry in tmp_path.glob(".*.npz")}
    assert {entry.name for entry in tmp_path.glob("*.npz")} - drafts == {CHECKPOINT}


@pytest.mark.torture
@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_fifty_kills(training, options, tmp_path, root, request):
    """Figures are written after each kill, so a test that is cut off leaves those it has."""
    spec, chance, kills = {"epochs": EPOCHS, **options}, random.Random(0), 50
    expected, name = run(TrainSpec(**spec)), request.node.callspec.id
    file = root / "reports" / "reliability" / f"kill_train_{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    finished, epochs_then = 0, []
    while len(epochs_then) < kills:
        folder = tmp_path / f"run{finished}"
        folder.mkdir(exist_ok=True)
        killed = training(json.dumps([str(folder), spec]), wait_for(folder, chance, startup_s=3)) == signal.SIGKILL
        if killed:
            epochs_then.append(check_checkpoint(folder, expected[0]))
        if not killed or len(epochs_then) == kills:  # it ended before the kill, or is allowed to now
            assert same(run(TrainSpec(**spec), run_dir=folder), expected)
            finished += 1
            drafts = len(list(tmp_path.glob("*/.*.part.*")))  # under names that are never read
            file.write_text(json.dumps({
                "training": name, "kills": len(epochs_then), "epochs": EPOCHS, "trainings_finished": finished,
                "kills_amid_the_epochs": sum(0 < epochs < EPOCHS for epochs in epochs_then),
                "kills_while_a_checkpoint_was_written": drafts, "half_checkpoints_read": 0,
                "same_as_undisturbed": True, "epochs_after_each_kill": epochs_then}) + "\n")
    amid = sum(0 < epochs < EPOCHS for epochs in epochs_then)
    assert amid >= kills // 3, f"most kills hit nothing: {epochs_then}"
