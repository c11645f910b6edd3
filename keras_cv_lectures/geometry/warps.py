"""Moving pictures and points: matrices, smooth displacement fields, sampling at coordinates.

Everything is a pure function on TensorFlow tensors, eager or in a graph, in float32. Coordinates are `(x, y)` in
pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1), so its centre is (j + 0.5, i + 0.5). A matrix is (3, 3) and
maps column vectors `(x, y, 1)`. A picture is warped by the *inverse* map (where does each output pixel come from),
points and boxes by the *forward* map.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

Border = Literal["reflect", "constant"]


def translation(dx: tf.Tensor | float, dy: tf.Tensor | float) -> tf.Tensor:
    """Matrix (3, 3) that moves points by `(dx, dy)` pixels."""
    return _matrix([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def scaling(sx: tf.Tensor | float, sy: tf.Tensor | float) -> tf.Tensor:
    """Matrix (3, 3) that multiplies x by `sx` and y by `sy`; a negative factor mirrors."""
    return _matrix([[sx, 0.0, 0.0], [0.0, sy, 0.0], [0.0, 0.0, 1.0]])


def rotation(radians: tf.Tensor | float) -> tf.Tensor:
    """Matrix (3, 3) that turns points about the origin, clockwise as seen on the screen (y points down)."""
    radians = tf.cast(radians, tf.float32)
    c, s = tf.cos(radians), tf.sin(radians)
    return _matrix([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def compose(*matrices: tf.Tensor) -> tf.Tensor:
    """One matrix (3, 3) that applies the given ones in the order of the arguments, the first one first."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = tf.matmul(matrix, result)
    return result


def about(matrix: tf.Tensor, x: tf.Tensor | float, y: tf.Tensor | float) -> tf.Tensor:
    """`matrix` applied about the point `(x, y)` instead of the origin."""
    return compose(translation(-x, -y), matrix, translation(x, y))


def inverse(matrix: tf.Tensor) -> tf.Tensor:
    """Inverse of an affine (3, 3) matrix, in closed form (exact for flips and whole-pixel shifts)."""
    (a, b, c), (d, e, f), _ = (tf.unstack(row) for row in tf.unstack(matrix))
    det = a * e - b * d
    return _matrix(
        [[e / det, -b / det, (b * f - c * e) / det], [-d / det, a / det, (c * d - a * f) / det], [0.0, 0.0, 1.0]]
    )


def transform_points(points: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Maps points (..., 2) by an affine matrix (3, 3)."""
    # Products and sums, not matmul: exact where the matrix only flips or shifts, whatever the number of points.
    x, y = points[..., 0], points[..., 1]
    rows = matrix[:2]
    return tf.stack([row[0] * x + row[1] * y + row[2] for row in tf.unstack(rows)], axis=-1)


def box_outlines(boxes: tf.Tensor, per_edge: int = 1) -> tf.Tensor:
    """Points (N, 4 * per_edge, 2) along the outline of boxes (N, 4); with one per edge, the corners."""
    step = np.arange(per_edge, dtype=np.float32) / per_edge
    zero, one = np.zeros_like(step), np.ones_like(step)
    x = np.concatenate([step, one, 1 - step, zero])
    y = np.concatenate([zero, step, one, 1 - step])
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    # Blended, not low + t * (high - low), so that the corners are the box's own numbers.
    t = tf.constant(np.stack([x, y], axis=-1)[None])
    return low * (1 - t) + high * t


def boxes_around(points: tf.Tensor) -> tf.Tensor:
    """Smallest boxes (N, 4) that hold the points (N, P, 2)."""
    return tf.concat([tf.reduce_min(points, axis=1), tf.reduce_max(points, axis=1)], axis=-1)


def transform_boxes(boxes: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Boxes (N, 4) around the mapped corners of boxes (N, 4); exact without rotation, generous with it."""
    return boxes_around(transform_points(box_outlines(boxes), matrix))


def displacement(coarse: tf.Tensor, points: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Displacement (..., 2) at any points (..., 2) of a smooth field given by a coarse grid.

    Args:
      coarse: (G, G, 2) displacements `(dx, dy)` in pixels, rows from top to bottom. The outer nodes lie on the border
        of the picture, the others at equal distances; G >= 2.
      points: (..., 2) `(x, y)` in pixels; outside the picture the field keeps its value of the nearest border point.
      size: (height, width) of the picture that the grid spans, in pixels.
    """
    nodes = coarse.shape[0]
    rows = _cubic_basis(points[..., 1] / size[0], nodes)
    columns = _cubic_basis(points[..., 0] / size[1], nodes)
    return tf.einsum("...r,...c,rcd->...d", rows, columns, coarse)


def dense_displacement(coarse: tf.Tensor, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """`displacement` at all pixel centres, as two planes dx and dy of shape (height, width)."""
    nodes = coarse.shape[0]
    rows = _cubic_basis((tf.range(size[0], dtype=tf.float32) + 0.5) / size[0], nodes)
    columns = _cubic_basis((tf.range(size[1], dtype=tf.float32) + 0.5) / size[1], nodes)
    planes = [tf.matmul(tf.matmul(rows, coarse[..., k]), columns, transpose_b=True) for k in range(2)]
    return planes[0], planes[1]


def undo_displacement(coarse: tf.Tensor, points: tf.Tensor, size: tuple[int, int], steps: int = 20) -> tf.Tensor:
    """Solves `q + displacement(q) = p` for every point p of (..., 2) by fixed-point iteration.

    The error shrinks by the steepness of the field (largest change of displacement per pixel) in each step; the field
    must not fold, which means a steepness below 1.
    """

    def closer(found: tf.Tensor) -> tuple[tf.Tensor]:
        return (points - displacement(coarse, found, size),)

    # A loop in the graph: unrolled, its hundreds of small operations take seconds to trace.
    return tf.while_loop(lambda found: True, closer, (points,), maximum_iterations=steps)[0]


def sampling_grid(
    matrix: tf.Tensor, size: tuple[int, int], coarse: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each output pixel comes from: planes x and y, each (height, width), in pixels of the input.

    Args:
      matrix: (3, 3) inverse map from output to input coordinates.
      size: (height, width) of the output.
      coarse: (G, G, 2) grid of displacements, in output pixels, that are added to the output pixel before `matrix` maps
        it; see `displacement`.
    """
    columns = tf.range(size[1], dtype=tf.float32)[None, :] + 0.5
    rows = tf.range(size[0], dtype=tf.float32)[:, None] + 0.5
    x = matrix[0, 0] * columns + (matrix[0, 1] * rows + matrix[0, 2])
    y = matrix[1, 0] * columns + (matrix[1, 1] * rows + matrix[1, 2])
    if coarse is not None:
        # The map is linear in the displacement, so the few grid nodes are mapped instead of every pixel.
        dx, dy = dense_displacement(tf.einsum("ij,rcj->rci", matrix[:2, :2], coarse), size)
        x, y = x + dx, y + dy
    return x, y


def inside(x: tf.Tensor, y: tf.Tensor, size: tuple[tf.Tensor | int, tf.Tensor | int]) -> tf.Tensor:
    """Whether points lie on a picture of `size` (height, width): bool, the shape of `x`."""
    height, width = (tf.cast(value, tf.float32) for value in size)
    return (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)


def tie_margin(size: tuple[tf.Tensor | int, tf.Tensor | int]) -> tf.Tensor:
    """What is added to coordinates in a picture of `size` (height, width) before they are rounded down, in pixels.

    A sample point that falls on the line between two pixels (every one does when a picture is halved) belongs to the
    right or lower pixel; without this margin, some roundings of float32, they would choose at random.
    """
    height, width = (tf.cast(value, tf.float32) for value in size)
    return tf.minimum(tf.maximum(height, width) * 2.0**-20, 1e-3)


def nearest_index(x: tf.Tensor, y: tf.Tensor, size: tuple[tf.Tensor | int, tf.Tensor | int]) -> tf.Tensor:
    """Index `row * width + column`, int32 of the shape of `x`, of the pixel at each point, mirrored at the borders.

    A coordinate that is not finite gives the first row or column.
    """
    margin = tie_margin(size)
    height, width = (tf.cast(value, tf.float32) for value in size)
    x, y = (tf.where(tf.math.is_finite(value), value, 0.0) for value in (x, y))
    column = tf.clip_by_value(tf.floor(_mirror(x + margin, width)), 0.0, width - 1.0)
    row = tf.clip_by_value(tf.floor(_mirror(y + margin, height)), 0.0, height - 1.0)
    # Added as integers: float32 cannot count the pixels of a picture beyond 4096 x 4096.
    return tf.cast(row, tf.int32) * tf.cast(width, tf.int32) + tf.cast(column, tf.int32)


def sample_nearest(
    labels: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *, border: Border = "reflect", fill: int | float = 0
) -> tf.Tensor:
    """Values of the pixels at the points; the dtype stays, nothing is interpolated.

    Args:
      labels: (..., h, w) of any dtype.
      x, y: (H, W) coordinates in pixels of `labels`; what is not finite gives the first row or column under "reflect".
      border: "reflect" mirrors the picture at its borders, "constant" gives `fill` outside.

    Returns:
      (..., H, W).
    """
    size = (tf.shape(labels)[-2], tf.shape(labels)[-1])
    lead = tf.shape(labels)[:-2]
    flat = tf.reshape(labels, tf.concat([lead, [size[0] * size[1]]], 0))
    values = tf.gather(flat, nearest_index(x, y, size), axis=-1)
    if border == "constant":
        values = tf.where(inside(x, y, size), values, tf.cast(fill, labels.dtype))
    return values


def sample_bilinear(
    image: tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor,
    *,
    border: Border = "reflect",
    fill: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Bilinear interpolation at the points, float32.

    Args:
      image: (h, w, C), integer or float.
      x, y: (H, W) coordinates in pixels of `image`.
      border: "reflect" mirrors the picture at its borders; "constant" gives `fill` (a number, or one per channel) at
        points outside the picture, without blending into it, so that it agrees with `sample_nearest`.

    Returns:
      (H, W, C).
    """
    height, width, channels = (tf.shape(image)[k] for k in range(3))
    # The mirrored picture repeats its border pixel, so within half a pixel of the border the value is constant: a clip.
    u = tf.clip_by_value(_mirror(x, tf.cast(width, tf.float32)) - 0.5, 0.0, tf.cast(width - 1, tf.float32))
    v = tf.clip_by_value(_mirror(y, tf.cast(height, tf.float32)) - 0.5, 0.0, tf.cast(height - 1, tf.float32))
    # The left pixel stays one before the last, so that its right neighbour exists; there the fraction becomes 1.
    left = tf.minimum(tf.cast(u, tf.int32), tf.maximum(width - 2, 0))
    top = tf.minimum(tf.cast(v, tf.int32), tf.maximum(height - 2, 0))
    fx = (u - tf.cast(left, tf.float32))[..., None]
    fy = (v - tf.cast(top, tf.float32))[..., None]
    right = tf.minimum(width - 1, 1)
    below = tf.where(height > 1, width, 0)
    flat = tf.reshape(image, [-1, channels])
    index = top * width + left
    corners = [tf.cast(tf.gather(flat, index + step), tf.float32) for step in (0, right, below, below + right)]
    upper = corners[0] + fx * (corners[1] - corners[0])
    lower = corners[2] + fx * (corners[3] - corners[2])
    values = upper + fy * (lower - upper)
    if border == "constant":
        values = tf.where(inside(x, y, (height, width))[..., None], values, tf.cast(fill, tf.float32))
    return tf.ensure_shape(values, [*x.shape, image.shape[-1]])


def _matrix(rows: list[list]) -> tf.Tensor:
    return tf.stack([tf.stack([tf.cast(value, tf.float32) for value in row]) for row in rows])


def _mirror(x: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Folds coordinates into [0, length]: ... c b a | a b c | c b a ..., any number of times."""
    turned = x - 2.0 * length * tf.floor(x / (2.0 * length))
    return tf.where(turned > length, 2.0 * length - turned, turned)


def _cubic_basis(positions: tf.Tensor, nodes: int) -> tf.Tensor:
    """Weights (..., nodes) of bicubic interpolation at positions (...), 0 = first node and 1 = last node.

    Keys' kernel with a = -1/2. Beyond the outer nodes the grid is continued in a straight line, so that a field that is
    linear in the nodes stays linear up to the border.
    """
    extended = np.zeros((nodes + 2, nodes), np.float32)
    extended[1:-1] = np.eye(nodes)
    extended[0, :2] = (2, -1)
    extended[-1, -2:] = (-1, 2)
    places = tf.clip_by_value(positions, 0.0, 1.0) * (nodes - 1)
    distance = tf.abs(places[..., None] - np.arange(-1, nodes + 1, dtype=np.float32))
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    kernel = tf.where(distance <= 1.0, near, tf.where(distance < 2.0, far, 0.0))
    return tf.tensordot(kernel, tf.constant(extended), axes=1)
