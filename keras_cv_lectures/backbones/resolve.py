"""Backbones by name: the table of them all, and the one function that builders call."""

from __future__ import annotations

import difflib
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_cv_lectures.backbones import applications
from keras_cv_lectures.backbones.mobilenetv3 import mobilenetv3_large
from keras_cv_lectures.backbones.resnet import resnet14_v1_5, resnet50_v1_5, resnet101_v1_5
from keras_cv_lectures.errors import KcvlWarning

# name -> (builder of (channels, weights, output_stride), convention of `layers.ImageNormalization`)
_BUILDERS: dict[str, tuple[Callable[..., keras.Model], str]] = {
    **{
        name: (functools.partial(applications.build_application, name), entry.convention)
        for name, entry in applications.ENTRIES.items()
    },
    "resnet14_v1_5": (resnet14_v1_5, "torch"),
    "resnet50_v1_5": (resnet50_v1_5, "torch"),
    "resnet101_v1_5": (resnet101_v1_5, "torch"),
    "mobilenetv3_large": (mobilenetv3_large, "torch"),
}
BACKBONES = tuple(_BUILDERS)


def resolve_backbone(
    backbone: str | keras.Model,
    channels: int,
    weights: str | None = None,
    output_stride: int = 32,
    *,
    stages: Sequence[int] = (1, 2, 3, 4, 5),
    dilated: bool = True,
) -> tuple[keras.Model, str]:
    """A backbone by name or by contract, and the `ImageNormalization` convention its weights expect.

    Args:
        backbone: a name in `BACKBONES`, or a model whose output is a dict with "c1" ... "c5" or the `stages`
            alone; such a model gets pictures in 0..255 and normalises them itself.
        channels: channels of the picture.
        weights: None, "imagenet" (downloaded on this request) or the path of a published file: Keras's `_notop.h5`,
            or torchvision's for the names that end in "_v1_5" and for "mobilenetv3_large", where "imagenet-v2" is
            its second recipe. Only with a name.
        output_stride: 8, 16 or 32; stage k has stride min(2**k, output_stride). Only with a name: a model of one's own
            goes through `dilate` first.
        stages: numbers k of the stages "ck" that a model must have.
        dilated: whether a model may have fewer strides at the end, as `dilate` makes it; False for networks that put
            the stages together by doubling.

    Raises:
        ValueError: for an unknown name or output stride, a model without the stages, or weights or an output stride
            given beside a model.
    """
    if isinstance(backbone, str):
        if backbone not in _BUILDERS:
            raise ValueError(
                f"`backbone` must be one of {BACKBONES} or a keras.Model. Received: {backbone!r}.{_hint(backbone)}"
            )
        build, convention = _BUILDERS[backbone]
        return build(channels, weights, output_stride), convention
    if weights is not None:
        raise ValueError("`backbone_weights` goes with a backbone's name; load a model's weights before passing it.")
    if output_stride != 32:
        raise ValueError(
            f"`output_stride` goes with a backbone's name. Received: output_stride={output_stride} beside a model. "
            "Pass backbones.dilate(model, output_stride)."
        )
    outputs = getattr(backbone, "output", None)
    missing = [f"c{k}" for k in stages if not isinstance(outputs, dict) or f"c{k}" not in outputs]
    if missing:
        raise ValueError(
            f'`backbone` must be a functional keras.Model whose output is a dict {{"c{stages[0]}": ..., "c5": ...}} '
            f"with stage k at stride 2**k. Missing: {missing}. Of a model with layers at these strides make one by "
            f'keras.Model(base.input, {{"c{stages[0]}": base.get_layer(NAME).output, ...}}).'
        )
    strides = stage_strides(backbone, stages)
    full, *fewer = [[min(2**k, most) for k in stages] for most in (32, 16, 8)]
    if strides in fewer and not dilated:
        raise ValueError(
            f"stages c{stages[0]} to c5 of `backbone` must have the strides {_listed(full)}, because this network puts "
            f"them together by doubling. Received: a model with the strides {strides}. Pass the model as it was before "
            "backbones.dilate."
        )
    if strides not in (full, *fewer):
        raise ValueError(
            f"stages c{stages[0]} to c5 of `backbone` must have the strides {_listed(full)}"
            + (", or fewer at the end after backbones.dilate" if dilated else "")
            + f". Received: a model with the strides {strides}."
        )
    return backbone, "none"


def warn_of_frozen_noise(freeze_backbone: bool, backbone: Any, backbone_weights: Any, weights: Any) -> None:
    """Says so where a backbone that nobody trained is not to be trained either."""
    if freeze_backbone and isinstance(backbone, str) and backbone_weights is None and weights is None:
        warnings.warn(
            f"`freeze_backbone` keeps the random numbers of {backbone}, which has no weights. Give `backbone_weights` "
            "or `weights`, unless you load some into the network afterwards.",
            KcvlWarning,
            stacklevel=3,
        )


def _listed(strides: list[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, strides[:-1])), str(strides[-1]))))


def stage_strides(backbone: keras.Model, stages: Sequence[int]) -> list[int]:
    """Strides of the stages k of a backbone by contract, from the sizes of their maps.

    To the nearest power of two: without padding a map is a little smaller than its stride says.
    """
    outputs, shape = backbone.output, backbone.input.shape
    height = shape[1]
    if height is None:
        height = 512
        shapes = backbone.compute_output_shape((1, height, height, shape[-1]))
    else:
        shapes = {name: output.shape for name, output in outputs.items()}
    return [2 ** round(math.log2(height / shapes[f"c{k}"][1])) for k in stages]


def _hint(name: str) -> str:
    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    close = difflib.get_close_matches(plain(name), [plain(known) for known in BACKBONES], 1)
    return f" Did you mean {next(n for n in BACKBONES if plain(n) == close[0])!r}?" if close else ""
