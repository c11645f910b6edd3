"""Semantic segmentation: picture (B, H, W, C) in 0..255 -> logits (B, H, W, num_classes), background included.

Every builder's output layer is called "logits"; the exporter and the predictor add probabilities and the class map.
"""

from keras_cv_lectures.segmentation.unet import build_unet, unet_decoder

__all__ = ["build_unet", "unet_decoder"]
