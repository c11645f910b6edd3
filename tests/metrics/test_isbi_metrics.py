"""The ISBI 2012 pair: partitions worked by hand, counting every pair of pixels, and threshold sweeps."""

import itertools

import numpy as np
import pytest

from keras_cv_lectures.metrics import (
    best_threshold,
    connected_cells,
    foreground_rand,
    isbi_scores,
    pixel_error,
    pixel_f_error,
)


def test_perfect_and_renumbered():
    truth = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    assert foreground_rand(truth, truth) == (1, 1, 1)
    assert foreground_rand(truth, np.array([9, 70_000, 3])[truth]) == (1, 1, 1)


def test_merged_split_and_membrane():
    truth = np.array([[1, 1, 0, 2, 2]])
    # Merged: 2^2 + 2^2 of the 4^2 joined pairs are right.
    np.testing.assert_allclose(foreground_rand(truth, np.ones_like(truth)), (8 / 16, 1, 2 / 3))
    # Cell 2 split in two: 2^2 + 1 + 1 of the 2^2 + 2^2 true pairs are kept.
    np.testing.assert_allclose(foreground_rand(truth, np.array([[1, 1, 0, 2, 3]])), (1, 6 / 8, 6 / 7))
    # Membrane inside cells: both of its pixels are alone, not joined to each other.
    np.testing.assert_allclose(foreground_rand(truth, np.array([[1, 0, 0, 0, 2]])), (1, 4 / 8, 2 / 3))
    # What the proposal has on true membrane does not matter.
    assert foreground_rand(truth, np.array([[1, 1, 5, 2, 2]])).f == 1


@pytest.mark.parametrize("scale", [1, 10_000], ids=["dense", "sparse"])
def test_against_every_pair(scale):
    rng = np.random.default_rng(0)
    truth, proposal = rng.integers(0, 4, (5, 6)), scale * rng.integers(0, 5, (5, 6))
    inside = truth > 0
    cells = truth[inside]
    proposed = np.where(proposal[inside] > 0, proposal[inside], -1 - np.arange(inside.sum()))
    both = in_proposal = in_truth = 0
    for a, b in itertools.product(range(len(cells)), repeat=2):
        both += cells[a] == cells[b] and proposed[a] == proposed[b]
        in_proposal += proposed[a] == proposed[b]
        in_truth += cells[a] == cells[b]
    precision, recall = both / in_proposal, both / in_truth
    expected = precision, recall, 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(foreground_rand(truth, proposal), expected, rtol=1e-12)


def test_connectivity():
    diagonal = np.eye(3, dtype=bool)
    assert connected_cells(diagonal, 4).max() == 3
    assert connected_cells(diagonal, 8).max() == 1
    stack = connected_cells(np.stack([diagonal, diagonal]))
    assert stack.shape == (2, 3, 3)
    np.testing.assert_array_equal(stack[0], stack[1])


# Two cells with a membrane between them; the membrane is sure to 0.4, and one cell pixel looks like membrane.
LABELS = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
PROBABILITIES = np.array([[0.9, 0.9, 0.4, 0.9, 0.9], [0.9, 0.9, 0.4, 0.9, 0.2]])


def test_pixel_error():
    # 0.5: one of ten wrong. 0.3: the membrane joins the cells, three of ten wrong.
    assert pixel_error(PROBABILITIES, LABELS) == 0.1
    np.testing.assert_allclose(pixel_error(PROBABILITIES, LABELS, 0.3), 0.3)
    # F of the cells: 2 * 7 / (7 + 8) at 0.5, 2 * 7 / (9 + 8) at 0.3.
    np.testing.assert_allclose(pixel_f_error(PROBABILITIES, LABELS, [0.3, 0.5]), 1 - 14 / 15)
    np.testing.assert_allclose(pixel_f_error(PROBABILITIES, LABELS, [0.3]), 1 - 14 / 17)


def test_scores_per_threshold():
    result = isbi_scores(PROBABILITIES, LABELS, [0.1, 0.3, 0.5, 0.7])
    # 0.1: all one cell. 0.5: the lost pixel is alone: 16 + 9 + 1 of 32 true pairs.
    np.testing.assert_allclose([result[0.1]["rand_precision"], result[0.1]["rand_recall"]], [32 / 64, 1])
    np.testing.assert_allclose([result[0.5]["rand_precision"], result[0.5]["rand_recall"]], [1, 26 / 32])
    np.testing.assert_allclose(result[0.5]["rand_f"], 2 * 26 / (26 + 32))
    np.testing.assert_allclose(result[0.5]["pixel_error"], 0.1)
    np.testing.assert_allclose(result[0.5]["pixel_f"], 14 / 15)
    assert best_threshold(result) == 0.7
    assert best_threshold(result, "pixel_error") == 0.7
    assert best_threshold({0.1: {"pixel_f": 0.5}, 0.2: {"pixel_f": 0.4}}, "pixel_f") == 0.1


def test_stack_is_the_mean_of_its_slices():
    labels = np.stack([LABELS, np.array([[1, 1, 1, 1, 0]] * 2)])
    probabilities = np.stack([PROBABILITIES, PROBABILITIES])
    together = isbi_scores(probabilities, labels, [0.5])[0.5]
    alone = [isbi_scores(*pair, [0.5])[0.5] for pair in zip(probabilities, labels, strict=True)]
    for name, value in together.items():
        np.testing.assert_allclose(value, np.mean([one[name] for one in alone]))


def test_ignored_pixels_and_booleans():
    void = LABELS.copy()
    void[1, 4] = 255
    result = isbi_scores(PROBABILITIES, void, [0.5])[0.5]
    assert (result["rand_f"], result["pixel_error"], result["pixel_f"]) == (1, 0, 1)
    assert isbi_scores(PROBABILITIES, LABELS == 1, [0.5]) == isbi_scores(PROBABILITIES, LABELS, [0.5])


@pytest.mark.realdata
def test_real_labels_score_themselves(realdata):
    from PIL import Image

    path = sorted((realdata("isbi2012") / "label").iterdir())[0]
    cells = np.asarray(Image.open(path).convert("L")) > 127
    result = isbi_scores(cells.astype("float32"), cells, [0.5])[0.5]
    assert (result["rand_f"], result["pixel_error"]) == (1, 0)
    # Without any membrane all cells are one.
    assert isbi_scores(np.ones(cells.shape), cells, [0.5])[0.5]["rand_f"] < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: foreground_rand(np.zeros((2, 2), int), np.ones((2, 2), int)), "no cell"),
        (lambda: foreground_rand(np.ones((2, 2), int), np.ones((2, 3), int)), "one shape"),
        (lambda: connected_cells(LABELS, 6), "4 or 8"),
        (lambda: isbi_scores(PROBABILITIES, LABELS[:1], [0.5]), "H, W"),
        (lambda: isbi_scores(PROBABILITIES, LABELS * 255, [0.5]), "labels == 255"),
        (lambda: isbi_scores(PROBABILITIES, LABELS * 2, [0.5]), "1 = cell"),
        (lambda: pixel_f_error(PROBABILITIES, LABELS, []), "thresholds"),
        (lambda: best_threshold({}), "by must be"),
        (lambda: best_threshold({0.5: {"rand_f": 1.0}}, "f1"), "rand_f"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
