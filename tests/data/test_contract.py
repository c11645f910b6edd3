"""What a reader promises of its arrays, checked wherever examples are taken from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import Source, cached, data_error, examine, to_dataset
from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import evaluate_segmentation
from keras_cv_lectures.segmentation import build_unet
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training.checks import check_sources

_GOOD = {"image": np.zeros((6, 8, 3), np.uint8), "mask": np.zeros((6, 8), np.int32)}
# What of an example is another, and what is said of it.
_BAD = {
    "half": ({"mask": np.ones((3, 4), np.int32)}, r"'mask' must be \(H, W\) of the picture's size \(6, 8\).*\(3, 4\)"),
    "axis": ({"mask": np.ones((6, 8, 1), np.int32)}, r"'mask' must be \(H, W\).*is of shape \(6, 8, 1\).*drop axes"),
    "16 bits": ({"image": np.zeros((6, 8, 3), np.uint16)}, r"'image' must be \(H, W, C\) of uint8.*is uint16 of shape"),
    "0..1": ({"image": np.ones((6, 8, 3), np.float32)}, r"is float32 of shape \(6, 8, 3\).*of 0..1 \(255"),
    "grey": ({"image": np.zeros((6, 8), np.uint8)}, r"is uint8 of shape \(6, 8\).*image\[..., None\]"),
    "several": ({"image": np.zeros((1, 6, 8, 3), np.uint8)}, r"shape \(1, 6, 8, 3\).*one picture, its channels last"),
    "weights": ({"weights": np.ones((8, 6), np.float32)}, r"'weights' must be \(H, W\).*\(6, 8\), but is .*\(8, 6\)"),
    "objects": ({"instance_masks": np.ones((2, 8, 6), np.uint8)}, r"'instance_masks' must be \(N, H, W\).*\(2, 8, 6\)"),
}


def source_of(*examples):
    names = ("background", "thing")
    return Source(
        name="mine",
        ids=tuple(f"p{i}" for i in range(len(examples))),
        read=lambda index: dict(examples[index]),
        classes=names,
        colors=((0, 0, 0), (9, 9, 9)),
    )


@pytest.mark.parametrize(("changed", "message"), _BAD.values(), ids=list(_BAD))
def test_arrays_that_training_would_misread_are_refused_by_name(changed, message):
    """By the doctor, by the trainer before it builds anything, and in later examples by what it reads from."""
    bad = {**_GOOD, **changed}
    report = examine([source_of(bad, _GOOD, bad)])
    assert [problem.partition(":")[0] for problem in report.problems] == ["mine, example p0", "mine, example p2"]
    assert report.splits[0].readable == 1
    with pytest.raises(DataError, match=f"^mine, example p0: .*{message}"):
        check_sources(SYSTEMS["unet"], source_of(bad), None)
    with pytest.raises(DataError, match=f"^mine, example p0: .*{message}"):
        check_sources(SYSTEMS["unet"], source_of(_GOOD), source_of(bad))
    good = {key: np.zeros(bad[key].shape[:-2] + (6, 8), np.uint8) for key in changed if key not in _GOOD} | _GOOD
    with pytest.raises(tf.errors.OpError) as caught:
        list(to_dataset(source_of(good, bad), shuffle=False, seed=0, epochs=1))
    with pytest.raises(DataError, match=f"^mine, example p1: .*{message}"):
        raise DataError(data_error(caught.value))
    with pytest.raises(DataError, match=f"^mine, example p0: .*{message}"):
        to_dataset(source_of(bad), shuffle=False, seed=0)


def test_what_readers_may_give_is_taken():
    check_example(_GOOD, "here", channels=3)
    check_example({"image": np.zeros((6, 8, 5), np.uint8), "instance_masks": np.zeros((0, 6, 8), np.uint8)}, "here")
    check_example({"annotations": np.zeros((2, 2, 7), np.float32)}, "here")  # Features in the place of a picture.
    assert examine([source_of(_GOOD, _GOOD)]).ok


def test_the_doctor_wants_as_many_channels_as_in_the_first_example():
    report = examine([source_of(_GOOD, {**_GOOD, "image": np.zeros((6, 8, 1), np.uint8)}, {"mask": _GOOD["mask"]})])
    assert report.problems == (
        "mine, example p1: 'image' must have 3 channels as in the first example, but is of shape (6, 8, 1). Read all "
        "examples with the same number of channels.",
        "mine, example p2 has no 'image'. Let the reader give (H, W, C) uint8.",
    )


def test_a_mask_of_another_size_is_not_scored():
    model = build_unet((None, None, 3), 2, filters=2, depth=1)
    with pytest.raises(DataError, match="^mine, example p1: 'mask' must be"):
        evaluate_segmentation(model, source_of(_GOOD, {**_GOOD, **_BAD["half"][0]}))


def test_the_cache_leaves_the_arrays_of_its_source_writable():
    own = np.zeros((2, 2, 3), np.uint8)
    kept = cached(dataclasses.replace(source_of(_GOOD), read=lambda index: {"image": own}))[0]["image"]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1
    own[0, 0, 0] = 7
    assert kept[0, 0, 0] == 7
