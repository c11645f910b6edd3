"""The authors' `.caffemodel` files -> our networks, whose layers carry the names of those files."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.weights.caffe_format import read_caffemodel
from keras_cv_lectures.weights.caffe_layers import has_other_classes, to_weights
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel

# Names in the FCN files of 2015 (and in CRF-RNN's) -> those of the later "heavy" files, which our layers carry; and the
# one layer of the U-Net that has another name here.
_UPSAMPLINGS = ("upscore8", "upscore16", "upscore")
_OTHER_NAMES = {
    "score-fr": ("score_fr",),
    "score": ("score_fr",),
    "score59": ("score_fr",),
    "score-pool4": ("score_pool4",),
    "score-pool3": ("score_pool3",),
    "score2": ("upscore2",),
    "score4": ("upscore_pool4",),
    "upsample-fused-16": ("upscore_pool4",),
    "upsample": _UPSAMPLINGS,
    "bigscore": _UPSAMPLINGS,
    "conv_u0d-score": ("score",),
}
# Conventions of `ImageNormalization` that keep red, green, blue.
_RGB_CONVENTIONS = ("none", "symmetric", "torch", "unit")


def load_caffe(
    model: keras.Model,
    path_or_blobs: str | os.PathLike | Mapping[str, Sequence[np.ndarray]],
    *,
    rename: Mapping[str, str | None] | None = None,
    strict: bool = True,
    bgr_to_rgb: bool | None = None,
    batch_norm_epsilon: float = 1e-5,
) -> list[str]:
    """Loads a `.caffemodel` into a model whose layers carry Caffe's names, nested models included.

    Nothing is assigned unless everything fits. An inner product becomes the convolution that it is (fc6: 4096 x 25088
    in the order channel, row, column -> 7 x 7 x 512 x 4096). Layers of the classes whose number differs (scores and
    their upsampling) keep their initial values, and a warning names them.

    BN layers of SegNet's and DeconvNet's files hold a scale and a shift only. In the inference files these are the
    whole layer. Training files look the same, but their statistics are missing: the authors' scripts compute them.

    Args:
        model: the network, functional.
        path_or_blobs: a file, or what `read_caffemodel` gave.
        rename: Caffe's name -> the layer's name; None leaves a layer of the file out, such as `{"fc8": None}`.
            BatchNorm and Scale of one normalization go to the same layer (`scale_conv1` finds that of `bn_conv1`).
            The names of the older FCN files (`score-fr`, `score2`, `upsample`) and of DeepLab's scores, which end in
            the data set (`fc8_voc12`), are known.
        strict: False lets layers of either side stay without a partner, with a warning: for starting from a
            classifier (VGG_ILSVRC_16_layers) or from a coarser network.
        bgr_to_rgb: Caffe's networks read blue, green, red. True reverses the first kernel for a network that reads
            red, green, blue; False does not. None asks the model's `ImageNormalization`: reversed if that keeps red,
            green, blue; not if it reverses the picture, or if there is none.
        batch_norm_epsilon: the `eps` of BatchNorm layers in the prototxt, whatever epsilon the model has.

    Returns:
        Names of the layers with weights that kept their values.

    Raises:
        ModelError: if the file is broken, its layers and those of the model are not the same, or a shape differs.
    """
    given = isinstance(path_or_blobs, Mapping)
    blobs = path_or_blobs if given else read_caffemodel(path_or_blobs)
    source = "the given blobs" if given else os.fspath(path_or_blobs)
    layers = _layers_by_name(model)
    groups, unknown = _groups(blobs, layers, rename or {})
    missing = [name for name, layer in layers.items() if layer.weights and name not in groups]
    if not groups or (strict and (unknown or missing)):
        raise ModelError(_strangers(model, source, unknown, missing))
    _move_bias(groups, layers, "upscore2", "score_pool4")

    classes = {output.shape[-1] for output in model.outputs}
    heads = [name for name, group in groups.items() if has_other_classes(layers[name], group, classes)]
    first = next((layer for layer in layers.values() if isinstance(layer, keras.layers.Conv2D)), None)
    reverse = _reads_rgb(layers.values()) if bgr_to_rgb is None else bgr_to_rgb
    weights = {}
    for name, group in groups.items():
        if name in heads:
            continue
        try:
            weights[name] = to_weights(layers[name], group, batch_norm_epsilon)
            if layers[name] is first:
                weights[name][0] = _first_kernel(weights[name][0], first, reverse)
            _check(layers[name], weights[name])
        except ModelError as error:
            raise ModelError(f"{source} does not fit layer {name!r} of {model.name!r}: {error}") from error

    for name, arrays in weights.items():
        # Numbers in a file may lie at any address; TensorFlow wants them aligned.
        layers[name].set_weights([np.require(array, "float32", ["C", "A"]) for array in arrays])
    _warn(source, heads, unknown, missing)
    return heads + missing


def _layers_by_name(model) -> dict[str, keras.layers.Layer]:
    """Layers of the model and of the models nested in it, in the order of the graph."""
    found = {}
    for layer in _flat(model):
        if layer.name in found and (layer.weights or found[layer.name].weights):
            raise ModelError(f"`model` {model.name!r} has two layers called {layer.name!r}. Rename one of them.")
        found[layer.name] = layer
    return found


def _flat(model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def _groups(blobs, layers, rename) -> tuple[dict[str, list[list[np.ndarray]]], list[str]]:
    """(layer's name -> the blobs of each Caffe layer that belongs to it, Caffe names that belong to none)."""
    groups, unknown = {}, []
    for caffe_name, arrays in blobs.items():
        if not len(arrays):
            continue
        if caffe_name in rename:
            candidates = [rename[caffe_name]]
            if rename[caffe_name] is None:
                continue
            if rename[caffe_name] not in layers:
                raise ModelError(f"`rename` maps {caffe_name!r} to {rename[caffe_name]!r}, no layer of the model.")
        else:
            other = [*_OTHER_NAMES.get(caffe_name, ()), *_without_data_set(caffe_name)]
            candidates = [caffe_name, *other, *_normalization_of(caffe_name, rename)]
        name = next((candidate for candidate in candidates if candidate in layers), None)
        if name is None:
            unknown.append(caffe_name)
        else:
            groups.setdefault(name, []).append([np.asarray(array, "float32") for array in arrays])
    return groups, unknown


def _without_data_set(caffe_name) -> list[str]:
    """DeepLab's files name the data set in the scores: `fc8_voc12` of v1, `fc8_voc12_1` ... of v2."""
    scores = re.fullmatch(r"fc8_[A-Za-z]\w*?(_\d)?", caffe_name)
    return [f"fc8{scores[1] or ''}"] if scores else []


def _normalization_of(caffe_name, rename) -> list[str]:
    """Caffe splits a normalization: `bn2a_branch1` and `scale2a_branch1`, or `conv1/bn` and `conv1/scale`."""
    if "scale" not in caffe_name:
        return []
    twin = caffe_name.replace("scale", "bn")
    return [rename.get(twin) or twin]


def _move_bias(groups, layers, name, summand):
    """The older files have a bias where scores are upsampled; it goes to the scores that these are added to."""
    if name not in groups or summand not in groups or len(layers[name].weights) != 1:
        return
    moved, kept = groups[name][0], groups[summand][0]
    if len(moved) == len(kept) == 2 and moved[1].size == kept[1].size:
        groups[summand][0] = [kept[0], kept[1].reshape(-1) + moved[1].reshape(-1)]
        groups[name][0] = moved[:1]


def _reads_rgb(layers) -> bool:
    conventions = [layer.convention for layer in layers if hasattr(layer, "convention")]
    return bool(conventions) and conventions[0] in _RGB_CONVENTIONS


def _first_kernel(kernel, layer, reverse) -> np.ndarray:
    """(h, w, 3, out) for the order and the number of channels that the layer reads; others as they are."""
    channels = layer.weights[0].shape[2]
    if kernel.shape[2] != 3:
        return kernel
    if channels != 3:
        return adapt_first_kernel(kernel, channels, bgr=True)
    return kernel[:, :, ::-1] if reverse else kernel


def _check(layer, arrays):
    wanted = [tuple(weight.shape) for weight in layer.weights]
    got = [array.shape for array in arrays]
    if got != wanted:
        raise ModelError(f"expected weights of shapes {wanted}. Received, in Keras's order: {got}")
    for array in arrays:
        # The extremes are not finite if any number is not; a mask of fc6 would cost 100 MB.
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise ModelError("it holds numbers that are not finite: the file is damaged. Fetch it again.")


def _strangers(model, source, unknown, missing) -> str:
    return (
        f"{source} does not fit the model {model.name!r}. Layers of the file that the model lacks: {_listed(unknown)}. "
        f"Layers of the model that the file lacks: {_listed(missing)}. Build the variant that the file is of, map "
        "names with `rename={caffe: layer}` (None leaves one out), or load what fits with `strict=False`."
    )


def _listed(names) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown


def _warn(source, heads, unknown, missing):
    notes = {
        "have another number of classes and keep their initial values": heads,
        "are not in the file and keep their initial values": missing,
        "are not in the model": unknown,
    }
    text = "; ".join(f"{_listed(names)} {what}" for what, names in notes.items() if names)
    if text:
        warnings.warn(f"{source}: {text}.", KcvlWarning, stacklevel=3)


__all__ = ["load_caffe", "read_caffemodel"]
