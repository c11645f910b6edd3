"""Averaging over mirrored and rotated versions of a picture, as the U-Net paper did for its ISBI 2012 entry."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.predicting.pictures import read_picture
from keras_cv_lectures.predicting.predictor import predict
from keras_cv_lectures.predicting.tiled import as_runner
from keras_cv_lectures.runners import Runner


def predict_averaged(
    model: keras.Model | Runner | str | os.PathLike, image: Any, *, rotations: bool = True, **settings: Any
) -> np.ndarray:
    """Mean of the probabilities over versions of a picture, each brought back before the mean is taken.

    Args:
        model: as in `predict`.
        image: one picture, as in `predict`.
        rotations: True takes the eight rotations by quarter turns and their mirror images, which suits pictures
            without an up and a down (microscopy, aerial); False takes the picture and its left-right mirror image.
        settings: further arguments of `predict`, such as `tile`.

    Returns:
        (H, W, K) float32 at the picture's own size.

    Differs from the paper: Ronneberger et al. (2015) average seven rotated versions and do not say which.
    """
    runner = as_runner(model)
    picture, _ = read_picture(image)
    total: np.ndarray | None = None
    turns = range(4) if rotations else range(1)
    for turn in turns:
        for mirrored in (False, True):
            version = np.rot90(picture, turn)
            version = version[:, ::-1] if mirrored else version
            found = predict(runner, np.ascontiguousarray(version), **settings).probabilities
            found = found[:, ::-1] if mirrored else found
            found = np.rot90(found, -turn)
            total = found.astype(np.float32) if total is None else total + found
    return total / (2 * len(turns))
