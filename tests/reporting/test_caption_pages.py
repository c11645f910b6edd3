"""What a run folder of a captioner keeps and shows, with a captioner that says what it is told."""

import json
import types

import numpy as np
import pytest

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.evaluating import evaluate_captioning
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.reporting import captions, evaluate_run, exports, pages, refresh_report, report_evaluation
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import Vocabulary

WORDS = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "red", "blue", "star", "ring"))
TRUTH = ["a red star", "a blue ring", "a star", "a red ring", "a blue star"]
SAID = ["a red star", "a red ring", "a star", "red ring", "ring"]


@pytest.fixture
def source():
    def read(index):
        image = np.full((16, 24, 4), index, np.uint8)
        return {"image": image, "captions": np.array([TRUTH[index]], object), "image_id": f"p{index}"}

    return Source(name="test", ids=tuple(f"p{i}" for i in range(5)), read=read, classes=(), colors=())


@pytest.fixture
def runner(monkeypatch):
    def run(images):
        tokens = np.zeros((len(images), 5), np.int32)
        for row, image in enumerate(images):
            ids = WORDS.encode(SAID[image[0, 0, 0]])[1:]
            tokens[row, : len(ids)] = ids
        even = np.full((len(images), 5, 2, 2), 0.25, np.float32)
        return {"tokens": tokens, "length": tokens[:, 0], "log_probability": -np.ones(len(images)), "attention": even}

    facts = Metadata(system="show_attend_tell", classes=WORDS.words)
    shape = {"input_shape": (16, 24, 4), "input_dtype": "uint8"}
    found = Runner(kind="other", metadata=facts, path=None, run=run, **shape)
    monkeypatch.setattr(pages, "load_runner", lambda folder: found)
    return found


def recipe_of(keys=("image", "captions")):
    reference = types.SimpleNamespace(paper="Xu et al.")
    return types.SimpleNamespace(name="mine", reference=reference, keys=keys, evaluate=evaluate_captioning)


def run_folder(tmp_path):
    run = {"system": "show_attend_tell", "classes": list(WORDS.words), "colors": [], "command": "kcvl train"}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (tmp_path / "history.csv").write_text("epoch,loss,val_bleu1,val_bleu4\n1,4.5,0.3,0.1\n2,4.0,0.4,\n")
    return tmp_path


def test_best_and_worst_pictures(source, runner):
    found = captions.captions_json(evaluate_captioning(runner, source), source)
    json.dumps(found, allow_nan=False)
    assert found["captions"] == SAID
    best, worst = captions.caption_examples(runner, source, found)
    assert [picture.name for picture in best] == ["p0", "p2", "p3"]
    assert {picture.name for picture in worst} == {"p1", "p4"}
    assert (best[0].words, best[0].references) == (("a", "red", "star"), ["a red star"])
    assert best[0].attention.shape == (3, 2, 2)
    assert best[0].image.shape == (16, 24, 3)
    assert captions.caption_examples(runner, source.subset([0]), found) == ([], [])


def test_a_run_folder_gets_its_page(source, runner, tmp_path):
    folder = run_folder(tmp_path)
    evaluate_run(recipe_of(), folder, source)
    text = refresh_report(recipe_of(), folder, source).read_text(encoding="utf-8")
    for shown in ("BLEU-4", "best constant caption", "5 captions with 5 references", "9 words", "a blue ring", "p4"):
        assert shown in text
    for wrong in ("mean IoU", "compared at", "boxes of"):
        assert wrong not in text


def test_a_page_without_evaluation(tmp_path):
    text = refresh_report(recipe_of(), run_folder(tmp_path), None).read_text(encoding="utf-8")
    assert "was not evaluated on pictures with captions" in text
    assert "compared" not in text


def test_an_evaluation_on_any_data(source, runner, tmp_path):
    evaluation = evaluate_captioning(runner, source)
    report_evaluation(tmp_path, runner, source, evaluation, command="kcvl evaluate")
    kept = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert kept["scores"]["bleu1"] == evaluation.scores["bleu1"]
    assert kept["constant_caption"] == evaluation.constant_caption
    assert "9 words" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_exported_captioner_is_scored(source, runner, monkeypatch):
    monkeypatch.setattr(exports, "load_runner", lambda path: runner)
    found, scored_on = exports._score_file("a.tflite", evaluate_captioning, source, None)
    assert sorted(found) == ["bleu1", "bleu4", "cider", "exact_match", "rouge_l"]
    assert scored_on == source.name
    assert found["exact_match"] == 0.4
