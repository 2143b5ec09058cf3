"""Training: repeatable, continued after a kill at any moment, and with every option."""
import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from backend_probe import small_store

from genre_study.evaluate import predict_chunks
from genre_study.model import build_network
from genre_study.network.checkpoint import CHECKPOINT, Recorder, load_checkpoint
from genre_study.train import RECIPES, TrainSpec, _reset_seeds, compile_model, train

HERE = Path(__file__).parent
EVERYTHING = {"batch_size": 16, "learning_rate": 5e-3, "optimizer": "adamw", "weight_decay": 1e-3,
              "schedule": "one_cycle", "label_smoothing": 0.1, "mixup_alpha": 0.4, "time_mask": 8, "band_mask": 3,
              "ema_momentum": 0.9, "monitor": "val_accuracy", "scaling": "band"}
PLAIN = {"batch_size": 16, "learning_rate": 5e-3}


def run(spec, **options):
    """Train a small network; its history without seconds, and its weights."""
    store, chunks = small_store()
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1)
    history = train(model, store, chunks, spec, progress=False, **options)
    return history.drop(columns="seconds"), model.get_weights()


def same(one, other):
    """Equal histories and equal weights, to the last bit."""
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    return all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_two_runs_are_identical_and_another_seed_is_not(options):
    spec = TrainSpec(epochs=3, **options)
    one = run(spec)
    assert same(one, run(spec))
    assert one[0]["loss"].iloc[-1] < one[0]["loss"].iloc[0]
    other = run(TrainSpec(epochs=3, seed=1, **options))
    assert not np.array_equal(one[0]["loss"], other[0]["loss"])


def checkpoint_epochs(folder):
    """How many epochs the checkpoint holds. It is whole whenever it is there."""
    file = folder / CHECKPOINT
    return len(load_checkpoint(file)[0]["rows"]) if file.exists() else 0


def test_heads_go_on_after_a_cut_as_if_undisturbed(tmp_path, monkeypatch):
    """The study's network with its recipe: the values of its frozen layers are found again, and the epochs go on."""
    store, chunks = small_store(n_tracks=12, n_mels=128, n_frames=140, chunk_frames=130, hop=5)
    spec = TrainSpec(**RECIPES["study_cnn"] | {"epochs": 6, "batch_size": 6})

    def trained(**options):
        model = build_network("study_cnn", (128, 130, 1), 3, seed=1, groups=("timbre", "correlation"))
        history = train(model, store, chunks, spec, progress=False, **options)
        return history.drop(columns="seconds"), model.get_weights()

    def save_and_fall(recorder):
        saved(recorder)
        if len(recorder.rows) == 3:
            raise KeyboardInterrupt

    expected, saved = trained(), Recorder.save
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Recorder, "save", save_and_fall)
        trained(run_dir=tmp_path, values_dir=tmp_path / "values")
    assert checkpoint_epochs(tmp_path) == 3
    assert same(trained(run_dir=tmp_path, values_dir=tmp_path / "values"), expected)
    assert len(list((tmp_path / "values").iterdir())) == 1


def test_the_best_epoch_may_lie_before_the_cut(tmp_path, monkeypatch):
    """Its weights are in the checkpoint: a training that goes on ends with them, not with the best of the rest."""
    spec = TrainSpec(epochs=5, batch_size=16, learning_rate=0.5)  # the first epoch is the best one
    expected, saved = run(spec), Recorder.save

    def save_and_fall(recorder):
        saved(recorder)
        if len(recorder.rows) == 3:
            raise KeyboardInterrupt

    assert expected[0]["val_loss"].argmin() < 2
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Recorder, "save", save_and_fall)
        run(spec, run_dir=tmp_path)
    assert same(run(spec, run_dir=tmp_path), expected)


def test_half_written_checkpoint_is_ignored(tmp_path):
    """A kill while writing leaves it under another name, which is never read."""
    (tmp_path / ".0123456789abcdef.part.npz").write_bytes(b"PK\x03\x04 half")
    spec = TrainSpec(epochs=2, **PLAIN)
    assert same(run(spec, run_dir=tmp_path), run(spec))


def test_checkpoint_of_something_else_is_refused(tmp_path):
    run(TrainSpec(epochs=1, **PLAIN), run_dir=tmp_path)
    with pytest.raises(ValueError, match="belongs to another network"):
        run(TrainSpec(epochs=2, **PLAIN), run_dir=tmp_path)


@pytest.mark.parametrize("ema_momentum", [0.0, 0.8])
@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "last"])
def test_best_weights_are_those_of_the_best_epoch(monitor, ema_momentum):
    """The final weights give the validation loss of the best epoch, here neither the first nor the last one."""
    from genre_study.feed import read_chunks

    store, chunks = small_store()
    chunks = chunks.drop(index=chunks.index[-5:])  # the last batch of the validation is not full
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1, depth=3)
    spec = TrainSpec(epochs=8, batch_size=16, learning_rate=0.3, monitor=monitor, ema_momentum=ema_momentum)
    history = train(model, store, chunks, spec, progress=False)
    valid = chunks[chunks["split"] == "valid"]
    predicted = model.predict(read_chunks(store, valid), verbose=0)
    truth = predicted[np.arange(len(valid)), valid["genre"].map({"a": 0, "b": 1, "c": 2})]
    best = {"val_loss": history["val_loss"].idxmin(), "val_accuracy": history["val_accuracy"].idxmax(), "last": 7}
    assert len({0, 7, best["val_loss"]}) == 3 and len({0, 7, best["val_accuracy"]}) == 3
    loss = -np.log(np.clip(truth, 1e-7, 1)).mean()
    np.testing.assert_allclose(loss, history["val_loss"][best[monitor]], rtol=1e-3)


@pytest.mark.parametrize("option", [{"mixup_alpha": 0.4, "time_mask": 30, "band_mask": 12, "label_smoothing": 0.2},
                                    {"ema_momentum": 0.8, "optimizer": "adamw", "weight_decay": 0.1}])
def test_validation_is_measured_on_the_chunks_as_they_are(option):
    """Whatever the training side goes through: loss and accuracy of the last epoch are those of plain predictions."""
    store, chunks = small_store()
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1)
    history = train(model, store, chunks, TrainSpec(epochs=3, monitor="last", **PLAIN, **option), progress=False)
    valid = chunks[chunks["split"] == "valid"]
    found = predict_chunks(model, store, valid)[["a", "b", "c"]].to_numpy()
    truth = np.eye(3)[valid["genre"].map({"a": 0, "b": 1, "c": 2})]
    smoothing = option.get("label_smoothing", 0.0)
    loss = -((truth * (1 - smoothing) + smoothing / 3) * np.log(np.clip(found, 1e-7, 1))).sum(axis=1).mean()
    np.testing.assert_allclose(history["val_loss"].iloc[-1], loss, rtol=2e-3)
    right = (found.argmax(axis=1) == truth.argmax(axis=1)).mean()
    np.testing.assert_allclose(history["val_accuracy"].iloc[-1], right, atol=1e-6)


def test_history_does_not_depend_on_memory_if_all_fits():
    spec = TrainSpec(epochs=2, **PLAIN)
    assert same(run(spec, memory_mb=50), run(spec, memory_mb=5000))


def test_errors_of_wrong_calls():
    store, chunks = small_store()
    model = build_network("quick_cnn", (16, 40, 1), 4, seed=1)
    with pytest.raises(ValueError, match="4 outputs; the chunks have 3 genres"):
        train(model, store, chunks, progress=False)
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1)
    with pytest.raises(ValueError, match="lower learning_rate"):
        model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        train(model, store, chunks, TrainSpec(epochs=1), progress=False)
    with pytest.raises(ValueError, match="distribution must be None or 'data'; received 'model'"):
        train(model, store, chunks, TrainSpec(epochs=1), progress=False, distribution="model")


def test_training_without_validation_keeps_the_last_weights():
    store, chunks = small_store()
    model = build_network("quick_cnn", (16, 40, 1), 3, seed=1)
    history = train(model, store, chunks[chunks["split"] == "train"], TrainSpec(epochs=2, **PLAIN), progress=False)
    assert list(history) == ["epoch", "loss", "accuracy", "seconds"]


EFFECTS = {  # field: the other choices that it needs to have an effect, and another value
    "epochs": ({}, 3), "batch_size": ({}, 8), "seed": ({}, 1), "learning_rate": ({}, 2e-3),
    "loss": ({}, "binary_crossentropy"), "scaling": ({}, "band"), "optimizer": ({"weight_decay": 0.1}, "adamw"),
    "weight_decay": ({"optimizer": "adamw"}, 0.1), "schedule": ({}, "one_cycle"),
    "warmup_share": ({"schedule": "one_cycle"}, 0.6), "label_smoothing": ({}, 0.2), "mixup_alpha": ({}, 0.4),
    "time_mask": ({}, 20), "band_mask": ({}, 8), "ema_momentum": ({}, 0.9),
    "monitor": ({"learning_rate": 0.1, "epochs": 8}, "last"),
}


@cache
def weights_of(**spec):
    """The weights after a training."""
    return run(TrainSpec(**spec))[1]


@pytest.mark.parametrize("name", [one.name for one in fields(TrainSpec)])
def test_every_choice_of_a_training_has_an_effect(name):
    others, value = EFFECTS[name]
    spec = {"epochs": 2, "batch_size": 16} | others
    before, after = weights_of(**spec), weights_of(**spec | {name: value})
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name, axis", [("time_mask", 2), ("band_mask", 1)])
def test_masks_of_time_hide_frames_and_masks_of_bands_hide_bands(name, axis, monkeypatch):
    from genre_study import feed

    seen = set()
    monkeypatch.setattr(feed, "mask", lambda chunks, rng, widest, axis: seen.add((axis, widest)))
    run(TrainSpec(epochs=1, batch_size=16, **{name: 7}))
    assert seen == {(axis, 7)}


@pytest.mark.parametrize("warmup_share", [0.0, 0.3])
def test_one_cycle_rises_and_falls_over_the_whole_training(warmup_share):
    """A straight line to the highest rate, then half a cosine to 0 at the last step of the last epoch."""
    model = build_network("quick_cnn", (16, 40, 1), 3)
    spec = TrainSpec(epochs=5, learning_rate=0.4, schedule="one_cycle", warmup_share=warmup_share)
    compile_model(model, spec, steps_per_epoch=20)
    warmup, found = round(100 * warmup_share), []
    for step in range(101):
        model.optimizer.iterations.assign(step)
        found.append(float(model.optimizer.learning_rate))
    steps = np.arange(warmup, 101)
    np.testing.assert_allclose(found[warmup:], 0.2 * (1 + np.cos(np.pi * (steps - warmup) / (100 - warmup))), atol=1e-6)
    np.testing.assert_allclose(found[:warmup], np.linspace(0.4 / 25, 0.4, warmup + 1)[:-1], atol=1e-6)


def test_masks_before_frozen_layers_are_refused():
    """They would have no effect: the values of the frozen layers are made once, without them."""
    from genre_study.train import train_heads

    model = build_network("study_cnn", (128, 130, 1), 2, seed=0, groups=("timbre",))
    chunks = pd.DataFrame({"track_id": list("abcd"), "genre": ["jazz", "rock"] * 2, "start_frame": 0, "n_frames": 40,
                           "split": "train"})
    values = np.zeros((4, model.get_layer("descriptors").output.shape[-1]), "float32")
    with pytest.raises(ValueError, match="time_mask and band_mask must be 0; received 5 and 0"):
        train_heads(model, values, chunks, TrainSpec(epochs=1, time_mask=5), progress=False)


def test_every_epoch_has_an_order_of_its_own(monkeypatch):
    """The feed is told the epoch, on which order, masks and mixup depend."""
    from backend_probe import small_store

    from genre_study.feed import ChunkFeed

    seen, read = set(), ChunkFeed.__getitem__
    monkeypatch.setattr(ChunkFeed, "__getitem__", lambda feed, number: (seen.add(feed.epoch), read(feed, number))[1])
    store, chunks = small_store()
    train(build_network("quick_cnn", (16, 40, 1), 3, seed=0), store, chunks, TrainSpec(epochs=3), progress=False)
    assert seen >= {0, 1, 2}


@pytest.mark.parametrize("loss, expected", [("categorical_crossentropy", lambda y, p: -(y * np.log(p)).sum(1)),
                                            ("binary_crossentropy",
                                             lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1))])
def test_the_optimizer_and_the_loss_are_those_of_the_choices(loss, expected):
    spec = TrainSpec(optimizer="adamw", weight_decay=0.03, learning_rate=0.002, ema_momentum=0.97, loss=loss,
                     label_smoothing=0.2)
    model = build_network("quick_cnn", (16, 40, 1), 3)
    compile_model(model, spec, steps_per_epoch=5)
    optimizer = model.optimizer
    assert optimizer.use_ema and (optimizer.ema_momentum, optimizer.weight_decay) == (0.97, 0.03)
    assert float(optimizer.learning_rate) == pytest.approx(0.002)
    found, labels = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], "float32"), np.eye(3, dtype="float32")[[0, 1]]
    smooth = labels * 0.8 + (0.2 / 3 if loss.startswith("categorical") else 0.1)
    np.testing.assert_allclose(model.loss(labels, found), expected(smooth, found).mean(), rtol=1e-5)


def test_dropout_starts_from_the_seed_in_each_layer_by_itself():
    import keras

    layers = [keras.layers.Dropout(0.5) for _ in range(3)]
    model = keras.Sequential([keras.Input((400,)), *layers])

    def dropped(seed):
        _reset_seeds(model, seed)
        return [np.asarray(layer(np.ones((1, 400), "float32"), training=True)).tobytes() for layer in layers]

    first = dropped(3)
    assert len(set(first)) == 3 and dropped(3) == first and not set(dropped(4)) & set(first)


@pytest.mark.parametrize("monitor, values, kept", [("val_loss", [0.9, 0.5, 0.5, 0.6], 1), ("last", [0.1, 0.9, 0.9], 2),
                                                   ("val_accuracy", [0.2, 0.6, 0.6, 0.1], 1)])
def test_of_two_epochs_that_are_equally_good_the_first_is_kept(monitor, values, kept):
    epochs = iter(range(4))
    recorder = Recorder(SimpleNamespace(get_weights=lambda: next(epochs)), None, TrainSpec(monitor=monitor), None, "")
    for epoch, value in enumerate(values):
        recorder.begin_epoch(epoch)
        recorder.end_validation()
        recorder.end_epoch(epoch, {"loss": 1.0, "accuracy": 0.5, "val_loss": value, "val_accuracy": value})
    assert recorder.best == kept


def test_the_recipe_is_the_one_whose_accuracy_is_reported(root):
    """README quotes the accuracy of reports/accuracy; a changed recipe needs it measured again."""
    assert json.loads((root / "reports/accuracy/metrics.json").read_text())["recipe"] == RECIPES["study_cnn"]
