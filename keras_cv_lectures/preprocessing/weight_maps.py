"""U-Net's border-weight map: pixels in the narrow gaps between touching objects count many times.

source = with_border_weights(source)            # adds `weights` (H, W) to every example
weights = border_weight_map(mask)               # of one mask
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from keras_cv_lectures.errors import DataError

# A border term below this is not computed.
_NEGLIGIBLE = 1e-4

Source = TypeVar("Source")


def with_border_weights(
    source: Source,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
) -> Source:
    """A source whose examples also have `weights`, (H, W) float32, the border-weight map of their mask.

    Objects are the example's `instance_masks` where it has them, otherwise the connected components of each foreground
    class. Maps are computed when an example is first read and kept in memory, 4 bytes a pixel (254 MB for CamVid's 367
    pictures); they are read-only.

    Args:
        source: a `data.Source`, or any frozen dataclass with `read`.
        w0, sigma, class_weights, ignore_label: see `border_weight_map`.
    """
    read, maps = source.read, {}

    def read_with_weights(index: int) -> dict[str, Any]:
        example = read(index)
        # Threads of tf.data may compute the same map twice; both are equal, and the first stays.
        if index not in maps:
            mask = np.asarray(example["mask"])
            instances = None
            if example.get("instance_masks") is not None:
                instances = _instance_ids(np.asarray(example["instance_masks"]), mask.shape)
            weights = border_weight_map(
                mask, instances=instances, w0=w0, sigma=sigma, class_weights=class_weights, ignore_label=ignore_label
            )
            weights.flags.writeable = False
            maps.setdefault(index, weights)
        return {**example, "weights": maps[index]}

    return dataclasses.replace(source, read=read_with_weights)


def border_weight_map(
    mask: np.ndarray,
    *,
    instances: np.ndarray | None = None,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: Sequence[float] | None = None,
    ignore_label: int = 255,
) -> np.ndarray:
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), the second term on background pixels.

    Ronneberger et al., U-Net, 2015. d1 and d2 are the distances in pixels, centre to centre, to the nearest pixel of
    the nearest and of the second-nearest object: the single background pixel between two objects has d1 = d2 = 1. With
    fewer than two objects there is no border term.

    Args:
        mask: (H, W) class ids, 0 = background.
        instances: (H, W) object ids, 0 = no object, equal numbers = one object. None: the 4-connected components of
            each foreground class, which joins objects of one class that touch. Where there are only object ids, the
            mask is `(ids > 0).astype("int32")`.
        w0: largest border weight.
        sigma: width of the border term in pixels, above 0.
        class_weights: w_c by class id, or None for 1. `losses.median_frequency_weights` computes them.
        ignore_label: these pixels get weight 0; they are neither background nor object.

    Returns:
        (H, W) float32. Border terms below 1e-4 may be left out: objects farther than about 5 sigma are not looked at.

    Raises:
        DataError: for shapes that differ, a class without weight, or a sigma that is not above 0.

    Differs from the paper: the border term is 0 on the objects themselves, as in the usual implementations; the paper's
    formula does not say.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise DataError(f"mask must be (H, W) integers, not {mask.shape} of {mask.dtype}.")
    if sigma <= 0 or w0 < 0:
        raise DataError(f"sigma must be above 0 and w0 at least 0; received sigma={sigma!r}, w0={w0!r}.")
    valid = mask != ignore_label
    weights = _class_term(mask, valid, class_weights)
    if instances is None:
        instances = _components(np.where(valid, mask, 0))
    else:
        instances = np.asarray(instances)
        if instances.shape != mask.shape:
            raise DataError(f"instances must have the mask's shape {mask.shape}, not {instances.shape}.")
        if instances.size and instances.min() < 0:
            raise DataError(f"instances must be 0 or positive object ids; the smallest is {instances.min()}.")
    background = valid & (mask == 0) & (instances == 0)
    nearest, second = _two_distances(instances, _radius(w0, sigma))
    # Infinite where fewer than two objects are near, and exp(-inf) = 0.
    border = w0 * np.exp(-np.square(nearest + second) / (2.0 * sigma**2))
    weights[background] += border[background]
    return weights


def _class_term(mask: np.ndarray, valid: np.ndarray, class_weights: Sequence[float] | None) -> np.ndarray:
    if class_weights is None:
        return valid.astype("float32")
    classes = mask[valid]
    if classes.size and not 0 <= classes.min() <= classes.max() < len(class_weights):
        raise DataError(
            f"class_weights has {len(class_weights)} values but the mask holds ids {classes.min()}..{classes.max()}."
        )
    weights = np.zeros(mask.shape, "float32")
    weights[valid] = np.asarray(class_weights, "float32")[classes]
    return weights


def _components(mask: np.ndarray) -> np.ndarray:
    """(H, W) int32 ids of the 4-connected components of every class above 0."""
    from scipy import ndimage

    ids, total = np.zeros(mask.shape, "int32"), 0
    for index in np.unique(mask[mask > 0]):
        labels, count = ndimage.label(mask == index)
        ids = np.where(labels > 0, labels + total, ids)
        total += count
    return ids


def _instance_ids(instance_masks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 ids from (N, H, W) masks; where objects overlap the later one is kept."""
    ids = np.zeros(shape, "int32")
    for index, instance in enumerate(instance_masks, start=1):
        ids[instance > 0] = index
    return ids


def _radius(w0: float, sigma: float) -> int:
    """Distance of the second object, in pixels, beyond which the border term is below `_NEGLIGIBLE`."""
    return math.ceil(sigma * math.sqrt(2.0 * math.log(max(w0 / _NEGLIGIBLE, 1.0)))) + 1


def _two_distances(instances: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 distances to the nearest and the second-nearest object, infinite beyond `radius`."""
    from scipy import ndimage

    nearest = np.full(instances.shape, np.inf, "float32")
    second = nearest.copy()
    values, ids = np.unique(instances, return_inverse=True)
    ids = ids.reshape(instances.shape).astype("int32")
    # find_objects numbers objects from 1; a picture without background has no 0.
    ids += values[0] != 0
    # Each object reaches only a window around it, so that hundreds of small objects cost as much as a few distance
    # transforms of the whole picture.
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        window = tuple(
            slice(max(side.start - radius, 0), min(side.stop + radius, size))
            for side, size in zip(box, instances.shape, strict=True)
        )
        distance = ndimage.distance_transform_edt(ids[window] != number).astype("float32")
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    return nearest, second
