"""Networks of `keras.applications` as backbones, with their ImageNet files on request and any channel count."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import keras

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights import load_imagenet


@dataclass(frozen=True)
class _Entry:
    application: Callable[..., keras.Model]
    convention: str  # of layers.ImageNormalization
    stages: dict[str, str]  # stage -> the last layer at that stride


_ENTRIES = {
    "vgg16": _Entry(
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
    "resnet50": _Entry(
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
    "mobilenetv2": _Entry(
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
    "efficientnetb0": _Entry(
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
}
BACKBONES = tuple(_ENTRIES)


def vgg16(channels: int = 3, weights: str | None = None) -> keras.Model:
    """VGG-16 (Simonyan and Zisserman 2014), with "c0" at full resolution; "c5" is the last pooling."""
    return _build("vgg16", channels, weights)


def resnet50(channels: int = 3, weights: str | None = None) -> keras.Model:
    """ResNet-50 (He et al. 2015) as in `keras.applications`: stride on the first 1x1 of a stage."""
    return _build("resnet50", channels, weights)


def mobilenetv2(channels: int = 3, weights: str | None = None) -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018); stages are the expanded maps before each stride."""
    return _build("mobilenetv2", channels, weights)


def efficientnetb0(channels: int = 3, weights: str | None = None) -> keras.Model:
    """EfficientNet-B0 (Tan and Le 2019); it normalises 0..255 pictures itself."""
    return _build("efficientnetb0", channels, weights)


def resolve_backbone(backbone: str | keras.Model, channels: int, weights: str | None = None) -> tuple[keras.Model, str]:
    """A backbone by name or by contract, and the `ImageNormalization` convention its weights expect.

    Args:
        backbone: a name in `BACKBONES`, or a model whose output is a dict with "c1" ... "c5"; such a model gets
            pictures in 0..255 and normalises them itself.
        channels: channels of the picture.
        weights: None, "imagenet" or the path of a Keras `_notop.h5` file; only with a name.

    Raises:
        ValueError: for an unknown name, a model without the stages, or weights given beside a model.
    """
    if isinstance(backbone, str):
        if backbone not in _ENTRIES:
            close = difflib.get_close_matches(backbone.lower().replace("-", "").replace("_", ""), BACKBONES, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`backbone` must be one of {BACKBONES} or a keras.Model. Received: {backbone!r}.{hint}")
        return _build(backbone, channels, weights), _ENTRIES[backbone].convention
    if weights is not None:
        raise ValueError("`backbone_weights` goes with a backbone's name; load a model's weights before passing it.")
    outputs = getattr(backbone, "output", None)
    missing = [f"c{k}" for k in range(1, 6) if not isinstance(outputs, dict) or f"c{k}" not in outputs]
    if missing:
        raise ValueError(
            '`backbone` must be a functional keras.Model whose output is a dict {"c1": ..., "c5": ...} '
            f"with stage k at stride 2**k. Missing: {missing}."
        )
    return backbone, "none"


def _build(name: str, channels: int, weights: str | None) -> keras.Model:
    entry = _ENTRIES[name]
    with warnings.catch_warnings():
        # Keras warns of any channel count but 1 and 3; ours adapts the first kernel.
        warnings.filterwarnings("ignore", "This model usually expects")
        base = entry.application(include_top=False, weights=None, input_shape=(None, None, channels))
    if weights is not None:
        try:
            load_imagenet(base, entry.application, weights)
        except (OSError, ValueError, KeyError) as error:
            where = "could not be downloaded" if weights == "imagenet" else f"cannot be loaded from {weights!r}"
            raise ModelError(
                f"`backbone_weights` of {name} {where}: {error}. Without network, copy Keras's `_notop.h5` file "
                "here and pass its path, or use backbone_weights=None."
            ) from error
    stages = {stage: base.get_layer(layer).output for stage, layer in entry.stages.items()}
    return keras.Model(base.input, stages, name=name)
