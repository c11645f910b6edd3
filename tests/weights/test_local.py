"""Weights from one model of this package to another that shares layers with it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights import copy_weights, load_weights, set_weights


def detector(classes, seed):
    """A layer, and a head inside it as detectors have theirs."""
    keras.utils.set_random_seed(seed)
    region = keras.Input((4,))
    x = keras.layers.Dense(3, name="fc6", bias_initializer="normal")(region)
    head = keras.Model(region, keras.layers.Dense(classes, name="predictor", bias_initializer="normal")(x), name="box")
    picture = keras.Input((5,))
    return keras.Model(picture, head(keras.layers.Dense(4, name="backbone")(picture)))


def arrays(model, name):
    return model.get_layer("box").get_layer(name).get_weights()


def test_a_head_inside_the_model_gives_the_layers_that_fit(tmp_path):
    three, two = detector(3, seed=0), detector(2, seed=1)
    kept = arrays(two, "predictor")
    assert copy_weights(three, two) == (["backbone", "box.fc6"], ["box.predictor"])
    three.save(tmp_path / "three.keras")
    again = detector(2, seed=1)
    with pytest.warns(UserWarning, match=r"other shapes for \['box.predictor'\]"):
        load_weights(again, tmp_path / "three.keras")
    for model in (two, again):
        for got, wanted in zip(arrays(model, "fc6"), arrays(three, "fc6"), strict=True):
            np.testing.assert_array_equal(got, wanted)
        for got, wanted in zip(arrays(model, "predictor"), kept, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_file_that_fits_nowhere_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, name="backbone")])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ModelError, match="fits no layer"):
        load_weights(detector(2, seed=0), tmp_path / "other.keras")


def test_a_normalization_computes_with_the_weights_it_is_given():
    def make():
        return keras.Sequential(
            [keras.Input((2,)), keras.Sequential([keras.Input((2,)), keras.layers.Normalization()])]
        )

    adapted, fresh = make(), make()
    adapted.layers[0].layers[0].adapt(np.array([[0.0, 2.0], [4.0, 10.0]]))
    set_weights(fresh, adapted.get_weights())
    np.testing.assert_allclose(fresh(np.array([[0.0, 10.0]])), [[-1.0, 1.0]], rtol=1e-6)
