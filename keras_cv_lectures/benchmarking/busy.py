"""Networks of random weights that have as much to do as trained ones.

A fresh detector is sure of nothing, so that no box passes its threshold, or all; a fresh captioner may end its sentence
at any word. Times of either would tell nothing. And the offsets of fresh layers are zero: TensorFlow leaves a sum with
constant zeros out, and then finds no bias to fuse into the convolution with the ReLU behind it.

No TensorFlow here: the networks are timed on other backends, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_cv_lectures.text import END
from keras_cv_lectures.weights import set_weights

PASSING = 400


def busy_detector(build: Callable[..., Any], picture: np.ndarray, *, passing: int = PASSING) -> Any:
    """A detector of random weights whose boxes stay where its anchors are and of which about `passing` are let through.

    Args:
        build: settings -> detector; called twice with `box_score`, first also with `max_detections`.
        picture: (H, W, C) uint8, which the threshold is chosen on.
        passing: boxes whose score lies above the threshold, before suppression.
    """
    every = with_offsets(build(box_score=0.0, max_detections=passing))
    for head in (every.graph.rpn, every.graph.box):
        for variable in head.weights:
            if "bbox_pred" in variable.path:
                variable.assign(np.zeros(variable.shape))
    lowest = float(every.predict_on_batch(picture[None])["scores"][0, -1])
    model = build(box_score=lowest)
    set_weights(model, every.get_weights())
    return model


def endless_captioner(model: Any) -> Any:
    """The same captioner, which never says that its sentence ends: its search takes all its steps."""
    bias = with_offsets(model).decoder.vocabulary.bias
    values = np.array(bias)
    values[END] = -1e9
    bias.assign(values)
    return model


def with_offsets(model: Any) -> Any:
    """The same network, in whose layers no offset is zero."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.rpartition("/")[2] in ("bias", "beta"):
            variable.assign(rng.normal(0, 0.01, variable.shape))
    return model


__all__ = ["PASSING", "busy_detector", "endless_captioner", "with_offsets"]
