"""A VGG16 classifier, from a model, a Keras file or a Caffe file, computes the same as its convolutional form."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.segmentation import build_fcn8s, build_fcn32s
from keras_cv_lectures.weights import load_vgg16
from keras_cv_lectures.weights.convolutionalize import caffe_kernel, caffe_name, dense_kernel, read_vgg16

WIDTHS, COUNTS, FC, CLASSES = (2, 3, 4, 5, 6), (1, 2, 1, 1, 2), 7, 9
NARROW = {"filters": WIDTHS, "convolutions": COUNTS, "fc_filters": FC, "include_preprocessing": False}


def _classifier():
    """`keras.applications.VGG16` in small: its names, its flattening, another number of channels."""
    keras.utils.set_random_seed(3)
    x = image = keras.Input((224, 224, 3))
    biases = keras.initializers.RandomNormal(stddev=0.1)
    for block, (width, count) in enumerate(zip(WIDTHS, COUNTS, strict=True), start=1):
        for step in range(1, count + 1):
            convolution = keras.layers.Conv2D(
                width,
                3,
                padding="same",
                activation="relu",
                bias_initializer=biases,
                kernel_initializer="he_normal",
                name=f"block{block}_conv{step}",
            )
            x = convolution(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for name in ("fc1", "fc2"):
        x = keras.layers.Dense(FC, activation="relu", bias_initializer=biases, name=name)(x)
    x = keras.layers.Dense(CLASSES, bias_initializer=biases, name="predictions")(x)
    return keras.Model(image, x, name="vgg16")


@pytest.fixture(scope="module")
def classifier():
    return _classifier()


def _write_h5(path, classifier, *, top=True):
    """The layout of the files that `keras.applications` publishes."""
    layers = [layer for layer in classifier.layers if top or not isinstance(layer, keras.layers.Dense)]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{kind}:0" for kind in ("kernel", "bias")][: len(layer.weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    return path


def _caffe_blobs(classifier, *, legacy=False):
    """What `VGG_ILSVRC_16_layers.caffemodel` holds: (out, in, h, w), and (out, c * h * w) for the inner products."""
    blobs = {}
    for layer in classifier.layers:
        if not layer.weights:
            continue
        kernel, bias = layer.get_weights()
        if kernel.ndim == 4:
            blob = kernel.transpose(3, 2, 0, 1)
        elif layer.name == "fc1":
            side = int((kernel.shape[0] // WIDTHS[-1]) ** 0.5)
            blob = kernel.reshape(side, side, WIDTHS[-1], FC).transpose(3, 2, 0, 1).reshape(FC, -1)
        else:
            blob = kernel.T
        if legacy:
            bias = bias.reshape(1, 1, 1, -1)
            blob = blob.reshape(1, 1, *blob.shape) if blob.ndim == 2 else blob
        blobs[caffe_name(layer.name)] = [blob, bias]
    return blobs


def test_a_flattened_map_of_two_channels_by_hand():
    """Map [[[1, 2], [3, 4]], [[5, 6], [7, 8]]] (h, w, c): Keras flattens it to 1 ... 8, Caffe to 1 3 5 7 2 4 6 8."""
    weights = np.array([1, 10, 100, 1000, 2, 20, 200, 2000], "float32")
    picture = np.arange(1, 9, dtype="float32").reshape(2, 2, 2)
    kernel = dense_kernel(weights[:, None], channels=2)
    assert kernel.shape == (2, 2, 2, 1)
    assert (kernel[..., 0] * picture).sum() == weights @ np.arange(1, 9)
    blob = weights[None]
    kernel = caffe_kernel(blob, channels=2)
    assert kernel.shape == (2, 2, 2, 1)
    assert (kernel[..., 0] * picture).sum() == weights @ np.array([1, 3, 5, 7, 2, 4, 6, 8])
    np.testing.assert_array_equal(caffe_kernel(blob[None, None], channels=2), kernel)


def test_a_layer_that_stood_on_no_square_map_is_refused():
    with pytest.raises(ModelError, match="12 inputs cannot become a convolution"):
        dense_kernel(np.zeros((12, 4)), channels=6)


def test_names():
    assert [caffe_name(n) for n in ("block3_conv2", "fc1", "fc2", "predictions")] == ["conv3_2", "fc6", "fc7", "fc8"]


@pytest.mark.parametrize("kind", ["model", "h5", "keras", "caffe", "old caffe"])
def test_the_classifier_is_the_middle_of_its_convolutional_form(kind, classifier, tmp_path, monkeypatch):
    source = classifier
    if kind == "h5":
        source = _write_h5(tmp_path / "vgg16.h5", classifier)
    elif kind == "keras":
        source = tmp_path / "vgg16.keras"
        classifier.save(source)
    elif "caffe" in kind:
        source = tmp_path / "VGG_ILSVRC_16_layers.caffemodel"
        blobs = _caffe_blobs(classifier, legacy=kind.startswith("old"))
        monkeypatch.setattr("keras_cv_lectures.weights.caffe_format.read_caffemodel", lambda path: blobs)
    fcn = build_fcn32s((None, None, 3), CLASSES, backbone_weights=source, **NARROW)
    scores = keras.Model(fcn.input, fcn.get_layer("score_fr").output)
    x = np.random.default_rng(0).normal(0, 1, (2, 224, 224, 3)).astype("float32")
    expected = np.asarray(classifier(x))
    got = np.asarray(scores(x))  # (2, 7, 7, CLASSES): 224 / 32 = 7, and fc6 sees all of it from the middle.
    assert np.abs(got[:, 3, 3] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(got[:, 0, 0] - expected).max() > 1e-2 * np.abs(expected).max()


def test_a_segmentation_keeps_its_own_scores(classifier):
    fcn = build_fcn8s((None, None, 3), CLASSES + 1, **NARROW)
    before = fcn.get_layer("score_fr").get_weights()
    assert load_vgg16(fcn, classifier) == []
    for a, b in zip(before, fcn.get_layer("score_fr").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(fcn.get_layer("conv2_2").kernel, classifier.get_layer("block2_conv2").kernel)


def test_grey_pictures_get_the_sum_over_colours(classifier):
    fcn = build_fcn8s((None, None, 1), 3, backbone_weights=classifier, **NARROW)
    kernel = classifier.get_layer("block1_conv1").kernel.numpy()
    np.testing.assert_allclose(fcn.get_layer("conv1_1").kernel, kernel.sum(axis=2, keepdims=True), atol=1e-6)


def test_a_file_without_top_and_other_widths_are_named(classifier, tmp_path):
    path = _write_h5(tmp_path / "vgg16_notop.h5", classifier, top=False)
    with pytest.warns(UserWarning, match=r"nothing for \['fc6', 'fc7'\]"):
        build_fcn8s((None, None, 3), 3, backbone_weights=str(path), **NARROW)
    with pytest.warns(UserWarning, match=r"other shapes for \['fc6', 'fc7'\]"):
        build_fcn8s((None, None, 3), 3, backbone_weights=classifier, **{**NARROW, "fc_filters": FC + 1})


def test_a_network_with_more_convolutions_is_refused(classifier):
    for build in (build_fcn8s, build_fcn32s):
        with pytest.raises(ModelError, match=r"another network than 'fcn.*has no \['conv5_2'\]"):
            build((None, None, 3), 3, backbone_weights=classifier, **{**NARROW, "convolutions": (1, 2, 1, 1, 1)})


def test_files_that_do_not_fit_are_refused(classifier, tmp_path):
    with pytest.raises(ModelError, match="fits no layer"):
        load_vgg16(build_fcn8s((None, None, 3), 3, filters=11, fc_filters=2), classifier)
    with pytest.raises(ModelError, match="must be an existing file"):
        read_vgg16(tmp_path / "none.h5")
    for name in ("vgg.pth", "broken.h5"):
        (tmp_path / name).write_bytes(b"no")
    with pytest.raises(ModelError, match=r"`\.h5`, `\.keras` or `\.caffemodel`"):
        read_vgg16(tmp_path / "vgg.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        read_vgg16(tmp_path / "broken.h5")
    with pytest.raises(ModelError, match="is no VGG16"):
        read_vgg16(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d")], name="other"))
