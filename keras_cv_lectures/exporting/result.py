"""What an export produced, and how close it is to the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting.agreement import DetectionComparison, Outputs, compare_detections
from keras_cv_lectures.exporting.caption_agreement import CaptionComparison, compare_captions
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
        max_difference: largest absolute difference of a float output to the model's, of a detector's scores, of a
            captioner's log probabilities and attention; None where not compared.
        label_agreement: share of pixels with the model's label, 0..1, of detections that the model has, too, or of a
            captioner's tokens; None without any of these.
        card_path: the model card (JSON).
        agreement: of a detector the numbers of `DetectionComparison`, of a captioner those of `CaptionComparison`;
            None for others and where not compared.
    """

    path: Path
    precision: str
    operators: dict[str, int]
    size_bytes: int
    max_difference: float | None
    label_agreement: float | None
    card_path: Path
    agreement: dict[str, Any] | None = None


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


AnyComparison = Comparison | DetectionComparison | CaptionComparison


def compare(model: keras.Model, exported: Runner, pictures: Iterable[np.ndarray]) -> AnyComparison:
    """Runs model and export on the same (B, H, W, C) uint8 batches.

    The float output that is compared is `logits` where there is one, else all of them: probabilities add nothing.
    Detections are compared by partners, see `compare_detections`; sentences word by word, see `compare_captions`.
    """
    pairs = _answers(load_runner(model), exported, pictures)
    first = next(pairs, None)
    if first is None:
        return Comparison(0.0, 0.0, None)
    pairs = itertools.chain([first], pairs)
    if is_detector(first[0]):
        return compare_detections(pairs)
    return compare_captions(pairs) if is_captioner(first[0]) else _compare_arrays(pairs)


def _answers(reference: Runner, exported: Runner, pictures: Iterable[np.ndarray]) -> Iterator[tuple[Outputs, Outputs]]:
    for batch in pictures:
        expected, found = reference(batch), exported(batch)
        if sorted(expected) != sorted(found):
            raise ModelError(f"The export has the outputs {sorted(found)}, the model {sorted(expected)}.")
        yield expected, found


def _compare_arrays(pairs: Iterable[tuple[Outputs, Outputs]]) -> Comparison:
    difference, scale, equal, pixels = 0.0, 0.0, 0, 0
    for expected, found in pairs:
        for name in ["logits"] if "logits" in expected else expected:
            if np.issubdtype(expected[name].dtype, np.floating):
                # np.maximum keeps a NaN, max() would lose it.
                difference = float(np.maximum(difference, np.abs(expected[name] - found[name]).max()))
                scale = max(scale, float(np.abs(expected[name]).max()))
        if "class_map" in expected:
            equal += int((expected["class_map"] == found["class_map"]).sum())
            pixels += expected["class_map"].size
    return Comparison(difference, scale, equal / pixels if pixels else None)


def facts(comparison: AnyComparison | None) -> dict[str, Any]:
    """The fields of `ExportResult` that a comparison gives; None for an export that was not compared."""
    return {
        "max_difference": comparison and comparison.max_difference,
        "label_agreement": comparison and comparison.label_agreement,
        "agreement": None if comparison is None or isinstance(comparison, Comparison) else comparison.to_json(),
    }


def is_detector(outputs: Iterable[str]) -> bool:
    """Whether outputs of these names are detections."""
    return "boxes" in outputs


def is_captioner(outputs: Iterable[str]) -> bool:
    """Whether outputs of these names are sentences."""
    return "tokens" in outputs


def folder_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
