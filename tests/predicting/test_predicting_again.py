"""A model that changed between two predictions, and arguments that would have no effect."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.predicting import predict, predict_tiled
from keras_cv_lectures.predicting.tiled import as_runner
from keras_cv_lectures.segmentation import build_unet

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 1), np.uint8)


def _sigmoid(values):
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def test_adapted_statistics_are_seen():
    x = keras.Input((None, None, 1))
    normalization = layers.Normalization(axis=-1)
    model = keras.Model(x, layers.Activation("linear", name="logits")(normalization(x)))
    for values in ([0.0, 200.0], [90.0, 110.0]):  # Means 100 and 100, deviations 100 and 10.
        normalization.adapt(np.reshape(values, (2, 1, 1, 1)))
        deviation = np.std(values)
        expected = _sigmoid((PICTURE - 100.0) / deviation)
        np.testing.assert_allclose(predict(model, PICTURE).probabilities, expected, atol=1e-5)
    runner = as_runner(model)
    assert as_runner(model) is runner
    normalization.adapt_mean.assign([0.0])
    normalization.adapt_variance.assign([1.0])
    normalization.finalize_state()  # As `load_weights` does it.
    np.testing.assert_allclose(predict(model, PICTURE).probabilities, _sigmoid(PICTURE), atol=1e-5)


def test_another_epsilon_is_seen():
    x = keras.Input((None, None, 1))
    normalization = layers.BatchNormalization(center=False, scale=False, name="logits")
    model = keras.Model(x, normalization(x))
    normalization.moving_variance.assign([1.0])
    normalization.moving_mean.assign([128.0])
    for epsilon in (3.0, 399.0):  # Deviations of 2 and 20.
        normalization.epsilon = epsilon
        expected = _sigmoid((PICTURE - 128.0) / np.sqrt(1 + epsilon))
        np.testing.assert_allclose(predict(model, PICTURE).probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("argument", ["margin", "stride"])
def test_a_margin_without_tiles_is_refused(argument):
    x = keras.Input((None, None, 1))
    model = keras.Model(x, layers.Conv2D(2, 3, padding="same", name="logits")(x))
    with pytest.raises(
        ModelError, match=f"`{argument}` is about windows, and so needs `tile`.*{argument}=4, tile=None"
    ):
        predict(model, PICTURE, **{argument: 4})
    with pytest.raises(ModelError, match="needs `tile`"):
        next(predict(model, [PICTURE], **{argument: 4}))


def test_a_network_that_always_has_windows_uses_the_margin():
    model = build_unet((None, None, 1), 2, variant="paper", depth=1, filters=2)
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 1), np.uint8)
    found = predict(model, picture, margin=6, stride=4).probabilities
    np.testing.assert_allclose(found, predict_tiled(model, picture, margin=6, stride=4), atol=1e-6)
