"""One stage of the long run in a process of its own, with its memory: long_run.py STAGE FOLDER N_TRACKS MEMORY_MB.

Stages: cut, store, train, predict. `cut` makes two tracks of each piece of music in FOLDER/pieces, for rendering takes
longer than all the rest; the others take the first N_TRACKS of them. Prints one line of JSON.
"""
import json
import os
import sys
import threading
import time
from pathlib import Path

import pandas as pd

INTERVAL_S = 0.1


def resident_mb():
    """Memory of this process and of the processes it has started, in MB."""
    import psutil

    total = 0
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total / 1e6


def highest_mb():
    """The most memory this process has had. Not ru_maxrss: that begins with the peak of the process that started it."""
    line, = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Memory(threading.Thread):
    """Writes down (seconds, MB) while the stage runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rows, self.over, self.begin = [], threading.Event(), time.perf_counter()

    def run(self):
        while True:
            self.rows.append((time.perf_counter() - self.begin, resident_mb()))
            if self.over.wait(INTERVAL_S):
                break

    def curve(self, points=200):
        """The highest value of each of so many stretches of time, as lists [seconds, MB]."""
        table = pd.DataFrame(self.rows, columns=["seconds", "memory_mb"])
        highest = table.groupby(table.index * points // len(table)).max()
        return highest.round(2).to_numpy().tolist()


def cut(folder, n_tracks, memory_mb):
    import soundfile

    pieces = sorted(folder.glob("pieces/*/*.wav"))
    for piece in pieces:
        waveform, sample_rate = soundfile.read(piece, dtype="int16")
        target = folder / "audio" / piece.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name, half in zip("ab", (waveform[:len(waveform) // 2], waveform[len(waveform) // 2:])):
            soundfile.write(target / f"{piece.stem}.{name}.wav", half, sample_rate)
    return {"pieces": len(pieces)}


def corpus(folder, n_tracks):
    """The first tracks of each genre, n_tracks in all. Both halves of a piece have one artist: no split parts them."""
    files = sorted(folder.glob("audio/*/*.wav"))
    tracks = pd.DataFrame({"track_id": [file.stem for file in files], "path": [str(file) for file in files],
                           "genre": [file.parent.name for file in files], "artist": [file.stem[:-2] for file in files]})
    return tracks.groupby("genre").head(n_tracks // tracks.genre.nunique()).reset_index(drop=True)


def chunks_of(store):
    """The table of chunks, split by artist."""
    from genre_study.chunk import chunk_table
    from genre_study.split import split_tracks

    return chunk_table(split_tracks(store.tracks, "artist"), frames_per_second=store.frames_per_second)


def build(folder, n_tracks, memory_mb):
    from genre_study.store import build_store

    store = build_store(corpus(folder, n_tracks), folder / f"store{n_tracks}", workers=1, progress=False)
    return {"tracks": len(store), "problems": len(store.problems)}


def train_one_epoch(folder, n_tracks, memory_mb):
    from genre_study.model import build_network
    from genre_study.storage.writer import open_store
    from genre_study.train import TrainSpec, train

    store = open_store(folder / f"store{n_tracks}")
    chunks = chunks_of(store)
    model = build_network("quick_cnn", (128, 130, 1), chunks.genre.nunique(), seed=0)
    history = train(model, store, chunks, TrainSpec(epochs=1), progress=False, memory_mb=memory_mb)
    model.save(folder / f"model{n_tracks}.keras")
    return {"chunks": int((chunks.split == "train").sum()), "loss": float(history.loss.iloc[0]),
            "val_accuracy": float(history.val_accuracy.iloc[0])}


def predict(folder, n_tracks, memory_mb):
    import keras

    from genre_study.evaluate import predict_chunks, song_vectors
    from genre_study.storage.writer import open_store

    store = open_store(folder / f"store{n_tracks}")
    chunks = chunks_of(store)
    model = keras.models.load_model(folder / f"model{n_tracks}.keras", compile=False)
    predictions = predict_chunks(model, store, chunks, sorted(set(chunks.genre)))
    return {"chunks": len(predictions), "songs": len(song_vectors(predictions))}


if __name__ == "__main__":
    stage, folder, n_tracks, memory_mb = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    memory = Memory()
    memory.start()
    run = {"cut": cut, "store": build, "train": train_one_epoch, "predict": predict}[stage]
    facts = run(folder, n_tracks, memory_mb)
    memory.over.set()
    memory.join()
    seconds, cpu = time.perf_counter() - memory.begin, time.process_time()
    print(json.dumps({"stage": stage, "n_tracks": n_tracks, **facts, "seconds": round(seconds, 1),
                      "cpu_seconds": round(cpu, 1), "peak_mb": round(highest_mb(), 1),
                      "open_files": len(os.listdir("/proc/self/fd")), "memory": memory.curve()}))
