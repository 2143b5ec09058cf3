"""What all tests share: where real GTZAN data may lie, and settings that keep two cores from fighting."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("KERAS_BACKEND", "jax")  # whatever ~/.keras/keras.json says; test_import asks without it


def pytest_configure(config):
    config.addinivalue_line("markers", "torture: long tests of faults and hostile input (make torture)")


def pytest_collection_modifyitems(config, items):
    """Leave the long tests out unless they are asked for with -m torture."""
    if config.getoption("-m"):
        return
    long_ones = [item for item in items if item.get_closest_marker("torture")]
    if long_ones:
        config.hook.pytest_deselected(items=long_ones)
        items[:] = [item for item in items if item not in long_ones]


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def gtzan():
    """The folder of real GTZAN data, where there is one beside the repository."""
    folder = ROOT.parent / "shared" / "gtzan"
    if not folder.is_dir():
        pytest.skip("real GTZAN data is not here (../shared/gtzan)")
    return folder
