"""Backbones: strides by stage, and ImageNet files into any number of channels (files made here, none downloaded)."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures import backbones
from keras_cv_lectures.segmentation import build_unet
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel


@pytest.fixture(scope="module", params=backbones.BACKBONES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def imagenet_file(name, tmp_path_factory):
    """A file as Keras publishes it, with random weights: `(path, the network it came from)`."""
    application = {
        "vgg16": keras.applications.VGG16,
        "resnet50": keras.applications.ResNet50,
        "mobilenetv2": keras.applications.MobileNetV2,
        "efficientnetb0": keras.applications.EfficientNetB0,
    }[name]
    network = application(include_top=False, weights=None, input_shape=(None, None, 3))
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
    path = tmp_path_factory.mktemp("imagenet") / f"{name}_notop.weights.h5"
    network.save_weights(path)
    return path, network


def test_stage_k_has_stride_two_to_the_k(name):
    model = getattr(backbones, name)()
    outputs = model(np.zeros((1, 64, 96, 3), "float32"))
    for stage, value in outputs.items():
        stride = 2 ** int(stage[1])
        assert value.shape[1:3] == (64 // stride, 96 // stride), stage
    assert {f"c{k}" for k in range(1, 6)} <= set(outputs)


def test_imagenet_file_gives_the_network_it_came_from(name, imagenet_file):
    path, network = imagenet_file
    model = getattr(backbones, name)(weights=str(path))
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    expected = np.asarray(network(x))
    got = np.asarray(model(x)["c5"])
    if name == "efficientnetb0":
        # Keras divides by the deviation once more when it downloads the file itself; the file alone does not.
        rescaled = (x / 255.0 - [0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])
        after = next(x for x in network.layers if isinstance(x, keras.layers.Normalization)).output
        inner = keras.Model(after, network.output)
        expected = np.asarray(inner(rescaled.astype("float32")))
    np.testing.assert_allclose(got, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_grey_pictures_give_what_their_colour_copies_give(name, imagenet_file):
    if name in ("efficientnetb0", "vgg16", "resnet50"):
        # These subtract another constant from each channel; a grey picture has only one.
        pytest.skip("the preprocessing of this network differs between channels")
    path, _ = imagenet_file
    grey = getattr(backbones, name)(1, weights=str(path))
    colour = getattr(backbones, name)(3, weights=str(path))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 1)).astype("float32")
    expected = np.asarray(colour(np.repeat(x, 3, axis=-1))["c4"])
    np.testing.assert_allclose(grey(x)["c4"], expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_first_kernel_of_five_channels_by_hand():
    kernel = np.arange(3, dtype="float32").reshape(1, 1, 3, 1)
    np.testing.assert_allclose(adapt_first_kernel(kernel, 1).ravel(), [3])
    np.testing.assert_allclose(adapt_first_kernel(kernel, 5).ravel(), np.array([0, 1, 2, 0, 1]) * 3 / 5)


def test_a_file_that_is_not_there_names_the_repair():
    with pytest.raises(ValueError, match="backbone_weights"):
        backbones.vgg16(weights="nowhere.h5")


def test_unet_over_every_backbone_keeps_odd_sizes(name):
    model = build_unet((None, None, 4), 3, backbone=name, decoder_filters=(8, 8, 4, 4, 4))
    assert model(np.zeros((1, 37, 70, 4), "uint8")).shape == (1, 37, 70, 3)


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
