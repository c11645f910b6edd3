"""Boundary F1: shifted outlines worked by hand, and a brute-force reference."""

import math

import numpy as np
import pytest

from keras_cv_lectures.metrics import boundary_f1, mean_boundary_f1


def halves(column, shape=(4, 12)):
    """Class 1 from `column` on."""
    return (np.arange(shape[1]) >= column).astype("int32") * np.ones((shape[0], 1), "int32")


def test_shift_within_and_beyond_the_tolerance():
    # The boundary of each class moves by as many columns as the edge.
    diagonal = math.hypot(4, 12)
    assert boundary_f1(halves(5), halves(5), 2, tolerance=0.0) == 1
    assert boundary_f1(halves(5), halves(7), 2, tolerance=2.01 / diagonal) == 1
    assert boundary_f1(halves(5), halves(7), 2, tolerance=1.99 / diagonal) == 0


def test_precision_and_recall():
    # A predicted second stripe doubles the boundary of class 0: its edge pixels are columns 4, 7 and 8, 11 here.
    label = halves(5)
    prediction = label.copy()
    prediction[:, 8:] = 0
    # Tolerance 0. Class 0: predicted columns 4 and 8, labelled 4: P 1/2, R 1, F 2/3. Class 1: 5 and 7, labelled 5.
    np.testing.assert_allclose(boundary_f1(label, prediction, 2, tolerance=0.0), 2 / 3)


def test_edges_without_boundary():
    plain = np.zeros((3, 4), int)
    assert boundary_f1(plain, plain, 2) == 1
    assert boundary_f1(plain, plain + 1, 2) == 0
    assert boundary_f1(plain, halves(2, (3, 4)), 2) == 0


def test_ignored_pixels_bound_nothing_and_are_not_looked_at():
    label = halves(5)
    void = label.copy()
    void[:, 9:] = 255
    wild = label.copy()
    wild[:, 9:] = np.arange(12).reshape(4, 3)
    assert boundary_f1(void, wild, 2, tolerance=0.0) == 1
    assert math.isnan(boundary_f1(np.full((4, 12), 255), label, 2))


def test_against_brute_force():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (5, 6)).repeat(2, 0).repeat(2, 1)
    prediction = np.where(rng.random(label.shape) < 0.1, rng.integers(0, 3, label.shape), np.roll(label, 1, 1))
    label[3:5, 4:9] = 255
    tolerance = 0.1
    reach = tolerance * math.hypot(*label.shape)

    def boundary(classes, index):
        found = []
        for i, j in np.argwhere((classes == index) & (label != 255)):
            for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= a < label.shape[0] and 0 <= b < label.shape[1]
                if inside and label[a, b] != 255 and classes[a, b] != index:
                    found.append((i, j))
                    break
        return found

    values = []
    for index in range(3):
        ours, theirs = boundary(prediction, index), boundary(label, index)
        precision = np.mean([min(math.dist(p, q) for q in theirs) <= reach for p in ours])
        recall = np.mean([min(math.dist(p, q) for q in ours) <= reach for p in theirs])
        values.append(2 * precision * recall / (precision + recall))
    assert 0 < np.mean(values) < 1
    np.testing.assert_allclose(boundary_f1(label, prediction, 3, tolerance=tolerance), np.mean(values), rtol=1e-12)


def test_mean_over_pictures_leaves_unlabelled_ones_out():
    labels = [halves(5), np.full((2, 3), 255), np.zeros((3, 4), int)]
    predictions = [halves(5), np.zeros((2, 3), int), np.ones((3, 4), int)]
    assert mean_boundary_f1(labels, predictions, 2) == 0.5
    assert mean_boundary_f1(labels[1:2], predictions[1:2], 2) == 0


def test_refusals():
    with pytest.raises(ValueError, match="H, W"):
        boundary_f1(np.zeros((2, 3)), np.zeros((3, 2)), 2)
    with pytest.raises(ValueError, match="outside the classes"):
        boundary_f1(np.zeros((2, 3)), np.full((2, 3), 2), 2)
    with pytest.raises(ValueError, match="zip"):
        mean_boundary_f1([halves(5)], [], 2)
