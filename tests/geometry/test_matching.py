"""Matching and sampling: hand-worked tables, a NumPy reference of the sampler, torchvision's recorded matches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import geometry

IOU = np.float32(
    [
        # boxes 0..4 against truths 0..2
        [0.80, 0.10, 0.35, 0.00, 0.00],
        [0.60, 0.20, 0.50, 0.05, 0.00],
        [0.00, 0.00, 0.00, 0.10, 0.00],
    ]
)


def test_thresholds_by_hand():
    np.testing.assert_array_equal(geometry.match(IOU, 0.7, 0.3), [0, -1, -2, -1, -1])
    np.testing.assert_array_equal(geometry.match(IOU, 0.5, 0.5), [0, -1, 1, -1, -1])  # at the threshold it belongs
    np.testing.assert_array_equal(geometry.match(IOU[None], 0.7, 0.1), [[0, -2, -2, -2, -1]])


def test_low_quality_gives_every_truth_its_best_box():
    # Truth 1 is covered best by box 0, which goes to truth 0 all the same; truth 2 by box 3, which is its own.
    np.testing.assert_array_equal(geometry.match(IOU, 0.7, 0.3, low_quality=True), [0, -1, -2, 2, -1])
    ties = np.float32([[0.2, 0.2, 0.1]])
    np.testing.assert_array_equal(geometry.match(ties, 0.7, 0.3, low_quality=True), [0, 0, -1])


def test_padded_truths_are_not_there():
    iou = np.stack([IOU, IOU])
    valid = [[True, False, False], [False, False, False]]
    np.testing.assert_array_equal(
        geometry.match(iou, 0.7, 0.3, valid, low_quality=True), [[0, -1, -2, -1, -1], [-1, -1, -1, -1, -1]]
    )


def test_no_truths_are_background_known_or_not():
    none = np.zeros((2, 0, 3), np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None])])
    def unknown(iou):
        return geometry.match(iou, 0.7, 0.3, low_quality=True)

    for matches in (geometry.match(none, 0.7, 0.3, low_quality=True), unknown(none)):
        np.testing.assert_array_equal(matches, np.full((2, 3), -1))
        assert matches.dtype == tf.int32
    np.testing.assert_array_equal(unknown(IOU[None])[0], geometry.match(IOU, 0.7, 0.3, low_quality=True))
    with pytest.raises(ValueError, match="`low`"):
        geometry.match(IOU, 0.3, 0.7)


POSITIVE = np.array([1, 0, 1, 0, 1, 0, 0], bool)
NEGATIVE = np.array([0, 1, 0, 1, 0, 1, 0], bool)
NOISE = np.float32([0.1, 0.5, 0.9, 0.2, 0.3, 0.7, 0.99])


def test_sampling_by_hand():
    # At most two of four are positive: boxes 2 and 4 have the largest noise; the last box is neither.
    index, is_positive, is_valid = geometry.sample_indices(POSITIVE, NEGATIVE, 4, 0.5, NOISE)
    np.testing.assert_array_equal(index, [2, 4, 5, 1])
    np.testing.assert_array_equal(is_positive, [True, True, False, False])
    assert np.all(is_valid)
    # More than there are: 3 positives, 3 negatives, and two rows of padding.
    index, is_positive, is_valid = geometry.sample_indices(POSITIVE, NEGATIVE, 8, 0.75, NOISE)
    np.testing.assert_array_equal(index, [2, 4, 0, 5, 1, 3, 0, 0])
    np.testing.assert_array_equal(is_positive, [1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(is_valid, [1, 1, 1, 1, 1, 1, 0, 0])
    # No positives are wanted, or there are none: negatives fill the count.
    for positive, fraction in ((POSITIVE, 0.0), (np.zeros(7, bool), 0.5)):
        index, is_positive, _ = geometry.sample_indices(positive, NEGATIVE, 2, fraction, NOISE)
        np.testing.assert_array_equal(index, [5, 1])
        assert not np.any(is_positive)


@pytest.mark.parametrize(("count", "fraction"), [(1, 1.0), (6, 0.25), (20, 0.5), (100, 0.3)])
def test_masks_are_what_a_sorted_choice_would_give(count, fraction):
    rng = np.random.default_rng(count)
    kind = rng.integers(-1, 2, (3, 40))
    kind[2] = -1  # a picture with nothing to draw
    noise = rng.permutation(120).reshape(3, 40).astype(np.float32) / 128
    positive, negative = geometry.sample(kind == 1, kind == 0, count, fraction, noise)
    for i in range(3):
        by_noise = np.argsort(-noise[i])
        first = [j for j in by_noise if kind[i, j] == 1][: int(count * fraction)]
        second = [j for j in by_noise if kind[i, j] == 0][: count - len(first)]
        np.testing.assert_array_equal(np.flatnonzero(positive[i]), sorted(first))
        np.testing.assert_array_equal(np.flatnonzero(negative[i]), sorted(second))


def test_sampling_is_fair():
    rng = np.random.default_rng(0)
    noise = rng.uniform(size=(4000, 7)).astype(np.float32)
    positive, negative = geometry.sample(
        np.broadcast_to(POSITIVE, noise.shape), np.broadcast_to(NEGATIVE, noise.shape), 3, 0.34, noise
    )
    drawn = np.mean(np.logical_or(positive, negative), axis=0)
    np.testing.assert_allclose(drawn, [1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 0], atol=0.03)


def test_sampling_with_unknown_sizes_equals_known_ones():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.bool)] * 2 + [tf.TensorSpec([None, None])])
    def unknown(positive, negative, noise):
        masks = geometry.sample(positive, negative, 4, 0.5, noise)
        return *masks, *geometry.sample_indices(positive, negative, 4, 0.5, noise)

    for keep in (7, 2, 0):
        arguments = [array[None, :keep] for array in (POSITIVE, NEGATIVE, NOISE)]
        result = unknown(*arguments)
        known = [x[None, :keep] for x in (POSITIVE, NEGATIVE)]
        expected = geometry.sample_indices(*known, 4, 0.5, arguments[2])
        for got, wanted in zip(result[2:], expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert result[0].shape == (1, keep)
        assert np.sum(result[0]) + np.sum(result[1]) == np.sum(expected[2])


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="count=0"):
        geometry.sample(POSITIVE, NEGATIVE, 0, 0.5, NOISE)
    with pytest.raises(ValueError, match="positive_fraction=1.5"):
        geometry.sample_indices(POSITIVE, NEGATIVE, 4, 1.5, NOISE)


@pytest.mark.golden
def test_matches_equal_torchvision(golden):
    arrays, cfg = golden("op_matcher")
    iou = geometry.pairwise_iou(arrays["in/gt"], arrays["in/anchors"])
    np.testing.assert_allclose(iou, arrays["in/iou"], atol=1e-6)
    for name in (key.removeprefix("out/") for key in arrays if key.startswith("out/")):
        high, low, low_quality = cfg[name]
        matches = geometry.match(arrays["in/iou"], high, low, low_quality=low_quality)
        np.testing.assert_array_equal(matches, arrays[f"out/{name}"])
        # More rows that are marked as padding change nothing.
        padded = np.concatenate([arrays["in/iou"], np.ones_like(arrays["in/iou"])])
        valid = np.arange(len(padded)) < len(arrays["in/iou"])
        matches = geometry.match(padded, high, low, valid, low_quality)
        np.testing.assert_array_equal(matches, arrays[f"out/{name}"])
