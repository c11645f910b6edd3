"""The report page of a detector: complete, self-contained, escaped, whatever is missing."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import ObjectPicture, object_report, training_curves, write_object_report
from keras_cv_lectures.visualize.curves import is_average_precision, joint_curves, quantity_words, smaller_is_better

NAN = float("nan")
CLASSES = ["cell", '<b id="evil">bold</b>']
COLORS = [(10, 20, 30), (200, 40, 50)]
CURVE = [np.array([0.5, 1.0]), np.array([1.0, 0.75]), np.array([0.9, 0.6])]


class Page(HTMLParser):
    """Checks that tags close in order; collects the text, ids, tables and addresses."""

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.ids, self.pictures, self.charts = [], [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open
        self.visible = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.append(attributes.get("id"))
        assert tag != "script"
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            self.pictures[attributes["alt"]] = attributes["src"]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def picture(self, alt):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.pictures[alt].split(",", 1)[1]))))


def row(name, **changes):
    numbers = {"ap": 0.41, "ap50": 0.62, "ap75": 0.5, "voc_ap50": 0.63, "recall": 0.9, "precision": 0.2}
    numbers |= {"best_f1": 0.7, "best_threshold": 0.55, "objects": 12, "detections": 1034}
    return {"name": name, **numbers, **changes}


def content():
    absent = row(CLASSES[1], **dict.fromkeys(("ap", "ap50", "ap75", "voc_ap50", "recall", "best_f1")), objects=0)
    numbers = {"ap": 0.41, "ap50": 0.62, "ap75": NAN, "ap_small": None, "ar_100": 0.5, "voc_ap50": 0.63}
    image = np.full((24, 32, 3), (12, 200, 99), np.uint8)
    truth = {"boxes": np.float32([[2, 2, 20, 20]]), "labels": np.int32([0]), "masks": np.ones((1, 24, 32), np.uint8)}
    none = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}
    return {
        "title": "Faster <R-CNN>",
        "classes": CLASSES,
        "colors": COLORS,
        "metadata": {"system": "faster_rcnn", "data": "coco:a,b", "command": "kcvl train <here>"},
        "history": [
            {"loss": 2.0, "loss_mask": 0.9, "val_loss_mask": 0.8, "val_ap": 0.1, "val_ap50": 0.2},
            {"loss": 1.0, "loss_mask": 0.5, "val_loss_mask": 0.9, "val_ap": 0.3, "val_ap50": 0.4},
        ],
        "scores": {
            "boxes": {**numbers, "per_class": [row(CLASSES[0]), absent]},
            "masks": {**numbers, "ap50": 0.1, "per_class": [row(CLASSES[0])]},
        },
        "curves": {"boxes": {CLASSES[0]: CURVE, CLASSES[1]: [np.zeros(0)] * 3}, "masks": {CLASSES[0]: CURVE}},
        "best": [ObjectPicture(caption="<i>a</i>", image=image, truth=truth, prediction=truth, found=[0], score=1.0)],
        "worst": [ObjectPicture(caption="b", image=image, truth=truth, prediction=none, found=np.zeros(0), score=0.0)],
        "score_threshold": 0.5,
        "sheet": np.full((50, 70, 3), 99, np.uint8),
        "exports": [{"file": "a.tflite", "precision": "int8", "size_bytes": 4e6, "ap50": 0.6, "operators_ok": True}],
        "notes": "A note with <tags>.",
    }


def test_the_page_is_complete_and_escaped(tmp_path):
    path = write_object_report(tmp_path / "report.html", **content())
    page, text = Page(path), path.read_text(encoding="utf-8")
    sections = ("training", "average-precision", "classes", "curves", "examples", "data", "exports", "about", "notes")
    assert [name for name in page.ids if name in sections] == list(sections)
    assert "evil" not in page.ids
    for raw in (CLASSES[1], "<i>a</i>", "Faster <R-CNN>", "A note with <tags>.", "kcvl train <here>"):
        assert raw in page.visible
        assert raw not in text
    assert not re.search("https?:", text)  # Without the colon it may be part of a picture in base64.
    assert "url(" not in text
    assert not re.search(r"\bnan\b|None", page.visible, re.IGNORECASE)
    for shown in (
        "0.410 box AP 0.620 box AP50 0.410 mask AP 0.100 mask AP50",
        "2 epochs. Best validation AP: 0.3, epoch 2.",
        "<i>a</i> 1 right, 0 wrong, 0 missed · F1 1.000",
        "b 0 right, 0 wrong, 1 missed · F1 0.000",
        "boxes 0.410 0.620 0.500 0.630 masks 0.410 0.100 0.500 0.630",
        f"{CLASSES[1]} absent – – – – 0.200 – 0.550 0 1,034",
        "a.tflite int8 4.0 MB 0.600 builtin only",
        "score of at least 0.5",
    ):
        assert shown in page.visible
    # Loss and its mask part alone, the two average precisions together.
    assert {"loss over 2 epochs", "loss_mask over 2 epochs", "ap, ap50 over 2 epochs"} <= set(page.pictures)
    assert {"precision and recall of boxes", "precision and recall of masks"} <= set(page.pictures)
    assert page.picture("labelled pictures").shape == (50, 70, 3)
    assert {name for name in page.pictures if name.endswith(" of b")} == {
        "truth of b",
        "prediction of b",
        "errors of b",
    }
    assert tuple(page.picture("prediction of b")[0, 0]) == (12, 200, 99)


def test_missing_parts_leave_a_sentence(tmp_path):
    page = Page(write_object_report(tmp_path / "report.html", title="empty", classes=CLASSES, colors=COLORS))
    for sentence in (
        "No training history was recorded",
        "was not evaluated",
        "no scores by class",
        "so there are no curves",
        "No example pictures",
        "Nothing was exported",
        "Nothing was recorded about the run",
    ):
        assert sentence in page.visible
    assert not page.pictures
    assert "data" not in page.ids


def test_without_coco_the_numbers_are_pascal_voc_s(tmp_path):
    numbers = {"ap": None, "ap50": None, "ap75": None, "voc_ap50": 0.63}
    scores = {"boxes": {**numbers, "per_class": [row("cell", ap=None, ap50=None, ap75=None)]}}
    parts = {"scores": scores, "worst": (), "history": (), "curves": {}}
    page = Page(write_object_report(tmp_path / "report.html", **content() | parts))
    assert "0.630 box VOC AP50 Training" in page.visible
    assert "COCO" not in page.visible
    assert "class VOC AP recall" not in page.visible
    assert "class VOC AP50 recall precision best F1 at score objects detections cell 0.630 0.900" in page.visible


def test_of_one_class_all_kinds_share_a_chart(tmp_path, monkeypatch):
    drawn = []

    def curves(lines, **settings):
        drawn.append((list(lines), settings["averages"], settings["mean"], settings["title"]))
        return b""

    monkeypatch.setattr(object_report, "precision_recall_curves", curves)
    one = {"curves": {"boxes": {"cell": CURVE}, "masks": {"cell": CURVE}}, "history": ()}
    write_object_report(tmp_path / "report.html", **content() | one)
    kinds = (["boxes", "masks"], {"boxes": 0.63, "masks": 0.63}, False, "overlap above 0.5")
    assert drawn == [kinds, kinds]  # light and dark
    drawn.clear()
    write_object_report(tmp_path / "report.html", **content() | {"history": ()})
    assert [titles[3] for titles in drawn[::2]] == ["boxes, IoU above 0.5", "masks, IoU above 0.5"]
    assert drawn[0][1] == {CLASSES[0]: 0.63, CLASSES[1]: None}


def test_a_failure_leaves_the_old_report(tmp_path):
    path = write_object_report(tmp_path / "report.html", **content() | {"history": (), "curves": {}})
    before = path.read_bytes()
    with pytest.raises(DataError, match="2 classes, 1 colors"):
        write_object_report(path, **content() | {"colors": COLORS[:1]})
    broken = ObjectPicture(caption="c", image=np.zeros((4, 4, 3)), truth={"boxes": np.zeros((1, 4)), "labels": [7]})
    with pytest.raises(DataError, match="label 7 has no name"):
        write_object_report(path, **content() | {"history": (), "curves": {}, "best": [broken]})
    assert path.read_bytes() == before


def test_quantities_of_detectors():
    assert quantity_words("loss_rpn_box_reg") == "RPN box loss"
    assert quantity_words("mask_ap50") == "mask AP50"
    assert quantity_words("mean_iou") == "mean IoU"
    assert quantity_words("mean_dice") == "mean Dice"
    assert smaller_is_better("loss_mask")
    assert not smaller_is_better("mask_ap")
    assert [n for n in ("ap", "ap50", "mask_ap75", "map", "gap_x", "ap_small") if is_average_precision(n)] == [
        "ap",
        "ap50",
        "mask_ap75",
        "ap_small",
    ]


def test_joint_curves_mark_the_best_epoch(monkeypatch):
    figures = []
    monkeypatch.setattr("keras_cv_lectures.visualize.curves._png", lambda figure: figures.append(figure) or b"")
    history = [{"val_ap": 0.1, "ap50": 0.3}, {"val_ap": 0.5}, {"val_ap": 0.2, "ap50": 0.2}]
    joint_curves(history, ["ap", "ap50", "absent"], title="average precision")
    lines = {line.get_label(): line.get_xydata().tolist() for line in figures[0].axes[0].lines}
    assert lines["AP  0.500"] == [[1, 0.1], [2, 0.5], [3, 0.2]]
    assert lines["AP50  0.300"] == [[1, 0.3], [3, 0.2]]
    assert sorted(points for name, points in lines.items() if name.startswith("_")) == [[[1, 0.3]], [[2, 0.5]]]
    with pytest.raises(DataError, match="no finite number of absent"):
        joint_curves(history, ["absent"])
    training_curves([{"loss_mask": 1.0, "val_loss_mask": 3.0}, {"val_loss_mask": 2.0}])
    assert figures[1].axes[0].get_title(loc="right") == "2 at epoch 2"
