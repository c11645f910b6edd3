"""`kcvl predict` and `kcvl evaluate` with captioners, on the files that a stranger has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image

from kcvl import commands, scoring
from kcvl.text import scores_table
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import Vocabulary

WORDS = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "red", "blue", "star"))
TRUTH = {50: ["A red star.", "a star"], 100: ["a blue star"]}
SAID = {50: "a red star", 100: "a star"}
DATA = "captions:captions.csv,images"


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """A folder with pictures, and a table of their captions."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    rows = ["image,caption"]
    for grey, captions in TRUTH.items():
        Image.fromarray(np.full((60, 100, 3), grey, np.uint8)).save(f"images/p{grey}.png")
        rows += [f"p{grey}.png,{caption}" for caption in captions]
    Path("captions.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def captioner(monkeypatch):
    """Makes `kcvl` load a captioner whatever the path; the argument is the picture size that it takes."""

    def install(size=(None, None), **metadata):
        def run(images):
            ids = WORDS.encode(SAID.get(int(images[0, 0, 0, 0]), "star"))[1:]
            tokens = np.int32([[*ids, *[0] * (6 - len(ids))]])
            even = np.full((1, 6, 2, 3), 1 / 6, np.float32)
            return {"tokens": tokens, "length": np.int32([3]), "log_probability": np.zeros(1), "attention": even}

        def load(path):
            facts = Metadata(**{"classes": WORDS.words, **metadata})
            shape = {"input_shape": (*size, 3), "input_dtype": "uint8"}
            return Runner(kind="other", metadata=facts, path=Path(path), run=run, **shape)

        monkeypatch.setattr(scoring, "load_runner", load)
        monkeypatch.setattr(commands, "load_runner", load)

    return install


@pytest.mark.parametrize("size", [(None, None), (60, 100)], ids=str)
def test_predict_says_the_captions_and_writes_them(captioner, size):
    captioner(size)
    code, out, err = call("predict", "model", "images", "--out", "found")
    assert (code, err.count("skipped")) == (0, 0)
    assert "p50: a red star\np100: a star\n" in out or "p100: a star\np50: a red star\n" in out
    assert json.loads(Path("found/p50_caption.json").read_text())["caption"] == "a red star"
    assert Path("found/p100_caption.png").exists()


def test_of_many_pictures_the_first_captions_are_said(captioner):
    captioner()
    for number in range(10):
        Image.new("RGB", (20, 20)).save(f"images/many{number}.png")
    _, out, _ = call("predict", "model", "images", "--out", "found")
    assert out.count(": star") + out.count(": a ") == 8
    assert "... and 4 more, each in its _caption.json" in out


def test_evaluate_tells_the_scores_and_the_constant_caption(captioner):
    captioner()
    code, out, _ = call("evaluate", "model", "--data", DATA, "--out", "scores")
    assert code == 0
    lines = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines() if line.strip()}
    assert lines["BLEU-1"][0] == "0.8187"  # all five words right, one too few: exp(1 - 6/5)
    assert lines["exact captions"] == ["0.5000", "0.5000"]
    assert "2 pictures of" in out
    assert "with 3 references; the best constant caption is “a" in out
    assert "2 different captions" in out
    assert json.loads(Path("scores/scores.json").read_text())["captions"] == ["a red star", "a star"]
    assert Path("scores/report.html").exists()


def test_captions_need_a_captioner_and_a_captioner_captions(captioner, monkeypatch):
    captioner((60, 100))
    code, _, err = call("evaluate", "model", "--data", "folder:images,images")
    assert code != 0
    assert "a captioner learns and gives sentences" in err
    for option in (("--score", "0.5"), ("--original-size",)):
        code, _, err = call("evaluate", "model", "--data", DATA, *option)
        assert code != 0
        assert "is not for captioners" in err
    code, _, err = call("predict", "model", "images", "--score", "0.5", "--out", "found")
    assert code != 0
    assert "describes pictures in words" in err
    code, _, err = call("predict", "model", "images", "--tile", "64", "--out", "found")
    assert code != 0
    assert "captioner is not predicted in tiles" in err
    monkeypatch.setattr(scoring, "is_captioner", lambda runner: False)
    monkeypatch.setattr(scoring, "is_detector", lambda runner: False)
    code, _, err = call("evaluate", "model", "--data", DATA)
    assert code != 0
    assert "captions, which are for captioners. This model needs masks" in err


def test_words_that_are_not_known(captioner):
    captioner((60, 100), classes=())
    code, _, err = call("predict", "model", "images", "--out", "found")
    assert code != 0
    assert "are not known: it gives numbers" in err


def test_a_table_of_scores_alone():
    shown = scores_table({"bleu1": 0.5, "bleu4": 0.25, "cider": 1.5})
    assert shown.splitlines()[1:] == ["BLEU-1   0.5000", "BLEU-4   0.2500", "CIDEr-D  1.5000"]
