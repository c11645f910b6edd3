"""DeconvNet: the claims of the paper, and the sizes that it was not made for."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures.layers import PadToAtLeast, SyncBatchNormalization
from keras_cv_lectures.segmentation.deconvnet import build_deconvnet


def _trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_has_the_published_parameters():
    """251,805,653. What is wide in the fully connected part is counted by hand: the network itself takes 1 GB."""

    def fully_connected(width):
        fc6 = 7 * 7 * 512 * width + width
        fc7 = width * width + width
        fc6_deconv = 7 * 7 * width * 512 + 512
        return fc6 + fc7 + fc6_deconv + 2 * (2 * width + 512)

    narrow = build_deconvnet(fc_filters=4)
    assert _trainable(narrow) - fully_connected(4) + fully_connected(4096) == 251_805_653


def test_layers_and_sizes_of_the_published_table():
    model = build_deconvnet(filters=2, fc_filters=5)
    scale = 64 // 2
    table = {
        "conv1_2": (224, 64),
        "pool1": (112, 64),
        "conv3_3": (56, 256),
        "pool4": (14, 512),
        "pool5": (7, 512),
        "fc6-deconv": (7, 512),
        "unpool5": (14, 512),
        "deconv5_3": (14, 512),
        "unpool4": (28, 512),
        "deconv4_2": (28, 512),
        "deconv4_3": (28, 256),
        "deconv3_2": (56, 256),
        "deconv3_3": (56, 128),
        "unpool2": (112, 128),
        "deconv2_2": (112, 64),
        "unpool1": (224, 64),
        "deconv1_2": (224, 64),
    }
    for name, (side, channels) in table.items():
        output = model.get_layer(name).output
        output = output[0] if isinstance(output, list) else output
        assert tuple(output.shape[1:]) == (side, side, channels // scale), name
    assert model.get_layer("fc6").output.shape == model.get_layer("fc7").output.shape == (None, 1, 1, 5)
    assert model.output_shape == (None, 224, 224, 21)
    kinds = [type(layer) for layer in model.layers]
    # 13 convolutions, fc6, fc7 and the scores; 13 deconvolutions and fc6's; a normalisation after all but the scores.
    assert kinds.count(keras.layers.Conv2D) == 16
    assert kinds.count(keras.layers.Conv2DTranspose) == 14
    assert kinds.count(SyncBatchNormalization) == kinds.count(keras.layers.ReLU) == 29


def test_switches_of_each_pooling_go_to_its_mirror():
    model = build_deconvnet((64, 64, 3), 3, filters=1, fc_filters=2)
    for stage, last in zip(range(1, 6), (2, 2, 3, 3, 3), strict=True):
        pool = model.get_layer(f"pool{stage}")
        _, switches, before = model.get_layer(f"unpool{stage}").input
        assert switches is pool.output[1]
        assert before is pool.input is model.get_layer(f"conv{stage}_{last}_relu").output


def test_a_picture_of_the_published_size_is_one_vector_and_larger_ones_a_map():
    for size, side in (((224, 224), (1, 1)), ((256, 320), (2, 4))):
        model = build_deconvnet((*size, 3), 3, filters=1, fc_filters=2)
        assert model.get_layer("fc6").output.shape[1:3] == side
        assert model.output_shape[1:3] == size


def test_a_small_map_is_filled_up_for_fc6_and_cut_back():
    x = np.arange(1, 7, dtype="float32").reshape(1, 2, 3, 1)
    padded = np.asarray(PadToAtLeast(3)(x))[0, :, :, 0]
    np.testing.assert_array_equal(padded, [[1, 2, 3], [4, 5, 6], [0, 0, 0]])
    assert PadToAtLeast(2)(x).shape == x.shape
    model = build_deconvnet((48, 64, 3), 3, filters=1, fc_filters=2, fc_kernel=3)
    assert model.get_layer("fc6_pad").output.shape[1:3] == (3, 3)
    assert model.get_layer("fc6-deconv_crop").output.shape[1:3] == (2, 2)


def test_any_size_works_and_a_static_network_agrees():
    model = build_deconvnet((None, None, 2), 3, filters=1, fc_filters=2, fc_kernel=2)
    for size in ((33, 51), (1, 7), (64, 48)):
        assert model(np.zeros((1, *size, 2), "uint8")).shape == (1, *size, 3)
    static = build_deconvnet((33, 51, 2), 3, filters=1, fc_filters=2, fc_kernel=2)
    static.set_weights(model.get_weights())
    x = np.random.default_rng(0).integers(0, 256, (2, 33, 51, 2)).astype("uint8")
    expected = np.asarray(model(x))
    np.testing.assert_allclose(static(x), expected, atol=1e-5 * np.abs(expected).max())


def test_a_deconvolution_is_the_convolution_with_the_turned_kernel():
    """What a converter of the released file relies on: Caffe's (in, out, h, w) is Keras's kernel after a transpose."""
    model = build_deconvnet((32, 32, 1), 2, filters=1, fc_filters=1, fc_kernel=1)
    layer = model.get_layer("deconv2_2")
    rng = np.random.default_rng(0)
    caffe, x = rng.normal(size=(2, 1, 3, 3)), rng.normal(size=(1, 4, 5, 2)).astype("float32")
    layer.set_weights([caffe.transpose(2, 3, 1, 0), np.zeros(1)])
    expected = np.zeros((6, 7))
    for row in range(4):
        for column in range(5):
            expected[row : row + 3, column : column + 3] += np.tensordot(x[0, row, column], caffe[:, 0], axes=1)
    np.testing.assert_allclose(np.asarray(layer(x))[0, :, :, 0], expected[1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "`filters` must be at least 1"),
        ({"fc_filters": 0}, "`fc_filters` must be at least 1"),
        ({"fc_kernel": 0}, "`fc_kernel` must be at least 1"),
        ({"num_classes": 0}, "`num_classes` must be at least 1"),
        ({"filters": 1, "normalization": "instance"}, "`normalization` must be one of"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_deconvnet(**arguments)
    with pytest.raises(ValueError, match="`size` must be a positive integer"):
        PadToAtLeast(0)
