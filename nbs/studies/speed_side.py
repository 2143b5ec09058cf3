"""One side of the speed study, in a process of its own: ``python speed_side.py SIDE FOLDER [undisturbed]``.

When it is ready it writes a line. Then each line of JSON that it reads names a work and how much of it to do; it
answers with a line of JSON that says how long that took. What it computed at its start lies in FOLDER, to be compared.

Only the sides called "ours" import genre_study. With "undisturbed" a side has real-time priority during its turn, where
the system allows that, so that other programs wait.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

SIDE, FOLDER, UNDISTURBED = sys.argv[1], Path(sys.argv[2]), "undisturbed" in sys.argv[3:]
BATCH = 64  # chunks in a training step
KEPT = ExitStack()  # what stays in force until this process ends


# From a file of audio to log-mel.


def audio_ways():
    "For each side a function from a file to its log-mel."
    import librosa
    import soundfile

    chunk, step = 3 * 22050, 3 * 22050 // 2
    kind = SIDE.removeprefix("mel: ")

    def decibels(waveform, rate):
        mel = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=2048, hop_length=512)
        return librosa.power_to_db(mel, top_db=None)

    def study_way(file):
        samples, rate = soundfile.read(file, dtype="int16")
        cut = [FOLDER / f"cut{os.getpid()}-{number}.wav" for number in range(19)]
        for number, name in enumerate(cut):
            soundfile.write(name, samples[number * step : number * step + chunk], rate)
        return [decibels(*librosa.load(name, sr=22050)) for name in cut]

    def study_in_memory(file):
        waveform, rate = librosa.load(file, sr=22050)
        return [decibels(waveform[number * step : number * step + chunk], rate) for number in range(19)]

    def librosa_whole(file):
        return decibels(*librosa.load(file, sr=22050))

    if kind == "torch":
        import torch

        if "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        window, filters = torch.hann_window(2048), torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=2048))

    def torch_whole(file):
        waveform = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
        spectrum = torch.stft(waveform, 2048, 512, window=window, pad_mode="constant", return_complex=True)
        power = filters @ (spectrum.real.square() + spectrum.imag.square())
        return (10 * torch.log10(torch.clamp(power, min=1e-10))).numpy()

    if kind.startswith("ours"):
        from genre_study.core.audio import audio_blocks
        from genre_study.mel import mel_blocks, power_to_db

    def ours(file):
        return np.hstack([power_to_db(block) for block in mel_blocks(audio_blocks(file))])

    peers = {"study": study_way, "study in memory": study_in_memory, "librosa": librosa_whole, "torch": torch_whole}
    return peers.get(kind, ours)


def again(files, number):
    "So many files, from the first on again when they are through."
    return [files[place % len(files)] for place in range(number)]


def shapes_of(files, way):
    "The number of frames, so that a worker process sends back no spectrograms."
    return [np.shape(way(file))[-1] for file in files]


def audio_side():
    "Log-mel of a number of files; \"ours, all cores\" spreads them over processes, as build_store does."
    files = json.loads((FOLDER / "files.json").read_text())
    way = audio_ways()
    if SIDE == "mel: ours, all cores":
        from joblib import Parallel, cpu_count, delayed, parallel_config

        def work(number):
            with parallel_config(backend="loky", inner_max_num_threads=1):
                Parallel(n_jobs=cpu_count())(delayed(shapes_of)([file], way) for file in again(files, number))

        hurry(True)  # the processes inherit what is in force when they begin
        work(len(files))
        hurry(False)
    else:
        np.savez(FOLDER / f"first {SIDE.replace(':', '')}.npz", *[way(file) for file in files])

        def work(number):
            for file in again(files, number):
                way(file)

    return {"mel": work}


# The network.


def data():
    "Chunks of noise, and a genre for each."
    random = np.random.default_rng(0)
    chunks = random.normal(size=(8 * BATCH, 128, 130, 1)).astype("float32")
    return chunks, np.eye(10, dtype="float32")[random.integers(0, 10, len(chunks))]


def keras_side(kind):
    "The saved network in Keras: as it comes, or as its fast twin."
    if kind == "ours":
        from genre_study.network.backend import memory_kept  # before Keras: this chooses the settings

        KEPT.enter_context(memory_kept())  # as train and predict_chunks do
    import keras

    chunks, labels = data()
    network = keras.saving.load_model(FOLDER / "network.keras")
    if kind == "ours":
        from genre_study.network.fast import fast_twin

        network = fast_twin(network)
    network.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])

    class Batches(keras.utils.PyDataset):
        def __init__(self, steps):
            super().__init__()
            self.steps = steps

        def __len__(self):
            return self.steps

        def __getitem__(self, index):
            rows = slice(index % 8 * BATCH, index % 8 * BATCH + BATCH)
            return chunks[rows], labels[rows]

    def train(steps):
        network.fit(Batches(steps), verbose=0, shuffle=False)

    def predict(size):
        return lambda batches: network.predict(chunks[: batches * size], batch_size=size, verbose=0)

    return train, predict


def torch_side(kind):
    "The same network, written by hand in PyTorch."
    import torch
    from torch import nn

    chunks, labels = data()
    layers, channels = [], 1
    for place, filters in enumerate((16, 32, 64, 128, 64)):
        pool = nn.AvgPool2d(2) if place % 2 else nn.MaxPool2d(2)
        layers += [nn.Conv2d(channels, filters, 3), nn.ReLU(inplace=True), pool, nn.Dropout(0.4)]
        channels = filters
    layers += [nn.Flatten(), nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 100), nn.SELU(), nn.Linear(100, 10)]
    network = nn.Sequential(*layers)
    stored = np.load(FOLDER / "weights.npz")
    for place, (name, parameter) in enumerate(zip(stored.files, network.parameters(), strict=True)):
        weight = torch.from_numpy(stored[name])
        if weight.ndim == 4:  # height, width, in, out -> out, in, height, width
            weight = weight.permute(3, 2, 0, 1)
        elif place == 10:  # Keras flattens (2, 2, 64), PyTorch (64, 2, 2)
            weight = weight.reshape(2, 2, 64, 200).permute(3, 2, 0, 1).reshape(200, 256)
        elif weight.ndim == 2:
            weight = weight.T
        parameter.data.copy_(weight)
    images, targets = torch.from_numpy(chunks.transpose(0, 3, 1, 2)), torch.from_numpy(labels.argmax(1))
    if kind != "plain":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    run = torch.compile(network) if kind == "compiled" else network
    optimizer, loss_of = torch.optim.Adam(network.parameters(), 1e-3), nn.CrossEntropyLoss()

    def train(steps):
        network.train()
        total = 0.0
        for index in range(steps):
            rows = slice(index % 8 * BATCH, index % 8 * BATCH + BATCH)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(run(images[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            total += loss.item()

    def predict(size):
        def batches_of(batches):
            network.eval()
            with torch.inference_mode():
                parts = [torch.softmax(run(images[first : first + size]), 1)
                         for first in range(0, batches * size, size)]
                return torch.cat(parts).numpy()

        return batches_of

    return train, predict


def network_side():
    "Training steps, and inference in batches of two sizes."
    kind = SIDE.removeprefix("net: ").split(",")[0]
    train, predict = torch_side(kind) if kind in ("plain", "channels_last", "compiled") else keras_side(kind)
    np.save(FOLDER / f"first {SIDE.replace(':', '')}.npy", predict(BATCH)(1))  # before any training
    return {"train": train, "infer 64": predict(64), "infer 256": predict(256)}


# The machine's practical peak.


def product_side():
    "Products of two matrices of 2,048 x 2,048, float32."
    library = SIDE.removeprefix("peak: ")
    matrix = np.random.default_rng(0).random((2048, 2048), dtype="float32")
    if library == "torch":
        import torch

        matrix = torch.from_numpy(matrix)
    elif library == "jax":
        import jax

        matrix = jax.numpy.asarray(matrix)
        product = jax.jit(lambda matrix: matrix @ matrix)
        return {"product": lambda number: [product(matrix).block_until_ready() for _ in range(number)]}
    return {"product": lambda number: [matrix @ matrix for _ in range(number)]}


# Taking turns.


def hurry(on):
    "Real-time priority on or off, if it was asked for."
    if not UNDISTURBED:
        return
    policy, priority = (os.SCHED_RR, 1) if on else (os.SCHED_OTHER, 0)
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
        except ProcessLookupError:
            pass


def may_hurry():
    "Whether the system lets this process have real-time priority (Linux, and the right to it)."
    try:
        hurry(True)
        hurry(False)
        return True
    except (OSError, AttributeError):
        return False


def busy_s():
    "Seconds that all cores together have worked since the machine began; NaN where the system doesn't tell."
    try:
        ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    except OSError:
        return float("nan")
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def timed(work, number):
    "Wall and CPU seconds of a work, and how many cores other programs took meanwhile, on average."
    busy, cpu, wall = busy_s(), time.process_time(), time.perf_counter()
    work(number)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "others_cores": (busy_s() - busy - cpu) / wall}


def main():
    global UNDISTURBED
    UNDISTURBED = UNDISTURBED and may_hurry()
    works = {"mel": audio_side, "net": network_side, "peak": product_side}[SIDE.split(":")[0]]()
    for work in works.values():
        work(1)
    print(json.dumps({"undisturbed": UNDISTURBED}), flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        work = works[turn["work"]]
        hurry(True)
        work(1)
        times = timed(work, turn["number"])
        hurry(False)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
