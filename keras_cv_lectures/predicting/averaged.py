"""Averaging over mirrored, rotated and resized versions of a picture.

The U-Net paper did it for its ISBI 2012 entry (rotations), DeepLab for its Pascal VOC results (scales, mirror images).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.postprocessing.segmentation import resize_probabilities
from keras_cv_lectures.predicting.pictures import read_picture, resize_picture
from keras_cv_lectures.predicting.predictor import network_size, predict
from keras_cv_lectures.predicting.result import SegmentationResult
from keras_cv_lectures.predicting.tiled import as_runner
from keras_cv_lectures.runners import Runner

DEEPLAB_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# Option -> for each version, whether it is mirrored (up-down, left-right).
_FLIPS = {
    None: ((False, False),),
    "horizontal": ((False, False), (False, True)),
    "vertical": ((False, False), (True, False)),
    "both": ((False, False), (False, True), (True, False), (True, True)),
}


def predict_averaged(
    model: keras.Model | Runner | str | os.PathLike,
    image: Any,
    *,
    rotations: bool = True,
    scales: Sequence[float] = (1.0,),
    flips: str | None = "horizontal",
    **settings: Any,
) -> np.ndarray:
    """Mean of the probabilities over versions of a picture, each brought back before the mean is taken.

    Args:
        model: as in `predict`; for scales other than 1 it must take pictures of any size, or be given `tile`.
        image: one picture, as in `predict`.
        rotations: True takes the rotations by quarter turns too: with their mirror images the eight versions that suit
            pictures without an up and a down (microscopy, aerial). A model of one size that is not square sees the
            half turn only.
        scales: sizes of the picture, as factors on the size that the network sees without them. DeepLab's are
            `DEEPLAB_SCALES` with `rotations=False`. Memory grows with the square of the largest.
        flips: mirror images that are taken beside each version: None, "horizontal" (left and right exchanged),
            "vertical" or "both" (and both at once).
        settings: further arguments of `predict`, such as `tile`.

    Returns:
        (H, W, K) float32 at the picture's own size.

    Raises:
        ModelError: for an unknown option, scales for a model of one size, or a model that is no segmentation.
        DataError: as `predict`.

    Differs from the paper: Ronneberger et al. (2015) average seven rotated versions and do not say which. DeepLab's
    code resizes logits, not probabilities, before the mean of the probabilities.

    Example:
        >>> predict_averaged(model, "street.jpg", rotations=False, scales=DEEPLAB_SCALES).argmax(-1)
    """
    if flips not in _FLIPS:
        raise ModelError(f"`flips` must be one of {tuple(_FLIPS)}. Received: flips={flips!r}")
    scales = tuple(scales)
    if not scales or not all(isinstance(s, int | float) and 0 < s < math.inf for s in scales):
        raise ModelError(f"`scales` must be positive numbers, at least one. Received: scales={scales}")
    runner = as_runner(model)
    picture, _ = read_picture(image)
    total, count = 0.0, 0
    for scale in scales:
        seen_by, resized = _at_scale(runner, picture, scale, tiled=settings.get("tile") is not None)
        for version, undo in _versions(resized, _turns(seen_by, settings) if rotations else (0,), flips):
            found = predict(seen_by, np.ascontiguousarray(version), **settings)
            if not isinstance(found, SegmentationResult):
                raise ModelError(
                    "Only a segmentation can be averaged over versions of a picture; boxes and sentences have no mean. "
                    "Use predict(model, image)."
                )
            answer = np.ascontiguousarray(undo(found.probabilities))
            total = total + resize_probabilities(answer, picture.shape[:2])
            count += 1
    return (total / count).astype(np.float32)


def _at_scale(runner: Runner, picture: np.ndarray, scale: float, *, tiled: bool) -> tuple[Runner, np.ndarray]:
    """The picture at a scale, and the runner that takes it as it is, turned or not."""
    if tiled:
        return runner, resize_picture(picture, _scaled(picture.shape[:2], scale))
    unsized = dataclasses.replace(runner, metadata=dataclasses.replace(runner.metadata, input_size=None))
    if network_size(unsized) is not None:
        if scale == 1:
            return runner, picture
        raise ModelError(
            f"`scales` need a model that takes pictures of any size; {runner.path or 'this model'} takes "
            f"{runner.input_shape[0]} x {runner.input_shape[1]} pixels only. Received: scale {scale}. Give the Keras "
            "model (.keras), or export it with open height and width."
        )
    # The size that the network was trained at is the one that the scales are factors of.
    size = _scaled(runner.metadata.input_size or picture.shape[:2], scale)
    return unsized, resize_picture(picture, size)


def _scaled(size: Sequence[int], scale: float) -> tuple[int, int]:
    return tuple(max(1, round(scale * side)) for side in size)


def _turns(runner: Runner, settings: dict[str, Any]) -> range:
    """Numbers of quarter turns. A picture on its side would be squashed into a size that is not square: not those."""
    size = None if settings.get("tile") is not None else network_size(runner)
    return range(0, 4, 1 if size is None or size[0] == size[1] else 2)


def _versions(picture: np.ndarray, turns: Iterable[int], flips: str | None) -> Iterator[tuple[np.ndarray, Any]]:
    """Versions (h, w, C) of the picture, each with the function that brings a map of it back."""
    for turn in turns:
        for vertical, horizontal in _FLIPS[flips]:
            rows, columns = slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1)

            def undo(found, turn=turn, rows=rows, columns=columns):
                return np.rot90(found[rows, columns], -turn)

            yield np.rot90(picture, turn)[rows, columns], undo
