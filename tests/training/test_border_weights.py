"""The U-Net paper's weights in the recipe: class weight plus border term, worked by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from keras_cv_lectures.systems import SYSTEMS

RECIPE = SYSTEMS["unet"]
# Two objects with one pixel of background between them: d1 = d2 = 1.
MASK, CLASS_WEIGHTS = np.array([[1, 0, 1]]), [0.5, 2.0]
BORDER = 10 * math.exp(-4 / 50)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    read: Callable


@pytest.mark.parametrize(
    ("loss", "of_pixel"), [("cross_entropy", math.log(2)), ("focal", math.log(2) / 4)], ids=["cross entropy", "focal"]
)
@pytest.mark.parametrize("class_weights", [CLASS_WEIGHTS, None])
def test_the_border_term_is_added_to_the_class_weight(loss, of_pixel, class_weights):
    options = dataclasses.replace(
        RECIPE.options,
        loss=loss,
        border_weights=True,
        class_weights="none" if class_weights is None else "median_frequency",
    )
    source = RECIPE.add_weights(Pictures(read=lambda index: {"mask": MASK}), options, class_weights)
    pairs = np.stack([MASK, source.read(0)["weights"]], axis=-1)[None].astype("float32")
    got = float(RECIPE.make_loss(options, class_weights)(pairs, np.zeros((1, 1, 3, 2), "float32")))
    background, objects = class_weights or (1.0, 1.0)
    assert got == pytest.approx(of_pixel * (2 * objects + background + BORDER) / 3, rel=1e-5)
