"""Features that are computed once: whole after an interruption, refused where they belong to something else."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import warnings

import keras
import numpy as np
import pytest

from keras_cv_lectures.data import Source, shapes_source, to_dataset
from keras_cv_lectures.data.features import INDEX, FeatureFolder
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.preprocessing import Augmentation, caption_batches, resize_example
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.text import Vocabulary
from keras_cv_lectures.training import cache_features, train
from keras_cv_lectures.training.features import _cached_for_training, identity

SIZE = (12, 16)
COUNT, PER_SHARD = 11, 4
# 3x4x2 numbers of two bytes.
SHARD_BYTES = PER_SHARD * 3 * 4 * 2 * 2


def make_encoder(seed=0, scale=1.0, activation="relu"):
    """The mean of each 4x4 block of pixels, in two channels."""
    image = keras.Input((None, None, 3))
    kernel = keras.initializers.Constant(scale / 48)
    found = keras.layers.Conv2D(2, 4, strides=4, activation=activation, kernel_initializer=kernel)(image)
    return keras.Model(image, found, name=f"encoder_{seed}")


def make_source(count=COUNT, offset=0, captions=True):
    """Picture i is filled with i."""
    reads = []

    def read(index):
        reads.append(index)
        image = np.full((24, 32, 3), index + offset, np.uint8)
        return {"image": image, "captions": np.array([f"number {index}", "a number"], object), "image_id": str(index)}

    source = Source(
        name="numbers",
        ids=tuple(map(str, range(count))),
        read=read,
        classes=(),
        colors=(),
        captions_at=(lambda index: (f"number {index}", "a number")) if captions else None,
    )
    return source, reads


def cache(folder, source=None, encoder=None, **settings):
    return cache_features(
        encoder or make_encoder(),
        source or make_source()[0],
        folder,
        **{"input_size": SIZE, "batch_size": 3, "shard_bytes": SHARD_BYTES, **settings},
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_features_instead_of_pictures(tmp_path):
    source, reads = make_source()
    calls = []
    cached = cache(tmp_path / "f", source, progress=lambda *numbers: calls.append(numbers))
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [INDEX, *(f"shard-0000{k}.npy" for k in range(3))]
    reads.clear()
    assert len(cached) == COUNT
    assert cached.ids == source.ids
    assert list(cached.texts()) == list(source.texts())
    for index, example in enumerate(cached):
        assert set(example) == {"annotations", "captions", "image_id"}
        assert example["annotations"].dtype == np.float32
        np.testing.assert_allclose(example["annotations"], np.full((3, 4, 2), index), rtol=1e-3)
        assert list(example["captions"]) == [f"number {index}", "a number"]
    assert not reads  # Pictures stay closed.
    assert calls == [(3, 11), (4, 11), (7, 11), (8, 11), (11, 11)]


def test_captions_of_a_source_that_knows_them_by_its_pictures_only(tmp_path):
    source, reads = make_source(captions=False)
    cached = cache(tmp_path / "f", source)
    reads.clear()
    assert [list(cached[i]["captions"]) for i in (2, 2, 2)] == [["number 2", "a number"]] * 3
    assert reads == [2]


def test_they_are_what_the_encoder_says_of_the_resized_picture(tmp_path):
    source = shapes_source(3, size=(30, 41), seed=1)
    cached = cache(tmp_path / "f", source, dtype="float32")
    encoder = make_encoder()
    for index in range(3):
        picture = resize_example(source[index], SIZE)["image"]
        expected = np.asarray(encoder(picture[None].astype("float32")))[0]
        np.testing.assert_allclose(cached[index]["annotations"], expected, rtol=1e-6, atol=1e-6)


def test_a_killed_call_goes_on_where_it_was(tmp_path):
    cache(tmp_path / "whole")

    def kill(done, total):
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path / "killed", progress=kill)
    assert sorted(contents(tmp_path / "killed")) == [INDEX, "shard-00000.npy"]  # No half of the second one.
    before = (tmp_path / "killed" / "shard-00000.npy").stat()
    source, reads = make_source()
    calls = []
    cache(tmp_path / "killed", source, progress=lambda done, total: calls.append(done))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    after = (tmp_path / "killed" / "shard-00000.npy").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert calls == [7, 8, 11]
    # Those of the finished shard were looked at once, to see that they are the same.
    assert {i: reads.count(i) for i in (1, 2, 3)} == {1: 1, 2: 1, 3: 1}


def test_a_finished_folder_is_only_read(tmp_path):
    cache(tmp_path / "f")
    before = contents(tmp_path / "f")
    (tmp_path / "f").chmod(0o500)
    calls = []
    cached = cache(tmp_path / "f", progress=lambda *numbers: calls.append(numbers), shard_bytes=7, batch_size=1)
    (tmp_path / "f").chmod(0o700)
    assert contents(tmp_path / "f") == before
    assert not calls
    assert len(cached) == COUNT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": lambda: make_encoder(scale=1.5)}, "made with weights .* and weights .* is wanted"),
        ({"encoder": lambda: make_encoder(activation="tanh")}, "made with network"),
        ({"input_size": (8, 16)}, "made with input_size 12x16, and input_size 8x16 is wanted"),
        ({"dtype": "float32"}, "made with dtype float16, and dtype float32"),
        ({"source": lambda: make_source(12)[0]}, "are of 11 pictures, and not of these 12"),
        ({"source": lambda: make_source()[0].subset(range(10, -1, -1))}, "their ids differ"),
        ({"source": lambda: make_source(offset=5)[0]}, "of 0 the encoder now says something else"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, change, message):
    cache(tmp_path / "f")
    before = contents(tmp_path / "f")
    change = {key: value() if callable(value) else value for key, value in change.items()}
    with pytest.raises(DataError, match=message) as caught:
        cache(tmp_path / "f", **change)
    assert "another folder, or delete" in str(caught.value)
    assert contents(tmp_path / "f") == before


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path):
    (tmp_path / "picture.png").write_text("x")
    with pytest.raises(DataError, match="no folder of features"):
        cache(tmp_path)
    with pytest.raises(DataError, match="no folder of features"):
        cache(tmp_path / "picture.png")
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_an_encoder_is_known_by_what_it_computes_not_by_its_name():
    one, other = identity(make_encoder(seed=1)), identity(make_encoder(seed=2))
    assert one == other
    assert identity(make_encoder(activation="tanh"))["network"] != one["network"]
    assert identity(make_encoder(scale=2.0))["weights"] != one["weights"]
    assert identity(make_encoder(scale=2.0))["network"] != one["network"]  # Its initializer.


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "pickle"])
def test_a_damaged_file_is_named(tmp_path, damage):
    cache(tmp_path / "f")
    path = tmp_path / "f" / "shard-00001.npy"
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -10 if damage == "cut" else 0])
    else:
        np.save(path, np.array([{}] if damage == "pickle" else [1.0]), allow_pickle=True)
    with pytest.raises(DataError, match=r"shard-00001\.npy .*Delete it"):
        cache(tmp_path / "f")
    path.unlink()
    np.testing.assert_allclose(cache(tmp_path / "f")[5]["annotations"], np.full((3, 4, 2), 5), rtol=1e-3)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "per_shard": 4}'])
def test_a_damaged_index_is_named(tmp_path, text):
    cache(tmp_path / "f")
    (tmp_path / "f" / INDEX).write_text(text)
    with pytest.raises(DataError, match=r"features\.json"):
        cache(tmp_path / "f")


def test_an_index_of_a_later_version_is_refused(tmp_path):
    cache(tmp_path / "f")
    index = json.loads((tmp_path / "f" / INDEX).read_text())
    (tmp_path / "f" / INDEX).write_text(json.dumps({**index, "format": 2}))
    with pytest.raises(DataError, match="another version"):
        cache(tmp_path / "f")


def test_a_full_disk_is_said_and_finished_files_stay(tmp_path, monkeypatch):
    save = np.save

    def fail(path, *arguments, **more):
        if "shard-00001" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, *arguments, **more)

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(DataError, match=r"the disk is full.*complete are kept"):
        cache(tmp_path / "f")
    assert sorted(contents(tmp_path / "f")) == [INDEX, "shard-00000.npy"]


def test_too_small_a_disk_is_said_before_any_picture_is_encoded(tmp_path):
    ids = tuple(map(str, range(1000)))
    with pytest.raises(DataError, match=r"need \d+\.\d GB more"):
        FeatureFolder.at(
            tmp_path / "f", ids=ids, shape=(10**4, 10**4, 10**3), dtype="float16", shard_bytes=1, made_with={}
        )


def test_an_unreadable_picture_is_named(tmp_path):
    source, _ = make_source()

    def read(index):
        if index == 6:
            raise DataError("6.jpg is cut off")
        return source.read(index)

    with pytest.raises(DataError, match=r"^6\.jpg is cut off$"):
        cache(tmp_path / "f", dataclasses.replace(source, read=read))


def test_numbers_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"do not fit into float16 .*dtype='float32'"):
        cache(tmp_path / "f", encoder=make_encoder(scale=1e5))
    cache(tmp_path / "g", encoder=make_encoder(scale=1e5), dtype="float32")


def test_a_training_keeps_numbers_beyond_float16_as_float32(tmp_path):
    encoder, (source, _) = make_encoder(scale=1e5), make_source()
    settings = {"input_size": SIZE, "batch_size": 3, "shard_bytes": SHARD_BYTES}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KcvlWarning)
        found = _cached_for_training(encoder, source, tmp_path / "train", **settings)
    (warning,) = (str(w.message) for w in told if w.category is KcvlWarning)
    assert re.search("too large for float16.*train_float32.*Delete it", warning)
    np.testing.assert_allclose(found[10]["annotations"], np.full((3, 4, 2), 10 * 1e5), rtol=1e-5)
    # Another training knows it, and computes nothing again.
    before = contents(tmp_path / "train_float32")
    (tmp_path / "train" / INDEX).unlink()
    again = _cached_for_training(encoder, source, tmp_path / "train", **settings)
    np.testing.assert_array_equal(again[10]["annotations"], found[10]["annotations"])
    assert contents(tmp_path / "train_float32") == before
    assert not (tmp_path / "train" / INDEX).exists()


def test_numbers_that_are_not_finite_are_refused_at_any_precision(tmp_path):
    for dtype in ("float16", "float32"):
        with pytest.raises(ModelError, match=r"of 0 or a picture after it are not all finite numbers. Check the enc"):
            cache(tmp_path / dtype, encoder=make_encoder(scale=np.inf), dtype=dtype)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_size": (12,)}, "`input_size` must be"),
        ({"dtype": "int8"}, "`dtype` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"shard_bytes": -1}, "`shard_bytes` must be"),
    ],
)
def test_wrong_arguments(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        cache(tmp_path / "f", **settings)


def test_batches_of_annotations(tmp_path):
    words = Vocabulary.build(["a number"], min_count=1).words
    dataset = to_dataset(cache(tmp_path / "f"), shuffle=True, seed=1, epochs=1, keys=["annotations", "captions"])
    for more, shape in (({}, (4, 2)), ({"captions_per_picture": 1}, (4, 1))):
        batches = caption_batches(
            dataset,
            output_size=None,
            base_size=None,
            batch_size=4,
            augmentation=Augmentation.none(),
            drop_remainder=True,
            context={"vocabulary": words, "captions": 2, **more},
        )
        spec, _ = batches.element_spec
        assert spec["annotations"].shape.as_list()[1:] == [3, 4, 2]
        assert list(spec) == ["annotations", "tokens"]
        for inputs, targets in batches:
            assert inputs["annotations"].dtype == np.float32
            assert inputs["tokens"].shape[:2] == shape
            np.testing.assert_array_equal(inputs["tokens"], targets)


def _train(out, folder, source, **options):
    recipe = SYSTEMS["show_attend_tell"]
    config = {**recipe.smoke, "freeze_backbone": options.pop("frozen", True), "units": 8, "attention_units": 4}
    wanted = {"epochs": 2, "batch_size": 4, "cache_features": str(folder) if folder else None, **options}
    return train(
        recipe,
        source.subset(range(4)),
        source.subset(range(4, 6)),
        out=out,
        config=config,
        options=dataclasses.replace(recipe.smoke_options, **wanted),
        augmentation=dataclasses.asdict(Augmentation.none()),
        verbose=0,
    )


# What noise says of a picture is as good as anything to learn the same from twice.
@pytest.mark.filterwarnings("ignore:.*random numbers:keras_cv_lectures.errors.KcvlWarning")
def test_training_on_features_is_training_on_pictures_without_augmentation(tmp_path):
    source = shapes_source(6, size=(48, 64), seed=2)
    pictures = _train(tmp_path / "pictures", None, source)
    features = _train(tmp_path / "features", tmp_path / "cache", source)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["train", "val"]
    for one, other in zip(pictures.history, features.history, strict=True):
        assert set(one) == set(other)
        for name in ("loss", "val_loss", "cross_entropy"):
            assert one[name] == pytest.approx(other[name], rel=2e-3), name
    run = json.loads((tmp_path / "features" / "run.json").read_text())
    assert run["augmentation"]["flip"] == 0
    assert (tmp_path / "features" / "train_ids.txt").read_text().split() == list(source.ids[:4])


@pytest.mark.filterwarnings("ignore:.*random numbers:keras_cv_lectures.errors.KcvlWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": False}, "freeze_backbone=true"),
        ({"input_size": None, "crop_size": (48, 64)}, "needs input_size=HEIGHTxWIDTH and no crop_size"),
    ],
)
def test_what_features_do_not_go_with(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _train(tmp_path / "run", tmp_path / "cache", shapes_source(6, size=(48, 64)), **options)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()


def test_features_are_for_captioners(tmp_path):
    recipe, source = SYSTEMS["unet"], shapes_source(4, size=(48, 64))
    options = dataclasses.replace(recipe.smoke_options, cache_features=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="is for captioners"):
        train(recipe, source, out=tmp_path / "run", config=recipe.smoke, options=options, verbose=0)
