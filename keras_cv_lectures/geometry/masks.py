"""Masks of objects: compact storage, and pasting onto pictures. NumPy.

A mask is stored compactly as the pixels of a window around the object: `mask_pixels` (P,) uint8 0/1 holds the row-major
crops of all objects one after the other, `mask_windows` (N, 4) int32 the half-open windows `(x1, y1, x2, y2)` in pixels
that the crops cover. Run-length codes and polygons are in `geometry.rle`, training targets in `geometry.mask_targets`;
their functions are found here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_cv_lectures.geometry.mask_targets import mask_targets
from keras_cv_lectures.geometry.rle import (
    polygons_to_mask,
    rle_area,
    rle_decode,
    rle_encode,
    rle_from_string,
    rle_size,
    rle_to_string,
)

__all__ = [
    "mask_targets",
    "pack_crops",
    "pack_masks",
    "paste_masks_numpy",
    "place_crops",
    "polygons_to_mask",
    "rle_area",
    "rle_decode",
    "rle_encode",
    "rle_from_string",
    "rle_size",
    "rle_to_string",
    "split_masks",
    "unpack_masks",
]

PasteRule = Literal["torchvision", "detectron2", "model_garden"]


def pack_masks(masks: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Dense masks in compact form, each with the smallest window that holds it.

    Args:
      masks: (N, H, W), not 0 where the object is; N may be 0.

    Returns:
      `(mask_pixels (P,) uint8, mask_windows (N, 4) int32)`. An empty mask has the window (0, 0, 0, 0) and no pixels.
    """
    crops, windows = [], np.zeros((len(masks), 4), np.int32)
    for index, mask in enumerate(masks):
        mask = np.asarray(mask) != 0
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            continue
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        windows[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        crops.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return pack_crops(crops), windows


def pack_crops(crops: Sequence[np.ndarray]) -> np.ndarray:
    """`mask_pixels` (P,) uint8 of crops (h, w), not 0 where the object is, in the order of their windows."""
    return np.concatenate([np.zeros(0, np.uint8), *[(np.asarray(crop) != 0).reshape(-1) for crop in crops]]).astype(
        np.uint8
    )


def split_masks(pixels: np.ndarray, windows: np.ndarray) -> list[np.ndarray]:
    """The crops (h, w) of compact masks, as views of `pixels`.

    Raises:
      ValueError: the windows do not cover exactly the pixels.
    """
    pixels, windows = np.asarray(pixels), np.asarray(windows).reshape(-1, 4).astype(np.int64)
    heights, widths = windows[:, 3] - windows[:, 1], windows[:, 2] - windows[:, 0]
    ends = np.cumsum(heights * widths)
    if (heights < 0).any() or (widths < 0).any() or pixels.shape != (ends[-1] if len(ends) else 0,):
        raise ValueError(
            f"mask_windows must cover as many pixels as mask_pixels holds. Received {len(windows)} windows of "
            f"{ends[-1] if len(ends) else 0} pixels, and mask_pixels of shape {pixels.shape}."
        )
    begins = ends - heights * widths
    shapes = zip(begins, ends, heights, widths, strict=True)
    return [pixels[begin:end].reshape(height, width) for begin, end, height, width in shapes]


def unpack_masks(pixels: np.ndarray, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Dense masks (N, H, W) of compact ones, in the dtype of `pixels`; 0 outside of the windows.

    Args:
      pixels: (P,) the crops one after the other.
      windows: (N, 4) int32 `(x1, y1, x2, y2)`; what lies outside of the picture is cut off.
      size: (height, width) of the picture in pixels.

    Raises:
      ValueError: the windows do not cover exactly the pixels.
    """
    return place_crops(split_masks(pixels, windows), windows, size, np.asarray(pixels).dtype)


def place_crops(
    crops: Sequence[np.ndarray], windows: np.ndarray, size: tuple[int, int], dtype: np.dtype | type = np.float32
) -> np.ndarray:
    """Pictures (N, H, W) that are 0 but for the crop (h, w) in its window; what lies outside of `size` is cut off."""
    height, width = (int(side) for side in size)
    masks = np.zeros((len(crops), height, width), dtype)
    for mask, crop, (x1, y1, x2, y2) in zip(masks, crops, np.asarray(windows).reshape(-1, 4).tolist(), strict=True):
        left, top = max(-x1, 0), max(-y1, 0)
        if x2 > 0 and y2 > 0 and x1 < width and y1 < height:
            mask[y1 + top : y2, x1 + left : x2] = crop[top : height - y1, left : width - x1]
    return masks


def paste_masks_numpy(
    masks: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    rule: PasteRule = "torchvision",
    *,
    threshold: float | None = None,
    crops: bool = False,
) -> np.ndarray | tuple[list[np.ndarray], np.ndarray]:
    """Mask probabilities of a head, resampled from their boxes onto the picture.

    Args:
      masks: (D, m, n) float probabilities, one mask a detection, spread over its box.
      boxes: (D, 4) `(x1, y1, x2, y2)` in pixels of the picture; may reach beyond it.
      size: (height, width) of the picture.
      rule: where the pixels sample the mask.
        "torchvision": the mask gets a border of one cell of 0 and the box grows with it; its edges are cut to whole
        numbers, and the mask is resized to the pixels from the first to the last, both counted. This is Detectron's
        rule; thin objects move by up to half a pixel. The box grows by (n + 2) / n both ways, whatever m is.
        "detectron2": every pixel samples at its centre, with 0 beyond the mask's cells; exact. Like detectron2 on a
        CPU, no pixel farther than one from the box gets a value.
        "model_garden": Model Garden's `paste_instance_masks`, which is Detectron's rule too; the box grows by the
        larger one of (m + 2) / m and (n + 2) / n.
      threshold: None gives the probabilities; a number gives uint8 masks, 1 where the probability is above it, for
        "detectron2" also where it is equal. All three libraries use 0.5.
      crops: return the pixels around each object only. 300 objects on a picture of 12 megapixels are 14 GB of dense
        float32; their crops take what their boxes cover.

    Returns:
      (D, H, W) float32, or uint8 under a threshold; or with `crops` the list of D crops (h, w) and the (D, 4) int32
      windows that they cover, cut at the picture. With a threshold, `pack_crops(crops)` and the windows are compact
      masks, and `rle_encode(crop, window, size)` a run-length code. Boxes outside of the picture, without extent or
      not finite (or beyond 10 million pixels) give empty masks, where torchvision gives at least one pixel.

    Raises:
      ValueError: an unknown rule, or shapes other than these.
    """
    masks, boxes = np.asarray(masks, np.float32), np.asarray(boxes, np.float32)
    if rule not in _SPANS:
        raise ValueError(f"rule must be one of {', '.join(_SPANS)}. Received {rule!r}.")
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            "masks must be (D, m, n) and boxes (D, 4) with the same D. "
            f"Received shapes {masks.shape} and {boxes.shape}. Choose the mask of each detection's class first."
        )
    height, width = (int(side) for side in size)
    dtype = np.float32 if threshold is None else np.uint8
    dense = None if crops else np.zeros((len(masks), height, width), dtype)
    pieces, windows = [np.zeros((0, 0), dtype)] * len(masks), np.zeros((len(masks), 4), np.int32)
    # A padded row of a detector is a box of zeros; it must not become a pixel at the corner.
    usable = (np.abs(boxes) < 1e7).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for index in np.flatnonzero(usable):
        x1, columns, y1, rows = _SPANS[rule](boxes[index], masks.shape[1:], (height, width))
        if not len(columns) or not len(rows):
            continue
        windows[index] = x1, y1, x1 + len(columns), y1 + len(rows)
        values = _interpolate_rows(_interpolate_rows(np.pad(masks[index].T, 1), columns).T, rows)
        if threshold is not None:
            values = (values >= threshold if rule == "detectron2" else values > threshold).astype(np.uint8)
        if crops:
            pieces[index] = values
        else:
            dense[index, y1 : y1 + len(rows), x1 : x1 + len(columns)] = values
    return (pieces, windows) if crops else dense


def _detectron_span(
    box: np.ndarray, cells: tuple[int, int], size: tuple[int, int]
) -> tuple[int, np.ndarray, int, np.ndarray]:
    """First column and the place in the mask of each one, first row and the place of each one, inside the picture.

    Places count cells from the border of 0 around the mask: its first cell is 1.
    """
    return _grown_span(box, cells, size, max((side + 2.0) / side for side in cells))


def _torchvision_span(
    box: np.ndarray, cells: tuple[int, int], size: tuple[int, int]
) -> tuple[int, np.ndarray, int, np.ndarray]:
    """As `_detectron_span`, but the box grows by the border's share of the width alone."""
    return _grown_span(box, cells, size, (cells[1] + 2.0) / cells[1])


def _grown_span(
    box: np.ndarray, cells: tuple[int, int], size: tuple[int, int], scale: float
) -> tuple[int, np.ndarray, int, np.ndarray]:
    """As `_detectron_span`, of a box that grows by a factor of `scale`."""
    scale = np.float32(scale)
    result = []
    for low, high, number, side in ((box[0], box[2], cells[1], size[1]), (box[1], box[3], cells[0], size[0])):
        middle, half = (high + low) * np.float32(0.5), (high - low) * np.float32(0.5) * scale
        first, last = int(middle - half), int(middle + half)
        pixels = np.arange(max(first, 0), min(last + 1, side)) - first
        place = (pixels + np.float32(0.5)) * np.float32((number + 2) / (last - first + 1)) - np.float32(0.5)
        result += [max(first, 0), np.clip(place, 0, number + 1)]
    return tuple(result)


def _centre_span(
    box: np.ndarray, cells: tuple[int, int], size: tuple[int, int]
) -> tuple[int, np.ndarray, int, np.ndarray]:
    """As `_detectron_span`, sampling at the centres of the pixels."""
    result = []
    for low, high, number, side in ((box[0], box[2], cells[1], size[1]), (box[1], box[3], cells[0], size[0])):
        first = max(int(np.floor(low)) - 1, 0)
        pixels = np.arange(first, min(int(np.ceil(high)) + 1, side), dtype=np.float32)
        place = (pixels + np.float32(0.5) - low) / (high - low) * np.float32(number) + np.float32(0.5)
        result += [first, np.clip(place, 0, number + 1)]
    return tuple(result)


def _interpolate_rows(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of (h, w) at fractional places (P,) in 0 .. h - 1: (P, w) float32.

    Not a product of matrices: for pieces this small the threads of the linear algebra cost more than they help, ten
    times as much where other programs are running.
    """
    above = np.minimum(places.astype(np.int64), len(values) - 2)
    share = (places - above).astype(np.float32)[:, None]
    result = values[above] * (1 - share)
    result += values[above + 1] * share
    return result


_SPANS = {"torchvision": _torchvision_span, "detectron2": _centre_span, "model_garden": _detectron_span}
