"""Broken and hostile audio: thousands of files, each of which must end as features or as a clear problem."""
import collections
import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
from long_run import highest_mb

from genre_study.core.audio import load_audio
from genre_study.mel import MelSpec
from genre_study.storage.writer import open_store
from genre_study.store import build_store

FORMATS = {"wav": "PCM_16", "au": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
MAX_SECONDS = 10
MAX_GROWTH_MB = 200  # of the process that reads all of them, one after the other


def whole_file(folder, suffix, subtype=None, seconds=0.4):
    """Bytes of a healthy file: a tone in noise."""
    random = np.random.default_rng(0)
    waveform = 0.3 * np.sin(np.arange(int(22050 * seconds)) / 8) + 0.05 * random.normal(size=int(22050 * seconds))
    file = folder / f"whole.{suffix}"
    soundfile.write(file, waveform, 22050, subtype=subtype or FORMATS[suffix])
    return file.read_bytes()


def mutated(data, random):
    """The bytes after one to three accidents of the kinds that disks, downloads and attackers make."""
    data = bytearray(data)
    for _ in range(random.integers(1, 4)):
        kind, at = random.integers(8), int(random.integers(max(1, len(data))))
        head = int(random.integers(min(100, max(1, len(data)))))  # in the header, where it hurts
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[head:]
        elif kind == 2 and data:
            for bit in random.integers(0, 8 * len(data), random.integers(1, 50)):
                data[bit // 8] ^= 1 << (bit % 8)
        elif kind == 3 and data:
            data[head % len(data)] = int(random.integers(256))
        elif kind == 4:  # a size, a rate or a count that lies
            number = random.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1])
            data[head:head + 4] = struct.pack(random.choice(["<I", ">I"]), number)
        elif kind == 5:
            data[at:at] = random.bytes(int(random.integers(1, 2000)))
        elif kind == 6:
            del data[at:at + int(random.integers(1, 2000))]
        else:
            data[at:at + 400] = b"\0" * 400 if random.random() < 0.5 else b"\xff" * 400
    return bytes(data)


# In a process of its own: a crash, a hang or memory that is not given back would be that process's, and be seen.
READER = """
import faulthandler, json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_hostile import FORMATS, mutated, whole_file
from genre_study.core.audio import AudioError
from genre_study.mel import MelSpec
from genre_study.store import track_frames
folder, first, last = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
healthy = {suffix: whole_file(folder, suffix) for suffix in FORMATS}
for seed in range(first, last):
    random = np.random.default_rng(seed)
    suffix = sorted(healthy)[seed % len(healthy)]
    file = folder / f"mutated.{suffix}"
    file.write_bytes(mutated(healthy[suffix], random))
    start = time.perf_counter()
    faulthandler.dump_traceback_later(10, exit=True)  # also where native code hangs
    print(f"start {seed}", flush=True)
    try:
        frames, duration_s = track_frames(str(file), MelSpec())
        outcome = "features" if np.isfinite(frames).all() and frames.shape[1] == 128 else "NONSENSE"
    except AudioError as error:
        outcome = error.problem.split(":")[0].split(" of ")[0]
    except Exception as error:
        outcome = f"OTHER {type(error).__name__}: {error}"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print("done " + json.dumps([seed, suffix, outcome, time.perf_counter() - start, pages * 4096 / 2**20,
                                len(os.listdir("/proc/self/fd"))]), flush=True)
"""


def read_all(folder, n_files, patience_s=60):
    """Rows of (seed, suffix, outcome, seconds, memory in MB, open files), one a mutated file."""
    rows, next_seed = [], 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while next_seed < n_files:  # again after the culprit, should one crash or stall the reader
        reader = subprocess.Popen([sys.executable, "-c", READER, os.path.dirname(__file__), folder, str(next_seed),
                                   str(n_files)], stdout=subprocess.PIPE, text=True, env=environment)
        current = next_seed
        for line in reader.stdout:
            word, rest = line.split(" ", 1)
            if word == "start":
                current = int(rest)
            else:
                rows.append(json.loads(rest))
                current = rows[-1][0] + 1
        code = reader.wait(patience_s)
        if code:
            rows.append([current, "", f"CRASH {code}", 0.0, 0.0, 0])
        next_seed = current + (1 if code else 0)
        if not code:
            break
    return pd.DataFrame(rows, columns=["seed", "suffix", "outcome", "seconds", "memory_mb", "open_files"])


def check_all(folder, n_files):
    """All mutated files end well; the figures of the run."""
    start = time.perf_counter()
    rows = read_all(folder, n_files)
    bad = rows[rows.outcome.str.startswith(("CRASH", "OTHER", "NONSENSE"))]
    assert not len(bad), f"of {n_files} mutated files:\n{bad.to_string()}"
    assert len(rows) == n_files
    figures = {"files": n_files, "outcomes": pd.crosstab(rows.suffix, rows.outcome).to_dict(),
               "features": int((rows.outcome == "features").sum()), "problems": int((rows.outcome != "features").sum()),
               "crashes": 0, "slowest_s": float(rows.seconds.max()), "seconds": time.perf_counter() - start,
               "memory_growth_mb": float(rows.memory_mb.max() - rows.memory_mb.iloc[0]),
               "open_files_at_start": int(rows.open_files.iloc[0]), "open_files_at_end": int(rows.open_files.iloc[-1])}
    assert figures["slowest_s"] < MAX_SECONDS
    assert figures["memory_growth_mb"] < MAX_GROWTH_MB
    assert rows.open_files.max() == rows.open_files.min()
    return figures


def test_mutated_files(tmp_path):
    figures = check_all(tmp_path, 300)
    assert figures["features"] > 30 and figures["problems"] > 30  # the accidents are neither harmless nor all fatal


@pytest.mark.torture
def test_ten_thousand_mutated_files(tmp_path, root):
    figures = check_all(tmp_path, 10_000)
    folder = root / "reports" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hostile_audio.json").write_text(json.dumps(figures, indent=1) + "\n")


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_truncated_at_every_byte_of_the_header(tmp_path, suffix):
    data = whole_file(tmp_path, suffix)
    outcomes, file = collections.Counter(), tmp_path / f"cut.{suffix}"
    for length in range(0, 100):
        file.write_bytes(data[:length])
        try:
            assert len(load_audio(file)) > 0
            outcomes["read"] += 1
        except ValueError as error:
            assert f"cut.{suffix}" in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] >= 24  # the header of au; the others are longer


def wav_bytes(samples, channels=1, rate=22050, bits=16, code=1, data_size=None):
    """A wav file with a header that says what it is told to."""
    data = samples.tobytes()
    size = len(data) if data_size is None else data_size
    block = max(1, channels * bits // 8)
    return (b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt " +
            struct.pack("<IHHIIHH", 16, code, channels, rate, min(rate * block, 2**32 - 1), block % 65536, bits) +
            b"data" + struct.pack("<I", size) + data)


NOISE = np.random.default_rng(0).integers(-3000, 3000, 22050).astype("<i2")
CRAFTED = {
    "zero channels": (wav_bytes(NOISE, channels=0), "decoded|channel"),
    "65535 channels": (wav_bytes(NOISE, channels=65535), "."),
    "sample rate 0": (wav_bytes(NOISE, rate=0), "decoded|sample rate"),
    "sample rate 1": (wav_bytes(NOISE, rate=1), "sample rate of 1 Hz"),
    "sample rate 2^31": (wav_bytes(NOISE, rate=2**31), "decoded|sample rate"),
    "0 bits": (wav_bytes(NOISE, bits=0), "."),
    "unknown codec": (wav_bytes(NOISE, code=0x4242), "decoded"),
    "size that lies upwards": (wav_bytes(NOISE, data_size=2**32 - 1), None),
    "size that lies downwards": (wav_bytes(NOISE, data_size=9000), None),
    "size 0": (wav_bytes(NOISE, data_size=0), None),
    "one sample": (wav_bytes(NOISE[:1]), "too short: 1 samples"),
    "NaN": (wav_bytes(np.full(9000, np.nan, "<f4"), code=3, bits=32), "NaN or infinite"),
    "infinity": (wav_bytes(np.r_[np.zeros(9000), np.inf].astype("<f4"), code=3, bits=32), "NaN or infinite"),
    "the largest float": (wav_bytes(np.full(9000, 3e38, "<f4"), code=3, bits=32), "up to 3e[+]38, expected -1 to 1"),
    "silence": (wav_bytes(np.zeros(9000, "<i2")), "is silent"),
    "no bytes": (b"", "is empty"),
    "a ZIP": (b"PK\x03\x04" + bytes(200), "decoded"),
    "text": (b"<script>alert(1)</script>" * 40, "decoded"),
}


def test_crafted_headers_names_and_places(tmp_path):
    """Everything at once through build_store: the good tracks are in, each bad one is named, nothing else happens."""
    folder, rows, expected = tmp_path / "audio", [], {}
    folder.mkdir()

    def add(track_id, path, problem):
        rows.append({"track_id": track_id, "path": str(path), "genre": "any"})
        expected[track_id] = problem

    for name, (content, problem) in CRAFTED.items():
        (folder / f"{name}.wav").write_bytes(content)
        add(name, folder / f"{name}.wav", problem)
    for name in ("line\nbreak", "🎷 saxophone", "x" * 246, "-rf", "$(reboot)", "<script>", "a'b\"c", "%s%n"):
        (folder / f"{name}.wav").write_bytes(wav_bytes(NOISE))
        add(name, folder / f"{name}.wav", None)
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "one.wav").symlink_to("two.wav")
    (folder / "two.wav").symlink_to("one.wav")
    (folder / "sparse.wav").write_bytes(wav_bytes(NOISE[:0], rate=8000, data_size=2**32 - 40))
    os.truncate(folder / "sparse.wav", 2**32)  # 4 GB that take no room on the disk
    for name, problem in (("pipe", "not a regular file"), ("folder", "is a folder"), ("one", "cannot be opened"),
                          ("gone", "cannot be opened"), ("sparse", "longer than")):
        add(name, folder / f"{name}.wav", problem)
    add("device", "/dev/zero", "not a regular file")
    add("null byte", "a\0b", "not a path")
    add("too long a path", "/" + "x" * 5000, "cannot be opened")
    tracks = pd.DataFrame(rows)

    build_store(tracks[tracks.track_id == "-rf"], tmp_path / "first", workers=1, progress=False)  # zarr keeps a few
    descriptors, start = len(os.listdir("/proc/self/fd")), time.perf_counter()
    store = build_store(tracks, tmp_path / "store", MelSpec(), workers=1, progress=False)
    assert time.perf_counter() - start < 60
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert sorted([*store.tracks.track_id, *store.problems.track_id]) == sorted(tracks.track_id)
    problems = store.problems.set_index("track_id").problem
    for track_id, problem in expected.items():
        if problem is None:
            continue
        assert track_id in problems, f"{track_id} was taken for audio"
        assert pd.Series(problems[track_id]).str.contains(problem).all(), f"{track_id}: {problems[track_id]}"
    usable = {track_id for track_id, problem in expected.items() if problem is None}
    assert usable - set(store.tracks.track_id) <= {"size 0"}
    assert store.problems.advice.str.len().min() > 5
    assert all(np.isfinite(store.frames(track_id)).all() for track_id in open_store(tmp_path / "store").tracks.track_id)


@pytest.mark.torture
def test_a_flac_that_unpacks_to_hours_is_bounded(tmp_path):
    """Constant silence packs 1000 to 1; 5 hours of it are refused before they are unpacked."""
    file = tmp_path / "bomb.flac"
    with soundfile.SoundFile(file, "w", 8000, 1, "PCM_16") as sound:
        for _ in range(5 * 60):
            sound.write(np.zeros(60 * 8000, np.int16))
    before_mb, start = highest_mb(), time.perf_counter()
    store = build_store(pd.DataFrame({"track_id": ["bomb"], "path": [str(file)]}), tmp_path / "store", progress=False)
    assert "longer than 14400 s" in store.problems.problem[0]
    assert time.perf_counter() - start < MAX_SECONDS
    assert highest_mb() - before_mb < 100
