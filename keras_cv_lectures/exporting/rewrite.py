"""The same function with layers that edge devices run faster."""

from __future__ import annotations

import keras

from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose, subpixel_kernel


def for_export(model: keras.Model) -> keras.Model:
    """Copy of a functional model in which every eligible transposed convolution is a convolution + depth-to-space.

    Eligible is `keras.layers.Conv2DTranspose` with stride 2 and a 2x2 kernel, or a 4x4 kernel with "same" padding;
    in nested models too. Layers that compute in bfloat16 or float16 compute in float32 in the copy. All weights are
    copied; the model itself stays as it is.

    Args:
        model: a functional or sequential Keras model. Any other is returned as it is, because its graph is code.

    Returns:
        The copy, or `model` itself where nothing had to change.
    """
    return _copy(model, subpixel=True)


def in_float32(model: keras.Model) -> keras.Model:
    """Copy of a functional model that computes in float32 throughout, or `model` itself where it already does."""
    return _copy(model, subpixel=False)


def _copy(model: keras.Model, *, subpixel: bool) -> keras.Model:
    def replaces(layer: keras.layers.Layer) -> bool:
        return subpixel and is_subpixel(layer)

    if not _is_graph(model) or not any(replaces(layer) or _is_low_precision(layer) for layer in _leaves(model)):
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if _is_low_precision(layer):
            config["dtype"] = "float32"
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

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    _copy_weights(model, copy)
    return copy


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
    return layer.compute_dtype in ("bfloat16", "float16")


def _copy_weights(model: keras.Model, copy: keras.Model) -> None:
    for layer in model.layers:
        if not layer.weights:  # input layers of nested models change their names
            continue
        twin = copy.get_layer(layer.name)
        if _is_graph(layer):
            _copy_weights(layer, twin)
            continue
        weights = layer.get_weights()
        if isinstance(twin, SubPixelConv2DTranspose) and not isinstance(layer, SubPixelConv2DTranspose):
            weights[0] = subpixel_kernel(weights[0])
        twin.set_weights(weights)
