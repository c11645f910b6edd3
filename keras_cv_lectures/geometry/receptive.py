"""How far each output pixel of a convolutional network looks, read from its graph.

    field = receptive_field(build_unet((None, None, 3), 2))
    field.stride, field.margin        # 16, (96, 96): what the overlap-tile strategy needs to know

Every tensor of the graph is followed with the affine map from its pixels to the picture's: pixel i depends on the
picture's pixels `stride * i + first ... stride * i + last`. Convolutions and poolings widen that interval, resizing
changes the stride, merging takes the union (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019). The interval is a bound: it is never too narrow, and where grids of different strides meet it
may be a few pixels too wide.

Differs from the paper: graphs with up-sampling, crops and nested models are followed too, exactly, in fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import keras

from keras_cv_lectures.errors import ModelError

# Tried in this order to find one at which every pooling and crop comes out even: powers of two for padded networks,
# 16 k + 60 for the 2015 U-Net, the sizes between for valid networks of other depths.
_SIZES = (512, 572, *range(513, 577))


@dataclass(frozen=True)
class ReceptiveField:
    """What `receptive_field` found; pairs are (rows, columns) in pixels of the picture.

    Attributes:
        reach: an output pixel depends on no picture pixel farther than this from its own place; None if `limit`.
        margin: output pixels at each edge that may have seen the network's own padding instead of the picture,
            rounded up to a multiple of `stride`; zeros where all convolutions are valid; None if `limit`.
        stride: the network computes the same for a picture shifted by a multiple of this.
        lost: input size minus output size; zeros where the network pads, or where its output is at another stride.
        output_stride: distance in picture pixels of neighbouring output pixels, 1 where it answers for every pixel.
        limit: "" or a clause on what makes the reach unlimited or unknown, such as a layer that averages everything.
    """

    reach: tuple[int, int] | None = None
    margin: tuple[int, int] | None = None
    stride: int = 1
    lost: tuple[int, int] = (0, 0)
    output_stride: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    limit: str = ""


def receptive_field(model: keras.Model) -> ReceptiveField:
    """Reach, stride and margin of a functional model from pictures (B, H, W, C) to maps (B, h, w, K).

    Understands Keras' convolutions, poolings, resizing, padding, cropping, merging and element-wise layers and
    operations, this package's layers, and nested functional models. A model with several outputs is judged by the one
    that is called "logits", or else by its first. Layers see the picture as at inference.

    Raises:
        ModelError: if the model does not take one batch of pictures.
    """
    height, width = _picture_shape(model)[:2]
    if height is not None and width is not None:
        return _field(model, (height, width), strict=False)
    for size in _SIZES:
        field = _field(model, (height or size, width or size), strict=True)
        if field is not None:
            return field
    return ReceptiveField(limit="no window size up to 576 fits its strides")


def output_size(model: keras.Model, size: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) that the model gives for a window of `size`, or None if the window does not fit it.

    A window fits where no pooling drops a row, no stride is cut short and everything that is merged has one size.
    """
    traced = _trace(model, size)
    return None if traced is None or not traced[1].even else traced[0].shape[1:3]


def fit_size(model: keras.Model, size: tuple[int, int], field: ReceptiveField) -> tuple[int, int]:
    """Smallest window of at least `size` that fits the model; a side that the model fixes stays as it is.

    Args:
        field: `receptive_field(model)`.

    Raises:
        ModelError: if none was found.
    """
    fixed = _picture_shape(model)[:2]
    result = []
    for axis in (0, 1):
        if fixed[axis] is not None:
            result.append(fixed[axis])
            continue
        # Sizes that fit lie one stride apart, so a few strides hold one.
        start = max(size[axis], field.lost[axis] + 1)
        for candidate in range(start, start + 4 * field.stride):
            if output_size(model, tuple(side or candidate for side in fixed)) is not None:
                result.append(candidate)
                break
        else:
            raise ModelError(f"No window of {start} pixels or a little more fits the strides of {model.name!r}.")
    return tuple(result)


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """Along one axis, pixel i depends on picture pixels stride * i + first ... stride * i + last."""

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def then(self, step, first, last) -> _Span:
        """Span of a tensor whose pixel j depends on this one's pixels step * j + first ... step * j + last."""
        return _Span(self.stride * step, self.stride * first + self.first, self.stride * last + self.last)


@dataclass(frozen=True, eq=False)
class _Traced:
    """One tensor at one picture size. Not a tuple: Keras must see a leaf in argument structures."""

    shape: tuple
    dtype: str
    spans: tuple[_Span, _Span] | None = (_Span(), _Span())
    limit: str = ""


@dataclass
class _Notes:
    """What concerns the whole graph: the shift that all grids share, whether sizes divide, and whether it pads."""

    period: int = 1
    even: bool = True
    padded: bool = False


def _picture_shape(model) -> tuple:
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ModelError(
            "The model must be built and take one batch of pictures (B, H, W, C). "
            f"Received a model with inputs {[tuple(x.shape) for x in inputs or []]}."
        )
    return tuple(inputs[0].shape[1:])


def _field(model, size, *, strict: bool) -> ReceptiveField | None:
    """Field at one picture size; None if that size does not fit and `strict`."""
    traced = _trace(model, size)
    if traced is None:
        return None if strict else ReceptiveField(limit="its layers do not fit together at its own size")
    output, notes = traced
    if strict and not notes.even:
        return None
    if output.spans is None:
        return ReceptiveField(stride=notes.period, limit=output.limit)
    strides = tuple(span.stride for span in output.spans)
    lost = tuple(n - o for n, o in zip(size, output.shape[1:3], strict=True)) if strides == (1, 1) else (0, 0)
    limit = output.limit or ("" if strides == (1, 1) else f"its output is at stride {strides[0]} x {strides[1]}")
    if limit:
        return ReceptiveField(None, None, notes.period, lost, strides, limit)
    reach, margin = [], []
    for span, gone in zip(output.spans, lost, strict=True):
        reach.append(math.ceil(max(Fraction(gone, 2) - span.first, span.last - Fraction(gone, 2), 0)))
        unsure = max(-span.first, span.last - gone, 0) if notes.padded else 0
        margin.append(math.ceil(unsure / notes.period) * notes.period)
    return ReceptiveField(tuple(reach), tuple(margin), notes.period, lost, strides)


def _trace(model, size) -> tuple[_Traced, _Notes] | None:
    """The output tensor for pictures of `size`, or None where layers reject the size."""
    notes = _Notes()
    graph = _graph(model)
    if graph is None:
        return _Traced((None, *size, None), "float32", None, "it is not a functional graph"), notes
    start = _Traced((1, *size, _picture_shape(model)[2]), model.inputs[0].dtype)
    try:
        outputs = _through(graph, start, notes)
    except ValueError:
        return None
    if isinstance(outputs, dict):
        return outputs.get("logits", next(iter(outputs.values()))), notes
    return (outputs[0] if isinstance(outputs, list | tuple) else outputs), notes


def _graph(operation) -> keras.Function | None:
    if isinstance(operation, keras.Sequential):
        operation = getattr(operation, "_functional", None)
    return operation if isinstance(operation, keras.Function) else None


def _through(graph: keras.Function, inputs, notes: _Notes):
    # Keras has no public way to run a graph on something else than tensors; its test here is the whole test module.
    return graph._run_through_graph(inputs, operation_fn=lambda operation: partial(_follow, notes, operation))


def _follow(notes: _Notes, operation, *args, **kwargs):
    """Outputs (`_Traced`) of one operation."""
    nested = _graph(operation)
    if nested is not None:
        return _through(nested, args[0] if args else next(iter(kwargs.values())), notes)
    inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, _Traced)]
    args, kwargs = keras.tree.map_structure(_as_spec, (args, kwargs))
    specs = operation.compute_output_spec(*args, **kwargs)
    shape = keras.tree.flatten(specs)[0].shape
    limit = next((x.limit for x in inputs if x.limit), "")
    placed = [x for x in inputs if x.spans is not None]
    rule = _RULES.get(type(operation).__name__) if _is_known(operation) else None
    spans = rule(operation, placed, shape, notes) if rule and placed else None
    if spans is None:
        limit = limit or f"layer {operation.name!r} ({type(operation).__name__}) may see the whole picture"
        # What keeps the size keeps each pixel's place.
        spans = next((x.spans for x in placed if len(shape) == 4 and x.shape[1:3] == shape[1:3]), None)
    else:
        notes.period = math.lcm(notes.period, *(span.stride.numerator for span in spans))
    return keras.tree.map_structure(lambda spec: _Traced(tuple(spec.shape), spec.dtype, spans, limit), specs)


def _as_spec(x):
    return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, _Traced) else x


def _is_known(operation) -> bool:
    """A user's own class may carry a known name and do something else."""
    return type(operation).__module__.split(".")[0] in ("keras", "keras_cv_lectures")


# Rules: (operation, traced inputs, output shape, notes) -> spans of the output, or None for unlimited reach. ----


def _pointwise(operation, inputs, shape, notes):
    """Element-wise operations and merging: the union over inputs that lie on one grid."""
    first = inputs[0]
    if any(x.shape[1:3] != first.shape[1:3] for x in inputs) or len(shape) != 4 or shape[1:3] != first.shape[1:3]:
        return None
    if any(x.spans[axis].stride != first.spans[axis].stride for x in inputs for axis in (0, 1)):
        return None
    return tuple(
        _Span(
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


def _transposed(operation, inputs, shape, notes):
    if operation.output_padding is not None:
        return None
    spans = []
    for axis in (0, 1):
        stride = operation.strides[axis]
        extent = (operation.kernel_size[axis] - 1) * operation.dilation_rate[axis] + 1
        cut = max(extent - stride, 0) // 2 if operation.padding == "same" else 0
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


# fmt: off
_POINTWISE = (
    "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Identity", "Dropout", "SpatialDropout2D", "AlphaDropout",
    "GaussianNoise", "GaussianDropout", "BatchNormalization", "SyncBatchNormalization", "Normalization", "Rescaling",
    "ImageNormalization",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide", "Power", "Negative",
    "Absolute", "Abs", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Log1p", "Clip", "Cast", "Sign", "Relu", "Relu6",
    "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus", "Softsign",
)
# fmt: on
_Rule = Callable[[Any, list, tuple, _Notes], "tuple[_Span, _Span] | None"]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(("Concatenate", "Softmax", "LogSoftmax", "LayerNormalization"), _along_channels),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "SeparableConv2D"), _convolution),
    **dict.fromkeys(("MaxPooling2D", "AveragePooling2D"), _pooling),
    "Conv2DTranspose": _transposed,
    **dict.fromkeys(("UpSampling2D", "Resizing", "Resize", "UpsampleTwice", "ResizeLike"), _resizing),
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
    "CropLike": _crop_like,
    "PadToMultiple": _pad_to_multiple,
}
