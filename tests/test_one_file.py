"""The exported file without this package: other backends, other versions of Keras, clean environments, ONNX."""
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genre_study.chunk import ChunkSpec
from genre_study.mel import MelSpec
from genre_study.model import build_network
from genre_study.predict.bundle import Bundle, load_pretrained
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
    folder = tmp_path_factory.mktemp("one_file")
    bundle = Bundle(build_network("quick_cnn", (128, 130, 1), 3, seed=1, filters=8), ("blues", "jazz", "rock"),
                    temperature=0.7, floor_db=80.0)
    wave = render_song(compose("country", 3, seconds=4.0)) / 32768
    clips = np.stack([wave, wave[::-1] * 0.01]).astype(np.float32)
    np.save(folder / "clips.npy", clips)
    export_waveform_model(bundle, folder / "song.keras", progress=False)
    return folder, np.array([list(predict_song(clip, bundle, SAMPLE_RATE).vector.values()) for clip in clips]), bundle


def largest_difference(exported, python, backend, path=None):
    """Open the file with this Python and backend.

    Return the largest difference of a probability, and the version of Keras.
    """
    folder, vectors, _ = exported
    environment = {name: value for name, value in os.environ.items()
                   if name != "PYTHONPATH"} | {"KERAS_BACKEND": backend}
    done = subprocess.run([python, "-c", OPEN], cwd=folder, capture_output=True, text=True,
                          env=environment | ({"PYTHONPATH": path} if path else {}))
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
    probe = ("import importlib.util as u; "
             "print([n for n in ('genre_study', 'jax', 'torch', 'tensorflow') if u.find_spec(n)])")
    found = subprocess.run([python, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert eval(found) == [backend], found
    difference, version = largest_difference(exported, python, backend)
    assert difference < 1e-4
    note(root, backend, dict(keras=version, largest_difference=difference))


@pytest.mark.torture
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"])
def test_opens_in_every_keras(exported, root, tmp_path, version):
    """Keras of that version alone, on JAX.

    KERAS_VERSIONS may name a folder with such, one folder a version, made before.
    """
    place = os.path.join(os.environ.get("KERAS_VERSIONS", tmp_path), version)
    if not os.path.exists(place):
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", place, f"keras=={version}.*"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip could not install keras {version}: {done.stderr.strip()[-300:]}")
    difference, found = largest_difference(exported, sys.executable, "jax", place)
    assert found.startswith(f"{version}.") and difference < 1e-4
    note(root, f"keras {version}", dict(keras=found, largest_difference=difference))


def bundle_of(name):
    """The shipped network, or one of each kind with fixed weights."""
    if name == "shipped":
        return load_pretrained()
    seconds = 15.0 if name == "study_cnn" else 3.0
    mel = MelSpec(hop_length=1709) if name == "study_cnn" else MelSpec()
    chunk = ChunkSpec(seconds)
    network = build_network(name, (128, chunk.n_frames(mel.frames_per_second), 1), 3, seed=1)
    return Bundle(network, ("blues", "jazz", "rock"), mel, chunk, floor_db=80.0)


@pytest.mark.parametrize("name", ["shipped", "fourteen_layer_cnn"])  # the shipped one is a study_cnn
def test_every_network_is_exported(tmp_path, name):
    """The call itself opens the file and compares it, for clips of three lengths."""
    model = export_waveform_model(bundle_of(name), tmp_path / "song.keras", progress=False)
    assert model.input_shape == (None, None)


@pytest.mark.torture
@pytest.mark.parametrize("name", ["quick_cnn", "shipped", "fourteen_layer_cnn", "study_cnn"])
def test_onnx(root, tmp_path, name):
    """Written by Keras on PyTorch, run by onnxruntime, for batches and clips of any length."""
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install onnx onnxscript onnxruntime)")
    import onnxruntime

    bundle = bundle_of(name)
    export_waveform_model(bundle, tmp_path / "song.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "song.onnx", providers=["CPUExecutionProvider"])
    wave, difference = render_song(compose("country", 3, seconds=40.0)).astype(np.float32) / 32768, 0.0
    for seconds, n_clips in ((0.3, 1), (2.97, 3), (14.97, 1), (16.0, 2), (31.0, 1)):
        clips = np.stack([np.roll(wave, -9000 * clip)[:round(seconds * SAMPLE_RATE)] for clip in range(n_clips)])
        found, = session.run(None, {"waveform": clips})
        vectors = [list(predict_song(clip, replace(bundle, reference=None), SAMPLE_RATE).vector.values())
                   for clip in clips]
        difference = max(difference, float(np.abs(found - vectors).max()))
    assert difference < 1e-3
    note(root, f"onnx {name}", dict(onnxruntime=onnxruntime.__version__, largest_difference=difference))


@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
@pytest.mark.parametrize("fault", ["cannot be written", "cannot be opened", "answers differently", "disk is full"])
def test_export_that_fails_leaves_the_file_that_was_there(exported, tmp_path, monkeypatch, suffix, fault):
    from genre_study.predict import export

    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: name)
    file, python = tmp_path / f"song{suffix}", export._python
    file.write_bytes(b"the old file")

    def faulty(program, target, *arguments, backend):
        if program is export._TO_ONNX:
            if fault == "cannot be written":
                raise RuntimeError("no ONNX")
            return Path(arguments[0]).write_bytes(b"a graph")
        if fault == "answers differently":
            return np.save(arguments[1], np.full((3, 3), 0.3))
        return python("raise SystemExit(1)", backend="jax")

    monkeypatch.setattr(export, "_python", faulty)
    monkeypatch.setattr(export, "_repair_onnx", lambda file: None)
    if fault == "disk is full":
        monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        monkeypatch.setattr(export, "_check", lambda *_: None)
    with pytest.raises((RuntimeError, OSError)):
        export_waveform_model(exported[2], file, progress=False)
    assert file.read_bytes() == b"the old file" and [path.name for path in tmp_path.iterdir()] == [file.name]


def test_export_says_what_it_does(exported, tmp_path, capsys):
    export_waveform_model(exported[2], tmp_path / "song.keras")
    said = capsys.readouterr().err
    assert "building the graph" in said and "comparing" in said


def note(root, name, facts):
    """Keep a figure in reports/reliability/one_file.json."""
    file = root / "reports" / "reliability" / "one_file.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, name: facts}, indent=1, sort_keys=True) + "\n")
