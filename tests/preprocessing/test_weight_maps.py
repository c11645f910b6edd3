"""U-Net's border-weight map: two squares worked by hand, and the formula computed the slow way."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from keras_cv_lectures.preprocessing.weight_maps import border_weight_map, with_border_weights


def brute_force(mask, ids, w0, sigma):
    """Every background pixel against every object pixel."""
    weights = np.where(mask == 255, 0.0, 1.0)
    objects = [np.argwhere(ids == value) for value in np.unique(ids[ids > 0])]
    for i, j in np.argwhere((mask == 0) & (ids == 0)):
        distances = sorted(np.hypot(*(pixels - (i, j)).T).min() for pixels in objects)
        if len(distances) > 1:
            weights[i, j] += w0 * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights


def test_two_squares():
    mask = np.zeros((5, 9), int)
    mask[1:4, 0:3] = 1
    mask[1:4, 6:9] = 1
    weights = border_weight_map(mask)
    assert weights.dtype == np.float32
    # Between the squares lie columns 3, 4, 5: distances (1, 3), (2, 2), (3, 1), always 4 together.
    np.testing.assert_allclose(weights[2, 3:6], 1 + 10 * math.exp(-(4**2) / 50), rtol=1e-6)
    # In the row above, column 4 is sqrt(1 + 2^2) from both.
    np.testing.assert_allclose(weights[0, 4], 1 + 10 * math.exp(-(4 * 5) / 50), rtol=1e-6)
    # Over the first square: 1 away from it, and sqrt(1 + 5^2) from the other.
    np.testing.assert_allclose(weights[0, 1], 1 + 10 * math.exp(-((1 + math.sqrt(26)) ** 2) / 50), rtol=1e-6)
    assert (weights[mask == 1] == 1).all()


@pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (4.0, 1.5), (0.0, 5.0)])
def test_against_brute_force(w0, sigma):
    rng = np.random.default_rng(1)
    mask, ids = np.zeros((40, 70), int), np.zeros((40, 70), int)
    for number in range(1, 9):
        i, j = rng.integers(0, 36), rng.integers(0, 64)
        h, w = rng.integers(2, 6, 2)
        mask[i : i + h, j : j + w] = 1 + number % 2
        # Gaps in the numbers, and touching objects of one class, which only the ids keep apart.
        ids[i : i + h, j : j + w] = 10 * number
    mask[20:24, 10:30] = 255
    ids[20:24, 10:30] = 0
    weights = border_weight_map(mask, instances=ids, w0=w0, sigma=sigma)
    np.testing.assert_allclose(weights, brute_force(mask, ids, w0, sigma), atol=1e-4)
    assert (weights[mask == 255] == 0).all()


def test_components_of_each_class():
    # Class 1 and class 2 touch and are two objects; class 1 occurs twice.
    mask = np.array([[1, 1, 2, 2, 0, 1, 0]])
    np.testing.assert_allclose(
        border_weight_map(mask), brute_force(mask, np.array([[1, 1, 2, 2, 0, 3, 0]]), 10, 5), atol=1e-5
    )


def test_fewer_than_two_objects():
    mask = np.zeros((4, 5), int)
    assert (border_weight_map(mask) == 1).all()
    mask[1:3, 1:3] = 1
    assert (border_weight_map(mask) == 1).all()
    assert (border_weight_map(np.ones((4, 5), int)) == 1).all()
    assert (border_weight_map(np.full((4, 5), 255)) == 0).all()


def test_far_objects_have_no_border():
    mask = np.zeros((1, 200), int)
    mask[0, [0, 199]] = 1
    assert (border_weight_map(mask) == 1).all()


def test_picture_without_background():
    ids = np.array([[1, 1, 2, 2]])
    assert (border_weight_map((ids > 0).astype(int), instances=ids) == 1).all()


def test_class_weights():
    mask = np.array([[1, 0, 1, 2, 255]])
    weights = border_weight_map(mask, class_weights=[0.5, 2, 3])
    np.testing.assert_allclose(weights, [[2, 0.5 + 10 * math.exp(-4 / 50), 2, 3, 0]], rtol=1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    name: str
    read: Callable


def test_source_adds_and_caches_weights():
    reads = []

    def read(index):
        reads.append(index)
        mask = np.zeros((6, 8), "int32")
        mask[1:3, 1:7] = 1
        example = {"image": np.zeros((6, 8, 3), "uint8"), "mask": mask}
        if index == 1:
            left, right = np.zeros((2, 6, 8), "uint8")
            left[1:3, 1:4], right[1:3, 4:7] = 1, 1
            example["instance_masks"] = np.stack([left, right])
        return example

    source = with_border_weights(Pictures(name="cells", read=read), w0=10, sigma=5)
    assert source.name == "cells"
    first, second = source.read(0), source.read(1)
    assert (first["weights"] == 1).all()  # one component
    ids = second["instance_masks"][0] + 2 * second["instance_masks"][1].astype(int)
    np.testing.assert_allclose(second["weights"], brute_force(second["mask"], ids, 10, 5), atol=1e-5)
    assert second["weights"].max() > 5
    assert source.read(1)["weights"] is second["weights"]
    assert reads == [0, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        second["weights"][0, 0] = 3
    # Another wrapper of the same source has its own maps.
    assert with_border_weights(Pictures(name="cells", read=read), w0=2).read(1)["weights"].max() < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"w0": -1.0}, "w0"),
        ({"class_weights": [1.0]}, "1 values"),
        ({"instances": np.zeros((2, 2), int)}, "shape"),
        ({"instances": np.full((2, 3), -1)}, "positive"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        border_weight_map(np.array([[0, 1, 0], [0, 0, 1]]), **settings)
    with pytest.raises(ValueError, match="integers"):
        border_weight_map(np.zeros((2, 3)))
