"""The systems of the deep-vision lectures as Keras 3 models that train, export and run.

    import keras_cv_lectures as kcvl

    model = kcvl.build_unet((None, None, 3), num_classes=11)
    model.compile("adam", loss=kcvl.losses.SegmentationCrossEntropy(), metrics=[kcvl.metrics.MeanIoU(11)])
    model.fit(...)
    kcvl.export_tflite(model, "unet.tflite", input_shape=(180, 240))

Names are imported when first used, so that `kcvl --help` answers at once and no import touches TensorFlow unasked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_cv_lectures.data import open_source
    from keras_cv_lectures.evaluating import evaluate_segmentation
    from keras_cv_lectures.exporting import export_saved_model, export_tflite
    from keras_cv_lectures.predicting import predict, predict_averaged, predict_tiled
    from keras_cv_lectures.runners import load_runner
    from keras_cv_lectures.segmentation import build_unet
    from keras_cv_lectures.systems import SYSTEMS
    from keras_cv_lectures.training import train

_HOME = {
    "SYSTEMS": "systems",
    "build_unet": "segmentation",
    "evaluate_segmentation": "evaluating",
    "export_saved_model": "exporting",
    "export_tflite": "exporting",
    "load_runner": "runners",
    "open_source": "data",
    "predict": "predicting",
    "predict_averaged": "predicting",
    "predict_tiled": "predicting",
    "train": "training",
}
_FOLDERS = ("backbones", "data", "layers", "losses", "metrics", "preprocessing", "visualize")

__all__ = [
    "SYSTEMS",
    "build_unet",
    "evaluate_segmentation",
    "export_saved_model",
    "export_tflite",
    "load_runner",
    "open_source",
    "predict",
    "predict_averaged",
    "predict_tiled",
    "train",
]


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_FOLDERS, "__version__"])
