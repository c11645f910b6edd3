"""What the trainer makes of options that only captioners have."""

from __future__ import annotations

import dataclasses
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


def test_every_caption_an_example_of_its_own(source, tmp_path):
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
