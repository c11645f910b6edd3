"""State dicts of torch into models with the same module paths: every layout, and nothing lost or made up."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import SyncBatchNormalization
from keras_cv_lectures.weights import load_weights
from keras_cv_lectures.weights.torchvision import VGG16_NAMES, load_torch, to_torch_state

DATA = Path(__file__).parent / "data"
L = keras.layers


def network(channels=3, classes=2, auxiliary=False):
    """A backbone with two stages' worth of layer types, and heads with torchvision's names."""
    image = keras.Input((8, 8, channels))
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="conv1")(image)
    x = SyncBatchNormalization(name="bn1")(x)
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="layer1.0.conv1")(x)
    backbone = keras.Model(image, x, name="backbone")
    image = keras.Input((8, 8, channels), name="image")
    features = backbone(image)
    outputs = L.Conv2D(classes, 1, name="classifier.4")(L.Dropout(0.1, name="classifier.3")(features))
    if auxiliary:
        outputs = [outputs, L.Conv2D(classes, 1, name="aux_classifier.4")(features)]
    return keras.Model(image, outputs, name="net")


def state_of_network(seed=0, classes=2):
    generator = np.random.default_rng(seed)
    shapes = {
        "backbone.conv1.weight": (4, 3, 3, 3),
        "backbone.bn1.weight": (4,),
        "backbone.bn1.bias": (4,),
        "backbone.bn1.running_mean": (4,),
        "backbone.bn1.running_var": (4,),
        "backbone.layer1.0.conv1.weight": (4, 1, 3, 3),
        "classifier.4.weight": (classes, 4, 1, 1),
        "classifier.4.bias": (classes,),
        "aux_classifier.4.weight": (classes, 4, 1, 1),
        "aux_classifier.4.bias": (classes,),
    }
    state = {key: generator.normal(size=shape).astype("f4") for key, shape in shapes.items()}
    return {**state, "backbone.bn1.num_batches_tracked": np.array(5)}


def weights_of(model):
    return {f"{v.path}": keras.ops.convert_to_numpy(v).copy() for v in model.variables}


def test_every_tensor_arrives_in_its_layout():
    model, state = network(auxiliary=True), state_of_network()
    load_torch(model, state)
    backbone = model.get_layer("backbone")
    kernel = np.asarray(backbone.get_layer("conv1").kernel)
    assert kernel[2, 0, 1, 3] == state["backbone.conv1.weight"][3, 1, 2, 0]
    np.testing.assert_array_equal(kernel, state["backbone.conv1.weight"].transpose(2, 3, 1, 0))
    depthwise = np.asarray(backbone.get_layer("layer1.0.conv1").kernel)
    assert depthwise[2, 1, 3, 0] == state["backbone.layer1.0.conv1.weight"][3, 0, 2, 1]
    norm = backbone.get_layer("bn1")
    for name, key in {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }.items():
        np.testing.assert_array_equal(getattr(norm, name), state[f"backbone.bn1.{key}"])
    np.testing.assert_array_equal(model.get_layer("aux_classifier.4").bias, state["aux_classifier.4.bias"])
    back = to_torch_state(model)
    assert list(back) == [key for key in state if "num_batches" not in key]
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key], err_msg=key)


def test_transposed_dense_and_multiplied_depthwise_layers():
    image = keras.Input((4, 4, 3))
    x = L.Conv2DTranspose(5, 2, strides=2, name="up")(image)
    x = L.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")(x)
    x = L.Dense(3, name="fc1")(x)
    x = L.Dense(2, name="fc2")(x)
    model = keras.Model(image, L.GroupNormalization(1, name="norm")(x))
    generator = np.random.default_rng(0)
    shapes = {
        "up.weight": (3, 5, 2, 2),
        "up.bias": (5,),
        "depthwise.weight": (10, 1, 1, 1),
        "depthwise.bias": (10,),
        "fc1.weight": (3, 10),
        "fc1.bias": (3,),
        "fc2.weight": (2, 3, 1, 1),
        "fc2.bias": (2,),
        "norm.weight": (2,),
        "norm.bias": (2,),
    }
    state = {key: generator.normal(size=shape).astype("f4") for key, shape in shapes.items()}
    load_torch(model, state)
    assert np.asarray(model.get_layer("up").kernel)[1, 0, 4, 2] == state["up.weight"][2, 4, 1, 0]
    # Torch's channel 2 c + m is multiplier m of channel c.
    assert np.asarray(model.get_layer("depthwise").kernel)[0, 0, 3, 1] == state["depthwise.weight"][7, 0, 0, 0]
    np.testing.assert_array_equal(model.get_layer("fc1").kernel, state["fc1.weight"].T)
    np.testing.assert_array_equal(model.get_layer("fc2").kernel, state["fc2.weight"][:, :, 0, 0].T)
    back = to_torch_state(model)
    np.testing.assert_array_equal(back["depthwise.weight"], state["depthwise.weight"])
    np.testing.assert_array_equal(back["up.weight"], state["up.weight"])
    np.testing.assert_array_equal(back["fc1.weight"], state["fc1.weight"])


def test_linear_layers_become_convolutions_under_their_names_in_caffe():
    image = keras.Input((3, 2, 4))
    x = L.Conv2D(4, 1, name="conv1_1")(image)
    x = L.Conv2D(5, (3, 2), name="fc6")(x)
    model = keras.Model(image, L.Conv2D(7, 1, name="score_fr")(x))
    generator = np.random.default_rng(0)
    state = {
        "features.0.weight": generator.normal(size=(4, 4, 1, 1)),
        "features.0.bias": generator.normal(size=4),
        "classifier.0.weight": generator.normal(size=(5, 24)),
        "classifier.0.bias": generator.normal(size=5),
        "classifier.6.bias": np.zeros(1000),
    }
    load_torch(model, state, names=VGG16_NAMES, new=["score_*"], ignore=["classifier.6."])
    picture = generator.normal(size=(3, 2, 4))
    after = picture @ state["features.0.weight"][:, :, 0, 0].T + state["features.0.bias"]
    # Torch flattens channels first.
    wanted = state["classifier.0.weight"] @ after.transpose(2, 0, 1).ravel() + state["classifier.0.bias"]
    fc6 = keras.Model(image, model.get_layer("fc6").output)
    np.testing.assert_allclose(fc6(picture[None].astype("f4"))[0, 0, 0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
def test_first_kernel_for_other_channel_counts(channels):
    model, state = network(channels), state_of_network()
    load_torch(model, state)
    kernel = np.asarray(model.get_layer("backbone").get_layer("conv1").kernel)
    grey = np.ones((3, 3, channels), "f4")
    # A grey picture has the response of its colour copy where the channels are one, or repeat evenly.
    rgb = state["backbone.conv1.weight"]
    if channels == 1:
        np.testing.assert_allclose(np.einsum("hwc,hwco->o", grey, kernel), rgb.sum((1, 2, 3)), rtol=1e-5)
    else:
        np.testing.assert_allclose(kernel[:, :, 4], rgb.transpose(2, 3, 1, 0)[:, :, 1] * 3 / 5, rtol=1e-6)


def test_a_head_of_other_classes_keeps_its_values_and_says_so():
    model = network(classes=7)
    before = keras.ops.convert_to_numpy(model.get_layer("classifier.4").kernel).copy()
    with pytest.warns(UserWarning, match=r"other shapes for \['classifier\.4'\]"):
        load_torch(model, state_of_network(classes=21))
    np.testing.assert_array_equal(model.get_layer("classifier.4").kernel, before)
    np.testing.assert_array_equal(model.get_layer("classifier.4").bias, np.zeros(7))
    state = state_of_network()
    np.testing.assert_array_equal(model.get_layer("backbone").get_layer("bn1").gamma, state["backbone.bn1.weight"])


def _without(*keys):
    return {key: value for key, value in state_of_network().items() if key not in keys}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_without("classifier.4.bias"), r"classifier\.4/bias finds no classifier\.4\.bias"),
        (_without("backbone.bn1.running_var"), r"finds no backbone\.bn1\.running_var"),
        ({**state_of_network(), "backbone.layer2.0.weight": np.zeros(1)}, r"backbone\.layer2\.0\.weight has no layer"),
        ({**state_of_network(), "backbone.conv1.bias": np.zeros(4)}, r"backbone\.conv1\.bias has no layer"),
        (
            {**state_of_network(), "backbone.conv1.weight": np.zeros((4, 3, 5, 5))},
            r"conv1/kernel has shape \(3, 3, 3, 4\)",
        ),
        ({**state_of_network(), "backbone.conv1.weight": np.zeros(108)}, r"has \(108,\) in torch's layout"),
        ({**state_of_network(), "backbone.layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))}, r"layer1\.0\.conv1/kernel"),
        ({**state_of_network(), "classifier.4.weight": np.zeros((2, 9, 1, 1))}, r"classifier\.4/kernel has shape"),
        ({"epoch": np.zeros(1)}, r"0 of 8 variables found"),
        ({}, r"0 of 8 variables found"),
    ],
)
def test_what_does_not_fit_changes_nothing(state, message):
    model = network()
    before = weights_of(model)
    with pytest.raises(ModelError, match=message):
        load_torch(model, state)
    for path, array in weights_of(model).items():
        np.testing.assert_array_equal(array, before[path])


def test_an_auxiliary_head_that_the_file_lacks():
    state = _without("aux_classifier.4.weight", "aux_classifier.4.bias")
    with pytest.raises(ModelError, match="aux_classifier"):
        load_torch(network(auxiliary=True), state)
    load_torch(network(auxiliary=True), state, new=["aux_classifier.*"])


@pytest.mark.parametrize("prefix", ["", "features.", "backbone.", "module.backbone."])
def test_the_backbone_alone_from_files_of_every_kind(prefix):
    backbone = network().get_layer("backbone")
    state = {key.replace("backbone.", prefix): value for key, value in state_of_network().items() if "backbone" in key}
    if prefix == "":
        state["fc.weight"] = np.zeros((1000, 4))
    elif prefix == "features.":
        state["classifier.0.weight"] = np.zeros((1000, 4))
    load_torch(backbone, state)
    np.testing.assert_array_equal(backbone.get_layer("bn1").gamma, state_of_network()["backbone.bn1.weight"])


def test_other_layers_are_named():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, L.SeparableConv2D(2, 3, name="odd")(image), name="net")
    for call in (lambda: load_torch(model, {}), lambda: to_torch_state(model)):
        with pytest.raises(ModelError, match="'odd' of model 'net' is a SeparableConv2D"):
            call()


def test_files_of_torch_and_safetensors_through_load_weights(tmp_path):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, SyncBatchNormalization(name="1")(L.Conv2D(2, 1, name="0")(image)))
    load_weights(model, DATA / "parallel.pth")
    np.testing.assert_array_equal(model.get_layer("0").kernel[0, 0], [[0, 3], [1, 4], [2, 5]])
    values = [model.get_layer("0").bias, *model.get_layer("1").weights]
    np.testing.assert_array_equal(values, [[10 * i, 10 * i + 1] for i in range(1, 6)])

    state = {key: array + 0.5 for key, array in to_torch_state(model).items()}
    header, data = {}, b""
    for key, array in state.items():
        end = len(data) + array.nbytes
        header[key] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    load_weights(model, path)
    np.testing.assert_array_equal(model.get_layer("0").bias, [10.5, 11.5])
    with pytest.raises(ModelError, match=r"net\.safetensors does not fit the model 'net'"):
        load_weights(network(), path)


@pytest.mark.parametrize("suffix", [".h5", ".onnx", ""])
def test_files_of_other_kinds(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"`\.pth`, `\.pt`, `\.safetensors` or `\.caffemodel`"):
        load_weights(network(), path)
