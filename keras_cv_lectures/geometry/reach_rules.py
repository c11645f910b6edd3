"""What each kind of layer does to the reach of a pixel: the rules that `receptive.py` follows through a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Span:
    """Along one axis, pixel i depends on picture pixels stride * i + first ... stride * i + last."""

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def then(self, step, first, last) -> Span:
        """Span of a tensor whose pixel j depends on this one's pixels step * j + first ... step * j + last."""
        return Span(self.stride * step, self.stride * first + self.first, self.stride * last + self.last)


@dataclass
class Notes:
    """What concerns the whole graph: the shift that all grids share, whether sizes divide, and whether it pads."""

    period: int = 1
    even: bool = True
    padded: bool = False


# Rules: (operation, traced inputs, output shape, notes) -> spans of the output, or None for unlimited reach. ----


def _pointwise(operation, inputs, shape, notes):
    """Element-wise operations and merging: the union over inputs that lie on one grid."""
    first = inputs[0]
    if any(x.shape[1:3] != first.shape[1:3] for x in inputs) or len(shape) != 4 or shape[1:3] != first.shape[1:3]:
        return None
    if any(x.spans[axis].stride != first.spans[axis].stride for x in inputs for axis in (0, 1)):
        return None
    return tuple(
        Span(
            first.spans[axis].stride,
            min(x.spans[axis].first for x in inputs),
            max(x.spans[axis].last for x in inputs),
        )
        for axis in (0, 1)
    )


def _along_channels(operation, inputs, shape, notes):
    """Operations with an `axis` that must be the last one."""
    axis = operation.axis
    axes = [axis] if isinstance(axis, int) else list(axis)
    return _pointwise(operation, inputs, shape, notes) if axes in ([-1], [3]) else None


def _window(operation, inputs, notes, size, strides, dilation, padding):
    """Convolution or pooling."""
    spans = []
    for axis in (0, 1):
        n, stride = inputs[0].shape[1 + axis], strides[axis]
        extent = (size[axis] - 1) * dilation[axis] + 1
        left = 0
        if padding == "same":
            total = max((-(-n // stride) - 1) * stride + extent - n, 0)
            left = total // 2
            notes.padded |= total > 0
            notes.even &= n % stride == 0
        else:
            # Explicit padding in front (ZeroPadding2D) leaves a remainder on purpose.
            notes.even &= notes.padded or (n - extent) % stride == 0
        spans.append(inputs[0].spans[axis].then(stride, -left, extent - 1 - left))
    return tuple(spans)


def _convolution(operation, inputs, shape, notes):
    return _window(
        operation, inputs, notes, operation.kernel_size, operation.strides, operation.dilation_rate, operation.padding
    )


def _pooling(operation, inputs, shape, notes):
    return _window(operation, inputs, notes, operation.pool_size, operation.strides, (1, 1), operation.padding)


def _square_pooling(operation, inputs, shape, notes):
    pool, stride = (operation.pool_size,) * 2, (operation.strides,) * 2
    return _window(operation, inputs, notes, pool, stride, (1, 1), operation.padding)


def _unpooling(operation, inputs, shape, notes):
    """Windows side by side: each pixel comes from the one window that covers it."""
    return _blocks(inputs[0].spans, operation.strides) if operation.pool_size == operation.strides else None


def _bed_of_nails(operation, inputs, shape, notes):
    """Each pixel comes from the one that its block was made of; that most are zeros makes the bound no narrower."""
    return _blocks(inputs[0].spans, operation.factor)


def _blocks(spans, side: int):
    first, last = _nearest(Fraction(1, side))
    return tuple(span.then(Fraction(1, side), first, last) for span in spans)


def _transposed(operation, inputs, shape, notes):
    if operation.output_padding is not None:
        return None
    extents = [(k - 1) * rate + 1 for k, rate in zip(operation.kernel_size, operation.dilation_rate, strict=True)]
    return _overlapping(inputs, notes, extents, operation.strides, operation.padding)


def _bilinear_transposed(operation, inputs, shape, notes):
    sides = (operation.kernel_size,) * 2
    return _overlapping(inputs, notes, sides, (operation.factor,) * 2, operation.padding)


def _subpixel_transposed(operation, inputs, shape, notes):
    # A convolution with weights of its own for each of the four places: trained, each may read all of its window.
    reach = operation.kernel_size // 4
    notes.padded |= reach > 0
    return _blocks([span.then(1, -reach, reach) for span in inputs[0].spans], 2)


def _overlapping(inputs, notes, extents, strides, padding):
    """Transposed convolution: every pixel is spread over `extent` pixels, `stride` apart from its neighbour's."""
    spans = []
    for axis in (0, 1):
        stride, extent = strides[axis], extents[axis]
        cut = max(extent - stride, 0) // 2 if padding == "same" else 0
        # Where kernels overlap, the outermost outputs lack the contribution of inputs beyond the border.
        notes.padded |= extent > stride
        spans.append(
            inputs[0].spans[axis].then(Fraction(1, stride), Fraction(cut - extent + 1, stride), Fraction(cut, stride))
        )
    return tuple(spans)


def _resizing(operation, inputs, shape, notes):
    """Resizing with half-pixel centres; output pixel j lies at (j + 1/2) * ratio - 1/2 of the input."""
    if getattr(operation, "crop_to_aspect_ratio", False) or getattr(operation, "pad_to_aspect_ratio", False):
        return None
    reach = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos3": 3, "lanczos5": 5}.get(operation.interpolation)
    if reach is None:
        return None
    spans = []
    for axis in (0, 1):
        ratio = Fraction(inputs[0].shape[1 + axis], shape[1 + axis])
        notes.even &= 1 in (ratio.numerator, ratio.denominator)
        if ratio == 1:
            first = last = Fraction(0)
        elif reach == 0:
            first, last = _nearest(ratio)
        else:
            # With antialiasing the filter widens as the picture shrinks; what lies on its rim has weight 0.
            widening = max(ratio, 1) if getattr(operation, "antialias", False) else 1
            width = reach * widening - Fraction(1, 2 * ratio.denominator)
            centre = ratio / 2 - Fraction(1, 2)
            first, last = centre - width, centre + width
            notes.padded = True  # Neighbours beyond the border are replaced by the border.
        spans.append(inputs[0].spans[axis].then(ratio, first, last))
    return tuple(spans)


def _upsampling(operation, inputs, shape, notes):
    # Corner on corner, the ratio depends on the size of the map.
    return None if operation.align_corners else _resizing(operation, inputs, shape, notes)


def _nearest(ratio: Fraction) -> tuple[Fraction, Fraction]:
    """Bounds of floor((j + 1/2) * ratio) - j * ratio."""
    if ratio.numerator == 1:
        return ratio - 1, Fraction(0)
    if ratio.denominator == 1:
        return Fraction(ratio // 2), Fraction(ratio // 2)
    return ratio / 2 - 1, ratio / 2


def _padding(operation, inputs, shape, notes):
    notes.padded = True
    return tuple(
        span.then(1, -before, -before) for span, (before, _) in zip(inputs[0].spans, operation.padding, strict=True)
    )


def _cropping(operation, inputs, shape, notes):
    return tuple(
        span.then(1, before, before) for span, (before, _) in zip(inputs[0].spans, operation.cropping, strict=True)
    )


def _crop_like(operation, inputs, shape, notes):
    spans = []
    for axis in (0, 1):
        surplus = inputs[0].shape[1 + axis] - shape[1 + axis]
        before = 0 if operation.anchor == "start" else surplus // 2
        spans.append(inputs[0].spans[axis].then(1, before, before))
    return tuple(spans)


def _pad_to_multiple(operation, inputs, shape, notes):
    for axis in (0, 1):
        notes.padded |= shape[1 + axis] != inputs[0].shape[1 + axis]
        notes.period = math.lcm(notes.period, (inputs[0].spans[axis].stride * operation.multiple).numerator)
    return inputs[0].spans


def _pad_to_at_least(operation, inputs, shape, notes):
    notes.padded |= shape[1:3] != inputs[0].shape[1:3]
    return inputs[0].spans


def _mean_field(operation, inputs, shape, notes):
    """Every iteration reads the window around a pixel; the kernels of the outermost are normalised over theirs."""
    spans = _pointwise(operation, inputs, shape, notes)
    if spans is None or len(inputs) != 2:
        return None
    notes.padded = True  # Neighbours beyond the border count nothing.
    reach = (operation.iterations + 1) * max(dy for dy, _ in operation.offsets)
    return tuple(span.then(1, -reach, reach) for span in spans)


# fmt: off
_POINTWISE = (
    "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Identity", "Dropout", "SpatialDropout2D", "AlphaDropout",
    "GaussianNoise", "GaussianDropout", "BatchNormalization", "SyncBatchNormalization", "Normalization", "Rescaling",
    "ImageNormalization", "LocalResponseNormalization",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide", "Power", "Negative",
    "Absolute", "Abs", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Log1p", "Clip", "Cast", "Sign", "Relu", "Relu6",
    "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus", "Softsign",
)
# fmt: on
Rule = Callable[[Any, list, tuple, Notes], "tuple[Span, Span] | None"]
RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(("Concatenate", "Softmax", "LogSoftmax", "LayerNormalization"), _along_channels),
    **dict.fromkeys(("Conv2D", "AtrousConv2D", "DepthwiseConv2D", "SeparableConv2D"), _convolution),
    **dict.fromkeys(("MaxPooling2D", "AveragePooling2D"), _pooling),
    "MaxPoolWithArgmax": _square_pooling,
    "MaxUnpool": _unpooling,
    "BedOfNails": _bed_of_nails,
    "Conv2DTranspose": _transposed,
    "BilinearConv2DTranspose": _bilinear_transposed,
    "SubPixelConv2DTranspose": _subpixel_transposed,
    **dict.fromkeys(("UpSampling2D", "Resizing", "Resize", "UpsampleTwice", "ResizeLike"), _resizing),
    "Upsample": _upsampling,
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
    "CropLike": _crop_like,
    "PadToMultiple": _pad_to_multiple,
    "PadToAtLeast": _pad_to_at_least,
    "MeanFieldCRF": _mean_field,
}
