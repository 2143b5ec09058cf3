"""Golden values of frames and chunk tables: a new NumPy, SciPy, soxr or libsndfile that changes a result is seen.

After a change that is meant: python tests/test_golden_features.py writes tests/golden/features.json anew.
"""
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from genre_study.chunk import ChunkSpec, chunk_table
from genre_study.mel import MelSpec, load_audio, log_mel

GOLDEN = Path(__file__).parent / "golden" / "features.json"
TOLERANCE_DB = 0.01
RANGE_DB = 70  # compared down to this far below the loudest; further down, float32 sums in another order may show


def sound(sample_rate=22050, seconds=2.0):
    """A chirp, a beat, a steady hum and noise, by formula, so that it is the same everywhere."""
    number = np.arange(int(sample_rate * seconds))
    time_s = number / sample_rate
    noise = ((number * 2654435761 % 2**32) ** 2 >> 20) % 4096 / 2048 - 1
    beat = np.exp(-20 * (time_s % 0.5)) * np.sin(2 * np.pi * 90 * time_s)
    hum = np.sin(2 * np.pi * 5000 * time_s)
    return 0.3 * np.sin(2 * np.pi * (200 + 900 * time_s) * time_s) + 0.3 * beat + 0.05 * hum + 0.02 * noise


def features():
    """What is compared: every 16th band and 8th frame in dB, and where chunks start."""
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


def test_features_are_those_of_the_golden_file():
    golden, now = json.loads(GOLDEN.read_text()), features()
    assert golden.keys() == now.keys()
    for name, expected in golden.items():
        if name.startswith("chunks"):
            assert now[name] == expected, name
        else:
            assert np.shape(now[name]) == np.shape(expected), name
            loud = np.array(expected) > np.max(expected) - RANGE_DB
            difference = np.abs(np.subtract(now[name], expected))[loud].max()
            assert difference < TOLERANCE_DB, f"{name} changed by {difference:.3f} dB"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(features()) + "\n")
