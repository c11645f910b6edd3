"""Predictions and training runs as pictures, and one HTML page that shows them all.

Contract: `overlays`, `objects`, `sheets` and `captions` take NumPy arrays and return uint8 RGB arrays; `curves`,
`precision_recall` and `measurements` return PNG bytes; `report` (segmentation), `object_report` (detection) and
`caption_report` write one self-contained HTML file. Nothing here knows a model. Pillow and matplotlib are imported when
they are used.
"""

from keras_cv_lectures.visualize.caption_report import CaptionPicture, write_caption_report
from keras_cv_lectures.visualize.captions import attention_grid, attention_maps, captioned, side_by_side
from keras_cv_lectures.visualize.curves import confusion_figure, curve_names, training_curves
from keras_cv_lectures.visualize.measurements import Bar, LinePanel, bars, lines
from keras_cv_lectures.visualize.object_report import write_object_report
from keras_cv_lectures.visualize.objects import draw_objects, object_comparison
from keras_cv_lectures.visualize.overlays import colorize, comparison, error_map, legend, overlay
from keras_cv_lectures.visualize.precision_recall import precision_recall_curves
from keras_cv_lectures.visualize.report import ExamplePicture, write_report
from keras_cv_lectures.visualize.sheets import ObjectPicture, object_sheet

__all__ = [
    "Bar",
    "CaptionPicture",
    "ExamplePicture",
    "LinePanel",
    "ObjectPicture",
    "attention_grid",
    "attention_maps",
    "bars",
    "captioned",
    "colorize",
    "comparison",
    "confusion_figure",
    "curve_names",
    "draw_objects",
    "error_map",
    "legend",
    "lines",
    "object_comparison",
    "object_sheet",
    "overlay",
    "precision_recall_curves",
    "side_by_side",
    "training_curves",
    "write_caption_report",
    "write_object_report",
    "write_report",
]
