"""The search for a sentence as a layer: the end of a captioner's graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cv_lectures.language.beam import beam_search, check_search
from keras_cv_lectures.text import END, PAD, START, UNKNOWN


@keras.saving.register_keras_serializable("keras_cv_lectures")
class CaptionSearch(keras.layers.Layer):
    """Annotation map (B, h, w, D) -> the best sentence that beam search finds, as `Captioner` returns it.

    Args:
        decoder: see `language.decoders`.
        others: see `Captioner`.
    """

    def __init__(
        self,
        decoder: keras.layers.Layer,
        *,
        max_words: int = 20,
        beam_size: int = 3,
        length_penalty: float = 0.0,
        ban_unknown: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_search(beam_size, max_words, length_penalty)
        self.decoder = decoder
        self.max_words, self.beam_size = max_words, beam_size
        self.length_penalty, self.ban_unknown = length_penalty, ban_unknown

    @property
    def banned(self) -> tuple[int, ...]:
        """Ids that are never said."""
        return (PAD, START, UNKNOWN) if self.ban_unknown else (PAD, START)

    def build(self, shape):
        if not self.decoder.built:
            self.decoder.build((shape[0], None, shape[-1]))
        self.built = True

    def call(self, annotations):
        flat, grid = flatten(annotations)
        attends = self.decoder.kind in ("soft", "hard")
        memory = self.decoder.prepare(flat)
        places = ops.shape(flat)[1] if attends else None
        return self.best(self.continued(memory, self.decoder.begin(memory, self.beam_size), places), grid)

    def best(self, found, grid) -> dict[str, Any]:
        """The best of the sentences `found`, with its attention over the grid (h, w)."""
        found = {name: value[:, 0] for name, value in found.items()}
        if "attention" in found:
            shape = (ops.shape(found["tokens"])[0], self.max_words, *grid)
            found["attention"] = ops.reshape(found["attention"], shape)
        return found

    def hypotheses(self, annotations, places: int | None = None) -> dict[str, Any]:
        """All `beam_size` sentences, best first, as `beam_search` returns them, for annotations (B, L, D)."""
        memory = self.decoder.prepare(annotations)
        return self.continued(memory, self.decoder.begin(memory, self.beam_size), places, all_ended=True)

    def continued(self, memory, state, places: int | None = None, *, all_ended: bool = False) -> dict[str, Any]:
        """The sentences from what the decoder's `prepare` and `begin` gave; whole is the first one, or `all_ended`."""
        return beam_search(
            lambda state, tokens: self.decoder.step(memory, state, tokens),
            state,
            batch=ops.shape(memory[0])[0],
            beams=self.beam_size,
            max_words=self.max_words,
            length_penalty=self.length_penalty,
            end=END,
            banned=self.banned,
            places=places,
            all_ended=all_ended,
        )

    def compute_output_spec(self, annotations):
        batch, height, width, _ = annotations.shape
        spec = {
            "tokens": keras.KerasTensor((batch, self.max_words), dtype="int32"),
            "length": keras.KerasTensor((batch,), dtype="int32"),
            "log_probability": keras.KerasTensor((batch,), dtype="float32"),
        }
        if self.decoder.kind in ("soft", "hard"):
            spec["attention"] = keras.KerasTensor((batch, self.max_words, height, width), dtype="float32")
        return spec

    def get_config(self):
        return {
            **super().get_config(),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "max_words": self.max_words,
            "beam_size": self.beam_size,
            "length_penalty": self.length_penalty,
            "ban_unknown": self.ban_unknown,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("decoder")), **config)


def flatten(annotations):
    """Annotation map (B, h, w, D) -> (annotations (B, h w, D), (h, w))."""
    shape = ops.shape(annotations)
    height, width = shape[1], shape[2]
    return ops.reshape(annotations, (shape[0], height * width, annotations.shape[-1])), (height, width)


__all__ = ["CaptionSearch", "flatten"]
