"""Every system on the JAX backend: what it says, and the step that it takes, are those of TensorFlow.

One process with `KERAS_BACKEND=jax` answers for all systems (`jax_side.py`): a process has one backend, and a start
takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from jax_side import ODD, flat, layer_answers, system_answers

from keras_cv_lectures.data import shapes_source, to_dataset
from keras_cv_lectures.layers import RoIAlign
from keras_cv_lectures.systems import SYSTEMS

if importlib.util.find_spec("jax") is None:
    pytest.skip('JAX is absent: pip install "keras_cv_lectures[jax]"', allow_module_level=True)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
# How far the change of all weights may be from TensorFlow's, as a share of its length. In a fresh network without skips
# what float32 rounds away grows from layer to layer, and where it decides which pixel is the maximum of a window the
# gradient takes another way: there the loss, which has to agree in any case, says more.
CHANGE, CHANGE_OF = 1e-3, {"fcn8s": 0.01, "fcn16s": 0.01, "fcn32s": 0.02, "segnet": 0.05, "deconvnet": 0.1}
# Where two pixels of a window are equal but for rounding, unpooling puts a number elsewhere on one backend. That moved
# 0.0062 of DeconvNet's logits on a CPU with AVX2 (and SegNet's loss by 3.3e-5), and none on one with AVX-512.
MOVED, LOSS, LOSS_OF = {"deconvnet": 0.01}, 1e-5, {"segnet": 1e-4}


def _numpy(value):
    return keras.tree.map_structure(np.asarray, value)


def _batch(recipe, source, config):
    size = recipe.smoke_options.input_size
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1, keys=[k for k in recipe.keys if k in source[0]])
    classes = recipe.names(source, recipe.smoke_options)[0]
    batches = recipe.make_batches(
        dataset,
        output_size=size,
        base_size=size,
        batch_size=4,
        augmentation=None,
        channels=3,
        drop_remainder=True,
        context=recipe.context(config, recipe.smoke_options, classes),
    )
    inputs, targets = _numpy(next(iter(batches)))
    pictures = np.stack([shapes_source(2, size=ODD, seed=7)[i]["image"] for i in range(2)])
    return {"inputs": inputs, "targets": targets, "pictures": pictures, "classes": len(classes)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{name of a system, or "layers": (what TensorFlow says, what JAX says)}."""
    assert keras.backend.backend() == "tensorflow"
    folder, source, ours = tmp_path_factory.mktemp("jax"), shapes_source(16, size=(48, 64), seed=3), {}
    for name, recipe in SYSTEMS.items():
        config = recipe.fit_config({**recipe.config, **recipe.smoke}, recipe.smoke_options, source)
        batch = _batch(recipe, source, config)
        keras.utils.set_random_seed(0)
        model = recipe.build((None, None, 3), batch["classes"], **config)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", **flat("", batch))
        ours[name] = system_answers(name, model, batch["classes"], batch)
    ours["layers"] = layer_answers()
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("jax_side.py")), str(folder)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            # Each program runs once, and compiling it without optimisation takes half of the time.
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert json.loads(result.stdout.splitlines()[-1])["backend"] == "jax"
    both = {}
    for name, found in ours.items():
        with np.load(folder / f"{name}.answers.npz") as archive:
            both[name] = found, {key: archive[key] for key in archive.files}
        assert set(found) == set(both[name][1])
    return both


@pytest.fixture(params=SYSTEMS)
def system(request):
    return request.param


@pytest.fixture
def answer(system, answers):
    """(what TensorFlow, what JAX says of one system)."""
    return answers[system]


def _part(found, name):
    return {key.removeprefix(f"{name}/"): value for key, value in found.items() if key.split("/")[0] == name}


def _close(other, one, tolerance, name):
    """Equal but for a share of the largest number; whole numbers are equal."""
    assert (other.shape, other.dtype) == (one.shape, one.dtype), name
    allowed = tolerance * np.abs(one).max() if one.dtype.kind == "f" else 0
    np.testing.assert_allclose(other, one, rtol=0, atol=allowed, err_msg=name)


def test_a_picture_gets_the_same_answer(system, answer):
    one, other = (_part(found, "forward") for found in answer)
    if "boxes" in one:
        other = _in_the_order_of(one, other)
    for name, value in one.items():
        if system in MOVED:
            assert np.mean(np.abs(other[name] - value) > 1e-4 * np.abs(value).max()) <= MOVED[system], name
        else:
            _close(other[name], value, 1e-4, name)


def _in_the_order_of(one, other):
    """`other` with its detections where `one` has the same: scores that rounding alone tells apart change places."""
    np.testing.assert_array_equal(other["count"], one["count"])
    assert one["count"].min() > 0
    orders = []
    for picture, count in enumerate(one["count"]):
        away = np.abs(one["boxes"][picture, :, None] - other["boxes"][picture, None]).max(axis=-1)
        away = away + 1e3 * (one["labels"][picture, :, None] != other["labels"][picture, None])
        order = np.arange(len(away))
        order[:count] = away[:count, :count].argmin(axis=1)
        assert sorted(order) == list(range(len(away))), "two detections have one partner"
        orders.append(order)
    rows = np.arange(len(orders))[:, None]
    return {name: value if name == "count" else value[rows, np.stack(orders)] for name, value in other.items()}


def test_a_step_has_the_same_loss_and_metrics(system, answer):
    one, other = (_part(found, "history") for found in answer)
    assert np.isfinite(other["loss"])
    for name, value in one.items():
        # A pixel whose best two classes are equal but for rounding may change a score.
        loss = name.startswith("loss") or name in ("cross_entropy", "doubly_stochastic")
        close = {"rtol": LOSS_OF.get(system, LOSS), "atol": 0} if loss else {"rtol": 0, "atol": 1e-3}
        np.testing.assert_allclose(other[name], value, **close, err_msg=name)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_changes_the_weights_in_the_same_way(name, answers):
    one, other = (_part(found, "change") for found in answers[name])
    for key, value in one.items():
        assert np.isfinite(other[key]).all(), key
        assert value.any() == other[key].any(), key
    one, other = (np.concatenate([found[key].ravel() for key in one]).astype("float64") for found in (one, other))
    assert np.linalg.norm(one) > 0
    assert np.linalg.norm(other - one) < CHANGE_OF.get(name, CHANGE) * np.linalg.norm(one)


def test_layers_and_their_gradients_are_equal(answers):
    one, other = answers["layers"]
    for name, value in one.items():
        # Nothing but copies and comparisons: no rounding.
        exact = name.startswith(("pool", "unpool", "nms")) and not name.endswith("gradient")
        _close(other[name], value, 0 if exact else 1e-5, name)


def test_portions_of_a_long_gather_are_compiled_once(tmp_path):
    """One product in a loop instead of 13, of which each took a second; with the numbers of TensorFlow's."""
    random = np.random.default_rng(0)
    x, corners = random.normal(size=(2, 9, 9, 3)).astype("float32"), random.uniform(0, 8, (2, 5, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 9, corners.shape)], -1).astype("float32")
    np.savez(tmp_path / "given.npz", x=x, boxes=boxes)
    code = f"""
import jax, numpy
from keras_cv_lectures.layers import RoIAlign
from keras_cv_lectures.layers.roi import weighted
weighted._PORTION = 16 * 3 * 7  # 90 bins, 7 at a time.
given = dict(numpy.load({str(tmp_path / "given.npz")!r}))
align = lambda x: RoIAlign(3)([x, given["boxes"]])
print(str(jax.make_jaxpr(align)(given["x"])).count("dot_general["))
y, gradient = jax.jit(lambda x: (align(x), jax.grad(lambda x: (align(x) ** 2).sum() / 2)(x)))(given["x"])
numpy.savez({str(tmp_path / "found.npz")!r}, y=y, gradient=gradient)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "1"
    with tf.GradientTape() as tape:
        watched = tf.constant(x)
        tape.watch(watched)
        y = RoIAlign(3)([watched, boxes])
        total = tf.reduce_sum(y**2) / 2
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["y"], y, atol=1e-6)
    np.testing.assert_allclose(found["gradient"], tape.gradient(total, watched), atol=1e-5)
