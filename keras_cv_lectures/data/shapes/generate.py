"""Examples by number, and a source of them."""

from __future__ import annotations

from functools import partial

import numpy as np

from keras_cv_lectures.data.shapes.render import render
from keras_cv_lectures.data.shapes.scene import SHAPE_CLASSES, make_scene
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


def shapes_source(count: int = 400, *, size: tuple[int, int] = (96, 128), seed: int = 0, max_shapes: int = 6) -> Source:
    """Examples 0 ... count - 1 of `seed`, each drawn when it is read.

    Train and validate with different seeds: no picture is shared between two of them. A source with a larger `count`
    begins with the same examples.

    Args:
        count: number of examples.
        size: (height, width) in pixels, each at least 16.
        seed: 0 ... 2**32 - 1.
        max_shapes: the most shapes in one picture; 5 % of the pictures have none.

    Raises:
        DataError: an argument is out of range.
    """
    if not 0 < count < 2**32:
        raise DataError(f"count must be an integer from 1 to 2**32 - 1, received {count!r}")
    make_scene(seed, 0, size, max_shapes)  # complains about an argument now rather than at the first read
    return Source(
        name=f"shapes seed {seed}",
        ids=tuple(f"shapes-{seed}-{index:06d}" for index in range(count)),
        read=partial(draw_example, seed, size=tuple(size), max_shapes=max_shapes),
        classes=("background", *SHAPE_CLASSES),
        colors=_CLASS_COLORS,
    )


def draw_example(seed: int, index: int, size: tuple[int, int], max_shapes: int = 6) -> dict[str, np.ndarray]:
    """Example `index` of `seed`; see `render` for its fields.

    Raises:
        DataError: an argument is out of range.
    """
    return render(make_scene(seed, index, size, max_shapes), size)
