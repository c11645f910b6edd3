"""What lies beside an exported detector: its labels, a program that runs it, and facts for its model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from keras_cv_lectures.detection import COCO_CLASSES
from keras_cv_lectures.detection.coco import COCO_IDS
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting.result import output_shapes
from keras_cv_lectures.layers import Detections
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.postprocessing.detection import CANVAS_COLOR, MASK_THRESHOLD

PROGRAM_FILE = "run.py"  # in the folder of a SavedModel

# Pillow's way to resize without antialiasing; `resize` always filters pictures that shrink.
_SAMPLED = "transform({}, Image.Transform.AFFINE, (back[0], 0, 0, 0, back[1], 0), Image.Resampling.BILINEAR)"
_MASKS = f"""\
    size = max(1, round(x2 - x1)), max(1, round(y2 - y1))
    mask = np.asarray(Image.fromarray(found["masks"][i]).resize(size, Image.Resampling.BILINEAR))
    picture.paste((255, 80, 0), (round(x1), round(y1)), Image.fromarray(np.uint8(mask > {MASK_THRESHOLD}) * 128))"""


def program_file(path: Path) -> Path:
    """Where the program stands that runs a `.tflite` file or SavedModel folder."""
    return path.with_name(f"{path.stem}_{PROGRAM_FILE}") if path.suffix == ".tflite" else path / PROGRAM_FILE


def labels_text(classes: Iterable[str]) -> str:
    """The content of `metadata.labels_file`: a name is a line, whatever it holds."""
    return "".join(" ".join(name.split()) + "\n" for name in classes)


def with_labels(metadata: Metadata, model: keras.Model) -> Metadata:
    """The same metadata with COCO's names where it has none and the model is one of COCO's."""
    layer = _detections(model)
    if metadata.classes or layer is None or layer.classes != tuple(COCO_IDS):
        return metadata
    return dataclasses.replace(metadata, classes=tuple(COCO_CLASSES))


def check_labels(metadata: Metadata, model: keras.Model) -> None:
    """Raises ModelError where there are other numbers of class names or colours than classes the model tells apart.

    A segmentation of one channel tells two apart. Of a detector that does not end in `Detections` the number is not
    known; of a captioner `check_vocabulary` asks.
    """
    count = _class_count(model)
    for name in ("classes", "colors"):
        given = len(getattr(metadata, name))
        if count is not None and given not in (0, count):
            background = ", without one for the background" if _detections(model) is not None else ""
            raise ModelError(
                f"{model.name} tells {count} classes apart, `metadata.{name}` has {given}. Pass {count} in label order"
                f"{background}."
            )


def _class_count(model: keras.Model) -> int | None:
    layer = _detections(model)
    if layer is not None:
        logits = layer._inbound_nodes[0].input_tensors[3]
        return len(layer.classes) if layer.classes else logits.shape[-1] - 1
    outputs = output_shapes(model)
    shape = outputs.get("logits", ())
    return max(2, shape[-1]) if len(shape) == 4 and shape[-1] else None


def detector_facts(model: keras.Model) -> dict[str, Any]:
    """What a model card says of a detector: how many objects it reports, from which score on."""
    layer = _detections(model)
    if layer is None:
        return {"task": "detection"}
    return {
        "task": "detection",
        "max_detections": layer.max_detections,
        "score_threshold": layer.score_threshold,
        "nms_threshold": layer.nms_threshold,
    }


def bands_resized(array: str, sides: str, how: str = "resize({}, Image.Resampling.BILINEAR)") -> str:
    """A line of a program that puts the channels of `array` (H, W, C) uint8, resized, into the list `bands`.

    For pictures of other than 1 and 3 channels, which Pillow has no mode for.

    Args:
        array: name of the array.
        sides: expression for (width, height).
        how: method of a Pillow image that resizes it, with `{}` for the sides.
    """
    resized = f"Image.fromarray(band).{how.format(sides)}"
    return f"bands = [{resized} for band in np.moveaxis({array}, -1, 0)]"


def picture_read(file: str, mode: str) -> list[str]:
    """Lines of a program that read the picture at the expression `file` as `predict` does: upright, in `mode`."""
    return [
        f"picture = ImageOps.exif_transpose(Image.open({file}))",
        'if picture.mode[0] in "IF":  # grey of 16 bits, or of fractions',
        '    picture = np.asarray(picture) * (255 if picture.mode == "F" else 1 / 257)',
        "    picture = Image.fromarray(np.uint8(picture + 0.5))",
        f'picture = picture.convert("{mode}")',
    ]


def run_program(
    name: str, outputs: Iterable[str], shape: tuple[int | None, ...], labels: str | None, *, tflite: bool
) -> str:
    """A program that needs nothing of this package and lies beside the exported file, or in the SavedModel folder.

    It takes a picture file; of other than 1 and 3 channels an array (height, width, C) in 0..255, as `.npy` file. Where
    the file takes one size, a picture is resized as `predict` does it, bilinear and without antialiasing; Pillow rounds
    down, so that values are up to a grey level lower.

    Args:
        name: of the `.tflite` file; not used otherwise.
        outputs: names of the detector's outputs.
        shape: (H, W, C) of the picture, H and W None where they are open.
        labels: name of the file with one class a line; None: labels are printed as numbers.
        tflite: whether it is a `.tflite` file; else a SavedModel folder.
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    color = CANVAS_COLOR if channels == 3 else round(sum(CANVAS_COLOR) / 3)
    if channels in (1, 3):
        given = "PICTURE"
        read = picture_read("sys.argv[1]", "RGB")
        whole = [f'seen = picture.convert("{mode}")']
        small = [
            f"small = picture.{_SAMPLED.format('sides')}",
            f'seen = Image.new("{mode}", ({width}, {height}), {color})',
            f'seen.paste(small.convert("{mode}"))',
        ]
        array = f"np.asarray(seen).reshape(1, seen.height, seen.width, {channels})"
    else:  # No picture file that Pillow reads has so many channels. The first ones are drawn on.
        given = f"ARRAY.npy, (height, width, {channels}) in 0..255"
        read = [
            "array = np.load(sys.argv[1]).astype(np.uint8)",
            f'picture = Image.fromarray(array[..., {":3" if channels > 3 else "0"}]).convert("RGB")',
        ]
        whole = ["seen = array"]
        small = [
            bands_resized("array", "sides", _SAMPLED),
            f"seen = np.full(({height}, {width}, {channels}), {color}, np.uint8)",
            "seen[: sides[1], : sides[0]] = np.stack(bands, axis=-1)",
        ]
        array = "seen[None]"
    if None in (height, width):
        fit, boxes, points = whole, 'found["boxes"][i]', 'found["keypoints"][i, :, :2]'
    else:
        # Of a file of one size the picture fills as much as fits, from the top left corner.
        fit = [
            f"scale = min({width} / picture.width, {height} / picture.height)",
            "sides = tuple(max(1, int(side * scale)) for side in picture.size)",
            "back = np.array(picture.size) / sides",
            "# Without antialiasing, which `resize` of Pillow has and the detector was not trained with.",
            *small,
        ]
        boxes, points = 'found["boxes"][i] * np.tile(back, 2)', 'found["keypoints"][i, :, :2] * back'
    lines = [
        f'"""Finds objects in a picture, prints them and draws them: python THIS_FILE {given}"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter" if tflite else "import tensorflow as tf",
        f"from PIL import Image, ImageDraw{', ImageOps' if channels in (1, 3) else ''}",
        "",
        "folder = Path(__file__).resolve().parent",
        *([f'names = (folder / "{labels}").read_text(encoding="utf-8").splitlines()'] if labels else []),
        f'model = Interpreter(str(folder / "{name}"), num_threads=2)'
        if tflite
        else "model = tf.saved_model.load(folder)",
        'run = model.get_signature_runner("serving_default")'
        if tflite
        else 'run = model.signatures["serving_default"]',
        *read,
        *fit,
        f"outputs = run(image={array if tflite else f'tf.constant({array})'})",
        "found = {name: np.asarray(value)[0] for name, value in outputs.items()}",
        "drawn = ImageDraw.Draw(picture)",
        'for i in range(int(found["count"])):'
        if "count" in outputs
        else 'for i in np.flatnonzero(found["labels"] >= 0):',
        f"    x1, y1, x2, y2 = ({boxes}).tolist()",
        '    name = names[found["labels"][i]]' if labels else '    name = found["labels"][i]',
        """    print(f"{name} {found['scores'][i]:.3f} at {x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f}")""",
        *([_MASKS] if "masks" in outputs else []),
        "    drawn.rectangle([x1, y1, x2, y2], outline=(255, 255, 0))",
    ]
    if "keypoints" in outputs:
        lines += [
            f"    for x, y in {points}:",
            "        drawn.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(0, 200, 0))",
        ]
    return "\n".join([*lines, 'picture.save("detections.png")', ""])


def _detections(model: keras.Model) -> Detections | None:
    found = (layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, Detections))
    return next(found, None)


__all__ = [
    "PROGRAM_FILE",
    "bands_resized",
    "check_labels",
    "detector_facts",
    "labels_text",
    "picture_read",
    "program_file",
    "run_program",
    "with_labels",
]
