"""How well the sentences of an export agree with those of its model: words, their probabilities and their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.errors import ModelError

# What a float32 export may differ by, in nats (of max(1, the sentence's own)) and in weights.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class CaptionComparison:
    """Agreement of two captioners on the same pictures.

    Attributes:
        pictures: how many were described.
        equal: how many got the same sentence.
        ties: how many of the others got two sentences that are as likely as each other, so that either may win.
        label_agreement: share of equal tokens, among the places that either sentence reaches.
        log_probability_difference: largest difference of log probabilities of equal sentences, relative to
            max(1, the sentence's own).
        attention_difference: largest difference of their attention; None without attention.
        unequal: description of the first sentences that differ and are no tie, or "".
    """

    pictures: int = 0
    equal: int = 0
    ties: int = 0
    label_agreement: float = 1.0
    log_probability_difference: float = 0.0
    attention_difference: float | None = None
    unequal: str = ""

    @property
    def max_difference(self) -> float:
        """The largest difference of log probabilities or attention."""
        return float(np.max([self.log_probability_difference, self.attention_difference or 0.0]))

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, without those that do not apply."""
        found = {name: value for name, value in vars(self).items() if name != "unequal" and value is not None}
        return {name: round(value, 8) if isinstance(value, float) else value for name, value in found.items()}

    def require_equal(self, path: Path) -> None:
        """Raises ModelError unless every sentence is that of the model, or as likely: see `ties`."""
        problem = None
        if self.equal + self.ties != self.pictures:
            others = self.pictures - self.equal - self.ties
            problem = f"{others} of {self.pictures} sentences are others ({self.unequal})"
        # Written so that a NaN fails.
        elif not self.max_difference <= TOLERANCE:
            problem = (
                f"log probabilities differ by {self.log_probability_difference:.1e} and attention by "
                f"{self.attention_difference or 0:.1e}, at most {TOLERANCE:.0e} is allowed"
            )
        if problem:
            raise ModelError(
                f"The export {path} disagrees with its model: {problem}. A layer behaves differently outside Keras; "
                "look for code that depends on training or on random numbers. Nothing was written."
            )


def compare_captions(pairs: Iterable[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> CaptionComparison:
    """Compares outputs of a model with those of its export, both as a captioner returns them.

    Args:
        pairs: (model's, export's) outputs of the same batch of pictures.
    """
    equal = ties = pictures = same = said = 0
    nats, weights, unequal = [], [], ""
    for one, other in pairs:
        pictures += len(one["tokens"])
        for i, (a, b) in enumerate(zip(one["tokens"], other["tokens"], strict=True)):
            reached = (a > 0) | (b > 0)
            same, said = same + int((a == b)[reached].sum()), said + int(reached.sum())
            expected = float(one["log_probability"][i])
            difference = abs(float(other["log_probability"][i]) - expected) / max(1.0, abs(expected))
            if (a != b).any():
                ties += difference <= TOLERANCE
                if not difference <= TOLERANCE and not unequal:
                    unequal = f"{_ids(a)} of the model, {_ids(b)} of the export"
                continue
            equal += 1
            nats.append(difference)
            if "attention" in one:
                weights.append(np.abs(one["attention"][i] - other["attention"][i]).max())
    # NumPy's maxima keep a NaN, Python's lose it.
    return CaptionComparison(
        pictures=pictures,
        equal=equal,
        ties=ties,
        label_agreement=same / said if said else 1.0,
        log_probability_difference=float(np.max(nats, initial=0.0)),
        attention_difference=float(np.max(weights)) if weights else None,
        unequal=unequal,
    )


def _ids(tokens: np.ndarray) -> str:
    return " ".join(str(token) for token in tokens[tokens > 0])


__all__ = ["CaptionComparison", "compare_captions"]
