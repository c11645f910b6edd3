"""Show, Attend and Tell: captions with visual attention."""

from __future__ import annotations

import os

import keras

from keras_cv_lectures.backbones import warn_of_frozen_noise
from keras_cv_lectures.language.captioner import Captioner, load_captioner, weights_of_backbone
from keras_cv_lectures.language.decoders import KINDS, AttentionDecoder
from keras_cv_lectures.language.encoder import caption_encoder
from keras_cv_lectures.signatures import explain_arguments

# What an option is in each variant, where the call does not say.
VARIANT_DEFAULTS = {
    "paper": {
        "units": 1800,
        "attention_units": None,
        "attention_depth": 2,
        "attention_activation": "tanh",
        "query_bias": False,
        "gate": "scalar",
        "begin_depth": 2,
        "begin_activation": "tanh",
        "readout": "deep",
    },
    "tutorial": {
        "units": 512,
        "attention_units": 512,
        "attention_depth": 1,
        "attention_activation": "relu",
        "query_bias": True,
        "gate": "vector",
        "begin_depth": 1,
        "begin_activation": None,
        "readout": "plain",
    },
}


@explain_arguments
def build_show_attend_tell(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    num_classes: int = 10000,
    *,
    attention: str = "soft",
    backbone: str | keras.Model = "vgg19",
    variant: str = "paper",
    backbone_weights: str | None = None,
    freeze_backbone: bool | None = None,
    annotation_stage: str | None = None,
    annotation_grid: tuple[int, int] | None = None,
    output_stride: int = 32,
    positions: bool = False,
    embedding_units: int = 512,
    units: int | None = None,
    attention_units: int | None = None,
    dropout: float = 0.5,
    doubly_stochastic: float = 1.0,
    reinforce: float = 0.1,
    attention_entropy: float = 0.002,
    label_smoothing: float = 0.0,
    scheduled_sampling: float = 0.0,
    max_words: int = 20,
    beam_size: int = 3,
    length_penalty: float = 0.0,
    ban_unknown: bool = True,
    weights: str | os.PathLike | None = None,
    name: str = "show_attend_tell",
) -> keras.Model:
    """Show, Attend and Tell: an LSTM says a sentence and looks at one part of the picture for every word.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32; the paper's are 224x224.
    Output: a dict of `tokens` (B, T) int32, ids of words, END and PAD (see `text.Vocabulary`), `length` (B,) int32,
    words without the end, `log_probability` (B,) in nats, and `attention` (B, T, h, w), where the network looked for
    each token; beam search is part of the graph. Trained by `fit` with what `Captioner` describes.

    Paper: https://arxiv.org/abs/1502.03044. Differs from the paper: a start word of its own instead of a vector of
    zeros; inverted dropout; initial weights of Glorot; the doubly stochastic term as the mean over places, as in the
    paper's code, and over captions: with the weight 1 it is 196 times weaker than the paper's formula with lambda = 1,
    64 times than its code and about 11 times than the tutorial (see `doubly_stochastic`). Hard attention: the reward is
    the log likelihood of the whole sentence.

    Args:
        input_shape: (height, width, channels).
        num_classes: words of the vocabulary, the four special ones included.
        attention: "soft", "hard" (places drawn in training, REINFORCE with a moving baseline; the expected context
            otherwise), or "mean", the same decoder without attention, to compare with.
        backbone: a name, or a model from picture to `{"c1": ..., "c5": ...}` (see `keras_cv_lectures.backbones`). From
            random numbers VGG-19, which has no normalisation, hardly learns; `kcvl train` takes "resnet14_v1_5" then.
        variant: "paper", with the widths that its code has for COCO; "tutorial", the widely used re-implementation in
            PyTorch (linear start, ReLU attention, a gate for each channel, words from the state alone). The encoder is
            the paper's all the same; the tutorial's, for pictures of 256x256, is backbone="resnet101_v1_5",
            annotation_stage="c5" and annotation_grid=(14, 14): 14x14 places of 2048 numbers.
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a file.
        freeze_backbone: the backbone is not trained; None: with pretrained weights. Of a model of your own None trains
            what is trainable in it, and True and False take a copy, so that yours stays as it is.
        annotation_stage: of the backbone; None: "c4" (stride 16: 14x14 places of a 224x224 picture).
        annotation_grid: (rows, columns) that the stage's map is averaged to; None: as it is.
        output_stride: 8 or 16 for a finer map: the backbone's stages behind are dilated instead.
        positions: each annotation also says in which column and row it is; without, position is known to the network as
            far as the padding of its convolutions tells it.
        embedding_units: width of a word's vector.
        units: width of the LSTM; None: 1800, "tutorial": 512.
        attention_units: width of the attention network; None: that of the annotations, "tutorial": 512.
        dropout: rate.
        doubly_stochastic: weight of the term that has every place looked at, a mean over places and captions. Give 196
            (the places) for the paper's formula with lambda = 1; 64 (the captions of a batch) for its code with
            alpha_c = 1; about 11 (the words of a caption) for the tutorial's, whose cross entropy is a mean over words.
        reinforce, attention_entropy: weights of REINFORCE and of the entropy term of hard attention.
        label_smoothing: of the cross entropy.
        scheduled_sampling: chance that training replaces a word that the network is given by its own; see `Captioner`.
        max_words: T, the longest sentence.
        beam_size: hypotheses of the search; 1 is greedy.
        length_penalty: exponent; 0 for none, above 0 for longer sentences.
        ban_unknown: never say the unknown word.
        weights: None or the path of a `.keras` or `.weights.h5` file of this network, of the `.npz` of the paper's code
            (variant="paper"), or of a state dict of the tutorial's decoder (`.pth`, `.safetensors` or `.npz`); of the
            latter two the encoder has no part, and `weights.load_caption_weights` says which vocabulary goes with them.
        name: name of the model.

    Raises:
        ValueError: for an unknown option, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_show_attend_tell((64, 64, 3), 30, backbone="resnet14_v1_5", units=32, max_words=6)
    """
    if variant not in VARIANT_DEFAULTS:
        raise ValueError(f"`variant` must be one of {tuple(VARIANT_DEFAULTS)}. Received: variant={variant!r}")
    if attention not in KINDS:
        raise ValueError(f"`attention` must be one of {KINDS}. Received: attention={attention!r}")
    warn_of_frozen_noise(freeze_backbone, backbone, backbone_weights, weights_of_backbone(weights))
    options = dict(VARIANT_DEFAULTS[variant])
    options |= {k: v for k, v in {"units": units, "attention_units": attention_units}.items() if v is not None}
    encoder = caption_encoder(
        input_shape,
        backbone,
        weights=backbone_weights,
        frozen=freeze_backbone,
        stage=annotation_stage or "c4",
        grid=annotation_grid,
        output_stride=output_stride,
        positions=positions,
    )
    decoder = AttentionDecoder(
        num_classes,
        embedding_units=embedding_units,
        attention=attention,
        dropout=dropout,
        name="decoder",
        **options,
    )
    model = Captioner(
        encoder,
        decoder,
        input_shape=input_shape,
        max_words=max_words,
        beam_size=beam_size,
        length_penalty=length_penalty,
        ban_unknown=ban_unknown,
        doubly_stochastic_weight=doubly_stochastic,
        reinforce_weight=reinforce,
        entropy_weight=attention_entropy,
        label_smoothing=label_smoothing,
        scheduled_sampling=scheduled_sampling,
        name=name,
    )
    if weights is not None:
        load_captioner(model, weights)
    return model


__all__ = ["VARIANT_DEFAULTS", "build_show_attend_tell"]
