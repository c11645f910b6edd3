"""What the trainer makes of options that only captioners have."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json

import numpy as np
import pytest

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating.captioning import CaptionEvaluation
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.text import SPECIAL_WORDS, Vocabulary
from keras_cv_lectures.training import train

CAPTIONS = (("a dog",), ("a cat", "the cat runs"), ("a dog", "a cat", "two dogs"), ("the dog",), ("a cat",))


class Enough(Exception):
    """Before anything is trained."""


@pytest.fixture
def source():
    def read(index):
        image = np.full((48, 64, 3), index, np.uint8)
        return {"image": image, "captions": np.array(CAPTIONS[index], object), "image_id": str(index)}

    return Source(
        name="pets",
        ids=tuple("abcde"),
        read=read,
        classes=(),
        colors=(),
        captions_at=lambda index: CAPTIONS[index],
    )


def without_captions_at(source, kind=str):
    """The same captions, known by reading pictures only, as lists of `kind`."""

    def read(index):
        texts = [text if kind is str else text.encode() for text in CAPTIONS[index]]
        return {**source.read(index), "captions": texts}

    return dataclasses.replace(source, read=read, captions_at=None, texts=None)


def batches_asked_for(source, out, **options):
    """What `make_batches` is called with: for training, then for validation."""
    recipe, calls = SYSTEMS["show_and_tell"], []

    def make_batches(dataset, **settings):
        calls.append((dataset, settings))
        if len(calls) == 2:
            raise Enough
        return recipe.make_batches(dataset, **settings)

    chosen = dataclasses.replace(recipe.smoke_options, batch_size=2, **options)
    with pytest.raises(Enough):
        train(
            dataclasses.replace(recipe, make_batches=make_batches),
            source.subset(range(4)),
            source.subset([4]),
            out=out,
            config=recipe.smoke,
            options=chosen,
            verbose=0,
        )
    return calls


@pytest.mark.parametrize("known", [True, False])
def test_every_caption_an_example_of_its_own(source, tmp_path, known):
    source = source if known else without_captions_at(source, bytes)
    (dataset, settings), (_, validation) = batches_asked_for(source, tmp_path / "run", captions_per_picture=1, epochs=3)
    # Seven captions of four pictures, in batches of two: four steps, of which the last meets one caption again.
    assert int(dataset.cardinality()) == 3 * 8
    assert settings["context"]["examples_per_epoch"] == 8
    assert validation["context"]["examples_per_epoch"] is None
    said = [[text.decode() for text in example["captions"].numpy()] for example in dataset.take(7)]
    assert sorted(said) == sorted([text] for texts in CAPTIONS[:4] for text in texts)
    # The run was trained on pictures.
    assert (tmp_path / "run" / "train_ids.txt").read_text().split() == list("abcd")


def test_all_captions_of_a_picture_together(source, tmp_path):
    (dataset, settings), _ = batches_asked_for(source, tmp_path / "run", epochs=3)
    assert int(dataset.cardinality()) == 3 * 4
    assert settings["context"]["captions_per_picture"] == "all"
    assert settings["context"]["captions"] == 3  # of the five rows that are usual, no picture fills more


@pytest.mark.parametrize("kind", [str, bytes])
def test_captions_that_only_reading_a_picture_tells(source, tmp_path, kind):
    """`captions_at` is optional, and captions may be bytes: the words are those of the texts."""
    (dataset, settings), _ = batches_asked_for(without_captions_at(source, kind), tmp_path / "run")
    assert settings["context"]["vocabulary"] == Vocabulary.build(sum(CAPTIONS[:4], ()), min_count=1).words
    assert settings["context"]["captions"] == 5
    (inputs, _), *_ = SYSTEMS["show_and_tell"].make_batches(dataset, **settings)
    assert inputs["tokens"].shape[:2] == (2, 5)


def test_bytes_without_opening_pictures(source, tmp_path):
    told = dataclasses.replace(source, captions_at=lambda index: [t.encode() for t in CAPTIONS[index]], texts=None)
    (_, settings), _ = batches_asked_for(told, tmp_path / "run")
    assert settings["context"]["vocabulary"] == Vocabulary.build(sum(CAPTIONS[:4], ()), min_count=1).words


def test_pictures_without_captions_are_still_refused(source, tmp_path):
    bare = dataclasses.replace(
        source, read=lambda index: {"image": np.zeros((48, 64, 3), np.uint8)}, captions_at=None, texts=None
    )
    recipe = SYSTEMS["show_and_tell"]
    with pytest.raises(DataError, match="captioners need captions"):
        train(recipe, bare, out=tmp_path, options=recipe.smoke_options)


@pytest.mark.parametrize("name", ["show_attend_tell", "show_and_tell"])
def test_the_constant_caption_is_not_sought_after_every_epoch(name):
    recipe = SYSTEMS[name]
    assert recipe.epoch_evaluate.func is recipe.evaluate
    assert recipe.epoch_evaluate.keywords == {"baseline": False}


@pytest.mark.parametrize("name", ["show_attend_tell", "show_and_tell"])
def test_scores_of_an_epoch_are_those_that_are_announced(name):
    recipe = SYSTEMS[name]
    fields = {field.name: None for field in dataclasses.fields(CaptionEvaluation)}
    scores = dict.fromkeys(("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "exact_match"), 0.5)
    grounded = {"attention_in_box": 0.25, "even_in_box": 0.125}
    found = recipe.epoch_scores(CaptionEvaluation(**{**fields, "scores": scores | grounded}))
    assert set(found) == set(recipe.epoch_score_names)


def test_from_scratch_the_backbone_has_normalisation_and_what_is_asked_for_stays():
    """The paper's VGG-19 has none; the builder's default stays the paper's."""
    recipe = SYSTEMS["show_attend_tell"]
    assert inspect.signature(recipe.build).parameters["backbone"].default == "vgg19"

    def fitted(**config):
        return dict(recipe.fit_config({**recipe.config, **config}, recipe.options, None))

    assert fitted(units=4) == {"units": 4, "backbone": "resnet14_v1_5"}
    assert fitted(backbone_weights=None, weights=None)["backbone"] == "resnet14_v1_5"
    for asked in ({"backbone": "vgg19"}, {"backbone_weights": "imagenet"}, {"weights": "decoder.npz"}):
        assert fitted(**asked) == asked


def test_whole_weights_go_with_the_backbone_of_their_run(tmp_path):
    """A run that tells none was built with the builder's; of a file without a run the default training's is taken."""
    recipe, begun = SYSTEMS["show_attend_tell"], {"new": {"backbone": "resnet14_v1_5"}, "old": {"units": 4}}
    for name, config in begun.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(Metadata(config=config).to_json()))

    def backbone(weights, **config):
        fitted = recipe.fit_config({"weights": weights, **config}, recipe.options, None, recipe.build)
        assert fitted["weights"] == weights
        return fitted.get("backbone")

    assert backbone(str(tmp_path / "new" / "best.keras")) == "resnet14_v1_5"
    assert backbone(tmp_path / "old" / "best.weights.h5") == "vgg19"
    assert backbone(tmp_path / "new" / "best.keras", backbone="vgg16") == "vgg16"
    assert backbone(str(tmp_path / "alone.keras")) == "resnet14_v1_5"
    assert backbone(str(tmp_path / "new" / "decoder.pth")) is None


def _stopped(builder, source, out, **settings):
    """The arguments that `train` calls `builder` with, which is to raise `Enough` of them."""
    recipe = SYSTEMS["show_attend_tell"]
    options = dataclasses.replace(recipe.smoke_options, keep_best="loss")
    with pytest.raises(Enough) as stopped:
        train(dataclasses.replace(recipe, build=builder), source, out=out, options=options, verbose=0, **settings)
    return stopped.value.args[0]


def _own(input_shape, num_classes, **config):
    raise Enough(config)


def _with_backbone(input_shape, num_classes, *, backbone="resnet50_v1_5", **config):
    raise Enough({"backbone": backbone, **config})


@functools.wraps(SYSTEMS["show_attend_tell"].build)
def _wrapped(*args, **config):
    _own(*args, **config)


def test_a_builder_of_ones_own_keeps_its_backbone(source, tmp_path):
    """Where it passes one on, a second one would be an error; where it has a default, that is its choice."""
    assert _stopped(_own, source, tmp_path, config={"units": 4}) == {"units": 4}
    assert _stopped(_with_backbone, source, tmp_path) == {"backbone": "resnet50_v1_5"}
    assert _stopped(functools.partial(_wrapped, backbone="vgg16"), source, tmp_path) == {"backbone": "vgg16"}
    assert _stopped(_wrapped, source, tmp_path) == {"backbone": "resnet14_v1_5"}


def test_a_continued_run_gets_no_argument_that_it_was_begun_without(source, tmp_path):
    """Without a backbone in its `run.json` it is on the builder's VGG-19."""
    told = {**Metadata(config={"units": 4}).to_json(), "options": {"input_size": [48, 64]}}
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert _stopped(_wrapped, source, tmp_path, config={"units": 4}, resume=True) == {"units": 4}
    told["config"] = {"units": 4, "backbone": "resnet14_v1_5"}
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert _stopped(_wrapped, source, tmp_path, config={"units": 4}, resume=True) == told["config"]
    # What the data tell is found anew where nothing was begun.
    assert _stopped(_wrapped, source, tmp_path / "none", resume=True) == {"backbone": "resnet14_v1_5"}


def test_weights_go_on_with_the_words_they_know(source, tmp_path):
    recipe = SYSTEMS["show_and_tell"]
    # As many words as `source` has, in another order.
    of_source = Vocabulary.build(source.texts(), min_count=1).words
    words = (*SPECIAL_WORDS, *reversed(of_source[4:]))
    (tmp_path / "first").mkdir()
    model = recipe.build((None, None, 3), len(words), **recipe.smoke)
    model.save_weights(tmp_path / "first" / "best.weights.h5")
    (tmp_path / "first" / "run.json").write_text(json.dumps(Metadata(classes=words).to_json()))

    def go_on(out, **options):
        return train(
            recipe,
            source,
            out=tmp_path / out,
            config={**recipe.smoke, "weights": str(tmp_path / "first" / "best.weights.h5")},
            options=dataclasses.replace(recipe.smoke_options, epochs=1, keep_best="loss", **options),
            verbose=0,
        )

    with pytest.raises(DataError, match=r"run whose 11 words are not the 11 of this .*vocabulary=.*first"):
        go_on("second")
    run = go_on("third", vocabulary=str(tmp_path / "first"), min_count=recipe.options.min_count)
    assert read_metadata(run.folder).classes == words
