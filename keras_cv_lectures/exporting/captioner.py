"""The parts of a captioner as graphs: what its `.tflite` file is made of.

The encoder is converted alone, once, in any precision. What comes behind it is converted together, so that weights are
shared: `encode` begins at the annotation map, searches and step where it ends. `join` then puts them in sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.exporting.graphs import save_graphs
from keras_cv_lectures.exporting.rewrite import in_float32
from keras_cv_lectures.language import Captioner, CaptionSearch
from keras_cv_lectures.language.captioner import flatten
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.serving import refuse_changes
from keras_cv_lectures.text import Vocabulary

# The first one is the main graph, which an interpreter runs that is not asked for a signature.
SIGNATURES = ("beam", "greedy", "encode", "decode_step")
# What comes before each: `encode`, or the encoder itself.
ORDER = {"encode": None, "beam": "encode", "greedy": "encode"}
MAP = "map"


def captioner_in_float32(model: Captioner) -> Captioner:
    """Copy of a captioner that computes in float32 throughout, or `model` itself where it already does."""
    layers = model._flatten_layers(include_self=False)
    if all(layer.compute_dtype in ("float32", None) for layer in layers):
        return model
    config = model.get_config()
    settings = {name: value for name, value in config.items() if name not in ("encoder", "decoder")}
    decoder = type(model.decoder).from_config({**model.decoder.get_config(), "dtype": "float32"})
    copy = Captioner(in_float32(model.encoder), decoder, **settings)
    copy.decoder.set_weights(model.decoder.get_weights())
    return copy


def check_vocabulary(model: Captioner, metadata: Metadata) -> None:
    """Raises ModelError where the words that go with a captioner are not as many as it was made for."""
    if not metadata.classes:
        return
    try:
        words = len(Vocabulary(metadata.classes))
    except DataError as error:
        raise ModelError(f"`metadata.classes` of a captioner are its vocabulary: {error}") from error
    if words != model.decoder.vocabulary_size:
        raise ModelError(
            f"{model.name} was made for {model.decoder.vocabulary_size} words, `metadata.classes` has {words}. Pass "
            "the vocabulary that it was trained with."
        )


def caption_facts(model: keras.Model) -> dict[str, Any]:
    """What a model card says of a captioner."""
    if not isinstance(model, Captioner):
        return {"task": "captioning"}
    return {
        "task": "captioning",
        "vocabulary_size": model.decoder.vocabulary_size,
        "beam_size": model.search.beam_size,
        "max_words": model.search.max_words,
        "length_penalty": model.search.length_penalty,
        "parameters_of": {
            "encoder": model.encoder.count_params(),
            "decoder": model.decoder.count_params(),
        },
    }


def write_decoder_graphs(model: Captioner, path: Path, map_shape: tuple[int, int, int]) -> None:
    """Writes a SavedModel with `SIGNATURES`, which take what comes before them by `ORDER` instead of a picture.

    Args:
        map_shape: (h, w, D) of the annotation map of one picture.
    """
    module, graphs = tf.Module(), {}
    # Not as constants: every signature would hold them once more until the converter finds that they are equal.
    module.weights_of_decoder = [weight.value for weight in model.decoder.variables]
    for name, (function, specs) in _functions(model, (1, *map_shape)).items():
        graphs[name] = tf.function(function, autograph=False).get_concrete_function(**specs)
        refuse_changes(graphs[name], model.name)
    save_graphs(module, path, graphs)


def _functions(model: Captioner, shape: tuple[int, ...]) -> dict[str, tuple[Callable, dict[str, tf.TensorSpec]]]:
    """Name -> (function, specifications of its arguments)."""
    decoder, places = model.decoder, shape[1] * shape[2] if model.attends else None
    greedy = CaptionSearch(decoder, **{**_settings(model.search), "beam_size": 1}, name="greedy")
    names, states = decoder.memory_names, decoder.state_names

    def encode(**tensors):
        memory = decoder.prepare(flatten(tensors[MAP])[0])
        values = [*memory[: len(names)], *decoder.begin(memory, model.search.beam_size)]
        return dict(zip((*names, *states), values, strict=True))

    def find(search, tensors):
        memory = decoder.complete([tensors[name] for name in names])
        state = [tensors[name][:, : search.beam_size] for name in states]
        return search.best(search.continued(memory, state, places), shape[1:3])

    def decode_step(**tensors):
        memory = decoder.complete([tensors[name] for name in names])
        logits, state, weights = decoder.step(memory, [tensors[name] for name in states], tensors["tokens"])
        found = {"log_probabilities": logits - ops.logsumexp(logits, axis=-1, keepdims=True)}
        found |= dict(zip(states, state, strict=True))
        return {**found, "attention": weights} if model.attends else found

    of_map = {MAP: tf.TensorSpec(shape, "float32", name=MAP)}
    results = tf.function(encode, autograph=False).get_concrete_function(**of_map).structured_outputs
    encoded = {name: tf.TensorSpec(result.shape, result.dtype, name=name) for name, result in results.items()}
    tokens = tf.TensorSpec((1, model.search.beam_size), "int32", name="tokens")
    return {
        "beam": (lambda **tensors: find(model.search, tensors), encoded),
        "greedy": (lambda **tensors: find(greedy, tensors), encoded),
        "encode": (encode, of_map),
        "decode_step": (decode_step, {**encoded, "tokens": tokens}),
    }


def _settings(search: CaptionSearch) -> dict[str, Any]:
    return {name: getattr(search, name) for name in ("max_words", "beam_size", "length_penalty", "ban_unknown")}


__all__ = [
    "MAP",
    "ORDER",
    "SIGNATURES",
    "caption_facts",
    "captioner_in_float32",
    "check_vocabulary",
    "write_decoder_graphs",
]
