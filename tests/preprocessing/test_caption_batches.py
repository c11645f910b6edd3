"""What a captioner is fed: a picture once, its sentences as padded ids."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from keras_cv_lectures.data import Source, caption_pairs, to_dataset
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.preprocessing import Augmentation, augment, caption_batches
from keras_cv_lectures.text import SPECIAL_WORDS

WORDS = (*SPECIAL_WORDS, "a", "dog", "runs", "left", "of", "cat")
A, DOG, RUNS, LEFT, OF, CAT = range(4, 10)


def source_of(*captions, size=(4, 6)):
    """Picture i is filled with i on its left half and 100 + i on its right half."""

    def read(index):
        image = np.full((*size, 3), index, np.uint8)
        image[:, size[1] // 2 :] += 100
        return {"image": image, "captions": np.array(captions[index], dtype=object), "image_id": str(index)}

    return Source(
        name="toy",
        ids=tuple(map(str, range(len(captions)))),
        read=read,
        classes=(),
        colors=(),
        captions_at=lambda index: captions[index],
    )


def batches_of(source, *, size=(4, 6), batch_size=2, augmentation=None, epochs=1, first=0, shuffle=False, **more):
    drop = more.pop("drop_remainder", False)
    dataset = to_dataset(source, shuffle=shuffle, seed=3, epochs=epochs, first_epoch=first, keys=["image", "captions"])
    return caption_batches(
        dataset,
        output_size=size,
        base_size=size,
        batch_size=batch_size,
        augmentation=augmentation,
        drop_remainder=drop,
        context={"vocabulary": WORDS, **more},
    )


def test_a_batch_by_hand():
    source = source_of(["A dog runs.", "a lion"], ["dog"], ["cat", "a cat", "a dog runs left"])
    (first, targets), (second, _) = batches_of(source, captions=2)
    expected = [[[1, A, DOG, RUNS, 2], [1, A, 3, 2, 0]], [[1, DOG, 2, 0, 0], [0] * 5]]
    np.testing.assert_array_equal(first["tokens"], expected)
    np.testing.assert_array_equal(targets, expected)
    assert first["tokens"].dtype == np.int32
    assert first["image"].dtype == np.uint8
    np.testing.assert_array_equal(first["image"][1], source[1]["image"])
    # Padded to the longest of its own batch; of three captions the first two.
    np.testing.assert_array_equal(second["tokens"], [[[1, CAT, 2, 0], [1, A, CAT, 2]]])


def test_shapes_are_known_before_the_first_batch():
    inputs, targets = batches_of(source_of(["a dog"] * 3), captions=4).element_spec
    assert inputs["image"].shape.as_list() == [None, 4, 6, 3]
    assert inputs["tokens"].shape.as_list() == targets.shape.as_list() == [None, 4, None]
    assert list(inputs) == ["image", "tokens"]


def test_long_captions_are_cut_and_still_end():
    ((inputs, _),) = batches_of(source_of(["a dog runs left of a cat"]), max_words=3, captions=1)
    np.testing.assert_array_equal(inputs["tokens"], [[[1, A, DOG, RUNS, 2]]])


def test_of_many_captions_training_draws_some_by_the_seed():
    words = ["a", "dog", "runs", "left", "of", "cat"]
    source = source_of(words)
    still = Augmentation.none()

    def drawn(first):
        batches = batches_of(source, augmentation=still, epochs=6, first=first, captions=2, batch_size=1)
        return [tuple(row[1] for row in inputs["tokens"].numpy()[0]) for inputs, _ in batches]

    pairs = drawn(0)
    assert pairs[3:] == drawn(3)
    assert len(set(pairs)) > 3
    # In their order, and without an augmentation the first ones.
    assert all(first < second for first, second in pairs)
    ((inputs, _),) = batches_of(source, captions=2)
    np.testing.assert_array_equal(inputs["tokens"][0, :, 1], [A, DOG])


def test_pictures_without_captions_teach_nothing_and_are_told_once(caplog):
    source = source_of(["a dog"], ["..."], ["a cat"], [])
    with caplog.at_level(logging.WARNING, logger="keras_cv_lectures"):
        found = list(batches_of(source, captions=1, epochs=3, batch_size=1))
    assert [bool(inputs["tokens"].numpy().any()) for inputs, _ in found] == [True, False, True, False] * 3
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "1 picture(s) without a caption that has a word"
    ]
    pairs = list(batches_of(source, captions_per_picture=1, epochs=1, batch_size=1))
    assert sorted(int(inputs["image"][0, 0, 0, 0]) for inputs, _ in pairs) == [0, 2]


def mirrored(inputs):
    return (inputs["image"].numpy()[:, 0, 0, 0] >= 100).tolist()


def test_a_picture_whose_captions_name_a_side_is_not_mirrored():
    source = source_of(["a dog left of a cat", "a dog"], ["a dog"], ["a dog", "the leftmost cat"], ["bright lights"])
    always = Augmentation(flip=1.0)
    ((inputs, _),) = batches_of(source, augmentation=always, captions=2, batch_size=4)
    assert mirrored(inputs) == [False, True, False, True]
    ((inputs, _),) = batches_of(source, augmentation=always, captions=2, batch_size=4, mirror_sides=True)
    assert mirrored(inputs) == [True] * 4
    # What is cut off is not said.
    ((inputs, _),) = batches_of(source, augmentation=always, captions=2, max_words=2, batch_size=4)
    assert mirrored(inputs) == [True, True, False, True]


@pytest.mark.parametrize(
    "plan", [Augmentation(flip=0.5, brightness=0.5), Augmentation(flip=0.5, rotate=10.0), Augmentation(flip=0.0)]
)
def test_pictures_are_augmented_as_elsewhere(plan):
    source = source_of(*[["a dog"]] * 6)
    ((inputs, _),) = batches_of(source, augmentation=plan, captions=1, batch_size=6)
    examples = to_dataset(source, shuffle=False, seed=3, epochs=1, keys=["image"])
    for found, example in zip(inputs["image"], examples, strict=True):
        np.testing.assert_array_equal(found, augment(example, plan, (4, 6))["image"])
    assert plan.rotate or len(set(mirrored(inputs))) == 1 + (plan.flip > 0)


def test_every_caption_as_an_example_of_its_own():
    source = source_of(["a dog runs", "dog"], ["a cat"])
    found = list(batches_of(source, captions_per_picture=1, batch_size=1, augmentation=Augmentation(flip=1.0)))
    rows = sorted((int(inputs["image"][0, 0, -1, 0]), *inputs["tokens"].numpy()[0, 0]) for inputs, _ in found)
    # No padding where a batch holds one caption.
    assert rows == [(0, 1, A, DOG, RUNS, 2), (0, 1, DOG, 2), (1, 1, A, CAT, 2)]


@pytest.mark.parametrize("expanded", [False, True])
def test_captions_of_one_length_share_batches(expanded):
    rng = np.random.default_rng(0)
    captions = [[" ".join(["dog"] * int(n)) for n in rng.integers(1, 13, 3)] for _ in range(20)]
    source = source_of(*captions)
    if expanded:
        source = caption_pairs(source)
        assert len(source) == 60
    found = [inputs["tokens"].numpy() for inputs, _ in batches_of(source, captions_per_picture=1, batch_size=6)]
    assert [len(tokens) for tokens in found] == [6] * 10
    lengths = [(tokens > 0).sum(-1).ravel() for tokens in found]
    # All 60 sorted together: a batch spans few lengths, and is padded to its own longest only.
    assert sorted(np.concatenate(lengths) - 2) == sorted(len(text.split()) for texts in captions for text in texts)
    assert np.mean([np.ptp(n) for n in lengths]) < 2
    assert all(tokens.shape[1:] == (1, n.max()) for tokens, n in zip(found, lengths, strict=True))
    # The short ones do not come first.
    means = [n.mean() for n in lengths]
    assert means != sorted(means)


def test_buckets_that_end_with_the_epoch_can_be_resumed():
    rng = np.random.default_rng(0)
    pairs = caption_pairs(source_of(*[[" ".join(["dog"] * int(n)) for n in rng.integers(1, 9, 2)] for _ in range(10)]))
    options = {"captions_per_picture": 1, "batch_size": 4, "shuffle": True, "drop_remainder": True, "epochs": 2}

    def tokens(**more):
        return [(x["image"].numpy().tolist(), x["tokens"].numpy().tolist()) for x, _ in batches_of(pairs, **more)]

    whole = tokens(examples_per_epoch=20, **options)
    assert len(whole) == 10
    assert whole[5:] == tokens(examples_per_epoch=20, first=1, **options)
    assert whole[:5] != whole[5:]


def test_windows_of_a_larger_picture():
    source = source_of(["a dog"], size=(8, 12))
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1, keys=["image", "captions"])
    batches = caption_batches(
        dataset,
        output_size=(4, 4),
        base_size=(8, 12),
        batch_size=1,
        augmentation=Augmentation(flip=0.0),
        context={"vocabulary": WORDS},
    )
    ((inputs, _),) = batches
    windows = np.lib.stride_tricks.sliding_window_view(source[0]["image"], (4, 4, 3)).reshape(-1, 4, 4, 3)
    assert (windows == inputs["image"][0].numpy()).all(axis=(1, 2, 3)).any()
    assert inputs["tokens"].shape == (1, 5, 4)


def test_pictures_of_their_own_size_and_grey_ones():
    ((inputs, _),) = batches_of(source_of(["a dog"], size=(5, 8)), size=None, batch_size=1)
    assert inputs["image"].shape == (1, 5, 8, 3)
    dataset = to_dataset(source_of(["a dog"]), shuffle=False, seed=0, epochs=1, keys=["image", "captions"])
    arguments = {"output_size": (4, 6), "base_size": (4, 6), "batch_size": 1, "context": {"vocabulary": WORDS}}
    ((inputs, _),) = caption_batches(dataset, channels=1, **arguments)
    assert inputs["image"].shape == (1, 4, 6, 1)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"captions": 0}, ValueError, "captions: expected a whole number of at least 1, received 0"),
        ({"max_words": 0}, ValueError, "max_words: expected"),
        ({"captions_per_picture": 3}, ValueError, "captions_per_picture: expected 'all' or 1, received 3"),
        ({"words": 3}, ValueError, "context: expected .*; received words"),
        ({"vocabulary": ("a", "dog")}, DataError, "begins with <pad>"),
        ({"size": None}, ValueError, "output_size: expected"),
    ],
)
def test_settings_are_checked(more, error, message):
    with pytest.raises(error, match=message):
        batches_of(source_of(["a dog"]), **more)


def test_data_without_captions_is_refused():
    dataset = to_dataset(source_of(["a dog"]), shuffle=False, seed=0, epochs=1, keys=["image"])
    arguments = {"output_size": (4, 6), "base_size": (4, 6), "batch_size": 1}
    with pytest.raises(ValueError, match="captions: expected in every example, received only image, index, seed"):
        caption_batches(dataset, context={"vocabulary": WORDS}, **arguments)
    with pytest.raises(ValueError, match="vocabulary is missing"):
        caption_batches(dataset, context={}, **arguments)
