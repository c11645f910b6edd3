"""Raw outputs of a network -> predictions that a person can read.

Contract: `segmentation` turns logits (B, H, W, K) into the dict `logits`, `probabilities`, `class_map` that every
serving form of a model returns, and brings probabilities back to the size of the original picture.
`detection` turns a detector's padded outputs into the objects of one picture, in its own pixels, and pastes masks.
`proposals` merges DeconvNet's scores of many crops into those of one picture.
`dense_crf` moves the borders of classes to the edges of the picture.
"""

from keras_cv_lectures.postprocessing.dense_crf import CRF_PRESETS, dense_crf
from keras_cv_lectures.postprocessing.detection import (
    coco_annotations,
    detected_objects,
    fitted_size,
    instance_map,
    on_canvas,
    paste_masks,
)
from keras_cv_lectures.postprocessing.proposals import (
    ensemble_scores,
    merge_proposals,
    segment_proposals,
    sliding_boxes,
)
from keras_cv_lectures.postprocessing.segmentation import class_map_at, resize_probabilities, serving_outputs

__all__ = [
    "CRF_PRESETS",
    "class_map_at",
    "coco_annotations",
    "dense_crf",
    "detected_objects",
    "ensemble_scores",
    "fitted_size",
    "instance_map",
    "merge_proposals",
    "on_canvas",
    "paste_masks",
    "resize_probabilities",
    "segment_proposals",
    "serving_outputs",
    "sliding_boxes",
]
