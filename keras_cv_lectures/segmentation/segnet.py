"""SegNet: Badrinarayanan, Kendall and Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", PAMI 2017; with dropout, the Bayesian SegNet of Kendall, Badrinarayanan and Cipolla, BMVC 2017.

Layers carry the names of the authors' released networks: `conv3_2` is the second convolution of the third stage,
`conv3_2_D` its mirror in the decoder, `..._bn` the normalisation after it, `upsample3` undoes `pool3`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.layers import (
    CropLike,
    ImageNormalization,
    LocalResponseNormalization,
    MaxPoolWithArgmax,
    MaxUnpool,
    UpsampleTwice,
    conv_norm_relu,
)
from keras_cv_lectures.segmentation.heads import class_scores, finished, logits_like, picture_input
from keras_cv_lectures.signatures import explain_arguments, one_of

VARIANTS = ("vgg16", "basic")
UPSAMPLINGS = ("indices", "nearest", "bilinear")
POOLINGS = ("ceil", "floor")

# Multiples of the first stage's width, a list for each stage.
_PROPORTIONS = {
    "vgg16": ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
    "basic": ((1,), (1,), (1,), (1,)),
}
# The Bayesian networks leave their first two stages, and the last two of the decoder, without dropout.
_STAGES_WITHOUT_DROPOUT = 2


@explain_arguments
def build_segnet(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 11,
    *,
    variant: str = "vgg16",
    filters: int | Sequence[Sequence[int]] = 64,
    decoder_filters: Sequence[Sequence[int]] | None = None,
    upsampling: str = "indices",
    pooling: str = "ceil",
    dropout: float = 0.0,
    normalization: str | None = "batch",
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "segnet",
) -> keras.Model:
    """SegNet: an encoder, and a decoder that puts values back where the encoder's poolings found their maxima.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any channel count.
    Output: logits (B, H, W, num_classes) float32.

    Paper: https://arxiv.org/abs/1511.00561. Differs from the paper: nothing in the layers of the released networks
    (29,449,355 learned parameters for VGG16 and 11 classes, 1,416,587 for Basic), whose convolutions have biases though
    the text denies it for Basic; batch normalisation keeps moving averages (momentum 0.9, epsilon 1e-5) instead of a
    pass over the training set at the end. Pictures of any size work without padding, because incomplete windows are
    pooled and unpooling goes back to the size before.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        variant: "vgg16" (13 + 13 convolutions of 3x3) or "basic" (4 + 4 of 7x7, local response normalisation of the
            picture, no ReLU in the decoder).
        filters: channels of the first stage, 64 in the paper; the other stages keep their proportion to it. Or the
            channels of every convolution of the encoder, a list for each stage: ((8, 8), (12, 12), (16, 16)).
        decoder_filters: None mirrors the encoder. Or the channels of every convolution of the decoder, a list for each
            stage, the deepest first; the classes are then scored by a 1x1 convolution, as in "basic".
        upsampling: "indices" as in the paper; "nearest" or "bilinear" double the map instead and forget the indices
            (the paper's comparison).
        pooling: what happens to an odd last row or column: "ceil" pools it alone as the authors' Caffe does; "floor"
            leaves it out as PyTorch does by default, and needs upsampling="indices".
        dropout: rate after the poolings and decoder stages from the third stage on, 0.5 in the Bayesian SegNet (see
            `predict_bayesian`); of fewer stages than three the deepest alone has it. 0 leaves these layers out.
        normalization: "batch", "group", "layer" or None.
        include_preprocessing: False to give the network pictures that are in BGR order already. The released networks
            take 0..255 without subtracting a mean; the normalisation after the first convolution makes that harmless,
            and local response normalisation depends on it.
        weights: None or the path of a `.keras` or `.weights.h5` file of this network; a head with another
            `num_classes` is left at its initial values, with a warning (of a `.weights.h5` file nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for an unknown option, options that exclude each other, or a picture too small for pooling="floor".
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_segnet((360, 480, 3), num_classes=11)
        >>> model.compile("adam", loss=SegmentationCrossEntropy(), metrics=[MeanIoU(11)])
    """
    image = picture_input(input_shape, num_classes)
    one_of("variant", variant, VARIANTS)
    one_of("upsampling", upsampling, UPSAMPLINGS)
    one_of("pooling", pooling, POOLINGS)
    basic = variant == "basic"
    encoder = _encoder_channels(filters, variant)
    decoder = _decoder_channels(encoder, decoder_filters, basic)
    _check_pooling(pooling, upsampling, input_shape, len(encoder))

    x = image
    if include_preprocessing:
        x = ImageNormalization("bgr", name="normalize")(x)
    if basic:
        x = LocalResponseNormalization(name="norm")(x)

    # A network of two stages would have no dropout at all, and say nothing.
    first_dropped = min(_STAGES_WITHOUT_DROPOUT + 1, len(encoder))
    pools = []
    for stage, channels in enumerate(encoder, start=1):
        for step, count in enumerate(channels, start=1):
            x = _conv(x, count, f"conv{stage}" if basic else f"conv{stage}_{step}", normalization, basic)
        x, pool = _pool(x, stage, upsampling, pooling)
        pools.append(pool)
        x = _drop(x, dropout if stage >= first_dropped else 0.0, f"encdrop{stage}")

    for stage, channels in zip(range(len(encoder), 0, -1), decoder, strict=True):
        x = _unpool(x, pools[stage - 1], stage, upsampling)
        for place, count in enumerate(channels):
            conv = f"conv_decode{stage}" if basic else f"conv{stage}_{len(encoder[stage - 1]) - place}_D"
            x = _conv(x, count, conv, normalization, basic, relu=not basic)
        x = _drop(x, dropout if stage >= first_dropped else 0.0, f"decdrop{stage}")

    if basic or decoder_filters is not None:
        scores = class_scores(x, num_classes, name="conv_classifier")
    else:
        scores = class_scores(x, num_classes, 3, name="conv1_1_D")
    return finished(image, logits_like(scores, image, "none"), name=name, weights=weights)


def predict_bayesian(
    model: keras.Model, pictures: np.ndarray, samples: int = 40, *, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities and their uncertainty, from passes that drop as in training (Bayesian SegNet).

    Kendall, Badrinarayanan and Cipolla, https://arxiv.org/abs/1511.02680, section 3. Batch normalisation keeps its
    moving statistics; dropout alone is at random.

    Args:
        model: a functional network from pictures to logits with `Dropout` layers, such as `build_segnet(dropout=0.5)`;
            the layers may lie in models inside it. Of several outputs the one called "logits" is taken.
        pictures: (B, H, W, C) in 0..255.
        samples: number of passes; more than about 40 change little.
        seed: an integer for the same result every time.

    Returns:
        (mean, variance) of the softmax, each (B, H, W, num_classes) float32; of a network of one class, whose softmax
        would be 1 everywhere, of the sigmoid. The uncertainty of a pixel is the mean of its variances over the classes.

    Raises:
        ValueError: `model` has no dropout, or `samples` < 1.
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: samples={samples}")
    sampler, dropouts = _sampler(model, seed)
    if not any(dropout.rate > 0 for dropout in dropouts):
        raise ValueError(
            f"`model` must have Dropout layers, or every pass gives the same. Received: {model.name!r} without any. "
            "Build it with dropout=0.5."
        )
    total, squares = 0.0, 0.0
    for _ in range(samples):
        logits = sampler(pictures, training=False)
        logits = logits["logits"] if isinstance(logits, dict) else logits
        probabilities = ops.sigmoid(logits) if logits.shape[-1] == 1 else ops.softmax(logits, axis=-1)
        probabilities = np.asarray(probabilities, "float64")
        total, squares = total + probabilities, squares + probabilities**2
    mean = total / samples
    variance = np.maximum(squares / samples - mean**2, 0.0)
    return mean.astype("float32"), variance.astype("float32")


def _sampler(model: keras.Model, seed: int | None) -> tuple[keras.Model, list[_AlwaysDropout]]:
    """A copy of the model that shares its weights and drops at inference too, and the copy's dropout layers."""
    dropouts = []

    def awake(layer):
        if not isinstance(layer, keras.layers.Dropout):
            return layer  # The same layer, so that the copy shares the weights.
        # A seed of its own: with one seed for all, layers of equal shape would drop the same places.
        own_seed = None if seed is None else seed + len(dropouts)
        dropouts.append(_AlwaysDropout(layer.rate, noise_shape=layer.noise_shape, seed=own_seed, name=layer.name))
        return dropouts[-1]

    return keras.models.clone_model(model, clone_function=awake, recursive=True), dropouts


@keras.saving.register_keras_serializable("keras_cv_lectures")
class _AlwaysDropout(keras.layers.Dropout):
    """Dropout that drops at inference too."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


def _conv(x, channels, name, normalization, basic, *, relu=True):
    """Convolution with bias, normalisation and ReLU under the released names."""
    return conv_norm_relu(
        x,
        channels,
        7 if basic else 3,
        name=name,
        norm_name=f"{name}_bn",
        normalization=normalization,
        use_bias=True,
        relu=relu,
    )


def _pool(x, stage, upsampling, pooling):
    """Pooled map, and what unpooling needs: the indices (or None) and the map before."""
    padding = "same" if pooling == "ceil" else "valid"
    if upsampling == "indices":
        pooled, index = MaxPoolWithArgmax(2, padding=padding, name=f"pool{stage}")(x)
        return pooled, (index, x)
    return keras.layers.MaxPooling2D(2, padding=padding, name=f"pool{stage}")(x), (None, x)


def _unpool(x, pool, stage, upsampling):
    index, before = pool
    if upsampling == "indices":
        return MaxUnpool(2, name=f"upsample{stage}")([x, index, before])
    x = UpsampleTwice(upsampling, name=f"upsample{stage}")(x)
    return CropLike(anchor="start", name=f"upsample{stage}_crop")([x, before])


def _drop(x, rate, name):
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


def _encoder_channels(filters, variant) -> list[list[int]]:
    proportions = _PROPORTIONS[variant]
    if isinstance(filters, int):
        if filters < 1:
            raise ValueError(f"`filters` must be at least 1. Received: filters={filters}")
        return [[filters * factor for factor in stage] for stage in proportions]
    channels = [[int(count) for count in stage] for stage in filters]
    if not channels or not all(channels) or (variant == "basic" and any(len(stage) != 1 for stage in channels)):
        expected = "one number" if variant == "basic" else "at least one number"
        raise ValueError(
            f"`filters` must be a number or a list of stages with {expected} each. Received: filters={filters}"
        )
    return channels


def _decoder_channels(encoder, decoder_filters, basic) -> list[list[int]]:
    """Channels of the decoder's convolutions, the deepest stage first, without the one that gives the classes."""
    if decoder_filters is not None:
        channels = [[int(count) for count in stage] for stage in decoder_filters]
        if [len(stage) for stage in channels] != [len(stage) for stage in reversed(encoder)]:
            raise ValueError(
                "`decoder_filters` must have as many stages and convolutions as the encoder, the deepest first. "
                f"Received: decoder_filters={decoder_filters} for an encoder of {encoder}"
            )
        return channels
    if basic:
        return [list(stage) for stage in reversed(encoder)]
    # The mirror of a convolution gives back the channels that it took.
    below = [[], *encoder]
    mirrored = [[*reversed(encoder[k][:-1]), *below[k][-1:]] for k in range(len(encoder))]
    return mirrored[::-1]


def _check_pooling(pooling, upsampling, input_shape, stages):
    if pooling == "ceil":
        return
    if upsampling != "indices":
        raise ValueError(
            f'`pooling="floor"` needs `upsampling="indices"`. Received: upsampling={upsampling!r}. Use pooling="ceil".'
        )
    if any(size is not None and size < 2**stages for size in input_shape[:2]):
        raise ValueError(
            f'`pooling="floor"` needs pictures of at least {2**stages} pixels a side for {stages} stages. '
            f"Received: input_shape={tuple(input_shape)}"
        )


__all__ = ["build_segnet", "predict_bayesian"]
