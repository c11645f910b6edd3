"""DeepLab v3 and the decoder of v3+ beside recorded PyTorch networks: logits, gradients, training steps."""

from __future__ import annotations

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.segmentation import build_deeplab, deeplab_v3plus_decoder
from keras_cv_lectures.weights.torchvision import load_torch


def _last_channels(array):
    return array.transpose(0, 2, 3, 1)


def _recorded_v3(arrays, cfg):
    """The network of the recording: sizes from its weights, rates and stride from its description."""
    params = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    units = [
        len([k for k in params if re.fullmatch(rf"backbone\.layer{s}\.\d+\.conv1\.weight", k)]) for s in (1, 2, 3, 4)
    ]
    planes = [len(params[f"backbone.layer{stage}.0.conv1.weight"]) for stage in (1, 2, 3, 4)]
    backbone = resnet_v1_5(
        units,
        planes,
        stem=len(params["backbone.conv1.weight"]),
        output_stride=int(re.search(r"stride (\d+)", cfg["resnet"])[1]),
    )
    model = build_deeplab(
        (*arrays["in/x"].shape[2:], 3),
        len(params["classifier.4.weight"]),
        version="v3",
        backbone=backbone,
        rates=[int(rate) for rate in re.search(r"\((\d+(?:,\d+)*)\)", cfg["head"])[1].split(",")],
        aspp_filters=len(params["classifier.1.weight"]),
        dropout=0.0,
        auxiliary=True,
        include_preprocessing=False,
    )
    load_torch(model, params, prefix="")
    return model


@pytest.mark.golden
def test_v3_equals_the_recorded_torchvision_network(golden):
    arrays, cfg = golden("model_deeplabv3_narrow")
    model = _recorded_v3(arrays, cfg)
    got = model(_last_channels(arrays["in/x"]))
    for name, key in (("logits", "out/out"), ("auxiliary", "out/aux")):
        expected = _last_channels(arrays[key])
        assert np.abs(np.asarray(got[name]) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.golden
def test_v3_takes_the_training_steps_of_the_recorded_network(golden):
    arrays, cfg = golden("model_deeplabv3_narrow")
    model = _recorded_v3(arrays, cfg)
    rate, momentum, decay, auxiliary = (
        float(re.search(pattern, cfg["train"])[1])
        for pattern in (r"lr ([\d.e-]+)", r"momentum ([\d.e-]+)", r"wd ([\d.e-]+)", r"out \+ ([\d.e-]+)\*aux")
    )
    ignored = int(re.search(r"ignore (\d+)", cfg["train"])[1])
    x, target = tf.constant(_last_channels(arrays["in/x"])), arrays["in/target"]
    labelled = tf.constant(target != ignored)
    labels = tf.constant(np.where(target == ignored, 0, target))

    def cross_entropy(logits):
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(tf.boolean_mask(values, labelled))

    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = cross_entropy(outputs["logits"]) + auxiliary * cross_entropy(outputs["auxiliary"])
        return loss, outputs["logits"], tape.gradient(loss, variables)

    def train(x):
        """Losses, logits and gradients of the first step, and weights by torch's names after the last."""
        velocities, steps = [np.zeros(v.shape, "float32") for v in variables], []
        for _ in arrays["train/losses"]:
            steps.append(step(x))
            for k, (variable, gradient) in enumerate(zip(variables, steps[-1][2], strict=True)):
                velocities[k] = momentum * velocities[k] + gradient + decay * variable
                variable.assign_sub(rate * velocities[k])
        after = {name: v.numpy() for name, v in _by_torch_name(model).items()}
        return np.array([s[0] for s in steps]), *steps[0][1:], after

    before = model.get_weights()
    start = {name: v.numpy() for name, v in _by_torch_name(model).items()}
    # The pyramid normalises the means of two pictures over two numbers, which multiplies rounding by hundreds. Pictures
    # changed in its seventh digit shows how far apart two correct trainings end, float64 included.
    noise = np.random.default_rng(0).uniform(-2e-7, 2e-7, x.shape)
    loose_losses, *_, loose = train(x * tf.constant(1 + noise, "float32"))
    model.set_weights(before)
    losses, logits, gradients, after = train(x)

    expected = arrays["train/losses"]
    assert (np.abs(losses - expected) <= 1e-5 * expected + 3 * np.abs(losses - loose_losses)).all()
    recorded = _last_channels(arrays["out/train_out"])
    assert np.abs(logits - recorded).max() <= 1e-4 * np.abs(recorded).max()
    _compare_gradients(model, gradients, arrays)
    for name in [key.removeprefix("after/") for key in arrays if key.startswith("after/")]:
        got, expected, spread = after[name], arrays[f"after/{name}"], np.abs(after[name] - loose[name]).max()
        if name.endswith("running_var"):
            # Torch adds the unbiased variance of each step to the moving one, we the biased.
            layer = model.get_layer("backbone").get_layer(name.split(".")[1])
            count = arrays["in/x"].shape[0] * math.prod(-(-side // 2) for side in arrays["in/x"].shape[2:])
            kept = layer.momentum ** len(losses) * start[name]
            got = kept + (got - kept) * count / (count - 1)
        got = got.transpose(3, 2, 0, 1) if got.ndim == 4 else got
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 3 * spread, err_msg=name)


def _by_torch_name(model):
    names = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for layer in model.layers:
        inner = (
            [(f"backbone.{x.name}", x) for x in layer.layers]
            if isinstance(layer, keras.Model)
            else [(layer.name, layer)]
        )
        found |= {f"{path}.{names[v.name]}": v for path, x in inner for v in x.weights}
    return found


def _compare_gradients(model, gradients, arrays):
    by_variable = {id(v): g for v, g in zip(model.trainable_variables, gradients, strict=True)}
    compared = 0
    for name, variable in _by_torch_name(model).items():
        if f"grad/{name}" in arrays:
            got, expected = np.asarray(by_variable[id(variable)]), arrays[f"grad/{name}"]
            got = got.transpose(3, 2, 0, 1) if got.ndim == 4 else got
            assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max(), name
            compared += 1
    assert compared == len([key for key in arrays if key.startswith("grad/")])


@pytest.mark.golden
def test_v3plus_decoder_equals_the_recorded_smp_decoder(golden):
    arrays, cfg = golden("model_smp_deeplabv3plus_decoder")
    features = {f"c{k}": _last_channels(arrays[f"in/f{k}"]) for k in range(1, 6)}
    inputs = {name: keras.Input(value.shape[1:], name=name) for name, value in features.items()}
    output = deeplab_v3plus_decoder(
        inputs,
        cfg["out_channels"],
        rates=cfg["atrous_rates"],
        low_level_filters=len(arrays["param/block1.0.weight"]),
        separable=cfg["aspp_separable"],
        variant="smp",
        name="",
    )
    decoder = keras.Model(inputs, output)
    load_torch(decoder, {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}, prefix="")
    expected = _last_channels(arrays["out/y"])
    got = np.asarray(decoder(features))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
