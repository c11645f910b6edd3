"""`predict`: one picture or many; of each the class of every pixel, the objects in it, or a sentence about it."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.data.labels import default_colors
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.postprocessing.segmentation import class_map_at, resize_probabilities
from keras_cv_lectures.predicting.caption_result import CaptionResult
from keras_cv_lectures.predicting.captioning import caption
from keras_cv_lectures.predicting.detecting import detect
from keras_cv_lectures.predicting.detection_result import DetectionResult
from keras_cv_lectures.predicting.kinds import is_captioner, is_detector, note_outputs
from keras_cv_lectures.predicting.naming import named
from keras_cv_lectures.predicting.pictures import picture_files, read_picture, resize_picture, with_channels
from keras_cv_lectures.predicting.result import SegmentationResult
from keras_cv_lectures.predicting.tiled import (
    TileSize,
    as_runner,
    check_batch_size,
    loses_border,
    misses_border,
    predict_tiled,
    segmentation_output,
    stream_tiles,
)
from keras_cv_lectures.runners import Runner

Colors = Sequence[tuple[int, int, int]]
Result = SegmentationResult | DetectionResult | CaptionResult
# Sides so many times as long as in training show things that the network does not know so.
_OTHER_SCALE = 1.5
# Probabilities of a tiled picture are kept up to this size, and made again when asked for above it.
_KEPT_BYTES = 64 * 2**20


def predict(
    model: keras.Model | Runner | str | os.PathLike,
    image: Any,
    *,
    tile: TileSize | None = None,
    margin: int | tuple[int, int] | None = None,
    stride: int | None = None,
    batch_size: int = 1,
    classes: Sequence[str] | None = None,
    colors: Colors | None = None,
) -> Result | Iterator[Result]:
    """Segments pictures, finds the objects in them or describes them; every answer is in its picture's own pixels.

    A segmentation network sees each picture as it did in training, and alike from every kind of file:

    * where the training size is known (beside the file, or because the file takes one size only), the picture is
      resized to it (bilinear, antialiased), and the probabilities are resized back before the decision;
    * elsewhere, as for a run that was trained on crops of larger pictures, the picture is given as it is;
    * a file of one size of such a run gets pictures of another size in overlapping windows, with the margin and stride
      that its card names: where the margin holds the receptive field, that equals the run's answer but near the
      picture's border, beyond which windows see a mirror image;
    * with `tile`, it is predicted at its own resolution in overlapping windows (see `predict_tiled`), in memory of the
      network that does not grow with the picture; a `KcvlWarning` says so, once, where the sides of the picture are
      longer by half or more than the training size, and those of the pictures trained on were, too (or it is not
      known), since the network then sees another scale;
    * a network of valid convolutions, whose answer is smaller than what it sees, always gets overlapping windows with
      mirrored borders, so that its answer covers the whole picture.

    A detector resizes by itself and sees each picture as it is; a file that takes one size only sees it scaled to fit,
    aspect kept, at the top left. A captioner sees each picture at the size that it was trained at or takes.

    Args:
        model: a `keras.Model`, a runner, or the path of a `.keras` file, run folder, SavedModel or `.tflite`.
        image: a picture: path (also of an array that `numpy.save` wrote, `.npy`), (H, W, C) or (H, W) array with values
            in 0..255 (uint8 or numbers, which are rounded), or a PIL image. Grey and RGB are converted into each other
            as the model needs. Or several: a folder, or a list or any iterable of pictures.
        tile: None, "auto", or the side or (height, width) in pixels of the windows.
        margin: see `predict_tiled`; for models that get windows without `tile`, too.
        stride: the same.
        batch_size: pictures (of several, where the network sees all at one size) or windows that it sees at once.
        classes: names in label order; None takes those beside the file, or "class 0", "class 1", ...; of a detector
            without background; of a captioner its vocabulary, which must be known.
        colors: one (red, green, blue) in 0..255 for each class; None takes those beside the file, or chooses.

    Returns:
        A `SegmentationResult` for one picture, a `DetectionResult` if the model is a detector, or a `CaptionResult` if
        it is a captioner; for several an iterator of them, which reads and predicts a picture when it is asked for the
        next. Their names differ, so that `save` writes each under its own: that of the file where it is the only one,
        else with folders or suffix (`a_x`, `b_x`); "prediction_0001", "prediction_0002", ... of arrays.

    Raises:
        DataError: a file is no picture; an array has another shape or range (values in 0..1 for example).
        ModelError: the model cannot be run, is neither segmentation nor detector nor captioner, or cannot be tiled as
            asked (only a segmentation can); `margin` or `stride` are given where there are no windows; or `classes` and
            `colors` do not fit it.

    Example:
        >>> result = predict("saved_models/unet/run", "street.jpg")
        >>> result.class_map.shape, result.save("predictions")
    """
    check_batch_size(batch_size)
    predictor = _Predictor(as_runner(model), tile, margin, stride, batch_size, classes, colors)
    several = _several(image)
    if several is None:
        return next(predictor.results([image]))
    return named(several, predictor.results)


def _several(image: Any) -> Iterable[Any] | None:
    """The pictures of a folder or an iterable; None for one picture."""
    if isinstance(image, str | os.PathLike):
        if Path(image).is_dir():
            return picture_files(image)
        return None
    if isinstance(image, list | tuple) and image and isinstance(image[0], int | float):
        raise DataError("A list must hold pictures, not numbers. Pass numpy.asarray(image) for one picture.")
    if hasattr(image, "__array__") or not isinstance(image, Iterable):
        return None
    return image


def network_size(runner: Runner) -> tuple[int, int] | None:
    """(height, width) that pictures are resized to for a segmentation; None: they keep their own."""
    height, width = runner.input_shape[:2]
    # Of a network that loses its border, or was trained on crops, the fixed shape is a window and no size of pictures.
    if height and width and not runner.metadata.tiled and not loses_border(runner):
        return height, width
    return runner.metadata.input_size


@dataclass(frozen=True)
class _Predictor:
    """The settings of one call of `predict`."""

    runner: Runner
    tile: TileSize | None
    margin: int | tuple[int, int] | None
    stride: int | None
    batch_size: int
    classes: Sequence[str] | None
    colors: Colors | None

    def results(self, images: Iterable[Any]) -> Iterator[Result]:
        images = iter(images)
        answers = self._whole_answers(images)
        if answers is not None:
            yield from answers
            return
        size = network_size(self.runner)
        if self._is_tiled():
            for image in images:
                picture, name = read_picture(image)
                if self._is_one_window(picture):
                    outputs = self.runner(self._adapted(picture)[None])
                    probabilities = segmentation_output(outputs, "probabilities", self.runner)[0]
                    result = self._result(picture, name, probabilities)
                else:
                    result = self._tiled(picture, name, size if self.tile is None else None)
                self._warn_of_scale(picture.shape[:2])  # Now it is known to be no detector.
                yield result
            return
        # Pictures of several sizes cannot share a batch unless they are brought to one.
        for batch in _batches(images, self.batch_size if size else 1):
            pictures = [read_picture(image) for image in batch]
            seen = [resize_picture(self._adapted(p), size or p.shape[:2]) for p, _ in pictures]
            outputs = self.runner(np.stack(seen))
            # What a file of open size is shows in its first answer only.
            note_outputs(self.runner, {name: np.shape(value) for name, value in outputs.items()})
            answers = self._whole_answers(itertools.chain(batch, images))
            if answers is not None:
                yield from answers
                return
            self._refuse_margins()
            answers = segmentation_output(outputs, "probabilities", self.runner)
            if misses_border(seen[0].shape[:2], answers.shape[1:3]):
                raise ModelError(
                    f"{self.runner.path or 'The model'} answers only for the middle of what it sees, and its window "
                    "sizes cannot be read from the file. Pass tile=572 (a side that its strides divide)."
                )
            for (picture, name), answer in zip(pictures, answers, strict=True):
                yield self._result(picture, name, answer)

    def _whole_answers(self, images: Iterable[Any]) -> Iterator[Result] | None:
        """Answers of a model that has one for the picture as a whole: a detector's or a captioner's; else None."""
        if is_detector(self.runner):
            self._refuse_tiles(
                "A detector is not predicted in tiles, since objects would be cut at their borders.",
                "for small objects of a large picture, cut it into overlapping pictures",
            )
            return detect(self.runner, images, batch_size=self.batch_size, classes=self.classes, colors=self.colors)
        if is_captioner(self.runner):
            self._refuse_tiles(
                "A captioner is not predicted in tiles, since its sentence is about the whole picture.",
                "for a sentence about a part, cut that part out",
            )
            if self.colors is not None:
                raise ModelError("A captioner's classes are words, which have no colours. Leave out `colors`.")
            return caption(self.runner, images, batch_size=self.batch_size, classes=self.classes)
        return None

    def _refuse_tiles(self, reason: str, instead: str) -> None:
        for name in ("tile", "margin", "stride"):
            if getattr(self, name) is not None:
                raise ModelError(f"{reason} Received: {name}={getattr(self, name)!r}. Leave it out; {instead}.")

    def _refuse_margins(self) -> None:
        for name in ("margin", "stride"):
            if getattr(self, name) is not None:
                raise ModelError(
                    f"`{name}` is about windows, and so needs `tile`: without it this model sees each picture whole. "
                    f"Received: {name}={getattr(self, name)!r}, tile=None. Pass tile=512 (--tile 512) with it, or "
                    "leave it out."
                )

    def _is_tiled(self) -> bool:
        return self.tile is not None or self.runner.metadata.tiled or loses_border(self.runner)

    def _warn_of_scale(self, seen: tuple[int, int]) -> None:
        """Says once a model that windows of a picture of size `seen` show things larger than in training."""
        size, shrunk = self.runner.metadata.input_size, self.runner.metadata.shrunk_by
        if self.tile is None or size is None or math.sqrt(math.prod(seen) / math.prod(size)) < _OTHER_SCALE:
            return
        if shrunk is not None and shrunk < _OTHER_SCALE:  # Patches, cut out of pictures as large as this one.
            return
        if not self.runner.facts.get("scale_told"):  # Not of every picture of a folder.
            self.runner.facts["scale_told"] = True
            made_for = f"{size[0]}x{size[1]} (height x width). Tiles see {seen[0]}x{seen[1]} unshrunk"
            warnings.warn(
                f"this model is made for pictures brought to {made_for}: if pictures were shrunk in training, too, "
                "everything is larger than it learned. Then train with crop_size alone for tiles."
                if shrunk is None
                else f"this model's pictures were shrunk in training to about 1/{shrunk:.2g} of their sides, to "
                f"{made_for}, where everything is larger than it learned. Train with crop_size alone for tiles.",
                KcvlWarning,
                stacklevel=4,
            )

    def _is_one_window(self, picture: np.ndarray) -> bool:
        """Whether a file that pictures are cut into windows for takes this one whole, as its model would."""
        asked = any(value is not None for value in (self.tile, self.margin, self.stride))
        whole = not asked and picture.shape[:2] == self.runner.input_shape[:2]
        return whole and not loses_border(self.runner)

    def _adapted(self, picture: np.ndarray) -> np.ndarray:
        return with_channels(picture, self.runner.input_shape[2])

    def _tiled(self, picture: np.ndarray, name: str, size: tuple[int, int] | None) -> SegmentationResult:
        settings = {
            "tile": "auto" if self.tile is None else self.tile,
            "margin": self.margin,
            "stride": self.stride,
            "batch_size": self.batch_size,
        }
        if size is not None:
            seen = resize_picture(self._adapted(picture), size)
            return self._result(picture, name, predict_tiled(self.runner, seen, **settings))
        class_map, kept, channels = np.empty(picture.shape[:2], np.int32), None, 0
        for region, values in stream_tiles(self.runner, picture, **settings):
            if not channels:
                channels = values.shape[-1]
                if 4 * channels * class_map.size <= _KEPT_BYTES:
                    kept = np.empty((*class_map.shape, channels), np.float32)
            class_map[region] = class_map_at(values, values.shape[:2])
            if kept is not None:
                kept[region] = values
        classes, colors = self._labels(channels)
        return SegmentationResult(
            image=picture,
            class_map=class_map,
            classes=classes,
            colors=colors,
            name=name,
            make_probabilities=lambda: kept if kept is not None else predict_tiled(self.runner, picture, **settings),
        )

    def _result(self, picture: np.ndarray, name: str, probabilities: np.ndarray) -> SegmentationResult:
        """Result from probabilities (h, w, K) at the network's size."""
        size = picture.shape[:2]
        classes, colors = self._labels(probabilities.shape[-1])
        return SegmentationResult(
            image=picture,
            class_map=class_map_at(probabilities, size),
            classes=classes,
            colors=colors,
            name=name,
            make_probabilities=lambda: resize_probabilities(probabilities, size),
        )

    def _labels(self, channels: int) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
        """Names and colours; one output channel means background and foreground."""
        count = max(2, channels)
        metadata = self.runner.metadata
        classes = tuple(self.classes or metadata.classes or (f"class {label}" for label in range(count)))
        colors = tuple(tuple(int(v) for v in color) for color in self.colors or metadata.colors or ())
        colors = colors or default_colors(count)
        for argument, values in (("classes", classes), ("colors", colors)):
            if len(values) != count:
                raise ModelError(
                    f"{self.runner.path or 'The model'} has {count} classes, but `{argument}` has {len(values)}"
                    f" entries. Pass {count}" + (" (background and foreground)." if channels == 1 else ".")
                )
        return classes, colors


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
