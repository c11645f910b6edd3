"""Predictions and training runs as pictures, and one HTML page that shows them all.

Contract: `overlays` takes NumPy arrays and returns uint8 RGB arrays; `curves` returns PNG bytes; `report` writes one
self-contained HTML file. Nothing here knows a model. Pillow and matplotlib are imported when they are used.
"""

from keras_cv_lectures.visualize.curves import confusion_figure, curve_names, training_curves
from keras_cv_lectures.visualize.overlays import colorize, comparison, error_map, legend, overlay
from keras_cv_lectures.visualize.report import ExamplePicture, write_report

__all__ = [
    "ExamplePicture",
    "colorize",
    "comparison",
    "confusion_figure",
    "curve_names",
    "error_map",
    "legend",
    "overlay",
    "training_curves",
    "write_report",
]
