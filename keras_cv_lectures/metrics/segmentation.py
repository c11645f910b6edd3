"""Scores of semantic segmentation from one confusion matrix.

    model.compile(metrics=[PixelAccuracy(num_classes=11), MeanIoU(num_classes=11)])
    scores(confusion_matrix(labels, predictions, 11), classes)

With n[i, j] pixels of class i predicted as j, t[i] = sum_j n[i, j] labelled and p[i] = sum_j n[j, i] predicted:

| score | formula | a class counts in the mean when |
|---|---|---|
| pixel accuracy | sum_i n[i, i] / sum_i t[i] | |
| mean accuracy | mean_i n[i, i] / t[i] | t[i] > 0 |
| mean IoU | mean_i n[i, i] / (t[i] + p[i] - n[i, i]) | t[i] + p[i] > 0 |
| mean Dice | mean_i 2 n[i, i] / (t[i] + p[i]), the F1 of a class | t[i] + p[i] > 0 |
| frequency-weighted IoU | sum_i t[i] IoU[i] / sum_i t[i] | |

That is, a class counts unless its fraction is 0 / 0: one that is never labelled but predicted somewhere has IoU 0 and
lowers the mean IoU. The matrix is accumulated over the whole data set before anything is divided. Where no pixel is
labelled every score is 0. `MeanIoU` and `MeanDice` with `ignore_background=True` have no class 0 in their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.geometry.label_maps import one_hot_of_two

# float32 cannot count past 2**24, a mere 16 pictures of one megapixel; int32 ends at 2**31, fewer than the
# pixels of Cityscapes' training pictures. JAX has no 64-bit integers unless asked for them.
_COUNT_DTYPE = "int32" if keras.backend.backend() == "jax" else "int64"
_BUCKETS = 32
# Keras's callbacks ask a metric's `_direction` whether more of it is better.
_MORE = "up"


@keras.saving.register_keras_serializable("keras_cv_lectures")
class ConfusionMatrix(keras.metrics.Metric):
    """Counts pixels; row: labelled class, column: predicted class. The result is the (K, K) integer matrix.

    The counts are summed over replicas under `tf.distribute`. Several metrics of this module in one `compile` share the
    argmax and the histogram: TensorFlow merges equal subgraphs.

    `update_state(y_true, y_pred)`: y_true (B, H, W) class ids, or (B, H, W, 2) with pixel weights, which are not used:
    a score counts pixels; y_pred (B, H, W, K) logits or probabilities, or (B, H, W) class ids. Pixels whose label is
    the ignore label or no class 0..K-1 are left out, and so are predicted ids outside 0..K-1. `confusion_matrix`,
    which can raise, refuses both. One-hot masks of two classes have the shape of ids and weights: no pixel of such
    a batch counts; turn them into ids by argmax.

    Args:
        num_classes: K, including background.
        ignore_label: label of pixels that do not count, or None.
        name: as in `keras.metrics.Metric`.
    """

    def __init__(self, num_classes: int, *, ignore_label: int | None = 255, name: str | None = None, dtype: Any = None):
        super().__init__(name=name or "confusion_matrix", dtype=dtype)
        if num_classes < 2:
            raise ModelError(f"num_classes must be at least 2, background included, not {num_classes!r}.")
        self.num_classes = int(num_classes)
        self.ignore_label = ignore_label
        self.matrix = self.add_variable(
            shape=(num_classes, num_classes), initializer="zeros", dtype=_COUNT_DTYPE, name="matrix"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if sample_weight is not None:
            raise ModelError(
                f"{self.name} counts pixels and takes no sample_weight: give it to compile(metrics=...), not to "
                "compile(weighted_metrics=...), and mark pixels that do not count with the ignore label."
            )
        labels, predictions = self._classes(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        classes = self.num_classes
        counts = (labels >= 0) & (labels < classes) & (predictions >= 0) & (predictions < classes)
        if self.ignore_label is not None:
            counts = counts & (labels != self.ignore_label)
        cells = classes * classes + 1
        cell = ops.where(counts, labels * classes + predictions, cells - 1)
        # One histogram per group of picture rows, then their sum: threads that add to the same few cells wait for each
        # other, and most pixels fall on the diagonal. 5 times faster than one histogram on two cores.
        cell = ops.reshape(cell, (-1, ops.shape(cell)[-1]))
        cell = cell + cells * ops.expand_dims(ops.arange(ops.shape(cell)[0], dtype="int32") % _BUCKETS, 1)
        cell = ops.reshape(cell, (-1,))
        histograms = ops.segment_sum(ops.ones_like(cell), cell, num_segments=_BUCKETS * cells)
        histogram = ops.sum(ops.reshape(histograms, (_BUCKETS, cells)), axis=0)[:-1]
        self.matrix.assign_add(ops.cast(ops.reshape(histogram, (classes, classes)), _COUNT_DTYPE))

    def result(self) -> Any:
        return ops.convert_to_tensor(self.matrix)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "ignore_label": self.ignore_label}

    def _classes(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        if len(y_pred.shape) == 4:
            if y_pred.shape[-1] != self.num_classes:
                raise ModelError(
                    f"{self.name} has num_classes={self.num_classes}, but y_pred has {y_pred.shape[-1]} channels."
                )
            y_pred = ops.argmax(y_pred, axis=-1)
        if len(y_true.shape) == 4 and y_true.shape[-1] == 2:
            labels = y_true[..., 0]
            if self.num_classes == 2:
                # No id of the two: a label of no class is left out.
                labels = ops.where(one_hot_of_two(y_true), -1, ops.cast(labels, "int32"))
            y_true = labels
        if len(y_true.shape) != 3 or len(y_pred.shape) != 3:
            raise ModelError(
                "y_true must be (B, H, W) or (B, H, W, 2), y_pred (B, H, W, K) logits or (B, H, W) class ids; "
                f"received {tuple(y_true.shape)} and {tuple(y_pred.shape)}."
            )
        return ops.cast(y_true, "int32"), ops.cast(y_pred, "int32")

    def _counts(self) -> tuple[Any, Any, Any]:
        """n[i, i], t[i] and p[i], each (K,) float32: summed exactly, then rounded once."""
        matrix = ops.convert_to_tensor(self.matrix)
        counts = ops.diagonal(matrix), ops.sum(matrix, axis=1), ops.sum(matrix, axis=0)
        return tuple(ops.cast(count, "float32") for count in counts)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PixelAccuracy(ConfusionMatrix):
    """Share of the labelled pixels whose class is right. Arguments as in `ConfusionMatrix`."""

    def __init__(self, num_classes: int, *, name: str | None = "pixel_accuracy", **settings: Any):
        super().__init__(num_classes, name=name, **settings)
        self._direction = _MORE

    def result(self) -> Any:
        right, labelled, _ = self._counts()
        return _ratio(ops.sum(right), ops.sum(labelled))


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MeanAccuracy(ConfusionMatrix):
    """Mean over the labelled classes of the share of a class's pixels that is right."""

    def __init__(self, num_classes: int, *, name: str | None = "mean_accuracy", **settings: Any):
        super().__init__(num_classes, name=name, **settings)
        self._direction = _MORE

    def result(self) -> Any:
        right, labelled, _ = self._counts()
        return _mean(_ratio(right, labelled), labelled > 0)


class _MeanOverlap(ConfusionMatrix):
    """Mean over classes, with or without the first one."""

    def __init__(self, num_classes: int, *, ignore_background: bool = False, **settings: Any):
        super().__init__(num_classes, **settings)
        self._direction = _MORE
        self.ignore_background = bool(ignore_background)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_background": self.ignore_background}

    def _mean_ratio(self, numerator: Any, denominator: Any) -> Any:
        first = int(self.ignore_background)
        return _mean(_ratio(numerator, denominator)[first:], denominator[first:] > 0)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MeanIoU(_MeanOverlap):
    """Mean intersection over union of the classes that are labelled or predicted somewhere.

    Args:
        num_classes, ignore_label, name: as in `ConfusionMatrix`.
        ignore_background: leaves class 0 out of the mean; its pixels still count as mistakes of the others.
    """

    def __init__(self, num_classes: int, *, name: str | None = "mean_iou", **settings: Any):
        super().__init__(num_classes, name=name, **settings)

    def result(self) -> Any:
        right, labelled, predicted = self._counts()
        return self._mean_ratio(right, labelled + predicted - right)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MeanDice(_MeanOverlap):
    """Mean Dice coefficient (F1) of the classes that are labelled or predicted somewhere. Arguments as in `MeanIoU`."""

    def __init__(self, num_classes: int, *, name: str | None = "mean_dice", **settings: Any):
        super().__init__(num_classes, name=name, **settings)

    def result(self) -> Any:
        right, labelled, predicted = self._counts()
        return self._mean_ratio(2.0 * right, labelled + predicted)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class FrequencyWeightedIoU(ConfusionMatrix):
    """Intersection over union, averaged with the labelled pixels of each class as weight."""

    def __init__(self, num_classes: int, *, name: str | None = "frequency_weighted_iou", **settings: Any):
        super().__init__(num_classes, name=name, **settings)
        self._direction = _MORE

    def result(self) -> Any:
        right, labelled, predicted = self._counts()
        iou = _ratio(right, labelled + predicted - right)
        return _ratio(ops.sum(labelled * iou), ops.sum(labelled))


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int | None = 255
) -> np.ndarray:
    """Counts pixels of one picture or many.

    Args:
        labels: class ids and the ignore label, any shape, any number type.
        predictions: class ids, the same shape.
        num_classes: K, including background.
        ignore_label: label of pixels that do not count, or None.

    Returns:
        (K, K) int64; row: labelled class, column: predicted class. Matrices of several pictures may be added.

    Raises:
        DataError: for different shapes, and for a label or a prediction at a labelled pixel outside 0..K-1.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise DataError(
            f"labels are {labels.shape} but predictions {predictions.shape}: resize the prediction to the label's size."
        )
    if ignore_label is not None:
        valid = labels != ignore_label
        labels, predictions = labels[valid], predictions[valid]
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise DataError(
                f"a {name} lies in {values.min()}..{values.max()}, outside the classes 0..{num_classes - 1}: "
                f"check num_classes and the colour map, or mark void pixels with {ignore_label}."
            )
    cell = labels.astype("int64").ravel() * num_classes + predictions.astype("int64").ravel()
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: np.ndarray, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Every score of a confusion matrix, ready for JSON.

    Args:
        matrix: (K, K) counts; row: labelled class, column: predicted class.
        classes: K names; None names the classes "0", "1", ...

    Returns:
        `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `mean_dice`, `frequency_weighted_iou`, each a float in 0..1,
        and `per_class`, a list of K dicts: `name`, `iou`, `dice`, `accuracy` (recall), `precision` and `pixels`
        (labelled). A fraction 0 / 0 is None: `iou` and `dice` of a class neither labelled nor predicted, `accuracy`
        of one not labelled, `precision` of one never predicted.

    Raises:
        DataError: if the matrix is not square or the number of names differs.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"matrix must be square, one row and one column per class; received shape {matrix.shape}.")
    classes = [str(index) for index in range(len(matrix))] if classes is None else list(classes)
    if len(classes) != len(matrix):
        raise DataError(f"classes must name every row: {len(matrix)} rows, {len(classes)} names.")
    right, labelled, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = labelled + predicted - right
    per_class = [
        {
            "name": name,
            "iou": _fraction(right[index], union[index]),
            "dice": _fraction(2 * right[index], labelled[index] + predicted[index]),
            "accuracy": _fraction(right[index], labelled[index]),
            "precision": _fraction(right[index], predicted[index]),
            "pixels": int(labelled[index]),
        }
        for index, name in enumerate(classes)
    ]
    total = labelled.sum()
    weighted = sum(row["iou"] * row["pixels"] for row in per_class if row["pixels"])
    return {
        "pixel_accuracy": _fraction(right.sum(), total) or 0.0,
        "mean_accuracy": _mean_of_known([row["accuracy"] for row in per_class]),
        "mean_iou": _mean_of_known([row["iou"] for row in per_class]),
        "mean_dice": _mean_of_known([row["dice"] for row in per_class]),
        "frequency_weighted_iou": _fraction(weighted, total) or 0.0,
        "per_class": per_class,
    }


def _ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator, and 0 for 0 / 0."""
    return ops.where(denominator > 0, numerator / ops.maximum(denominator, 1.0), 0.0)


def _mean(values: Any, present: Any) -> Any:
    present = ops.cast(present, "float32")
    return ops.sum(values * present) / ops.maximum(ops.sum(present), 1.0)


def _fraction(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None


def _mean_of_known(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
