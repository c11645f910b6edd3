"""Run-length codes of masks in COCO's format, and polygons drawn by COCO's rule. NumPy only.

A code is a dict `{"size": [H, W], "counts": ...}`: the lengths of the runs of 0 and 1 in turn, beginning with 0, of the
mask read column by column. Counts are a list of numbers, or a text of printable characters (COCO's "compressed" form:
differences to the run before the last, in groups of five bits from the lowest, character 48 + group, 32 more if another
group follows). The results equal those of pycocotools bit for bit; its 2.0.11 is what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError

RLE = dict[str, Any]

# pycocotools draws polygons on a grid this much finer than the pixels.
_FINER = 5
# A coordinate beyond this would need gigabytes of outline points; no picture is this large.
_FARTHEST = 1e6
# Steps of an outline on that grid, each of which takes a hundred bytes for a moment: three million pixels.
_LONGEST = 1 << 24


def rle_encode(
    mask: np.ndarray,
    window: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    *,
    compress: bool = False,
) -> RLE:
    """Run-length code of one mask, or of a picture that is 0 outside of a crop.

    Args:
      mask: (H, W), not 0 where the object is; or a crop (h, w) when `window` says where it lies.
      window: `(x1, y1, x2, y2)` half-open in pixels, inside the picture. The picture itself is never made, so coding
        hundreds of small objects of a large picture is cheap.
      size: (height, width) of the picture; needed with `window`.
      compress: counts as text instead of a list.

    Raises:
      ValueError: the mask has not two axes, or does not fit the window, or the window the picture.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W). Received shape {mask.shape}. Encode stacked masks one by one.")
    if window is None:
        window, size = (0, 0, mask.shape[1], mask.shape[0]), mask.shape
    if size is None:
        raise ValueError("size must be the (height, width) of the picture when window is given. Received None.")
    x1, y1, x2, y2 = (int(edge) for edge in window)
    height, width = (int(side) for side in size)
    if mask.shape != (y2 - y1, x2 - x1) or (mask.size and not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height)):
        raise ValueError(
            f"window must lie in the picture and have the mask's size. Received window ({x1}, {y1}, {x2}, {y2}), "
            f"picture {height}x{width}, mask {mask.shape[0]}x{mask.shape[1]} (height x width)."
        )
    counts = _counts_of(mask != 0, x1, y1, height, width)
    return {"size": [height, width], "counts": _compress(counts) if compress else counts.tolist()}


def rle_decode(rle: Mapping[str, Any], size: tuple[int, int] | None = None) -> np.ndarray:
    """Mask (H, W) uint8 of a run-length code, its counts as a list or as text (str or bytes).

    Args:
      rle: `{"size": [H, W], "counts": ...}`, such as a "segmentation" of a COCO file.
      size: (height, width) the code must have. Give it for codes of unknown origin: it is compared before any memory
        is asked for.

    Raises:
      DataError: the code is damaged, does not fill its picture exactly, or has another size than `size`.
    """
    height, width = rle_size(rle)
    if size is not None and (height, width) != tuple(int(side) for side in size):
        raise DataError(
            f"a run-length code is for a picture of {height}x{width}, but its picture has {size[0]}x{size[1]} "
            "(height x width). Repair the annotation, or the size of its picture."
        )
    counts = _counts(rle)
    if int(counts.sum()) != height * width:
        raise DataError(
            f"the runs of a run-length code sum to {int(counts.sum())}, not to the {height * width} pixels of its size "
            f"{height}x{width}. The annotation is damaged: remove or repair it."
        )
    values = np.arange(len(counts)) % 2
    return np.ascontiguousarray(np.repeat(values.astype(np.uint8), counts).reshape(width, height).T)


def rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a run-length code.

    Raises:
      DataError: there is no size of two whole numbers.
    """
    try:
        height, width = (int(side) for side in rle["size"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError(
            'a run-length code must be {"size": [height, width], "counts": ...}; its size is not.'
        ) from None
    if min(height, width) < 0 or height * width > 2**31:
        raise DataError(f"the size of a run-length code must be that of a picture, not {height}x{width}.")
    return height, width


def rle_area(rle: Mapping[str, Any]) -> int:
    """Number of pixels of the object.

    Raises:
      DataError: the counts are damaged.
    """
    return int(_counts(rle)[1::2].sum())


def rle_to_string(counts: Sequence[int]) -> str:
    """COCO's text for a list of counts.

    >>> rle_to_string([2, 3, 1])
    '231'
    """
    return _compress(np.asarray(counts, np.int64).reshape(-1))


def rle_from_string(text: str | bytes) -> list[int]:
    """The counts in COCO's text.

    Raises:
      DataError: the text holds other characters, or ends inside a number.
    """
    return _decompress(text).tolist()


def polygons_to_mask(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) uint8 of an object given by one or more outlines, drawn exactly as pycocotools does.

    The outline is drawn on a grid of a fifth of a pixel; where it crosses the middle of a pixel column, the column
    changes from out to in or back, from the pixel whose centre lies below the crossing. An outline that crosses itself
    is filled by the even-odd rule; several outlines are united. The tests compare random outlines, also crossing
    themselves and leaving the picture, with pycocotools 2.0.11: no pixel differs.

    Args:
      polygons: each `[x1, y1, x2, y2, ...]` in pixels, at least three points, closed by itself. Points may lie outside
        of the picture.
      size: (height, width) of the picture in pixels.

    Raises:
      DataError: an outline has fewer than three points, half a point, coordinates that are no plain numbers, or
        millions of pixels along its edge.
    """
    height, width = (int(side) for side in size)
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        toggles = np.bincount(_toggles(_points(polygon), height, width), minlength=height * width + 1)
        mask |= (np.cumsum(toggles[: height * width]) % 2 == 1).reshape(width, height).T
    return mask.astype(np.uint8)


def _counts_of(mask: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """Runs of a picture that is 0 but for the crop `mask` (h, w) bool with its first pixel at (x, y)."""
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.T
    steps = np.diff(columns, axis=1)
    # Per column one first pixel and one pixel behind the last for every run, in the order of reading.
    starts, ends = ((np.stack(np.nonzero(steps == sign)) + [[x], [y]]) for sign in (1, -1))
    starts, ends = starts[0] * height + starts[1], ends[0] * height + ends[1]
    # A run that goes on at the top of the next column is one run.
    joined = starts[1:] == ends[:-1]
    edges = np.stack([starts[np.r_[True, ~joined][: len(starts)]], ends[np.r_[~joined, True][: len(ends)]]], axis=1)
    total = height * width
    counts = np.diff(np.concatenate([[0], edges.reshape(-1), [total]]))
    # Like pycocotools: no empty run at the end, but an empty picture is one run of its 0 pixels.
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _counts(rle: Mapping[str, Any]) -> np.ndarray:
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        values = _decompress(counts)
    else:
        try:
            values = np.asarray(counts)
            whole = values.ndim == 1 and (values.size == 0 or values.dtype.kind in "iu")
            values = values.astype(np.int64) if whole else None
        except (TypeError, ValueError, OverflowError):
            values = None
        if values is None:
            raise DataError("the counts of a run-length code must be a list of whole numbers or COCO's text.")
    if values.size and (values.min() < 0 or values.max() > 2**31):
        raise DataError("the counts of a run-length code must not be negative or larger than a picture.")
    return values


def _compress(counts: np.ndarray) -> str:
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    groups, present = [], []
    going = np.ones(len(values), bool)
    while going.any():
        group = values & 31
        values = values >> 5
        # Bit 4 of the last group is the sign: a number ends when what is left only repeats it.
        more = np.where(group & 16, values != -1, values != 0)
        groups.append(group + 32 * more + 48)
        present.append(going)
        going = going & more
    if not groups:
        return ""
    return np.stack(groups, 1)[np.stack(present, 1)].astype(np.uint8).tobytes().decode("ascii")


def _decompress(text: str | bytes) -> np.ndarray:
    if isinstance(text, str):
        # What is not ASCII becomes bytes above 127, which are refused below.
        text = text.encode("utf-8", "surrogatepass")
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(groups):
        return np.zeros(0, np.int64)
    last = np.flatnonzero(groups & 32 == 0)
    if groups.min() < 0 or groups.max() > 63 or not len(last) or last[-1] != len(groups) - 1:
        raise DataError("the text of a run-length code is damaged: remove or repair the annotation.")
    first = np.r_[0, last[:-1] + 1]
    place = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    if place.max() > 9:
        raise DataError("the text of a run-length code holds a number that no picture needs: it is damaged.")
    values = np.add.reduceat((groups & 31) << 5 * place, first)
    values -= np.where(groups[last] & 16, 1 << 5 * (place[last] + 1), 0)
    # Each number from the fourth on is a difference to the one two places before it.
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def _points(polygon: Sequence[float]) -> np.ndarray:
    """Points (P, 2) of an outline, float64."""
    try:
        flat = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        flat = None
    if flat is None or flat.ndim != 1 or flat.size < 6 or flat.size % 2:
        raise DataError(
            "a polygon must be a list [x1, y1, x2, y2, ...] of at least three points; received "
            f"{repr(polygon)[:80]}. Remove or repair the annotation."
        )
    if not (np.abs(flat) <= _FARTHEST).all():
        raise DataError(f"the coordinates of a polygon must be finite numbers of pixels: {repr(polygon)[:80]}.")
    return flat.reshape(-1, 2)


def _toggles(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Positions `column * height + row` where the inside of an outline begins or ends, reading column by column."""
    corners = (_FINER * points + 0.5).astype(np.int64)  # cuts towards 0, as a C cast does
    u, v = _outline(corners)
    crossing = np.flatnonzero(u[1:] != u[:-1]) + 1
    # A step between fine columns 5 x + 2 and 5 x + 3 passes the middle of pixel column x.
    left = np.minimum(u[crossing], u[crossing - 1])
    column, rest = np.divmod(left - _FINER // 2, _FINER)
    kept = (rest == 0) & (column >= 0) & (column < width)
    lower = np.minimum(v[crossing], v[crossing - 1])[kept]
    row = np.ceil(np.clip((lower + 0.5) / _FINER - 0.5, 0.0, height)).astype(np.int64)
    return column[kept] * height + row


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All points (u, v) of the fine grid on the closed outline through `corners` (P, 2) int64."""
    begin, end = corners, np.roll(corners, -1, axis=0)
    length = np.abs(end - begin)
    steps = length.max(axis=1)
    if int(steps.sum()) > _LONGEST:
        raise DataError(
            f"the outline of {len(corners)} points is {int(steps.sum()) // _FINER:,} pixels long, more than any "
            "object's. Remove or repair the annotation."
        )
    flat = length[:, 0] >= length[:, 1]
    # Each edge is drawn along its longer axis in growing direction, so that it does not depend on who draws it.
    along = np.where(flat[:, None], [[0, 1]], [[1, 0]])
    begin, end = (np.take_along_axis(ends, along, axis=1) for ends in (begin, end))
    turned = begin[:, 0] > end[:, 0]
    start = np.where(turned[:, None], end, begin)
    rise = np.where(turned[:, None], begin, end)[:, 1] - start[:, 1]
    slope = rise / np.maximum(steps, 1)
    edge = np.repeat(np.arange(len(steps)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    step = np.where(turned[edge], steps[edge] - step, step)
    long = start[edge, 0] + step
    short = (start[edge, 1] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(flat[edge], long, short), np.where(flat[edge], short, long)
