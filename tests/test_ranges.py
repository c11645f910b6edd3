"""8-bit files of networks whose values the converter's own calibration measures wrongly."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures.exporting import export_tflite
from keras_cv_lectures.layers import ImageNormalization
from keras_cv_lectures.runners import load_runner

RNG = np.random.default_rng(0)
# No picture reaches the ends of 0..255.
PICTURES = RNG.integers(30, 220, (100, 16, 24, 3)).astype(np.uint8)


def _network(body, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 24, 3))
    return keras.Model(inputs, keras.layers.Conv2D(3, 1, name="logits")(body(inputs)))


def _reversed(x):
    return keras.layers.Conv2D(8, 3, activation="relu")(ImageNormalization("caffe")(x))


def _enlarged(x):
    """What is multiplied by 500 in place loses all but a few of its 256 steps if it seems as large as the product."""
    x = ImageNormalization("torch")(x)
    small, large = (keras.layers.Conv2D(8, 3, activation=name)(x) for name in ("relu", "sigmoid"))
    product = keras.layers.Multiply()([small, keras.layers.Rescaling(1000.0, 500.0)(large)])
    return keras.layers.Conv2D(8, 1)(product)


@pytest.mark.parametrize("body", [_reversed, _enlarged])
def test_an_8_bit_file_gives_the_models_logits(body, tmp_path):
    model = _network(body)
    result = export_tflite(model, tmp_path / "m.tflite", precision="int8", representative=PICTURES)
    found = load_runner(result.path)(PICTURES[:8])["logits"]
    expected = model.predict(PICTURES[:8].astype("float32"), verbose=0)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * expected.std()
