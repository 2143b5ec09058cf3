"""Importing the package changes nothing for other code, follows the user's choices, and works without a home folder."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

WATCH = """
import json, os, subprocess, sys, warnings
before = dict(os.environ)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import genre_study
    light = not {"keras", "jax", "torch", "tensorflow"} & set(sys.modules) and dict(os.environ) == before
    from genre_study.network.backend import backend_name
    promised = backend_name()
    import keras
"""
TELL = """
child = "import json, os; print(json.dumps({name: os.environ.get(name) for name in ('XLA_FLAGS', 'KERAS_BACKEND')}))"
print(json.dumps({
    "light": light, "promised": promised, "backend": keras.backend.backend(), "now": backend_name(),
    "child": json.loads(subprocess.check_output([sys.executable, "-c", child])),
    "changed": sorted(name for name in os.environ if os.environ[name] != before.get(name)
                      and name.startswith(("XLA_", "JAX_", "KERAS_", "MALLOC_", "GLIBC_"))),
    "format": keras.config.image_data_format(), "floatx": keras.config.floatx(), "epsilon": keras.config.epsilon(),
    "warned": [str(one.message) for one in warned if "genre_study" in str(one.message)]}))
"""
USE = """
import numpy as np
from genre_study.model import build_network
from genre_study.network.fast import fast_twin, predict_batch
network = fast_twin(build_network("quick_cnn", (128, 130, 1), n_genres=2))
network.compile("adam", "categorical_crossentropy")
chunks, labels = np.zeros((4, 128, 130, 1), "float32"), np.eye(2)[[0, 1, 0, 1]]
network.fit(chunks, labels, verbose=0)
predict_batch(network, chunks)
"""


def told(code, home, **environ):
    """What a process tells that imports the package, with a Keras folder of its own and nothing else set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "KERAS_"))}
    run = subprocess.run([sys.executable, "-c", code], env=clean | {"KERAS_HOME": str(home)} | environ,
                         capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("use", [pytest.param("", id="imported"), pytest.param(USE, id="trained")])
def test_variables_stay_as_they_were_here_and_in_children(tmp_path, use):
    found = told(WATCH + use + TELL, tmp_path)
    assert found["light"] and found["changed"] == []
    assert found["promised"] == found["backend"] == found["now"] == "jax"
    assert found["child"] == {"XLA_FLAGS": None, "KERAS_BACKEND": None} and found["warned"] == []


def test_variables_of_the_user_are_followed(tmp_path):
    pytest.importorskip("torch")
    mine = {"KERAS_BACKEND": "torch", "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    found = told(WATCH + TELL, tmp_path, **mine)
    assert found["promised"] == found["backend"] == "torch"
    assert found["child"] == {name: mine[name] for name in ("XLA_FLAGS", "KERAS_BACKEND")}


@pytest.mark.parametrize(("written", "backend"), [("torch", "torch"), ("no-such", "jax"), ("jax", "jax")])
def test_backend_of_keras_json_is_followed_if_it_is_installed(tmp_path, written, backend):
    pytest.importorskip("torch")
    (tmp_path / "keras.json").write_text(json.dumps({"backend": written}))
    found = told(WATCH + TELL, tmp_path)
    assert found["promised"] == found["backend"] == backend
    assert told(WATCH + TELL, tmp_path, KERAS_BACKEND="jax")["backend"] == "jax"  # the variable goes first


LIMITS = """
import json, warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import genre_study, keras
    from test_train import TrainSpec, run
    one, _ = run(TrainSpec(epochs=3, batch_size=4))
    for name in ("set_max_epochs", "set_max_steps_per_epoch"):
        getattr(keras.config, name, lambda _: None)(1)  # Keras before 3.12 has no such bounds
    other, _ = run(TrainSpec(epochs=3, batch_size=4))
print(json.dumps({"losses": [list(one.loss), list(other.loss)],
                  "warned": sum("Keras is set to max_" in str(one.message) for one in warned)}))
"""


def test_bounds_of_keras_on_epochs_and_steps_cut_no_training_short(tmp_path):
    """They come from a variable, or from somebody's call; the training is as long as its choices say, with a word."""
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    plain = told(LIMITS, tmp_path, PYTHONPATH=path)
    bound = told(LIMITS, tmp_path, PYTHONPATH=path, KERAS_MAX_EPOCHS="1", KERAS_MAX_STEPS_PER_EPOCH="2")
    assert len(plain["losses"][0]) == 3 and plain["losses"][0] == plain["losses"][1] == bound["losses"][0]
    assert (plain["warned"], bound["warned"]) in ((2, 4), (0, 0))


@pytest.mark.parametrize("first", [False, True])
def test_other_settings_of_keras_json_are_overruled_with_a_warning(tmp_path, first):
    theirs = {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 1e-3}
    (tmp_path / "keras.json").write_text(json.dumps(theirs))
    code = WATCH.replace("    import genre_study", "    import keras, genre_study")
    code = code.replace("light = not", "light = True or not")
    found = told((code if first else WATCH) + TELL, tmp_path, **{"KERAS_BACKEND": "jax"} if first else {})
    assert (found["format"], found["floatx"], found["epsilon"]) == ("channels_last", "float32", 1e-7)
    assert len(found["warned"]) == 3 and "channels_first" in found["warned"][0]


@pytest.mark.parametrize("use", ["fit", "predict", "predict_batch"])
def test_options_reach_the_compiler(monkeypatch, use):
    """An option that the compiler does not know stops it: so it was told."""
    from genre_study.network import fast

    if not fast.helps_here():
        pytest.skip("only JAX on a CPU takes options")
    monkeypatch.setattr(fast, "compiler_options", lambda: {"no_such_option": "1"})
    network = fast.keras.Sequential([fast.keras.Input((3,)), fast.keras.layers.Dense(2, activation="softmax")])
    twin, rows, labels = fast.fast_twin(network), np.zeros((4, 3), "float32"), np.eye(2)[[0, 1, 0, 1]]
    twin.compile("adam", "categorical_crossentropy")
    uses = {"fit": lambda: twin.fit(rows, labels, verbose=0), "predict": lambda: twin.predict(rows, verbose=0),
            "predict_batch": lambda: fast.predict_batch(network, rows)}
    with pytest.raises(Exception, match="no_such_option"):
        uses[use]()


NOWHERE = """
import os, pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
"""


@pytest.mark.parametrize("home", ["", "os.environ['HOME'] = '/dev/null'", "os.environ['HOME'] = '/proc/none'"])
def test_import_and_use_without_a_home_folder(tmp_path, home):
    """A user without HOME whom the system does not know, or with a home that can't be written to."""
    code = NOWHERE + "os.environ.pop('HOME', None)\n" + home + WATCH + USE + TELL
    environ = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "KERAS_BACKEND")}
    environ["KERAS_HOME"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=300,
                         check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "compilation cache" not in run.stderr  # no complaint of JAX that it can't write there


NO_PLACE = """
import os
import numba.core.caching as caching
may = os.access
os.access = lambda path, mode, **options: not mode & os.W_OK and may(path, mode, **options)
name = next(name for name in dir(caching) if name.endswith("UserProvidedCacheLocator"))
caching.CacheImpl._locator_classes = [getattr(caching, name)]  # beside the module and at home: neither
import numpy as np
from genre_study.mel import MelSpec, log_mel
print(log_mel(np.sin(np.arange(22050) / 9).astype("float32"), MelSpec(n_mels=64)).shape[0])
"""


def test_librosa_opens_for_a_user_who_may_write_nowhere():
    """Not in the folder of packages, and not at home, as in a container with --user: numba's cache has no place."""
    environ = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    run = subprocess.run([sys.executable, "-c", NO_PLACE], env=environ | {"HOME": "/proc/none"}, capture_output=True,
                         text=True, timeout=300, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "64"), run.stderr[-2000:]
