"""What an export produced, and how close it is to the model."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.exporting.agreement import DetectionComparison, Outputs, compare_detections
from keras_cv_lectures.exporting.caption_agreement import CaptionComparison, compare_captions
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.runners import Runner, load_runner

# Largest difference between a float32 export and its model, absolute where logits are below 1.
TOLERANCE = 1e-4
# Share of labels without logits that a float32 export may change: two classes may be as good as each other.
TIES = 1e-3
# Share of labels, and of the largest output the difference, from which on a file of less than 32 bits is warned of. The
# package's own networks keep 0.85 of their labels and more.
LABELS_KEPT = 0.8
OUTPUT_KEPT = {"float16": 0.01, "int8": 0.25}
_LARGEST_FLOAT16 = 65504


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file or folder.
        precision: "float32", "float16" or "int8".
        operators: TensorFlow Lite operators and their counts; empty for a SavedModel.
        size_bytes: of the file, or of all files of the folder.
        max_difference: largest absolute difference of a float output to the model's, of a detector's scores, of a
            captioner's log probabilities and attention; None where not compared, or where there is no float output.
        label_agreement: share of pixels with the model's label, 0..1, or of other whole and boolean outputs that are
            equal, of detections that the model has, too, or of a captioner's tokens; None without any of these. It is
            measured on the first pictures of `representative`, of an int8 file some of those that it was calibrated
            with, or on a generated picture: `compared_on` of the card says which.
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences between an export and its model on the same pictures.

    Attributes:
        max_difference: largest absolute difference of a float output; None where there is none.
        scale: largest absolute value of the model's.
        label_agreement: share of the entries of whole and boolean outputs that are equal; None where there is none.
        changed: share of the labels whose logits are no tie that differ, or of a model without logits, of all.
    """

    max_difference: float | None = None
    scale: float = 0.0
    label_agreement: float | None = None
    changed: float = 0.0

    def require_equal(self, path: Path) -> None:
        """Raises ModelError unless float outputs agree to 1e-4 of max(1, largest output), labels but for ties."""
        problem = None
        # Written so that a NaN fails.
        if self.max_difference is not None and not self.max_difference <= TOLERANCE * max(1.0, self.scale):
            problem = (
                f"the outputs differ by {self.max_difference:.2e}, at most {TOLERANCE:.0e} of max(1, {self.scale:.3g}) "
                "is allowed"
            )
        elif not self.changed <= TIES:
            problem = f"{100 * self.changed:.3g} % of the labels are others, at most {100 * TIES:g} % may be ties"
        if problem:
            raise ModelError(
                f"The export {path} disagrees with its model: {problem}. A layer behaves differently outside Keras; "
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
        return Comparison()
    pairs = itertools.chain([first], pairs)
    if are_detections({name: value.shape for name, value in first[0].items()}):
        return compare_detections(pairs)
    return compare_captions(pairs) if is_captioner(first[0]) else _compare_arrays(pairs)


def _answers(reference: Runner, exported: Runner, pictures: Iterable[np.ndarray]) -> Iterator[tuple[Outputs, Outputs]]:
    for batch in pictures:
        expected, found = reference(batch), exported(batch)
        if sorted(expected) != sorted(found):
            raise ModelError(f"The export has the outputs {sorted(found)}, the model {sorted(expected)}.")
        yield expected, found


def _compare_arrays(pairs: Iterable[tuple[Outputs, Outputs]]) -> Comparison:
    differences, scales = [], []
    equal = entries = changed = 0
    for expected, found in pairs:
        for name, value in expected.items():
            if np.issubdtype(value.dtype, np.floating):
                if name == "logits" or "logits" not in expected:
                    differences.append(np.abs(value - found[name]).max(initial=0.0))
                    scales.append(np.abs(value).max(initial=0.0))
                continue
            same = value == found[name]
            equal, entries = equal + int(same.sum()), entries + same.size
            clear = _is_clear(expected["logits"]) if name == "class_map" and "logits" in expected else True
            changed += int((~same & clear).sum())
    # NumPy's maxima keep a NaN, Python's lose it.
    return Comparison(
        max_difference=float(np.max(differences)) if differences else None,
        scale=float(np.max(scales, initial=0.0)),
        label_agreement=equal / entries if entries else None,
        changed=changed / entries if entries else 0.0,
    )


def _is_clear(logits: np.ndarray) -> np.ndarray:
    """(B, H, W) bool: which of the labels stay what they are where logits (B, H, W, K) change by the tolerance."""
    if logits.shape[-1] == 1:
        gap = 2 * np.abs(logits[..., 0])
    else:
        second, first = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
        gap = first - second
    return gap > 2 * TOLERANCE * max(1.0, float(np.abs(logits).max(initial=0.0)))


def facts(comparison: AnyComparison | None) -> dict[str, Any]:
    """The fields of `ExportResult` that a comparison gives; None for an export that was not compared."""
    return {
        "max_difference": comparison and comparison.max_difference,
        "label_agreement": comparison and comparison.label_agreement,
        "agreement": None if comparison is None or isinstance(comparison, Comparison) else comparison.to_json(),
    }


def output_shapes(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Shapes of what a graph of layers gives, as a dict or as one tensor, by name; none of any other model.

    One tensor in a list is one tensor, as `serving_outputs` has it.
    """
    if isinstance(model, keras.Sequential):  # It names no outputs, and has none without an input.
        outputs = (
            dict(zip([model.layers[-1].name], getattr(model, "outputs", ()), strict=False)) if model.layers else {}
        )
    elif isinstance(model, keras.Function):
        outputs = model.output
        if isinstance(outputs, list | tuple) and len(outputs) == 1:
            outputs = outputs[0]
        outputs = {model.output_names[0]: outputs} if isinstance(outputs, keras.KerasTensor) else outputs
    else:
        outputs = {}
    if not isinstance(outputs, Mapping):
        return {}
    return {name: tuple(getattr(output, "shape", ())) for name, output in outputs.items()}


def is_captioner(outputs: Iterable[str]) -> bool:
    """Whether outputs of these names are sentences."""
    return {"tokens", "length", "log_probability"} <= set(outputs)


def warn_of_loss(
    comparison: AnyComparison | None,
    path: Path,
    precision: str,
    pictures: str,
    weights: Iterable[keras.Variable] = (),
) -> None:
    """Warns where a file of less than 32 bits lost what nobody would want to lose.

    In float16 that is 1 % of the largest output, in either precision one label, detection or word of five; of an int8
    file without any of these, a quarter of the largest output.

    Args:
        pictures: what was compared, for the message.
        weights: of the model, for the cause.
    """
    if comparison is None or precision == "float32":
        return
    labels, difference, lost = comparison.label_agreement, comparison.max_difference, None
    # Scores and logits of 8 bits are not held against a file whose labels are right.
    floats = isinstance(comparison, Comparison) and (precision == "float16" or labels is None)
    if labels is not None and labels < LABELS_KEPT:
        lost = f"agrees with its model on {100 * labels:.1f} % of the labels, detections or words"
    # Written so that a NaN fails.
    elif floats and difference is not None and not difference <= OUTPUT_KEPT[precision] * comparison.scale:
        lost = f"differs from its model by {difference:.3g}, where that gives up to {comparison.scale:.3g}"
    if lost:
        or_else = " or float16" if precision == "int8" else ""
        if precision == "int8":
            reason = "some values span too much"
        elif _becomes_infinite(comparison, weights):
            reason = f"weights beyond {_LARGEST_FLOAT16} become infinite"
        else:
            reason = "11 bits are too few for its weights"
        warnings.warn(
            f"{path} in {precision} {lost}, on {pictures}: {reason}. Choose float32{or_else}, or measure the file on "
            "labelled pictures before it is used.",
            KcvlWarning,
            stacklevel=3,
        )


def _becomes_infinite(comparison: AnyComparison, weights: Iterable[keras.Variable]) -> bool:
    """Whether float16 lacked a weight; of one that normalisation was folded into, only the answer tells."""
    finite_model = np.isfinite(getattr(comparison, "scale", 0.0))
    if comparison.max_difference is not None and not np.isfinite(comparison.max_difference) and finite_model:
        return True
    floats = (w for w in weights if keras.backend.is_float_dtype(w.dtype))
    return any(np.abs(w.numpy()).max(initial=0.0) > _LARGEST_FLOAT16 for w in floats)


def folder_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
