"""Golden values: a new NumPy, SciPy, soxr, pandas, Keras or JAX that changes a result is noticed."""
import numpy as np
import pytest
from remake_golden import MAKERS, advice, load

TOLERANCE_DB = 0.01
RANGE_DB = 70  # compared down to this far below the maximum; further down the order of float32 sums may show
# Probabilities and losses. Rounding differs between processors, and training amplifies it: weights that begin 1e-5
# apart end 0.0015 apart here. Another seed or another rule moves them by far more.
TOLERANCES = {"untrained": 1e-5, "trained": 0.01, "loss": 5e-3, "val_loss": 5e-3}


def test_frames_and_chunk_tables():
    golden, now = load("features")[0], MAKERS["features"]()
    assert golden.keys() == now.keys()
    for name, expected in golden.items():
        if name.startswith("chunks"):
            assert now[name] == expected, f"{name}. {advice('features')}"
        else:
            assert np.shape(now[name]) == np.shape(expected), f"{name}. {advice('features')}"
            loud = np.array(expected) > np.max(expected) - RANGE_DB
            difference = np.abs(np.subtract(now[name], expected))[loud].max()
            assert difference < TOLERANCE_DB, f"{name} changed by {difference:.3f} dB. {advice('features')}"


def test_split_assignments_of_gtzan():
    golden, now = load("splits")[0], MAKERS["splits"]()
    assert golden.keys() == now.keys()
    for name, expected in golden.items():
        moved = sum(one != other for one, other in zip(expected, now[name], strict=True))
        assert not moved, f"split {name}: {moved} of {len(expected)} tracks changed sides. {advice('splits')}"


def test_predictions_of_a_small_network():
    golden, now = load("network")[0], MAKERS["network"]()
    for name, expected in golden.items():
        difference = np.abs(np.subtract(now[name], expected)).max()
        assert difference < TOLERANCES[name], f"{name} changed by {difference:.2g}. {advice('network')}"
    moved = np.abs(np.subtract(golden["trained"], golden["untrained"])).max()
    assert moved > 0.05, "training must change what is compared"


def test_layers_of_every_network():
    golden, now = load("layers")[0], MAKERS["layers"]()
    assert golden.keys() == now.keys()
    for name, expected in golden.items():
        differ = [pair for pair in zip(now[name], expected, strict=True) if pair[0] != pair[1]]
        assert not differ, f"{name}: {differ[0][0]!r} instead of {differ[0][1]!r}. {advice('layers')}"


def test_values_of_every_group_of_descriptors():
    golden, now = load("descriptors")[0], MAKERS["descriptors"]()
    assert golden.keys() == now.keys()
    for name, expected in golden.items():
        difference = np.abs(np.subtract(now[name], expected)) / np.array(expected)[:, 1:2]  # in spreads of the group
        assert difference.max() < 2e-3, f"{name} changed by {difference.max():.2g} spreads. {advice('descriptors')}"


@pytest.mark.parametrize("name", MAKERS)
def test_advice_names_the_command(name):
    assert "python tests/remake_golden.py" in advice(name)
