"""Detectors: pictures -> boxes, classes, scores, masks and keypoints of objects."""

from keras_cv_lectures.detection.alternating import train_alternating
from keras_cv_lectures.detection.coco import COCO_CLASSES, COCO_KEYPOINTS
from keras_cv_lectures.detection.detector import Detector
from keras_cv_lectures.detection.graph import DetectorSettings
from keras_cv_lectures.detection.heads import box_head, keypoint_head, mask_head, pooled_box_head, rpn_head
from keras_cv_lectures.detection.pyramid import feature_pyramid
from keras_cv_lectures.detection.rcnn import build_faster_rcnn, build_keypoint_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.single_level import VARIANT_DEFAULTS, CaffeDetector

__all__ = [
    "COCO_CLASSES",
    "COCO_KEYPOINTS",
    "VARIANT_DEFAULTS",
    "CaffeDetector",
    "Detector",
    "DetectorSettings",
    "box_head",
    "build_faster_rcnn",
    "build_keypoint_rcnn",
    "build_mask_rcnn",
    "feature_pyramid",
    "keypoint_head",
    "mask_head",
    "pooled_box_head",
    "rpn_head",
    "train_alternating",
]
