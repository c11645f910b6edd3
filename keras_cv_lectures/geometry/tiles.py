"""The overlap-tile strategy: a picture of any size as windows of one size, their outputs side by side.

    plan = plan_tiles((333, 517), window=(572, 572), output=(388, 388), stride=16)
    for tile in plan:
        window = cut_window(picture, tile.origin, plan.window)              # (572, 572, C), mirrored beyond the border
        answer[tile.picture] = network(window)[tile.kept]

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, figure 2.

Differs from the paper: neighbouring windows lie a multiple of the network's stride apart (384 pixels for the paper's
388 outputs), so that their pooling grids coincide and the result equals one pass over the whole mirrored picture; with
the paper's step of 388 the pooling windows of neighbours are shifted against each other. Networks with zero padding are
covered too: the `margin` of each window's output that may have seen that padding is not used.

Everything here is integers and NumPy; sizes are pixels, pairs are (height, width) or (row, column).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_cv_lectures.errors import ModelError

Pair = tuple[int, int]
Region = tuple[slice, slice]


def plan_tiles(
    picture: Pair,
    window: int | Pair,
    *,
    output: int | Pair | None = None,
    margin: int | Pair = 0,
    stride: int | Pair = 1,
) -> TilePlan:
    """Plans the windows that together answer for every pixel of a picture exactly once.

    Args:
        picture: (H, W) of the picture; smaller than one window is fine.
        window: size that the network sees.
        output: size that the network gives for one window, centred in it; None where it equals `window`.
        margin: pixels at each edge of that output which are not used, because they depend on what lies outside the
            window. It is the network's context where the network pads, and 0 where all convolutions are valid.
        stride: the network's total stride; windows lie a multiple of it apart.

    Raises:
        ModelError: if nothing is left of a window's output, naming the smallest window that would do.
    """
    picture, window = _pair(picture), _pair(window)
    output = window if output is None else _pair(output)
    margin, stride = _pair(margin), _pair(stride)
    if min(picture) < 1:
        raise ModelError(f"A picture must have at least one pixel. Received: picture={picture}")
    if min(margin) < 0 or min(stride) < 1:
        raise ModelError(f"`margin` must be >= 0 and `stride` >= 1. Received: margin={margin}, stride={stride}")
    lost = _map(lambda w, o: w - o, window, output)
    if min(lost) < 0:
        raise ModelError(f"A window's output {output} must not be larger than the window {window}.")
    step = _map(lambda o, m, s: (o - 2 * m) // s * s, output, margin, stride)
    if min(step) < 1:
        smallest = _map(lambda d, m, s: d + 2 * m + s, lost, margin, stride)
        raise ModelError(
            f"A window of {window[0]} x {window[1]} pixels is too small for this network: it gives {output[0]} x "
            f"{output[1]} pixels, of which {margin[0]} and {margin[1]} at each edge depend on what lies outside the "
            f"window. Use a window of at least {smallest[0]} x {smallest[1]} pixels; twice that wastes less work."
        )
    return TilePlan(picture, window, output, margin, step, _map(lambda d, m: d // 2 + m, lost, margin))


def cut_window(picture: np.ndarray, origin: Pair, size: Pair) -> np.ndarray:
    """Window of `size` whose top left pixel is picture[origin]; what lies beyond the border is mirrored.

    Mirroring repeats without doubling the border pixels (`numpy.pad(mode="reflect")`), however far beyond the border
    the window reaches. Only the pixels it needs are read, so `picture` may be a `numpy.memmap`.

    Args:
        picture: (H, W, ...) array.
        origin: (row, column), may be negative.
        size: (height, width) of the window.

    Returns:
        New array (height, width, ...) of the picture's dtype.
    """
    rows = mirror_indices(origin[0], origin[0] + size[0], picture.shape[0])
    columns = mirror_indices(origin[1], origin[1] + size[1], picture.shape[1])
    top, left = rows.min(), columns.min()
    part = np.asarray(picture[top : rows.max() + 1, left : columns.max() + 1])
    return part[(rows - top)[:, None], (columns - left)[None, :]]


def mirror_pad(picture: np.ndarray, padding: tuple[Pair, Pair]) -> np.ndarray:
    """Picture (H, W, ...) mirrored by ((top, bottom), (left, right)) pixels: the whole picture as one window."""
    (top, bottom), (left, right) = padding
    height, width = picture.shape[:2]
    return cut_window(picture, (-top, -left), (top + height + bottom, left + width + right))


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
    """Indices into `size` elements for positions start..stop-1 of the endlessly mirrored sequence.

    Size 4 gives ... 2 1 | 0 1 2 3 | 2 1 0 1 2 3 2 ...; size 1 repeats its only element.
    """
    if size == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position)


@dataclass(frozen=True)
class Tile:
    """One window of a plan.

    Attributes:
        origin: (row, column) in the picture of the window's top left pixel; negative beyond the border.
        picture: the picture's pixels that this window answers for, as two slices.
        kept: the same pixels in the window's output, as two slices.
    """

    origin: Pair
    picture: Region
    kept: Region


@dataclass(frozen=True)
class TilePlan:
    """Windows in reading order; `len(plan)` of them, made while iterating.

    Attributes:
        size: (H, W) of the picture.
        window: size of every window.
        output: size of the network's output for one window.
        margin: pixels at each edge of that output which are not used.
        step: distance of neighbouring windows, and size of the block that each answers for (less at the end).
        border: mirrored pixels above and left of the picture: what a single pass must add to give the same answer.
    """

    size: Pair
    window: Pair
    output: Pair
    margin: Pair
    step: Pair
    border: Pair

    @property
    def grid(self) -> Pair:
        """Number of windows (down, across)."""
        return _map(lambda n, s: -(-n // s), self.size, self.step)

    def __len__(self) -> int:
        down, across = self.grid
        return down * across

    def __iter__(self) -> Iterator[Tile]:
        down, across = self.grid
        for row in range(down):
            for column in range(across):
                yield self.tile(row, column)

    def tile(self, row: int, column: int) -> Tile:
        """The window in the given row and column of the grid."""
        start = _map(lambda i, s: i * s, (row, column), self.step)
        length = _map(lambda a, s, n: min(s, n - a), start, self.step, self.size)
        return Tile(
            origin=_map(lambda a, b: a - b, start, self.border),
            picture=_map(lambda a, n: slice(a, a + n), start, length),
            kept=_map(lambda m, n: slice(m, m + n), self.margin, length),
        )


def _pair(value) -> Pair:
    height, width = (value, value) if isinstance(value, (int, np.integer)) else value
    return int(height), int(width)


def _map(function, *pairs) -> tuple:
    """Applies `function` to the heights and to the widths."""
    return tuple(function(*values) for values in zip(*pairs, strict=True))
