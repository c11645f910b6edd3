"""`kcvl vocab`, and `kcvl doctor` on captions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kcvl import main
from keras_cv_lectures.text import SPECIAL_WORDS, Vocabulary


@pytest.fixture
def spec(tmp_path):
    """Two training pictures and one for validation."""
    for i, name in enumerate("abc"):
        (tmp_path / "Images").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 40 * i, np.uint8)).save(tmp_path / "Images" / f"{name}.png")
    (tmp_path / "captions.txt").write_text("image,caption\na.png,A dog runs.\nb.png,A dog\nc.png,A lion runs\n")
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    (tmp_path / "val.txt").write_text("c.png\n")
    return f"flickr:{tmp_path}"


def test_the_words_of_the_training_captions_are_written(spec, tmp_path, capsys):
    out = tmp_path / "words" / "vocabulary.txt"
    assert main(["vocab", "--data", spec, "--min-count", "2", "--out", str(out)]) == 0
    assert Vocabulary.load(out).words == (*SPECIAL_WORDS, "a", "dog")
    lines = capsys.readouterr().out.splitlines()
    # Of "a dog runs", "a dog" one word of five is unknown, of "a lion runs" two of three.
    assert lines[1].split()[-5:] == ["2", "2", "5", "1", "20.00%"]
    assert lines[2].split()[-5:] == ["1", "1", "3", "2", "66.67%"]
    assert lines[3] == "most frequent: a 2, dog 2"
    assert (
        lines[4] == "6 words, the first 4 included; 1 of 3 different words are left out, which occur less than 2 times"
    )
    assert lines[5] == f"wrote {out}"
    assert lines[6].startswith("next  kcvl train")


def test_size_of_the_vocabulary(spec, tmp_path, capsys):
    out = tmp_path / "vocabulary.txt"
    assert main(["vocab", "--data", spec, "--min-count", "1", "--size", "5", "--out", str(out)]) == 0
    assert Vocabulary.load(out).words == (*SPECIAL_WORDS, "a")
    assert main(["vocab", "--data", spec, "--min-count", "1", "--out", str(out)]) == 0
    assert "none is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--size", "4"], 2, "--size must be at least 5"),
        (["--out", "."], 2, "--out . is a folder"),
        (["--min-count", "9"], 1, "no word occurs 9 times or more"),
        (["--data", "yolo:yolo"], 1, "has no captions. Give data with captions"),
        (["--data", "flickr:yolo"], 1, "holds no captions"),
    ],
)
def test_errors(spec, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "Images").rename(tmp_path / "yolo" / "images")
    for name in "abc":
        (tmp_path / "yolo" / "labels" / f"{name}.txt").write_text("0 0.5 0.5 1 1")
    assert main(["vocab", "--data", spec, "--out", "v.txt", *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "v.txt").exists()


def test_the_doctor_goes_on_to_the_vocabulary(spec, capsys):
    assert main(["doctor", spec]) == 0
    out = capsys.readouterr().out
    assert "captions: 2, 1 a picture; 2.5 words on average, at most 3" in out
    assert f"next  kcvl vocab --data {spec}" in out
