"""What the two RoIAlign layers share: their settings, and the bins of boxes whose map and scale are known."""

from __future__ import annotations

import keras
from keras import ops

from keras_cv_lectures.layers.roi.bins import bin_matrix, bin_samples, scalars
from keras_cv_lectures.layers.roi.weighted import IMPLEMENTATIONS, multiplied, weighted

RULES = ("torchvision", "model_garden")


class AlignLayer(keras.layers.Layer):
    """`RoIAlign` without knowledge of where maps and scales come from."""

    def __init__(self, output_size, sampling_ratio, aligned, rule, implementation, **kwargs):
        # Boxes in bfloat16 would move by pixels, so nothing is cast on the way in.
        super().__init__(autocast=False, **kwargs)
        self.output_size = as_size(output_size)
        if not isinstance(sampling_ratio, int) or sampling_ratio < 0:
            raise ValueError(
                "`sampling_ratio` must be a number of samples along a side of a bin, or 0 to adapt it to the box. "
                f"Received: sampling_ratio={sampling_ratio!r}"
            )
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {RULES}. Received: rule={rule!r}")
        if rule == "model_garden" and sampling_ratio == 0:
            raise ValueError('`sampling_ratio` must be at least 1 with rule="model_garden". Received: sampling_ratio=0')
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}. Received: {implementation!r}")
        self.sampling_ratio, self.aligned, self.rule = sampling_ratio, bool(aligned), rule
        self.implementation = implementation
        # Keras asks before it compiles a model for XLA, which has no sparse product.
        self.supports_jit = implementation == "gather" or keras.backend.backend() != "tensorflow"

    def align(self, maps: list, levels, boxes, scales: list):
        maps = [ops.cast(each, self.compute_dtype) for each in maps]
        sizes = [ops.shape(each)[1:3] for each in maps]
        if len(maps) == 1:
            scale = ops.cast(scales[0], "float32")
            limits = [ops.full_like(boxes[..., 0], 1.0) * ops.cast(side, "float32") for side in sizes[0]]
        else:
            scale = ops.take(scalars(scales, "float32"), levels)[..., None]
            limits = [ops.take(scalars([size[axis] for size in sizes], "float32"), levels) for axis in (0, 1)]
        boxes = boxes * scale - (0.5 if self.aligned else 0.0)
        start, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
        if not self.aligned and self.rule == "torchvision":
            size = ops.maximum(size, 1.0)
        (x, y), (width, height) = ((each[..., 0], each[..., 1]) for each in (start, size))
        down, right = self.output_size
        if self.sampling_ratio == 0:
            matrices = [(bin_matrix(y, height, size[0], down), bin_matrix(x, width, size[1], right)) for size in sizes]
            return multiplied(maps, levels, matrices)
        reach = 1.0 if self.rule == "torchvision" else None
        rows = bin_samples(y, height, limits[0], down, self.sampling_ratio, reach=reach)
        columns = bin_samples(x, width, limits[1], right, self.sampling_ratio, reach=reach)
        return weighted(maps, levels, rows, columns, self.implementation)

    def get_config(self):
        return {
            **super().get_config(),
            "output_size": self.output_size,
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.aligned,
            "rule": self.rule,
            "implementation": self.implementation,
        }


def as_size(output_size) -> tuple[int, int]:
    """(h, w) of one number or two."""
    size = tuple(output_size) if isinstance(output_size, (list, tuple)) else (output_size, output_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"`output_size` must be (h, w), or one number, all positive. Received: {output_size!r}")
    return size


def fixed(boxes):
    """Boxes in float32 that no gradient reaches."""
    return ops.stop_gradient(ops.cast(boxes, "float32"))
