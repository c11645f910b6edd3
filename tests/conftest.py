"""Fixtures for every test: no network, quiet logs, and the folders of golden files and real pictures."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# As the package sets it where it is imported before TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each of the processes that share the cores, or they wait for each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def _shared(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable, ROOT.parent / "shared" / name))


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """A test that opens a connection beyond this machine is a bug."""
    connect = socket.socket.connect

    def guarded(self, address):
        local = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise RuntimeError(f"a test tried to reach the network: {address}")
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def golden():
    """Reader of golden files: `golden("op_losses")` gives `(arrays by key, cfg)`; skips where the file is absent."""

    def read(name: str) -> tuple[dict[str, np.ndarray], dict]:
        path = _shared("KCVL_GOLDEN", "golden") / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"golden file {path.name} is absent; set KCVL_GOLDEN to the folder that holds it")
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        return arrays, json.loads(str(arrays.pop("cfg")))

    return read


@pytest.fixture(scope="session")
def realdata():
    """Folder of a real data set: `realdata("camvid")`; skips where it is absent."""

    def find(name: str) -> Path:
        path = _shared("KCVL_DATA", "data") / name
        if not path.exists():
            pytest.skip(f"data set {name} is absent; set KCVL_DATA to the folder that holds it")
        return path

    return find


@pytest.fixture(scope="session")
def replicas():
    """The one MirroredStrategy of the session, over two logical CPUs."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def unfilled():
    """`unfilled(builder, ...)`: the graph with its shapes, without the time and memory that filling variables takes."""
    import keras
    from keras.src.backend.common import global_state

    def build(builder, *args, **config):
        with keras.StatelessScope(initialize_variables=False):
            model = builder(*args, **config)
        # Keras would fill them when the next such scope closes: a minute and gigabytes, in whatever test that is.
        global_state.set_global_attribute("uninitialized_variables", [])
        return model

    return build


@pytest.fixture(scope="session")
def float64_policy():
    """Policy of layers that compute in float64 with variables in float32.

    A fresh deep network multiplies what float32 rounds away by ten with every few layers, and one ReLU, pooling or
    proposal that is chosen otherwise changes the gradient of a small batch visibly; and how float32 rounds depends on
    the processor.
    """
    import keras

    class Wide(keras.DTypePolicy):
        def __init__(self, name="wide"):
            super().__init__("float32")
            self._compute_dtype = "float64"

    return Wide()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own.
def pytest_collection_modifyitems(items):
    """With `--dist loadgroup` one process runs all of a file, or, in the contract suite, all of one system.

    Long tests have a group of their own, or one that they name together, and go first, and then the groups with most
    tests, so that no process waits for another one at the end. (Left to itself xdist has single tests last:
    --no-loadscope-reorder.)
    """
    unread = {item.path for item in items if item.get_closest_marker("slow") and not _names_slow(item.path)}
    if unread:
        raise pytest.UsageError(f"the slow tiers would not read {unread}: write mark.slow into these files")
    groups = {}
    for item in items:
        system = item.callspec.params.get("recipe") if hasattr(item, "callspec") else None
        long = item.get_closest_marker("long")
        whole = str(item.path) if long is None else long.args[0] if long.args else item.nodeid
        groups[item] = system if isinstance(system, str) else whole
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    # The tiers run apart.
    parts = {item: (groups[item], item.get_closest_marker("slow") is None) for item in items}
    sizes = Counter(parts.values())
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, -sizes[parts[item]]))


def pytest_collection_finish():
    """Collecting garbage took a tenth of the time: a process that has TensorFlow holds many objects for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_ignore_collect(collection_path, config):
    """Without reading the files that have no slow test, each process of the slow tiers starts 12 s earlier."""
    slow = config.option.markexpr.startswith("slow") and collection_path.name.startswith("test_")
    return True if slow and not _names_slow(collection_path) else None


def _names_slow(path):
    return "mark.slow" in path.read_text(encoding="utf-8")


def pytest_configure(config):
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return  # This process starts the ones that test, and would keep them waiting.
    import tensorflow as tf

    if config.option.markexpr in ("slow", "slow and not replicas"):
        return  # The slow tier runs what a user runs, on the devices a user has.
    # Two logical CPUs must exist before TensorFlow starts, for the tests of tf.distribute.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
