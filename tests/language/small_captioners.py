"""Captioners that a CPU trains at once, and data for them."""

from __future__ import annotations

import contextlib

import keras
import numpy as np

from keras_cv_lectures.language import AttentionDecoder, Captioner, PlainDecoder

RNG = np.random.default_rng(0)
SIZE, WORDS, MAX_WORDS = (16, 24), 11, 5
DECODERS = {
    "soft": (AttentionDecoder, {}),
    "hard": (AttentionDecoder, {"attention": "hard"}),
    "mean": (AttentionDecoder, {"attention": "mean"}),
    "plain": (PlainDecoder, {}),
    "lrcn": (PlainDecoder, {"picture": "every", "layers": 2}),
}


def make(kind="soft", *, input_shape=(*SIZE, 3), dropout=0.0, decoder=None, **options):
    """A captioner of a pyramid that a CPU trains at once: 4 x 6 places of 6 channels."""
    keras.utils.set_random_seed(0)
    image = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 255)(image)
    encoder = keras.Model(image, keras.layers.Conv2D(6, 4, strides=4, activation="relu")(x), name="encoder")
    build, settings = DECODERS[kind]
    sizes = {"embedding_units": 5, "units": 7, "dropout": dropout, "seed": 1}
    sizes |= {"attention_units": 4} if build is AttentionDecoder else {}
    layer = build(WORDS, **{**sizes, **settings, **(decoder or {})}, name="decoder")
    model = Captioner(encoder, layer, input_shape=input_shape, **{"max_words": MAX_WORDS, **options})
    for v in layer.trainable_variables:
        v.assign(0.7 * np.random.default_rng(len(v.shape)).normal(size=v.shape))
    return model


@contextlib.contextmanager
def policy(name):
    """What is built inside computes by this policy."""
    keras.mixed_precision.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def pictures(count=4):
    return RNG.integers(0, 256, (count, *SIZE, 3)).astype("uint8")


def captions(pictures=4, count=2, words=4):
    tokens = RNG.integers(4, WORDS, (pictures, count, words + 2)).astype("int32")
    tokens[:, :, 0], tokens[:, :, -1] = 1, 2
    tokens[0, -1, 3:] = 2, 0, 0  # a shorter one
    return tokens


def loss_of(model, x, y, training=False, sample_weight=None):
    found = model(x, training=training)
    for tracker in model.loss_trackers.values():
        tracker.reset_state()
    loss = float(model.compute_loss(x, y, found, sample_weight, training=training))
    return loss, {name: float(tracker.result()) for name, tracker in model.loss_trackers.items()}
