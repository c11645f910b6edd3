"""Weights: foreign and local files -> variables of our models. Nothing is downloaded unless a caller asks for it."""

from keras_cv_lectures.weights.assign import set_weights
from keras_cv_lectures.weights.caffe import load_caffe, read_caffemodel
from keras_cv_lectures.weights.captions import arctic_vocabulary, load_caption_weights, tutorial_vocabulary
from keras_cv_lectures.weights.convolutionalize import load_vgg16
from keras_cv_lectures.weights.keras_applications import load_imagenet
from keras_cv_lectures.weights.local import copy_weights, load_weights
from keras_cv_lectures.weights.pth import read_torch
from keras_cv_lectures.weights.published import PUBLISHED, download
from keras_cv_lectures.weights.torchvision import load_torch, to_torch_state

__all__ = [
    "PUBLISHED",
    "arctic_vocabulary",
    "copy_weights",
    "download",
    "load_caffe",
    "load_caption_weights",
    "load_imagenet",
    "load_torch",
    "load_vgg16",
    "load_weights",
    "read_caffemodel",
    "read_torch",
    "set_weights",
    "to_torch_state",
    "tutorial_vocabulary",
]
