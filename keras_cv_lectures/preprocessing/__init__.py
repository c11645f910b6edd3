"""Examples -> fixed-shape `(inputs, targets)`, in `tf.data`.

`augment` changes one example, the picture and all its labels together; `segmentation_batches` makes the batches a
segmentation model trains on, `training_batches` what the trainer asks for, `detection_batches` those of a detector,
`caption_batches` those of a captioner;
`border_weight_map` is U-Net's, `instance_crops` and `proposal_crops` are DeconvNet's two training sets.

A batch for segmentation is `(image, mask)`. A batch for detection is `({"image", "size"}, {"boxes", "labels", "masks",
"mask_windows", "keypoints"})` with N rows for every picture, label -1 in those that are padding. A batch for captioning
is `({"image", "tokens"}, tokens)`, `tokens` (B, N, T) with N sentences for every picture and 0 after the end of each.
"""

from keras_cv_lectures.preprocessing.augment import Augmentation, augment
from keras_cv_lectures.preprocessing.batches import mirror_context, resize_example, training_batches
from keras_cv_lectures.preprocessing.captions import caption_batches
from keras_cv_lectures.preprocessing.detection import detection_batches, detection_example, resize_rule
from keras_cv_lectures.preprocessing.instance_crops import instance_crops, jittered_boxes, proposal_crops
from keras_cv_lectures.preprocessing.segmentation import segmentation_batches, to_segmentation
from keras_cv_lectures.preprocessing.weight_maps import border_weight_map, with_border_weights

__all__ = [
    "Augmentation",
    "augment",
    "border_weight_map",
    "caption_batches",
    "detection_batches",
    "detection_example",
    "instance_crops",
    "jittered_boxes",
    "mirror_context",
    "proposal_crops",
    "resize_example",
    "resize_rule",
    "segmentation_batches",
    "to_segmentation",
    "training_batches",
    "with_border_weights",
]
