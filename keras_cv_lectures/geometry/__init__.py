"""Pure functions on tensors, without variables: coordinates, matrices, sampling.

Coordinates are `(x, y)` in pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1), its centre is (j+0.5, i+0.5).
Boxes are (N, 4) `(x1, y1, x2, y2)`. Everything is float32, and every function accepts zero points or boxes.
"""

from keras_cv_lectures.geometry.warps import (
    about,
    box_outlines,
    boxes_around,
    compose,
    dense_displacement,
    displacement,
    inside,
    inverse,
    nearest_index,
    rotation,
    sample_bilinear,
    sample_nearest,
    sampling_grid,
    scaling,
    transform_boxes,
    transform_points,
    translation,
    undo_displacement,
)

__all__ = [
    "about",
    "box_outlines",
    "boxes_around",
    "compose",
    "dense_displacement",
    "displacement",
    "inside",
    "inverse",
    "nearest_index",
    "rotation",
    "sample_bilinear",
    "sample_nearest",
    "sampling_grid",
    "scaling",
    "transform_boxes",
    "transform_points",
    "translation",
    "undo_displacement",
]
