"""What is minimised: `keras.losses.Loss` objects that return one value per example.

Every loss here computes in float32 under any dtype policy, is written in `keras.ops`, runs under XLA and gives finite
values and gradients for pictures without a single labelled pixel. Unusable labels make it NaN instead of teaching the
model something wrong, so that a run stops (`keras.callbacks.TerminateOnNaN`).
"""

from keras_cv_lectures.losses.pixelwise import SegmentationLoss
from keras_cv_lectures.losses.segmentation import (
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszSoftmaxLoss,
    SegmentationCrossEntropy,
    TverskyLoss,
    WeightedSum,
    median_frequency_weights,
)

__all__ = [
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "LovaszSoftmaxLoss",
    "SegmentationCrossEntropy",
    "SegmentationLoss",
    "TverskyLoss",
    "WeightedSum",
    "median_frequency_weights",
]
