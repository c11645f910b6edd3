import dataclasses
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import caption_texts
from keras_cv_lectures.data.doctor import examine
from keras_cv_lectures.data.source import Source, cached, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.errors import DataError


def make_source(count=6, read=None, name="toy"):
    def draw(index):
        return {
            "image": np.full((2 + index, 3, 3), index, np.uint8),
            "boxes": np.full((index, 4), index, np.float32),
            "captions": ["a dog", "ein Häuschen"][: 1 + index % 2],
            "questions": [("what?", "that")],
            "image_id": f"é{index}",
        }

    return Source(
        name=name,
        ids=tuple(f"e{i}" for i in range(count)),
        read=read or draw,
        classes=("background",),
        colors=((0, 0, 0),),
    )


def indices(dataset):
    return [int(example["index"]) for example in dataset]


def test_source_is_an_indexable_list():
    source = make_source()
    assert len(source) == 6
    assert source[-1]["image_id"] == "é5"
    assert [example["image"].shape[0] for example in source] == [2, 3, 4, 5, 6, 7]
    with pytest.raises(IndexError, match="toy has 6 examples; index 6"):
        source[6]
    few = source.subset([4, 1], "few")
    assert (few.name, few.ids, few[1]["image_id"]) == ("few", ("e4", "e1"), "é1")
    assert few.subset([0]).ids == ("e4",)
    with pytest.raises(DataError, match="'e1' occurs twice"):
        source.subset([1, 1])
    with pytest.raises(IndexError):
        source.subset([6])


def test_names_of_objects_and_what_was_left_out():
    source = dataclasses.replace(
        make_source(), classes=("background", "cat"), colors=((0, 0, 0), (9, 9, 9)), object_classes=("cat",)
    )
    assert source.object_colors == ((9, 9, 9),)
    assert make_source().object_colors == ()
    with pytest.raises(DataError, match="object_classes must be the last ones of classes"):
        dataclasses.replace(source, object_classes=("background",))
    source = dataclasses.replace(source, inspect=lambda index: (source.read(index), (f"gone {index}",)))
    assert source.subset([4, 1]).inspect(1)[1] == ("gone 1",)
    assert source.subset([4, 1]).object_classes == ("cat",)
    assert make_source().subset([0]).inspect is None


def test_dataset_gives_what_the_source_gives():
    dataset = to_dataset(make_source(), shuffle=False, seed=0, epochs=1)
    spec = dataset.element_spec
    assert spec["image"] == tf.TensorSpec((None, None, 3), tf.uint8)
    assert spec["boxes"] == tf.TensorSpec((None, 4), tf.float32)
    assert spec["captions"] == tf.TensorSpec((None,), tf.string)
    assert spec["image_id"] == tf.TensorSpec((), tf.string)
    assert spec["seed"] == tf.TensorSpec((2,), tf.int32)
    assert spec["index"] == tf.TensorSpec((), tf.int64)
    assert "questions" not in spec
    for index, example in enumerate(dataset):
        expected = make_source()[index]
        np.testing.assert_array_equal(example["image"], expected["image"])
        np.testing.assert_array_equal(example["boxes"], expected["boxes"])
        assert [text.decode() for text in example["captions"].numpy()] == expected["captions"]
        assert example["image_id"].numpy().decode() == expected["image_id"]
    assert index == 5
    assert dataset.cardinality() == 6


@pytest.mark.parametrize("as_given", [list, tuple, np.array, lambda texts: np.array(texts, dtype=object)])
def test_captions_of_bytes_are_texts(as_given):
    captions = as_given([b"a dog", "ein Häuschen".encode()])
    source = make_source(read=lambda index: {"image": np.zeros((2, 2, 3), np.uint8), "captions": captions})
    (example,) = to_dataset(source, shuffle=False, seed=0, epochs=1, examples_per_epoch=1)
    assert [text.decode() for text in example["captions"].numpy()] == ["a dog", "ein Häuschen"]
    assert list(caption_texts(source))[:2] == ["a dog", "ein Häuschen"]
    assert examine([source], name="toy").splits[0].captions.words == 4
    source = make_source(
        read=lambda index: {"image": np.zeros((2, 2, 3), np.uint8), "captions": ["ä".encode("cp1252")]}
    )
    with pytest.raises(DataError, match="is no UTF-8 text. Give captions as str"):
        list(caption_texts(source))


def test_every_epoch_is_a_new_permutation():
    order = indices(to_dataset(make_source(), shuffle=True, seed=3, epochs=4))
    epochs = [order[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert order != indices(to_dataset(make_source(), shuffle=True, seed=4, epochs=4))
    assert indices(to_dataset(make_source(), shuffle=False, seed=3, epochs=2)) == [0, 1, 2, 3, 4, 5] * 2


def test_resumed_dataset_continues_the_uninterrupted_one():
    def run(**options):
        dataset = to_dataset(make_source(), shuffle=True, seed=7, keys=["image_id"], **options)
        return [(int(e["index"]), tuple(e["seed"].numpy()), e["image_id"].numpy()) for e in dataset.take(24)]

    whole = run(epochs=4, parallel=3)
    assert run(first_epoch=2, epochs=4) == whole[12:]
    assert run(first_epoch=1, epochs=4, skip=5) == whole[11:]
    assert run() == whole
    assert len({seed for _, seed, _ in whole}) == 24


def test_seed_does_not_depend_on_the_order():
    def seeds(shuffle):
        dataset = to_dataset(make_source(), shuffle=shuffle, seed=5, epochs=1)
        return {int(e["index"]): tuple(e["seed"].numpy()) for e in dataset}

    assert seeds(True) == seeds(False)


def test_endless_dataset_reads_no_more_than_it_must():
    dataset = to_dataset(make_source(), shuffle=False, seed=0)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    assert indices(dataset.take(8)) == [0, 1, 2, 3, 4, 5, 0, 1]

    read = []
    counted = make_source(read=lambda i: read.append(i) or {"x": np.zeros(1)})
    indices(to_dataset(counted, shuffle=False, seed=0, epochs=1, skip=4))
    assert sorted(read) == [0, 4, 5]  # Example 0 is the template.


def test_empty_sources_and_unknown_keys():
    with pytest.raises(DataError, match="toy has no examples"):
        to_dataset(make_source(0), shuffle=False, seed=0)
    with pytest.raises(DataError, match="toy has no mask; its examples hold boxes"):
        to_dataset(make_source(), shuffle=False, seed=0, keys=["mask"])


def test_message_of_a_data_error_survives_tf_data():
    message = "/some/where/picture 7.png is truncated (cut: 3 bytes).\nCopy it again."

    def read(index):
        if index == 3:
            try:
                raise OSError("inner")
            except OSError as error:
                raise DataError(message) from error
        return {"image": np.zeros((1, 1, 3), np.uint8)}

    dataset = to_dataset(make_source(read=read), shuffle=False, seed=0, epochs=1).batch(2).prefetch(1)
    with pytest.raises(tf.errors.OpError) as caught:
        list(dataset)
    assert data_error(caught.value) == message
    wrapped = RuntimeError("training stopped")
    wrapped.__cause__ = caught.value
    assert data_error(wrapped) == message
    assert data_error(DataError("plain")) == "plain"
    assert data_error(ValueError("other")) is None
    assert data_error(None) is None


def test_examples_that_differ_in_kind_are_named():
    def read(index):
        return {"image": np.zeros((4, 4, 1 if index == 2 else 3), np.uint8)}

    with pytest.raises(tf.errors.OpError) as caught:
        list(to_dataset(make_source(read=read), shuffle=False, seed=0, epochs=1))
    assert data_error(caught.value).startswith("toy, example e2: 'image' must be uint8 of shape (any, any, 3)")


def test_cache_reads_once_until_it_is_full():
    reads = []

    def read(index):
        reads.append(index)
        return {"image": np.full((10, 10, 1), index, np.uint8), "image_id": str(index)}

    source = cached(make_source(read=read), max_bytes=250)
    for _ in range(3):
        assert [int(example["image"][0, 0, 0]) for example in source] == list(range(6))
    assert [reads.count(i) for i in range(6)] == [1, 1, 3, 3, 3, 3]
    example = source[0]
    with pytest.raises(ValueError, match="read-only"):
        example["image"][0] = 1
    example["extra"] = 1
    assert "extra" not in source[0]


def test_cache_serves_many_threads():
    source = cached(make_source(200))
    wrong = []

    def work():
        wrong.extend(i for i in range(200) if source[i]["image_id"] != f"é{i}")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert indices(to_dataset(cached(make_source()), shuffle=False, seed=0, epochs=1)) == list(range(6))


def test_an_example_met_again_within_an_epoch_gets_another_seed():
    source = make_source(3)
    dataset = to_dataset(source, shuffle=True, seed=0, epochs=2, examples_per_epoch=8)
    rows = [(int(e["index"]), tuple(e["seed"].numpy())) for e in dataset]
    assert len(rows) == 16
    assert len({seed for _, seed in rows}) == 16
    for epoch in (rows[:8], rows[8:]):
        # Two whole rounds, each with every example once, then the beginning of a third.
        assert sorted(i for i, _ in epoch[:3]) == sorted(i for i, _ in epoch[3:6]) == [0, 1, 2]
    fewer = to_dataset(source, shuffle=True, seed=0, epochs=2, examples_per_epoch=2)
    assert len(list(fewer)) == 4


def test_dropping_an_iterator_waits_for_no_tuning_thread():
    """It sleeps for long, and being cancelled does not always wake it."""
    dataset = to_dataset(make_source(3), shuffle=False, seed=0, epochs=1).batch(2).prefetch(tf.data.AUTOTUNE)
    assert dataset.options().autotune.enabled is False


def test_waiting_for_readers_makes_it_safe_to_drop_an_iterator():
    """Readers are at work when the loop stops; after waiting, none is, and dropping the iterator returns."""
    active = []

    def slow(index):
        active.append(index)
        time.sleep(0.05)
        return {"image": np.zeros((4, 4, 3), np.uint8)}

    iterator = iter(to_dataset(make_source(50, read=slow), shuffle=False, seed=0).batch(2).prefetch(4))
    next(iterator)
    wait_for_readers(quiet=0.2)
    before = len(active)
    time.sleep(0.2)
    assert len(active) == before, "no reader starts again"
    del iterator
