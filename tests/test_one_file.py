"""The exported file where this package is not: other backends, clean virtual environments, ONNX."""
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from genre_study.predict.bundle import Bundle
from genre_study.predict.export import export_waveform_model
from genre_study.predict.song import predict_song
from genre_study.synth.song import compose
from genre_study.synth.sound import SAMPLE_RATE, render_song

OPEN = """
import sys
import numpy as np
import keras
model = keras.models.load_model("song.keras")
np.save("vectors.npy", np.asarray(model.predict(np.load("clips.npy"), verbose=0)))
assert "genre_study" not in sys.modules
print(keras.__version__, keras.backend.backend())
"""
BACKENDS = {"jax": ["jax"], "torch": ["torch"], "tensorflow": ["tensorflow-cpu"]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with song.keras and two clips of four seconds, the vectors the package gives them, and the bundle."""
    from genre_study.model import build_network

    folder = tmp_path_factory.mktemp("one_file")
    network = build_network("quick_cnn", (128, 130, 1), 3, seed=1, filters=8)
    bundle = Bundle(network, ("blues", "jazz", "rock"), temperature=0.7, floor_db=80.0)
    wave = render_song(compose("country", 3, seconds=4.0)) / 32768
    clips = np.stack([wave, wave[::-1] * 0.01]).astype(np.float32)
    np.save(folder / "clips.npy", clips)
    export_waveform_model(bundle, folder / "song.keras", seconds=4.0)
    return folder, np.array([list(predict_song(clip, bundle, SAMPLE_RATE).vector.values()) for clip in clips]), bundle


def largest_difference(exported, python, backend):
    """Open the file with this Python and backend; the largest difference of a probability, and what Keras it was."""
    folder, vectors, _ = exported
    done = subprocess.run([python, "-c", OPEN], cwd=folder, capture_output=True, text=True,
                          env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stderr[-2000:]
    version, used = done.stdout.split()
    assert used == backend
    return float(np.abs(np.load(folder / "vectors.npy") - vectors).max()), version


@pytest.mark.parametrize("backend", BACKENDS)
def test_opens_in_another_process(exported, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    assert largest_difference(exported, sys.executable, backend)[0] < 1e-4


@pytest.mark.torture
@pytest.mark.parametrize("backend", BACKENDS)
def test_opens_in_a_clean_environment(exported, root, tmp_path, backend):
    """Nothing but Keras and one backend is installed. CLEAN_ENVIRONMENTS may name a folder with such, made before."""
    python = os.path.join(os.environ.get("CLEAN_ENVIRONMENTS", tmp_path), backend, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", tmp_path / backend], check=True)
        install = [python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", "keras", *BACKENDS[backend]]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip could not install keras and {backend}: {done.stderr.strip()[-300:]}")
    probe = "import importlib.util as u; print([n for n in ('genre_study', 'jax', 'torch', 'tensorflow') if u.find_spec(n)])"
    found = subprocess.run([python, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert eval(found) == [backend], found
    difference, version = largest_difference(exported, python, backend)
    assert difference < 1e-4
    note(root, backend, dict(keras=version, largest_difference=difference))


@pytest.mark.torture
def test_onnx(exported, root):
    """The same graph as ONNX, written by Keras on PyTorch, run by onnxruntime."""
    for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install onnx onnxscript onnxruntime)")
    import onnxruntime

    folder, vectors, bundle = exported
    export_waveform_model(bundle, folder / "song.onnx", seconds=4.0, batch_size=2)
    session = onnxruntime.InferenceSession(folder / "song.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 4 * SAMPLE_RATE]
    found, = session.run(None, {session.get_inputs()[0].name: np.load(folder / "clips.npy")})
    difference = float(np.abs(found - vectors).max())
    assert difference < 1e-4
    note(root, "onnx", dict(onnxruntime=onnxruntime.__version__, largest_difference=difference))


def note(root, name, facts):
    """Keep a figure in reports/reliability/one_file.json."""
    file = root / "reports" / "reliability" / "one_file.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, name: facts}, indent=1, sort_keys=True) + "\n")
