"""What the page of a run folder says of the model in it: which epoch it is, and which exports are its own."""

from __future__ import annotations

import hashlib
import json

import pytest

from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.reporting import exports, pages, refresh_report
from keras_cv_lectures.systems import SYSTEMS


@pytest.fixture
def folder(tmp_path):
    """A run whose second epoch was kept for its loss."""
    metadata = Metadata(system="unet", classes=("ground", "cell"), colors=((0, 0, 0), (255, 0, 0)))
    kept = {"epoch": 2, "keep_best": "val_loss"}
    write_json(tmp_path / "run.json", {**metadata.to_json(), "kept": kept, "augmentation": {"rotate": 7.5}})
    (tmp_path / "best.keras").write_bytes(b"first")
    return tmp_path


def _page(folder):
    return refresh_report(SYSTEMS["unet"], folder, None).read_text(encoding="utf-8")


def test_the_page_names_the_epoch_that_was_kept(folder):
    """Not the one with the best score, which is another."""
    (folder / "history.csv").write_text("epoch,val_loss,val_mean_iou\n1,0.9,0.2\n2,0.5,0.3\n3,0.7,0.4\n")
    assert "3 epochs. best.keras: epoch 2 by keep_best=val_loss." in _page(folder)
    run = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**run, "kept": {}})  # As of an earlier version, which did not keep it.
    assert "3 epochs. Best validation mean IoU: 0.4, epoch 3." in _page(folder)


def test_exports_of_an_earlier_model_are_told_apart(folder):
    for name in ("old", "new"):
        file = folder / "exports" / f"{name}.tflite"
        write_json(file.with_suffix(".json"), {})
        exports._keep_row(folder, {"file": str(file), "format": "tflite"}, folder / "best.keras", None, {})
        if name == "old":
            assert "made_of" not in next(pages._export_rows(folder))
            (folder / "best.keras").write_bytes(b"second")
    rows = json.loads((folder / "exports.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["best.keras", "best.keras"]
    assert [row["model_digest"] for row in rows] == [hashlib.sha256(b).hexdigest() for b in (b"first", b"second")]
    told = {row["file"]: row.get("made_of") for row in pages._export_rows(folder)}
    assert told == {"old.tflite": "an earlier best.keras", "new.tflite": None}
    page = _page(folder)
    assert page.count("an earlier best.keras") == 1
    assert "made of" in page
    for row in rows:
        del row["model"], row["model_digest"]  # Of an earlier version.
    write_json(folder / "exports.json", {"rows": rows})
    assert "made of" not in _page(folder)


def test_what_was_asked_for_is_no_augmentation_of_encoded_pictures(folder):
    assert "rotate 7.5" in _page(folder)
    run = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**run, "options": {"cache_features": "cache"}})
    page = _page(folder)
    assert "none: pictures were encoded once, as they are" in page
    assert "rotate 7.5" not in page
