"""Everything in the package that writes files, and how each is tried with faults; see injection.py.

WRITERS names each function that changes the disk, and the case that covers it. CASES are calls with `job(argument)`:
argument["folder"] is where the faults happen, argument["version"] is 1 for what was there before and 2 for what is to
be. `expensive` stands before slow computations that are replaced, so that what is tried is the writing.
"""
import ast
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

CALLS = {"whole_file", "write_whole", "whole_folder", "unpack", "TemporaryFile", "TemporaryDirectory",
         "NamedTemporaryFile", "mkstemp", "mkdtemp", "scratch_folder", "copyfile", "copyfileobj", "copytree",
         "copy2", "move"}
METHODS = {"write_text", "write_bytes", "to_parquet", "savefig", "savez", "mkdir", "makedirs", "symlink_to", "symlink",
           "touch", "unlink", "rmtree", "rmdir", "put_file"} | CALLS
MODULES = {"os": {"replace", "rename", "remove"}, "np": {"save"}, "onnx": {"save"}}  # these mean other things elsewhere


def writes(call):
    """Tell whether a call in a syntax tree changes the disk."""
    function = call.func
    if isinstance(function, ast.Name):
        modes = [node.value for node in (*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode"))
                 if isinstance(node, ast.Constant)]
        return function.id in CALLS or (function.id == "open" and any(set(str(mode)) & set("wax+") for mode in modes))
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    return function.attr in METHODS or function.attr in MODULES.get(owner, ())


def writers(package):
    """Return the names of all functions and methods of a package that change the disk, such as "plot.save_figure"."""
    found = set()
    for file in sorted(Path(package).rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            parts = [(node.name, node)] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
            if isinstance(node, ast.ClassDef):
                parts = [(f"{node.name}.{part.name}", part) for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{module}.{name}" for name, part in parts
                      if any(isinstance(call, ast.Call) and writes(call) for call in ast.walk(part))}
    return found


@dataclass
class Case:
    """One call that writes, and what may come of it."""

    job: str  # Python that defines job(argument)
    most: int = 40  # faults at most
    errors: tuple = ("OSError", "PermissionError")
    argument: dict = field(default_factory=dict)
    temporary: bool = False  # it writes into the folder of temporary files only: nothing there is for a reader
    begun: bool = True  # there is an older version before


FIGURE = """
from matplotlib.figure import Figure
from genre_study.plot import save_figure
def job(argument):
    figure = Figure((2, 2))
    figure.subplots().plot([1, argument["version"]])
    save_figure(figure, argument["folder"], "curve", ("png", "pdf"))
"""

TIMELINE = """
from types import SimpleNamespace
from matplotlib.figure import Figure
from genre_study import command
from genre_study.predict import bundle, song
def job(argument):
    figure = Figure()
    figure.subplots().plot([1, argument["version"]])
    facts = SimpleNamespace(top=[("jazz", 1.0)], reasons=[], plot=lambda: figure)
    song.predict_song, bundle.open_bundle, command._load_keras = (lambda *_: facts), (lambda *_: None), (lambda: None)
    if command.main(["predict", "song.wav", "--timeline", argument["folder"] + "/song.png"]):
        raise OSError("it was said on standard error")
"""

PAGE = """
import nbformat
from nbconvert import HTMLExporter
from genre_study.grid.page import write_page
def job(argument):
    cell = nbformat.v4.new_markdown_cell("# Version " + str(argument["version"]), id="a")
    write_page(write_notebook(argument, nbformat.v4.new_notebook(cells=[cell])), argument["folder"] + "/page.html")
def write_notebook(argument, notebook):
    nbformat.write(notebook, argument["elsewhere"] + "/page.ipynb")
    return argument["elsewhere"] + "/page.ipynb"
"""

REPRODUCE = """
import shutil, nbconvert, nbformat, papermill
from genre_study import command
def execute(source, target, parameters, **rest):
    outputs = [nbformat.v4.new_output("stream", text="Version 2\\n")]
    cell = nbformat.v4.new_code_cell("print(1)", id="a", outputs=outputs)
    made = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})
    nbformat.write(made, target)
    return made
papermill.execute_notebook = execute
def job(argument):
    if command.main(["reproduce", "--out", argument["folder"] + "/run"]):
        raise OSError("it was said on standard error")
"""

RUN = """
from types import SimpleNamespace
import numpy as np, pandas as pd, pyarrow.parquet, sklearn.metrics, scipy.stats
from genre_study import study
from genre_study.mel import MelSpec
rows = [(f"{genre} {side}", genre, side, side) for genre in "ab" for side in ("train", "valid", "test")]
tracks = pd.DataFrame(rows, columns=["track_id", "genre", "artist", "split"])
chunks = tracks.assign(start_s=0.0)
store = SimpleNamespace(problems=[], unit="db", frames_per_second=43.0, spec=MelSpec())
def job(argument):
    chosen = study.StudySettings(run_dir=argument["folder"] + "/run")
    tables = {side: chunks.loc[chunks.split == side, ["track_id", "start_s"]].assign(a=0.6, b=0.4)
              for side in ("valid", "test")}
    study.start_run(chosen)
    study.finish_run(chosen, store, tracks, chunks, tables, pd.DataFrame({"epoch": [1]}), {})
"""

CHECKPOINT = """
import numpy as np
from genre_study.network.checkpoint import checkpoint_file, save_checkpoint
def job(argument):
    file = checkpoint_file(argument["folder"] + "/run")
    save_checkpoint(file, {"epoch": argument["version"]}, model=[np.full((40, 40), argument["version"])], best=[])
"""

TRAIN = """
import numpy as np, pandas as pd, keras  # but no backend is started
from types import SimpleNamespace
from genre_study.model import build_network
from genre_study.network import fast
from genre_study.train import TrainSpec, train
rng = np.random.default_rng(0)
frames = {f"track{place}": rng.normal(-40, 10, (140, 128)).astype("float16") for place in range(6)}
store = SimpleNamespace(frames=lambda name, start=0, stop=None: frames[name][start:stop], unit="db", silence=-100.0,
                        spec=SimpleNamespace(n_mels=128))
chunks = pd.DataFrame({"track_id": list(frames), "genre": list("ababab"), "start_frame": 0, "n_frames": 130,
                       "split": ["train"] * 4 + ["valid"] * 2})
def job(argument):
    model = build_network("study_cnn", (128, 130, 1), 2, seed=1, groups=("dynamics",), width=4)
    train(model, store, chunks, TrainSpec(epochs=1, batch_size=4), run_dir=argument["folder"] + "/run",
          values_dir=argument["folder"] + "/values", progress=False)
"""

BUNDLE = """
import keras
from genre_study.model import build_network
from genre_study.predict.bundle import Bundle, save_bundle
def job(argument):
    network = build_network("quick_cnn", (128, 130, 1), 2, seed=argument["version"], filters=2)
    scaling = ["track", "band"][argument["version"] - 1]
    save_bundle(argument["folder"] + "/bundle", Bundle(network, ["jazz", "pop"], scaling=scaling))
"""

FOLDER = """
from types import SimpleNamespace
import pandas as pd, pyarrow.parquet, tqdm
from genre_study.core.audio import AudioError
from genre_study.predict import folder
def answer(path, bundle):
    if "bad" in path.name:
        raise AudioError(path.name, "is not audio")
    return SimpleNamespace(top=[("jazz", 1.0)], uncertainty=0.0, reasons=[], novelty=0.5, duration_s=3.0,
                           vector={"jazz": 1.0, "pop": 0.0})
folder.predict_song, folder.open_bundle = answer, lambda model: model
def job(argument):
    bundle = SimpleNamespace(genres=("jazz", "pop"), network_hash=lambda: f"network {argument['version']}")
    folder.predict_folder(argument["elsewhere"] + "/music", argument["folder"] + "/" + argument["name"], bundle, False)
"""

EXPORT = """
import json, os, shutil, tempfile, zipfile
from types import SimpleNamespace
from genre_study.chunk import ChunkSpec
from genre_study.mel import MelSpec
from genre_study.predict import export
export.open_bundle = lambda bundle: SimpleNamespace(chunk=ChunkSpec(), mel=MelSpec())
export._check, export.load_network, export.importlib.util.find_spec = (lambda *_: None), (lambda file: file), str
def graph(program, saved, draft, seconds, backend):
    shutil.copyfile(saved, draft)
def repair(file):
    with open(file, "ab") as end:
        end.write(b"repaired" * 1000)
export._python, export._repair_onnx = graph, repair
def job(argument):
    tempfile.tempdir = argument["folder"] + "/.temporary"
    os.makedirs(tempfile.tempdir, exist_ok=True)
    def save(path):
        with zipfile.ZipFile(path, "w") as file:
            for name in ("config.json", "metadata.json", "model.weights.h5"):
                file.writestr(name, json.dumps({"version": argument["version"], "filling": "x" * 20000}))
    export.waveform_model = lambda bundle: SimpleNamespace(save=save)
    export.export_waveform_model(None, argument["folder"] + "/" + argument["name"], progress=False)
"""

CLASSIFIER = """
import os, tempfile
from types import SimpleNamespace
import scipy.fft, soundfile, zarr
from genre_study.mel import MelSpec, band_groups
from genre_study.predict import classifier
band_groups(MelSpec())
def build_network(name, shape, n_genres, seed):
    return SimpleNamespace(input_shape=(None, *shape), output_shape=(None, n_genres), genres=("jazz", "pop"))
classifier.build_network, classifier.train = build_network, lambda *_, **rest: None
build_store = classifier.build_store
classifier.build_store = lambda tracks, folder, progress: build_store(tracks, folder, workers=1, progress=False)
def job(argument):
    tempfile.tempdir = argument["folder"]
    files = sorted(os.path.join(argument["elsewhere"], "music", name)
                   for name in os.listdir(argument["elsewhere"] + "/music") if "bad" not in name)
    fitted = classifier.GenreClassifier().fit(files, ["jazz", "pop"] * 2)
    assert fitted.bundle_.genres == ("jazz", "pop")
"""

OPEN_FILE = """
import io, tempfile
from types import SimpleNamespace
import numpy as np
from genre_study.chunk import ChunkSpec
from genre_study.mel import MelSpec
from genre_study.predict import song
import genre_study.score.calibrate, scipy.fft, scipy.optimize, soundfile
bundle = SimpleNamespace(mel=MelSpec(), chunk=ChunkSpec(), floor_db=None, genres=("jazz", "pop"), scaling="track",
                         temperature=1.0, reference=None, trained_on="",
                         predict=lambda batch: np.full((len(batch), 2), 0.5),
                         network=SimpleNamespace(input_shape=(None, 128, 130, 1)))
song.open_bundle = lambda model: bundle
def job(argument):
    tempfile.tempdir = argument["folder"]
    with open(argument["elsewhere"] + "/song.m4a", "rb") as file:
        content = file.read()
    found = song.predict_song(io.BytesIO(content))
    assert 4.9 < found.duration_s < 5.2 and len(found.timeline) == 2, found
    assert not any("cut off" in reason for reason in found.reasons), found.reasons
"""

AUDIT = """
import tempfile
import scipy.fft, soundfile, sklearn.neighbors
from genre_study.corpora.audit import audit_corpus
def job(argument):
    tempfile.tempdir = argument["folder"]
    found = audit_corpus(argument["elsewhere"] + "/corpus", workers=1)
    assert found.finding.value_counts().to_dict() == argument["found"], found
"""

SOUNDFONT = """
import tempfile
from pathlib import Path
import pretty_midi
from genre_study.synth import sound
whole = sound._tuned(Path(pretty_midi.__file__).with_name("TimGM6mb.sf2").read_bytes())
def job(argument):
    tempfile.tempdir = argument["folder"]
    made, = Path(sound._soundfont().name).iterdir()
    assert made.read_bytes() == whole
"""

GTZAN = """
from genre_study.corpora import gtzan
def job(argument):
    assert len(gtzan.fetch_gtzan(argument["folder"] + "/corpus", argument["elsewhere"] + "/genres.tar.gz")) == 4
"""

DOWNLOAD = """
import hashlib
from pathlib import Path
from types import SimpleNamespace
import huggingface_hub, huggingface_hub.file_download, huggingface_hub.utils
from genre_study.corpora import gtzan
content = bytes(range(256)) * 4000
name = hashlib.sha256(content).hexdigest()
def http_get(url, file, resume_size, **rest):
    for start in range(resume_size, len(content), 300_000):
        file.write(content[start : start + 300_000])
        file.flush()
huggingface_hub.file_download.http_get = http_get
huggingface_hub.get_hf_file_metadata = lambda url, **rest: SimpleNamespace(etag=name, size=len(content), location=url)
def job(argument):
    folder = Path(argument["folder"])
    copy = folder / f"{name}.tar.gz"
    gtzan._cached = lambda: (folder, copy if copy.exists() else None)
    assert gtzan._download(False).read_bytes() == content
"""

COMPILED = """
import os, tempfile
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
import numpy as np
def job(argument):
    os.environ["XDG_CACHE_HOME"] = argument["folder"]
    import genre_study, keras
    from genre_study.model import build_network
    network = build_network("quick_cnn", (16, 40, 1), 2, seed=1, filters=2)
    from genre_study.network.fast import predict_batch
    assert abs(predict_batch(network, np.ones((2, 16, 40, 1), "float32")).sum() - 2) < 1e-3
"""

GRID = """
import joblib, nbformat, papermill, psutil, tqdm
from genre_study.grid.grid import ablate
def job(argument):
    levels, page = ablate({"rate": [0.5, 0.25]}, argument["elsewhere"] + "/study.ipynb", argument["folder"] + "/runs",
                          seeds=1, workers=2, report=argument["elsewhere"] + "/report.ipynb", progress=False)
    assert len(levels) == 2 and page.is_file()
"""

CASES = {  # the slow ones have fewer faults
    "figure": Case(FIGURE, 24), "timeline": Case(TIMELINE, 16), "page": Case(PAGE, 16),
    "reproduce": Case(REPRODUCE, 16, begun=False), "run": Case(RUN, 40, begun=False),
    "checkpoint": Case(CHECKPOINT, 60), "train": Case(TRAIN, 12, begun=False), "bundle": Case(BUNDLE, 12),
    **{f"export {name}": Case(EXPORT, 40, argument={"name": f"song.{name}"}) for name in ("keras", "onnx")},
    **{f"folder {name}": Case(FOLDER, 40, argument={"name": f"table.{name}"}) for name in ("csv", "parquet", "jsonl")},
    "classifier": Case(CLASSIFIER, 24, temporary=True), "open file": Case(OPEN_FILE, 24, temporary=True),
    "audit": Case(AUDIT, 16, temporary=True, argument={"found": {"exact replica": 1, "unreadable": 1}}),
    "soundfont": Case(SOUNDFONT, 12, temporary=True), "gtzan": Case(GTZAN, 40, begun=False),
    "download": Case(DOWNLOAD, 40, ("OSError", "PermissionError", "DownloadError"), begun=False),
    "compiled": Case(COMPILED, 8, temporary=True),
    "grid": Case(GRID, 8, ("OSError", "PermissionError", "RuntimeError"), {"arm_programs": True}, begun=False),
}


def _datasets(data):
    """Return the names and numbers of an HDF5 file, as bytes."""
    import h5py

    found = []
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(lambda name, item: found.append(name.encode() + item[()].tobytes())
                        if isinstance(item, h5py.Dataset) else None)
    return b"".join(sorted(found))


def content(file):
    """Identify what a file holds, whatever the time at which it was written."""
    data = file.read_bytes()
    if file.suffix in (".keras", ".npz", ".onnx") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"}
        for name in members:
            members[name] = re.sub(rb'"shared_object_id": \d+', b"", members[name])  # an address in Keras's memory
            if members[name].startswith(b"\x89HDF"):  # which puts addresses and times between the numbers
                members[name] = _datasets(members[name])
        if "facts.npy" in members:
            facts = json.loads(str(np.load(io.BytesIO(members["facts.npy"]))))
            for row in facts.get("rows", []):
                row.pop("seconds")
            members["facts.npy"] = json.dumps(facts).encode()
        data = b"".join(name.encode() + members[name] for name in sorted(members))
    elif file.name == "bundle.json":
        data = json.dumps(json.loads(data) | {"network_sha256": ""}).encode()
    return hashlib.sha256(data).hexdigest()


def visible(folder):
    """Return what the files of a folder hold that a reader sees, not drafts (hidden) nor parts of a download."""
    return {str(file.relative_to(folder)): content(file) for file in sorted(Path(folder).rglob("*"))
            if file.is_file() and file.suffix != ".part"
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)}
