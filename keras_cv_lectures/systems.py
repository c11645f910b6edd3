"""SYSTEMS: the table of contents. The only file that knows every system.

An entry holds what is peculiar to the system; what all systems of a task share stands in the task's function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_cv_lectures import losses, metrics
from keras_cv_lectures.evaluating import evaluate_segmentation
from keras_cv_lectures.preprocessing import training_batches, with_border_weights
from keras_cv_lectures.recipe import Recipe, Reference, TrainingOptions
from keras_cv_lectures.segmentation import build_unet, unet


def _segmentation(**fields: Any) -> Recipe:
    """A recipe of semantic segmentation: what `fields` leave out is the same for all such systems."""
    defaults = {
        "options": TrainingOptions(),
        "smoke_options": TrainingOptions(
            epochs=2, batch_size=2, input_size=(48, 64), warmup_epochs=0, learning_rate=5e-3
        ),
        "demo_options": TrainingOptions(epochs=12, batch_size=8, input_size=(96, 128), learning_rate=4e-3),
        "augmentation": {"flip": 0.5, "scale": (0.7, 1.5), "rotate": 10.0, "brightness": 0.2, "contrast": 0.2},
        "make_batches": training_batches,
        "keys": ("image", "mask", "weights"),
        "add_weights": _border_weights,
        "count_labels": _median_frequency,
        "make_loss": _segmentation_loss,
        "make_metrics": lambda classes: [metrics.PixelAccuracy(classes), metrics.MeanIoU(classes)],
        "evaluate": evaluate_segmentation,
    }
    return Recipe(**{**defaults, **fields})


def _border_weights(source, options: TrainingOptions):
    return with_border_weights(source) if options.border_weights else source


def _median_frequency(source) -> np.ndarray:
    """SegNet's class weights: the median class frequency over each class's frequency."""
    classes = len(source.classes)
    counts, present = np.zeros(classes), np.zeros(classes)
    for example in source:
        mask = np.asarray(example["mask"])
        found = np.bincount(mask[(mask >= 0) & (mask < classes)], minlength=classes)
        counts += found
        present += (found > 0) * found.sum()
    return losses.median_frequency_weights(counts, present)


def _segmentation_loss(options: TrainingOptions, class_weights: list[float] | None):
    terms: Mapping[str, Any] = {
        "cross_entropy": lambda: losses.SegmentationCrossEntropy(
            class_weights=class_weights,
            label_smoothing=options.label_smoothing,
            normalize="pixels" if options.border_weights else "weights",
        ),
        "dice": losses.DiceLoss,
        "jaccard": losses.JaccardLoss,
        "focal": losses.FocalLoss,
        "tversky": losses.TverskyLoss,
        "lovasz": losses.LovaszSoftmaxLoss,
    }
    chosen = [terms[name]() for name in options.loss.split("+")]
    return chosen[0] if len(chosen) == 1 else losses.WeightedSum(chosen)


SYSTEMS: dict[str, Recipe] = {
    "unet": _segmentation(
        name="unet",
        summary="U-Net: contracting and expanding path with concatenated skips",
        build=build_unet,
        config={"filters": 32},
        smoke={"filters": 8, "depth": 2},
        demo={"filters": 16, "depth": 3},
        context=unet.context_for,
        reference=Reference(
            paper="Ronneberger, Fischer, Brox: U-Net, MICCAI 2015",
            year=2015,
            url="https://arxiv.org/abs/1505.04597",
            result="ISBI 2012: warping error 0.000353, Rand error 0.0382, pixel error 0.0611",
            parameters=31_030_658,
            parameters_of={"input_shape": (572, 572, 1), "num_classes": 2, "variant": "paper"},
        ),
    ),
}
