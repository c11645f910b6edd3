"""Networks of `keras.applications` as backbones, with their ImageNet files on request and any channel count."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_cv_lectures.backbones.dilation import dilate, parents_of, replace_layer
from keras_cv_lectures.backbones.torch_shape import check_output_stride
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import SyncBatchNormalization
from keras_cv_lectures.weights import load_imagenet, set_weights

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclass(frozen=True)
class Entry:
    application: Callable[..., keras.Model]
    convention: str  # of layers.ImageNormalization
    stages: dict[str, str]  # stage -> the last layer at that stride
    border: int = 0  # zeros around the picture, where the network's own padding is not enough for its strides


ENTRIES = {
    "vgg16": Entry(
        keras.applications.VGG16,
        "caffe",
        {
            "c0": "block1_conv2",
            "c1": "block2_conv2",
            "c2": "block3_conv3",
            "c3": "block4_conv3",
            "c4": "block5_conv3",
            "c5": "block5_pool",
        },
    ),
    "vgg19": Entry(
        keras.applications.VGG19,
        "caffe",
        {
            "c0": "block1_conv2",
            "c1": "block2_conv2",
            "c2": "block3_conv4",
            "c3": "block4_conv4",
            "c4": "block5_conv4",
            "c5": "block5_pool",
        },
    ),
    "resnet50": Entry(
        keras.applications.ResNet50,
        "caffe",
        {
            "c1": "conv1_relu",
            "c2": "conv2_block3_out",
            "c3": "conv3_block4_out",
            "c4": "conv4_block6_out",
            "c5": "conv5_block3_out",
        },
    ),
    "resnet101": Entry(
        keras.applications.ResNet101,
        "caffe",
        {
            "c1": "conv1_relu",
            "c2": "conv2_block3_out",
            "c3": "conv3_block4_out",
            "c4": "conv4_block23_out",
            "c5": "conv5_block3_out",
        },
    ),
    "mobilenetv2": Entry(
        keras.applications.MobileNetV2,
        "symmetric",
        {
            "c1": "block_1_expand_relu",
            "c2": "block_3_expand_relu",
            "c3": "block_6_expand_relu",
            "c4": "block_13_expand_relu",
            "c5": "out_relu",
        },
    ),
    "efficientnetb0": Entry(
        keras.applications.EfficientNetB0,
        "none",
        {
            "c1": "block2a_expand_activation",
            "c2": "block3a_expand_activation",
            "c3": "block4a_expand_activation",
            "c4": "block6a_expand_activation",
            "c5": "top_activation",
        },
    ),
    "xception": Entry(
        keras.applications.Xception,
        "symmetric",
        {
            "c1": "block2_sepconv2_bn",
            "c2": "block3_sepconv2_bn",
            "c3": "block4_sepconv2_bn",
            "c4": "block13_sepconv2_bn",
            "c5": "block14_sepconv2_act",
        },
        # Its first two convolutions are not padded; this border makes every stage ceil(size / stride).
        border=3,
    ),
}


def vgg16(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """VGG-16 (Simonyan and Zisserman 2014), with "c0" at full resolution; "c5" is the last pooling."""
    return build_application("vgg16", channels, weights, output_stride)


def vgg19(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """VGG-19 (Simonyan and Zisserman 2014), with "c0" at full resolution; "c5" is the last pooling."""
    return build_application("vgg19", channels, weights, output_stride)


def resnet50(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """ResNet-50 (He et al. 2015) as in `keras.applications`: stride on the first 1x1 of a stage."""
    return build_application("resnet50", channels, weights, output_stride)


def resnet101(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """ResNet-101 (He et al. 2015) as in `keras.applications`: stride on the first 1x1 of a stage."""
    return build_application("resnet101", channels, weights, output_stride)


def mobilenetv2(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018); stages are the expanded maps before each stride."""
    return build_application("mobilenetv2", channels, weights, output_stride)


def efficientnetb0(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """EfficientNet-B0 (Tan and Le 2019); it normalises 0..255 pictures itself."""
    return build_application("efficientnetb0", channels, weights, output_stride)


def xception(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """Xception (Chollet 2017) on the picture with a border of three zeros, which makes its strides come out even."""
    return build_application("xception", channels, weights, output_stride)


def build_application(name: str, channels: int, weights: str | None, output_stride: int) -> keras.Model:
    """The network `name` of `ENTRIES`, picture -> stages, dilated where `output_stride` is below 32."""
    check_output_stride(output_stride)
    entry = ENTRIES[name]
    with warnings.catch_warnings():
        # Keras warns of any channel count but 1 and 3; ours adapts the first kernel.
        warnings.filterwarnings("ignore", "This model usually expects")
        picture = keras.Input((None, None, channels), name="picture")
        x = keras.layers.ZeroPadding2D(entry.border, name="border")(picture) if entry.border else picture
        base = entry.application(include_top=False, weights=None, input_tensor=x)
    if weights is not None:
        try:
            load_imagenet(base, entry.application, weights, bgr=entry.convention == "caffe")
        except Exception as error:  # A download that fails raises just that.
            where = "could not be downloaded" if weights == "imagenet" else f"cannot be loaded from {weights!r}"
            raise ModelError(
                f"`backbone_weights` of {name} {where}: {str(error).rstrip('.: ')}. Without network, copy Keras's "
                "`_notop.h5` file here and pass its path, or use backbone_weights=None."
            ) from error
    stages = {stage: base.get_layer(layer).output for stage, layer in entry.stages.items()}
    model = _rewritten(keras.Model(picture, stages, name=name))
    return dilate(model, output_stride) if output_stride < 32 else model


def _rewritten(model: keras.Model) -> keras.Model:
    """The network as it is trained here, with the same weights: other statistics, and padding that fits every size."""
    config = model.get_config()
    if not any([_synchronize_statistics(model, config), _pad_by_size(model, config)]):
        return model
    copy = keras.Model.from_config(config)
    set_weights(copy, model.get_weights())
    return copy


def _synchronize_statistics(model: keras.Model, config: dict[str, Any]) -> bool:
    """Puts `layers.SyncBatchNormalization` of momentum 0.9 in the place of Keras's batch normalisation.

    Keras's networks average their statistics over each replica's pictures alone, and with momentum 0.99 or 0.999: after
    a thousand steps from random weights the latter still evaluates with statistics of the beginning.
    """
    replaced = False
    for entry in config["layers"]:
        layer = model.get_layer(entry["name"])
        if type(layer) is keras.layers.BatchNormalization:
            options = {**layer.get_config(), "momentum": 0.9, "synchronized": True}
            replace_layer(entry, SyncBatchNormalization.from_config(options))
            replaced = True
    return replaced


def _pad_by_size(model: keras.Model, config: dict[str, Any]) -> bool:
    """Lets convolutions with a stride pad by the size of the map they get, as Keras's networks do at a known size.

    MobileNetV2 and EfficientNet have a layer of zeros before a stride: at the end alone where the size is even, at both
    ends where it is odd. Where sizes are unknown it takes them to be even, and an odd map would lose its last row and
    lie one pixel farther down. Padding "same" is right for both.
    """
    entries, replaced = {entry["name"]: entry for entry in config["layers"]}, False
    for name, entry in entries.items():
        layer = model.get_layer(name)
        if not isinstance(layer, _CONVOLUTIONS) or layer.padding != "valid" or layer.strides != (2, 2):
            continue
        (parent,) = parents_of(entry["inbound_nodes"])
        zeros, of_even = model.get_layer(parent), tuple((size // 2 - 1, size // 2) for size in layer.kernel_size)
        if isinstance(zeros, keras.layers.ZeroPadding2D) and zeros.padding == of_even:
            entry["config"]["padding"] = "same"
            entry["inbound_nodes"] = entries[parent]["inbound_nodes"]
            config["layers"].remove(entries[parent])
            replaced = True
    return replaced
