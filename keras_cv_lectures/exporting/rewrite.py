"""The same function with layers that run faster or hold less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import AtrousConv2D
from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose, subpixel_kernel
from keras_cv_lectures.serving import first_line
from keras_cv_lectures.weights import set_weights

_LOW_PRECISION = ("bfloat16", "float16")


def for_export(model: keras.Model) -> keras.Model:
    """Copy of a functional model in which every eligible transposed convolution is a convolution + depth-to-space.

    Eligible is `keras.layers.Conv2DTranspose` with stride 2 and a 2x2 kernel, or a 4x4 kernel with "same" padding;
    in nested models too. Layers that compute in bfloat16 or float16 compute in float32 in the copy. All weights are
    copied; the model itself stays as it is.

    Args:
        model: a functional or sequential Keras model. Any other is returned as it is, because its graph is code.

    Returns:
        The copy, or `model` itself where nothing had to change, or where a layer of the user's own cannot be made
        again: such a model runs a little slower, and is the same function.
    """
    try:
        return _copy(model, subpixel=True)
    except ModelError:
        return model


def in_float32(model: keras.Model) -> keras.Model:
    """Copy of a functional model that computes in float32 throughout, or `model` itself where it already does.

    Raises:
        ModelError: a layer cannot be made again from its `get_config()`.
    """
    return _copy(model, subpixel=False)


def folded(model: keras.Model) -> keras.Model:
    """Copy of a functional model in float32, with batch normalisation behind a convolution put into its kernel.

    For inference: the copy has nothing left to average. A normalisation whose input goes elsewhere, too, stays.

    Raises:
        ModelError: a layer cannot be made again from its `get_config()`.
    """
    return _copy(model, subpixel=False, pairs=_foldable(model))


def _copy(
    model: keras.Model,
    *,
    subpixel: bool,
    pairs: dict[keras.layers.Layer, keras.layers.BatchNormalization] | None = None,
) -> keras.Model:
    """Copy of a graph with some layers replaced; `pairs` are convolutions and what is folded into them."""
    pairs = pairs or {}
    gone = set(pairs.values())

    def replaces(layer: keras.layers.Layer) -> bool:
        return subpixel and is_subpixel(layer)

    def stays(layer: keras.layers.Layer) -> bool:
        return not (replaces(layer) or _is_low_precision(layer) or layer in pairs)

    if not _is_graph(model) or all(stays(layer) for layer in _leaves(model)):
        return model

    twins: dict[int, keras.layers.Layer] = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        try:
            twins[id(layer)] = twin = made_again(layer)
        # A layer's own code raises whatever it raises.
        except Exception as error:
            raise _not_copied(model, layer, error) from error
        if isinstance(twin, keras.layers.Layer):  # An operation of `keras.ops` computes in what it is given.
            _to_float32(twin)
        return twin

    def made_again(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer) is keras.layers.Lambda:
            # Not through its configuration, which holds no more than the function's code.
            how = {"output_shape": layer._output_shape, "mask": layer.mask, "arguments": layer.arguments}
            dtype = "float32" if _is_low_precision(layer) else layer.dtype_policy
            return type(layer)(layer.function, **how, dtype=dtype, name=layer.name)
        config = layer.get_config()
        if not isinstance(layer, keras.layers.Layer):  # an operation of `keras.ops`
            return layer.__class__.from_config(config)
        if layer.compute_dtype in _LOW_PRECISION:
            config["dtype"] = "float32"
        if layer in gone:
            return _Folded(name=layer.name, dtype=config["dtype"])
        if layer in pairs:
            config["use_bias"] = True
        if not replaces(layer):
            return layer.__class__.from_config(config)
        return SubPixelConv2DTranspose(
            layer.filters,
            layer.kernel_size[0],
            activation=layer.activation,
            use_bias=layer.use_bias,
            dtype=config["dtype"],
            name=layer.name,
        )

    with _uncompiled(model):
        try:
            copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
        except ModelError:
            raise
        except Exception as error:  # The new layers do not fit together.
            raise _not_copied(model, None, error) from error
    _to_float32(copy)
    for layer in _leaves(model):
        # Input layers have no twin.
        if layer.weights and not isinstance(twins[id(layer)], _Folded):
            try:
                _copy_weights(layer, twins[id(layer)], pairs)
            except ValueError as error:
                raise _not_copied(model, layer, error) from error
    return copy


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Hides that a model, or one inside it, is compiled: Keras compiles a copy anew, with losses that it has to find.

    Nobody trains these copies, and losses of one's own are found by registered names alone.
    """
    compiled = [each for each in model._flatten_layers() if isinstance(each, keras.Model) and each.compiled]
    for each in compiled:
        each.compiled = False
    try:
        yield
    finally:
        for each in compiled:
            each.compiled = True


def _not_copied(model: keras.Model, layer: keras.layers.Layer | None, error: Exception) -> ModelError:
    what = f"layer {layer.name!r} ({type(layer).__name__})" if layer is not None else "one of its layers"
    return ModelError(
        f"{model.name} cannot be copied, because {what} is not made again by from_config(get_config()): "
        f"{type(error).__name__}: {first_line(error)}. Let get_config() return every argument of __init__, `name` and "
        "`dtype` included (super().get_config() has these two), or export a float32 model with constant weights, which "
        "needs no copy."
    )


class _Folded(keras.layers.Layer):
    """In the place of a batch normalisation: what it did is done before."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _foldable(model: keras.Model) -> dict[keras.layers.Layer, keras.layers.BatchNormalization]:
    """Convolution -> the batch normalisation that alone reads its output; in nested models too."""
    if not _is_graph(model):
        return {}
    pairs, used = {}, {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    for layer in model.layers:
        if _is_graph(layer):
            pairs |= _foldable(layer)
        if not isinstance(layer, keras.layers.BatchNormalization) or len(layer._inbound_nodes) != 1:
            continue
        (parent,) = layer._inbound_nodes[0].parent_nodes
        conv = parent.operation
        alone = len(conv._inbound_nodes) == len(conv._outbound_nodes) == 1 and id(conv.output) not in used
        if alone and _is_plain_convolution(conv) and layer.axis in (-1, 3):
            pairs[conv] = layer
    return pairs


def _is_plain_convolution(layer: keras.layers.Layer) -> bool:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, AtrousConv2D)
    return type(layer) in kinds and layer.activation is keras.activations.linear


def is_subpixel(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a transposed convolution that `SubPixelConv2DTranspose` computes exactly."""
    return (
        type(layer) is keras.layers.Conv2DTranspose
        and layer.strides == (2, 2)
        and layer.dilation_rate == (1, 1)
        and layer.output_padding is None
        and layer.data_format == "channels_last"
        and (layer.kernel_size == (2, 2) or (layer.kernel_size == (4, 4) and layer.padding == "same"))
    )


def _is_graph(layer: keras.layers.Layer) -> bool:
    # Functional models list their operations; a subclass with a call of its own does not.
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations"))


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers of a model and of the models inside it."""
    leaves = []
    for layer in model.layers:
        leaves += _leaves(layer) if _is_graph(layer) else [layer]
    return leaves


def _is_low_precision(layer: keras.layers.Layer) -> bool:
    """Whether a layer, or one inside it (of a wrapper, a cell of an RNN), computes in 16 bits."""
    return any(each.compute_dtype in _LOW_PRECISION for each in layer._flatten_layers())


def _to_float32(layer: keras.layers.Layer) -> None:
    """Lets a layer and those inside it compute in float32.

    Called before a copy is built, so that its variables are float32, and after it, for layers that it made then.
    """
    for each in layer._flatten_layers():
        if each.compute_dtype in _LOW_PRECISION:
            each.dtype_policy = "float32"


def _copy_weights(layer: keras.layers.Layer, twin: keras.layers.Layer, pairs: dict) -> None:
    weights = layer.get_weights()
    if layer in pairs:
        weights = _with_normalization(layer, pairs[layer])
    if isinstance(twin, SubPixelConv2DTranspose) and not isinstance(layer, SubPixelConv2DTranspose):
        weights[0] = subpixel_kernel(weights[0])
    set_weights(twin, weights)


def _with_normalization(conv: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Kernel and bias of a convolution that normalises what it gives; in float64, since gamma / sigma may be large."""
    kernel, *bias = (w.astype("float64") for w in conv.get_weights())
    mean, variance = (np.asarray(w, "float64") for w in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma)
    shift = (bias[0] if bias else 0) - mean
    depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
    kernel = kernel * (scale.reshape(kernel.shape[2:]) if depthwise else scale)
    return [kernel, shift * scale + (np.asarray(norm.beta) if norm.center else 0)]
