"""VGG16 classifiers -> fully convolutional networks: a fully connected layer is a convolution as large as its input."""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.h5 import check_h5
from keras_cv_lectures.runners import load_keras_model
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel

_FULLY_CONNECTED = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
Layers = dict[str, list[np.ndarray]]


def load_vgg16(model: keras.Model, source: str | os.PathLike | keras.Model) -> list[str]:
    """Loads a VGG16 classifier into `model`, whose layers are named `conv1_1` ... `conv5_3`, `fc6`, `fc7`.

    Where `model` has as many classes as the classifier, the last layer becomes `score_fr`: a sliding-window classifier.
    Any channel count is taken: the first kernel is adapted to it.

    Args:
        model: such as `build_fcn32s(...)`, of the classifier's widths.
        source: "imagenet" (Keras downloads and caches its file), the path of a Keras `.h5` or `.keras` file with the
            names of `keras.applications.VGG16`, with or without top, the path of a Caffe `.caffemodel` such as
            `VGG_ILSVRC_16_layers.caffemodel`, or a `keras.Model`.

    Returns:
        Names of the layers that the file has but whose shapes did not fit; a warning names them too.

    Raises:
        ModelError: if the file is absent, cannot be read, fits no layer, or has convolutions that the model lacks.
    """
    layers = read_vgg16(source)
    check_convolutions(model, layers, source)
    if "fc8" in layers:
        layers["score_fr"] = layers.pop("fc8")
    targets = {layer.name: layer for layer in model.layers if layer.name in layers}
    fits, skipped = 0, []
    for name, layer in targets.items():
        kernel, bias = layers[name]
        if name == "conv1_1":
            kernel = adapt_first_kernel(kernel, layer.kernel.shape[2], bgr=True)
        if [tuple(w.shape) for w in layer.weights] == [kernel.shape, bias.shape]:
            layer.set_weights([kernel, bias])
            fits += 1
        elif name != "score_fr":  # The classes of a segmentation are other ones.
            skipped.append(name)
    if not fits:
        raise ModelError(
            f"{described(source)} fits no layer of {model.name!r}. A VGG16 with the model's `filters` and "
            "`convolutions`, without normalisation, is expected."
        )
    missing = [name for name in ("fc6", "fc7") if name not in layers]
    if skipped or missing:
        parts = [f"other shapes for {skipped}"] * bool(skipped) + [f"nothing for {missing}"] * bool(missing)
        warnings.warn(
            f"{described(source)} has {' and '.join(parts)}: these keep their initial values.",
            KcvlWarning,
            stacklevel=3,
        )
    return skipped


def read_vgg16(source: str | os.PathLike | keras.Model) -> Layers:
    """Kernels (h, w, in, out) and biases of a VGG16 classifier, by Caffe's names `conv1_1` ... `fc6`, `fc7`, `fc8`.

    Args:
        source: as in `load_vgg16`.

    Raises:
        ModelError: if the file is absent, cannot be read, or is no VGG16.
    """
    caffe = not isinstance(source, keras.Model) and str(source).endswith(".caffemodel")
    try:
        found = _caffe_blobs(source) if caffe else _keras_arrays(source)
    except ModelError:
        raise
    except Exception as error:  # Damaged files make zip, HDF5 and Keras raise almost anything.
        hint = " Without network, copy Keras's file here and pass its path." if source == "imagenet" else ""
        raise ModelError(f"{described(source)} cannot be read: {error}.{hint}") from error
    renamed = {name if caffe else caffe_name(name): arrays for name, arrays in found.items()}
    layers = {
        name: [np.asarray(array, "float32") for array in arrays]
        for name, arrays in renamed.items()
        if re.fullmatch(r"conv\d_\d|fc[678]", name) and len(arrays) == 2
    }
    convolutions = sorted(name for name in layers if name.startswith("conv"))
    if not convolutions:
        raise ModelError(f"{described(source)} is no VGG16: it has the layers {list(found)[:6]} ...")
    deepest = layers[convolutions[-1]][0].shape[0 if caffe else -1]
    for name, (kernel, bias) in layers.items():
        channels = deepest if name == "fc6" else None
        kernel = caffe_kernel(kernel, channels) if caffe else dense_kernel(kernel, channels)
        layers[name] = [kernel, bias.reshape(-1)]
    return layers


def check_convolutions(model: keras.Model, layers: Layers, source: str | os.PathLike | keras.Model) -> None:
    """Raises ModelError where the file has convolutions that the model lacks, as VGG19 has: it is another network."""
    own = {layer.name for layer in model.layers}
    strange = [name for name in layers if name.startswith("conv") and name not in own]
    if strange:
        raise ModelError(
            f"{described(source)} is of another network than {model.name!r}, which has no {strange}. Expected VGG16, "
            "or as many convolutions a block as the model has. Take another file."
        )


def dense_kernel(kernel: np.ndarray, channels: int | None = None) -> np.ndarray:
    """Kernel (in, out) of a Keras `Dense` layer as that of a convolution (s, s, channels, out), in = s * s * channels.

    Keras flattens pictures as height, width, channels, so nothing moves: (25088, 4096) -> (7, 7, 512, 4096). A kernel
    that is a convolution's already comes back as it is.

    Args:
        channels: of the map that was flattened; None: it was no map, and s is 1.
    """
    if kernel.ndim == 4:
        return kernel
    side = _side(kernel.shape[0], channels)
    return kernel.reshape(side, side, -1, kernel.shape[1])


def caffe_kernel(blob: np.ndarray, channels: int | None = None) -> np.ndarray:
    """Blob (out, in) of Caffe's `InnerProduct`, or of its `Convolution`, as a kernel (s, s, channels, out).

    Caffe (and torch) flatten as channels, height, width: (4096, 25088) -> (4096, 512, 7, 7) -> (7, 7, 512, 4096).

    Args:
        blob: (out, in), with ones before it in old files, or (out, channels, s, s).
        channels: of the map that was flattened; None: it was no map, and s is 1.
    """
    if blob.ndim != 4 or blob.shape[:2] == (1, 1):
        blob = blob.reshape(blob.shape[-2:])
        side = _side(blob.shape[1], channels)
        blob = blob.reshape(blob.shape[0], -1, side, side)
    return blob.transpose(2, 3, 1, 0)


def caffe_name(name: str) -> str:
    """`block3_conv2` -> `conv3_2`, `fc1` -> `fc6`, `predictions` -> `fc8`; other names as they are."""
    block = re.fullmatch(r"block(\d)_conv(\d)", name)
    return f"conv{block[1]}_{block[2]}" if block else _FULLY_CONNECTED.get(name, name)


def _side(inputs: int, channels: int | None) -> int:
    if channels is None:
        return 1
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs:
        raise ModelError(
            f"a fully connected layer with {inputs} inputs cannot become a convolution: it does not stand on a square "
            f"map of {channels} channels."
        )
    return side


def _caffe_blobs(path) -> Layers:
    from keras_cv_lectures.weights.caffe_format import read_caffemodel

    return read_caffemodel(path)


def _keras_arrays(source) -> Layers:
    """Weights of every layer, by its name."""
    if isinstance(source, keras.Model):
        return {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    if source == "imagenet":
        return _keras_arrays(keras.applications.VGG16(weights="imagenet"))
    path = Path(source)
    if not path.exists():
        raise ModelError(f"`backbone_weights` must be an existing file. Received: {str(path)!r}")
    if path.suffix == ".keras":
        return _keras_arrays(load_keras_model(path))
    if path.suffix != ".h5" or path.name.endswith(".weights.h5"):
        raise ModelError(f"`backbone_weights` must be a `.h5`, `.keras` or `.caffemodel` file. Received: {str(path)!r}")
    return _h5_arrays(path)


def _h5_arrays(path: Path) -> Layers:
    """A file of `keras.applications`, read without building the 138 million parameters that it fills."""
    import h5py

    check_h5(path)
    with h5py.File(path) as file:
        groups = file.get("model_weights", file)
        names = [_text(name) for name in groups.attrs["layer_names"]]
        return {name: [groups[name][_text(w)][()] for w in groups[name].attrs["weight_names"]] for name in names}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def described(source: str | os.PathLike | keras.Model) -> str:
    """The file or the model that weights come from, for messages."""
    return f"the model {source.name!r}" if isinstance(source, keras.Model) else f"`backbone_weights` {str(source)!r}"


__all__ = ["caffe_kernel", "check_convolutions", "dense_kernel", "described", "load_vgg16", "read_vgg16"]
