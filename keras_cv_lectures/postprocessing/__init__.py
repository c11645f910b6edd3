"""Raw outputs of a network -> predictions that a person can read.

Contract: `segmentation` turns logits (B, H, W, K) into the dict `logits`, `probabilities`, `class_map` that every
serving form of a model returns, and brings probabilities back to the size of the original picture.
"""

from keras_cv_lectures.postprocessing.segmentation import class_map_at, resize_probabilities, serving_outputs

__all__ = ["class_map_at", "resize_probabilities", "serving_outputs"]
