"""Readers: files, or a generated world -> `Source`, a list of example dicts, -> `tf.data`.

An example is an unbatched dict of NumPy arrays. A pixel in row i and column j covers [j, j + 1) x [i, i + 1).

* `image` (H, W, C) uint8, RGB; a grey file comes as three equal channels unless one was asked for
* `mask` (H, W) int32 class ids, 255 = ignore
* `boxes` (N, 4) float32 (x1, y1, x2, y2) in absolute pixels, x1 < x2 <= W; `labels` (N,) int32 from 0, no background
* `crowd` and `difficult` (N,) bool, where the data set has any: a group, in which any number of detections may lie, and
  an object that Pascal VOC marks so. Neither is trained on, and finding it is neither right nor wrong
* `area` (N,) float32, where the data set says it: square pixels of the object itself, not of its box
* instance masks cropped to their objects: `mask_windows` (N, 4) int32, pixels (x1, y1, x2, y2), half-open, and
  `mask_pixels` (P,) uint8, 0 or 1, the crops row by row, one after the other (`geometry.masks.unpack_masks`); or, of
  generated pictures, `instance_masks` (N, H, W) uint8, 0 or 1
* `keypoints` (N, K, 3) float32 x, y, visibility (0 absent, 1 hidden, 2 visible)
* `captions` (N,) strings; of generated pictures also `caption_objects` (W,) int32, for each word of the first caption
  the object that it names, or -1; `image_id` string

A reader of your own is a function that returns a `Source` (docs/own_reader.md).

`open_source("camvid:DIR")` opens data by its specification, `to_dataset` makes a reproducible `tf.data.Dataset` of a
source, and `doctor` names every file that training would stumble over. Everything at fault raises `DataError`.
"""

from keras_cv_lectures.data.captions import caption_pairs, caption_table, caption_texts, coco_captions, flickr_captions
from keras_cv_lectures.data.cityscapes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_COLORS,
    CITYSCAPES_LABELS,
    cityscapes_objects_source,
    cityscapes_source,
)
from keras_cv_lectures.data.coco import coco_source
from keras_cv_lectures.data.doctor import Report, doctor, examine
from keras_cv_lectures.data.folders import camvid_source, folder_source
from keras_cv_lectures.data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_image, read_mask
from keras_cv_lectures.data.instance_folder import instance_folder_source
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
from keras_cv_lectures.data.objects import keypoint_flip
from keras_cv_lectures.data.pets import PETS_CLASSES, PETS_LABELS, pets_boxes_source, pets_source
from keras_cv_lectures.data.shapes import shapes_source
from keras_cv_lectures.data.source import Source, cached, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.data.specs import has_splits, open_source
from keras_cv_lectures.data.survey import CaptionCount, LabelCount, ObjectCount, SplitReport
from keras_cv_lectures.data.tfds_source import tfds_source
from keras_cv_lectures.data.voc import voc_segmentation_source
from keras_cv_lectures.data.voc_boxes import voc_boxes_source
from keras_cv_lectures.data.yolo import yolo_source

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_COLORS",
    "CAMVID_LABELS",
    "CITYSCAPES_CLASSES",
    "CITYSCAPES_COLORS",
    "CITYSCAPES_LABELS",
    "IGNORE",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "PETS_CLASSES",
    "PETS_LABELS",
    "VOC_CLASSES",
    "VOC_COLORS",
    "VOC_LABELS",
    "CaptionCount",
    "LabelCount",
    "LabelMap",
    "ObjectCount",
    "Report",
    "Source",
    "SplitReport",
    "cached",
    "camvid_source",
    "caption_pairs",
    "caption_table",
    "caption_texts",
    "cityscapes_objects_source",
    "cityscapes_source",
    "coco_captions",
    "coco_source",
    "data_error",
    "default_colors",
    "doctor",
    "examine",
    "flickr_captions",
    "folder_source",
    "has_splits",
    "infer_label_map",
    "instance_folder_source",
    "keypoint_flip",
    "open_source",
    "pets_boxes_source",
    "pets_source",
    "read_image",
    "read_label_file",
    "read_mask",
    "shapes_source",
    "tfds_source",
    "to_dataset",
    "voc_boxes_source",
    "voc_segmentation_source",
    "wait_for_readers",
    "yolo_source",
]
