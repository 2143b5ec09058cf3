"""A small corpus for tests, and what they run for each backend: python backend_probe.py WHAT FOLDER.

KERAS_BACKEND says which backend. Results are written into the folder as <what>-<backend>.npz or .json.
"""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

BACKEND = os.environ.get("KERAS_BACKEND", "jax")


def small_store(n_tracks=24, n_mels=16, n_frames=200, seed=0, chunk_frames=40, hop=20):
    """Noise with one louder mel band for each genre: a store in memory, and its table of chunks."""
    rng = np.random.default_rng(seed)
    frames = {}
    for place in range(n_tracks):
        noise = rng.normal(-60, 9, (n_frames, n_mels))
        noise[:, 5 * (place % 3)] += 8
        frames[f"track{place:03d}"] = noise.astype("float16")
    store = SimpleNamespace(frames=lambda track_id, start=0, stop=None: frames[track_id][start:stop], unit="db",
                            silence=-100.0, spec=SimpleNamespace(n_mels=n_mels))
    chunks = pd.DataFrame([
        {"track_id": name, "genre": "abc"[place % 3], "start_s": start / 43, "start_frame": start,
         "n_frames": chunk_frames, "split": "train" if place < n_tracks * 5 // 8 else "valid"}
        for place, name in enumerate(frames) for start in range(0, n_frames - chunk_frames, hop)
    ])
    return store, chunks


def gradients(function, *arrays):
    """Output of `function` and its gradients in the arrays, for a fixed uneven upstream gradient."""
    from keras import ops

    shape = ops.convert_to_numpy(function(*arrays)).shape
    upstream = np.cos(np.arange(np.prod(shape))).reshape(shape).astype("float32")
    if BACKEND == "jax":
        import jax

        out, pull = jax.vjp(function, *arrays)
        return [np.asarray(part) for part in (out, *pull(upstream))]
    if BACKEND == "torch":
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        out = function(*tensors)
        out.backward(torch.tensor(upstream))
        return [out.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]
    import tensorflow as tf

    tensors = [tf.Variable(array) for array in arrays]
    with tf.GradientTape() as tape:
        out = function(*[tensor.value() for tensor in tensors])
    return [out.numpy(), *(np.asarray(part) for part in tape.gradient(out, tensors, output_gradients=upstream))]


def layers(folder):
    """Largest differences in values and gradients between the cheaper forms and the stock layers."""
    import keras
    from keras import ops

    from genre_study.network import fast

    rng = np.random.default_rng(0)
    worst = {}

    def compare(name, ours, stock, *arrays):
        pairs = zip(gradients(ours, *arrays), gradients(stock, *arrays), strict=True)
        worst[name] = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]

    for height, width, size in ((8, 8, (2, 2)), (13, 10, (2, 2)), (7, 9, (3, 2)), (11, 11, (4, 4))):
        x = rng.normal(size=(3, height, width, 5)).astype("float32")
        pool, mean = keras.layers.MaxPooling2D(size), keras.layers.AveragePooling2D(size)
        compare(f"max {height}x{width} {size}", lambda x, size=size: fast.max_pool(x, size), pool, x)
        compare(f"max, equal values {height}x{width} {size}", lambda x, size=size: fast.max_pool(x, size), pool,
                x.round())
        compare(f"mean {height}x{width} {size}", lambda x, size=size: fast.average_pool(x, size), mean, x)
    for height, width, side in ((12, 12, 3), (15, 12, 3), (14, 13, 5), (9, 11, 2)):
        x = rng.normal(size=(3, height, width, 1)).astype("float32")
        kernel = rng.normal(size=(side, side, 1, 4)).astype("float32")
        stock = keras.layers.MaxPooling2D(2)
        compare(f"conv and max {height}x{width} {side}", fast.conv_max_pool,
                lambda x, k, stock=stock: stock(ops.conv(x, k, padding="valid")), x, kernel)
    (folder / f"layers-{BACKEND}.json").write_text(json.dumps({"worst": worst, "helps": fast.helps_here()}))


def predict(folder):
    """Predictions of the saved networks."""
    import keras

    chunks = np.load(folder / "chunks.npz")
    found = {}
    for file in sorted(folder.glob("*.keras")):
        model = keras.saving.load_model(file, safe_mode=True)
        found[file.stem] = model.predict(chunks[file.stem], verbose=0)
    np.savez(folder / f"predict-{BACKEND}.npz", **found)


def training(folder):
    """A short training of the saved network without dropout, from the same start."""
    import keras

    from genre_study.train import TrainSpec, train

    model = keras.saving.load_model(folder / "start.keras")
    store, chunks = small_store()
    history = train(model, store, chunks, TrainSpec(epochs=4, batch_size=16, learning_rate=2e-3), progress=False)
    (folder / f"training-{BACKEND}.json").write_text(json.dumps(history.drop(columns="seconds").to_dict("list")))


def devices(folder):
    """The same training on as many virtual devices as XLA_FLAGS asks for."""
    import keras

    from genre_study.model import build_network
    from genre_study.train import TrainSpec, train

    store, chunks = small_store()
    n_devices = len(keras.distribution.list_devices())
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1)
    history = train(model, store, chunks, TrainSpec(epochs=3, batch_size=16, learning_rate=5e-3), progress=False,
                    distribution="data" if n_devices > 1 else None)
    (folder / f"devices-{n_devices}.json").write_text(json.dumps(history.drop(columns="seconds").to_dict("list")))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    {"layers": layers, "predict": predict, "training": training, "devices": devices}[sys.argv[1]](Path(sys.argv[2]))
