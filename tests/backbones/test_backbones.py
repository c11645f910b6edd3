"""Backbones: strides by stage, and ImageNet files into any number of channels (files made here, none downloaded)."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures import backbones
from keras_cv_lectures.backbones import applications
from keras_cv_lectures.backbones.applications import ENTRIES
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import ResizeCornersLike
from keras_cv_lectures.segmentation import build_unet
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel

# The fast tier loads files into the networks that are quick to build, one of each kind of preprocessing.
LOADED = ("vgg16", "mobilenetv2", "efficientnetb0")


def _deepest_last(name):
    """The 101-layer networks are the 50-layer ones with more bottlenecks: minutes for nothing new."""
    return pytest.param(name, marks=pytest.mark.slow) if "101" in name else name


@pytest.fixture(scope="module", params=[_deepest_last(name) for name in backbones.BACKBONES])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def built():
    """What is made of the networks in `LOADED`: once, also for the tests that ask for some of them by name."""
    return {}


@pytest.fixture(scope="module")
def imagenet(name, built, tmp_path_factory):
    """`_published` of a network in `LOADED`; (None, None) for the others."""
    if name not in LOADED:
        return None, None
    if name not in built:
        built[name] = _published(name, tmp_path_factory.mktemp("imagenet"))
    return built[name]


@pytest.fixture(scope="module")
def model(name, imagenet, built):
    if name not in LOADED:
        return backbones.resolve_backbone(name, 3)[0]
    if (name, "model") not in built:
        built[name, "model"] = backbones.resolve_backbone(name, 3, imagenet[1])[0]
    return built[name, "model"]


def _published(name, folder):
    """The network of `keras.applications` with random weights, and the path of its file as Keras publishes it."""
    network = ENTRIES[name].application(include_top=False, weights=None, input_shape=(None, None, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            # As in the published file: mean and variance of ImageNet.
            mean, variance, count = layer.get_weights()
            layer.set_weights(
                [
                    np.reshape([0.485, 0.456, 0.406], mean.shape),
                    np.reshape([0.229, 0.224, 0.225], variance.shape),
                    count,
                ]
            )
            layer.finalize_state()
    path = str(folder / f"{name}_notop.weights.h5")
    network.save_weights(path)
    return network, path


@pytest.fixture(scope="module")
def dilated(model):
    return backbones.dilate(model, 8)


def test_stage_k_has_stride_two_to_the_k(model):
    outputs = model(np.zeros((1, 64, 96, 3), "float32"))
    assert {f"c{k}" for k in range(1, 6)} <= set(outputs)
    for stage, value in outputs.items():
        stride = 2 ** int(stage[1]) if stage != "aux" else 8
        assert value.shape[1:3] == (64 // stride, 96 // stride), stage


def test_odd_sizes_lose_at_most_one_row(model, dilated):
    picture = np.zeros((1, 65, 97, 3), "float32")
    for network, greatest in ((model, 32), (dilated, 8)):
        for stage, value in network(picture).items():
            stride = min(2 ** int(stage[1]), greatest) if stage != "aux" else 8
            for size, got in zip((65, 97), value.shape[1:3], strict=True):
                assert got in (size // stride, -(-size // stride)), stage


def test_dilated_stages_have_stride_eight_and_the_same_weights(model, dilated):
    outputs = dilated(np.zeros((1, 64, 96, 3), "float32"))
    assert {outputs[stage].shape[1:3] for stage in ("c3", "c4", "c5")} == {(8, 12)}
    for old, new in zip(model.get_weights(), dilated.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_imagenet_file_gives_the_network_it_came_from(name, imagenet, model):
    if name not in LOADED:
        pytest.skip("not in the fast tier, or with files of torchvision's")
    _equal(name, imagenet[0], model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in LOADED])
def test_imagenet_file_of_the_larger_networks(name, tmp_path):
    network, path = _published(name, tmp_path)
    _equal(name, network, backbones.resolve_backbone(name, 3, path)[0])


def _equal(name, network, model):
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    border = ENTRIES[name].border
    expected = np.asarray(network(np.pad(x, [(0, 0), (border, border), (border, border), (0, 0)])))
    if name == "efficientnetb0":
        # Keras divides by the deviation once more when it downloads the file itself; the file alone does not.
        rescaled = (x / 255.0 - [0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])
        after = next(x for x in network.layers if isinstance(x, keras.layers.Normalization)).output
        inner = keras.Model(after, network.output)
        expected = np.asarray(inner(rescaled.astype("float32")))
    # Random weights make small numbers of large ones: what agrees to a thousandth of them came the same way.
    np.testing.assert_allclose(model(x)["c5"], expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["efficientnetb0"], indirect=True, scope="module")
def test_efficientnet_normalizes_by_the_file_also_where_it_is_dilated(model):
    x = np.full((1, 2, 3, 3), 51.0, "float32")
    for network in (model, backbones.dilate(model, 16)):
        layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
        wanted = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(layer(x / 255), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["vgg16"], indirect=True, scope="module")
def test_kernels_that_read_blue_first_are_turned_for_pictures_that_are_not(name, imagenet):
    """Red, green, blue and a fourth: no normalization turns those."""
    four, convention = backbones.resolve_backbone(name, 4, imagenet[1])
    assert convention == "caffe"
    file = np.asarray(imagenet[0].get_layer("block1_conv1").kernel)
    expected = file[:, :, [2, 1, 0, 2]] * 3 / 4
    np.testing.assert_allclose(four.get_layer("block1_conv1").kernel, expected, rtol=1e-6)


def test_file_into_a_grey_dilated_network(name, imagenet, model):
    if name != "mobilenetv2":
        pytest.skip("other networks subtract another constant from each channel; a grey picture has only one")
    grey, convention = backbones.resolve_backbone(name, 1, imagenet[1], output_stride=16)
    assert convention == "symmetric"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 1)).astype("float32")
    stages, expected = grey(x), np.asarray(model(np.repeat(x, 3, axis=-1))["c4"])
    np.testing.assert_allclose(stages["c4"], expected, atol=1e-4 * max(1.0, np.abs(expected).max()))
    assert stages["c5"].shape == (1, 4, 4, 1280)


def test_unet_over_every_backbone_keeps_odd_sizes(model):
    unet = build_unet((None, None, 3), 3, backbone=model, decoder_filters=(8, 8, 4, 4, 4))
    assert unet(np.zeros((1, 37, 70, 3), "uint8")).shape == (1, 37, 70, 3)


def test_first_kernel_of_five_channels_by_hand():
    kernel = np.arange(3, dtype="float32").reshape(1, 1, 3, 1)
    np.testing.assert_allclose(adapt_first_kernel(kernel, 1).ravel(), [3])
    np.testing.assert_allclose(adapt_first_kernel(kernel, 5).ravel(), np.array([0, 1, 2, 0, 1]) * 3 / 5)
    np.testing.assert_allclose(adapt_first_kernel(kernel, 5, bgr=True).ravel(), np.array([2, 1, 0, 2, 1]) * 3 / 5)
    np.testing.assert_array_equal(adapt_first_kernel(kernel, 3, bgr=True), kernel)


def test_a_file_that_is_not_there_names_the_repair():
    with pytest.raises(ValueError, match="backbone_weights"):
        backbones.vgg16(weights="nowhere.h5")


def test_a_download_that_fails_names_the_repair(monkeypatch):
    def fails(*_, **__):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: None -- unreachable")  # As Keras does.

    monkeypatch.setattr(applications, "load_imagenet", fails)
    with pytest.raises(ModelError, match=r"mobilenetv2 could not be downloaded: URL fetch failure .* Without network"):
        backbones.mobilenetv2(weights="imagenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet50_v15", 3), "Did you mean 'resnet50_v1_5'"),
        (("Xception", 3), "Did you mean 'xception'"),
        (("vgg16", 3, None, 4), "`output_stride` must be one of"),
        ((keras.Sequential(), 3, "file.h5"), "`backbone_weights` goes with"),
        ((keras.Sequential(), 3, None, 16), "backbones.dilate"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        backbones.resolve_backbone(*arguments)


def test_a_backbone_of_ones_own_honours_the_contract():
    image = keras.Input((None, None, 3))
    stages, x = {}, image
    for k in range(1, 6):
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
        stages[f"c{k}"] = x
    model = build_unet((None, None, 3), 2, backbone=keras.Model(image, stages, name="mine"))
    assert model(np.zeros((1, 40, 50, 3))).shape == (1, 40, 50, 2)
    with pytest.raises(ValueError, match="'c5'"):
        build_unet((None, None, 3), 2, backbone=keras.Model(image, {f"c{k}": stages[f"c{k}"] for k in range(1, 5)}))


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnetb0"], indirect=True, scope="module")
def test_odd_sizes_are_padded_as_in_a_network_of_that_size(name, model):
    known = ENTRIES[name].application(include_top=False, weights=None, input_shape=(65, 97, 3))
    known.set_weights(model.get_weights())
    for layer in known.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    x = np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype("float32")
    expected = np.asarray(known(x))
    assert expected.shape[1:3] == (3, 4)
    np.testing.assert_allclose(model(x)["c5"], expected, atol=1e-3 * np.abs(expected).max())


def test_cells_of_odd_pictures_lie_on_the_first_and_the_last_pixel():
    """Three strides over a ramp, padded as MobileNetV2 pads: cells at 0, 8, 16, 24, 32, which a resizing puts back."""
    image = x = keras.Input((None, None, 1))
    for _ in range(3):
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        x = keras.layers.DepthwiseConv2D(3, 2, use_bias=False, depthwise_initializer="ones")(x)
    network = applications._rewritten(keras.Model(image, x))
    ramp = np.broadcast_to(np.arange(33, dtype="float32")[:, None, None], (1, 33, 33, 1))
    got = np.asarray(network(ramp))
    np.testing.assert_allclose(got[0, 1:4, 2, 0] / 9**3, [8, 16, 24])
    enlarged = np.asarray(ResizeCornersLike()([got / 9**3, ramp]))
    np.testing.assert_allclose(enlarged[0, 8:25, 16, 0], ramp[0, 8:25, 16, 0], rtol=1e-5)
