"""The report page of a captioner: complete, self-contained, escaped, whatever is missing."""

import re

import numpy as np
import pytest

from keras_cv_lectures.visualize import CaptionPicture, write_caption_report
from keras_cv_lectures.visualize.curves import quantity_words, smaller_is_better

NAN = float("nan")
SCORES = {"bleu1": 0.512, "bleu4": 0.118, "cider": 0.2, "exact_match": 0.25, "attention_in_box": 0.71, "meteor": None}
CONSTANT = {"bleu1": 0.3, "bleu4": 0.061, "cider": 0.01, "exact_match": 0.0}
HISTORY = [
    {"epoch": e, "loss": 5.0 - e, "val_loss": 5.5 - e, "val_bleu1": 0.1 * e, "val_bleu4": 0.02 * (3 - abs(e - 2))}
    for e in (1, 2, 3)
]


def picture(name="p1.jpg", **changes):
    fields = {
        "name": name,
        "image": np.zeros((20, 30, 3), np.uint8),
        "words": ["a", "red", "star"],
        "references": ["A red star.", '<b id="evil">bold</b>'],
        "attention": np.ones((3, 2, 2)) / 4,
        "log_probability": -1.25,
        "scores": {"CIDEr-D": 4.5, "ROUGE-L": NAN},
    }
    return CaptionPicture(**fields | changes)


def visible(path):
    text = path.read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*</style>", "", text, flags=re.S)))


def test_the_page_tells_everything(tmp_path):
    exports = [{"file": "sat.tflite", "size_bytes": 2e6, "bleu4": 0.117, "cider": 0.19, "operators_ok": True}]
    path = write_caption_report(
        tmp_path / "report.html",
        title="show_attend_tell: mine",
        metadata={"data": "flickr", "vocabulary": "2,543 words"},
        history=HISTORY,
        scores=SCORES,
        constant=CONSTANT,
        constant_caption="a man in a red shirt",
        best=[picture()],
        worst=[picture("p2.jpg", attention=None, words=[], references=[str(i) for i in range(9)])],
        exports=exports,
        notes="Chosen by BLEU.",
    )
    shown, text = visible(path), path.read_text(encoding="utf-8")
    for word in (
        "show_attend_tell: mine",
        "Best validation BLEU-4: 0.06, epoch 2",
        "“a man in a red shirt”, said about every picture",
        "BLEU-4 0.118 0.061",
        "attention in the box 0.710 –",
        "a red star CIDEr-D 4.500 · log probability -1.25",
        "A red star.",
        "(no word)",
        "and 3 more",
        "scores of the file's own captions",
        "0.117",
        "2,543 words",
        "Chosen by BLEU.",
    ):
        assert word in shown.replace("&#x27;", "'"), word
    assert 'id="evil"' not in text
    assert "METEOR" not in shown
    assert "nan" not in shown.lower()
    assert not re.search(r'src="(?!data:)', text)
    assert "<script" not in text


def test_a_page_of_nothing(tmp_path):
    shown = visible(write_caption_report(tmp_path / "report.html", title="nothing"))
    for word in (
        "No training history",
        "was not evaluated on pictures with captions",
        "No example pictures",
        "Nothing was exported",
    ):
        assert word in shown


@pytest.mark.parametrize(
    ("name", "words"), [("bleu4", "BLEU-4"), ("cider", "CIDEr-D"), ("mask_ap50", "mask AP50"), ("mean_iou", "mean IoU")]
)
def test_names_of_scores(name, words):
    assert quantity_words(name) == words
    assert not smaller_is_better(name)


def test_losses_of_captioners_fall():
    assert smaller_is_better("cross_entropy")
    assert smaller_is_better("doubly_stochastic")
