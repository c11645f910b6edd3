"""Weights by path or by published name: files of this package, of PyTorch and of Caffe.

Of a `.keras` file the weights are taken; its code is not run.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.h5 import load_h5
from keras_cv_lectures.runners import load_keras_model
from keras_cv_lectures.weights.assign import set_weights
from keras_cv_lectures.weights.caffe import load_caffe
from keras_cv_lectures.weights.captions import CAPTION_SUFFIXES, is_captioner, load_caption_weights
from keras_cv_lectures.weights.pth import TORCH_SUFFIXES
from keras_cv_lectures.weights.published import download, find_published
from keras_cv_lectures.weights.torchvision import load_torch


def load_weights(
    model: keras.Model, path: str | os.PathLike, *, architecture: str | None = None, whole: bool = False
) -> None:
    """Loads the weights at `path` into `model`.

    A file may differ in its head: layers whose number of classes differs keep their values, and a warning names them.

    Args:
        model: a built network, whose weights are replaced.
        path: a `.keras`, `.weights.h5`, `.pth`, `.pt`, `.safetensors` or `.caffemodel` file, for a captioner also
            `.npz` (see `load_caption_weights`), or the name of published weights, such as "torchvision/coco-voc", which
            are downloaded once.
        architecture: torchvision's name of the network, by which published weights are found.
        whole: a `.keras` file whose head differs does not fit.

    Raises:
        ModelError: the file is absent, of another kind, or does not fit; the name is unknown or there is no network.
    """
    if str(path).startswith("torchvision/"):
        path = download(find_published(str(path), architecture))
    path = Path(path)
    if not path.exists():
        hint = f". Weights of ImageNet are a backbone's: backbone=NAME, backbone_weights={str(path)!r}"
        raise ModelError(
            f"`weights` must be an existing file. Received: weights={str(path)!r}"
            + (hint if str(path).startswith("imagenet") else "")
        )
    if path.suffix in CAPTION_SUFFIXES and is_captioner(model):
        load_caption_weights(model, path)
        return
    if path.suffix in TORCH_SUFFIXES:
        load_torch(model, path, names=getattr(model, "torch_names", None))
        return
    if path.suffix == ".caffemodel":
        load_caffe(model, path)
        return
    if path.name.endswith(".weights.h5"):
        try:
            load_h5(model, path)
        except ModelError as error:
            raise ModelError(
                f"`weights` file {path} does not fit the model {model.name!r}: {str(error).rstrip('.: ')}. "
                "A `.weights.h5` file fits the very same network only, its number of classes included; of a model "
                "saved by model.save('NAME.keras') the layers that fit are taken."
            ) from error
        return
    if path.suffix != ".keras":
        raise ModelError(
            "`weights` must be a `.keras`, `.weights.h5`, `.pth`, `.pt`, `.safetensors` or `.caffemodel` file. "
            f"Received: weights={str(path)!r}"
        )
    try:
        source = load_keras_model(path)
    except ModelError as error:
        raise ModelError(f"`weights` cannot be read: {error}") from error
    copied, skipped = copy_weights(source, model)
    if not copied:
        raise ModelError(f"`weights` file {path} fits no layer of {model.name!r}: it holds {source.name!r}.")
    if skipped and whole:
        raise ModelError(f"`weights` file {path} does not fit the model {model.name!r}: other shapes for {skipped}.")
    if skipped:
        warnings.warn(
            f"{path.name} has other shapes for {skipped}: these keep their initial values.", KcvlWarning, stacklevel=3
        )


def copy_weights(source: keras.Model, target: keras.Model) -> tuple[list[str], list[str]]:
    """Copies the weights of layers of equal name and shapes.

    Returns:
        Names of the layers that were copied and of those that were left as they were. Of a model inside the model that
        fits in parts, such as a detector's head for other classes, the layers one by one: "box.fc6".
    """
    by_name = {layer.name: layer for layer in source.layers}
    copied, skipped = [], []
    for layer in target.layers:
        if not layer.weights:
            continue
        other = by_name.get(layer.name)
        shapes = [tuple(w.shape) for w in layer.weights]
        if other is not None and [tuple(w.shape) for w in other.weights] == shapes:
            set_weights(layer, [np.asarray(w) for w in other.get_weights()])
            _copy_epsilons(other, layer)
            copied.append(layer.name)
        elif isinstance(layer, keras.Model) and isinstance(other, keras.Model):
            for names, inner in zip((copied, skipped), copy_weights(other, layer), strict=True):
                names += [f"{layer.name}.{name}" for name in inner]
        else:
            skipped.append(layer.name)
    return copied, skipped


def _copy_epsilons(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """What batch normalisation adds to the variances belongs to them: with another number the network is another."""
    kind = keras.layers.BatchNormalization
    epsilons = {layer.name: layer.epsilon for layer in source._flatten_layers() if isinstance(layer, kind)}
    for layer in target._flatten_layers():
        if isinstance(layer, kind):
            layer.epsilon = epsilons.get(layer.name, layer.epsilon)
