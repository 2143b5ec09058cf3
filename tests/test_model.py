"""Networks and their fast twins have the same weights and the same results, and plain Keras opens their files."""
import os
import subprocess
import sys

import numpy as np
import pytest

import genre_study  # noqa: F401 (chooses the backend)
from genre_study.model import NETWORKS, build_network

OPENS = """
import sys
sys.modules["genre_study"] = None  # importing it now fails
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), verbose=0))
"""


def test_the_published_network_has_its_parameters():
    model = build_network("fourteen_layer_cnn", (128, 130, 1), 10)
    assert model.count_params() == 243_454
    assert [layer.filters for layer in model.layers if hasattr(layer, "filters")] == [16, 32, 64, 128, 64]
    assert sum(type(layer).__name__ == "Dropout" for layer in model.layers) == 5
    assert model.get_layer(model.layers[-2].name).activation.__name__ == "selu"


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_trained_network_opens_in_plain_keras(name, tmp_path):
    """Trained through its twin, saved, and opened by Keras alone: the predictions are the twin's."""
    import keras

    from genre_study.network.fast import fast_twin

    few = {"groups": ("timbre", "dynamics"), "filters": (4,)} if name == "study_cnn" else {}
    model = build_network(name, (128, 130, 1), 10, seed=4, **few)
    twin = fast_twin(model)
    rng = np.random.default_rng(0)
    chunks, labels = rng.normal(size=(4, 128, 130, 1)).astype("float32"), np.eye(10, dtype="float32")[:4]
    before = model.get_weights()
    twin.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy")
    twin.train_on_batch(chunks, labels)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "chunks.npy", chunks)
    files = [str(tmp_path / file) for file in ("model.keras", "found.npy", "chunks.npy")]
    subprocess.run([sys.executable, "-c", OPENS, *files], check=True, cwd=tmp_path, timeout=300,
                   env=os.environ | {"KERAS_BACKEND": "jax"})
    assert np.abs(np.load(files[1]) - twin.predict(chunks, verbose=0)).max() < 1e-5


def graph():
    """A network with layers that the twin may merge and layers that it may not."""
    import keras
    from keras import layers

    x = inputs = keras.Input((33, 29, 1))
    x = layers.Conv2D(4, 3, activation="relu")(x)
    both = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])  # read twice: not merged
    x = layers.Conv2D(5, 3, activation="relu", padding="same")(both)
    x = layers.MaxPooling2D(2, padding="same")(x)  # not of the plain kind
    x = layers.MaxPooling2D(2)(layers.Conv2D(6, 2, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def sequence():
    """A Sequential whose first convolution and pool are merged."""
    import keras
    from keras import layers

    return keras.Sequential([
        keras.Input((21, 18, 1)), layers.Conv2D(4, (5, 3), activation="relu"), layers.MaxPooling2D((2, 3)),
        layers.Flatten(), layers.Dense(3, activation="softmax"),
    ])


@pytest.mark.parametrize("make, stand_ins", [(graph, ["_Pool", "_Pool", "_ConvPool"]), (sequence, ["_ConvPool"])])
def test_twin_of_odd_networks(make, stand_ins):
    """Predictions and training step are the same, even if only some layers can be replaced."""
    import keras

    from genre_study.network.fast import fast_twin

    keras.utils.set_random_seed(0)
    model = make()
    twin = fast_twin(model)
    assert [type(layer).__name__ for layer in twin.layers if type(layer).__name__.startswith("_")] == stand_ins
    rng = np.random.default_rng(1)
    chunks = rng.normal(size=(6, *model.input_shape[1:])).astype("float32")
    labels = np.eye(3, dtype="float32")[[0, 1, 2] * 2]
    assert np.abs(model.predict(chunks, verbose=0) - twin.predict(chunks, verbose=0)).max() < 1e-6
    start, ends = model.get_weights(), []
    for network in (model, twin):
        model.set_weights(start)
        network.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy")
        network.train_on_batch(chunks, labels)
        ends.append(model.get_weights())
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(start, ends[0], strict=True))
    for stock, ours in zip(*ends, strict=True):
        assert np.abs(stock - ours).max() < 1e-5


def test_dropout_of_the_twin():
    """A value is kept with probability 1 - rate, independently of its neighbours and of other steps, and scaled."""
    import keras

    from genre_study.network.fast import fast_twin

    model = keras.Sequential([keras.Input((64, 65, 16)), keras.layers.Dropout(0.4, seed=9)])
    twin = fast_twin(model)
    ones = np.ones((16, 64, 65, 16), "float32")
    assert np.array_equal(np.asarray(twin(ones, training=False)), ones)
    steps = [np.asarray(twin(ones, training=True)) for _ in range(4)]
    for step in steps:
        assert set(np.unique(step)) == {np.float32(0), np.float32(1 / 0.6)}
    kept = np.stack(steps) > 0
    n = kept[0].size
    assert abs(kept.mean() - 0.6) < 5 * np.sqrt(0.24 / kept.size)
    for axis in range(5):  # by step, chunk, row, column, filter
        means = kept.mean(tuple(other for other in range(5) if other != axis))
        assert np.abs(means - 0.6).max() < 5 * np.sqrt(0.24 * len(means) / kept.size)
    centred = kept[0] - kept[0].mean()
    others = [kept[1], kept[2], *(np.roll(kept[0], 1, axis) for axis in range(4)), np.roll(kept[0], (1, 1), (1, 2))]
    for other in others:
        assert abs((centred * (other - other.mean())).mean() / 0.24) < 5 / np.sqrt(n)
    again = keras.Sequential([keras.Input((64, 65, 16)), keras.layers.Dropout(0.4, seed=9)])
    assert np.array_equal(np.asarray(fast_twin(again)(ones, training=True)), steps[0])


def test_the_quick_network_slides_over_time():
    """A sound eight frames later, which is three steps of two, gives the same answer; other bands give another one."""
    model = build_network("quick_cnn", (16, 120, 1), 3, seed=2)
    chunks = np.zeros((3, 16, 120, 1), "float32")
    sound = np.random.default_rng(0).normal(size=(16, 9, 1))
    chunks[0, :, 48:57], chunks[1, :, 56:65], chunks[2, ::-1, 48:57] = sound, sound, sound
    here, later, upside_down = model.predict(chunks, verbose=0)
    np.testing.assert_allclose(here, later, atol=1e-5)
    assert np.abs(here - upside_down).max() > 1e-3


@pytest.mark.parametrize("name, options, n_dropouts", [("fourteen_layer_cnn", {"filters": (2, 2, 2, 2, 2)}, 5),
                                                       ("quick_cnn", {"filters": 4}, 1)])
def test_options_reach_the_layers(name, options, n_dropouts):
    """Dropout, pools and activation are those that were asked for, and the outputs sum to 1."""
    made = {pools: build_network(name, (96, 96, 1), 3, seed=0, dropout=0.3, pools=pools, **options)
            for pools in ("max", "average", {"quick_cnn": "both"}.get(name, "alternating"))}
    for pools, model in made.items():
        rates = [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"]
        kinds = {type(layer).__name__ for layer in model.layers if "Pooling" in type(layer).__name__}
        assert rates == [0.3] * n_dropouts
        assert {"Max" in kind for kind in kinds} == {"max": {True}, "average": {False}}.get(pools, {False, True})
        answer = model.predict(np.random.default_rng(0).normal(size=(4, 96, 96, 1)), verbose=0)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_the_ensemble_averages_the_probabilities_of_its_heads():
    """Each head sees the numbers of its own group; the mean is that of their probabilities, not of their scores."""
    import keras

    model = build_network("study_cnn", (128, 130, 1), 3, seed=0, groups=("timbre", "dynamics"))
    chunks = np.random.default_rng(0).normal(size=(4, 128, 130, 1)).astype("float32")
    numbers = keras.Model(model.input, model.get_layer("descriptors").output)(chunks)
    for name in ("timbre_genres", "dynamics_genres"):  # sure of themselves, and not of one mind
        model.get_layer(name).set_weights([20 * one for one in model.get_layer(name).get_weights()])
    scores = np.array(keras.Model(model.input, model.get_layer("heads").output)(chunks))
    shares = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(model.predict(chunks, verbose=0), shares.mean(axis=1), atol=1e-4)
    assert model.get_layer("dynamics_hidden").kernel.shape[0] == 640
    assert model.get_layer("timbre_hidden").kernel.shape[0] == numbers.shape[1] - 640
