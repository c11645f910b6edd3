"""The overlap-tile strategy on any runner: pictures of any size, mirrored borders, bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.receptive import ReceptiveField, fit_size, output_size, receptive_field
from keras_cv_lectures.geometry.tiles import Tile, TilePlan, cut_window, plan_tiles
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.predicting.pictures import read_picture, with_channels
from keras_cv_lectures.runners import Runner, load_runner

TileSize = int | tuple[int, int] | str
# "auto" windows: large enough that at most two thirds of a side are margin, small enough for a laptop's memory.
_AUTO_WINDOW = 512
# Where a network's stride cannot be read from a graph, neighbours lie a multiple of this apart: all usual strides
# divide it.
_USUAL_STRIDES = 32
_RUNNER = "_keras_cv_lectures_runner"


def predict_tiled(
    model: keras.Model | Runner | str | os.PathLike,
    image: Any,
    *,
    tile: TileSize = "auto",
    margin: int | tuple[int, int] | None = None,
    stride: int | None = None,
    batch_size: int = 1,
    output: str = "probabilities",
) -> np.ndarray:
    """Predicts a picture of any size in windows of one size, at the picture's own resolution.

    Equals one pass over the whole mirrored picture (to rounding): windows lie a multiple of the network's stride apart
    and only output pixels whose context lies inside their window are used. The network never sees more than
    `batch_size` windows, whatever the size of the picture; `stream_tiles` keeps the answer small too.

    Args:
        model: a `keras.Model`, a runner, or the path of a `.keras` file, run folder, SavedModel or `.tflite`.
        image: as in `predict`; an array may be a `numpy.memmap` of uint8 with the model's channels.
        tile: side or (height, width) of the window that the network sees, enlarged to the next size that its strides
            divide; "auto" chooses. A model with a fixed input size has that window.
        margin: pixels at the edge of each window's output that are not used. None computes it from the graph of a
            Keras model, reads it from the card of an exported file, and takes 0 for a network whose output is smaller
            than its input. Needed for files whose card does not know it, and for networks that see the whole picture
            at once (squeeze-and-excitation, group normalisation, global pooling) or resize corner on corner (DeepLab
            v1, v2, v3+): their windows cannot equal a single pass, and a margin of 64 or more hides the seams.
        stride: the network's total stride. None reads it from the graph of a Keras model or from the card of an
            exported file, and takes 32 elsewhere.
        batch_size: windows that the network sees at once.
        output: "probabilities" or "logits".

    Returns:
        (H, W, K) float32.

    Raises:
        DataError: the picture is at fault; see `predict`.
        ModelError: the window is too small, or `margin` is needed; the message says what would do.
    """
    runner, picture = as_runner(model), read_picture(image)[0]
    result = None
    for region, values in stream_tiles(
        runner, picture, tile=tile, margin=margin, stride=stride, batch_size=batch_size, output=output
    ):
        if result is None:
            result = np.empty((*picture.shape[:2], values.shape[-1]), np.float32)
        result[region] = values
    return result


def stream_tiles(
    model: keras.Model | Runner | str | os.PathLike,
    image: Any,
    *,
    tile: TileSize = "auto",
    margin: int | tuple[int, int] | None = None,
    stride: int | None = None,
    batch_size: int = 1,
    output: str = "probabilities",
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """`predict_tiled`, block by block: yields (rows and columns as slices, values (h, w, K)) in reading order.

    For pictures whose (H, W, K) answer does not fit into memory. The blocks cover every pixel once.
    """
    check_batch_size(batch_size)
    runner, picture = as_runner(model), read_picture(image)[0]
    plan = tile_plan(runner, picture.shape[:2], tile=tile, margin=margin, stride=stride)
    channels = runner.input_shape[2]
    waiting: list[tuple[Tile, np.ndarray]] = []
    for count, each in enumerate(plan, 1):
        window = with_channels(cut_window(picture, each.origin, plan.window), channels)
        waiting.append((each, window))
        if len(waiting) == batch_size or count == len(plan):
            # The last batch is filled up, so that the network is prepared for one shape only.
            windows = [window for _, window in waiting] + [waiting[-1][1]] * (batch_size - len(waiting))
            answers = segmentation_output(runner(np.stack(windows)), output, runner)
            for (done, _), answer in zip(waiting, answers, strict=False):
                yield done.picture, answer[done.kept]
            waiting = []


def check_batch_size(batch_size: int) -> None:
    """Raises ModelError unless it is a positive integer."""
    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise ModelError(f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}")


def tile_plan(
    runner: Runner,
    size: tuple[int, int],
    *,
    tile: TileSize = "auto",
    margin: int | tuple[int, int] | None = None,
    stride: int | None = None,
) -> TilePlan:
    """Windows for a picture of `size`; the arguments are those of `predict_tiled`."""
    model = _keras_model(runner)
    field = _field(runner) if model is not None else None
    fixed = runner.input_shape[:2] if None not in runner.input_shape[:2] else None
    wanted = _window_wanted(tile, fixed)
    if field is not None:
        if margin is None and field.limit:
            raise ModelError(
                f"The model cannot be predicted in tiles that equal a single pass: {field.limit}. Predict without "
                "`tile`, or pass margin=64 (--margin 64) or more to accept an approximation."
            )
        margin = field.margin if margin is None else _pair(margin)
        stride = stride or field.stride
        if wanted is None:
            around = [2 * m + lost for m, lost in zip(margin, field.lost, strict=True)]
            wanted = tuple(min(max(_AUTO_WINDOW, 3 * a), n + a + stride) for a, n in zip(around, size, strict=True))
        window = fixed or fit_size(model, wanted, field)
        output = output_size(model, window)
    else:
        window = fixed or wanted or (_AUTO_WINDOW, _AUTO_WINDOW)
        output = None
        margin = runner.metadata.tile_margin if margin is None else margin
        stride = stride or runner.metadata.tile_stride
    output = output or _probed_output(runner, window)
    lost = tuple(w - o for w, o in zip(window, output, strict=True))
    if lost != (0, 0) and not (misses_border(window, output) or (field is not None and field.lost == lost)):
        raise ModelError(
            f"The model answers a window of {window[0]} x {window[1]} pixels with {output[0]} x {output[1]}: not one "
            "answer for every pixel, so that tiles cannot be set side by side. Predict without `tile`."
        )
    if margin is None:
        if lost == (0, 0):
            raise ModelError(
                f"How far {runner.path or 'this model'} looks is told neither by its file ({runner.kind}) nor by "
                "a card beside it. Pass `margin=` (--margin), and `stride=` (--stride) where it does not divide 32. "
                "keras_cv_lectures.geometry.receptive.receptive_field(model) tells both of the Keras model that it was "
                "made from."
            )
        margin = (0, 0)
    if stride is None:
        room = min(o - 2 * m for o, m in zip(output, _pair(margin), strict=True))
        stride = next((s for s in (_USUAL_STRIDES, 16, 8, 4, 2) if s <= room), 1)
    return plan_tiles(size, window, output=output, margin=margin, stride=stride)


def loses_border(runner: Runner) -> bool:
    """Whether the network answers only for the middle of what it sees (valid convolutions): it needs tiles."""
    if _keras_model(runner) is not None:
        return _field(runner).lost != (0, 0)
    height, width = runner.input_shape[:2]
    if height is None or width is None:
        return False  # Seen from the answer to the first picture instead.
    return misses_border((height, width), _probed_output(runner, (height, width)))


def misses_border(window: tuple[int, int], output: tuple[int, int]) -> bool:
    """Tells an output without its border (572 -> 388) from one at a coarser stride (512 -> 128)."""
    if any(o >= w for w, o in zip(window, output, strict=True)):
        return False
    strides = range(2, max(window) + 1)
    return not any(all(o in (w // s, -(-w // s)) for w, o in zip(window, output, strict=True)) for s in strides)


def as_runner(model: keras.Model | Runner | str | os.PathLike) -> Runner:
    """Runner of a model or a path; a runner itself.

    A model keeps its runner, so that predicting picture after picture prepares its function once.
    """
    if isinstance(model, Runner):
        return model
    if not isinstance(model, keras.Model):
        return load_runner(model)
    tensors, numbers = _traced_in(model)
    known, runner = vars(model).get(_RUNNER, (None, None))
    # The tensors are kept with their ids, which others would get after them.
    if known is None or ([id(t) for t in known[0]], known[1]) != ([id(t) for t in tensors], numbers):
        runner = load_runner(model)
        # Past Keras' tracking of attributes: a runner is no part of what is saved.
        vars(model)[_RUNNER] = ((tensors, numbers), runner)
    return runner


def _traced_in(model: keras.Model) -> tuple[list[Any], list[float]]:
    """What a function that was prepared for `model` holds for good: tensors by identity, and numbers.

    `model.quantize` exchanges variables; a `Normalization` that is adapted or loads weights makes new constants; what a
    normalisation adds to its variances may come with the weights of another model.
    """
    layers = list(model._flatten_layers())
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.Normalization)]
    constants = [constant for layer in normalizations for constant in (layer.mean, layer.variance)]
    epsilons = [layer.epsilon for layer in layers if isinstance(getattr(layer, "epsilon", None), int | float)]
    return [*model.variables, *constants], epsilons


def segmentation_output(outputs: dict[str, np.ndarray], name: str, runner: Runner) -> np.ndarray:
    """Output (B, h, w, K) float32 of `runner` by its name, or a ModelError for what is no segmentation."""
    _check_segmentation({key: tuple(np.shape(array)) for key, array in outputs.items()}, name, runner)
    return outputs[name]


def black_answer(runner: Runner, window: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs for one black picture of that size, by name; a runner is asked once."""
    known = runner.facts.setdefault("outputs", {})
    if window not in known:
        outputs = runner(np.zeros((1, *window, runner.input_shape[2]), np.uint8))
        known[window] = {name: tuple(np.shape(value)) for name, value in outputs.items()}
    return known[window]


def _check_segmentation(found: dict[str, tuple[int, ...]], name: str, runner: Runner) -> None:
    if len(found.get(name, ())) != 4:
        if are_detections(found):
            raise ModelError(
                "A detector is not predicted in tiles, since objects would be cut at their borders. Use predict(model, "
                "image) without `tile`; for small objects of a large picture, cut it into overlapping pictures."
            )
        if "tokens" in found:
            raise ModelError(
                "A captioner is not predicted in tiles, since its sentence is about the whole picture. Use "
                "predict(model, image) without `tile`."
            )
        or_detector = " A detector gives boxes (B, D, 4), scores (B, D) and labels (B, D)." if "boxes" in found else ""
        raise ModelError(
            f"{runner.path or 'The model'}: expected a segmentation model with an output {name!r} (B, H, W, K). "
            f'Received: {found}. In a Keras model name the last layer "logits".{or_detector}'
        )


def _keras_model(runner: Runner) -> keras.Model | None:
    """The graph behind a runner; None for files without one, and for a subclass with a `call` of its own."""
    return runner.model if isinstance(runner.model, keras.Function | keras.Sequential) else None


def _field(runner: Runner) -> ReceptiveField:
    if "field" not in runner.facts:
        runner.facts["field"] = receptive_field(_keras_model(runner))
    return runner.facts["field"]


def _probed_output(runner: Runner, window: tuple[int, int]) -> tuple[int, int]:
    """Size of the answer to one black window."""
    shapes = black_answer(runner, window)
    _check_segmentation(shapes, "probabilities", runner)
    return shapes["probabilities"][1:3]


def _window_wanted(tile: TileSize, fixed: tuple[int, int] | None) -> tuple[int, int] | None:
    """The window that `tile` asks for, None where it is left to choose."""
    if isinstance(tile, bool) or (isinstance(tile, str) and tile != "auto"):
        raise ModelError(f'`tile` must be pixels, (height, width) in pixels, or "auto". Received: tile={tile!r}')
    if tile == "auto":
        return fixed
    wanted = _pair(tile)
    if min(wanted) < 1:
        raise ModelError(f"`tile` must be at least one pixel. Received: tile={tile!r}")
    if fixed is not None and wanted != tuple(fixed):
        raise ModelError(
            f"The model takes windows of {fixed[0]} x {fixed[1]} pixels only. Received: tile={tile!r}. Use "
            'tile="auto" (--tile auto), or export it with that size.'
        )
    return wanted


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (int(value), int(value)) if np.ndim(value) == 0 else (int(value[0]), int(value[1]))
