"""study_cnn and the network that comes with the package: the same numbers everywhere, from audio as from pictures."""
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import genre_study  # noqa: F401 (chooses the backend)

PREDICTS = """
import sys
import numpy as np
from genre_study.predict.bundle import load_pretrained
np.save(sys.argv[2], load_pretrained().network.predict(np.load(sys.argv[1]), verbose=0))
"""

OFFLINE = """
import socket
def refused(*arguments, **options):
    raise OSError("no network here")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from genre_study.predict.bundle import load_pretrained
bundle = load_pretrained()
print(len(bundle.genres), bundle.network.count_params())
"""


@pytest.fixture(scope="module")
def bundle():
    from genre_study.predict.bundle import load_pretrained

    return load_pretrained()


def sounds(n=3, columns=194, seed=0):
    """Chunks that change slowly, in dB."""
    steps = np.random.default_rng(seed).normal(size=(n, 128, columns, 1))
    return (steps.cumsum(axis=2) - 40).astype("float32")


def test_opens_without_a_connection(tmp_path):
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == "10"


def test_opens_in_seconds(bundle):
    from genre_study.predict.bundle import _shipped, load_pretrained

    begun = time.process_time()
    _shipped.cache_clear()
    load_pretrained()
    assert time.process_time() - begun < 15


def test_file_is_small_and_complete(bundle, root):
    files = list((root / "genre_study" / "data" / "pretrained").iterdir())
    assert sorted(file.name for file in files) == ["bundle.json", "network.keras"]
    assert sum(file.stat().st_size for file in files) < 4_000_000
    assert len(bundle.reference["songs"]) == 639
    assert bundle.floor_db == 80 and bundle.mel.hop_length == 1709 and bundle.chunk.seconds == 15
    assert list(bundle.genres) == sorted(bundle.genres) and bundle.temperature > 0 and bundle.reference["limit"] > 0


def test_level_and_unit_do_not_matter(bundle):
    chunks = sounds()
    first = bundle.network.predict(chunks, verbose=0)
    assert np.abs(first.sum(axis=1) - 1).max() < 1e-5
    assert np.abs(bundle.network.predict(chunks / 80 + 1, verbose=0) - first).max() < 2e-3


@pytest.mark.parametrize("slope", [0, 1, 2], ids=["white", "pink", "brown"])
def test_noise_of_every_colour_is_out_of_distribution(bundle, slope):
    from genre_study.predict.song import predict_song

    n = 22050 * 16
    spectrum = np.fft.rfft(np.random.default_rng(slope).normal(size=n))
    spectrum /= np.maximum(np.arange(n // 2 + 1), 1) ** (slope / 2)
    noise = np.fft.irfft(spectrum)
    song = predict_song((noise / np.abs(noise).max() / 2, 22050), bundle)
    assert abs(sum(song.vector.values()) - 1) < 1e-4 and song.novelty > 1 and song.reasons[0].startswith("unlike")
    assert song.top[0][1] < 0.6


def test_short_clips_of_music_are_classified_and_not_called_unlike_music(bundle, gtzan):
    """Eleven tracks that were left out of training, five seconds of each. Padded with silence, 1 of 10 was right."""
    import soundfile

    from genre_study.predict.song import predict_song

    sides = pd.read_csv(gtzan / "tracks.csv", keep_default_na=False).set_index("track_id").filtered_split
    files = [file for file in sorted((gtzan / "mini" / "genres").glob("*/*.flac"))
             if sides[file.stem] not in ("train", "valid")]
    songs = [predict_song((soundfile.read(file)[0][:5 * 22050], 22050), bundle) for file in files]
    assert len(files) >= 10
    right = [song.top[0][0] == file.parent.name for song, file in zip(songs, files)]
    assert np.mean(right) >= 0.4, f"{np.sum(right)} of {len(right)}"
    assert np.mean([song.novelty > 1 for song in songs]) <= 0.2
    assert all(song.reasons[0] == "shorter than one chunk of 15 s, so it was repeated" for song in songs)


def test_two_backends_predict_the_same(tmp_path):
    np.save(tmp_path / "chunks.npy", sounds(2, seed=1))
    found = {}
    for backend in ("jax", "torch"):
        pytest.importorskip(backend)
        file = tmp_path / f"{backend}.npy"
        subprocess.run([sys.executable, "-c", PREDICTS, str(tmp_path / "chunks.npy"), str(file)], check=True,
                       cwd=tmp_path, timeout=400, env=os.environ | {"KERAS_BACKEND": backend})
        found[backend] = np.load(file)
    assert np.abs(found["jax"] - found["torch"]).max() < 1e-5


def test_audio_and_pictures_agree(bundle, gtzan):
    """mel999 was read from pictures; the same tracks as audio go through the package's own front end."""
    from genre_study.predict.song import predict_song

    with np.load(gtzan / "mel999.npz") as arrays:
        pictures = dict(zip(arrays["ids"].astype(str), arrays["mel"]))
    files = [file for file in sorted((gtzan / "mini" / "genres").glob("*/*.flac")) if file.stem in pictures][::8]
    same = []
    for file in files:
        picture = pictures[file.stem].astype("float32")
        cuts = np.stack([picture[:, start:start + 194] for start in (0, 96, 193)])[..., None]
        seen = bundle.network.predict(cuts, verbose=0).mean(axis=0).argmax()
        same.append(predict_song(file, bundle).top[0][0] == bundle.genres[seen])
    assert np.mean(same) >= 0.75, f"{np.sum(same)} of {len(same)}"
