"""What every reader promises of the arrays that belong to a picture's pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError

# Key -> how its shape is written; the last two axes of all of them are the picture's.
_BESIDE = {"mask": "(H, W)", "weights": "(H, W)", "instance_masks": "(N, H, W)"}


def check_example(example: Mapping[str, Any], where: str, *, channels: int | None = None) -> None:
    """Refuses arrays that are not as `keras_cv_lectures.data` describes them: what follows would misread them silently.

    Args:
        example: what a reader returned. Keys that it lacks are not asked for.
        where: begins the message: the source and the example.
        channels: of the other pictures of the source; None for any number.

    Raises:
        DataError: `image` is not (H, W, C) of uint8 with at least one pixel and `channels` channels, or `mask`,
            `weights` or `instance_masks` are of another size than it.
    """
    if "image" not in example:
        return
    image = example["image"]
    shape, dtype = np.shape(image), getattr(image, "dtype", type(image).__name__)
    if len(shape) != 3 or 0 in shape or dtype != np.uint8:
        raise DataError(
            f"{where}: 'image' must be (H, W, C) of uint8, 0..255, but is {dtype} of shape {shape}. {_repair(shape)}"
        )
    if channels is not None and shape[2] != channels:
        raise DataError(
            f"{where}: 'image' must have {channels} channels as in the first example, but is of shape {shape}. Read "
            "all examples with the same number of channels."
        )
    for key, expected in _BESIDE.items():
        if key not in example:
            continue
        found = np.shape(example[key])
        if len(found) != expected.count(",") + 1 or found[-2:] != shape[:2]:
            raise DataError(
                f"{where}: {key!r} must be {expected} of the picture's size {shape[:2]}, but is of shape {found}. Let "
                "the reader bring both to one size, a mask by its nearest pixels, and drop axes of length 1."
            )


def _repair(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "Let the reader add the axis of a grey picture: image[..., None]."
    if len(shape) != 3 or 0 in shape:
        return "Let the reader return one picture, its channels last."
    return "Let the reader bring its values to 0..255 and convert them: of 0..1 (255 * image).round().astype(np.uint8)."
