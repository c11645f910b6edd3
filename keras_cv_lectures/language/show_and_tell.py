"""Show and Tell, with NeuralTalk2's and LRCN's forms: captions from one vector of the picture."""

from __future__ import annotations

import os

import keras

from keras_cv_lectures.backbones import warn_of_frozen_noise
from keras_cv_lectures.language.captioner import Captioner, load_captioner, weights_of_backbone
from keras_cv_lectures.language.encoder import caption_encoder
from keras_cv_lectures.language.plain_decoder import PlainDecoder
from keras_cv_lectures.signatures import explain_arguments

# What an option is in each variant, where the call does not say.
VARIANT_DEFAULTS = {
    "show_and_tell": {
        "embedding_units": 512,
        "units": 512,
        "dropout": 0.3,
        "input_dropout": None,
        "picture": "first",
        "picture_activation": None,
        "layers": 1,
    },
    "neuraltalk2": {
        "embedding_units": 512,
        "units": 512,
        "dropout": 0.5,
        "input_dropout": 0.0,
        "picture": "first",
        "picture_activation": "relu",
        "layers": 1,
    },
    "lrcn": {
        "embedding_units": 1000,
        "units": 1000,
        "dropout": 0.0,
        "input_dropout": None,
        "picture": "every",
        "picture_activation": None,
        "layers": 2,
    },
}


@explain_arguments
def build_show_and_tell(
    input_shape: tuple[int | None, int | None, int] = (299, 299, 3),
    num_classes: int = 12000,
    *,
    backbone: str | keras.Model = "resnet50",
    variant: str = "show_and_tell",
    backbone_weights: str | None = None,
    freeze_backbone: bool | None = None,
    embedding_units: int | None = None,
    units: int | None = None,
    dropout: float | None = None,
    label_smoothing: float = 0.0,
    scheduled_sampling: float = 0.0,
    max_words: int = 20,
    beam_size: int = 3,
    length_penalty: float = 0.0,
    ban_unknown: bool = True,
    weights: str | os.PathLike | None = None,
    name: str = "show_and_tell",
) -> keras.Model:
    """Show and Tell: the picture as the first word that an LSTM reads, then the sentence.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: a dict of `tokens` (B, T) int32, `length` (B,) int32 and `log_probability` (B,), as
    `build_show_attend_tell` without attention. Trained by `fit` with what `Captioner` describes.

    Paper: https://arxiv.org/abs/1411.4555 (Vinyals et al., CVPR 2015); LRCN: https://arxiv.org/abs/1411.4389.
    Differs from the paper: any backbone of the package instead of GoogLeNet, the mean of its last stage as the
    picture's vector (NeuralTalk: fc7 of VGG-16, LRCN: fc8); the LSTM emits tanh of its cell, as the authors' released
    code does; gates without forget bias, where the released code adds 1; words are drawn from -0.08 to 0.08 at first,
    as all weights are there, but the LSTM's and the picture's are Keras's own (NeuralTalk2: Torch's, and a bias of the
    picture).

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: words of the vocabulary, the four special ones included.
        backbone: a name, or a model from picture to `{"c1": ..., "c5": ...}`.
        variant: "show_and_tell"; "neuraltalk2" (ReLU of the embedded picture, dropout 0.5 of what the LSTM says and not
            of what it reads); "lrcn" (two LSTMs, the second sees the picture at every step).
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a file.
        freeze_backbone: the backbone is not trained; None: with pretrained weights. Of a model of your own None trains
            what is trainable in it, and True and False take a copy, so that yours stays as it is.
        embedding_units, units, dropout: None: as the variant has them.
        label_smoothing: of the cross entropy.
        scheduled_sampling: chance that training replaces a word that the network is given by its own; see `Captioner`.
        max_words: T, the longest sentence.
        beam_size: hypotheses of the search; 1 is greedy. The paper uses 20, its later version 3.
        length_penalty: exponent; 0 for none.
        ban_unknown: never say the unknown word.
        weights: None or the path of a `.keras` or `.weights.h5` file of this network.
        name: name of the model.

    Raises:
        ValueError: for an unknown option, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_show_and_tell((64, 64, 3), 30, backbone="resnet14_v1_5", units=32, max_words=6)
    """
    if variant not in VARIANT_DEFAULTS:
        raise ValueError(f"`variant` must be one of {tuple(VARIANT_DEFAULTS)}. Received: variant={variant!r}")
    warn_of_frozen_noise(freeze_backbone, backbone, backbone_weights, weights_of_backbone(weights))
    given = {"embedding_units": embedding_units, "units": units, "dropout": dropout}
    options = VARIANT_DEFAULTS[variant] | {key: value for key, value in given.items() if value is not None}
    encoder = caption_encoder(input_shape, backbone, weights=backbone_weights, frozen=freeze_backbone, stage="c5")
    model = Captioner(
        encoder,
        PlainDecoder(num_classes, name="decoder", **options),
        input_shape=input_shape,
        max_words=max_words,
        beam_size=beam_size,
        length_penalty=length_penalty,
        ban_unknown=ban_unknown,
        label_smoothing=label_smoothing,
        scheduled_sampling=scheduled_sampling,
        name=name,
    )
    if weights is not None:
        load_captioner(model, weights)
    return model


__all__ = ["VARIANT_DEFAULTS", "build_show_and_tell"]
