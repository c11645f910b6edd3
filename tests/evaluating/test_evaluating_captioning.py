"""Scores of captioners on sources: known answers, attention in boxes, and data that does not fit."""

import dataclasses
import json
import math

import numpy as np
import pytest

from keras_cv_lectures.data import open_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating import best_constant_caption, caption_headlines, evaluate_captioning
from keras_cv_lectures.evaluating.captioning import _exact_match
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.metrics import caption_scores
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import Vocabulary

SIZE = (40, 80)
WORDS = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "red", "blue", "star", "ring", "and", "an", "empty"))
TRUTH = [("A red star and a blue ring.", "a star"), ("a blue ring",), ("an empty picture",)]
SAID = ["a red star and a blue ring", "a blue star", "a red star"]
# Of the first picture the words `star` and `ring` name boxes; of the second `ring`.
OBJECTS = [[-1, -1, 0, -1, -1, -1, 1], [-1, -1, 0], [-1, -1, -1]]
BOXES = [[(0, 0, 20, 20), (40, 20, 80, 40)], [(20, 0, 40, 20)], []]


def source_of(truth=TRUTH, *, boxes=True, opened=None):
    """Each picture is known by its grey level."""

    def read(index):
        if opened is not None:
            opened.append(index)
        example = {"image": np.full((*SIZE, 3), index, np.uint8), "image_id": f"p{index}"}
        if truth is not None:
            example["captions"] = np.array(truth[index], dtype=object)
        if boxes:
            example["boxes"] = np.float32(BOXES[index]).reshape(-1, 4)
            example["caption_objects"] = np.int32(OBJECTS[index])
        return example

    captions_at = None if opened is None else (lambda index: truth[index])
    ids = tuple(f"p{i}" for i in range(len(truth or TRUTH)))
    return Source(name="test", ids=ids, read=read, classes=(), colors=(), captions_at=captions_at)


def runner_of(said=SAID, *, attention=True, seen=None):
    """Says what `said` has for the picture of that grey level, looking at the upper left of 2 x 4 locations."""

    def run(images):
        if seen is not None:
            seen.append(len(images))
        tokens = np.zeros((len(images), 9), np.int32)
        maps = np.zeros((len(images), 9, 2, 4), np.float32)
        for row, image in enumerate(images):
            ids = WORDS.encode(said[image[0, 0, 0]])[1:]
            tokens[row, : len(ids)] = ids
            maps[row, : len(ids), 0, 0], maps[row, : len(ids), 1, 2] = 0.75, 0.25
        outputs = {"tokens": tokens, "length": np.sum(tokens > 2, axis=1), "log_probability": -np.ones(len(images))}
        return {**outputs, "attention": maps} if attention else outputs

    shape = {"input_shape": (*SIZE, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(classes=WORDS.words), path=None, run=run, **shape)


def test_scores_of_a_case_worked_by_hand():
    seen, batches = [], []
    evaluation = evaluate_captioning(
        runner_of(seen=batches), source_of(), progress=lambda *done: seen.append(done), batch_size=2
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert batches == [1, 2, 1]  # the first is a black picture, which tells what the file gives
    assert evaluation.captions == SAID
    assert (evaluation.pictures, evaluation.references, evaluation.distinct) == (3, 4, 3)
    scores = evaluation.scores
    # All seven words of the first, two of the second's three, none of the third's; 13 words against 13.
    assert scores["bleu1"] == pytest.approx(9 / 13)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert evaluation.picture_rouge_l == pytest.approx([1, 2 / 3, 0])
    assert evaluation.picture_cider[2] == 0 < evaluation.picture_cider[1] < evaluation.picture_cider[0]
    assert scores["cider"] == pytest.approx(np.mean(evaluation.picture_cider))
    json.dumps(scores)
    assert caption_headlines(scores) == {
        key: scores[key]
        for key in ("bleu1", "bleu4", "rouge_l", "cider", "exact_match", "attention_in_box", "even_in_box")
    }


def test_attention_counts_at_words_that_are_right():
    evaluation = evaluate_captioning(runner_of(), source_of())
    # `star` and `ring` of the first picture. The second says `star` where a ring is: its box is not the star's.
    assert evaluation.grounded_words == 2
    # Three quarters lie in the first box; a quarter in the second, which the location 1, 2 is the left half of.
    assert evaluation.scores["attention_in_box"] == pytest.approx((0.75 + 0.25) / 2)
    assert evaluation.scores["attention_peak_in_box"] == pytest.approx(0.5)
    assert evaluation.scores["even_in_box"] == pytest.approx((400 + 800) / 2 / 3200)
    for model, source in ((runner_of(attention=False), source_of()), (runner_of(), source_of(boxes=False))):
        found = evaluate_captioning(model, source)
        assert found.grounded_words == 0
        assert not {"attention_in_box", "attention_peak_in_box", "even_in_box"} & set(found.scores)


def test_the_best_constant_caption():
    evaluation = evaluate_captioning(runner_of(), source_of())
    references = [list(each) for each in TRUTH]
    tried = {text: caption_scores([text] * 3, references) for each in TRUTH for text in each}
    best = max(tried.values(), key=lambda scores: scores["bleu4"])
    assert evaluation.constant == pytest.approx(best | {"exact_match": 1 / 3})
    assert evaluation.constant_caption in ("a red star and a blue ring", "a blue ring", "a star", "an empty picture")
    assert evaluate_captioning(runner_of(), source_of(), baseline=False).constant == {}

    opened = []
    found = best_constant_caption(source_of(opened=opened))
    assert (found.caption, opened) == (evaluation.constant_caption, [])
    assert found.scores == pytest.approx(evaluation.constant)
    assert best_constant_caption(source_of(), candidates=["A ring!"]).caption == "a ring"


def test_generated_shapes_say_which_word_names_which_box():
    source = open_source("shapes:count=6,size=48x64,seed=3", split="train")
    words = sorted({word for example in source for word in str(example["captions"][0]).split()})
    vocabulary = Vocabulary((*WORDS.words[:4], *words))
    boxes = [np.asarray(example["boxes"]) for example in source]

    def run(images):
        """Says the truth and looks, at every word, at the middle of the box that it names."""
        index = asked.pop(0)
        example = source[index]
        ids = vocabulary.encode(str(example["captions"][0]))[1:]
        maps = np.zeros((1, len(ids), 48, 64), np.float32)
        for place, row in enumerate(example["caption_objects"]):
            x1, y1, x2, y2 = boxes[index][row] if row >= 0 else (0, 0, 1, 1)
            maps[0, place, int((y1 + y2) / 2), int((x1 + x2) / 2)] = 1
        maps[0, -1, 0, 0] = 1
        return {
            "tokens": np.int32([ids]),
            "length": np.int32([len(ids) - 1]),
            "log_probability": np.zeros(1),
            "attention": maps,
        }

    asked = [0, *range(6)]
    shape = {"input_shape": (48, 64, 3), "input_dtype": "uint8"}
    runner = Runner(kind="other", metadata=Metadata(classes=vocabulary.words), path=None, run=run, **shape)
    evaluation = evaluate_captioning(runner, source, batch_size=1)
    assert evaluation.grounded_words == sum(len(each) for each in boxes)
    assert evaluation.scores["exact_match"] == evaluation.scores["attention_in_box"] == 1.0
    assert evaluation.scores["attention_peak_in_box"] == 1.0
    assert 0 < evaluation.scores["even_in_box"] < 0.5
    assert evaluation.scores["bleu4"] == pytest.approx(1, abs=1e-6)


def test_captions_without_words_score_nothing():
    def run(images):
        return {"tokens": np.int32([[2, 0]]), "length": np.int32([0]), "log_probability": np.zeros(1)}

    shape = {"input_shape": (*SIZE, 3), "input_dtype": "uint8"}
    runner = Runner(kind="other", metadata=Metadata(classes=WORDS.words), path=None, run=run, **shape)
    evaluation = evaluate_captioning(runner, source_of(), batch_size=1)
    assert max(evaluation.scores.values()) < 1e-9
    assert _exact_match([("a",), ()], [[["a"], []], [["b"], []]]) == 0.5
    assert math.isclose(evaluation.distinct, 1)


def test_what_cannot_be_compared():
    with pytest.raises(DataError, match="test has no captions to compare with. .* flickr:DIR"):
        evaluate_captioning(runner_of(), source_of(None))
    with pytest.raises(DataError, match="holds no pictures"):
        evaluate_captioning(runner_of(), source_of().subset([]))
    with pytest.raises(DataError, match="test: p1 has no caption"):
        evaluate_captioning(runner_of(), source_of([TRUTH[0], ("", "."), TRUTH[2]], boxes=False))
    with pytest.raises(DataError, match="one number for each of the 2 words"):
        evaluate_captioning(runner_of(), source_of([("a star",), *TRUTH[1:]]))
    with pytest.raises(ModelError, match="is no captioner"):
        evaluate_captioning(_segmentation(), source_of())


def _segmentation():
    def run(images):
        return {"probabilities": np.full((*images.shape[:3], 3), 1 / 3, np.float32)}

    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(), path=None, run=run, **shape)


def test_features_are_no_pictures():
    source = source_of()
    features = dataclasses.replace(
        source, read=lambda index: {"annotations": np.zeros((1, 2, 3)), "captions": source.read(index)["captions"]}
    )
    with pytest.raises(DataError, match="test has no pictures.*`cache_features`.*: give the source"):
        evaluate_captioning(runner_of(), features)
