"""Examples -> fixed-shape `(inputs, targets)`, in `tf.data`.

`augment` changes one example, the picture and all its labels together; `segmentation_batches` makes the batches a
segmentation model trains on, `training_batches` what the trainer asks for; `border_weight_map` is U-Net's,
`instance_crops` and `proposal_crops` are DeconvNet's two training sets.
"""

from keras_cv_lectures.preprocessing.augment import Augmentation, augment
from keras_cv_lectures.preprocessing.batches import mirror_context, resize_example, training_batches
from keras_cv_lectures.preprocessing.instance_crops import instance_crops, jittered_boxes, proposal_crops
from keras_cv_lectures.preprocessing.segmentation import segmentation_batches, to_segmentation
from keras_cv_lectures.preprocessing.weight_maps import border_weight_map, with_border_weights

__all__ = [
    "Augmentation",
    "augment",
    "border_weight_map",
    "instance_crops",
    "jittered_boxes",
    "mirror_context",
    "proposal_crops",
    "resize_example",
    "segmentation_batches",
    "to_segmentation",
    "training_batches",
    "with_border_weights",
]
