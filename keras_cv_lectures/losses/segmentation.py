"""Losses of semantic segmentation: logits in, one value per example out.

    model.compile(loss=SegmentationCrossEntropy(class_weights=median_frequency_weights(counts)))
    model.compile(loss=WeightedSum([SegmentationCrossEntropy(), DiceLoss()], [1.0, 0.5]))

All share one contract. `y_true` is (B, H, W), class ids 0..K-1 and the ignore label, of any number type, or
(B, H, W, 2): [class id, pixel weight]. `y_pred` is (B, H, W, K), logits. `call` returns (B,) float32. `sample_weight`
is of pictures, (B,), or of pixels, (B, H, W), where it multiplies those that `y_true` carries. An example without a
labelled pixel gives 0 with gradient 0. A label that is neither a class, nor a whole number, nor the ignore label makes
its example's loss NaN with gradient 0; so do all labels of a batch of one-hot masks of two classes, whose shape is that
of [class id, pixel weight]. A graph cannot raise cheaply, the readers refuse such files, and a run that meets one all
the same must stop, not learn from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.losses.pixelwise import (
    PixelWeightedLoss,
    SegmentationLoss,
    WeightedLabels,
    class_weight_tensor,
    logit_of_label,
    ratio,
    weight_list,
)

_EPSILON = 1e-7


@keras.saving.register_keras_serializable("keras_cv_lectures")
class SegmentationCrossEntropy(SegmentationLoss):
    """Pixel-wise softmax cross entropy.

        loss = sum_x m(x) w[y(x)] ce(x) / n,   ce = -log softmax(logits)[y]

    with class weights w and pixel weights m (1 unless `y_true` carries a map).

    Args:
        ignore_label: label of pixels that do not count.
        class_weights: K weights by the true class, or None for 1. See `median_frequency_weights`.
        label_smoothing: share of the target that is spread evenly over all classes, 0 <= s < 1; the spread part is
            weighted by the class it falls on, as in torch.
        normalize: `"weights"`: n is the sum of class weights over the labelled pixels of an example, as in torch's
            `cross_entropy` of a single one (of a batch torch divides the sum by the weights of all its pixels; here
            every example counts alike); `"pixels"`: n is the number of labelled pixels. Pixel weights never enter n,
            because a map is there to raise the loss where it is large: U-Net's w0 = 10 makes borders count ten times
            more, instead of making all else count less. An example without labelled pixels has loss 0, where torch has
            NaN.

    Differs from the paper: U-Net (Ronneberger et al. 2015) sums the energy over the tile; here it is divided by the
    pixel count, so that learning rates do not depend on the tile's size.
    """

    def __init__(
        self,
        *,
        ignore_label: int | None = 255,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        normalize: str = "weights",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "segmentation_cross_entropy",
    ):
        super().__init__(ignore_label=ignore_label, reduction=reduction, name=name)
        if normalize not in ("weights", "pixels"):
            raise ModelError(f'normalize must be "weights" or "pixels", not {normalize!r}.')
        if not 0.0 <= label_smoothing < 1.0:
            raise ModelError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing!r}.")
        self.class_weights = weight_list(class_weights, "class_weights")
        self.label_smoothing = float(label_smoothing)
        self.normalize = normalize

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        num_classes = logits.shape[-1]
        # logsumexp minus the picked logit is the fastest form on TensorFlow: it stores no (B, H, W, K) log softmax.
        normalizer = ops.logsumexp(logits, axis=-1)
        entropy = normalizer - logit_of_label(logits, labels)
        counted = ops.cast(valid, "float32")
        if self.class_weights is not None:
            class_weights = class_weight_tensor(self.class_weights, num_classes, "class_weights")
            of_label = ops.take(class_weights, ops.maximum(labels, 0))
            entropy = entropy * of_label
            if self.normalize == "weights":
                counted = counted * of_label
        if self.label_smoothing:
            if self.class_weights is None:
                spread = num_classes * normalizer - ops.sum(logits, axis=-1)
            else:
                spread = ops.sum(class_weights) * normalizer - ops.sum(logits * class_weights, axis=-1)
            entropy = (1.0 - self.label_smoothing) * entropy + self.label_smoothing / num_classes * spread
        return ratio(ops.sum(entropy * weights, axis=(1, 2)), ops.sum(counted, axis=(1, 2)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
            "normalize": self.normalize,
        }


@keras.saving.register_keras_serializable("keras_cv_lectures")
class FocalLoss(SegmentationLoss):
    """Multi-class focal loss, mean over the labelled pixels of -alpha[y] (1 - p_y)^gamma log p_y.

    Lin et al., Focal Loss for Dense Object Detection, 2017. Pixel weights multiply and do not enter the mean.

    Args:
        gamma: at least 0; 0 is the cross entropy.
        alpha: K weights by the true class, or None for 1.
        ignore_label: label of pixels that do not count.

    Differs from the paper: softmax over K classes instead of K sigmoids, and the mean over pixels instead of the sum
    divided by the number of objects.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Sequence[float] | None = None,
        *,
        ignore_label: int | None = 255,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "focal_loss",
    ):
        super().__init__(ignore_label=ignore_label, reduction=reduction, name=name)
        if gamma < 0:
            raise ModelError(f"gamma must be at least 0, not {gamma!r}.")
        self.gamma = float(gamma)
        self.alpha = weight_list(alpha, "alpha")

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        log_p = logit_of_label(logits, labels) - ops.logsumexp(logits, axis=-1)
        # Pixels without a label have no picked logit: exp of the rest could overflow and 0 * inf is NaN.
        log_p = ops.where(valid, log_p, 0.0)
        # The floor keeps the power's gradient finite at p = 1 for gamma < 1.
        loss = -ops.power(ops.maximum(-ops.expm1(log_p), _EPSILON), self.gamma) * log_p
        if self.alpha is not None:
            loss = loss * ops.take(class_weight_tensor(self.alpha, logits.shape[-1], "alpha"), ops.maximum(labels, 0))
        return ratio(ops.sum(loss * weights, axis=(1, 2)), ops.sum(ops.cast(valid, "float32"), axis=(1, 2)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "alpha": self.alpha}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class TverskyLoss(SegmentationLoss):
    """(1/K sum_c [c occurs] (1 - TP / (TP + alpha FP + beta FN)))^gamma with soft counts from the softmax.

    Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional deep networks, 2017; gamma
    as in Abraham and Khan, A novel focal Tversky loss function, 2018. Equals segmentation_models_pytorch in multi-class
    mode: a class that no pixel of the example is labelled with adds 0, and the mean is over all K classes, so that a
    class weighs the same in every picture. Pixel weights count a pixel that many times.

    Args:
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0. Larger than alpha favours recall.
        gamma: power of the mean, above 0.
        smooth: added to numerator and denominator.
        ignore_label: label of pixels that do not count.

    Differs from the paper: K classes instead of two; counts are per example, not per batch, so that the loss is the
    same on one device and on many.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        *,
        smooth: float = 0.0,
        ignore_label: int | None = 255,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "tversky_loss",
    ):
        super().__init__(ignore_label=ignore_label, reduction=reduction, name=name)
        if alpha < 0 or beta < 0 or alpha + beta == 0 or gamma <= 0:
            raise ModelError(
                "alpha and beta must be at least 0 and not both 0, gamma above 0; "
                f"received alpha={alpha!r}, beta={beta!r}, gamma={gamma!r}."
            )
        self.alpha, self.beta, self.gamma, self.smooth = float(alpha), float(beta), float(gamma), float(smooth)

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        inside, predicted, labelled = _soft_counts(logits, labels, weights)
        mistakes = self.alpha * (predicted - inside) + self.beta * (labelled - inside)
        score = (inside + self.smooth) / ops.maximum(inside + mistakes + self.smooth, _EPSILON)
        mean = _mean_over_classes(1.0 - score, labelled)
        if self.gamma == 1.0:
            return mean
        positive = mean > 0.0
        return ops.where(positive, ops.power(ops.where(positive, mean, 1.0), self.gamma), 0.0)

    def get_config(self) -> dict[str, Any]:
        config = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma, "smooth": self.smooth}
        return {**super().get_config(), **config}


class _OverlapLoss(SegmentationLoss):
    """Dice and Jaccard: a ratio of soft counts, averaged over the classes that occur."""

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        ignore_label: int | None = 255,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(ignore_label=ignore_label, reduction=reduction, name=name)
        self.smooth = float(smooth)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smooth": self.smooth}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class DiceLoss(_OverlapLoss):
    """1/K sum_c [c occurs] (1 - 2 |P_c T_c| / (|P_c| + |T_c|)), with P the softmax and T the labels, per example.

    Absent classes, pixel weights and `smooth` as in `TverskyLoss`.

    Differs from the paper: Milletari et al., V-Net, 2016, have two classes and squares in the denominator; this is the
    multi-class form of segmentation_models_pytorch 0.6, without squares; `smooth` stands beside |P_c T_c| and half of
    the denominator, as there.
    """

    def __init__(self, *, name: str | None = "dice_loss", **settings: Any):
        super().__init__(name=name, **settings)

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        inside, predicted, labelled = _soft_counts(logits, labels, weights)
        score = (inside + self.smooth) / ops.maximum(0.5 * (predicted + labelled) + self.smooth, _EPSILON)
        return _mean_over_classes(1.0 - score, labelled)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class JaccardLoss(_OverlapLoss):
    """1/K sum_c [c occurs] (1 - |P_c T_c| / |P_c + T_c - P_c T_c|), with P the softmax and T the labels, per example.

    Absent classes, pixel weights and `smooth` as in `TverskyLoss`.
    """

    def __init__(self, *, name: str | None = "jaccard_loss", **settings: Any):
        super().__init__(name=name, **settings)

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        inside, predicted, labelled = _soft_counts(logits, labels, weights)
        score = (inside + self.smooth) / ops.maximum(predicted + labelled - inside + self.smooth, _EPSILON)
        return _mean_over_classes(1.0 - score, labelled)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class LovaszSoftmaxLoss(SegmentationLoss):
    """The convex surrogate of the Jaccard index, mean over the classes that occur, per example.

    Berman et al., The Lovasz-Softmax loss, 2018, with classes = "present" and per-image losses. Sorting all pixels once
    per class makes it several times slower than the others. Pixel weights count a pixel that many times.
    """

    def __init__(self, *, name: str | None = "lovasz_softmax_loss", **settings: Any):
        super().__init__(name=name, **settings)

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        num_classes = logits.shape[-1]
        pixels = ops.shape(logits)[1] * ops.shape(logits)[2]
        target = ops.reshape(ops.one_hot(labels, num_classes, dtype="float32"), (-1, pixels, num_classes))
        weights = ops.reshape(weights, (-1, pixels, 1))
        error = ops.abs(target - ops.reshape(ops.softmax(logits, axis=-1), (-1, pixels, num_classes)))
        order = ops.argsort(-ops.stop_gradient(error), axis=1)
        error = ops.take_along_axis(error, order, axis=1)
        inside = ops.take_along_axis(target * weights, order, axis=1)
        outside = ops.take_along_axis((1.0 - target) * weights, order, axis=1)
        labelled = ops.sum(inside, axis=1, keepdims=True)
        # A pixel of weight 0 changes neither count, so its step of the Jaccard loss, and its gradient, is 0.
        union = ops.maximum(labelled + ops.cumsum(outside, axis=1), _EPSILON)
        jaccard = 1.0 - (labelled - ops.cumsum(inside, axis=1)) / union
        step = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=1)
        loss = ops.sum(error * ops.stop_gradient(step), axis=1)
        present = ops.cast(labelled[:, 0] > 0.0, "float32")
        return ratio(ops.sum(loss * present, axis=-1), ops.sum(present, axis=-1))


@keras.saving.register_keras_serializable("keras_cv_lectures")
class WeightedSum(PixelWeightedLoss):
    """sum_i weights[i] * losses[i], per example; the reductions of the parts are not used.

    Args:
        losses: losses that return one value per example, such as those of this module.
        weights: one factor per loss, or None for 1 each.
    """

    def __init__(
        self,
        losses: Sequence[keras.losses.Loss],
        weights: Sequence[float] | None = None,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "weighted_sum",
    ):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.losses = list(losses)
        self.weights = [1.0] * len(self.losses) if weights is None else [float(weight) for weight in weights]
        if not self.losses or not all(isinstance(loss, keras.losses.Loss) for loss in self.losses):
            raise ModelError(f"losses must be one or more keras.losses.Loss objects, not {losses!r}.")
        if len(self.weights) != len(self.losses):
            raise ModelError(f"weights must be one per loss: {len(self.losses)} losses, {len(self.weights)} weights.")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        total = 0.0
        for loss, weight in zip(self.losses, self.weights, strict=True):
            if isinstance(y_true, WeightedLabels) and not isinstance(loss, PixelWeightedLoss):
                raise ModelError(
                    f"{loss.name} takes no weights of pixels, which `sample_weight` has. Give one number a picture."
                )
            value = loss.call(y_true, y_pred)
            if len(value.shape) != 1:
                raise ModelError(
                    f"{loss.name} returns values of shape {tuple(value.shape)}; a sum needs one per example: (B,)."
                )
            total = total + weight * ops.cast(value, "float32")
        return total

    def get_config(self) -> dict[str, Any]:
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {**super().get_config(), "losses": losses, "weights": list(self.weights)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedSum:
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


def median_frequency_weights(
    pixel_counts: Sequence[int], pixels_of_pictures_with_class: Sequence[int] | None = None
) -> list[float]:
    """Median frequency balancing: weight_c = median(frequency) / frequency_c.

    Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels, 2015; used by SegNet.

    Args:
        pixel_counts: K pixel counts over the training pictures.
        pixels_of_pictures_with_class: K counts of labelled pixels in the pictures where class c occurs, the papers'
            denominator of frequency_c. None: all labelled pixels, right where every class occurs in every picture.

    Returns:
        K weights. A class that was never seen gets 0: it has no frequency, no training pixel would use its weight, and
        should one turn up after all it must not be multiplied by infinity.

    Raises:
        DataError: for negative counts, unequal lengths, or no pixel at all.
    """
    counts = np.asarray(pixel_counts, "float64")
    if pixels_of_pictures_with_class is None:
        totals = np.full(counts.shape, counts.sum())
    else:
        totals = np.asarray(pixels_of_pictures_with_class, "float64")
    if counts.ndim != 1 or totals.shape != counts.shape or (counts < 0).any() or not counts.sum() > 0:
        raise DataError(
            "pixel_counts must be one count per class, not negative, not all 0, with as many totals; "
            f"received {pixel_counts!r} and {pixels_of_pictures_with_class!r}. Count the pixels of the training masks."
        )
    if (totals < counts).any():
        raise DataError(
            "pixels_of_pictures_with_class must not be smaller than pixel_counts; "
            f"received {pixels_of_pictures_with_class!r} for {pixel_counts!r}."
        )
    seen = counts > 0
    frequency = counts[seen] / totals[seen]
    weights = np.zeros(counts.shape)
    weights[seen] = np.median(frequency) / frequency
    return [float(weight) for weight in weights]


def _soft_counts(logits: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Soft pixel counts per example and class, each (B, K): in prediction and label, in prediction, in label."""
    weights = weights[..., None]
    probabilities = ops.softmax(logits, axis=-1) * weights
    target = ops.one_hot(labels, logits.shape[-1], dtype="float32")
    inside = ops.sum(probabilities * target, axis=(1, 2))
    return inside, ops.sum(probabilities, axis=(1, 2)), ops.sum(target * weights, axis=(1, 2))


def _mean_over_classes(loss: Any, labelled: Any) -> Any:
    return ops.mean(ops.where(labelled > 0.0, loss, 0.0), axis=-1)
