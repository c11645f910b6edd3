"""The size that `train` brings pictures to where nobody chose one."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.data.headers import picture_sizes
from keras_cv_lectures.errors import DataError, KcvlWarning
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import loop, train
from keras_cv_lectures.training.sizes import choose_input_size, shrunk_by

SMALL, LARGE = (16, 24), (32, 24)


@pytest.fixture(scope="module")
def mixed():
    """Ten pictures without files, the first and the second of another size than the others."""
    parts = shapes_source(2, size=LARGE), shapes_source(10, size=SMALL)
    return dataclasses.replace(parts[1], read=lambda index: parts[index >= 2].read(index))


class _Enough(Exception):
    pass


def _asked(system, source, out, options=None, config=None):
    """What `make_batches` is called with for training."""
    recipe = SYSTEMS[system]

    def make_batches(dataset, **settings):
        asked.update(settings)
        raise _Enough

    asked = {}
    with pytest.raises(_Enough):
        train(
            dataclasses.replace(recipe, make_batches=make_batches),
            source,
            out=out,
            config=recipe.smoke if config is None else config,
            options=options,
            verbose=0,
        )
    return asked


def test_a_segmentation_is_trained_with_the_options_of_its_recipe(tmp_path):
    """Pictures of one size are brought to it, and nobody is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = _asked("unet", shapes_source(9, size=SMALL), tmp_path / "run")
    assert (asked["output_size"], asked["base_size"], asked["batch_size"]) == (SMALL, SMALL, 8)


def test_pictures_of_several_sizes_are_stretched_with_a_warning(mixed, tmp_path):
    told = r"^the pictures have 2 sizes, 16x24 to 32x24 .*stretched to 16x24.* input_size=\(height, width\) chooses"
    with pytest.warns(KcvlWarning, match=told):
        assert _asked("unet", mixed, tmp_path / "run")["output_size"] == SMALL


def test_detectors_and_captioners_without_a_size_get_one(mixed):
    options = dataclasses.replace(SYSTEMS["faster_rcnn"].smoke_options, input_size=None)
    options, told = choose_input_size(SYSTEMS["faster_rcnn"], mixed, options)
    assert (options.input_size, "All are fitted into 16x24" in told) == (SMALL, True)
    options = dataclasses.replace(SYSTEMS["show_and_tell"].smoke_options, input_size=None)
    assert choose_input_size(SYSTEMS["show_and_tell"], shapes_source(3, size=LARGE), options)[0].input_size == LARGE


def test_large_pictures_are_shrunk_to_512_pixels():
    source = dataclasses.replace(
        shapes_source(3), read=lambda index: {"image": np.broadcast_to(np.uint8(0), (1024, 640, 3))}
    )
    options, told = choose_input_size(SYSTEMS["unet"], source, TrainingOptions())
    assert options.input_size == (512, 320)
    assert told == "pictures of 1024x640 are shrunk to 512x320; input_size=(height, width) chooses another size."


def test_how_much_pictures_are_shrunk_is_the_median(mixed):
    """Two of 32x24 and eight of 16x24, all brought to 8x12: the root of 384 / 96."""
    assert shrunk_by(mixed, (8, 12)) == 2.0
    assert shrunk_by(mixed.subset([0], "one"), (16, 24)) == 1.414  # The root of two.
    assert shrunk_by(mixed, None) is None


def test_what_an_encoder_said_of_pictures_has_no_size_to_choose():
    source = dataclasses.replace(shapes_source(3), read=lambda index: {"annotations": np.zeros((2, 2, 4))})
    options = TrainingOptions()
    assert choose_input_size(SYSTEMS["show_and_tell"], source, options) == (options, "")


def test_sizes_of_pictures_without_files_are_looked_at_all_over_the_source(mixed):
    assert picture_sizes(mixed) == {LARGE: 2, SMALL: 8}
    read = []

    def reading(index):
        read.append(index)
        if index == 0:
            raise DataError("the first picture is damaged.")
        return {"image": np.zeros((4 + (index == 999), 5, 3), np.uint8)}

    many = dataclasses.replace(shapes_source(1000), read=reading)
    assert picture_sizes(many) == {(4, 5): 62, (5, 5): 1}
    assert len(set(read)) == 64
    assert np.diff(sorted(read)).min() >= 15


@pytest.mark.parametrize(
    ("system", "options", "compiled"),
    [
        ("unet", {}, "auto"),
        ("unet", {"input_size": None, "crop_size": (16, 16)}, False),
        ("show_and_tell", {}, False),
    ],
)
def test_graphs_of_many_shapes_are_not_compiled_for_each(monkeypatch, system, options, compiled):
    monkeypatch.setattr(loop.tf.config, "list_physical_devices", lambda kind: [kind])
    recipe = SYSTEMS[system]
    assert loop._jit_compile(recipe, dataclasses.replace(recipe.smoke_options, **options)) == compiled


def test_examples_that_are_no_whole_pictures_of_their_files_are_measured(tmp_path):
    """Such as crops of objects: their files' headers tell of other pictures."""
    for index in range(3):
        Image.new("RGB", (90, 70)).save(tmp_path / f"{index}.png")
    crops = dataclasses.replace(shapes_source(3, size=SMALL), files=lambda index: (tmp_path / f"{index}.png",))
    assert picture_sizes(crops) == {SMALL: 3}
