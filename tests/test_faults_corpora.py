"""Errors and death at any change to the disk while a corpus is rendered or unpacked: it is complete or not there."""
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from injection import injector, run_faults

from genre_study.corpus import read_corpus
from genre_study.synth.minicorpus import render_minicorpus

SETUP = """
from genre_study.core import workers
from genre_study.corpus import read_corpus
from genre_study.synth import minicorpus

songs = {}
compose, render_song = minicorpus.compose, minicorpus.render_song
def composed(*arguments):
    if arguments not in songs:
        songs[arguments] = compose(*arguments)
    return songs[arguments]
waves = {}
def rendered(song):
    if song.track_id not in waves:
        waves[song.track_id] = render_song(song)
    return waves[song.track_id]
minicorpus.compose, minicorpus.render_song = composed, rendered
for genre in minicorpus.GENRES:
    for index in range(2):
        rendered(composed(genre, index, 0.3, 0))

def job(argument):
    if "n" in argument:
        minicorpus.render_minicorpus(argument["folder"], argument["n"], seconds=0.3)
    else:
        read_corpus(argument["source"])
"""


def content(folder):
    """Checksums of the files below a folder, without hidden drafts."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)}


def render_case(run, tmp_path, most, start):
    """The synthetic corpus, new or made larger."""
    whole, folder, old = tmp_path / f"whole{start}", tmp_path / "corpus", tmp_path / f"old{start}"
    render_minicorpus(whole, 2, seconds=0.3)
    if start:
        render_minicorpus(old, start, seconds=0.3)

    def prepare():
        if start:
            shutil.copytree(old, folder)
        else:
            folder.mkdir()

    def check(outcome, fault):
        if outcome.ended == "returned":
            assert content(folder) == content(whole), fault
        wav = {name: mark for name, mark in content(folder).items() if name.endswith(".wav")}
        assert wav.items() <= content(whole).items(), f"{fault}: a file that is not the seed's"

    def complete(fault):
        render_minicorpus(folder, 2, seconds=0.3)
        assert content(folder) == content(whole), fault

    return run_faults(run, most, {"n": 2, "folder": str(folder)}, folder, prepare, check, complete)


def noise(seed):
    made = io.BytesIO()
    sf.write(made, np.random.default_rng(seed).normal(0, 0.1, 2205), 22050, format="WAV")
    return made.getvalue()


def packed(folder, kind):
    """An archive or a parquet of four tracks in a new folder."""
    folder.mkdir()
    files = {f"{genre}/{genre}{n}.wav": noise(n) for genre in ("rock", "jazz") for n in range(2)}
    if kind == "zip":
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            for name, sound in files.items():
                archive.writestr(name, sound)
    elif kind == "tar.gz":
        with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
            for name, sound in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(sound)
                archive.addfile(member, io.BytesIO(sound))
    else:
        rows = [{"genre": name.split("/")[0], "audio": {"bytes": sound, "path": name}} for name, sound in files.items()]
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / f"a.{kind}"


def unpack_case(run, tmp_path, most, kind):
    """What has to be unpacked: the folder appears with all four tracks, or it isn't there."""
    source = packed(tmp_path / kind, kind)
    folder = tmp_path / "place"

    def prepare():
        folder.mkdir()
        shutil.copy(source, folder)

    def check(outcome, fault):
        unpacked = [name for name in os.listdir(folder) if not name.startswith(".") and name != source.name]
        assert len(unpacked) == (outcome.ended == "returned") or outcome.ended == "died", (fault, unpacked)
        assert all(len(content(folder / name)) == 4 for name in unpacked), fault

    def complete(fault):
        assert len(read_corpus(folder / source.name)) == 4, fault

    return run_faults(run, most, {"source": str(folder / source.name)}, folder, prepare, check, complete)


def test_a_few_faults_while_a_corpus_is_made(tmp_path):
    with injector(SETUP, tmp_path) as run:
        ends = render_case(run, tmp_path, 3, start=1), unpack_case(run, tmp_path, 12, "zip")
    assert all(one["raised"] for one in ends) and ends[1]["died"]


@pytest.mark.torture
def test_faults_while_a_corpus_is_made(tmp_path, root):
    figures = {}
    with injector(SETUP, tmp_path) as run:
        for start in (0, 1):
            figures[f"render from {start}"] = render_case(run, tmp_path, 100, start)
        for kind in ("zip", "tar.gz", "parquet"):
            figures[f"unpack {kind}"] = unpack_case(run, tmp_path, 100, kind)
    n_faults = sum(ends[end] for ends in figures.values() for end in ("returned", "raised", "died"))
    assert n_faults >= 300 and all(ends["raised"] and ends["died"] for ends in figures.values())
    file = root / "reports" / "reliability" / "faults_corpora.json"
    file.write_text(json.dumps({"faults": n_faults, "bad": 0, **figures}, indent=1) + "\n")
