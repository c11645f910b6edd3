"""Detectors on pictures of any size: what they see of each, and their answer brought back to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.detection import COCO_CLASSES, Detector
from keras_cv_lectures.detection.coco import COCO_IDS
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.postprocessing.detection import check_detector, detected_objects, fitted_size, on_canvas
from keras_cv_lectures.predicting.detection_result import DetectionResult
from keras_cv_lectures.predicting.pictures import file_of, read_picture, resize_picture, with_channels
from keras_cv_lectures.runners import Outputs, Runner
from keras_cv_lectures.serving import running, serving_function
from keras_cv_lectures.visualize.objects import distinct_colors

Colors = Sequence[tuple[int, int, int]]


def detect(
    runner: Runner,
    images: Iterable[Any],
    *,
    batch_size: int = 1,
    classes: Sequence[str] | None = None,
    colors: Colors | None = None,
) -> Iterator[DetectionResult]:
    """Objects of each picture; the arguments are those of `predict`.

    A detector of open size gets each picture as it is: it resizes by itself. One that takes one size only gets the
    picture scaled to fit, its aspect kept, at the top left of a canvas; resized as in training, without antialiasing.

    Raises:
        ModelError: the model is no detector, or `classes` and `colors` do not fit it.
    """
    canvas = None if None in runner.input_shape[:2] else runner.input_shape[:2]
    labels = _Labels(runner, classes, colors)
    run = open_run(runner)
    images = iter(images)
    while batch := list(itertools.islice(images, batch_size if canvas else 1)):
        pictures = [read_picture(image) for image in batch]
        adapted = [with_channels(picture, runner.input_shape[2]) for picture, _ in pictures]
        sizes = [fitted_size(p.shape[:2], canvas) if canvas else p.shape[:2] for p in adapted]
        seen = [resize_picture(p, size, antialias=False) for p, size in zip(adapted, sizes, strict=True)]
        outputs = run(np.stack([on_canvas(p, canvas) for p in seen] if canvas else seen))
        check_detector(outputs)
        runner.facts["max_detections"] = np.shape(outputs["scores"])[1]
        for index, (image, (picture, name), size) in enumerate(zip(batch, pictures, sizes, strict=True)):
            found = detected_objects(outputs, index, picture.shape[:2], seen_size=size)
            names, table = labels.of(found["labels"])
            masks = found.pop("masks", None)
            file, points, known = file_of(image), found.get("keypoints"), runner.metadata.keypoint_names
            yield DetectionResult(
                image=picture,
                name=name,
                classes=names,
                colors=table,
                mask_probabilities=masks,
                keypoint_names=known if points is not None and len(known) == points.shape[1] else (),
                file_name=file.name if file else "",
                **found,
            )


def open_run(runner: Runner) -> Callable[[np.ndarray], Outputs]:
    """The runner; of a Keras model prepared once for all sizes of pictures and batches, since that takes seconds."""
    if not isinstance(runner.model, keras.Function) or runner.kind != "keras":
        return runner
    if "open" not in runner.facts:
        spec = tf.TensorSpec((None, *runner.input_shape), "float32", name="image")
        runner.facts["open"] = serving_function(runner.model).get_concrete_function(spec)
    function = runner.facts["open"]

    def run(images: np.ndarray) -> Outputs:
        with running(runner.path, images.shape[1:3]):
            return {name: value.numpy() for name, value in function(tf.constant(images, tf.float32)).items()}

    return run


class _Labels:
    """Names and colours of a detector's classes: those asked for, those beside the file, or those of COCO's network."""

    def __init__(self, runner: Runner, classes: Sequence[str] | None, colors: Colors | None):
        metadata, model = runner.metadata, runner.model
        self.count = None
        names = tuple(classes or metadata.classes)
        if isinstance(model, Detector):
            ids = model.graph.settings.classes
            self.count = len(ids) if ids else model.graph.box.output[0].shape[-1] - 1
            names = names or (COCO_CLASSES if ids and tuple(ids) == COCO_IDS else ())
        self.count = self.count or len(names) or None
        self.names = names
        self.colors = tuple(tuple(int(v) for v in color) for color in colors or metadata.colors or ())
        for argument, values in (("classes", self.names), ("colors", self.colors)):
            if values and self.count and len(values) != self.count:
                raise ModelError(
                    f"{runner.path or 'The model'} finds {self.count} classes, but `{argument}` has {len(values)} "
                    f"entries. Pass {self.count}, without one for the background."
                )

    def of(self, labels: np.ndarray) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
        """Names and colours that reach to the highest label."""
        needed = int(labels.max(initial=-1)) + 1
        if self.count is not None and needed > self.count:
            raise ModelError(
                f"The model found an object of class {needed - 1}, but only {self.count} classes are known "
                f"(0..{self.count - 1}). Pass `classes=` with all of its names in order."
            )
        count = self.count or needed
        names = self.names or tuple(f"class {label}" for label in range(count))
        colors = self.colors or tuple(tuple(color) for color in distinct_colors(count).tolist())
        return names, colors
