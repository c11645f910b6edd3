"""The decoder that sees a picture as one vector, as Show and Tell, NeuralTalk2 and LRCN do."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cv_lectures.language.decoders import check_sizes, look_up, uniform


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PlainDecoder(keras.layers.Layer):
    """Decoders that see the picture as one vector: the mean of its annotations.

    Args:
        vocabulary_size, embedding_units, units, seed: as `AttentionDecoder`.
        picture: "first": the embedded picture is what the LSTM reads before the start word, and never again (Show and
            Tell, NeuralTalk); "every": it is an input of the LSTM at every step (LRCN).
        layers: LSTMs on top of each other. With picture="every" the last one reads the picture ("factored").
        picture_activation: None or "relu", of the embedded picture.
        dropout: of what each LSTM says, before the next one or the vocabulary.
        input_dropout: of the words and of the picture that is read before them; None: as `dropout`.
    """

    kind = "none"
    memory_names = ("picture",)

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_units: int = 512,
        units: int = 512,
        picture: str = "first",
        layers: int = 1,
        picture_activation: str | None = None,
        dropout: float = 0.3,
        input_dropout: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        if picture not in ("first", "every"):
            raise ValueError(f'`picture` must be "first" or "every". Received: picture={picture!r}')
        check_sizes(vocabulary_size, embedding_units=embedding_units, units=units, layers=layers)
        self._config = {
            "vocabulary_size": vocabulary_size,
            "embedding_units": embedding_units,
            "units": units,
            "picture": picture,
            "layers": layers,
            "picture_activation": picture_activation,
            "dropout": dropout,
            "input_dropout": input_dropout,
            "seed": seed,
        }
        self.vocabulary_size, self.units, self.picture = vocabulary_size, units, picture
        policy = {"dtype": self.dtype_policy}  # Not that of the session which loads the decoder.
        self.embedding = keras.layers.Embedding(
            vocabulary_size, embedding_units, embeddings_initializer=uniform(0.08), name="embedding", **policy
        )
        width = embedding_units if picture == "first" else units
        self.look = keras.layers.Dense(width, activation=picture_activation, use_bias=False, name="picture", **policy)
        # The papers' forget gates start without a bias.
        self.recurrent = [
            keras.layers.LSTM(
                units, return_sequences=True, return_state=True, unit_forget_bias=False, name=f"lstm_{k}", **policy
            )
            for k in range(1, layers + 1)
        ]
        self.drop = keras.layers.Dropout(dropout, seed=seed, name="dropout", **policy)
        # Of one rate it is one layer, and one state of random numbers in files.
        self.drop_input = self.drop
        if input_dropout not in (None, dropout):
            self.drop_input = keras.layers.Dropout(input_dropout, seed=seed, name="input_dropout", **policy)
        self.vocabulary = keras.layers.Dense(
            vocabulary_size, kernel_initializer=uniform(0.08), name="vocabulary", **policy
        )

    def build(self, annotations_shape):
        embedding = self._config["embedding_units"]
        self.annotation_width = annotations_shape[-1]
        self.embedding.build((None, None))
        self.look.build((None, self.annotation_width))
        width = embedding
        for k, layer in enumerate(self.recurrent):
            last = k == len(self.recurrent) - 1
            layer.build((None, None, width + (self.units if last and self.picture == "every" else 0)))
            width = self.units
        self.vocabulary.build((None, self.units))
        self.built = True

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the tensors of the state are, in their order."""
        return tuple(f"{name}_{k + 1}" for k in range(len(self.recurrent)) for name in ("hidden", "cell"))

    def prepare(self, annotations):
        """Annotations (B, L, D) -> [the embedded picture (B, E or units)]."""
        return [self.look(ops.mean(ops.cast(annotations, "float32"), axis=1))]

    def complete(self, memory):
        """As `AttentionDecoder.complete`; steps of this decoder read their weights as they are."""
        return list(memory)

    def begin(self, memory, count: int, training: bool = False) -> list:
        """The state before the start word: hidden and cell of each LSTM, each (B, count, units)."""
        seen = memory[0]
        zeros = ops.zeros((ops.shape(seen)[0], self.units), dtype="float32")
        states = [[zeros, zeros] for _ in self.recurrent]
        if self.picture == "first":
            # What the network says after the picture is no word and is dropped.
            inputs = self.drop_input(seen, training=training)
            for k, layer in enumerate(self.recurrent):
                inputs = self.drop(inputs, training=training) if k else inputs
                inputs, states[k] = layer.cell(inputs, [ops.cast(x, layer.compute_dtype) for x in states[k]])
        flat = [ops.cast(x, "float32") for pair in states for x in pair]
        return [ops.repeat(x[:, None], count, axis=1) for x in flat]

    def step(self, memory, state, tokens):
        """One word: (memory, state, tokens (B, N)) -> (logits (B, N, V), state, None)."""
        count = tokens.shape[1]
        x = _merge(self.embedding(tokens))
        given = _merge(ops.repeat(memory[0][:, None], count, axis=1))
        new = []
        for k, layer in enumerate(self.recurrent):
            x = self._with_picture(x, given, k)
            pair = [ops.cast(_merge(s), layer.compute_dtype) for s in state[2 * k : 2 * k + 2]]
            x, pair = layer.cell(x, pair)
            new += [ops.reshape(ops.cast(s, "float32"), (-1, count, self.units)) for s in pair]
        logits = ops.cast(self.vocabulary(x), "float32")
        return ops.reshape(logits, (-1, count, self.vocabulary_size)), new, None

    def teach(self, annotations, tokens, training: bool = False) -> dict[str, Any]:
        """As `AttentionDecoder.teach`, without attention."""
        memory = self.prepare(annotations)
        count = tokens.shape[1] or ops.shape(tokens)[1]
        state = self.begin(memory, count, training)
        words = self.drop_input(look_up(self.embedding, tokens[:, :, :-1]), training=training)
        steps = ops.shape(words)[2]
        x = ops.reshape(words, (-1, steps, words.shape[-1]))
        given = _merge(ops.repeat(memory[0][:, None], count, axis=1))
        given = ops.repeat(given[:, None], steps, axis=1)
        for k, layer in enumerate(self.recurrent):
            x = self.drop(x, training=training) if k else x
            x = self._with_picture(x, given, k)
            pair = [ops.cast(_merge(s), layer.compute_dtype) for s in state[2 * k : 2 * k + 2]]
            x, *_ = layer(x, initial_state=pair, training=training)
        logits = ops.cast(self.vocabulary(self.drop(x, training=training)), "float32")
        return {"logits": ops.reshape(logits, (-1, count, steps, self.vocabulary_size))}

    def call(self, annotations, tokens=None, training=False):
        return self.teach(annotations, tokens, training)["logits"]

    def get_config(self):
        return {**super().get_config(), **self._config}

    def _with_picture(self, x, given, k):
        if self.picture == "first" or k < len(self.recurrent) - 1:
            return x
        return ops.concatenate([x, ops.cast(given, x.dtype)], axis=-1)


def _merge(x):
    """(B, N, K) -> (B N, K)."""
    return ops.reshape(x, (-1, x.shape[-1]))


__all__ = ["PlainDecoder"]
