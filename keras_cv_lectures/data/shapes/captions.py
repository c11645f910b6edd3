"""The one description of a scene that a captioner learns: every shape from left to right, always in the same words."""

from __future__ import annotations

import numpy as np

from keras_cv_lectures.data.shapes.scene import SHAPE_CLASSES

EMPTY_CAPTION = "an empty picture"
CLEAR_GAP = 0.06  # of the picture's width between two centres; from here on one shape is "left of" the other
CLEAR_SHARE = 0.6  # of a shape's area that must be visible for a scene to be clear


def caption_of(
    labels: np.ndarray, attributes: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> tuple[str, np.ndarray]:
    """`a small red circle left of a large blue star`: N shapes by the horizontal centres of their boxes.

    Neighbours in that order whose centres are less than `CLEAR_GAP` of the width apart are joined by "and" instead of
    "left of". N shapes give 4 N words and one or two for each joint; a picture without shapes is "an empty picture".

    Args:
        labels: (N,) int32. attributes: (N, 2) strings, size and color. boxes: (N, 4) float32 of the visible parts.
        size: (height, width) of the picture.

    Returns:
        The caption, whose words have single spaces between, and (W,) int32: for each word the index of the shape that
        it names ("circle", "star"), -1 for all other words.
    """
    centers = ((boxes[:, 0] + boxes[:, 2]) / 2).tolist()
    words: list[str] = []
    objects: list[int] = []
    before = None
    for i in np.argsort(centers, kind="stable").tolist():
        if before is not None:
            clear = centers[i] - centers[before] >= CLEAR_GAP * size[1]
            words += ["left", "of"] if clear else ["and"]
        words += ["a", *map(str, attributes[i]), SHAPE_CLASSES[labels[i]]]
        objects += [-1] * (len(words) - len(objects) - 1) + [i]
        before = i
    if not words:
        words = EMPTY_CAPTION.split()
        objects = [-1] * len(words)
    return " ".join(words), np.array(objects, np.int32)
