"""Networks of random weights that have as much to do as trained ones.

A fresh detector is sure of nothing, so that no box passes its threshold, or all; a fresh captioner may end its sentence
at any word. Times of either would tell nothing.

No TensorFlow here: the networks are timed on other backends, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_cv_lectures.text import END

PASSING = 400


def busy_detector(build: Callable[..., Any], picture: np.ndarray, *, passing: int = PASSING) -> Any:
    """A detector of random weights whose boxes stay where its anchors are and of which about `passing` are let through.

    Args:
        build: settings -> detector; called twice with `box_score`, first also with `max_detections`.
        picture: (H, W, C) uint8, which the threshold is chosen on.
        passing: boxes whose score lies above the threshold, before suppression.
    """
    every = build(box_score=0.0, max_detections=passing)
    for head in (every.graph.rpn, every.graph.box):
        for variable in head.weights:
            if "bbox_pred" in variable.path:
                variable.assign(np.zeros(variable.shape))
    lowest = float(every.predict_on_batch(picture[None])["scores"][0, -1])
    model = build(box_score=lowest)
    model.set_weights(every.get_weights())
    return model


def endless_captioner(model: Any) -> Any:
    """The same captioner, which never says that its sentence ends: its search takes all its steps."""
    bias = model.decoder.vocabulary.bias
    values = np.array(bias)
    values[END] = -1e9
    bias.assign(values)
    return model


__all__ = ["PASSING", "busy_detector", "endless_captioner"]
