"""What a captioner says about one picture, for people and for programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures import files
from keras_cv_lectures.visualize.captions import attention_grid, captioned

_DIGITS = 5  # of a weight in the file


@dataclass(frozen=True, eq=False, kw_only=True)
class CaptionResult:
    """The caption of one picture.

    Attributes:
        image: (H, W, C) uint8, the picture as given.
        words: T words, without start and end; "<unk>" stands for a word that is not in the vocabulary.
        tokens: (T,) int32, the words' ids in the vocabulary.
        log_probability: natural logarithm of the caption's probability, its end included.
        ended: whether the model ended the caption; otherwise it was cut at the most words that it can say.
        attention: (T, h, w) float32, how much each of h x w locations of the whole picture counted for each word,
            summing to 1; None of a captioner without attention.
        name: name of the picture's file without suffix, "" where it had none; unique among those of one `predict`.
    """

    image: np.ndarray
    words: tuple[str, ...]
    tokens: np.ndarray
    log_probability: float
    ended: bool = True
    attention: np.ndarray | None = None
    name: str = ""

    def __repr__(self) -> str:
        return f"CaptionResult({self.name!r}, {self.caption!r})"

    @property
    def caption(self) -> str:
        """The words, with spaces between."""
        return " ".join(self.words)

    def __str__(self) -> str:
        return self.caption

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.image.shape[0], self.image.shape[1]

    def draw(self, **settings: Any) -> np.ndarray:
        """(h, w, 3) uint8: where the model looked at each word; without attention the picture above its caption.

        Args:
            settings: of `visualize.captions.attention_grid` (`columns`, `side`, `sigma`, `style`); a picture without
                attention or words has `side` alone.
        """
        picture = self.image[..., : 3 if self.image.shape[-1] >= 3 else 1]  # of other channels the first ones
        if self.attention is None or not self.words:
            return captioned(picture, self.caption, **{name: v for name, v in settings.items() if name == "side"})
        return attention_grid(picture, self.words, self.attention, **{"title": self.caption, **settings})

    def as_json(self) -> dict[str, Any]:
        """Caption, words, tokens, log probability and attention, ready for JSON."""
        found: dict[str, Any] = {
            "image": self.name,
            "caption": self.caption,
            "words": list(self.words),
            "tokens": self.tokens.tolist(),
            "log_probability": self.log_probability,
            "ended": self.ended,
        }
        if self.attention is not None:
            found["attention"] = np.round(self.attention.astype(np.float64), _DIGITS).tolist()
        return found

    def save(self, folder: str | os.PathLike, stem: str | None = None) -> dict[str, Path]:
        """Writes `STEM_caption.json` (see `as_json`) and `STEM_caption.png` (see `draw`), each whole or not at all.

        Args:
            folder: made if it does not exist.
            stem: beginning of the file names; None for `name`, or "prediction" where that is empty.

        Returns:
            `{"caption": path, "picture": path}`.
        """
        from PIL import Image

        stem = stem or self.name or "prediction"
        paths = {"caption": Path(folder) / f"{stem}_caption.json", "picture": Path(folder) / f"{stem}_caption.png"}
        picture = Image.fromarray(self.draw())
        files.write_json(paths["caption"], self.as_json())
        with files.atomic_path(paths["picture"]) as temporary:
            picture.save(temporary)
        return paths
