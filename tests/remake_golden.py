"""Golden values: frames, chunk tables, splits, layers, descriptors, and the predictions of a small trained network.

python tests/remake_golden.py writes tests/golden/*.json anew and says what changed. Do so only after a change that is
meant.
"""
import json
import os
import platform
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from genre_study.chunk import ChunkSpec, chunk_table
from genre_study.core.audio import load_audio
from genre_study.corpus import gtzan_tracks
from genre_study.mel import MelSpec, log_mel
from genre_study.split import split_tracks

FOLDER = Path(__file__).parent / "golden"
LIBRARIES = {"features": ["numpy", "scipy", "soundfile", "soxr"], "splits": ["numpy", "pandas"],
             "network": ["numpy", "pandas", "keras", "jax"], "layers": ["keras"], "descriptors": ["keras", "jax"]}


def sound(sample_rate=22050, seconds=2.0):
    """A chirp, a beat, a steady hum and noise, by formula, so that it is the same everywhere."""
    number = np.arange(int(sample_rate * seconds))
    time_s = number / sample_rate
    noise = ((number * 2654435761 % 2**32) ** 2 >> 20) % 4096 / 2048 - 1
    beat = np.exp(-20 * (time_s % 0.5)) * np.sin(2 * np.pi * 90 * time_s)
    hum = np.sin(2 * np.pi * 5000 * time_s)
    return 0.3 * np.sin(2 * np.pi * (200 + 900 * time_s) * time_s) + 0.3 * beat + 0.05 * hum + 0.02 * noise


def features():
    """Every 16th band and 8th frame in dB, and where chunks start."""
    result = {}
    for name, spec in {"default": MelSpec(), "htk": MelSpec(mel_scale="htk"),
                       "small": MelSpec(n_fft=512, hop_length=160, n_mels=32, fmin_hz=50.0, fmax_hz=8000.0)}.items():
        step = max(1, spec.n_mels // 8)
        result[f"log_mel {name}"] = log_mel(sound(), spec)[step // 2::step, ::8].round(4).tolist()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.flac"
        soundfile.write(file, np.stack([sound(44100), 0.5 * sound(44100)], axis=1), 44100)
        result["log_mel of a stereo file at 44100 Hz"] = log_mel(load_audio(file))[8::16, ::8].round(4).tolist()
    tracks = pd.DataFrame({"track_id": list("abcd"), "duration_s": [30.0, 29.98, 30.65, 2.0]})
    for spec in (ChunkSpec(), ChunkSpec(1.5, 0.75), ChunkSpec(10, 0, short="drop")):
        result[f"chunks {spec.seconds} {spec.overlap}"] = chunk_table(tracks, spec).start_frame.tolist()
    return result


CHOICES = {"chunk": [{"allow_leakage": True}], "track": [{}, {"seed": 1}, {"fold": 0}], "filtered": [{}],
           "artist": [{}, {"seed": 1}, *({"fold": fold} for fold in range(5))]}


def splits():
    """The side of each of the 1,000 tracks of GTZAN, a letter a track in the order of the table of tracks."""
    letters = {"train": "r", "valid": "v", "test": "e", "mixed": "m", "": "-"}
    tracks, result = gtzan_tracks(), {}
    for protocol, choices in CHOICES.items():
        for choice in choices:
            with warnings.catch_warnings(action="ignore"):  # 81 tracks have no artist
                side = split_tracks(tracks, protocol, **choice)
            side = side.set_index("track_id").split.reindex(tracks.track_id)
            name = ", ".join([protocol, *(f"{key}={value}" for key, value in choice.items())])
            result[name] = "".join(side.map(letters))
    return result


def network():
    """What the quick network says about three kinds of noise, before and after three epochs."""
    from backend_probe import small_store

    from genre_study.evaluate import predict_chunks
    from genre_study.model import build_network
    from genre_study.train import TrainSpec, train

    store, chunks = small_store()
    valid = chunks[(chunks["split"] == "valid") & (chunks["start_frame"] == 0)]
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1, depth=3)
    result = {"untrained": predict_chunks(model, store, valid, list("abc"))}
    history = train(model, store, chunks, TrainSpec(epochs=3, batch_size=16, learning_rate=1e-3), progress=False)
    result["trained"] = predict_chunks(model, store, valid, list("abc"))
    values = {name: table[list("abc")].to_numpy("float64").round(6).tolist() for name, table in result.items()}
    return values | {"loss": history["loss"].round(6).tolist(), "val_loss": history["val_loss"].round(6).tolist()}


SHAPING = ("filters", "kernel_size", "strides", "padding", "pool_size", "units", "activation", "rate", "momentum",
           "epsilon", "axis")


def layers():
    """The layers of each network with what shapes them, a line each."""
    from genre_study.model import build_network

    result = {}
    for name, options in (("fourteen_layer_cnn", {}), ("fourteen_layer_cnn", {"pools": "max"}), ("quick_cnn", {}),
                          ("quick_cnn", {"depth": 3}), ("study_cnn", {"filters": (8, 16)})):
        model = build_network(name, (128, 194, 1), 10, **options)
        lines = []
        for layer in model.layers:
            config = layer.get_config()
            start = config.get("kernel_initializer")
            shaping = [f"{key}={config[key]}" for key in SHAPING if config.get(key) is not None]
            scale = (start or {"config": {}})["config"].get("scale", "")
            shaping += [f"starts={start['class_name']}{scale}"] if start else []
            lines.append(" ".join([type(layer).__name__, *shaping]))
        result[f"{name} {options}"] = lines
    return result


def descriptors():
    """For each group of descriptors of two chunks: mean, spread, and five values."""
    from genre_study.mel import mel_spectrogram
    from genre_study.network.study_cnn import GROUPS, study_cnn

    wave = sound(seconds=9.1).astype("float32")
    decibels = 10 * np.log10(np.maximum(mel_spectrogram(wave), 1e-10))
    chunks = np.stack([decibels[:, :194], decibels[:, 194:388]])[..., None] / 20 + 2
    result = {}
    for group in GROUPS:
        model = study_cnn(groups=(group,))
        values = np.asarray(layers_until(model, "descriptors").predict(chunks, verbose=0), "float64")
        picked = values[:, np.linspace(0, values.shape[1] - 1, 5).astype(int)]
        result[group] = np.c_[values.mean(axis=1), values.std(axis=1), picked].round(5).tolist()
    return result


def layers_until(model, name):
    """The part of a network that ends with this layer."""
    import keras

    return keras.Model(model.inputs, model.get_layer(name).output)


MAKERS = {"features": features, "splits": splits, "network": network, "layers": layers, "descriptors": descriptors}


def made_with(name):
    """Versions of what these values hang on."""
    return {"python": platform.python_version(), "machine": platform.machine(),
            **{library: version(library) for library in LIBRARIES[name]}}


def load(name):
    """The golden values of that name, and what they were made with."""
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    return stored["values"], stored["made_with"]


def advice(name):
    """What to do when values differ from the golden ones."""
    then, now = load(name)[1], made_with(name)
    changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if now[key] != then.get(key)]
    changed = ", ".join(changed) or "no library"
    return (f"Changed since the golden values were made: {changed}. If the new values are right, say in the commit why "
            "they changed, raise the version of the package, and write them with: python tests/remake_golden.py")


def main():
    """Write the golden files anew."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name, make in MAKERS.items():
        file = FOLDER / f"{name}.json"
        before = load(name)[0] if file.is_file() else {}
        values = json.loads(json.dumps(make()))
        changed = [key for key in values.keys() | before.keys() if values.get(key) != before.get(key)]
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        file.write_text(f'{{"made_with": {json.dumps(made_with(name))},\n "values": {{\n{lines}}}}}\n')
        print(f"{file.name}: {', '.join(sorted(changed)) or 'nothing'} changed")


if __name__ == "__main__":
    sys.exit(main())
