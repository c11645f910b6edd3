"""What `train` refuses or warns of before it builds anything."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import open_source, shapes_source
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train, train_staged
from keras_cv_lectures.training.checks import (
    check_folder,
    check_network,
    check_options,
    check_sources,
    warn_of_shared_pictures,
)


@pytest.mark.parametrize(
    ("system", "options", "augmentation", "message"),
    [
        ("unet", {"momentum": 0.5}, {}, "`momentum` has no effect on adamw. Choose optimizer=sgd, or leave"),
        ("unet", {"momentum": 0.5, "optimizer": "rmsprop"}, {}, "`momentum` has no effect on rmsprop"),
        ("unet", {"momentum": 0.5, "optimizer": "sgd"}, {}, None),
        ("unet", {"milestones": 12}, {}, "`milestones` has no effect on schedule=cosine. Choose schedule=steps"),
        ("unet", {"milestones": (8, 11), "milestone_factor": 0.2, "schedule": "steps"}, {}, None),
        ("unet", {}, {"min_visible": 0.5}, "`min_visible` has no effect on unet. Leave it out"),
        ("unet", {}, {"fill": "constant", "resize": False}, None),
        ("mask_rcnn", {}, {"fill": "constant"}, "`fill` has no effect on mask_rcnn"),
        ("mask_rcnn", {}, {"resize": False}, "`resize` has no effect on mask_rcnn"),
        ("mask_rcnn", {}, {"min_visible": 0.5}, None),
        ("show_and_tell", {"min_count": 3, "vocabulary": "words.txt"}, {}, "`min_count` .* vocabulary=words.txt"),
        ("show_and_tell", {"min_count": 3}, {}, None),
        ("show_and_tell", {"captions": 3, "captions_per_picture": 1}, {}, r"`captions` .*captions_per_picture=1"),
        ("show_and_tell", {"captions": 3}, {}, None),
        ("show_and_tell", {"cache_features": "cache"}, {"rotate": 5.0}, "`rotate` .*or train without cache_features"),
        ("show_and_tell", {"cache_features": "cache"}, {"flip": 0.0, "crop": False}, None),
        ("show_and_tell", {}, {"rotate": 5.0}, None),
    ],
    ids=str,
)
def test_options_without_effect(system, options, augmentation, message):
    recipe = SYSTEMS[system]
    options = dataclasses.replace(recipe.options, **options)
    if message is None:
        check_options(recipe, options, augmentation)
        return
    with pytest.raises(ValueError, match=message):
        check_options(recipe, options, augmentation)


def test_the_augmentation_of_train_is_checked_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="`min_visible` has no effect on unet"):
        train(SYSTEMS["unet"], shapes_source(2), out=tmp_path / "run", augmentation={"min_visible": 0.5})
    with pytest.raises(ValueError, match=r"`include_preprocessing` must be true.*Received: .*=False"):
        train(SYSTEMS["unet"], shapes_source(2), out=tmp_path / "run", config={"include_preprocessing": False})
    assert not (tmp_path / "run").exists()


def test_validation_data_whose_labels_mean_other_classes_are_refused():
    source = shapes_source(2)
    objects = source.object_classes[::-1]
    turned = dataclasses.replace(source, name="turned", classes=(source.classes[0], *objects), object_classes=objects)
    for system, kind in (("unet", "classes"), ("faster_rcnn", "object_classes")):
        check_sources(SYSTEMS[system], source, source)
        with pytest.raises(DataError, match=rf"`val_source` turned has the {kind} \(.*like=train_source"):
            check_sources(SYSTEMS[system], source, turned)
    # Of a detector only the classes of objects matter, of a captioner none.
    without = dataclasses.replace(source, classes=source.object_classes, colors=source.object_colors)
    check_sources(SYSTEMS["faster_rcnn"], source, without)
    check_sources(SYSTEMS["show_and_tell"], source, turned)


def test_an_empty_validation_source_is_not_none(tmp_path):
    source = shapes_source(2)
    with pytest.raises(DataError, match="^shapes seed 0 holds no pictures; there is nothing to validate on"):
        train(SYSTEMS["unet"], source, source.subset([]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_that_normalise_are_trained():
    for recipe in SYSTEMS.values():
        for config in (recipe.config, recipe.smoke, recipe.demo, {"include_preprocessing": True}):
            check_network(config)


def test_models_without_their_checkpoint_are_not_overwritten(tmp_path):
    check_folder(tmp_path / "new", resume=False)
    (tmp_path / "best.keras").write_bytes(b"a model")
    for resume in (False, True):
        with pytest.raises(ModelError, match=r"holds best.keras without the checkpoint.*Choose another --out, or move"):
            train(SYSTEMS["unet"], shapes_source(2), out=tmp_path, resume=resume)
    with pytest.raises(ModelError, match="holds best.keras without"):
        train_staged({".": SYSTEMS["unet"]}, shapes_source(2), out=tmp_path, resume=True)
    # Killed in the first epoch: with the folder begun there is nothing that a training has ended with.
    (tmp_path / "checkpoint").mkdir()
    check_folder(tmp_path, resume=True)
    with pytest.raises(ModelError, match="holds best.keras without"):
        check_folder(tmp_path, resume=False)
    (tmp_path / "last.keras").write_bytes(b"a model")
    with pytest.raises(ModelError, match=r"holds best.keras and last.keras without"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "checkpoint" / "state.json").write_text("{}")
    check_folder(tmp_path, resume=True)


@pytest.fixture
def folder(tmp_path):
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.fromarray(np.full((8, 8), index % 2, np.uint8)).save(tmp_path / name / f"p{index}.png")
    (tmp_path / "val.txt").write_text("p1\np3\n")
    (tmp_path / "train.txt").write_text("p0\np2\np4\n")
    return f"folder:{tmp_path}/photos,{tmp_path}/masks"


def test_validating_on_training_pictures_is_said(folder, tmp_path):
    val = open_source(f"{folder},list={tmp_path}/val.txt")
    with pytest.warns(KcvlWarning, match="^2 of the 2 pictures to validate on are trained on, too: scores on them say"):
        warn_of_shared_pictures(open_source(folder), val)
    warn_of_shared_pictures(open_source(f"{folder},list={tmp_path}/train.txt"), val)
    warn_of_shared_pictures(open_source(folder), None)
    # Generated pictures have no files; their names tell the seed.
    warn_of_shared_pictures(shapes_source(4, seed=1), shapes_source(4, seed=2))
    with pytest.warns(KcvlWarning, match="1 of the 1 pictures"):
        warn_of_shared_pictures(shapes_source(4, seed=1), shapes_source(4, seed=1).subset([3]))


def test_pictures_of_equal_names_in_other_folders_are_not_trained_on(folder, tmp_path):
    """Not even below a folder that all training pictures lie in."""
    inner = tmp_path / "photos" / "more"
    (tmp_path / "masks" / "more").mkdir()
    inner.mkdir()
    for kind in ("photos", "masks"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / "more" / "p1.png")
    train_source = open_source(f"{folder},list={tmp_path}/train.txt")
    val = open_source(f"folder:{inner},{tmp_path}/masks/more")
    wide = dataclasses.replace(train_source, ids=("p0", "p1", "p4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shared_pictures(wide, val)
        warn_of_shared_pictures(shapes_source(2), val)


def test_train_says_so_itself(tmp_path):
    recipe = dataclasses.replace(SYSTEMS["unet"], build=_stop)
    source = shapes_source(4, size=(16, 16))
    with pytest.warns(KcvlWarning, match="1 of the 1 pictures"), pytest.raises(_Stop):
        train(recipe, source, source.subset([1]), out=tmp_path / "run")


class _Stop(Exception):
    pass


def _stop(*arguments, **settings):
    raise _Stop
