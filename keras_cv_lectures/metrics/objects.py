"""The objects of one picture, labelled or detected, as the metrics read them: checked, without padding, in float64.

A picture is a mapping, an example of a reader or a row of a detector's output:

| key | labelled | detected |
| --- | --- | --- |
| `boxes` (N, 4) | x1, y1, x2, y2 in pixels | the same |
| `labels` (N,) | 0..K-1; -1 is padding | the same |
| `scores` (N,) | | any finite numbers, larger is surer |
| `crowd`, `difficult` (N,) bool | optional: neither right nor wrong to find | |
| `area` (N,) | optional: annotated pixels; else of the mask where masks are compared, else of the box | |
| `keypoints` (N, K, 3) | x, y and visibility: 0 not labelled, 1 hidden, 2 visible | x, y and anything |
| masks | one of the three forms below | the same |
| `size` (2,), or `image` | height, width; for masks, of either | the same |

Masks are `mask_pixels` (P,) with `mask_windows` (N, 4), `instance_masks` (N, H, W), or `masks`, a list of N run-length
codes `{"size": [H, W], "counts": ...}` as COCO writes them. Other keys are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import split_masks
from keras_cv_lectures.geometry.rle import rle_decode, rle_encode, rle_from_string, rle_size

KINDS = ("boxes", "masks", "keypoints")


class Crop(NamedTuple):
    """A mask by the pixels of a window: `window` (x1, y1, x2, y2) half-open, `pixels` (y2 - y1, x2 - x1) bool."""

    window: tuple[int, int, int, int]
    pixels: np.ndarray


Mask = Crop | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """N objects of a picture.

    Attributes:
        boxes: (N, 4) float64.
        labels: (N,) int64 in 0..K-1.
        scores: (N,) float64; ones where the objects are labelled.
        crowd: (N,) bool.
        difficult: (N,) bool.
        rows: (N,) int64, the row of each object in what was read: padding is left out.
        area: (N,) float64, or None where it was not given.
        masks: N crops or run-length codes, or None where they were not asked for.
        keypoints: (N, K, 3) float64, or None where they were not asked for.
        size: (height, width), or None where it is not known.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    rows: np.ndarray
    area: np.ndarray | None
    masks: list[Mask] | None
    keypoints: np.ndarray | None
    size: tuple[int, int] | None

    def box_areas(self) -> np.ndarray:
        """(N,) float64 square pixels."""
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])


def read_objects(
    picture: Mapping[str, Any], num_classes: int, *, kind: str = "boxes", detected: bool, where: str
) -> Objects:
    """Reads what a metric of `kind` needs.

    Args:
        picture: see the top of this file.
        num_classes: K; larger labels are refused.
        kind: "boxes", "masks" or "keypoints": what must be there besides boxes and labels.
        detected: whether there must be scores.
        where: words for the picture in messages.

    Raises:
        DataError: a key is missing, a shape does not fit the others, or a number is not finite or out of range.
    """
    where = f"{'prediction' if detected else 'truth'} of {where}"
    if "boxes" not in picture or "labels" not in picture:
        raise DataError(f"{where} must hold boxes and labels, received {', '.join(map(str, picture)) or 'nothing'}.")
    labels = np.asarray(picture["labels"])
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"{where}: labels must be (N,) integers, received {labels.dtype} of shape {labels.shape}.")
    labels = labels.astype(np.int64)
    if labels.size and (labels.min() < -1 or labels.max() >= num_classes):
        wrong = labels[(labels < -1) | (labels >= num_classes)][0]
        raise DataError(
            f"{where} has label {wrong}, but there are {num_classes} classes (0..{num_classes - 1}). Name every class; "
            "background is none, and -1 marks padded rows."
        )
    count = len(labels)
    rows = np.flatnonzero(labels >= 0)
    boxes = _numbers(picture["boxes"], (count, 4), f"{where}: boxes")[rows]
    if (boxes[:, 2:] < boxes[:, :2]).any():
        wrong = boxes[(boxes[:, 2:] < boxes[:, :2]).any(axis=1)][0].tolist()
        raise DataError(f"{where}: box {wrong} ends before it begins. Boxes are (x1, y1, x2, y2) in pixels.")
    if detected and "scores" not in picture:
        raise DataError(f"{where} has no scores. Average precision ranks detections by them.")

    def optional(key: str, wanted: bool = True) -> np.ndarray | None:
        return _numbers(picture[key], (count,), f"{where}: {key}")[rows] if wanted and key in picture else None

    scores, crowd, difficult = optional("scores", detected), optional("crowd"), optional("difficult")
    nothing = np.zeros(len(rows), bool)
    size = _size(picture, where)
    return Objects(
        boxes=boxes,
        labels=labels[rows],
        scores=np.ones(len(rows)) if scores is None else scores,
        crowd=nothing if crowd is None or detected else crowd.astype(bool),
        difficult=nothing if difficult is None or detected else difficult.astype(bool),
        rows=rows,
        area=optional("area", not detected),
        masks=_masks(picture, count, rows, where) if kind == "masks" else None,
        keypoints=_keypoints(picture, count, rows, where) if kind == "keypoints" else None,
        size=size,
    )


def check_kind(kind: str) -> None:
    """Raises DataError unless `kind` is one of `KINDS`."""
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(KINDS)}, received {kind!r}.")


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes as a tuple; DataError where there are none or `classes` is one string."""
    if isinstance(classes, str) or not len(classes):
        raise DataError(f"classes must be a sequence of at least one name, background not among them; got {classes!r}.")
    return tuple(str(name) for name in classes)


def as_crop(mask: Mask) -> Crop:
    """A mask as the pixels of a window; that of a run-length code is the whole picture."""
    if isinstance(mask, Crop):
        return mask
    pixels = rle_decode(mask) != 0
    return Crop((0, 0, pixels.shape[1], pixels.shape[0]), pixels)


def as_code(mask: Mask, size: tuple[int, int] | None) -> dict[str, Any]:
    """A mask as a run-length code with a list of counts that fill the picture.

    Args:
        mask: a crop, of which what lies outside the picture is cut off, or a run-length code.
        size: (height, width) of the picture; None takes that of a code.

    Raises:
        DataError: the size is not known, or a code has another one or is damaged.
    """
    if not isinstance(mask, Crop):
        height, width = rle_size(mask)
        if size is not None and (height, width) != size:
            raise DataError(f"the picture is {size[0]} x {size[1]} pixels (height x width), a mask {height} x {width}.")
        counts = mask["counts"]
        counts = rle_from_string(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
        if sum(counts) != height * width or min(counts, default=0) < 0:  # COCO's program would trust it
            raise DataError(f"a run-length code covers {sum(counts)} pixels, its picture has {height} x {width}.")
        return {"size": [height, width], "counts": counts}
    if size is None:
        raise DataError("masks by windows need the size of their picture. Give size=(height, width).")
    height, width = size
    x1, y1, x2, y2 = mask.window
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right <= left or bottom <= top:
        return {"size": [height, width], "counts": [height * width]}
    return rle_encode(mask.pixels[top - y1 : bottom - y1, left - x1 : right - x1], (left, top, right, bottom), size)


def _size(picture: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "size" in picture:
        size = np.asarray(picture["size"])
        if size.shape != (2,) or (size <= 0).any():
            raise DataError(f"{where}: size must be (height, width) in pixels, received {size.tolist()}.")
        return int(size[0]), int(size[1])
    for sides in (np.shape(picture.get("image", 0))[:2], np.shape(picture.get("instance_masks", 0))[1:3]):
        if len(sides) == 2:
            return int(sides[0]), int(sides[1])
    return None


def _masks(picture: Mapping[str, Any], count: int, rows: np.ndarray, where: str) -> list[Mask]:
    if "mask_pixels" in picture and "mask_windows" in picture:
        return _crops(picture["mask_pixels"], picture["mask_windows"], count, rows, where)
    if "instance_masks" in picture:
        dense = np.asarray(picture["instance_masks"])
        if dense.ndim != 3 or len(dense) != count:
            raise DataError(f"{where}: instance_masks must be ({count}, H, W), received shape {dense.shape}.")
        height, width = dense.shape[1:]
        return [Crop((0, 0, width, height), dense[row] != 0) for row in rows]
    masks = picture.get("masks")
    if masks is None and count == 0:
        return []
    if masks is None:
        raise DataError(f"{where} has no masks. Give mask_pixels and mask_windows, instance_masks, or masks (RLE).")
    if len(masks) != count or not all(isinstance(m, Mapping) and {"size", "counts"} <= set(m) for m in masks):
        raise DataError(
            f"{where}: masks must be a list of {count} run-length codes with size and counts, received "
            f"{type(masks).__name__} of {len(masks)}. Paste a detector's masks into the picture first "
            "(geometry.masks.paste_masks_numpy) and give mask_pixels and mask_windows."
        )
    return [masks[row] for row in rows]


def _crops(pixels: Any, windows: Any, count: int, rows: np.ndarray, where: str) -> list[Mask]:
    windows = _numbers(windows, (count, 4), f"{where}: mask_windows").astype(np.int64)
    try:
        crops = split_masks(pixels, windows)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return [Crop(tuple(windows[row].tolist()), np.asarray(crops[row]) != 0) for row in rows]


def _keypoints(picture: Mapping[str, Any], count: int, rows: np.ndarray, where: str) -> np.ndarray:
    if "keypoints" not in picture:
        if count == 0:
            return np.zeros((0, 0, 3))
        raise DataError(f"{where} has no keypoints.")
    points = np.asarray(picture["keypoints"], np.float64)
    if count == 0 and points.size == 0:
        return np.zeros((0, points.shape[1] if points.ndim == 3 else 0, 3))
    if points.ndim != 3 or len(points) != count or points.shape[2] != 3:
        raise DataError(f"{where}: keypoints must be ({count}, K, 3), received shape {points.shape}.")
    return _numbers(points, points.shape, f"{where}: keypoints")[rows]


def _numbers(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.size == 0 and 0 in shape:
        return np.zeros(shape)
    if values.shape != shape:
        raise DataError(f"{what} must have shape {shape} to fit the labels, received {values.shape}.")
    if not np.isfinite(values).all():
        raise DataError(f"{what} hold numbers that are not finite. Look for a diverged training or a damaged label.")
    return values
