"""How good a model is on labelled pictures, from whatever kind of file.

`evaluate_segmentation` compares classes of pixels, `evaluate_detection` boxes, masks and keypoints of objects,
`evaluate_captioning` sentences; `best_constant_caption` is what a captioner has to beat.
"""

from keras_cv_lectures.evaluating.captioning import (
    CaptionEvaluation,
    ConstantCaption,
    best_constant_caption,
    caption_headlines,
    evaluate_captioning,
)
from keras_cv_lectures.evaluating.detection import DetectionEvaluation, evaluate_detection, headline_scores
from keras_cv_lectures.evaluating.segmentation import Evaluation, Progress, evaluate_segmentation

__all__ = [
    "CaptionEvaluation",
    "ConstantCaption",
    "DetectionEvaluation",
    "Evaluation",
    "Progress",
    "best_constant_caption",
    "caption_headlines",
    "evaluate_captioning",
    "evaluate_detection",
    "evaluate_segmentation",
    "headline_scores",
]
