"""Decoders: annotations of a picture -> words, one at a time. Each captioner is an encoder and one of these.

A decoder has `prepare` (once a picture), `begin` (the state before the first word), `step` (one word, for a search) and
`teach` (all words of given captions at once, for training). A picture may have several captions or hypotheses: tensors
have the axes (picture B, caption N, ...), and a picture is prepared once for all. What `prepare` gives is what it knows
of the picture, named by `memory_names`, and behind that weights in the form that a step wants: see `complete`.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from keras_cv_lectures.language.recurrence import attention_lstm, attention_step
from keras_cv_lectures.layers import HardAttention, SoftAttention
from keras_cv_lectures.layers.attention import likeliest_places
from keras_cv_lectures.text import SPECIAL_WORDS

KINDS = ("soft", "hard", "mean")


@keras.saving.register_keras_serializable("keras_cv_lectures")
class AttentionDecoder(keras.layers.Layer):
    """The decoder of "Show, Attend and Tell": an LSTM that looks at the picture before every word.

    Args:
        vocabulary_size: words, the four special ones included.
        embedding_units: width of a word's vector.
        units: width of the LSTM.
        attention_units: width where annotations and state meet; None: that of the annotations.
        attention: "soft", "hard", or "mean", which looks at the mean annotation whatever the state is: the same network
            without attention.
        attention_depth, attention_activation, query_bias: see `layers.SoftAttention`.
        gate: "scalar" (one factor of the context a step), "vector" (one a channel) or None.
        begin_depth: layers between the mean annotation and the first state, 1 or more; the last is linear or tanh.
        begin_activation: "tanh" or None.
        readout: "deep" (tanh of state, word and context before the vocabulary) or "plain" (from the state alone).
        dropout: of the state before the readout, and of what lies between other dense layers.
        expected: chance that a training step of hard attention uses the expected context instead of a draw.
        seed: of dropout and draws.
    """

    memory_names = ("annotations", "projected")
    state_names = ("hidden", "cell")

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_units: int = 512,
        units: int = 1800,
        attention_units: int | None = None,
        attention: str = "soft",
        attention_depth: int = 1,
        attention_activation: str = "tanh",
        query_bias: bool = False,
        gate: str | None = "scalar",
        begin_depth: int = 2,
        begin_activation: str | None = "tanh",
        readout: str = "deep",
        dropout: float = 0.5,
        expected: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        for name, value, allowed in (
            ("attention", attention, KINDS),
            ("gate", gate, ("scalar", "vector", None)),
            ("begin_activation", begin_activation, ("tanh", None)),
            ("readout", readout, ("deep", "plain")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")
        check_sizes(vocabulary_size, embedding_units=embedding_units, units=units, begin_depth=begin_depth)
        self._config = {
            "vocabulary_size": vocabulary_size,
            "embedding_units": embedding_units,
            "units": units,
            "attention_units": attention_units,
            "attention": attention,
            "attention_depth": attention_depth,
            "attention_activation": attention_activation,
            "query_bias": query_bias,
            "gate": gate,
            "begin_depth": begin_depth,
            "begin_activation": begin_activation,
            "readout": readout,
            "dropout": dropout,
            "expected": expected,
            "seed": seed,
        }
        self.vocabulary_size, self.units, self.kind = vocabulary_size, units, attention
        self.gate_kind, self.readout, self.expected = gate, readout, expected
        self.noise = keras.random.SeedGenerator(seed)
        # Recurrent arithmetic stays in float32; the layers before and after follow the decoder's policy, which is not
        # that of the session which loads it.
        self.embedding = keras.layers.Embedding(
            vocabulary_size,
            embedding_units,
            embeddings_initializer=uniform(0.1),
            dtype=self.dtype_policy,
            name="embedding",
        )
        self.drop = keras.layers.Dropout(dropout, seed=seed, dtype=self.dtype_policy, name="dropout")
        self.begin_layers: list[keras.layers.Layer] = []
        self.attention: SoftAttention | None = None

    def build(self, annotations_shape):
        config, width = self._config, annotations_shape[-1]
        self.annotation_width = width
        kind = HardAttention if self.kind == "hard" else SoftAttention
        self.attention = kind(
            config["attention_units"] or width,
            activation=config["attention_activation"],
            depth=config["attention_depth"],
            query_bias=config["query_bias"],
            dtype="float32",
            name="attention",
        )
        self.attention.build([(None, None, width), (None, None, self.units)])
        self.embedding.build((None, None))
        dense = functools.partial(keras.layers.Dense, dtype=self.dtype_policy)
        self.begin_layers = [
            dense(width, activation="relu", name=f"begin_{k}") for k in range(1, config["begin_depth"])
        ]
        activation = config["begin_activation"]
        self.begin_hidden = dense(self.units, activation=activation, dtype="float32", name="begin_hidden")
        self.begin_cell = dense(self.units, activation=activation, dtype="float32", name="begin_cell")
        for layer in (*self.begin_layers, self.begin_hidden, self.begin_cell):
            layer.build((None, width))
        add, units, words = self.add_weight, self.units, config["embedding_units"]
        self.word_kernel = add(shape=(words, 4 * units), name="word_kernel")
        self.context_kernel = add(shape=(width, 4 * units), name="context_kernel")
        self.recurrent_kernel = add(shape=(units, 4 * units), initializer=_orthogonal_blocks, name="recurrent_kernel")
        self.bias = add(shape=(4 * units,), initializer="zeros", name="bias")
        self.gate = None
        if self.gate_kind is not None:
            self.gate = dense(1 if self.gate_kind == "scalar" else width, dtype="float32", name="gate")
            self.gate.build((None, units))
        self.readout_state = self.readout_context = None
        if self.readout == "deep":
            self.readout_state = dense(words, name="readout_state")
            self.readout_context = dense(words, name="readout_context")
            self.readout_state.build((None, units))
            self.readout_context.build((None, width))
        self.vocabulary = dense(self.vocabulary_size, kernel_initializer=uniform(0.1), name="vocabulary")
        self.vocabulary.build((None, words if self.readout == "deep" else units))
        self.built = True

    def prepare(self, annotations):
        """Annotations (B, L, D) -> what every step reads: [annotations, the same projected, weights ...]."""
        annotations = ops.cast(annotations, "float32")
        if self.kind == "mean":
            annotations = ops.mean(annotations, axis=1, keepdims=True)
        return self.complete([annotations, self.attention.project(annotations)])

    def complete(self, memory):
        """What `prepare` knows of the picture, and the weights behind it: joined once, not at every step of a loop."""
        query = self.attention.query_layer
        gate = [] if self.gate is None else [self.gate]
        joint = ops.concatenate([1.0 * self.recurrent_kernel, *(x.kernel for x in (*gate, query))], axis=1)
        biases = [*(x.bias for x in gate), ops.zeros((query.units,)) if query.bias is None else query.bias]
        score = self.attention.score_vector() * self.attention.temperature
        # Values, not variables: a function with its own gradient may not read variables.
        return [*memory, 1.0 * score, joint, ops.concatenate(biases, axis=0), 1.0 * self.context_kernel]

    def begin(self, memory, count: int, training: bool = False) -> list:
        """The state (hidden, cell), each (B, count, units), before the first word."""
        mean = ops.mean(memory[0], axis=1)
        for layer in self.begin_layers:
            mean = self.drop(layer(mean), training=training)
        states = [self.begin_hidden(mean), self.begin_cell(mean)]
        return [ops.repeat(ops.cast(x, "float32")[:, None], count, axis=1) for x in states]

    def step(self, memory, state, tokens):
        """One word: (memory, state, tokens (B, N)) -> (logits (B, N, V), state, weights (B, N, L))."""
        words = self.embedding(tokens)
        found = attention_step(
            memory,
            self._word_part(words),
            *state,
            activation=self.attention.activation,
            choose=likeliest_places if self._looks_at_one_place() else None,
        )
        logits = self._logits(found.hidden, words, found.context, False)
        return logits, [found.hidden, found.cell], found.used

    def teach(self, annotations, tokens, training: bool = False) -> dict[str, Any]:
        """What the network says of each word of given captions.

        Args:
            annotations: (B, L, D).
            tokens: (B, N, T + 1) int32: start, words, end, padding.

        Returns:
            dict of `logits` (B, N, T, V) float32 of the words 1 to T; `attention` (B, N, T, L), the weights; `used`
            (B, N, T, L), what the context was the mean under; `drawn`, 1 if places were drawn, else 0.
        """
        memory = self.prepare(annotations)
        words = look_up(self.embedding, tokens[:, :, :-1])
        hidden, cell = self.begin(memory, tokens.shape[1] or ops.shape(tokens)[1], training)
        inputs = _time_first(self._word_part(words))
        draws = {}
        drawn = ops.zeros(())
        if training and self.kind == "hard":
            drawn = ops.cast(keras.random.uniform((), seed=self.noise) >= self.expected, "float32")
            uniform = keras.random.uniform(ops.shape(inputs)[:3], seed=self.noise)
            draws = {"uniform": uniform, "expected": 1 - drawn}
        found = attention_lstm(memory, inputs, hidden, cell, activation=self.attention.activation, **draws)
        hidden, context, weights, used = (_time_last(x) for x in found)
        return {
            "logits": self._logits(hidden, words, context, training),
            "attention": weights,
            "used": ops.stop_gradient(used),
            "drawn": drawn,
        }

    def call(self, annotations, tokens=None, training=False):
        return self.teach(annotations, tokens, training)["logits"]

    def get_config(self):
        return {**super().get_config(), **self._config}

    def _looks_at_one_place(self) -> bool:
        return self.kind == "hard" and self.attention.inference == "argmax"

    def _word_part(self, words):
        """The words' part of the gates, bias included, float32."""
        kernel = ops.cast(self.word_kernel, self.compute_dtype)
        part = ops.matmul(ops.cast(words, self.compute_dtype), kernel)
        return ops.cast(part, "float32") + ops.cast(self.bias, "float32")

    def _logits(self, hidden, words, context, training):
        hidden = self.drop(hidden, training=training)
        if self.readout == "deep":
            total = self.readout_state(hidden) + words + self.readout_context(context)
            hidden = self.drop(ops.tanh(total), training=training)
        return ops.cast(self.vocabulary(hidden), "float32")


def _time_first(x):
    """(B, N, T, K) -> (T, B, N, K)."""
    return ops.transpose(x, (2, 0, 1, 3))


def _time_last(x):
    """(T, B, N, K) -> (B, N, T, K)."""
    return ops.transpose(x, (1, 2, 0, 3))


def look_up(embedding: keras.layers.Embedding, tokens):
    """`embedding(tokens)` for training: (...) int32 -> (..., E), with a gradient of the whole table.

    TensorFlow's own has a row for each occurrence of a word. An optimizer that takes the norm of such rows to clip
    them, or squares them as Adam does, takes a word that occurs n times for n words.
    """
    words, width, tokens = embedding.input_dim, embedding.output_dim, ops.cast(tokens, "int32")

    @ops.custom_gradient
    def rows_of(table):
        def gradient(*upstream):
            rows = ops.reshape(upstream[0], (-1, width))
            return ops.segment_sum(rows, ops.reshape(tokens, (-1,)), num_segments=words)

        return ops.take(table, tokens, axis=0), gradient

    # A value, not a variable: a function with its own gradient may not read variables.
    return ops.cast(rows_of(1.0 * embedding.embeddings), embedding.compute_dtype)


def check_sizes(vocabulary_size, **sizes) -> None:
    """Says which of a decoder's sizes is none."""
    for name, value in sizes.items():
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if not (isinstance(vocabulary_size, int) and vocabulary_size > len(SPECIAL_WORDS)):
        raise ValueError(
            f"`num_classes` must be the length of a vocabulary, more than the {len(SPECIAL_WORDS)} special words "
            f"{', '.join(SPECIAL_WORDS)}. Received: num_classes={vocabulary_size!r}"
        )


def uniform(limit: float) -> keras.initializers.Initializer:
    """Values in -limit..limit."""
    return keras.initializers.RandomUniform(-limit, limit)


@keras.saving.register_keras_serializable("keras_cv_lectures")
def _orthogonal_blocks(shape, dtype=None):
    """An orthogonal square for each of the four gates."""
    # An initializer gives the same values every time it is called: one for each block.
    blocks = [keras.initializers.Orthogonal()((shape[0], shape[0]), dtype=dtype) for _ in range(4)]
    return ops.concatenate(blocks, axis=1)


__all__ = ["KINDS", "AttentionDecoder", "check_sizes", "look_up", "uniform"]
