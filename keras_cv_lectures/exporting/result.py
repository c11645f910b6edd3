"""What an export produced, and how close it is to the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.runners import Runner, load_runner

# Largest difference between a float32 export and its model, absolute where logits are below 1.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file or folder.
        precision: "float32", "float16" or "int8".
        operators: TensorFlow Lite operators and their counts; empty for a SavedModel.
        size_bytes: of the file, or of all files of the folder.
        max_difference: largest absolute difference of a float output to the model's; None where not compared.
        label_agreement: share of pixels with the model's label, 0..1; None without a class map.
        card_path: the model card (JSON).
    """

    path: Path
    precision: str
    operators: dict[str, int]
    size_bytes: int
    max_difference: float | None
    label_agreement: float | None
    card_path: Path


@dataclass(frozen=True)
class Comparison:
    """Differences between an export and its model on the same pictures."""

    max_difference: float
    scale: float
    label_agreement: float | None

    def require_equal(self, path: Path) -> None:
        """Raises ModelError unless the float outputs agree to 1e-4 of max(1, largest output)."""
        # Written so that a NaN fails.
        if not self.max_difference <= TOLERANCE * max(1.0, self.scale):
            raise ModelError(
                f"The export {path} disagrees with its model: the outputs differ by {self.max_difference:.2e}, at most "
                f"{TOLERANCE:.0e} of max(1, {self.scale:.3g}) is allowed. A layer behaves differently outside Keras; "
                "look for code that depends on training or on random numbers. Nothing was written."
            )


def compare(model: keras.Model, exported: Runner, pictures: Iterable[np.ndarray]) -> Comparison:
    """Runs model and export on the same (B, H, W, C) uint8 batches.

    The float output that is compared is `logits` where there is one, else all of them: probabilities add nothing.
    """
    reference = load_runner(model)
    difference, scale, equal, pixels = 0.0, 0.0, 0, 0
    for batch in pictures:
        expected, found = reference(batch), exported(batch)
        if sorted(expected) != sorted(found):
            raise ModelError(f"The export has the outputs {sorted(found)}, the model {sorted(expected)}.")
        for name in ["logits"] if "logits" in expected else expected:
            if np.issubdtype(expected[name].dtype, np.floating):
                # np.maximum keeps a NaN, max() would lose it.
                difference = float(np.maximum(difference, np.abs(expected[name] - found[name]).max()))
                scale = max(scale, float(np.abs(expected[name]).max()))
        if "class_map" in expected:
            equal += int((expected["class_map"] == found["class_map"]).sum())
            pixels += expected["class_map"].size
    return Comparison(difference, scale, equal / pixels if pixels else None)


def folder_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
