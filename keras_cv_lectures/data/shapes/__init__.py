"""A generated world of shapes on textured backgrounds that needs no file and labels every task.

`draw_example` gives one example, `shapes_source` a list of them. Besides `image`, `mask`, `boxes`, `labels`,
`instance_masks`, `keypoints`, `captions` and `image_id` of every reader, an example holds `caption_objects`, which
says which word of the one caption names which shape, `sentences` (C,) of other forms, `questions` (Q, 2) strings
(question, answer), `phrases` (N,) strings that refer to exactly one shape each ("" where none does), and `attributes`
(N, 2) strings (size, color). Everything describes the visible part; where a shape shows fewer than `MIN_VISIBLE`
pixels it is not painted at all, so `mask` is exactly the union of `instance_masks`.

The geometry is a `Scene` of polygons: `make_scene` draws its numbers, `Scene.transformed` maps it by an affine matrix,
`render` paints and labels it. Example i of a seed is the same on every machine.
"""

from keras_cv_lectures.data.shapes.captions import CLEAR_GAP, CLEAR_SHARE, EMPTY_CAPTION, caption_of
from keras_cv_lectures.data.shapes.generate import draw_example, shapes_source
from keras_cv_lectures.data.shapes.render import MIN_VISIBLE, caption_text, is_clear, render
from keras_cv_lectures.data.shapes.scene import (
    EMPTY_SHARE,
    KEYPOINT_FLIP,
    KEYPOINT_NAMES,
    SHAPE_CLASSES,
    SHAPE_COLORS,
    Background,
    Scene,
    Shape,
    make_scene,
    make_shape,
)

__all__ = [
    "CLEAR_GAP",
    "CLEAR_SHARE",
    "EMPTY_CAPTION",
    "EMPTY_SHARE",
    "KEYPOINT_FLIP",
    "KEYPOINT_NAMES",
    "MIN_VISIBLE",
    "SHAPE_CLASSES",
    "SHAPE_COLORS",
    "Background",
    "Scene",
    "Shape",
    "caption_of",
    "caption_text",
    "draw_example",
    "is_clear",
    "make_scene",
    "make_shape",
    "render",
    "shapes_source",
]
