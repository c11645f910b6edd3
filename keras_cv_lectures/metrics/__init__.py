"""How good predictions are, in the numbers the field reports.

`keras.metrics.Metric` objects for `compile(metrics=[...])`, all over one confusion matrix, and plain NumPy functions
for what is computed once, after training: the same scores with a row per class, the boundary F1, and ISBI 2012's pair;
average precision of detections; BLEU, ROUGE-L and CIDEr-D of captions.
"""

from keras_cv_lectures.metrics.average_precision import (
    PrecisionRecall,
    PrecisionRecallCurves,
    match_objects,
    picture_f1,
)
from keras_cv_lectures.metrics.boundary import boundary_f1, mean_boundary_f1
from keras_cv_lectures.metrics.captions import BleuScore, bleu, caption_scores, cider_d, rouge_l
from keras_cv_lectures.metrics.coco import CocoEvaluator, CocoResult, coco_scores
from keras_cv_lectures.metrics.constant_caption import best_constant
from keras_cv_lectures.metrics.grounding import attention_inside, pointing_hits
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
    MeanDice,
    MeanIoU,
    PixelAccuracy,
    confusion_matrix,
    scores,
)

__all__ = [
    "BleuScore",
    "CocoEvaluator",
    "CocoResult",
    "ConfusionMatrix",
    "FrequencyWeightedIoU",
    "MeanAccuracy",
    "MeanDice",
    "MeanIoU",
    "PixelAccuracy",
    "PrecisionRecall",
    "PrecisionRecallCurves",
    "RandScore",
    "attention_inside",
    "best_constant",
    "best_threshold",
    "bleu",
    "boundary_f1",
    "caption_scores",
    "cider_d",
    "coco_scores",
    "confusion_matrix",
    "connected_cells",
    "foreground_rand",
    "isbi_scores",
    "match_objects",
    "mean_boundary_f1",
    "picture_f1",
    "pixel_error",
    "pixel_f_error",
    "pointing_hits",
    "rouge_l",
    "scores",
]
