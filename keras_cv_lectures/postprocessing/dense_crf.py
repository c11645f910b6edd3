"""The fully connected CRF of Kraehenbuehl and Koltun (NIPS 2011) behind a segmentation network, as DeepLab uses it.

Every pixel is joined to every other; two pixels with places p, p', colours I, I' and different labels cost
`w1 exp(-|p - p'|^2 / 2 alpha^2 - |I - I'|^2 / 2 beta^2) + w2 exp(-|p - p'|^2 / 2 gamma^2)`, so labels follow the edges
of the picture. Mean field inference needs nothing but Gaussian filtering in five and in two dimensions, which the
permutohedral lattice does in linear time.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from keras_cv_lectures.postprocessing.permutohedral import PermutohedralLattice

Filter = Callable[[np.ndarray], np.ndarray]

NORMALIZATIONS = ("symmetric", "after", "before", "none")
METHODS = ("lattice", "exact")
# 8192 pixels are a matrix of 256 MiB.
MOST_EXACT_PIXELS = 8192


def _preset(bilateral_weight, bilateral_xy, bilateral_rgb, spatial_weight, spatial_xy, iterations, **more):
    return MappingProxyType(
        {
            "bilateral_weight": bilateral_weight,
            "bilateral_xy": bilateral_xy,
            "bilateral_rgb": bilateral_rgb,
            "spatial_weight": spatial_weight,
            "spatial_xy": spatial_xy,
            "iterations": iterations,
            **more,
        }
    )


# Keyword arguments of `dense_crf`, as published with each system.
CRF_PRESETS: Mapping[str, Mapping[str, float | int | str]] = MappingProxyType(
    {
        "deeplab_vgg16": _preset(4.0, 65.0, 3.0, 2.0, 2.0, 10),
        "deeplab_resnet101": _preset(4.0, 67.0, 3.0, 3.0, 1.0, 10),
        "deconvnet": _preset(5.0, 20.0, 3.0, 3.0, 3.0, 10),
        "pydensecrf": _preset(10.0, 80.0, 13.0, 3.0, 3.0, 5),
        "crf_rnn": _preset(5.0, 160.0, 3.0, 3.0, 3.0, 10, normalization="after"),
        "krahenbuhl": _preset(10.0, 60.0, 20.0, 3.0, 3.0, 10),
    }
)


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray,
    *,
    bilateral_weight: float = 4.0,
    bilateral_xy: float = 67.0,
    bilateral_rgb: float = 3.0,
    spatial_weight: float = 3.0,
    spatial_xy: float = 1.0,
    iterations: int = 10,
    normalization: str = "symmetric",
    floor: float = 1e-5,
    method: str = "lattice",
) -> np.ndarray:
    """Refines class probabilities so that they follow the edges of the picture.

    Paper: https://arxiv.org/abs/1210.5644; the defaults are DeepLab v2's for ResNet-101
    (https://arxiv.org/abs/1606.00915). Differs from the paper: kernels are normalised symmetrically and a pixel is
    its own neighbour, as in the authors' program and in pydensecrf.

    Args:
        image: (H, W, C) or (H, W) picture in 0..255, any number of channels.
        probabilities: (H, W, K) in 0..1 of that picture. K = 1 is the probability of the foreground.
        bilateral_weight: strength of the kernel that sees place and colour (w1).
        bilateral_xy: its standard deviation in pixels (theta alpha).
        bilateral_rgb: its standard deviation in grey levels of each channel (theta beta).
        spatial_weight: strength of the kernel that sees the place alone (w2).
        spatial_xy: its standard deviation in pixels (theta gamma).
        iterations: mean field steps; 0 gives the probabilities back, normalised.
        normalization: of both kernels by n, the kernel summed over all pixels: "symmetric" divides by
            sqrt(n_i n_j), "after" the filtered values by n (CRF-RNN), "before" the values that are filtered, "none"
            not at all.
        floor: probabilities below count as this: a network that is certain and wrong can still be overruled.
        method: "lattice", or "exact": O((H W)^2), for pictures of at most 8192 pixels.

    Returns:
        (H, W, K) float32 probabilities; for K > 1 they sum to 1.

    Raises:
        ValueError: the two arrays do not fit, are not finite, or an option is out of range.

    Example:
        >>> refined = dense_crf(image, prediction.probabilities, **CRF_PRESETS["deeplab_vgg16"])
        >>> labels = refined.argmax(axis=-1)
    """
    image, probabilities = _checked_arrays(image, probabilities)
    widths = {"bilateral_xy": bilateral_xy, "bilateral_rgb": bilateral_rgb, "spatial_xy": spatial_xy}
    weights = {"bilateral_weight": bilateral_weight, "spatial_weight": spatial_weight}
    _check_options(widths, weights, iterations, normalization, floor, method, image)
    height, width, labels = probabilities.shape
    if labels == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=-1)

    log_unary = np.log(np.maximum(probabilities, floor)).reshape(height * width, -1)  # (N, K)
    # The lattice is not quite alike along all axes. Rows, columns, then channels is the order of pydensecrf's helpers.
    place = np.indices((height, width), np.float32).reshape(2, -1).T  # (N, 2)
    colour = image.reshape(height * width, -1)
    kernels = []
    if bilateral_weight:
        features = np.concatenate([place / np.float32(bilateral_xy), colour / np.float32(bilateral_rgb)], axis=1)
        kernels.append((bilateral_weight, _normalized(_gaussian(features, method), len(place), normalization)))
    if spatial_weight:
        features = place / np.float32(spatial_xy)
        kernels.append((spatial_weight, _normalized(_gaussian(features, method), len(place), normalization)))

    refined = mean_field(log_unary, kernels, iterations)
    return refined[:, -labels:].reshape(height, width, labels)


def mean_field(log_unary: np.ndarray, kernels: list[tuple[float, Filter]], iterations: int) -> np.ndarray:
    """Mean field inference with the Potts model.

    Args:
        log_unary: (N, K) float, log probabilities up to a constant a pixel.
        kernels: pairs of a weight and a function that filters (N, K) values.
        iterations: number of steps.

    Returns:
        (N, K) float32 probabilities.
    """
    log_unary = np.asarray(log_unary, np.float32)
    q = _softmax(log_unary)
    for _ in range(iterations):
        # Potts charges what the other labels hold, all but a constant of which is a reward for one's own.
        energy = log_unary.copy()
        for weight, filtered in kernels:
            energy += np.float32(weight) * filtered(q)
        q = _softmax(energy)
    return q


def _gaussian(features: np.ndarray, method: str) -> Filter:
    if method == "lattice":
        return PermutohedralLattice(features).filter
    squares = np.sum(features * features, axis=1)
    distances = squares[:, None] + squares - 2 * (features @ features.T)
    matrix = np.exp(-0.5 * np.maximum(distances, 0))  # (N, N)
    return lambda values: matrix @ values


def _normalized(filtered: Filter, count: int, normalization: str) -> Filter:
    if normalization == "none":
        return filtered
    total = filtered(np.ones((count, 1), np.float32)) + np.float32(1e-20)  # (N, 1)
    if normalization == "symmetric":
        scale = 1 / np.sqrt(total)
        return lambda values: scale * filtered(scale * values)
    if normalization == "after":
        return lambda values: filtered(values) / total
    return lambda values: filtered(values / total)


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=1, keepdims=True))
    x /= x.sum(axis=1, keepdims=True)
    return x


def _checked_arrays(image, probabilities) -> tuple[np.ndarray, np.ndarray]:
    image, probabilities = np.asarray(image, np.float32), np.asarray(probabilities, np.float32)
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise ValueError(
            f"`probabilities` must be (height, width, classes). Received: shape {probabilities.shape}. Pass one "
            "picture of the batch."
        )
    if image.ndim not in (2, 3) or 0 in image.shape or image.shape[:2] != probabilities.shape[:2]:
        raise ValueError(
            f"`image` must be (height, width, channels) with the height and width of `probabilities`, "
            f"{probabilities.shape[:2]}. Received: shape {image.shape}. Bring the probabilities to the picture's size "
            "with `resize_probabilities`."
        )
    if not np.isfinite(image).all():
        raise ValueError("`image` must be finite. Received: NaN or infinity. Repair the picture.")
    # Interpolated probabilities may miss the range by a rounding error.
    if not (probabilities.min() >= -1e-3 and probabilities.max() <= 1 + 1e-3):
        raise ValueError(
            f"`probabilities` must lie in 0..1. Received: {probabilities.min()} to {probabilities.max()}. Apply "
            "softmax to logits first."
        )
    return image, probabilities


def _check_options(widths, weights, iterations, normalization, floor, method, image) -> None:
    for name, value in widths.items():
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"`{name}` must be a positive standard deviation. Received: {name}={value!r}")
    for name, value in weights.items():
        if not (value >= 0 and np.isfinite(value)):
            raise ValueError(f"`{name}` must be 0 or more. Received: {name}={value!r}")
    if not isinstance(iterations, numbers.Integral) or iterations < 0:
        raise ValueError(f"`iterations` must be a whole number, 0 or more. Received: iterations={iterations!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` must be one of {NORMALIZATIONS}. Received: {normalization!r}")
    if not 0 < floor < 1:
        raise ValueError(f"`floor` must lie between 0 and 1. Received: floor={floor!r}")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
    pixels = image.shape[0] * image.shape[1]
    if method == "exact" and pixels > MOST_EXACT_PIXELS:
        raise ValueError(
            f'`method="exact"` takes pictures of at most {MOST_EXACT_PIXELS} pixels. Received: {pixels}. Use '
            '`method="lattice"`.'
        )


__all__ = ["CRF_PRESETS", "dense_crf", "mean_field"]
