"""DeconvNet: Noh, Hong and Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.

Layers carry the names of the authors' released network: `conv3_2`, `bn3_2`, `relu3_2` on the way down, `deconv3_2`,
`debn3_2`, `derelu3_2` on the way up, `fc6`, `fc7` and `fc6-deconv` between, `seg-score-voc` at the end.

The two-stage training takes its crops from `preprocessing.instance_crops` and `preprocessing.proposal_crops`;
prediction by proposals and the ensemble with FCN-8s are in `postprocessing.proposals`.
"""

from __future__ import annotations

import keras
from keras import ops

from keras_cv_lectures.layers import CropLike, ImageNormalization, MaxPoolWithArgmax, MaxUnpool, normalize
from keras_cv_lectures.segmentation.heads import class_scores, finished, logits_like, picture_input
from keras_cv_lectures.signatures import explain_arguments

# Multiples of the first stage's width, a list for each stage of VGG16 and of its mirror.
_ENCODER = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
_DECODER = ((1, 1), (2, 1), (4, 4, 2), (8, 8, 4), (8, 8, 8))


@explain_arguments
def build_deconvnet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    num_classes: int = 21,
    *,
    filters: int = 64,
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
        fc_filters: channels of `fc6` and `fc7`, 4096 in the paper; 1024 in SegNet's comparison.
        fc_kernel: side of the kernels of `fc6` and `fc6-deconv`. 7 reduces a 224x224 picture (7x7 at stride 32) to one
            vector; for smaller pictures choose at most their side / 32.
        normalization: "batch", "group", "layer" or None.
        include_preprocessing: False to give the network pictures that are normalised already (BGR, mean subtracted).
        weights: None or the path of a `.keras` or `.weights.h5` file of this network; a head with another
            `num_classes` is left at its initial values, with a warning.
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

    x = image
    if include_preprocessing:
        x = ImageNormalization("ilsvrc12", name="normalize")(x)
    pools = []
    for stage, factors in enumerate(_ENCODER, start=1):
        for step, factor in enumerate(factors, start=1):
            x = keras.layers.Conv2D(
                filters * factor, 3, padding="same", kernel_initializer="he_normal", name=f"conv{stage}_{step}"
            )(x)
            x = _normalized(x, normalization, f"bn{stage}_{step}", f"relu{stage}_{step}")
        pooled, switches = MaxPoolWithArgmax(2, padding="same", name=f"pool{stage}")(x)
        pools.append((switches, x))
        x = pooled

    x = _fully_connected(x, filters * _ENCODER[-1][-1], fc_filters, fc_kernel, normalization)

    for stage in range(len(_DECODER), 0, -1):
        x = MaxUnpool(2, name=f"unpool{stage}")([x, *pools[stage - 1]])
        for step, factor in enumerate(_DECODER[stage - 1], start=1):
            x = keras.layers.Conv2DTranspose(
                filters * factor, 3, padding="same", kernel_initializer="he_normal", name=f"deconv{stage}_{step}"
            )(x)
            x = _normalized(x, normalization, f"debn{stage}_{step}", f"derelu{stage}_{step}")

    scores = class_scores(x, num_classes, name="seg-score-voc")
    return finished(image, logits_like(scores, image, "none"), name=name, weights=weights)


def _fully_connected(pooled, channels, fc_filters, kernel_size, normalization):
    """fc6 and fc7 as convolutions, and the deconvolution that gives back what fc6 took."""
    x = PadToAtLeast(kernel_size, name="fc6_pad")(pooled)
    x = keras.layers.Conv2D(fc_filters, kernel_size, kernel_initializer="he_normal", name="fc6")(x)
    x = _normalized(x, normalization, "bnfc6", "relu6")
    x = keras.layers.Conv2D(fc_filters, 1, kernel_initializer="he_normal", name="fc7")(x)
    x = _normalized(x, normalization, "bnfc7", "relu7")
    x = keras.layers.Conv2DTranspose(channels, kernel_size, kernel_initializer="he_normal", name="fc6-deconv")(x)
    x = _normalized(x, normalization, "fc6-deconv-bn", "fc6-deconv-relu")
    return CropLike(anchor="start", name="fc6-deconv_crop")([x, pooled])


def _normalized(x, normalization, norm_name, relu_name):
    return keras.layers.ReLU(name=relu_name)(normalize(x, normalization, name=norm_name))


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PadToAtLeast(keras.layers.Layer):
    """Pads height and width at the bottom and the right with zeros to at least `size` pixels.

    Input shape: (B, H, W, C). Output shape: (B, max(H, size), max(W, size), C).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"`size` must be a positive integer. Received: size={size}")
        self.size = size

    def call(self, x):
        if None not in x.shape[1:3]:
            bottom, right = (max(self.size - side, 0) for side in x.shape[1:3])
            return ops.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]]) if bottom or right else x
        # keras.ops.pad takes only numbers known at build time; sizes are unknown at build time on TensorFlow alone.
        import tensorflow as tf

        height, width = (tf.maximum(side, self.size) for side in tf.unstack(tf.shape(x)[1:3]))
        padded = tf.pad(x, [[0, 0], [0, height - tf.shape(x)[1]], [0, width - tf.shape(x)[2]], [0, 0]])
        # The exported graph would forget the number of channels, and TFLite then has no convolution for it.
        return tf.reshape(padded, [-1, height, width, x.shape[-1]])

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        padded = (None if side is None else max(side, self.size) for side in (height, width))
        return batch, *padded, channels

    def get_config(self):
        return {**super().get_config(), "size": self.size}


__all__ = ["build_deconvnet"]
