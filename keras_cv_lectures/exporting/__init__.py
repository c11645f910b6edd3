"""Model -> files that run without this package.

`export_tflite` writes a `.tflite` of builtin operators (float32, float16, int8), `export_saved_model` a SavedModel
folder. Both take uint8 pictures in 0..255 and return named outputs (`logits`, `probabilities`, `class_map` for
segmentation; `boxes`, `scores`, `labels`, `count`, ... for detectors), compare what they wrote with the model, put it
in place only when it agrees, and lay a model card beside it. Whatever fails, nothing half-written stays.
"""

from keras_cv_lectures.exporting.audit import check_operators, operators
from keras_cv_lectures.exporting.card import update_card
from keras_cv_lectures.exporting.result import ExportResult
from keras_cv_lectures.exporting.rewrite import for_export, in_float32
from keras_cv_lectures.exporting.saved_model import export_saved_model
from keras_cv_lectures.exporting.tflite import export_tflite

__all__ = [
    "ExportResult",
    "check_operators",
    "export_saved_model",
    "export_tflite",
    "for_export",
    "in_float32",
    "operators",
    "update_card",
]
