"""What a folder of runs recorded about its systems, and a picture of each; `tools/model_zoo.py` makes a page of it."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from kcvl.text import PIXEL_SCORES
from keras_cv_lectures.evaluating import caption_headlines, headline_scores
from keras_cv_lectures.files import atomic_path, read_json
from keras_cv_lectures.metadata import RUN_FILE, metadata_path, read_run
from keras_cv_lectures.reporting import SCORES
from keras_cv_lectures.reporting.pages import EVALUATION, EXPORTS
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training.callbacks import HISTORY

# In a run folder beside the files of `kcvl`: what failed, what the published network costs, and the folders of
# `kcvl evaluate` on pictures that played no part in the training and of `kcvl predict`.
FAILURES, PUBLISHED, UNSEEN, PREDICTIONS = "failures.json", "published.json", "unseen", "predictions"
# Format and precision of the files that `kcvl export` writes.
FORMS = (("tflite", "float32"), ("tflite", "float16"), ("tflite", "int8"), ("saved_model", "float32"))

_KEPT_OF_CARD = (
    *("gflops", "parameters", "input", "file_size", "latency_ms", "max_difference", "label_agreement", "agreement"),
    *("metrics", "metrics_data", "machine", "measured_size"),
)
# Widths in pixels: of what is shown at most, and what a small picture is enlarged to.
_WIDEST, _ENLARGED, _QUALITIES = 640, 384, (85, 75, 65, 55, 45)


def find_runs(root: Path) -> dict[str, Path]:
    """System -> run folder, of those directly in `root`.

    Raises:
        ValueError: there is none, or a system has two.
    """
    found: dict[str, Path] = {}
    for file in sorted(root.glob(f"*/{RUN_FILE}")):
        name = read_json(file).get("system")
        if name in found:
            raise ValueError(
                f"{root} has two runs of {name}: {found[name].name} and {file.parent.name}. Move one away."
            )
        if name in SYSTEMS:
            found[name] = file.parent
    if not found:
        raise ValueError(f"{root} holds no run folders of systems. Make them with `python tools/train_zoo.py`.")
    return found


def record_of(folder: Path) -> dict[str, Any]:
    """What the page says of a run: numbers as they were recorded, None for what was not."""
    run = read_run(folder)
    history = folder / HISTORY
    failures = _json(folder / FAILURES)
    return {
        "parameters": run.get("parameters"),
        "config": run.get("config") or {},
        "data": run.get("data"),
        "pictures": len(run["train_ids"]) or None,
        "epochs": max(0, len(history.read_text(encoding="utf-8").splitlines()) - 1) if history.exists() else None,
        "steps": (run.get("options") or {}).get("steps_per_epoch"),
        "batch_size": (run.get("options") or {}).get("batch_size"),
        "seconds": run.get("seconds"),
        "machine": run.get("machine"),
        "versions": run.get("versions") or {},
        "command": _without_places(run.get("command", ""), folder, run.get("system", "")),
        "result": _result(folder),
        "published": _json(folder / PUBLISHED) or None,
        "exports": _exports(folder),
        "failures": {step: _told(message) for step, message in failures.items()},
    }


def picture_of(folder: Path) -> Any:
    """The first prediction of the run as an image of Pillow, or None; of a small segmentation with its legend aside."""
    from PIL import Image

    found = [path for kind in ("overlay", "caption") for path in sorted((folder / PREDICTIONS).glob(f"*_{kind}.png"))]
    if not found:
        return None
    picture = Image.open(found[0]).convert("RGB")
    classes = found[0].with_name(found[0].name.replace("_overlay.png", "_classes.png"))
    if classes == found[0] or not classes.exists():
        return picture
    width, height = Image.open(classes).size
    factor = _ENLARGED // width
    if factor < 2:
        return picture
    shown = picture.crop((0, 0, width, height)).resize((factor * width, factor * height), Image.Resampling.NEAREST)
    legend = picture.crop((0, height, width, picture.height))
    sheet = Image.new("RGB", (shown.width + legend.width, max(shown.height, legend.height)), "white")
    sheet.paste(shown, (0, 0))
    sheet.paste(legend, (shown.width, 0))
    return sheet


def write_jpeg(picture: Any, path: Path, largest: int) -> None:
    """Writes a JPEG file of at most `largest` bytes: at first the quality gives way, then the size."""
    from PIL import Image

    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            content = io.BytesIO()
            picture.save(content, "JPEG", quality=quality, optimize=True)
            if content.tell() <= largest:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content.getvalue())
                return
        picture = picture.resize((3 * picture.width // 4, 3 * picture.height // 4), Image.Resampling.LANCZOS)


def _result(folder: Path) -> dict[str, Any] | None:
    """The scores on pictures that played no part in the training, else on those that chose the epoch."""
    unseen, validated = _json(folder / UNSEEN / SCORES), _json(folder / EVALUATION)
    found = unseen or validated
    if not found:
        return None
    return {
        "scores": _headlines(found["scores"]),
        "constant": _headlines(found.get("constant") or {}),
        "data": found["data"],
        "pictures": found.get("pictures"),
        "unseen": bool(unseen),
    }


def _headlines(scores: Mapping[str, Any]) -> dict[str, float]:
    """Name -> number, of whatever kind of system."""
    if "mean_iou" in scores:
        return {name: scores[name] for name in PIXEL_SCORES if scores.get(name) is not None}
    return caption_headlines(scores) if "bleu4" in scores else headline_scores(scores)


def _exports(folder: Path) -> dict[str, dict[str, Any]]:
    """Form ("tflite int8") -> what the page shows of its model card; of several of one form the last."""
    found = {}
    for row in _json(folder / EXPORTS).get("rows", []):
        card = _json(metadata_path(folder / row["file"]))
        if card:
            found[f"{row['format']} {row['precision']}"] = {key: card.get(key) for key in _KEPT_OF_CARD}
    return found


def _without_places(command: str, folder: Path, system: str) -> str:
    """A command line whose run folder is `runs/SYSTEM`: where it lay says nothing to a reader."""
    words = ["runs/" + system if before == "--out" else word for before, word in pairwise(["", *shlex.split(command)])]
    return shlex.join(words)


def _told(message: str) -> str:
    """An error for a table: one line, files without the folders that they lay in."""
    return re.sub(r"(?:/[\w.+-]+)+/(?=[\w.+-])", "", " ".join(str(message).split()))[:400]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
