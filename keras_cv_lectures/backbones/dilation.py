"""Dilation: a network with a smaller output stride and the same weights (the "hole algorithm" of DeepLab)."""

from __future__ import annotations

from typing import Any

import keras

from keras_cv_lectures.backbones.dilated_pooling import DilatedPooling2D
from keras_cv_lectures.backbones.torch_shape import check_output_stride
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import AtrousConv2D
from keras_cv_lectures.weights import set_weights

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
# A stride cannot be counted through these.
_OPAQUE = (keras.Model, keras.layers.Conv2DTranspose, keras.layers.UpSampling2D)


def dilate(model: keras.Model, output_stride: int) -> keras.Model:
    """The network with its last strides taken out and what follows them dilated; the weights are kept.

    A layer whose stride would take the network beyond `output_stride` gets stride 1 and keeps its own dilation rate;
    the kernels after it are spread by the stride that was lost. The new network so computes the old one at every
    position in between: for some offsets a and b, away from the borders,

        dilate(model, 8)(x)[:, a::4, b::4] == model(x)      for a model of stride 32

    a and b are 0 where the old network pads symmetrically (ResNet, VGG, Xception), and the borders are then equal too.
    Means over the whole picture (squeeze and excitation in EfficientNet and MobileNetV3) are taken over more positions
    than before, so such networks agree only as far as those means do. Weights keep their order and shapes: files of
    the old network load into the new one.

    Input: that of `model`. Output: that of `model`; maps of a greater stride than `output_stride` are now at it.

    Paper: https://arxiv.org/abs/1412.7062, section 3.1. Differs from the paper: poolings after a lost stride are spread
    too (`DilatedPooling2D`), where the released DeepLab v1 and v2 leave them dense, so that the equation holds.

    Args:
        model: a functional model from one picture, such as those of `keras.applications`. It is left as it is.
        output_stride: 8, 16 or 32. A network of no greater stride is copied unchanged.

    Raises:
        ValueError: for another output stride, a model that is not functional, or one that holds a nested model, an
            upsampling, or a strided layer of another kind than convolution and pooling where a stride is lost.
    """
    check_output_stride(output_stride)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ModelError(
            "`model` must be a functional keras.Model, whose graph can be rewritten. "
            f"Received: {type(model).__name__}. Build it with keras.Model(inputs, outputs)."
        )
    config = model.get_config()
    entries = {entry["name"]: entry for entry in config["layers"]}
    operations = {operation.name: operation for operation in model.operations}
    reached: dict[str, tuple[int, int]] = {}  # operation -> (stride, dilation rate) of what it gives
    for name, operation in operations.items():
        if isinstance(operation, _OPAQUE):
            raise ModelError(
                f"`model` must not hold nested models or upsampling layers. Received: {name!r} "
                f"({type(operation).__name__}) in {model.name!r}. Dilate the encoder before it goes into a network."
            )
        parents = parents_of(entries[name]["inbound_nodes"])
        stride = max((reached[parent][0] for parent in parents), default=1)
        rate = max((reached[parent][1] for parent in parents), default=1)
        own = _stride(operation)
        lost = own > 1 and stride * own > output_stride
        if lost or rate > 1:
            _spread(entries, operations, name, parents, rate, lost)
        reached[name] = (stride, rate * own) if lost else (stride * own, rate)
    dilated = keras.Model.from_config(config)
    set_weights(dilated, model.get_weights())
    return dilated


def _spread(entries: dict, operations: dict, name: str, parents: set[str], rate: int, lost: bool) -> None:
    """Rewrites the config of one layer: no stride where it is lost, kernels and paddings spread by `rate`."""
    operation, config = operations[name], entries[name]["config"]
    if isinstance(operation, _POOLINGS):
        _spread_padding(entries, operations, parents, operation.pool_size, rate)
        padded = any(isinstance(operations[parent], keras.layers.ZeroPadding2D) for parent in parents)
        _replace_pooling(entries[name], operation, rate, padded)
    elif isinstance(operation, _CONVOLUTIONS):
        kernel = operation.kernel_size
        if config["padding"] == "valid":
            _spread_padding(entries, operations, parents, kernel, rate)
            if lost and 1 < max(kernel) <= _stride(operation):
                # Patches side by side: without a stride they overlap, and the last ones reach over the border.
                config["padding"] = "same"
        if lost:
            config["strides"] = (1, 1)
        if max(kernel) > 1:
            config["dilation_rate"] = tuple(rate * own for own in operation.dilation_rate)
            if type(operation) is keras.layers.Conv2D:
                replace_layer(entries[name], AtrousConv2D.from_config(config))
    elif lost or isinstance(operation, keras.layers.Cropping2D):
        raise ModelError(
            f"`model` has a layer that cannot be dilated: {name!r} ({type(operation).__name__}). Only convolutions and "
            "poolings of Keras can; use a greater `output_stride` or replace that layer."
        )


def _spread_padding(entries: dict, operations: dict, parents: set[str], kernel: tuple[int, int], rate: int) -> None:
    """Gives the zero padding before a valid convolution or pooling the size that the spread kernel needs."""
    for parent in parents:
        if not isinstance(operations[parent], keras.layers.ZeroPadding2D):
            continue
        spread = []
        for (before, after), size in zip(operations[parent].padding, kernel, strict=True):
            if before + after <= size - 1:
                # One side may have been saved at the stride; symmetric padding keeps maps and picture aligned.
                before = rate * (size - 1) // 2
                spread.append((before, rate * (size - 1) - before))
            else:
                spread.append((rate * before, rate * after))
        entries[parent]["config"]["padding"] = tuple(spread)


def _replace_pooling(entry: dict[str, Any], pooling: keras.layers.Layer, rate: int, padded: bool) -> None:
    padding = pooling.padding
    if padding == "valid" and not padded and max(pooling.pool_size) <= _stride(pooling):
        padding = "end"
    replacement = DilatedPooling2D(
        pooling.pool_size,
        strides=pooling.strides,
        padding=padding,
        dilation_rate=rate,
        mode="max" if isinstance(pooling, keras.layers.MaxPooling2D) else "average",
        name=pooling.name,
        dtype=pooling.dtype_policy,
    )
    replace_layer(entry, replacement)


def replace_layer(entry: dict[str, Any], layer: keras.layers.Layer) -> None:
    """Puts another layer, of the same name, into its entry of a model's config."""
    serialized = keras.saving.serialize_keras_object(layer)
    entry.update({key: serialized[key] for key in ("module", "class_name", "registered_name", "config")})
    entry.pop("build_config", None)


def _stride(operation: Any) -> int:
    strides = getattr(operation, "strides", 1)
    strides = tuple(strides) if isinstance(strides, (tuple, list)) else (strides,)
    if len(set(strides)) > 1:
        raise ModelError(f"`model` must have equal strides in both directions. Received: {operation.name!r}: {strides}")
    return int(strides[0])


def parents_of(value: Any) -> set[str]:
    """Names of the layers that a serialised call reads."""
    if isinstance(value, dict):
        history = value.get("keras_history")
        return {history[0]} if history else parents_of(list(value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*(parents_of(item) for item in value))
    return set()


__all__ = ["DilatedPooling2D", "dilate"]
