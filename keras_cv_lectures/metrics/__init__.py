"""How good predictions are, in the numbers the field reports.

`keras.metrics.Metric` objects for `compile(metrics=[...])`, all over one confusion matrix, and plain NumPy functions
for what is computed once, after training: the same scores with a row per class, the boundary F1, and ISBI 2012's pair.
"""

from keras_cv_lectures.metrics.boundary import boundary_f1, mean_boundary_f1
from keras_cv_lectures.metrics.isbi import (
    RandScore,
    best_threshold,
    connected_cells,
    foreground_rand,
    isbi_scores,
    pixel_error,
    pixel_f_error,
)
from keras_cv_lectures.metrics.segmentation import (
    ConfusionMatrix,
    FrequencyWeightedIoU,
    MeanAccuracy,
    MeanIoU,
    PixelAccuracy,
    confusion_matrix,
    scores,
)

__all__ = [
    "ConfusionMatrix",
    "FrequencyWeightedIoU",
    "MeanAccuracy",
    "MeanIoU",
    "PixelAccuracy",
    "RandScore",
    "best_threshold",
    "boundary_f1",
    "confusion_matrix",
    "connected_cells",
    "foreground_rand",
    "isbi_scores",
    "mean_boundary_f1",
    "pixel_error",
    "pixel_f_error",
    "scores",
]
