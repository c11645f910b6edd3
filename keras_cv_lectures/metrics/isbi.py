"""The ISBI 2012 pair for membranes in electron microscopy: are the cells separated, and are the pixels right.

    trained = isbi_scores(model_probabilities_of_training_slices, training_labels, np.linspace(0.05, 0.95, 19))
    threshold = best_threshold(trained)
    held_out = isbi_scores(probabilities, labels, [threshold])[threshold]

The challenge reports the best threshold on the test slices themselves; choosing it on training slices, as above, gives
an honest, slightly lower score. Its third number, the warping error, is not computed here.

Labels are class ids, 1 = cell, 0 = membrane, 255 = ignore, or booleans, True = cell. Stacks are (N, H, W); every slice
is scored alone and the scores are averaged, as the challenge's images are sections with two-dimensional cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_cv_lectures.errors import DataError


class RandScore(NamedTuple):
    """Shares of pixel pairs, 0..1. A merged pair of cells costs precision, a split cell costs recall."""

    precision: float
    recall: float
    f: float


def isbi_scores(
    probabilities_of_cell: np.ndarray, labels: np.ndarray, thresholds: Sequence[float], *, connectivity: int = 4
) -> dict[float, dict[str, float]]:
    """Rand score and pixel error at each threshold.

    Args:
        probabilities_of_cell: (H, W) or (N, H, W), 0..1; a pixel is cell where it is above the threshold.
        labels: the same shape, see the module.
        thresholds: thresholds to try.
        connectivity: of the cells of label and proposal, see `connected_cells`.

    Returns:
        By threshold: `rand_precision`, `rand_recall`, `rand_f` (1 - rand_f is the challenge's Rand error at this
        threshold), `pixel_error` and `pixel_f`.

    Raises:
        DataError: for other shapes or labels, or a slice without any cell.
    """
    probabilities, cells, valid = _stacks(probabilities_of_cell, labels)
    truth = connected_cells(cells, connectivity)
    result = {}
    for threshold in thresholds:
        proposed = probabilities > threshold
        proposal = connected_cells(proposed, connectivity)
        rand = np.mean([foreground_rand(*pair) for pair in zip(truth, proposal, strict=True)], axis=0)
        result[float(threshold)] = {
            "rand_precision": float(rand[0]),
            "rand_recall": float(rand[1]),
            "rand_f": float(rand[2]),
            "pixel_error": _pixel_error(proposed, cells, valid),
            "pixel_f": _pixel_f(proposed, cells, valid),
        }
    return result


def best_threshold(scores_by_threshold: dict[float, dict[str, float]], by: str = "rand_f") -> float:
    """Threshold with the best score of `isbi_scores`: the smallest `pixel_error`, the largest of any other.

    Of thresholds that tie, the one in the middle: it stands farthest from those that are worse.
    """
    known = next(iter(scores_by_threshold.values()), {})
    if by not in known:
        raise DataError(f"by must be one of {', '.join(known) or '(no threshold was scored)'}; received {by!r}.")
    sign = -1.0 if by == "pixel_error" else 1.0
    best = max(sign * score[by] for score in scores_by_threshold.values())
    tied = sorted(threshold for threshold, score in scores_by_threshold.items() if sign * score[by] == best)
    return tied[len(tied) // 2]


def foreground_rand(truth: np.ndarray, proposal: np.ndarray) -> RandScore:
    """Foreground-restricted Rand F-score between two partitions of a picture into cells.

    Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics, 2015. Only
    pixels inside the true cells count. With p[i, j] of them in true cell i and proposed cell j, over all pairs of
    pixels, a pixel with itself included: precision = sum p[i, j]^2 / sum_j (sum_i p[i, j])^2, the share of the pairs
    joined in the proposal that are joined in truth (the paper's merge score); recall = sum p[i, j]^2 / sum_i (sum_j
    p[i, j])^2 (its split score); F is their harmonic mean. A pixel proposed as membrane is a cell of its own.

    Args:
        truth: (H, W) integers, cell ids, 0 = membrane or ignored.
        proposal: (H, W) integers, cell ids, 0 = membrane.

    Raises:
        DataError: for shapes that differ, and where `truth` has no cell.

    Differs from the paper: the challenge's final ranking thins the membranes of both to one pixel first; this is the
    measure without thinning, which the U-Net paper's table calls Rand error (as 1 - F).
    """
    truth, proposal = np.asarray(truth), np.asarray(proposal)
    if truth.shape != proposal.shape:
        raise DataError(f"truth and proposal must have one shape, not {truth.shape} and {proposal.shape}.")
    inside = truth > 0
    if not inside.any():
        raise DataError("truth has no cell, so there is no pair of pixels to score: leave this slice out.")
    rows, columns = truth[inside].astype("int64"), proposal[inside].astype("int64")
    width = int(columns.max()) + 1
    cells = rows * width + columns
    if (int(rows.max()) + 1) * width <= 4 * cells.size:
        counts = np.bincount(cells)
        pairs = np.nonzero(counts)[0]
        counts = counts[pairs]
    else:
        pairs, counts = np.unique(cells, return_counts=True)
    membrane = pairs % width == 0
    singles = float(counts[membrane].sum())
    joined_in_both = float(np.square(counts[~membrane], dtype="float64").sum()) + singles
    joined_in_proposal = float(np.square(np.bincount(columns)[1:], dtype="float64").sum()) + singles
    joined_in_truth = float(np.square(np.unique(rows, return_counts=True)[1], dtype="float64").sum())
    precision, recall = joined_in_both / joined_in_proposal, joined_in_both / joined_in_truth
    return RandScore(precision, recall, 2 * precision * recall / (precision + recall))


def connected_cells(cells: np.ndarray, connectivity: int = 4) -> np.ndarray:
    """Numbers the connected components of (H, W) or (N, H, W) booleans, each slice alone, from 1; 0 elsewhere.

    Connectivity 4 joins pixels along edges only, so that a membrane one pixel wide separates even where it runs
    diagonally; 8 joins corners, too.

    Returns:
        int32 array of the same shape.
    """
    from scipy import ndimage

    if connectivity not in (4, 8):
        raise DataError(f"connectivity must be 4 or 8, not {connectivity!r}.")
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    cells = np.asarray(cells, bool)
    if cells.ndim == 2:
        return ndimage.label(cells, structure, output=np.int32)[0]
    return np.stack([ndimage.label(section, structure, output=np.int32)[0] for section in cells])


def pixel_error(probabilities_of_cell: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the labelled pixels on the wrong side of the threshold, mean over slices.

    For labels of 0 and 1 this is the squared Euclidean distance of the two pictures per pixel, the words with which the
    challenge describes its pixel error; the number it computes is `pixel_f_error`.
    """
    probabilities, cells, valid = _stacks(probabilities_of_cell, labels)
    return _pixel_error(probabilities > threshold, cells, valid)


def pixel_f_error(probabilities_of_cell: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> float:
    """1 - the largest F-score of the cell pixels over the thresholds: ISBI 2012's pixel error.

    F is the mean over slices at each threshold. Cells, the white pixels of the label files, are the positives. They are
    the majority, so this is a smaller number than the F-error of the membranes would be.
    """
    probabilities, cells, valid = _stacks(probabilities_of_cell, labels)
    if not len(thresholds):
        raise DataError("thresholds must hold at least one number.")
    return 1.0 - max(_pixel_f(probabilities > threshold, cells, valid) for threshold in thresholds)


def _stacks(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, cells and labelled pixels, each (N, H, W)."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if labels.shape != probabilities.shape or labels.ndim not in (2, 3):
        raise DataError(
            "probabilities_of_cell and labels must both be (H, W) or (N, H, W); "
            f"received {probabilities.shape} and {labels.shape}."
        )
    if labels.ndim == 2:
        probabilities, labels = probabilities[None], labels[None]
    valid = np.ones(labels.shape, bool)
    if labels.dtype != bool:
        values = np.unique(labels)
        if not np.isin(values, (0, 1, 255)).all() or 1 not in values:
            raise DataError(
                f"labels must be 1 = cell, 0 = membrane, 255 = ignore; received {values[:5].tolist()}. "
                "Pass labels == 255 for the challenge's own files, where cells are 255."
            )
        valid = labels != 255
    return probabilities, (labels == 1) & valid, valid


def _pixel_error(proposed: np.ndarray, cells: np.ndarray, valid: np.ndarray) -> float:
    wrong = ((proposed != cells) & valid).sum(axis=(1, 2))
    return float(np.mean(wrong / np.maximum(valid.sum(axis=(1, 2)), 1)))


def _pixel_f(proposed: np.ndarray, cells: np.ndarray, valid: np.ndarray) -> float:
    right = (proposed & cells).sum(axis=(1, 2))
    total = (proposed & valid).sum(axis=(1, 2)) + cells.sum(axis=(1, 2))
    return float(np.mean(2 * right / np.maximum(total, 1)))
