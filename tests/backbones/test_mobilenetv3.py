"""MobileNetV3-Large: the published parameter count, torchvision's names, taps and rates."""

from __future__ import annotations

import json
import struct

import keras
import numpy as np
import pytest

from keras_cv_lectures import backbones
from keras_cv_lectures.backbones.torch_shape import load_published
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights.torchvision import to_torch_state


@pytest.fixture(scope="module")
def large():
    return backbones.mobilenetv3_large(output_stride=16)


def test_published_number_of_parameters(large):
    features = sum(int(np.prod(weight.shape)) for weight in large.trainable_weights)
    classifier = 961 * 1280 + 1281 * 1000
    assert features + classifier == 5_483_032
    # With the heads of torchvision's DeepLab v3, 21 classes: five branches, their projection, 3x3, scores; auxiliary.
    norm = 2 * 256
    pyramid = 2 * (960 * 256 + norm) + 3 * (9 * 960 * 256 + norm) + (5 * 256 * 256 + norm)
    head = pyramid + (9 * 256 * 256 + norm) + 257 * 21
    auxiliary = 9 * 40 * 10 + 2 * 10 + 11 * 21
    assert features + head + auxiliary == 11_029_328


def test_names_are_torchvisions_modules(large):
    state = to_torch_state(large, prefix="backbone.")
    shapes = {key: value.shape for key, value in state.items()}
    assert shapes["backbone.0.0.weight"] == (16, 3, 3, 3)
    assert shapes["backbone.1.block.0.0.weight"] == (16, 1, 3, 3)  # No expansion in the first block.
    assert shapes["backbone.4.block.2.fc1.weight"] == (24, 72, 1, 1)
    assert shapes["backbone.4.block.2.fc2.bias"] == (72,)
    assert shapes["backbone.15.block.3.0.weight"] == (160, 960, 1, 1)
    assert shapes["backbone.16.1.running_var"] == (960,)


def test_the_depthwise_that_lost_its_stride_takes_the_new_rate(large):
    rates = {x.name: x.dilation_rate[0] for x in large.layers if isinstance(x, keras.layers.DepthwiseConv2D)}
    assert [rates[f"{n}.block.1.0"] for n in (2, 7, 12, 13, 14, 15)] == [1, 1, 1, 2, 2, 2]
    assert {x.strides for x in large.layers if x.name == "13.block.1.0"} == {(1, 1)}


def test_taps_have_the_channels_of_table_1(large):
    channels = {stage: value.shape[-1] for stage, value in large.output.items()}
    assert channels == {"c1": 16, "c2": 24, "aux": 40, "c3": 40, "c4": 112, "c5_early": 160, "c5": 960}


@pytest.mark.parametrize("prefix", ["features.", "backbone."], ids=["classifier", "segmentation network"])
def test_a_published_file_finds_its_layers(large, prefix, tmp_path):
    state = {key: value + 1 for key, value in to_torch_state(large, prefix=prefix).items()}
    np.savez(tmp_path / "not_torch.npz", **state)
    with pytest.raises(ModelError, match="`backbone_weights` of mobilenet_v3_large"):
        load_published(large, "mobilenet_v3_large", str(tmp_path / "not_torch.npz"))
    path = tmp_path / "published.safetensors"
    path.write_bytes(_safetensors({**state, "classifier.0.bias": np.zeros(3, "float32")}))
    load_published(large, "mobilenet_v3_large", str(path))
    for key, value in to_torch_state(large, prefix=prefix).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def _safetensors(state: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for key, value in state.items():
        start, data = len(data), data + np.ascontiguousarray(value).tobytes()
        header[key] = {"dtype": "F32", "shape": value.shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_squeeze_and_excitation_by_hand(large):
    model, name = large, "4.block.2"
    fc1, fc2 = model.get_layer(f"{name}.fc1"), model.get_layer(f"{name}.fc2")
    fc1.set_weights([np.zeros(fc1.kernel.shape), np.ones(fc1.bias.shape)])
    # relu(1) times 2 / n from the squeezed channels, together 2, minus 2: 0; the gate is hard_sigmoid(0) = 1/2.
    fc2.set_weights([np.full(fc2.kernel.shape, 2 / fc2.kernel.shape[2]), np.full(fc2.bias.shape, -2.0)])
    before, after = model.get_layer(f"{name}.scale").input[0], model.get_layer(f"{name}.scale").output
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    before, after = keras.Model(model.input, [before, after])(x)
    np.testing.assert_allclose(after, np.asarray(before) / 2, rtol=1e-6)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="output_stride"):
        backbones.mobilenetv3_large(output_stride=4)
    with pytest.raises(ValueError, match="width"):
        backbones.mobilenetv3_large(width=0)
