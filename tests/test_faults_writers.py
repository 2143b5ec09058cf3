"""Errors and death at any change to the disk, in every function that writes: a reader finds the old or the new."""
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from injection import injector, run_faults
from writers import CASES, content, visible, writers

import genre_study
from genre_study.grid.runner import finished_runs
from genre_study.predict.bundle import load_bundle

# Which case, or which other long test of faults, covers a function that changes the disk.
STORE, CORPORA = "test_faults.py::test_faults_of_a_store", "test_faults_corpora.py::test_faults_while_a_corpus_is_made"
PAGE, MEMORY = "../nbs/predict/page.ipynb::_sweep(", "in memory"  # uploads, which are deleted
COVERED = {
    "command._predict_files": "timeline", "command._reproduce": "reproduce",
    "grid.page.execute_notebook": "reproduce",
    "core.archive._put": CORPORA, "core.archive.unpack": CORPORA, "core.archive.whole_folder": CORPORA,
    "core.audio._opened": "open file", "core.audio._ffmpeg": "open file", "core.audio._sounds": "open file",
    "core.files.whole_file": "figure", "core.files.write_whole": "page", "core.files.scratch_folder": "classifier",
    "core.layouts._unpack_packed": CORPORA, "core.layouts._unpacked": CORPORA,
    "corpora.audit._CellFile.__init__": "audit", "corpora.gtzan._download": "download",
    "corpora.gtzan._resume": "download", "corpora.gtzan.fetch_gtzan": "gtzan",
    "grid.grid._report": "grid", "grid.grid._surveyed": "grid", "grid.grid.run_grid": "grid",
    "grid.page.write_page": "page", "grid.runner._locked": "grid",
    "grid.runner._prepare": "grid", "grid.runner._run_in_process": "grid", "grid.runner._work": "grid",
    "grid.runner.do_run": "grid", "mel.import_librosa": "export onnx", "network.backend._use_cache": "compiled",
    "network.checkpoint.checkpoint_file": "train", "network.checkpoint.save_checkpoint": "checkpoint",
    "network.frozen.frozen_values": "train", "plot.save_figure": "figure", "predict.bundle.save_bundle": "bundle",
    "predict.bundle.push_to_hub": "bundle",
    "predict.classifier.GenreClassifier.fit": "classifier", "predict.export._check": "export keras",
    "predict.export._repair_onnx": "export onnx", "predict.export._save": "export keras",
    "predict.export.export_waveform_model": "export onnx", "predict.folder._write_table": "folder csv",
    "predict.page._Server.__init__": PAGE, "predict.page._delete": PAGE, "predict.page._png": MEMORY,
    "predict.song.Prediction._repr_png_": MEMORY, "predict.song.SongFrames.__init__": "open file",
    **dict.fromkeys(("storage.disk.LocalDisk._draft", "storage.disk.LocalDisk.place", "storage.disk.LocalDisk.write",
                     "storage.disk.RemoteDisk.write", "storage.disk._remove"), STORE),
    "study.finish_run": "run", "study.start_run": "run",
    **dict.fromkeys(("synth.minicorpus._claim_folder", "synth.minicorpus._keep_or_render",
                     "synth.minicorpus._write_note", "synth.minicorpus.render_minicorpus"), CORPORA),
    "synth.sound._soundfont": "soundfont",
}


def music(folder):
    """Four recordings of noise and a file that is none."""
    folder.mkdir()
    for place in range(4):
        noise = np.random.default_rng(place).normal(0, 0.1, 22050)
        soundfile.write(folder / f"{place}.wav", noise, 22050)
    (folder / "bad.wav").write_text("not audio")


def genres(file):
    """An archive of two genres with two tracks each."""
    with tarfile.open(file, "w:gz") as archive:
        for place in range(4):
            noise = io.BytesIO()
            soundfile.write(noise, np.random.default_rng(place).normal(0, 0.1, 2205), 22050, format="WAV")
            member = tarfile.TarInfo(f"{'jazz' if place % 2 else 'rock'}/{place}.wav")
            member.size = len(noise.getvalue())
            archive.addfile(member, io.BytesIO(noise.getvalue()))


STUDY = ['rate: float = 0.5\nseed: int = 0\nrun_dir: str = "run"', """
import json, os
from pathlib import Path
rows = [dict(track_id=f"track {place}", genre="ab"[place % 2], split="test", a=rate, b=1 - rate) for place in range(4)]
import pandas as pd
pd.DataFrame(rows).to_parquet(Path(run_dir) / "songs.parquet")
metrics = {"song": {"accuracy": rate}, "parameters": {"rate": rate, "seed": seed}}
Path(run_dir, "metrics.part").write_text(json.dumps(metrics))
os.replace(Path(run_dir, "metrics.part"), Path(run_dir, "metrics.json"))"""]
REPORT = ['runs: str = ""\nrun_dir: str = ""\ngrids: str = ""', 'print("read")']


def notebook(file, cells):
    """A notebook whose first cell holds parameters."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.cells[0].metadata["tags"] = ["parameters"]
    made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(made, file)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What the calls read."""
    folder = tmp_path_factory.mktemp("elsewhere")
    music(folder / "music")
    for place in range(5):  # one is there twice
        (folder / "corpus" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(place % 4).normal(0, 0.1, 10 * 22050)
        soundfile.write(folder / "corpus" / "ab"[place % 2] / f"{place}.wav", noise, 22050)
    (folder / "corpus" / "a" / "bad.wav").write_text("not audio")
    genres(folder / "genres.tar.gz")
    notebook(folder / "study.ipynb", STUDY)
    notebook(folder / "report.ipynb", REPORT)
    soundfile.write(folder / "song.wav", np.random.default_rng(0).normal(0, 0.1, 5 * 22050), 22050)
    if shutil.which("ffmpeg"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", folder / "song.wav", folder / "song.m4a"], check=True)
    return folder


def check_grid(folder):
    """What looks finished has its results."""
    for run, metrics in finished_runs(folder / "runs"):
        assert metrics["song"]["accuracy"] == run["given"].get("rate", 0.5)


def check_bundle(folder, whole=True):
    """A bundle is the old or the new one, never a mixture; or it is refused."""
    try:
        bundle = load_bundle(folder / "bundle")
    except (FileNotFoundError, ValueError) as error:
        assert "no bundle.json" in str(error) or "was written for" in str(error), error
        return
    first = float(np.abs(bundle.network.get_weights()[0]).sum())
    known = CHECKED.setdefault(bundle.scaling, first)
    assert first == known, "the settings of one bundle and the weights of another"


CHECKED = {}
CHECKS = {"grid": check_grid, "bundle": check_bundle}


def inject(name, tmp_path, elsewhere, most=None):
    """All faults of one case, one after the other; how they ended."""
    case, folder, start = CASES[name], tmp_path / "watched", tmp_path / "start"
    if name == "open file" and not shutil.which("ffmpeg"):
        pytest.skip("there is no ffmpeg")
    argument = {"folder": str(folder), "elsewhere": str(elsewhere), "version": 2, **case.argument}
    with injector(case.job, tmp_path) as run:
        def undisturbed(version):
            outcome = run(argument | {"version": version}, folder)
            assert outcome.ended == "returned", outcome
            return visible(folder)

        folder.mkdir()
        old = undisturbed(1) if case.begun and not case.temporary else {}
        shutil.copytree(folder, start)
        if name in CHECKS:
            CHECKS[name](folder)
        new = undisturbed(2)
        if name in CHECKS:
            CHECKS[name](folder)

        def look(fault):
            if name in CHECKS:
                CHECKS[name](folder)
            if name != "grid" and not case.temporary:
                for file, found in visible(folder).items():
                    assert found in (old.get(file), new.get(file)), f"{fault}: {file} is neither the old nor the new"

        def check(outcome, fault):
            look(fault)
            if outcome.ended == "returned" and name != "grid" and not case.temporary:
                assert visible(folder) == new, fault

        def complete(fault):
            outcome = run(argument, folder)
            assert outcome.ended == "returned" or "finished run" in outcome.text, (fault, outcome)
            check(outcome, fault)

        return run_faults(run, case.most if most is None else most, argument, folder,
                          lambda: shutil.copytree(start, folder), check, complete, case.errors)


def test_every_writer_is_covered():
    """A function that is new, and changes the disk, needs a case."""
    found = writers(Path(genre_study.__file__).parent)
    assert found == COVERED.keys(), (sorted(found - COVERED.keys()), sorted(COVERED.keys() - found))
    folder = Path(__file__).parent
    for function, case in COVERED.items():
        file, _, test = case.partition("::")
        assert case in {*CASES, MEMORY} or test in (folder / file).read_text(), (function, case)
    assert {case.split()[0] for case in CASES} <= {case.split()[0] for case in COVERED.values()}


def test_what_a_reader_sees_is_told_from_drafts(tmp_path):
    """Hidden files don't count; two archives that differ in their dates only are the same, in their weights not."""
    import h5py

    (tmp_path / ".draft").write_text("half")
    assert visible(tmp_path) == {}
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.savez(tmp_path / "b.npz", x=np.ones(3))
    assert content(tmp_path / "a.npz") != content(tmp_path / "b.npz")
    for name, weights in (("a", np.zeros(3)), ("b", np.ones(3)), ("c", np.zeros(3))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("layers/x", data=weights, track_times=name == "c")
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w") as archive:
            archive.write(tmp_path / f"{name}.h5", "model.weights.h5")
    assert content(tmp_path / "a.keras") != content(tmp_path / "b.keras")
    assert content(tmp_path / "a.keras") == content(tmp_path / "c.keras")


@pytest.mark.parametrize("name", ["figure", "folder csv", "checkpoint"])
def test_a_few_faults_of_a_writer(name, tmp_path, elsewhere):
    ends = inject(name, tmp_path, elsewhere, most=12)
    assert ends["died"] + ends["raised"] > 3


def test_a_writer_in_place_is_noticed(tmp_path, elsewhere, monkeypatch):
    """The harness must be able to show half a file."""
    job = CASES["folder csv"].job.replace(
        "def job(argument):", "from contextlib import contextmanager\nfrom pathlib import Path\n"
        "@contextmanager\ndef in_place(path):\n    yield path\nfolder.whole_file = in_place\ndef job(argument):")
    monkeypatch.setattr(CASES["folder csv"], "job", job)
    with pytest.raises(AssertionError, match="neither the old nor the new"):
        inject("folder csv", tmp_path, elsewhere)


@pytest.mark.torture
@pytest.mark.parametrize("name", CASES)
def test_faults_of_every_writer(name, tmp_path, elsewhere, root):
    """Writes its figures after each case."""
    ends = inject(name, tmp_path, elsewhere)
    assert ends["raised"] + ends["died"]
    file = root / "reports" / "reliability" / "faults_writers.json"
    figures = json.loads(file.read_text()) if file.is_file() else {}
    figures = {**figures, name: ends}
    kept = {case: figures[case] for case in CASES if case in figures}
    n_faults = sum(one[end] for one in kept.values() for end in ("returned", "raised", "died"))
    file.write_text(json.dumps({"faults": n_faults, "bad": 0, **kept}, indent=1) + "\n")


