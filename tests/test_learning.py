"""Networks learn from the training side alone; seeds, scaling, mixup and checkpoints do what they say."""
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from backend_probe import small_store

from genre_study.core.content import hash_array
from genre_study.evaluate import evaluate, predict_chunks
from genre_study.feed import ChunkFeed, read_chunks
from genre_study.mel import MelSpec
from genre_study.model import NETWORKS, build_network
from genre_study.network.checkpoint import load_checkpoint
from genre_study.network.frozen import ValueFeed, frozen_values, value_feeds
from genre_study.split import LeakageError
from genre_study.store import build_store
from genre_study.train import RECIPES, TrainSpec, train, train_heads

SMALL = {  # network: shape, options and choices that train in a second or two
    "fourteen_layer_cnn": ((96, 94, 1), {"filters": (4, 6, 8, 6, 4)}, {"epochs": 2, "batch_size": 8}),
    "quick_cnn": ((16, 40, 1), {"filters": 8}, {"epochs": 4, "batch_size": 16, "learning_rate": 5e-3}),
    "study_cnn": ((128, 130, 1), {"groups": ("timbre", "correlation"), "width": 8},
                  RECIPES["study_cnn"] | {"epochs": 3, "batch_size": 6}),
}


def corpus(shape):
    """A store in memory with its frames, and chunks of nine training, six validation and nine test tracks."""
    store, chunks = small_store(n_mels=shape[0], n_frames=shape[1] + 21, chunk_frames=shape[1])
    place = chunks["track_id"].str[-3:].astype(int)
    chunks["split"] = np.select([place < 9, place < 15], ["train", "valid"], "test")
    frames = {name: store.frames(name) for name in chunks["track_id"].unique()}
    return store, frames, chunks.sample(frac=1, random_state=3).reset_index(drop=True)  # the sides lie mixed


def with_frames(store, frames):
    """The same store with other frames."""
    return SimpleNamespace(**vars(store) | {"frames": lambda name, start=0, stop=None: frames[name][start:stop]})


def trained(name, store, chunks, seed=0, network_seed=1, spec=None, **rest):
    """Train a small network; its history without seconds, and its weights."""
    shape, options, choices = SMALL[name]
    model = build_network(name, shape, 3, seed=network_seed, **options)
    history = train(model, store, chunks, spec or TrainSpec(seed=seed, **choices), progress=False, **rest)
    return history.drop(columns="seconds"), model.get_weights()


def same(one, other):
    """Tell whether histories and weights are equal to the last bit."""
    return one[0].equals(other[0]) and all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def other_labels(store, frames, chunks):
    """Every test track gets the label of another genre."""
    test = chunks["split"] == "test"
    return store, chunks.assign(genre=chunks["genre"].where(~test, chunks["genre"].map(dict(zip("abc", "bca")))))


def other_frames(store, frames, chunks):
    """Every test track becomes noise."""
    rng, test = np.random.default_rng(9), set(chunks["track_id"][chunks["split"] == "test"])
    noise = {name: rng.normal(-30, 20, one.shape).astype("float16") if name in test else one
             for name, one in frames.items()}
    return with_frames(store, noise), chunks


def other_test_side(store, frames, chunks):
    """Both at once."""
    return other_frames(other_labels(store, frames, chunks)[0], frames, other_labels(store, frames, chunks)[1])


def no_test_rows(store, frames, chunks):
    """The table has no test rows at all."""
    return store, chunks[chunks["split"] != "test"]


@pytest.mark.parametrize("name, change", [("quick_cnn", other_labels), ("quick_cnn", other_frames),
                                          *((name, other_test_side) for name in sorted(NETWORKS)),
                                          ("study_cnn", no_test_rows)])
def test_test_side_has_no_part_in_training(name, change, tmp_path):
    """Neither weights nor curves know it: not in plain training, with a checkpoint, or with values that are kept."""
    store, frames, chunks = corpus(SMALL[name][0])
    expected = trained(name, store, chunks)
    found = trained(name, *change(store, frames, chunks), run_dir=tmp_path / "run", values_dir=tmp_path / "values")
    assert same(found, expected)
    checkpoint, _ = load_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert [row["loss"] for row in checkpoint["rows"]] == list(expected[0]["loss"])


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_validation_side_chooses_the_epoch_and_teaches_nothing(name):
    """With other validation labels the training curves are the same, and the validation curves are not."""
    store, _, chunks = corpus(SMALL[name][0])
    expected = trained(name, store, chunks)[0]
    valid = chunks["split"] == "valid"
    relabelled = chunks.assign(genre=chunks["genre"].where(~valid, chunks["genre"].map(dict(zip("abc", "bca")))))
    found = trained(name, store, relabelled)[0]
    assert found[["loss", "accuracy"]].equals(expected[["loss", "accuracy"]])
    assert not np.isclose(found["val_loss"], expected["val_loss"]).any()


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_epoch_is_chosen_on_the_validation_side_alone(monitor):
    """Test labels that favour the last epoch, or the first, change nothing."""
    store, _, chunks = corpus((16, 40, 1))
    spec = TrainSpec(epochs=6, batch_size=16, learning_rate=0.1, monitor=monitor)
    expected = trained("quick_cnn", store, chunks, spec=spec)
    for genre in "abc":
        one_genre = chunks.assign(genre=chunks["genre"].where(chunks["split"] != "test", genre))
        assert same(trained("quick_cnn", store, one_genre, spec=spec), expected)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_training_label_counts(name):
    """The opposite check: another label of one training track changes the weights."""
    store, _, chunks = corpus(SMALL[name][0])
    one = chunks.assign(genre=chunks["genre"].where(chunks["track_id"] != "track004", "a"))
    assert not same(trained(name, store, one), trained(name, store, chunks))


def distance(one, other):
    """Largest difference between the weights of two trainings."""
    return max(np.abs(a - b).max() for a, b in zip(one[1], other[1], strict=True))


def test_a_seed_changes_weights_order_and_dropout_each_by_itself():
    store, _, chunks = corpus((16, 40, 1))
    first = chunks.index[chunks["split"] == "train"][0]
    one = chunks[(chunks["split"] != "train") | (chunks.index == first)]  # one training chunk: there is no order

    def end(network_seed, seed, dropout, table):
        model = build_network("quick_cnn", (16, 40, 1), 3, seed=network_seed, filters=8, dropout=dropout)
        spec = TrainSpec(epochs=3, batch_size=8, seed=seed, learning_rate=5e-3)
        train(model, store, table, spec, progress=False)
        return None, model.get_weights()

    assert distance(end(1, 0, 0.0, one), end(1, 7, 0.0, one)) == 0, "no order and no dropout: nothing to change"
    assert distance(end(1, 0, 0.0, one), end(2, 0, 0.0, one)) > 0.1, "first weights"
    assert distance(end(1, 0, 0.5, one), end(1, 7, 0.5, one)) > 1e-3, "dropout"
    assert distance(end(1, 0, 0.0, chunks), end(1, 7, 0.0, chunks)) > 1e-2, "order"


@pytest.mark.parametrize("seed", [0, 1])
def test_mixup_blends_labels_as_it_blends_chunks(seed):
    """Each genre is one level, so a blended chunk tells the shares of its labels."""
    names = [f"track{place}" for place in range(20)]
    frames = {name: np.full((40, 8), place % 2, "float16") for place, name in enumerate(names)}
    store = SimpleNamespace(frames=frames.get, unit="relative", silence=0.0, spec=SimpleNamespace(n_mels=8))
    chunks = pd.DataFrame({"track_id": names, "genre": ["a", "b"] * 10, "start_frame": 0, "n_frames": 40})
    feed = ChunkFeed(store, chunks, "ab", batch_size=20, seed=seed, scaling="none", mixup_alpha=1.0)
    values = ValueFeed(np.tile([[0.0], [1.0]], (10, 5)), np.eye(2)[[0, 1] * 10], 3, 20, seed=seed, mixup_alpha=1.0)
    for seen, labels in (feed[0], (values[0][0], values[0][1][:, 1])):
        share = seen.reshape(20, -1)
        np.testing.assert_allclose(labels[:, 1], share[:, 0], atol=1e-6)
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
        assert ((share > 0.02) & (share < 0.98)).any()


@pytest.mark.parametrize("scaling, axis", [("track", None), ("band", 0)])
def test_a_chunk_is_scaled_by_its_track(scaling, axis):
    """A quiet beginning stays quiet, whatever else is in the batch; bands keep their order, the lowest first."""
    rng = np.random.default_rng(0)
    frames = {name: rng.normal(-60, 5, (200, 16)) + 10 * place + 20 * (np.arange(200)[:, None] > 99)
              for place, name in enumerate("ab")}
    frames = {name: one.astype("float16") for name, one in frames.items()}
    store = SimpleNamespace(frames=frames.get, unit="db", silence=-100.0, spec=SimpleNamespace(n_mels=16))
    chunks = pd.DataFrame({"track_id": ["a", "b", "a"], "start_frame": [0, 0, 120], "n_frames": 40})
    found = read_chunks(store, chunks, scaling)
    for chunk, (name, start) in zip(found, [("a", 0), ("b", 0), ("a", 120)]):
        whole = frames[name].astype("float64")
        expected = (whole[start:start + 40] - whole.mean(axis)) / whole.std(axis)
        np.testing.assert_allclose(chunk[:, :, 0], expected.T, atol=1e-4)
    assert found[0].mean() < -0.5 and found[2].mean() > 0.5


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_bands_upside_down_change_the_answer(name):
    store, _, chunks = corpus(SMALL[name][0])
    shape, options, choices = SMALL[name]
    model = build_network(name, shape, 3, seed=1, **options)
    train(model, store, chunks, TrainSpec(**choices), progress=False)
    upright = read_chunks(store, chunks[:12])
    assert np.abs(model.predict(upright, verbose=0) - model.predict(upright[:, ::-1], verbose=0)).max() > 1e-3


@pytest.mark.parametrize("name", ["quick_cnn", "study_cnn"])
@pytest.mark.parametrize("replaced", ["track000", "track010"], ids=["train", "valid"])
def test_checkpoint_of_other_audio_is_refused(name, replaced, tmp_path):
    """The same names and lengths: with another sound of one track, old weights are neither returned nor continued."""
    store, frames, chunks = corpus(SMALL[name][0])
    keep = {"run_dir": tmp_path / "run", "values_dir": tmp_path / "values"}
    old = trained(name, store, chunks, **keep)
    assert same(trained(name, store, chunks, **keep), old)
    swapped = with_frames(store, frames | {replaced: frames[replaced][::-1]})
    with pytest.raises(ValueError, match="other frames"):
        trained(name, swapped, chunks, **keep)
    new = trained(name, swapped, chunks, values_dir=tmp_path / "values")
    assert same(new, trained(name, swapped, chunks, values_dir=tmp_path / "fresh"))
    assert not new[0].equals(old[0])


@pytest.mark.parametrize("column", ["split", "genre", "start_frame"])
def test_checkpoint_of_other_sides_labels_or_places_is_refused(column, tmp_path):
    """The same frames: a track on the other side, with another label, or cut elsewhere is another training."""
    store, _, chunks = corpus((16, 40, 1))
    spec = TrainSpec(epochs=1, batch_size=16)
    trained("quick_cnn", store, chunks, spec=spec, run_dir=tmp_path)
    one = chunks["track_id"] == "track003"
    other = {"split": "valid", "genre": "b", "start_frame": chunks["start_frame"] + 1}[column]
    changed = chunks.assign(**{column: chunks[column].mask(one, other)})
    assert not changed.equals(chunks)
    with pytest.raises(ValueError, match="other chunks"):
        trained("quick_cnn", store, changed, spec=spec, run_dir=tmp_path)


def test_a_renamed_track_is_known_by_what_it_holds():
    """Trained once more on other tracks, a network still knows those of the first time, by name and by content."""
    store, frames, chunks = corpus((16, 40, 1))
    chunks = chunks.assign(start_s=chunks["start_frame"] * 0.02)
    frames = frames | {"renamed": frames["track000"]}
    store = with_frames(store, frames)
    store.content_hash = lambda name: hash_array(frames[name])
    store.tracks = pd.DataFrame({"track_id": list(frames)})
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1, filters=8)
    spec = TrainSpec(epochs=1, batch_size=16)
    train(model, store, chunks, spec, progress=False)
    later = chunks.assign(split=chunks["split"].replace({"test": "train", "train": "test"}))
    train(model, store, later, spec, progress=False)
    genres = chunks.drop_duplicates("track_id").set_index("track_id")["genre"]
    tracks = pd.DataFrame({"track_id": list(frames), "genre": [*genres.reindex(list(frames)[:-1]), "a"]})
    for name, new_name in (("track000", "renamed"), ("track000", "track000"), ("track020", "track020")):
        some = chunks[chunks["track_id"] == name].assign(track_id=new_name)
        with pytest.raises(LeakageError, match=f"learned from 1 of these tracks: {new_name}"):
            evaluate(predict_chunks(model, store, some), tracks, ["a", "b", "c"])
    valid = predict_chunks(model, store, chunks[chunks["split"] == "valid"])
    assert evaluate(valid, tracks, ["a", "b", "c"])["n_tracks"] == 6


def test_audio_replaced_behind_a_store_is_noticed(tmp_path):
    """Files of the same names and lengths, with another sound, in a store on disk."""
    def built(seed):
        for place in range(6):
            noise = np.random.default_rng([seed, place]).normal(0, 0.1, 22050)
            soundfile.write(tmp_path / f"{place}.wav", noise, 22050)
        tracks = pd.DataFrame([{"track_id": f"track{place}", "genre": "abc"[place % 3], "artist": None,
                                "path": str(tmp_path / f"{place}.wav"), "duration_s": 1.0} for place in range(6)])
        return build_store(tracks, tmp_path / "store", MelSpec(n_mels=16), workers=1, progress=False)

    chunks = pd.DataFrame({"track_id": [f"track{place}" for place in range(6)], "genre": list("abcabc"),
                           "start_frame": 0, "n_frames": 40, "split": ["train"] * 3 + ["valid"] * 3})
    spec = TrainSpec(epochs=1, batch_size=3)
    old = trained("quick_cnn", built(0), chunks, spec=spec, run_dir=tmp_path / "run")
    assert same(trained("quick_cnn", built(0), chunks, spec=spec, run_dir=tmp_path / "run"), old)
    replaced = built(1)
    with pytest.raises(ValueError, match="other frames"):
        trained("quick_cnn", replaced, chunks, spec=spec, run_dir=tmp_path / "run")
    assert not trained("quick_cnn", replaced, chunks, spec=spec)[0].equals(old[0])


def test_two_tracks_that_change_places_are_noticed(tmp_path):
    """Of equal length, and with the same content in all."""
    store, frames, chunks = corpus((16, 40, 1))
    trained("quick_cnn", store, chunks, run_dir=tmp_path)
    swapped = with_frames(store, frames | {"track000": frames["track001"], "track001": frames["track000"]})
    with pytest.raises(ValueError, match="other frames"):
        trained("quick_cnn", swapped, chunks, run_dir=tmp_path)


@pytest.mark.parametrize("name, options", [("quick_cnn", {"dropout": 0.2}), ("fourteen_layer_cnn", {"pools": "max"}),
                                           ("fourteen_layer_cnn", {"dense_activation": "relu"}),
                                           ("study_cnn", {"input_dropout": 0.0})])
def test_checkpoint_of_another_network_is_refused(name, options, tmp_path):
    """Also if all weights have the same names and shapes."""
    store, _, chunks = corpus(SMALL[name][0])
    shape, same_options, choices = SMALL[name]
    spec = TrainSpec(**choices | {"epochs": 1})
    trained(name, store, chunks, spec=spec, run_dir=tmp_path)
    trained(name, store, chunks, spec=spec, run_dir=tmp_path)
    other = build_network(name, shape, 3, seed=1, **same_options | options)
    with pytest.raises(ValueError, match="another network"):
        train(other, store, chunks, spec, run_dir=tmp_path, progress=False)


def test_frozen_values_are_those_of_each_chunk():
    """In the order of the table, whatever the batches: what the layer "descriptors" gives for the chunk alone."""
    import keras

    store, _, chunks = corpus((128, 130, 1))
    model = build_network("study_cnn", (128, 130, 1), 3, seed=0, groups=("gabor_log", "dynamics"))
    few = chunks.sample(7, random_state=0)
    alone = keras.Model(model.input, model.get_layer("descriptors").output)
    expected = np.concatenate([alone.predict(read_chunks(store, few[k:k + 1]), verbose=0) for k in range(7)])
    np.testing.assert_allclose(frozen_values(model, store, few, batch_size=3), expected, atol=1e-3)


def network_with_frozen_layers(seed):
    """A small network whose frozen layer has random weights."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 40, 1))
    x = keras.layers.Conv2D(4, 3, trainable=False)(inputs)
    x = keras.layers.Identity(name="descriptors")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("what", ["scaling", "chunks", "store", "model"])
def test_kept_values_are_those_of_what_is_asked_for(what, tmp_path):
    """Another scaling, other chunks of the same tracks, other audio, other frozen weights: never the old values."""
    store, frames, chunks = corpus((16, 40, 1))
    asked = {"model": network_with_frozen_layers(0), "store": store, "chunks": chunks[:12], "scaling": "track"}
    other = asked | {what: {"scaling": "band", "chunks": chunks[:12].assign(start_frame=3), "store": with_frames(
        store, {name: one[::-1] for name, one in frames.items()}), "model": network_with_frozen_layers(1)}[what]}
    old = frozen_values(**asked, folder=tmp_path)
    np.testing.assert_array_equal(frozen_values(**asked, folder=tmp_path), old)
    new = frozen_values(**other, folder=tmp_path)
    np.testing.assert_array_equal(new, frozen_values(**other))
    assert not np.allclose(new, old)


def test_heads_learn_each_by_itself_and_from_mixed_values():
    shape, options, choices = SMALL["study_cnn"]
    store, _, chunks = corpus(shape)
    used = chunks[chunks["split"] != "test"]
    values = frozen_values(build_network("study_cnn", shape, 3, **options), store, used)

    def end(together=False, **changes):
        model = build_network("study_cnn", shape, 3, seed=1, **options)
        history = train_heads(model, values, used, TrainSpec(**choices | changes), progress=False, together=together)
        return history.drop(columns="seconds"), model.get_weights()

    expected = end()
    assert same(trained("study_cnn", store, chunks), expected)
    assert not same(end(together=True), expected)
    assert not same(end(mixup_alpha=0.0), expected) and not same(end(seed=5), expected)
    with pytest.raises(ValueError, match=f"a row for each of the {len(used)} chunks; received {len(used) - 1}"):
        train_heads(build_network("study_cnn", shape, 3, **options), values[:-1], used, progress=False)


def test_a_seed_changes_the_order_of_the_heads_rows_and_how_they_are_mixed():
    values, chunks = np.arange(40.0).reshape(20, 2), pd.DataFrame({"genre": list("ab") * 10, "split": "train"})

    def dealt(seed, alpha):
        feed, _ = value_feeds(values, chunks, "ab", TrainSpec(batch_size=20, seed=seed, mixup_alpha=alpha), n_heads=1)
        return feed[0][0]

    assert np.array_equal(dealt(1, 0.0), dealt(1, 0.0)) and not np.array_equal(dealt(1, 0.0), dealt(2, 0.0))
    assert np.array_equal(dealt(1, 0.4), dealt(1, 0.4)) and not np.allclose(np.sort(dealt(1, 0.4), 0),
                                                                           np.sort(dealt(2, 0.4), 0))


def test_the_rows_of_the_heads_are_mixed_anew_in_each_batch_and_epoch():
    """The batches hold the same rows; what differs is drawn."""
    rows = np.tile(np.random.default_rng(0).random((8, 3)), (2, 1))
    feed = ValueFeed(rows, np.tile(np.eye(8), (2, 1)), n_heads=1, batch_size=8, shuffle=False, mixup_alpha=0.4)
    first, second = feed[0][0], feed[1][0]
    feed.epoch = 1
    later = feed[0][0]
    feed.epoch = 0
    assert len({first.tobytes(), second.tobytes(), later.tobytes()}) == 3 and np.array_equal(feed[0][0], first)


def test_rows_of_the_test_side_are_in_no_feed_of_the_heads():
    """And every row of the two other sides is dealt, those of the validation in order, unmixed, to the last."""
    values = np.arange(44.0).reshape(22, 2)
    chunks = pd.DataFrame({"genre": list("ba") * 11, "split": (["train", "test", "valid"] * 8)[:22]})
    train_feed, _ = value_feeds(values, chunks, ["a", "b"], TrainSpec(batch_size=3), n_heads=2)
    _, valid_feed = value_feeds(values, chunks, ["a", "b"], TrainSpec(batch_size=3, mixup_alpha=0.4), n_heads=2)
    learned = np.concatenate([train_feed[number][0] for number in range(len(train_feed))])
    assert set(learned[:, 0]) <= set(values[(chunks["split"] == "train").to_numpy(), 0]) and len(learned) == 6
    batches = [valid_feed.whole_batch(number) for number in range(len(valid_feed))]
    dealt = np.concatenate([seen[weights[:, 0] > 0] for seen, _, weights in batches])
    labels = np.concatenate([labels[weights[:, 0] > 0] for _, labels, weights in batches])
    of_valid = (chunks["split"] == "valid").to_numpy()
    assert np.array_equal(dealt, values[of_valid])
    assert ["ab"[place] for place in labels[:, 1].argmax(axis=1)] == chunks["genre"][of_valid].tolist()
    for _, labels, weights in batches:
        np.testing.assert_allclose(weights.sum(), 2 * len(labels[weights[:, 0] > 0]) * 9 / 7)


NETS = """
import keras
from keras import layers

def sequential(input_shape, n_genres, width=4):
    return keras.Sequential([layers.Conv2D(width, 5, activation="relu"), layers.GlobalMaxPooling2D(),
                             layers.Dense(n_genres, activation="softmax")])

def functional(input_shape, n_genres):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Dense(n_genres, activation="softmax")(layers.Flatten()(inputs)))
"""


@pytest.mark.parametrize("place", ["nets.py:sequential", "nets.py:functional", "nets_for_a_test:sequential"])
def test_own_network_is_trained_saved_and_opened(place, tmp_path, monkeypatch):
    """Named by a file or a module; with callbacks of Keras' own and of the reader's."""
    import keras

    from genre_study.predict.safe_loading import load_network

    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "nets_for_a_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    store, _, chunks = corpus((16, 40, 1))
    model = build_network(place, (16, 40, 1), 3, seed=0)
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["val_loss"]))
    history = train(model, store, chunks, TrainSpec(epochs=3, batch_size=8), progress=False,
                    callbacks=[note, keras.callbacks.TerminateOnNaN()])
    np.testing.assert_allclose(seen, history["val_loss"])
    model.save("model.keras")
    few = read_chunks(store, chunks[:5])
    opened = load_network("model.keras")
    np.testing.assert_allclose(opened.predict(few, verbose=0), model.predict(few, verbose=0), atol=1e-6)


def test_a_callback_can_stop_the_training():
    """It ends as a training of so many epochs does."""
    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    store, _, chunks = corpus((16, 40, 1))
    found = trained("quick_cnn", store, chunks, spec=TrainSpec(epochs=30, batch_size=16), callbacks=[Stop()])
    assert same(found, trained("quick_cnn", store, chunks, spec=TrainSpec(epochs=2, batch_size=16)))


SHAPES = """
import json, sys
import genre_study
import keras
import numpy as np
keras.config.set_image_data_format(sys.argv[1])
from genre_study.model import build_network
from genre_study.network.fast import fast_twin
from test_learning import SMALL
found = {}
for name, (shape, options, _) in SMALL.items():
    if name == "study_cnn":
        options = {"groups": ("correlation",), "filters": (4,)}
    model = fast_twin(build_network(name, shape, 3, seed=1, **options))
    answer = model.predict(np.random.default_rng(0).normal(size=(2, *shape)).astype("float32"), verbose=0)
    found[name] = [model.count_params(), [layer.output.shape for layer in model.layers], answer.round(5).tolist()]
print(json.dumps(found))
"""


def test_image_format_of_keras_changes_no_network():
    """`channels_first` is a setting for the reader's own networks; ours say where their channels are."""
    found = []
    for image_format in ("channels_last", "channels_first"):
        run = subprocess.run([sys.executable, "-c", SHAPES, image_format], check=True, capture_output=True, text=True,
                             env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, timeout=300)
        found.append(json.loads(run.stdout.splitlines()[-1]))
    assert set(found[0]) == set(NETWORKS)
    assert found[0] == found[1]


def test_a_network_without_probabilities_is_refused_before_it_is_trained(tmp_path):
    (tmp_path / "nets.py").write_text(NETS + """
def bare(input_shape, n_genres):
    return keras.Sequential([layers.Flatten(), layers.Dense(n_genres, bias_initializer="ones")])

def sums_to_more(input_shape, n_genres):
    return keras.Sequential([layers.Flatten(), layers.Dense(n_genres, activation="sigmoid")])
""")
    for name in ("bare", "sums_to_more"):
        with pytest.raises(ValueError, match=r"must give probabilities that sum to 1; .*: end it with a softmax"):
            build_network(f"{tmp_path}/nets.py:{name}", (16, 40, 1), 4)
    for name in ("sequential", "functional"):
        build_network(f"{tmp_path}/nets.py:{name}", (16, 40, 1), 4)
