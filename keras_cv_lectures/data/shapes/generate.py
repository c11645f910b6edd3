"""Examples by number, and a source of them."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from keras_cv_lectures.data.shapes.render import caption_text, is_clear, render
from keras_cv_lectures.data.shapes.scene import KEYPOINT_FLIP, KEYPOINT_NAMES, SHAPE_CLASSES, Scene, make_scene
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError

# Of the mask's classes in pictures of predictions; a shape's own color is drawn independently of its class.
_CLASS_COLORS = (
    (0, 0, 0),
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (23, 190, 207),
)
# An unclear scene gives way to one of another index: odd, so that no two are one, and far from those in use.
_STRIDE, _TRIES = 2_654_435_761, 200


def shapes_source(
    count: int = 400,
    *,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    max_shapes: int = 6,
    clear: bool = False,
) -> Source:
    """Examples 0 ... count - 1 of `seed`, each drawn when it is read.

    Train and validate with different seeds: no picture is shared between two of them. A source with a larger `count`
    begins with the same examples.

    Args:
        count: number of examples.
        size: (height, width) in pixels, each at least 16.
        seed: 0 ... 2**32 - 1.
        max_shapes: the most shapes in one picture; 5 % of the pictures have none.
        clear: only scenes whose captions are beyond doubt, see `is_clear`: shapes that are hardly hidden and clearly
            left of each other. Few scenes of many shapes are, so pictures with few become more frequent.

    Raises:
        DataError: an argument is out of range.
    """
    if not 0 < count < 2**32:
        raise DataError(f"count must be an integer from 1 to 2**32 - 1, received {count!r}")
    size = tuple(size)
    make_scene(seed, 0, size, max_shapes)  # complains about an argument now rather than at the first read
    draw = partial(draw_example, seed, size=size, max_shapes=max_shapes, clear=clear)
    scene = partial(_scene, seed, size=size, max_shapes=max_shapes, clear=clear)
    return Source(
        name=f"shapes seed {seed}",
        ids=tuple(f"shapes-{seed}-{index:06d}" for index in range(count)),
        read=draw,
        classes=("background", *SHAPE_CLASSES),
        colors=_CLASS_COLORS,
        object_classes=SHAPE_CLASSES,
        keypoint_names=KEYPOINT_NAMES,
        keypoint_flip=KEYPOINT_FLIP,
        captions_at=lambda index: (caption_text(scene(index), size),),
    )


def draw_example(
    seed: int, index: int, size: tuple[int, int], max_shapes: int = 6, clear: bool = False
) -> dict[str, np.ndarray]:
    """Example `index` of `seed`; see `render` for its fields, and `shapes_source` for the arguments.

    Raises:
        DataError: an argument is out of range.
    """
    return render(_scene(seed, index, size, max_shapes, clear), size)


def _scene(seed: int, index: int, size: tuple[int, int], max_shapes: int, clear: bool) -> Scene:
    scene = make_scene(seed, index, size, max_shapes)
    for attempt in range(1, _TRIES):
        if not clear or is_clear(scene, size):
            break
        # Fewer and fewer shapes, so that an end is certain: a picture of one shape is hardly ever unclear.
        fewer = max(1, max_shapes - attempt // 20)
        scene = make_scene(seed, (index + attempt * _STRIDE) % 2**32, size, fewer)
    return dataclasses.replace(scene, image_id=f"shapes-{seed}-{index:06d}")
