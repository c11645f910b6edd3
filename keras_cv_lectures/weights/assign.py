"""Arrays -> variables of layers, in the one way that is right for every layer of Keras."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np


def set_weights(layer: keras.layers.Layer, values: Sequence[np.ndarray]) -> None:
    """`layer.set_weights(values)`, of a layer or a model, after which a `Normalization` computes with them.

    It computes with constants that Keras makes of its variables when it is adapted or loaded from a file, and at no
    other time.
    """
    layer.set_weights(values)
    for each in layer._flatten_layers():
        if isinstance(each, keras.layers.Normalization):
            each.finalize_state()


__all__ = ["set_weights"]
