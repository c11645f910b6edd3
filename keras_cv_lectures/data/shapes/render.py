"""A scene becomes an example: exact masks and labels from pixel centres, an anti-aliased picture from 4x4 samples."""

from __future__ import annotations

import numpy as np

from keras_cv_lectures.data.shapes.captions import CLEAR_GAP, CLEAR_SHARE, caption_of
from keras_cv_lectures.data.shapes.scene import LARGE, MIN_SIDE, Background, Scene, Shape
from keras_cv_lectures.data.shapes.words import describe
from keras_cv_lectures.errors import DataError

MIN_VISIBLE = 12  # pixels; a shape that shows fewer is not painted
_SAMPLES = 4  # per pixel and axis
# Nonzero, because SeedSequence([a, b, 0]) equals SeedSequence([a, b]).
_NOISE_STREAM, _WORDS_STREAM = 1, 2


def render(scene: Scene, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Paints `scene` on a picture of `size` (height, width) and labels it.

    Returns:
        The example, N shapes, back to front:

        - `image` (H, W, 3) uint8.
        - `mask` (H, W) int32, 0 background, 1 + label where the pixel's centre lies inside a shape.
        - `instance_masks` (N, H, W) uint8 0/1 of the visible part, `boxes` (N, 4) float32 (x1, y1, x2, y2) around it.
        - `labels` (N,) int32, index into `SHAPE_CLASSES`; `attributes` (N, 2) strings: "small" or "large" (by the full
          shape, also where part of it is hidden), and the name of the color.
        - `keypoints` (N, 5, 3) float32 x, y, visibility: 2 visible, 1 under another shape, 0 outside the picture (x and
          y are then 0). The center of a ring is a point of it although the hole shows what lies behind.
        - `captions` (1,) string, the one description of `caption_of`, and `caption_objects` (W,) int32: for each of its
          words the shape (0 ... N - 1) that it is the noun of, or -1.
        - `sentences` (C,), `questions` (Q, 2) and `phrases` (N,) strings, `image_id` a str.

    Raises:
        DataError: `size` is too small.
    """
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise DataError(f"size must be (height, width), each at least {MIN_SIDE} pixels, received {size!r}")
    shapes, visible = _visible_shapes(scene.shapes, size)
    labels, attributes, boxes = _described(shapes, visible, size)
    caption, caption_objects = caption_of(labels, attributes, boxes, size)
    mask = np.zeros(size, np.int32)
    for shape, part in zip(shapes, visible, strict=True):
        mask[part.astype(bool)] = 1 + shape.label
    return {
        "image": _paint(shapes, scene.background, size, scene.seed),
        "mask": mask,
        "instance_masks": visible,
        "boxes": boxes,
        "labels": labels,
        "attributes": attributes,
        "keypoints": _keypoints(shapes, size),
        "captions": np.array([caption], dtype=np.str_),
        "caption_objects": caption_objects,
        **describe(labels, attributes, boxes, size, _stream(scene.seed, _WORDS_STREAM)),
        "image_id": scene.image_id,
    }


def caption_text(scene: Scene, size: tuple[int, int]) -> str:
    """The caption that `render` gives, without painting the picture."""
    shapes, visible = _visible_shapes(scene.shapes, size)
    return caption_of(*_described(shapes, visible, size), size)[0]


def is_clear(scene: Scene, size: tuple[int, int]) -> bool:
    """Whether nobody could doubt the caption: each shape shows most of itself, and one is left of the other for sure.

    A shape must show `CLEAR_SHARE` of its area, and all shapes have horizontal centres `CLEAR_GAP` of the width apart.
    """
    shapes, visible = _visible_shapes(scene.shapes, size)
    boxes = _boxes(visible)
    areas = [_area(shape.contours) for shape in shapes]
    shown = np.count_nonzero(visible, axis=(1, 2)) >= CLEAR_SHARE * np.array(areas)
    columns = np.sort((boxes[:, 0] + boxes[:, 2]) / 2)
    return len(shapes) == len(scene.shapes) and shown.all() and (np.diff(columns) >= CLEAR_GAP * size[1]).all()


def _described(shapes: list[Shape], visible: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Labels (N,), attributes (N, 2) and boxes (N, 4) of what is painted."""
    labels = np.array([shape.label for shape in shapes], np.int32).reshape(-1)
    attributes = np.array(
        [("large" if shape.radius >= LARGE * min(size) else "small", shape.color) for shape in shapes], dtype=np.str_
    ).reshape(-1, 2)
    return labels, attributes, _boxes(visible)


def _area(contours: tuple[np.ndarray, ...]) -> float:
    """Pixels inside the outer contour and outside the others, which are holes."""
    areas = []
    for x, y in (contour.T for contour in contours):
        areas.append(abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2)
    return areas[0] - sum(areas[1:])


def _visible_shapes(shapes: tuple[Shape, ...], size: tuple[int, int]) -> tuple[list[Shape], np.ndarray]:
    """The shapes that are painted, back to front, and their visible parts (N, H, W) uint8."""
    taken = np.zeros(size, bool)
    kept, parts = [], []
    # Front to back: whether a shape is painted depends only on the painted shapes before it.
    for shape in reversed(shapes):
        part = np.zeros(size, bool)
        window = _window(shape, size)
        if window is None:
            continue
        part[window] = _inside(shape.contours, window, 1)
        part &= ~taken
        if np.count_nonzero(part) >= MIN_VISIBLE:
            taken |= part
            kept.append(shape)
            parts.append(part)
    visible = np.stack(parts[::-1]).astype(np.uint8) if parts else np.zeros((0, *size), np.uint8)
    return kept[::-1], visible


def _paint(shapes: list[Shape], background: Background, size: tuple[int, int], seed: tuple[int, int]) -> np.ndarray:
    canvas = _stretch(background.gradient, size)
    texture = np.zeros((*size, 3))
    for grid in background.texture:
        texture += _stretch(grid, size)
    canvas += texture
    for shape in shapes:
        window = _window(shape, size)
        height, width = (side.stop - side.start for side in window)
        samples = _inside(shape.contours, window, _SAMPLES)
        covered = samples.reshape(height, _SAMPLES, width, _SAMPLES).sum(axis=(1, 3), dtype=np.int64)
        share = covered[..., None] / float(_SAMPLES * _SAMPLES)
        fill = np.array(shape.rgb) + 0.5 * texture[window]
        canvas[window] += share * (fill - canvas[window])
    if background.noise:
        grain = _stream(seed, _NOISE_STREAM).integers(0, 256, size=(2, *size, 3), dtype=np.uint8).astype(np.float64)
        canvas += (grain[0] + grain[1] - 255.0) * (background.noise / 255.0)
    return np.floor(np.clip(canvas, 0.0, 255.0) + 0.5).astype(np.uint8)


def _stretch(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) -> (H, W, C): the grid's outer points lie on the picture's border, smooth steps between them."""
    for axis, length in enumerate(size):
        position = (np.arange(length) + 0.5) * ((grid.shape[axis] - 1) / length)
        cell = position.astype(np.int64)
        t = position - cell
        t = (t * t * (3.0 - 2.0 * t)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        low, high = grid.take(cell, axis), grid.take(cell + 1, axis)
        grid = low + t * (high - low)
    return grid


def _window(shape: Shape, size: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of the pixels that a shape can touch, or None when it lies outside the picture."""
    vertices = np.concatenate(shape.contours)
    low = np.floor(vertices.min(axis=0))
    high = np.ceil(vertices.max(axis=0))
    left, top = (int(max(value, 0)) for value in low)
    right, bottom = int(min(high[0], size[1])), int(min(high[1], size[0]))
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _inside(contours: tuple[np.ndarray, ...], window: tuple[slice, slice], samples: int) -> np.ndarray:
    """Even-odd fill at `samples` points per pixel and axis: (h * samples, w * samples) uint8 0/1.

    Each row of samples meets an edge at one abscissa; from the first sample at or right of it the side changes.
    """
    rows, columns = window
    x0, y0, x1, y1 = _edges(contours)
    height, width = (rows.stop - rows.start) * samples, (columns.stop - columns.start) * samples
    y = rows.start + (np.arange(height) + 0.5) / samples
    row, edge = np.nonzero((y0 <= y[:, None]) != (y1 <= y[:, None]))
    x0, y0, x1, y1, y = x0[edge], y0[edge], x1[edge], y1[edge], y[row]
    x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    first = np.clip(np.ceil((x - columns.start) * samples - 0.5), 0, width).astype(np.int64)
    changes = np.bincount(row * (width + 1) + first, minlength=height * (width + 1)).astype(np.uint8)
    return np.add.accumulate(changes.reshape(height, width + 1), axis=1, dtype=np.uint8)[:, :-1] & 1


def _contains(contours: tuple[np.ndarray, ...], points: np.ndarray) -> np.ndarray:
    """Whether each of the (P, 2) points lies inside, by the same rule as `_inside`."""
    x0, y0, x1, y1 = _edges(contours)
    x, y = points[:, 0:1], points[:, 1:2]
    point, edge = np.nonzero((y0 <= y) != (y1 <= y))
    x0, y0, x1, y1, x, y = x0[edge], y0[edge], x1[edge], y1[edge], x[point, 0], y[point, 0]
    left = x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return np.bincount(point[left], minlength=len(points)) % 2 == 1


def _edges(contours: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    starts = np.concatenate(contours)
    ends = np.concatenate([np.concatenate([contour[1:], contour[:1]]) for contour in contours])
    return starts[:, 0], starts[:, 1], ends[:, 0], ends[:, 1]


def _boxes(masks: np.ndarray) -> np.ndarray:
    """(N, H, W) -> (N, 4) float32, tight around the pixels; every mask has one at least."""
    columns, rows = masks.any(axis=1), masks.any(axis=2)
    x1, y1 = columns.argmax(axis=1), rows.argmax(axis=1)
    x2 = masks.shape[2] - columns[:, ::-1].argmax(axis=1)
    y2 = masks.shape[1] - rows[:, ::-1].argmax(axis=1)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def _keypoints(shapes: list[Shape], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    result = np.zeros((len(shapes), 5, 3), np.float32)
    for i, shape in enumerate(shapes):
        x, y = shape.points[:, 0], shape.points[:, 1]
        shown = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        hidden = np.zeros(len(shape.points), bool)
        for front in shapes[i + 1 :]:
            hidden |= _contains(front.contours, shape.points)
        result[i, :, :2] = shape.points
        result[i, :, 2] = np.where(hidden, 1, 2)
        result[i, ~shown] = 0
    return result


def _stream(seed: tuple[int, int], stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, stream])))
