"""Where every segmentation network begins and ends: the picture, the scores of the classes, the logits, the weights."""

from __future__ import annotations

from typing import Any

import keras

from keras_cv_lectures.layers import AtrousConv2D, CropLike, ResizeLike
from keras_cv_lectures.signatures import check_task
from keras_cv_lectures.weights import load_weights


def picture_input(input_shape: tuple[int | None, int | None, int], num_classes: int) -> keras.KerasTensor:
    """The input named "image", after a check of the two arguments that every builder has.

    Raises:
        ValueError: `input_shape` is not (height, width, known channels), or `num_classes` < 1.
    """
    check_task(input_shape, num_classes, background="background counts as a class")
    return keras.Input(input_shape, name="image")


def check_classifier_weights(normalization: str | None, backbone_weights: Any) -> None:
    """Raises ValueError where weights of VGG-16 are given to a network with normalisation, which theirs is not."""
    if normalization is not None and backbone_weights is not None:
        raise ValueError(
            "`backbone_weights` of VGG-16 are of a network without normalisation. Received: normalization="
            f"{normalization!r}. Leave one of the two out."
        )


def encoded(encoder: keras.Model, x: keras.KerasTensor, frozen: bool) -> dict[str, keras.KerasTensor]:
    """A backbone's stages; a `frozen` one is not trained, its batch normalisation and dropout are as in prediction.

    It is frozen itself, also a model of one's own that other networks are built on.
    """
    if not frozen:
        return encoder(x)
    encoder.trainable = False
    return encoder(x, training=False)


def class_scores(
    x: keras.KerasTensor,
    num_classes: int,
    kernel_size: int = 1,
    *,
    name: str = "score",
    kernel_initializer: Any = "he_normal",
    use_bias: bool = True,
    dilation_rate: int = 1,
) -> keras.KerasTensor:
    """Convolution to one score a class, in float32 under any precision.

    Under mixed precision argmax and softmax of bfloat16 scores would lose classes that are close.
    """
    return (AtrousConv2D if dilation_rate > 1 else keras.layers.Conv2D)(
        num_classes,
        kernel_size,
        padding="same",
        dilation_rate=dilation_rate,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer,
        dtype="float32",
        name=name,
    )(x)


def logits_like(
    x: keras.KerasTensor, image: keras.KerasTensor, how: str = "bilinear", *, name: str = "logits"
) -> keras.KerasTensor:
    """Scores brought to the picture's height and width, float32, under the name that marks a segmentation output.

    Args:
        how: "bilinear" resizes (half-pixel centres); "crop" keeps the top left corner, which undoes `PadToMultiple`;
            "none" takes the scores as they are.
    """
    if how == "bilinear":
        x = ResizeLike("bilinear", dtype="float32", name=f"{name}_resize")([x, image])
    elif how == "crop":
        x = CropLike(anchor="start", dtype="float32", name="crop" if name == "logits" else f"{name}_crop")([x, image])
    elif how != "none":
        raise ValueError(f'`how` must be "bilinear", "crop" or "none". Received: how={how!r}')
    return keras.layers.Activation("linear", dtype="float32", name=name)(x)


def finished(
    image: keras.KerasTensor, outputs: Any, *, name: str, weights: str | None, architecture: str | None = None
) -> keras.Model:
    """The functional model, with the weights at the path `weights` if one is given.

    `architecture` is torchvision's name of the network where `weights` may name a published file of it.
    """
    model = keras.Model(image, outputs, name=name)
    if weights is not None:
        load_weights(model, weights, architecture=architecture)
    return model
