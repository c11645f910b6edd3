"""Batches for segmentation: shapes, dtypes, order, weights, crops, and the errors of wrong settings."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.preprocessing import Augmentation, segmentation_batches, to_segmentation


def examples(count=5, size=(12, 16), channels=3, **extra):
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (count, *size, channels)).astype(np.uint8),
        "mask": rng.choice([0, 1, 255], (count, *size)).astype(np.int32),
        "seed": np.stack([np.arange(count), np.arange(count)], 1).astype(np.int32),
    }
    return arrays | extra, tf.data.Dataset.from_tensor_slices(arrays | extra)


def test_batches_have_fixed_shapes_and_keep_the_order():
    arrays, dataset = examples()
    batches = segmentation_batches(dataset, output_size=(12, 16), batch_size=2)
    inputs, targets = batches.element_spec
    assert inputs == tf.TensorSpec((None, 12, 16, 3), tf.uint8)
    assert targets == tf.TensorSpec((None, 12, 16), tf.int32)
    x, y = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True))
    np.testing.assert_array_equal(x, arrays["image"])
    np.testing.assert_array_equal(y, arrays["mask"])
    assert len(list(segmentation_batches(dataset, output_size=(12, 16), batch_size=2, drop_remainder=True))) == 2


def test_augmented_batches_repeat_exactly_and_stay_uint8():
    _, dataset = examples()
    augmentation = Augmentation(scale=(0.8, 1.2), rotate=10.0, brightness=0.2)
    runs = [
        list(segmentation_batches(dataset, output_size=(10, 10), batch_size=5, augmentation=augmentation))
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert runs[0][0][0].dtype == tf.uint8


def test_weights_travel_with_their_labels():
    mask = np.random.default_rng(1).integers(0, 100, (2, 20, 20)).astype(np.int32)
    _, dataset = examples(2, (20, 20), mask=mask, weights=mask * np.float32(0.5))
    augmentation = Augmentation(rotate=30.0, elastic=1.0, fill="constant")
    ((_, targets),) = segmentation_batches(dataset, output_size=(20, 20), batch_size=2, augmentation=augmentation)
    labels, weights = targets.numpy()[..., 0], targets.numpy()[..., 1]
    assert targets.dtype == tf.float32
    outside = labels == 255
    assert outside.any()
    np.testing.assert_array_equal(weights, np.where(outside, 0.0, labels * 0.5))


def test_targets_are_cropped_for_valid_convolutions():
    arrays, dataset = examples(1, (20, 24))
    ((x, y),) = segmentation_batches(dataset, output_size=(20, 24), batch_size=1, target_crop=4)
    assert x.shape == (1, 20, 24, 3)
    np.testing.assert_array_equal(y[0], arrays["mask"][0, 4:16, 4:20])
    _, cropped = to_segmentation({k: v[0] for k, v in arrays.items()}, target_crop=4)
    np.testing.assert_array_equal(cropped, y[0])


def test_channels_are_converted():
    grey = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 1)).astype(np.uint8)
    _, repeated = examples(2, (6, 6), image=np.repeat(grey, 3, -1))
    ((x, _),) = segmentation_batches(repeated, output_size=(6, 6), batch_size=2, channels=1)
    np.testing.assert_array_equal(x, grey)
    _, single = examples(2, (6, 6), image=grey)
    ((x, _),) = segmentation_batches(single, output_size=(6, 6), batch_size=2, channels=3)
    np.testing.assert_array_equal(x, np.repeat(grey, 3, -1))
    with pytest.raises(ValueError, match="channels: expected"):
        segmentation_batches(repeated, output_size=(6, 6), batch_size=2, channels=4)


def test_pictures_may_keep_their_own_size():
    sizes = [(7, 9), (5, 4)]
    parts = [examples(1, size)[0] for size in sizes]
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "mask": tf.TensorSpec((None, None), tf.int32),
    }
    dataset = tf.data.Dataset.from_generator(
        lambda: ({k: p[k][0] for k in signature} for p in parts), output_signature=signature
    )
    batches = list(segmentation_batches(dataset, output_size=None, batch_size=1))
    assert [tuple(y.shape[1:]) for _, y in batches] == sizes
    np.testing.assert_array_equal(batches[1][0], parts[1]["image"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_size": None, "batch_size": 2}, "output_size: expected"),
        ({"output_size": None, "batch_size": 1, "augmentation": Augmentation()}, "output_size: expected"),
        ({"output_size": (8, 8), "batch_size": 1, "target_crop": 4}, "target_crop: expected"),
        ({"output_size": (8, 8), "batch_size": 1, "target_crop": -1}, "target_crop: expected"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        segmentation_batches(examples()[1], **settings)
