"""DeconvNet: Noh, Hong and Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.

Layers carry the names of the authors' released network: `conv3_2` and `bn3_2` on the way down, `deconv3_2`,
`debn3_2`, `derelu3_2` on the way up, `fc6`, `fc7` and `fc6-deconv` between, `seg-score-voc` at the end.

The two-stage training takes its crops from `preprocessing.instance_crops` and `preprocessing.proposal_crops`;
prediction by proposals and the ensemble with FCN-8s are in `postprocessing.proposals`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.layers import (
    CropLike,
    ImageNormalization,
    MaxPoolWithArgmax,
    MaxUnpool,
    PadToAtLeast,
    conv_norm_relu,
    normalize,
)
from keras_cv_lectures.segmentation.heads import class_scores, finished, logits_like, picture_input
from keras_cv_lectures.signatures import explain_arguments

# Multiples of the first stage's width, a list for each stage of VGG16 and of its mirror.
_WIDTHS = (1, 2, 4, 8, 8)  # of the stages, in units of `filters`


@explain_arguments
def build_deconvnet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    num_classes: int = 21,
    *,
    filters: int = 64,
    convolutions: Sequence[int] = (2, 2, 3, 3, 3),
    fc_filters: int = 4096,
    fc_kernel: int = 7,
    normalization: str | None = "batch",
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "deconvnet",
) -> keras.Model:
    """DeconvNet: VGG16, its fully connected layers as convolutions, and VGG16 upside down with unpooling by switches.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any channel count; in the paper crops of 224x224 around
    one object.
    Output: logits (B, H, W, num_classes) float32.

    Paper: https://arxiv.org/abs/1505.04366. Differs from the paper: nothing in the layers at 224x224 (251,805,653
    learned parameters for 21 classes); initial weights are He's where the paper has VGG16 and a Gaussian of 0.01, which
    batch normalisation makes equivalent, and its statistics are moving averages (momentum 0.9, epsilon 1e-5) instead of
    a pass over the training set at the end. Other sizes work too: incomplete windows are pooled, unpooling goes back to
    the size before, and a map that is smaller than the kernel of `fc6` is filled up with zeros.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        filters: channels of the first stage, 64 in the paper; the other stages keep their proportion to it.
        convolutions: number in each of the five stages, on the way down as on the way up; VGG16's by default.
        fc_filters: channels of `fc6` and `fc7`, 4096 in the paper; 1024 in SegNet's comparison.
        fc_kernel: side of the kernels of `fc6` and `fc6-deconv`. 7 reduces a 224x224 picture (7x7 at stride 32) to one
            vector; for smaller pictures choose at most their side / 32.
        normalization: "batch", "group", "layer" or None.
        include_preprocessing: False to give the network pictures that are normalised already (BGR, mean subtracted).
        weights: None or the path of a `.keras` or `.weights.h5` file of this network; a head with another
            `num_classes` is left at its initial values, with a warning (of a `.weights.h5` file nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for a number that is not positive or an unknown normalisation.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_deconvnet((180, 240, 3), 11, filters=16, fc_filters=256, fc_kernel=5)
        >>> model.compile("adam", loss=SegmentationCrossEntropy(), metrics=[MeanIoU(11)])
    """
    image = picture_input(input_shape, num_classes)
    for argument, value in (("filters", filters), ("fc_filters", fc_filters), ("fc_kernel", fc_kernel)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
    if len(convolutions) != len(_WIDTHS) or min(convolutions) < 1:
        raise ValueError(
            f"`convolutions` must be {len(_WIDTHS)} positive numbers. Received: convolutions={tuple(convolutions)}"
        )

    x = image
    if include_preprocessing:
        x = ImageNormalization("ilsvrc12", name="normalize")(x)
    pools = []
    for stage, (width, count) in enumerate(zip(_WIDTHS, convolutions, strict=True), start=1):
        for step in range(1, count + 1):
            x = _conv(x, filters * width, 3, f"conv{stage}_{step}", f"bn{stage}_{step}", normalization)
        pooled, switches = MaxPoolWithArgmax(2, padding="same", name=f"pool{stage}")(x)
        pools.append((switches, x))
        x = pooled

    x = _fully_connected(x, filters * _WIDTHS[-1], fc_filters, fc_kernel, normalization)

    for stage in range(len(_WIDTHS), 0, -1):
        x = MaxUnpool(2, name=f"unpool{stage}")([x, *pools[stage - 1]])
        # The last convolution goes over to the width of the next stage.
        widths = [_WIDTHS[stage - 1]] * (convolutions[stage - 1] - 1) + [_WIDTHS[max(stage - 2, 0)]]
        for step, factor in enumerate(widths, start=1):
            x = keras.layers.Conv2DTranspose(
                filters * factor, 3, padding="same", kernel_initializer="he_normal", name=f"deconv{stage}_{step}"
            )(x)
            x = _normalized(x, normalization, f"debn{stage}_{step}", f"derelu{stage}_{step}")

    scores = class_scores(x, num_classes, name="seg-score-voc")
    return finished(image, logits_like(scores, image, "none"), name=name, weights=weights)


def _fully_connected(pooled, channels, fc_filters, kernel_size, normalization):
    """fc6 and fc7 as convolutions, and the deconvolution that gives back what fc6 took."""
    x = PadToAtLeast(kernel_size, name="fc6_pad")(pooled)
    x = _conv(x, fc_filters, kernel_size, "fc6", "bnfc6", normalization, padding="valid")
    x = _conv(x, fc_filters, 1, "fc7", "bnfc7", normalization, padding="valid")
    x = keras.layers.Conv2DTranspose(channels, kernel_size, kernel_initializer="he_normal", name="fc6-deconv")(x)
    x = _normalized(x, normalization, "fc6-deconv-bn", "fc6-deconv-relu")
    return CropLike(anchor="start", name="fc6-deconv_crop")([x, pooled])


def _conv(x, channels, kernel_size, name, norm_name, normalization, padding="same"):
    # The released convolutions have biases.
    return conv_norm_relu(
        x,
        channels,
        kernel_size,
        name=name,
        norm_name=norm_name,
        normalization=normalization,
        padding=padding,
        use_bias=True,
    )


def _normalized(x, normalization, norm_name, relu_name):
    return keras.layers.ReLU(name=relu_name)(normalize(x, normalization, name=norm_name))


__all__ = ["build_deconvnet"]
