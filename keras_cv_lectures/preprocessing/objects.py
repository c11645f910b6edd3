"""What a random map does to the objects of an example: boxes, masks, keypoints, and which of them stay."""

from __future__ import annotations

import tensorflow as tf

from keras_cv_lectures.geometry import warps
from keras_cv_lectures.preprocessing.random_map import RandomMap

# Keys with one row per object: what leaves the picture leaves all of them.
PER_OBJECT = (
    "boxes",
    "labels",
    "instance_masks",
    "masks",
    "mask_windows",
    "keypoints",
    "attributes",
    "phrases",
    "crowd",
    "difficult",
    "area",
)

# An object's box under rotation or elastic deformation is the box around this many mapped points per edge.
_POINTS_PER_EDGE = 16

# Refinements of an elastic field for single pixels; an error shrinks to a third or less in each.
_PIXEL_STEPS = 4

# Of coordinates, in pixels.
_ROUNDING = 1e-3


def warp_objects(
    example: dict[str, tf.Tensor],
    result: dict[str, tf.Tensor],
    warp: RandomMap,
    *,
    min_visible: float,
    keypoint_flip: tuple[int, ...] | None,
    mask_size: int,
) -> dict[str, tf.Tensor]:
    """Boxes, labels, masks, keypoints, areas; `result` already holds the warped dense instance masks, if there are any.

    Compact masks (`mask_pixels`, `mask_windows`) become `masks` (M, mask_size, mask_size) uint8 over the new
    `mask_windows` (M, 4) float32, which are the objects' new boxes; without
    `boxes`, the windows are the boxes. `area` is scaled, and of a cut object multiplied by the share that is seen.
    """
    if "keypoints" in example:
        result["keypoints"] = _warp_keypoints(example["keypoints"], keypoint_flip, warp)
    compact = "mask_pixels" in example
    if compact:
        pixels = tf.not_equal(tf.reshape(example["mask_pixels"], [-1]), 0)
        windows = tf.cast(tf.reshape(example["mask_windows"], [-1, 4]), tf.int32)
        example = {"boxes": windows, **example}
    boxed = "boxes" in example
    if not boxed and "instance_masks" not in example:
        return result
    if boxed:
        boxes = tf.cast(example["boxes"], tf.float32)
        mapped = warps.boxes_around(warp.points(warps.box_outlines(boxes, 1 if warp.exact else _POINTS_PER_EDGE)))
        clipped = tf.clip_by_value(mapped, 0.0, warp.limits)
        visible = tf.math.divide_no_nan(_area(clipped), _area(mapped))
        uncut = tf.reduce_all(clipped == mapped, axis=-1) & warp.exact
        final = clipped
    if compact:
        visible, tight = _visible_parts(pixels, windows, warp, ~uncut & ~warp.whole)
    elif "instance_masks" in example:
        masks = tf.not_equal(result["instance_masks"], 0)
        before = tf.reduce_sum(tf.cast(example["instance_masks"] != 0, tf.float32), axis=(1, 2))
        after = tf.reduce_sum(tf.cast(masks, tf.float32), axis=(1, 2))
        visible = tf.math.divide_no_nan(after, before * warp.factors[0] * warp.factors[1])
        tight = _boxes_of_masks(masks)
    if compact or "instance_masks" in example:
        # A box that only moved keeps its fractions of a pixel; a cut or turned object gets the box of what is seen.
        final = tf.where(uncut[:, None], clipped, tight) if boxed else tight
    # One pixel, less the rounding of coordinates.
    broad = tf.reduce_all(final[:, 2:] - final[:, :2] > 0.999, axis=1)
    keep = ((visible >= min_visible) & broad) | warp.whole
    if boxed:
        final = tf.where(warp.whole, clipped, final)
        result["boxes"] = final
    if compact:
        del result["mask_pixels"]
        result["mask_windows"] = final
        result["masks"] = _sample_crops(pixels, windows, final, warp, mask_size)
        keep &= tf.reduce_any(result["masks"] > 0, axis=(1, 2)) | warp.whole
    if "area" in example:
        result["area"] = tf.cast(example["area"], tf.float32) * (warp.factors[0] * warp.factors[1] * visible)
    for key in PER_OBJECT:
        if key in result:
            result[key] = tf.boolean_mask(result[key], keep)
    return result


def _visible_parts(
    pixels: tf.Tensor, windows: tf.Tensor, warp: RandomMap, wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Shares (N,) of the compact masks that stay visible, and boxes (N, 4) around what is visible of them.

    Only objects that are `wanted` (N,) are looked at; the others are wholly visible, and have no box.
    """
    count = tf.shape(windows)[0]
    width, height, starts = _layout(windows)

    def look() -> tuple[tf.Tensor, tf.Tensor]:
        owner = tf.repeat(tf.range(count), width * height)
        index = tf.cast(tf.where(pixels & tf.gather(wanted, owner))[:, 0], tf.int32)
        owner = tf.gather(owner, index)
        place, across = index - tf.gather(starts, owner), tf.gather(width, owner)
        row = place // across
        column = place - row * across
        x = tf.cast(column + tf.gather(windows[:, 0], owner), tf.float32) + 0.5
        y = tf.cast(row + tf.gather(windows[:, 1], owner), tf.float32) + 0.5
        # Counted without the elastic field, which would take a second for large objects and hardly changes a share.
        matrix = warp.forward
        moved = [matrix[k, 0] * x + (matrix[k, 1] * y + matrix[k, 2]) for k in range(2)]
        inside = tf.cast(warps.inside(*moved, tf.unstack(warp.frame)), tf.float32)
        seen, total = (tf.math.unsorted_segment_sum(part, owner, count) for part in (inside, tf.ones_like(inside)))
        share = tf.where(wanted, tf.math.divide_no_nan(seen, total), 1.0)
        # What the box is around are border pixels: those that have no neighbour on one of four sides.
        last = tf.shape(pixels)[0] - 1
        neighbours = (
            (column > 0, index - 1),
            (column + 1 < across, index + 1),
            (row > 0, index - across),
            (row + 1 < tf.gather(height, owner), index + across),
        )
        surrounded = tf.ones_like(column, tf.bool)
        for exists, at in neighbours:
            surrounded &= exists & tf.gather(pixels, tf.clip_by_value(at, 0, last))
        border = tf.where(~surrounded)[:, 0]
        x, y, owner = (tf.gather(values, border) for values in (x, y, owner))
        tight = _box_of_pixels(tf.stack([x, y], axis=-1), owner, count, warp)
        return share, _with_corners(tight, pixels, windows, warp)

    nothing = tf.zeros_like(windows, tf.float32)
    return tf.cond(tf.reduce_any(wanted), look, lambda: (tf.ones_like(nothing[:, 0]), nothing))


def _box_of_pixels(centres: tf.Tensor, owner: tf.Tensor, count: tf.Tensor, warp: RandomMap) -> tf.Tensor:
    """Boxes (count, 4) around the pixels (P, 2) of each owner (P,), mapped and cut at the frame; empty: low > high."""
    moved = warp.points(centres, _PIXEL_STEPS)
    half = tf.sqrt(tf.reduce_sum(tf.square(warp.forward[:2, :2]), axis=1)) / 2.0
    low, high = tf.maximum(moved - half, 0.0), tf.minimum(moved + half, warp.limits[:2])
    # Half a pixel of the picture or of the output: slivers would stretch the boxes of what a slanted cut leaves.
    seen = tf.where(tf.reduce_all(high - low > tf.minimum(half, 0.5) - _ROUNDING, axis=-1))[:, 0]
    low, high, owner = (tf.gather(values, seen) for values in (low, high, owner))
    # Segments without a pixel hold the largest and the smallest number of float32.
    return tf.concat(
        [tf.math.unsorted_segment_min(low, owner, count), tf.math.unsorted_segment_max(high, owner, count)], axis=1
    )


def _with_corners(boxes: tf.Tensor, pixels: tf.Tensor, windows: tf.Tensor, warp: RandomMap) -> tf.Tensor:
    """Boxes (N, 4) grown to those corners of the frame that their objects cover; zeros where nothing is seen.

    Where the frame cuts an object, the cut ends either at the object's border or at a corner of the frame.
    """
    limits = warp.limits[:2]
    corners = limits * tf.constant([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    x, y = tf.unstack(warp.origins(tf.clip_by_value(corners, 0.5, limits - 0.5)), axis=-1)
    covered = tf.not_equal(_look_up(pixels, windows, x[None], y[None], warp.source_size), 0)[..., None]
    low = tf.minimum(boxes[:, :2], tf.reduce_min(tf.where(covered, corners, boxes.dtype.max), axis=1))
    high = tf.maximum(boxes[:, 2:], tf.reduce_max(tf.where(covered, corners, boxes.dtype.min), axis=1))
    return tf.where(tf.reduce_all(low < high, axis=1)[:, None], tf.concat([low, high], axis=1), 0.0)


def _sample_crops(pixels: tf.Tensor, windows: tf.Tensor, boxes: tf.Tensor, warp: RandomMap, size: int) -> tf.Tensor:
    """Compact masks at `size` x `size` points over each box (N, 4) of the output: (N, size, size) uint8, 0 or 1."""
    steps = (tf.range(size, dtype=tf.float32) + 0.5) / size
    x, y = (boxes[:, k, None] + (boxes[:, k + 2] - boxes[:, k])[:, None] * steps for k in range(2))
    matrix = warp.inverse
    columns, rows = ((matrix[k, 0] * x)[:, None, :] + (matrix[k, 1] * y + matrix[k, 2])[:, :, None] for k in range(2))
    if warp.coarse is not None:
        # The field is a sum of products of a function of x and one of y, and the matrix is linear: no point needs its
        # own interpolation. What it gives for nodes that are 1 in one row, or in one column, are those functions.
        nodes = warp.coarse.shape[0]
        one_hot = tf.tile(tf.eye(nodes)[:, None], [1, nodes, 1])
        of_y = warps.displacement(one_hot, tf.stack([y, y], axis=-1), warp.size)
        of_x = warps.displacement(tf.transpose(one_hot, [1, 0, 2]), tf.stack([x, x], axis=-1), warp.size)
        field = tf.einsum("kd,rcd->krc", matrix[:2, :2], warp.coarse)
        columns += tf.matmul(tf.matmul(of_y, field[0]), of_x, transpose_b=True)
        rows += tf.matmul(tf.matmul(of_y, field[1]), of_x, transpose_b=True)
    return tf.ensure_shape(_look_up(pixels, windows, columns, rows, warp.source_size), [None, size, size])


def _look_up(pixels: tf.Tensor, windows: tf.Tensor, x: tf.Tensor, y: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """uint8 values of each object's mask at points of its own (N, ...), or of all (1, ...); 0 outside of its crop."""
    width, height, starts = (tf.reshape(values, [-1] + [1] * (x.shape.rank - 1)) for values in _layout(windows))
    left, top = (tf.reshape(windows[:, k], tf.shape(width)) for k in range(2))
    # A point between two pixels belongs to the right or lower one, as in `warps.nearest_index`.
    margin = warps.tie_margin((size[0], size[1]))
    column = tf.cast(tf.floor(x + margin), tf.int32) - left
    row = tf.cast(tf.floor(y + margin), tf.int32) - top
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # Outside of the crop stands a zero behind the last pixel.
    index = tf.where(inside, starts + row * width + column, tf.shape(pixels)[0])
    return tf.gather(tf.pad(tf.cast(pixels, tf.uint8), [[0, 1]]), index)


def _layout(windows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Width, height and first pixel of each crop, (N,) int32."""
    width, height = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    return width, height, tf.cumsum(width * height, exclusive=True)


def _warp_keypoints(keypoints: tf.Tensor, partners: tuple[int, ...] | None, warp: RandomMap) -> tf.Tensor:
    if partners is not None:
        count = keypoints.shape[1]
        if count not in (None, len(partners)):
            raise ValueError(f"keypoint_flip: expected {count} indices, one per keypoint, received {partners}.")
        order = tf.where(warp.mirrored, tf.constant(partners), tf.range(len(partners)))
        keypoints = tf.gather(keypoints, order, axis=1)
    moved = warp.points(keypoints[..., :2])
    seen = warps.inside(moved[..., 0], moved[..., 1], tf.unstack(warp.frame)) & (keypoints[..., 2] > 0)
    return tf.where(seen[..., None], tf.concat([moved, keypoints[..., 2:]], axis=-1), 0.0)


def _boxes_of_masks(masks: tf.Tensor) -> tf.Tensor:
    """Boxes (N, 4) around masks (N, H, W) bool; zeros for an empty mask."""
    sides = []
    for axis in (1, 2):
        line = tf.cast(tf.reduce_any(masks, axis=axis), tf.int32)
        first = tf.argmax(line, axis=1, output_type=tf.int32)
        last = tf.shape(line)[1] - tf.argmax(line[:, ::-1], axis=1, output_type=tf.int32)
        sides.append((first, tf.where(tf.reduce_any(masks, axis=(1, 2)), last, 0)))
    (x1, x2), (y1, y2) = sides
    return tf.cast(tf.stack([x1, y1, x2, y2], axis=1), tf.float32)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
