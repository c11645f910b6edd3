"""The report page: complete, self-contained, escaped, and really shown by a browser where one is installed."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import ExamplePicture, confusion_figure, curve_names, training_curves, write_report

NAN = float("nan")
CLASSES = ["background", '<b id="evil">bold</b>', "absent $x$"]
COLORS = [(10, 20, 30), (200, 40, 50), (0, 90, 180)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOLID = (12, 200, 99)
INSPECT = """<script>addEventListener("load", () => {
  const first = document.querySelector(".panels img"), canvas = document.createElement("canvas");
  const brush = canvas.getContext("2d");
  brush.drawImage(first, 0, 0);
  document.title = JSON.stringify({
    widths: [...document.images].map(picture => picture.naturalWidth),
    pixel: [...brush.getImageData(3, 3, 1, 1).data].slice(0, 3),
    rows: Object.fromEntries([...document.querySelectorAll("table")].map(t => [t.id, t.tBodies[0].rows.length])),
    evil: document.getElementById("evil") !== null,
    overflow: document.documentElement.scrollWidth - innerWidth,
    swatch: getComputedStyle(document.querySelectorAll("#class-table .swatch")[1]).backgroundColor,
  });
});</script>"""


def example(caption, **changes):
    image = np.full((24, 32, 3), SOLID, np.uint8)
    truth = np.zeros((24, 32), np.int32)
    truth[:, 20:] = 255
    prediction = np.zeros((24, 32), np.int32)
    prediction[4:9, 4:9] = 1
    fields = {"caption": caption, "image": image, "truth": truth, "prediction": prediction, "score": 0.5}
    return ExamplePicture(**fields | changes)


def content():
    rows = [
        {"name": CLASSES[0], "iou": 0.91, "dice": 0.953, "accuracy": 0.95, "precision": 0.93, "pixels": 2000},
        {"name": CLASSES[1], "iou": 0.0, "dice": 0.0, "accuracy": 0.0, "precision": NAN, "pixels": 40},
        {"name": CLASSES[2], "iou": NAN, "dice": NAN, "accuracy": NAN, "precision": NAN, "pixels": 0},
    ]
    return {
        "title": "U-Net on <shapes> & more",
        "classes": CLASSES,
        "colors": COLORS,
        "metadata": {
            "system": "unet",
            "data": 'folder:a\'b,"c"',
            "command": "kcvl train unet --data <here>",
            "versions": {"keras": "3.15"},
            "seed": 0,
        },
        "history": [
            {"loss": 2.0, "val_loss": 2.5, "mean_iou": 0.1, "val_mean_iou": NAN, "learning_rate": 1e-3},
            {"loss": NAN, "val_loss": 1.5, "mean_iou": 0.3, "val_mean_iou": 0.25, "learning_rate": 1e-4},
            {"loss": 0.9, "mean_iou": 0.4, "learning_rate": "NA"},
        ],
        "scores": {
            "pixel_accuracy": 0.9,
            "mean_accuracy": 0.475,
            "mean_iou": 0.455,
            "mean_dice": 0.4771,
            "frequency_weighted_iou": NAN,
            "per_class": rows,
        },
        "confusion": np.array([[1900, 100, 0], [40, 0, 0], [0, 0, 0]]),
        "best": [example("one.png", score=np.float32(0.75))],
        "worst": [example("<i>two</i>.png", truth=None, score=NAN)],
        "exports": [
            {"file": "a.tflite", "format": "tflite", "size_bytes": 2_040_000, "mean_iou": NAN, "operators_ok": True},
            {"file": "b.tflite", "latency_ms_1_thread": 12.34, "max_difference": 0.0, "operators_ok": False},
        ],
        "notes": "A note with <tags>.",
    }


class Page(HTMLParser):
    """Checks that tags close in order; collects the text, ids and addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.ids, self.addresses = [], [], set(), []
        self.feed(text)
        assert not self.open
        self.visible = " ".join(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.addresses += [attributes[key] for key in ("src", "srcset", "href") if key in attributes]
        assert tag != "script"
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_the_page_is_well_formed_self_contained_and_escaped(tmp_path):
    path = write_report(tmp_path / "run" / "report.html", **content())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert {"training", "classes", "confusion", "examples", "exports", "about", "notes"} <= page.ids
    assert "evil" not in page.ids
    for raw in (CLASSES[1], "<i>two</i>.png", "U-Net on <shapes> & more", "A note with <tags>.", "--data <here>"):
        assert raw in page.visible
        assert raw not in text
    # Three curves and the matrix in two themes; four panels with a truth, two without.
    assert len(page.addresses) == 2 * (3 + 1) + 4 + 2
    for address in page.addresses:
        assert address.startswith("data:image/png;base64,")
        Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).verify()
    assert not re.search("https?:", text)  # Without the colon it may be part of a picture in base64.
    assert "url(" not in text


def test_absent_classes_and_missing_numbers_are_words_never_nan(tmp_path):
    page = Page(write_report(tmp_path / "report.html", **content()).read_text(encoding="utf-8"))
    assert not re.search(r"\bnan\b", page.visible, re.IGNORECASE)
    rows = page.visible.split("absent $x$")[1].split("Confusion")[0]
    assert rows.split() == ["absent", "absent", "absent", "absent", "0", "0.00%"]
    assert "not predicted" in page.visible
    assert "0.953" in page.visible  # Dice of the first class
    assert "0.477 mean Dice" in re.sub(r"\s+", " ", page.visible)
    assert "Best validation mean IoU: 0.25, epoch 2." in page.visible
    assert "2.0 MB" in page.visible
    assert "builtin only" in page.visible
    assert "not builtin" in page.visible


def test_missing_parts_leave_a_sentence(tmp_path):
    path = write_report(tmp_path / "report.html", title="empty", classes=CLASSES, colors=COLORS)
    page = Page(path.read_text(encoding="utf-8"))
    for sentence in (
        "No training history was recorded",
        "was not evaluated",
        "no confusion matrix",
        "No example pictures",
        "Nothing was exported",
        "Nothing was recorded about the run",
    ):
        assert sentence in page.visible
    assert not page.addresses
    assert "notes" not in page.ids


def test_large_pictures_are_shrunk_and_names_that_are_not_text_are_written(tmp_path):
    large = example(
        "caf\udce9.png",
        image=np.zeros((900, 1201, 1), np.float32),
        truth=np.zeros((900, 1201), np.uint8),
        prediction=np.ones((900, 1201), np.int64),
    )
    path = write_report(tmp_path / "report.html", title="t", classes=CLASSES, colors=COLORS, worst=[large])
    page = Page(path.read_text(encoding="utf-8"))
    assert "caf?.png" in page.visible
    sizes = {Image.open(io.BytesIO(base64.b64decode(a.split(",", 1)[1]))).size for a in page.addresses}
    assert sizes == {(360, 270)}


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1), (24, 32, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_grey_and_float_examples_are_shown(tmp_path, shape, dtype):
    grey = example("grey.png", image=np.full(shape, 77, dtype))
    path = write_report(tmp_path / "report.html", title="t", classes=CLASSES, colors=COLORS, best=[grey])
    address = Page(path.read_text(encoding="utf-8")).addresses[0]
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))
    assert np.unique(np.asarray(picture)).tolist() == [77]


def test_a_failure_leaves_the_old_report(tmp_path):
    path = write_report(tmp_path / "report.html", **content())
    before = path.read_bytes()
    broken = example("broken.png", prediction=np.full((24, 32), 7))
    with pytest.raises(DataError, match="label 7"):
        write_report(path, **content() | {"best": [broken]})
    with pytest.raises(DataError, match="3 classes, 2 colors"):
        write_report(path, **content() | {"colors": COLORS[:2]})
    assert path.read_bytes() == before


def test_curves_start_with_the_loss_and_end_with_the_learning_rate():
    history = content()["history"]
    assert curve_names([{"learning_rate": 1.0, "val_dice": 0.2, "epoch": 1, "loss": 2.0}]) == [
        "loss",
        "dice",
        "learning_rate",
    ]
    assert curve_names([{"loss": NAN, "note": "text"}]) == []
    light, dark = (Image.open(io.BytesIO(training_curves(history, theme=theme))) for theme in ("light", "dark"))
    assert light.size == dark.size
    assert light.getpixel((0, 0))[0] > 200 > 100 > dark.getpixel((0, 0))[0]
    single = Image.open(io.BytesIO(training_curves(history[:1], names=["loss"])))
    assert single.width < light.width
    with pytest.raises(DataError, match="no finite number"):
        training_curves([])
    with pytest.raises(DataError, match="theme"):
        training_curves(history, theme="blue")


@pytest.mark.parametrize("k", [1, 2, 12, 13, 70])
def test_confusion_of_any_number_of_classes(k):
    confusion = np.diag(np.full(k, 1e6))
    names = [f"class $_{i} 漢" for i in range(k)]
    picture = np.asarray(Image.open(io.BytesIO(confusion_figure(confusion, names))).convert("RGB"))
    assert (picture == (13, 47, 115)).all(-1).any()  # a full cell: the darkest colour of the ramp
    with pytest.raises(DataError, match="confusion must be"):
        confusion_figure(confusion, [*names, "one too many"])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_shows_pictures_and_tables(tmp_path):
    path = write_report(tmp_path / "report.html", **content())
    copy = tmp_path / "inspected.html"
    copy.write_text(path.read_text(encoding="utf-8").replace("</body>", INSPECT + "</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"]
    done = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout.decode("utf-8"), re.DOTALL).group(1)
    seen = json.loads(title.replace("&quot;", '"'))
    assert len(seen["widths"]) == 3 + 1 + 4 + 2
    assert min(seen["widths"]) == 32
    assert seen["pixel"] == list(SOLID)
    assert seen["rows"] == {"history-table": 3, "class-table": 3, "export-table": 2}
    assert seen["swatch"] == "rgb(200, 40, 50)"
    assert not seen["evil"]
    assert seen["overflow"] <= 0
