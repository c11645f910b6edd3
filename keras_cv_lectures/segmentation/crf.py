"""A trainable CRF behind any segmentation network, trained end to end with it: Zheng et al., ICCV 2015."""

from __future__ import annotations

from typing import Any

import keras

from keras_cv_lectures.layers import CropLike, MeanFieldCRF


def append_crf(model: keras.Model, *, name: str | None = None, **options: Any) -> keras.Model:
    """The network with `layers.MeanFieldCRF` as its last layer.

    Input: as `model`: (B, H, W, C) pictures in 0..255.
    Output: refined logits (B, H, W, num_classes) float32, from a layer named "logits".

    The given network becomes a layer of the new one: both share their weights, so that a trained network can be given
    and trained further. Where its logits are smaller than the picture (valid convolutions), the CRF sees the picture's
    centre.

    Paper: https://arxiv.org/abs/1502.03240. Differs from the paper: any network instead of FCN-8s, and the window of
    `MeanFieldCRF`.

    Args:
        model: a segmentation network with one picture as its input and logits as its only output.
        name: name of the new model; None for the network's own with "_crf" behind it.
        **options: those of `MeanFieldCRF`, such as `window`, `iterations`, `dilation`.

    Raises:
        ValueError: `model` has other inputs or outputs, or an option is out of range.
        TypeError: for an option that `MeanFieldCRF` does not have.

    Example:
        >>> model = append_crf(build_fcn8s((None, None, 3), num_classes=21), window=7, iterations=5)
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1 or model.output_names[0] != "logits":
        raise ValueError(
            '`model` must have one picture as its input and one output, from a layer named "logits". Received: '
            f"{len(model.inputs)} inputs, outputs {model.output_names}. Make a `keras.Model` of the picture and the "
            "logits alone."
        )
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    scores = model(image)
    if isinstance(scores, list | tuple | dict):
        (scores,) = scores.values() if isinstance(scores, dict) else scores
    seen = CropLike(anchor="center", dtype="float32", name="seen")([image, scores])
    logits = MeanFieldCRF(**options, name="logits")([scores, seen])
    return keras.Model(image, logits, name=name or f"{model.name}_crf")


__all__ = ["append_crf"]
