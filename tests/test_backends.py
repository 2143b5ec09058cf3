"""A network has the same predictions, gradients and curves on every installed backend."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROBE = Path(__file__).parent / "backend_probe.py"
BACKENDS = ("jax", "torch", "tensorflow")


def probe(what, folder, backend, **environ):
    """Run the probe in its own process."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'genre_study[{backend}]'")
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "KERAS_BACKEND")}
    run = subprocess.run([sys.executable, PROBE, what, str(folder)], env=clean | {"KERAS_BACKEND": backend} | environ,
                         capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cheaper_forms_equal_the_stock_layers(backend, tmp_path):
    """In values and gradients, for odd sizes and for equal values in a window too."""
    probe("layers", tmp_path, backend)
    result = json.loads((tmp_path / f"layers-{backend}.json").read_text())
    assert len(result["worst"]) == 16
    for name, differences in result["worst"].items():
        assert max(differences) < 2e-6, (name, differences)
    assert result["helps"] == (backend == "jax")  # elsewhere the stock layers are used


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Networks with changed weights, saved as .keras, and chunks for them."""
    from genre_study.model import build_network

    folder, rng, chunks = tmp_path_factory.mktemp("saved"), np.random.default_rng(5), {}
    for name, shape in (("fourteen_layer_cnn", (128, 130, 1)), ("quick_cnn", (64, 61, 1))):
        model = build_network(name, shape, 10, seed=3)
        model.set_weights([w + rng.normal(0, 0.03, w.shape).astype("float32") ** 2 for w in model.get_weights()])
        model.save(folder / f"{name}.keras")
        chunks[name] = rng.normal(size=(8, *shape)).astype("float32")
    np.savez(folder / "chunks.npz", **chunks)
    probe("predict", folder, "jax")
    return folder


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_the_same_weights_predict_the_same(saved, backend):
    """The same .keras file, opened on another backend, agrees to 1e-5."""
    probe("predict", saved, backend)
    with np.load(saved / "predict-jax.npz") as ours, np.load(saved / f"predict-{backend}.npz") as other:
        for name in ours.files:
            assert ours[name].std() > 1e-4  # not all the same
            assert np.abs(ours[name] - other[name]).max() < 1e-5, name


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A network without dropout, saved before training, and its curve on JAX."""
    from genre_study.model import build_network

    folder = tmp_path_factory.mktemp("started")
    build_network("quick_cnn", (16, 40, 1), 3, seed=2, dropout=0.0).save(folder / "start.keras")
    probe("training", folder, "jax")
    return folder


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_short_training_has_the_same_curve(started, backend):
    """Four epochs from the same start: losses fall, and stay within 1% of each other."""
    probe("training", started, backend)
    ours, other = (json.loads((started / f"training-{name}.json").read_text()) for name in ("jax", backend))
    assert ours["loss"][-1] < 0.7 * ours["loss"][0]
    for column in ("loss", "val_loss"):
        np.testing.assert_allclose(ours[column], other[column], rtol=0.01, atol=1e-4)


def test_four_devices_give_the_losses_of_one(tmp_path):
    """Dropout included, whose masks do not depend on how a batch is split."""
    for count in (1, 4):
        probe("devices", tmp_path, "jax", XLA_FLAGS=f"--xla_force_host_platform_device_count={count}")
    one, four = (json.loads((tmp_path / f"devices-{count}.json").read_text()) for count in (1, 4))
    for column in ("loss", "val_loss"):
        np.testing.assert_allclose(one[column], four[column], rtol=1e-4)


def test_the_second_process_finds_the_compiled_network(tmp_path):
    """The first process fills the compilation cache; the second adds nothing to it."""
    environ = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    entries = []
    for _ in range(2):
        probe("devices", tmp_path, "jax", **environ)
        entries.append(sorted(entry.name for entry in (tmp_path / "cache").glob("*-cache")))
    assert entries[0] and entries[0] == entries[1]
