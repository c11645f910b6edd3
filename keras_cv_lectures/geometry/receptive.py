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
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import keras

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.reach_rules import RULES, Notes, Span

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
    operations, this package's layers between picture and logits, and nested functional models. What is resized corner
    on corner (`ResizeCornersLike`, `Upsample(align_corners=True)`) has another ratio at every size, and so no reach. A
    model with several outputs is judged by the one that is called "logits", or else by its first. Layers see the
    picture as at inference.

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


def accepts_size(model: keras.Model, size: tuple[int, int]) -> bool:
    """Whether the model gives something for a window of `size`, be it that its strides cut rows short."""
    return _trace(model, size) is not None


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


def window_margin(field: ReceptiveField, window: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """With which margin and stride a network is run in windows of one given size.

    On each axis the margin is the network's own where that is known and leaves at least half of a window's answer;
    windows then equal a single pass. Elsewhere it is an approximation: a quarter of the answer, rounded down to the
    stride, so that half of every answer or more is used and lies as far from the window's edge. Of answers below four
    strides it is the quarter itself, or what leaves one stride. A wider margin costs more than it shows: where 16 of
    128 pixels remain, as of U-Net's, each pixel is computed 64 times.

    Args:
        field: `receptive_field(model)`.
        window: (height, width) that the network sees.

    Returns:
        (rows, columns) at each edge of an answer that are not used, and the stride that windows lie a multiple of
        apart.
    """
    answer = [side - lost for side, lost in zip(window, field.lost, strict=True)]
    stride = max(1, min(field.stride, *answer))
    own = (None, None) if field.limit else field.margin

    def approximation(side: int) -> int:
        # Of small windows a margin off the grid is better than none, which shows every seam.
        return side // 4 // stride * stride or min(side // 4, (side - stride) // 2)

    margin = [
        m if m is not None and side - 2 * m >= max(stride, side / 2) else approximation(side)
        for m, side in zip(own, answer, strict=True)
    ]
    return tuple(margin), stride


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Traced:
    """One tensor at one picture size. Not a tuple: Keras must see a leaf in argument structures."""

    shape: tuple
    dtype: str
    spans: tuple[Span, Span] | None = (Span(), Span())
    limit: str = ""


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


def _trace(model, size) -> tuple[_Traced, Notes] | None:
    """The output tensor for pictures of `size`, or None where layers reject the size."""
    notes = Notes()
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


def _through(graph: keras.Function, inputs, notes: Notes):
    # Keras has no public way to run a graph on something else than tensors; its test here is the whole test module.
    return graph._run_through_graph(inputs, operation_fn=lambda operation: partial(_follow, notes, operation))


def _follow(notes: Notes, operation, *args, **kwargs):
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
    rule = RULES.get(type(operation).__name__) if _is_known(operation) else None
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
