"""Whatever a person has as a picture -> (H, W, C) uint8."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data.images import IMAGE_SUFFIXES, read_image
from keras_cv_lectures.errors import DataError

# Of a picture with any number of channels; not among the pictures of a folder, where masks may lie as arrays.
ARRAY_SUFFIX = ".npy"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in training


def picture_files(folder: str | os.PathLike) -> list[Path]:
    """The pictures in a folder (not in folders below it) by their suffix, sorted by name.

    Raises:
        DataError: if the folder holds none.
    """
    folder = Path(folder)
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found and any(folder.glob(f"*{ARRAY_SUFFIX}")):
        raise DataError(
            f"{folder} holds no pictures ({', '.join(IMAGE_SUFFIXES)}), but arrays, which may be masks. If they are "
            f"pictures, name the files: {folder}/*{ARRAY_SUFFIX}."
        )
    if not found:
        raise DataError(
            f"{folder} holds no pictures ({', '.join(IMAGE_SUFFIXES)}). Pictures in folders below it are not looked "
            "for: name the folder that holds them."
        )
    return found


def read_picture(image: Any) -> tuple[np.ndarray, str]:
    """One picture as (H, W, C) uint8, and its name ("" where it has none).

    Args:
        image: path of a file, of any number of channels where it is a `.npy` array; (H, W, C) or (H, W) array, uint8 or
            numbers in 0..255 (fractions are rounded, as the exported models take whole grey levels); a PIL image, used
            as it is (no EXIF rotation). Of uint8 an array is not copied, and a `.npy` file is mapped and not read, so
            that either may be larger than memory.

    Raises:
        DataError: for a file that is no picture, or an array of another shape or range, naming the repair.
    """
    file = file_of(image)
    name = file.stem if file else ""
    if isinstance(image, str | os.PathLike):
        if file.suffix.lower() == ARRAY_SUFFIX:
            return _from_file(file), name
        return read_image(image, channels=None), name
    return _from_pil(image) if _is_pil(image) else _from_array(np.asarray(image)), name


def file_of(image: Any) -> Path | None:
    """The file of a picture, be it a path or a PIL image that was opened from one; None where there is none."""
    name = getattr(image, "filename", "") if _is_pil(image) else image
    return Path(name) if isinstance(name, str | os.PathLike) and str(name) else None


def _is_pil(image: Any) -> bool:
    return hasattr(image, "getbands") and hasattr(image, "mode")


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """Picture (H, W, C) with the channels that a model takes: grey is repeated, RGB becomes its brightness.

    A fourth channel of RGB, or a second one of grey, is taken for transparency and dropped.

    Raises:
        DataError: for any other difference.
    """
    given = picture.shape[-1]
    if given == channels:
        return picture
    if (given, channels) in ((2, 1), (2, 3), (4, 1), (4, 3)):
        return with_channels(picture[..., :-1], channels)
    if given == 1:
        return np.repeat(picture, channels, axis=-1)
    if given == 3 and channels == 1:
        return (picture.astype(np.float32) @ _LUMA + 0.5).astype(np.uint8)[..., None]
    raise DataError(
        f"The model takes {channels} channels, the picture has {given}. Grey (1) and RGB (3) are converted into each "
        f"other; give any other picture as an array (H, W, {channels}), or its path as saved by numpy.save."
    )


def resize_picture(picture: np.ndarray, size: tuple[int, int], *, antialias: bool = True) -> np.ndarray:
    """Picture (H, W, C) uint8 at another (height, width), as in training: bilinear and rounded.

    Args:
        antialias: filter a picture that shrinks; detectors are trained without.
    """
    import tensorflow as tf

    if picture.shape[:2] == tuple(size):
        return picture
    resized = tf.image.resize(picture, size, antialias=antialias).numpy()
    return (np.clip(resized, 0.0, 255.0) + 0.5).astype(np.uint8)


def _from_pil(image: Any) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return _from_array((np.asarray(image).astype(np.uint32) + 128) // 257)
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in ("I", "F"):
        return _from_array(np.asarray(image))
    # By way of RGBA, because Pillow warns where a palette's transparency would be lost silently.
    return np.asarray((image.convert("RGBA") if image.mode in ("P", "PA", "RGBa") else image).convert("RGB"))


def _from_file(file: Path) -> np.ndarray:
    """The picture in a `.npy` file; nothing in it is run."""
    try:
        if not file.is_file():
            raise OSError("it does not exist or is not a file")
        array = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{file} is no array of numbers as numpy.save writes it ({error}). Save it again.") from error
    try:
        return _from_array(np.asarray(array))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _from_array(image: np.ndarray) -> np.ndarray:
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in shape:
        hint = " For several pictures pass a list: predict(model, list(batch))." if image.ndim == 4 else ""
        raise DataError(
            f"A picture must be an array (height, width) or (height, width, channels). Received: shape {shape}.{hint}"
        )
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[-1] > 16:
        raise DataError(
            f"A picture must have its channels last. Received: shape {shape}. Use numpy.moveaxis(image, 0, -1)."
        )
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind not in "fiu":
        hint = " Multiply a boolean array by 255 as uint8." if image.dtype == bool else ""
        raise DataError(f"A picture must hold numbers in 0..255. Received: dtype {image.dtype}.{hint}")
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 255):  # Also catches NaN.
        if image.dtype.kind in "iu":
            hint = "Divide 16-bit values by 257."
        else:
            hint = "Undo its normalisation; a model built with include_preprocessing=False takes it as model(images)."
        raise DataError(f"A picture must lie in 0..255. Received: values from {low} to {high}. {hint}")
    if image.dtype.kind == "f" and 0 < high <= 1:
        raise DataError(
            f"A picture must lie in 0..255; this one seems to lie in 0..1 (largest value {high}). Multiply it by 255."
        )
    return (image + 0.5).astype(np.uint8)
