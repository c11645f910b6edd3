"""Averaging over scales and mirror images, on networks whose answer for every version is known."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.postprocessing.segmentation import resize_probabilities
from keras_cv_lectures.predicting import predict, predict_averaged
from keras_cv_lectures.predicting.averaged import DEEPLAB_SCALES
from keras_cv_lectures.predicting.pictures import resize_picture
from keras_cv_lectures.runners import load_runner


def _copying(size=(None, None)):
    """Softmax of the picture itself."""
    image = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 64)(image)
    return keras.Model(image, keras.layers.Activation("linear", name="logits")(x))


def _shifting():
    """The left neighbour of each pixel: a network that a mirror image shows another side."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 64)(image)
    x = keras.layers.Cropping2D(((0, 0), (0, 1)))(keras.layers.ZeroPadding2D(((0, 0), (1, 0)))(x))
    return keras.Model(image, keras.layers.Activation("linear", name="logits")(x))


def _picture(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("uint8")


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("flips", [None, "horizontal", "vertical", "both"])
@pytest.mark.parametrize("rotations", [False, True])
def test_every_version_comes_back_to_its_place(flips, rotations):
    model, picture = _copying(), _picture()
    expected = predict(model, picture).probabilities
    got = predict_averaged(model, picture, rotations=rotations, flips=flips)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_mirror_images_by_hand():
    """The left neighbour in the picture, and in the mirror image the right one."""
    picture = _picture(2, 3)
    left = np.pad(picture[:, :-1] / 64, ((0, 0), (1, 0), (0, 0)))
    right = np.pad(picture[:, 1:] / 64, ((0, 0), (0, 1), (0, 0)))
    got = predict_averaged(_shifting(), picture, rotations=False)
    np.testing.assert_allclose(got, (_softmax(left) + _softmax(right)) / 2, atol=1e-6)
    alone = predict_averaged(_shifting(), picture, rotations=False, flips=None)
    np.testing.assert_allclose(alone, _softmax(left), atol=1e-6)


def test_scales_average_probabilities_at_the_picture_s_size():
    model, picture = _copying(), _picture(8, 12)
    expected = []
    for scale in (0.5, 1.0, 1.75):
        size = (round(8 * scale), round(12 * scale))
        expected.append(resize_probabilities(_softmax(resize_picture(picture, size) / 64), (8, 12)))
    got = predict_averaged(model, picture, rotations=False, flips=None, scales=(0.5, 1.0, 1.75))
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def _watched(runner, input_size=None):
    """The runner of a training at a size, and the sizes of the pictures that it will have seen."""
    seen = []

    def run(images):
        if images.any():  # A black picture asks a model what it answers with.
            seen.append(images.shape[1:3])
        return runner(images)

    metadata = dataclasses.replace(runner.metadata, input_size=input_size)
    return dataclasses.replace(runner, run=run, metadata=metadata, model=None), seen


def test_turned_pictures_keep_their_shape():
    trained, seen = _watched(load_runner(_copying()), (20, 40))
    predict_averaged(trained, _picture(), flips=None)
    assert seen == [(20, 40), (40, 20), (20, 40), (40, 20)]
    fixed, seen = _watched(load_runner(_copying((20, 40))))
    predict_averaged(fixed, _picture(), flips="vertical")
    assert seen == [(20, 40)] * 4  # Two half turns and their mirror images; a quarter turn would be squashed.
    square, seen = _watched(load_runner(_copying((8, 8))))
    predict_averaged(square, _picture(), flips=None)
    assert seen == [(8, 8)] * 4


def test_the_network_sees_every_scale_of_the_size_it_was_trained_at():
    trained, seen = _watched(load_runner(_copying()), (20, 40))
    got = predict_averaged(trained, _picture(), rotations=False, flips=None, scales=DEEPLAB_SCALES)
    assert seen == [(10, 20), (15, 30), (20, 40), (25, 50), (30, 60), (35, 70)]
    assert got.shape == (6, 9, 3)


def test_a_model_of_one_size_refuses_scales():
    model = _copying((6, 9))
    with pytest.raises(ModelError, match="takes 6 x 9 pixels only"):
        predict_averaged(model, _picture(), scales=(0.5, 1.0))
    np.testing.assert_allclose(
        predict_averaged(model, _picture(), rotations=False), predict(model, _picture()).probabilities, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flips": "diagonal"}, "`flips` must be one of"),
        ({"scales": ()}, "`scales` must be positive numbers"),
        ({"scales": (1.0, 0.0)}, "`scales` must be positive numbers"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ModelError, match=message):
        predict_averaged(_copying(), _picture(), **arguments)
