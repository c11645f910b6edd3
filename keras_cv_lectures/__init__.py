"""The systems of the deep-vision lectures as Keras 3 models that train, export and run.

    import keras_cv_lectures as kcvl

    model = kcvl.build_unet((None, None, 3), num_classes=11)
    model.compile("adam", loss=kcvl.losses.SegmentationCrossEntropy(), metrics=[kcvl.metrics.MeanIoU(11)])
    model.fit(...)
    kcvl.export_tflite(model, "unet.tflite", input_shape=(180, 240))

Importing the package registers its layers, losses and metrics with Keras, so that `.keras` files load in safe mode.
"""

import os

__version__ = "0.1.0"

# TensorFlow has oneDNN's convolutions, but by itself uses them on CPUs with AVX-512 VNNI alone. It reads this when it
# is imported: a program that imports TensorFlow or Keras first decides for itself.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_cv_lectures import (
    backbones,
    data,
    detection,
    geometry,
    language,
    layers,
    losses,
    metrics,
    postprocessing,
    preprocessing,
    visualize,
)
from keras_cv_lectures.data import open_source
from keras_cv_lectures.detection import build_faster_rcnn, build_keypoint_rcnn, build_mask_rcnn
from keras_cv_lectures.evaluating import evaluate_captioning, evaluate_detection, evaluate_segmentation
from keras_cv_lectures.exporting import export_saved_model, export_tflite
from keras_cv_lectures.language import build_show_and_tell, build_show_attend_tell
from keras_cv_lectures.predicting import predict, predict_averaged, predict_tiled
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.segmentation import (
    append_crf,
    build_deconvnet,
    build_deeplab,
    build_fcn,
    build_fcn8s,
    build_fcn16s,
    build_fcn32s,
    build_segnet,
    build_unet,
    predict_bayesian,
)
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.text import Vocabulary
from keras_cv_lectures.training import train, train_staged
from keras_cv_lectures.weights import load_weights

__all__ = [
    "SYSTEMS",
    "TrainingOptions",
    "Vocabulary",
    "append_crf",
    "backbones",
    "build_deconvnet",
    "build_deeplab",
    "build_faster_rcnn",
    "build_fcn",
    "build_fcn8s",
    "build_fcn16s",
    "build_fcn32s",
    "build_keypoint_rcnn",
    "build_mask_rcnn",
    "build_segnet",
    "build_show_and_tell",
    "build_show_attend_tell",
    "build_unet",
    "data",
    "detection",
    "evaluate_captioning",
    "evaluate_detection",
    "evaluate_segmentation",
    "export_saved_model",
    "export_tflite",
    "geometry",
    "language",
    "layers",
    "load_runner",
    "load_weights",
    "losses",
    "metrics",
    "open_source",
    "postprocessing",
    "predict",
    "predict_averaged",
    "predict_bayesian",
    "predict_tiled",
    "preprocessing",
    "train",
    "train_staged",
    "visualize",
]
