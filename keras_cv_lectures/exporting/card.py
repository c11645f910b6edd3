"""Model card: what a person who receives only the exported file needs to know, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting.captioner import caption_facts
from keras_cv_lectures.exporting.captioner_files import caption_program
from keras_cv_lectures.exporting.detector_files import (
    bands_resized,
    detector_facts,
    picture_read,
    program_file,
    run_program,
)
from keras_cv_lectures.exporting.result import ExportResult, is_captioner
from keras_cv_lectures.exporting.timing import latency
from keras_cv_lectures.files import write_text
from keras_cv_lectures.geometry.receptive import receptive_field
from keras_cv_lectures.layers.atrous import whole_convolutions
from keras_cv_lectures.layers.portable import portable_operators
from keras_cv_lectures.metadata import Metadata, labels_file, metadata_path
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.runners import Runner, load_runner, machine, tensorflow_threads, versions
from keras_cv_lectures.serving import gflops, serving_function

_PROGRAM = """\
import numpy as np
{imports}

{load}
{picture}
outputs = {call}
print({{name: (value.dtype, value.shape) for name, value in outputs.items()}})
np.save("OUTPUT.npy", outputs[{output!r}][0]{kept})
"""

_LATENCY_SECONDS = 5.0  # For each number of threads.

# Pixels above and below a picture, and left and right of it.
Border = tuple[tuple[int, int], tuple[int, int]]

# Of each task, what numbers are compared with the model's, and what is counted.
_WORDS = {
    None: ("the model", "pixels with the model's label"),
    "detection": ("the model's scores", "detections that the model has, too"),
    "captioning": ("the model's log probabilities and attention", "tokens that the model has, too"),
}


def build_card(
    model: keras.Model,
    result: ExportResult,
    batch_shape: tuple[int, ...],
    metadata: Metadata,
    metrics: dict[str, float] | None = None,
    *,
    reference: str | None = None,
    runnable: Path | Runner | None = None,
    open_size: bool = False,
    compared_on: str | None = None,
) -> dict[str, Any]:
    """Facts about an export, JSON-serialisable; the keys of `Metadata` stand at its top level.

    Args:
        model: the model that was exported.
        batch_shape: (1, H, W, C) of the picture that latency and GFLOPs are measured with.
        metrics: measured quality by name, for instance {"mean IoU": 0.61}.
        reference: the paper; None leaves it to `update_card`.
        runnable: what is timed while the file has not reached its place: a `.tflite` file, with 1 and with 2 threads,
            or the runner of a SavedModel, with the threads of this process; None measures no latency.
        open_size: the file takes pictures of any size; the card then says None for height and width.
        compared_on: the pictures that the file was compared with the model on; None where it was not.
    """
    _, height, width, channels = batch_shape
    run = runnable if isinstance(runnable, Runner) else load_runner(runnable or model)
    outputs = run(np.zeros(batch_shape, np.uint8))
    tflite = result.path.suffix == ".tflite"
    labels = labels_file(result.path).name if metadata.classes else None
    size = (None, None) if open_size else (height, width)
    seen = (metadata.input_size or size) if open_size else size
    if is_captioner(outputs):
        program = caption_program(result.path.name, (*seen, channels), labels, tflite=tflite)
        task = {**caption_facts(model), "agreement": result.agreement}
    elif are_detections({name: value.shape for name, value in outputs.items()}):
        program = run_program(result.path.name, outputs, (*size, channels), labels, tflite=tflite)
        task = {**detector_facts(model), "agreement": result.agreement}
    else:
        output, border = "class_map" if "class_map" in outputs else min(outputs), None
        answer = outputs[output].shape[1:3]
        if not metadata.tiled and _misses_border(model, (height, width), answer):
            seen, border = _mirrored((height, width), answer, metadata.input_size)
        program = _program(result.path.name, (*seen, channels), output, border, tflite=tflite, middle=metadata.tiled)
        task = {}
    shapes = {name: list(value.shape) for name, value in outputs.items()}
    if open_size:
        spec = tf.TensorSpec((1, None, None, channels), "float32", name="image")
        found = serving_function(model).get_concrete_function(spec).structured_outputs
        shapes = {
            # Of a tensor whose rank the graph does not know, the computed value has it.
            name: [None] * outputs[name].ndim if value.shape.rank is None else value.shape.as_list()
            for name, value in found.items()
        }
    with portable_operators(), whole_convolutions():  # Sparse products are not counted.
        cost = gflops(model, (height, width), loop_steps=task.get("max_words", 1))
    return {
        **metadata.to_json(),
        "file": result.path.name,
        "precision": result.precision,
        "parameters": model.count_params(),
        "gflops": round(cost, 4),
        "input": {"image": {"dtype": "uint8", "shape": [1, *size, channels], "range": "0..255"}},
        "outputs": {
            name: {"dtype": str(value.dtype), "shape": shapes[name]} for name, value in sorted(outputs.items())
        },
        "measured_size": [height, width],
        "file_size": result.size_bytes,
        "latency_ms": _latencies(runnable, batch_shape) if runnable else {},
        "operators": result.operators,
        "max_difference": result.max_difference,
        "label_agreement": result.label_agreement,
        "compared_on": compared_on,
        "metrics": plain_metrics(metrics),
        "metrics_data": None,
        "reference": reference,
        "machine": machine(),
        "versions": versions(),
        "program": program,
        **task,
    }


def plain_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as Python's numbers, which JSON knows.

    Raises:
        ModelError: one is no number.
    """
    plain = {}
    for name, value in (metrics or {}).items():
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            plain[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"`metrics` must be numbers by name. Received for {name!r}: {value!r} ({type(value).__name__}). Pass "
                "one number for each."
            ) from error
    return plain


def _misses_border(model: keras.Model, window: tuple[int, int], answer: tuple[int, ...]) -> bool:
    """Whether the network answers only for the middle of what it sees, as valid convolutions do."""
    smaller = len(answer) == 2 and all(a < w for a, w in zip(answer, window, strict=True))
    # An answer at a coarser stride is smaller, too.
    return smaller and isinstance(model, keras.Function | keras.Sequential) and any(receptive_field(model).lost)


def _mirrored(
    window: tuple[int, int], answer: tuple[int, int], input_size: tuple[int, int] | None
) -> tuple[tuple[int, int], Border]:
    """The size of a picture that a window answers for as a whole, and how far the picture is mirrored around it.

    Args:
        window: (height, width) that the network sees.
        answer: (height, width) that it gives for it, from the middle.
        input_size: (height, width) that pictures had in training; where it is not known, or larger than `answer`, they
            are brought to that.
    """
    fits = input_size is not None and all(s <= a for s, a in zip(input_size, answer, strict=True))
    size = input_size if fits else tuple(answer)
    before = [(w - a) // 2 for w, a in zip(window, answer, strict=True)]
    return size, tuple((b, w - s - b) for b, w, s in zip(before, window, size, strict=True))


def _program(
    name: str,
    shape: tuple[int | None, ...],
    output: str,
    border: Border | None = None,
    *,
    tflite: bool,
    middle: bool = False,
) -> str:
    """A program that runs the file on a picture as `predict` does: upright, and resized with the same filter.

    Args:
        shape: (H, W, C) that the picture is brought to, H and W None where the file gets it as it is.
        output: name of the output that is saved.
        border: pixels mirrored around the picture, ((top, bottom), (left, right)); the output then ends where the
            picture does.
        middle: the file sees windows of larger pictures: it gets the one in the middle instead of all, resized; a
            smaller picture is mirrored beyond its border.
    """
    height, width, channels = shape
    if tflite:
        imports = ["from ai_edge_litert.interpreter import Interpreter"]
        load = f'run = Interpreter(model_path={name!r}, num_threads=2).get_signature_runner("serving_default")'
        call = "run(image=image)"
    else:
        imports = ["import tensorflow as tf"]
        load = f"model = tf.saved_model.load({name!r})"
        call = 'model.signatures["serving_default"](image=tf.constant(image))'
    sides = None if None in (height, width) else f"({width}, {height})"
    if channels in (1, 3):
        mode = "L" if channels == 1 else "RGB"
        imports.append("from PIL import Image, ImageOps")
        resized = f"picture.resize({sides}, Image.Resampling.BILINEAR)" if sides else "picture"
        windowed = middle and sides
        rows = f"{height}, {width}" if sides and not windowed else "picture.height, picture.width"
        picture = [
            *picture_read('"PICTURE.jpg"', mode),
            f"image = np.asarray({'picture' if windowed else resized}).reshape(1, {rows}, {channels})",
        ]
    else:  # No picture file that Pillow reads has so many channels.
        imports += ["from PIL import Image"] if sides and not middle else []
        picture = [f'picture = np.load("PICTURE.npy").astype(np.uint8)  # (height, width, {channels}), 0..255']
        if sides and not middle:
            picture.append(bands_resized("picture", sides))
        picture.append(f"image = {'np.stack(bands, axis=-1)' if sides and not middle else 'picture'}[None]")
    if middle and sides:
        picture += [
            f"rows, columns = (max(0, n - s) for n, s in zip(({height}, {width}), image.shape[1:3]))",
            "around = (0, 0), ((rows + 1) // 2, rows // 2), ((columns + 1) // 2, columns // 2), (0, 0)",
            'image = np.pad(image, around, mode="reflect")  # a picture smaller than the window',
            f"top, left = (image.shape[1] - {height}) // 2, (image.shape[2] - {width}) // 2",
            f"image = image[:, top : top + {height}, left : left + {width}]",
        ]
    if border:
        picture.append(f'image = np.pad(image, {((0, 0), *border, (0, 0))}, mode="reflect")')
    return _PROGRAM.format(
        imports="\n".join(imports),
        load=load,
        picture="\n".join(picture),
        call=call,
        output=output,
        kept=f"[:{height}, :{width}]" if border else "",
    )


def write_card(card: dict[str, Any], json_path: Path, markdown_path: Path) -> None:
    """Writes the card in both forms."""
    write_text(json_path, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_text(markdown_path, card_markdown(card))


def update_card(
    path: str | os.PathLike,
    *,
    metrics: dict[str, float] | None = None,
    data: str | None = None,
    reference: str | None = None,
) -> dict[str, Any]:
    """Adds what became known after the export, for instance the metric of the file on the validation data.

    Args:
        path: the `.tflite` file or SavedModel folder.
        data: what the metrics were measured on.

    Returns:
        The new card.

    Raises:
        ModelError: there is no card beside the file, or a metric is no number.
    """
    json_path = metadata_path(Path(path))
    if not json_path.exists():
        raise ModelError(f"{path} has no model card {json_path.name}. Export the model again.")
    card = json.loads(json_path.read_text(encoding="utf-8"))
    card["metrics"] = {**card.get("metrics", {}), **plain_metrics(metrics)}
    card["metrics_data"] = data or card.get("metrics_data")
    card["reference"] = reference or card.get("reference")
    markdown = json_path.parent / "MODEL_CARD.md" if Path(path).is_dir() else json_path.with_suffix(".md")
    write_card(card, json_path, markdown)
    return card


def card_markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    rows = {
        "precision": card["precision"],
        "parameters": f"{card['parameters']:,}",
        "GFLOPs (one picture)": f"{card['gflops']:.3g}",
        "file size": f"{card['file_size'] / 1e6:.2f} MB",
        **{f"latency, {t} thread{'s' * (t != '1')}": f"{ms:.3g} ms" for t, ms in card["latency_ms"].items()},
        **{name: f"{value:.4g}" for name, value in card["metrics"].items()},
    }
    if card.get("metrics_data"):
        rows["measured on"] = card["metrics_data"]
    difference, agreement = _WORDS.get(card.get("task"), _WORDS[None])
    if not card.get("task") and "class_map" not in card["outputs"]:
        agreement = "whole numbers equal to the model's"
    if card["max_difference"] is not None:
        rows[f"largest difference to {difference}"] = f"{card['max_difference']:.2e}"
    if card.get("tiled"):
        rows["pictures of other sizes"] = (
            "in overlapping windows at their own resolution, a multiple of {} pixels apart; {} and {} pixels at each "
            "edge of a window's answer are not used".format(card["tile_stride"], *card["tile_margin"])
        )
    if card["label_agreement"] is not None:
        rows[agreement] = f"{100 * card['label_agreement']:.2f} %"
    if card.get("compared_on"):
        rows["compared with the model on"] = card["compared_on"]
    rows |= _caption_rows(card) if card.get("task") == "captioning" else _detector_rows(card)
    lines = [f"# {card['file']}", ""]
    if card["system"]:
        lines += [f"System: {card['system']}.", ""]
    if card["reference"]:
        lines += [f"Paper: {card['reference']}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    lines += ["## Input and outputs", "", "| name | type | shape |", "|---|---|---|"]
    for name, value in {**card["input"], **card["outputs"]}.items():
        lines.append(f"| {name} | {value['dtype']} | {tuple(value['shape'])} |")
    lines += ["", "## Run it", "", *_where(card), "```python", card["program"].rstrip(), "```", ""]
    if card["classes"] and card.get("task") == "captioning":
        lines += [
            "## Words",
            "",
            f"{len(card['classes']):,}, in the order of their ids: key `classes` of the JSON card.",
        ]
        lines += ["Ids 0 to 3 are padding, start, end and any word that is not in the list.", ""]
    elif card["classes"]:
        lines += ["## Labels", "", "| label | class | colour |", "|---|---|---|"]
        colors = card["colors"] or [""] * len(card["classes"])
        for label, (name, color) in enumerate(zip(card["classes"], colors, strict=False)):
            lines.append(f"| {label} | {name} | {tuple(color) if color else ''} |")
        lines.append("")
    if card["operators"]:
        lines += ["## Operators", "", ", ".join(f"{n} x{c}" for n, c in card["operators"].items()), ""]
    where = f" ({card['machine']})" if card.get("machine") else ""
    size = " on a picture of {}x{} pixels".format(*card["measured_size"]) if card.get("measured_size") else ""
    lines += [f"Measured{size} on the machine that exported the file{where}. " + _versions(card), ""]
    return "\n".join(lines)


def _where(card: dict[str, Any]) -> list[str]:
    """Where the program stands already that the card shows."""
    file = Path(card["file"])
    if card.get("task") not in ("detection", "captioning"):
        return []
    place = "beside the file" if file.suffix == ".tflite" else "in this folder"
    return [f"This program lies {place} as `{program_file(file).name}`:", ""]


def _caption_rows(card: dict[str, Any]) -> dict[str, str]:
    agreement = card.get("agreement") or {}
    rows = {"sentences equal to the model's": "{equal} of {pictures}".format(**agreement)} if agreement else {}
    if "beam_size" in card:
        rows["words that it knows"] = f"{card['vocabulary_size']:,}"
        rows["hypotheses of the search"] = f"{card['beam_size']}"
        rows["words a sentence, at most"] = f"{card['max_words']}"
    return rows


def _detector_rows(card: dict[str, Any]) -> dict[str, str]:
    agreement = card.get("agreement") or {}
    rows = {"detections compared": f"{agreement['detections']}"} if agreement else {}
    if agreement.get("detections"):
        rows["mean overlap with the model's boxes"] = f"{agreement['mean_iou']:.4f}"
    if "max_detections" in card:
        rows["detections a picture, at most"] = f"{card['max_detections']}"
        rows["lowest score reported"] = f"{card['score_threshold']:g}"
    return rows


def _latencies(runnable: Path | Runner, batch_shape: tuple[int, ...]) -> dict[str, float]:
    picture = np.random.default_rng(0).integers(0, 256, batch_shape, np.uint8)
    if isinstance(runnable, Runner):
        runners = {tensorflow_threads(): runnable}
    else:
        runners = {threads: load_runner(runnable, threads=threads) for threads in (1, 2)}
    return {
        # A model that takes seconds is exported in minutes, not in a quarter of an hour.
        str(threads): round(latency(runner, picture, repeats=5, seconds=_LATENCY_SECONDS)["median_ms"], 3)
        for threads, runner in runners.items()
    }


def _versions(card: dict[str, Any]) -> str:
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in card["versions"].items()) + "."
