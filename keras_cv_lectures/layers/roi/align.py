"""RoIAlign (He, Gkioxari, Dollar, Girshick, Mask R-CNN, ICCV 2017) on one map and on the maps of a pyramid."""

from __future__ import annotations

import itertools
import math
import re

import keras
from keras import ops

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers.roi.base import AlignLayer, fixed

Shape = tuple[int | None, ...]

# torchvision adds it to the level before rounding down.
_LEVEL_EPSILON = 1e-6


@keras.saving.register_keras_serializable("keras_cv_lectures")
class RoIAlign(AlignLayer):
    """Features of boxes on one map: every bin is the mean of bilinear samples at exact places.

    Input shape: [features (B, H, W, C), boxes (B, R, 4)]. Every size but C may be unknown.
    Output shape: (B, R, h, w, C) in the compute dtype; the places are computed in float32 under any policy.

    A box of length b in map pixels has h (or w) bins of length b / h; sample k of n in bin p is at
    `start + (p + (k + 0.5) / n) * b / h`, where pixel i has its centre at i. Samples less than a pixel beyond the
    outermost centres take the nearest pixel, others are 0. No gradient reaches the boxes.

    Paper: https://arxiv.org/abs/1703.06870. Differs from the paper: the samples are those of torchvision; with
    `aligned=False`, its default too, pixel i stands for [i - 0.5, i + 0.5) and boxes are at least one pixel long.

    Args:
        output_size: (h, w), or one number for both.
        scale: pixels of the map per pixel of the boxes, such as 1 / 16. None: boxes are in pixels of the map.
        sampling_ratio: samples along each side of a bin; 0 takes ceil(b / h) of them, box by box, and is meant for
            small maps, as it multiplies with all pixels: a pixel that is NaN reaches every box.
        aligned: shift the boxes by half a pixel, so that pixel i stands for [i, i + 1), and leave small boxes small.
        rule: "torchvision", or "model_garden": no smallest box, and no sample is 0.
        implementation: "auto", "sparse" (a sparse product, TensorFlow without XLA) or "gather" (any runtime). "auto" is
            "sparse" on the TensorFlow backend outside of `portable_operators`. The numbers agree but for rounding.

    Raises:
        ValueError: for settings outside of these.

    >>> ramp = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> RoIAlign(2, sampling_ratio=1, aligned=True)([ramp, np.array([[[0, 0, 4, 4]]], "float32")])[0, 0, :, :, 0]
    [[2.5, 4.5], [10.5, 12.5]]
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scale: float | None = None,
        sampling_ratio: int = 2,
        aligned: bool = False,
        rule: str = "torchvision",
        implementation: str = "auto",
        **kwargs,
    ):
        super().__init__(output_size, sampling_ratio, aligned, rule, implementation, **kwargs)
        self.scale = scale

    def call(self, inputs):
        features, boxes = inputs
        return self.align([features], None, fixed(boxes), [1.0 if self.scale is None else self.scale])

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        features, boxes = input_shape
        return features[0], boxes[1], *self.output_size, features[3]

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MultiLevelRoIAlign(AlignLayer):
    """`RoIAlign` on the maps of a pyramid: a box of side s is read from level `canonical_level + log2(s / 224)`.

    Call: `layer(features, boxes, image_size=...)` with

    * features: the maps (B, H, W, C), each of half the size of the one before, or of the same (see `roi_levels`); a
      list, or a dict whose names end in the level, such as {"p2": ..., "p5": ...}, in any order;
    * boxes (B, R, 4) in pixels of the picture;
    * image_size: the padded picture's (height, width) as numbers or as a tensor (2,), or the picture itself
      (B, H, W, any), of which the shape alone is read. It gives the strides, rounded to powers of two, and may be left
      out where `strides` are set.

    Output shape: (B, R, h, w, C).

    Paper: https://arxiv.org/abs/1612.03144, equation 1, and https://arxiv.org/abs/1703.06870. Differs from the paper:
    as `RoIAlign`; torchvision adds 1e-6 to the level before rounding it down, Model Garden does not.

    Args:
        output_size, sampling_ratio, aligned, rule, implementation: as for `RoIAlign`.
        canonical_scale: side in pixels of the boxes that are read from `canonical_level`.
        canonical_level: that level; level k is the map with stride 2**k.
        strides: pixels of the picture per pixel of each map, such as (4, 8, 16, 32).

    Raises:
        ValueError: for settings outside of these.
        ModelError: for maps and strides of different number, names without a level, and neither strides nor size.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        sampling_ratio: int = 2,
        canonical_scale: float = 224,
        canonical_level: int = 4,
        aligned: bool = False,
        rule: str = "torchvision",
        implementation: str = "auto",
        strides: tuple[float, ...] | None = None,
        **kwargs,
    ):
        super().__init__(output_size, sampling_ratio, aligned, rule, implementation, **kwargs)
        self.canonical_scale, self.canonical_level = canonical_scale, canonical_level
        self.strides = None if strides is None else tuple(strides)

    def call(self, features, boxes, image_size=None):
        maps, boxes = _ordered(features), fixed(boxes)
        strides = self._strides(maps, image_size)
        levels = None
        if len(maps) > 1:
            levels = roi_levels(boxes, strides, self.canonical_scale, self.canonical_level, self.rule)
        return self.align(maps, levels, boxes, [1 / stride for stride in strides])

    def compute_output_shape(self, features_shape, boxes_shape, image_size_shape=None) -> Shape:
        # A dict or list of shapes; a shape itself is a list after a model was saved.
        first = _ordered(features_shape)[0]
        return first[0], boxes_shape[1], *self.output_size, first[3]

    def _strides(self, maps: list, image_size) -> list:
        if self.strides is not None:
            if len(self.strides) != len(maps):
                raise ModelError(f"{self.name} has strides={self.strides} for {len(maps)} maps. Pass one for each map.")
            return list(self.strides)
        if image_size is None:
            raise ModelError(
                f"{self.name} does not know how large the picture is. Call it with image_size=(height, width) of the "
                "padded picture, or with the picture, or set `strides`."
            )
        if len(getattr(image_size, "shape", ())) == 4:
            height = ops.shape(image_size)[1]
        else:
            height = image_size[0]
        strides = []
        for each in maps:
            side = ops.shape(each)[1]
            if isinstance(side, int) and not ops.is_tensor(height):
                strides.append(2.0 ** -round(math.log2(side / height)))
            else:
                ratio = ops.cast(height, "float32") / ops.cast(side, "float32")
                strides.append(ops.power(2.0, ops.round(ops.log2(ratio))))
        return strides

    def get_config(self):
        return {
            **super().get_config(),
            "canonical_scale": self.canonical_scale,
            "canonical_level": self.canonical_level,
            "strides": self.strides,
        }


def roi_levels(boxes, strides, canonical_scale: float = 224, canonical_level: int = 4, rule: str = "torchvision"):
    """Which map of a pyramid each box is read from: `floor(canonical_level + log2(side / canonical_scale))`, clipped.

    Args:
        boxes: (..., 4) in pixels; the side is the square root of the area, 0 for a box of negative area.
        strides: of the L maps, each twice the one before, or the same: a map of the same stride adds no level, as in
            torchvision, so that the last of the maps is not read. Numbers, or scalar tensors.
        canonical_scale, canonical_level, rule: as for `MultiLevelRoIAlign`.

    Returns:
        (...,) int32, positions in `strides`, 0 .. L - 1.

    >>> roi_levels([[0, 0, 111, 111], [0, 0, 112, 112], [0, 0, 900, 900]], (4, 8, 16, 32))
    [0, 1, 3]
    """
    boxes = ops.cast(boxes, "float32")
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    side = ops.sqrt(ops.maximum(area, 0.0))
    # Comparing with the smallest side of each level needs no logarithm, so it is the same on every runtime.
    smallest = canonical_scale / 2.0**canonical_level
    if rule == "torchvision":
        smallest = smallest / 2.0**_LEVEL_EPSILON
    # Counted in floats: of two levels the converter takes the one comparison for the level itself, and then fails.
    level = ops.zeros_like(side)
    for finer, stride in itertools.pairwise(strides):
        reached = ops.cast(side >= ops.cast(stride * smallest, "float32"), "float32")
        level = level + reached * ops.cast(stride > finer, "float32")
    return ops.cast(level, "int32")


def _ordered(features) -> list:
    """The maps, or their shapes, from the largest to the smallest."""
    if not isinstance(features, dict):
        return list(features)
    found = {name: re.search(r"\d+$", name) for name in features}
    if not all(found.values()):
        raise ModelError(f"The names of the maps must end in their level, such as p2. Received: {list(features)}")
    return [features[name] for name in sorted(features, key=lambda name: int(found[name].group()))]
