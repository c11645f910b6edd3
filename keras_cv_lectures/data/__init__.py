"""Readers: files, or a generated world -> `Source`, a list of example dicts, -> `tf.data`.

An example is an unbatched dict of NumPy arrays. A pixel in row i and column j covers [j, j + 1) x [i, i + 1).

* `image` (H, W, C) uint8, RGB; a grey file comes as three equal channels unless one was asked for
* `mask` (H, W) int32 class ids, 255 = ignore
* `boxes` (N, 4) float32 (x1, y1, x2, y2) in absolute pixels, x1 < x2 <= W; `labels` (N,) int32 from 0
* `instance_masks` (N, H, W) uint8, 0 or 1
* `keypoints` (N, K, 3) float32 x, y, visibility (0 absent, 1 hidden, 2 visible)
* `captions` strings; `image_id` string

`open_source("camvid:DIR")` opens data by its specification, `to_dataset` makes a reproducible `tf.data.Dataset` of a
source, and `doctor` names every file that training would stumble over. Everything at fault raises `DataError`.
"""

from keras_cv_lectures.data.doctor import LabelCount, Report, SplitReport, doctor, examine
from keras_cv_lectures.data.folders import camvid_source, folder_source
from keras_cv_lectures.data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_image, read_mask
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.labels import (
    CAMVID_CLASSES,
    CAMVID_COLORS,
    CAMVID_LABELS,
    IGNORE,
    VOC_CLASSES,
    VOC_COLORS,
    VOC_LABELS,
    LabelMap,
    default_colors,
    read_label_file,
)
from keras_cv_lectures.data.shapes import shapes_source
from keras_cv_lectures.data.source import Source, cached, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.data.specs import has_splits, open_source
from keras_cv_lectures.data.voc import voc_segmentation_source

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_COLORS",
    "CAMVID_LABELS",
    "IGNORE",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "VOC_CLASSES",
    "VOC_COLORS",
    "VOC_LABELS",
    "LabelCount",
    "LabelMap",
    "Report",
    "Source",
    "SplitReport",
    "cached",
    "camvid_source",
    "data_error",
    "default_colors",
    "doctor",
    "examine",
    "folder_source",
    "has_splits",
    "infer_label_map",
    "open_source",
    "read_image",
    "read_label_file",
    "read_mask",
    "shapes_source",
    "to_dataset",
    "voc_segmentation_source",
    "wait_for_readers",
]
