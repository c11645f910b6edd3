"""Weights: foreign and local files -> variables of our models. Nothing is downloaded unless a caller asks for it."""

from keras_cv_lectures.weights.keras_applications import load_imagenet
from keras_cv_lectures.weights.local import copy_weights, load_weights

__all__ = ["copy_weights", "load_imagenet", "load_weights"]
