"""What the trainer is fed: windows at the right scale, and mirrored context for valid convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import shapes_source, to_dataset
from keras_cv_lectures.preprocessing import Augmentation, mirror_context, resize_example, training_batches
from keras_cv_lectures.segmentation.unet import context_for

CROPS = Augmentation(flip=0.0)


def _dataset(source, epochs=1):
    return to_dataset(source, shuffle=False, seed=0, epochs=epochs, keys=["image", "mask"])


def test_crops_without_a_base_size_are_windows_of_the_picture():
    source = shapes_source(2, size=(24, 32))
    batches = training_batches(
        _dataset(source), output_size=(8, 8), base_size=None, batch_size=1, augmentation=CROPS, drop_remainder=True
    )
    for example, (inputs, targets) in zip(source, batches, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(example["image"], (8, 8, 3)).reshape(-1, 8, 8, 3)
        assert (windows == inputs[0].numpy()).all(axis=(1, 2, 3)).any()
        assert targets.shape == (1, 8, 8)


def test_crops_of_a_base_size_are_windows_of_the_resized_picture():
    source = shapes_source(1, size=(24, 32))
    batches = training_batches(
        _dataset(source), output_size=(8, 8), base_size=(12, 16), batch_size=1, augmentation=CROPS
    )
    resized = resize_example(source[0], (12, 16))
    windows = np.lib.stride_tricks.sliding_window_view(resized["mask"], (8, 8)).reshape(-1, 8, 8)
    (_, targets) = next(iter(batches))
    assert (windows == targets[0].numpy()).all(axis=(1, 2)).any()


def test_resize_example_is_what_batches_without_augmentation_hold():
    source = shapes_source(1, size=(24, 32))
    inputs, targets = next(
        iter(training_batches(_dataset(source), output_size=(12, 16), base_size=(12, 16), batch_size=1))
    )
    resized = resize_example(source[0], (12, 16))
    np.testing.assert_array_equal(inputs[0], resized["image"])
    np.testing.assert_array_equal(targets[0], resized["mask"])


def test_mirrored_context_equals_numpy_reflection_and_keeps_the_targets():
    context = context_for({"variant": "paper", "depth": 2})
    inputs = tf.reshape(tf.range(60 * 61, dtype=tf.int32), (1, 60, 61, 1))
    targets = tf.ones((1, 60, 61), tf.int32)
    grown, kept = mirror_context(inputs, targets, context)
    total, margin = context(60)
    assert margin == 20 == 2 * (2 + 4) + 8
    np.testing.assert_array_equal(
        grown[0, :, margin : margin + 61, 0],
        np.pad(inputs[0, :, :, 0], [(margin, total - margin - 60), (0, 0)], "reflect"),
    )
    assert grown.shape[1] - 2 * margin == kept.shape[1]
    assert grown.shape[2] - 2 * margin == kept.shape[2]
    np.testing.assert_array_equal(kept[0, :60, :61], targets[0])
    assert set(np.unique(kept[0, 60:])) <= {255}


def test_mirrored_context_keeps_pixel_weights_and_gives_padding_none():
    context = context_for({"variant": "paper", "depth": 1})
    targets = tf.constant(np.full((1, 9, 9, 2), [1.0, 7.0], "float32"))
    _, kept = mirror_context(tf.zeros((1, 9, 9, 3)), targets, context)
    assert min(kept.shape[1:3]) > 9
    np.testing.assert_array_equal(kept[0, :9, :9], targets[0])
    np.testing.assert_array_equal(np.unique(kept[0, 9:, :, 1]), [0.0])
    np.testing.assert_array_equal(np.unique(kept[0, 9:, :, 0]), [255.0])


def test_valid_networks_need_one_size():
    with pytest.raises(ValueError, match="set crop_size or input_size"):
        training_batches(
            _dataset(shapes_source(1, size=(24, 32))), output_size=None, base_size=None, batch_size=1,
            context=context_for({"variant": "paper"}),
        )  # fmt: skip
