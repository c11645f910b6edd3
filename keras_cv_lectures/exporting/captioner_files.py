"""What lies beside an exported captioner: a program that says a sentence about a picture."""

from __future__ import annotations


def caption_program(name: str, shape: tuple[int | None, ...], words: str | None, *, tflite: bool) -> str:
    """A program that needs nothing of this package.

    Args:
        name: of the `.tflite` file; not used otherwise.
        shape: (H, W, C) of the picture, H and W None where they are open.
        words: name of the file with the vocabulary; None: the words are printed as numbers.
        tflite: whether it is a `.tflite` file; else a SavedModel folder.
    """
    height, width, channels = shape
    array = f"np.asarray(picture, np.uint8).reshape(1, picture.height, picture.width, {channels})"
    resized = "" if None in (height, width) else f".resize(({width}, {height}), Image.Resampling.BILINEAR)"
    said = 'found["tokens"][0, : int(found["length"][0])]'
    lines = [
        '"""Describes a picture in words: python THIS_FILE PICTURE"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter" if tflite else "import tensorflow as tf",
        "from PIL import Image, ImageOps",
        "",
        "folder = Path(__file__).resolve().parent",
        *([f'words = (folder / "{words}").read_text(encoding="utf-8").split("\\n")'] if words else []),
        f'model = Interpreter(str(folder / "{name}"), num_threads=2)'
        if tflite
        else "model = tf.saved_model.load(folder)",
        'run = model.get_signature_runner("beam")' if tflite else 'run = model.signatures["caption"]',
        "picture = ImageOps.exif_transpose(Image.open(sys.argv[1]))",
        f'picture = picture.convert("{"L" if channels == 1 else "RGB"}"){resized}',
        f"outputs = run(image={array if tflite else f'tf.constant({array})'})",
        "found = {key: np.asarray(value) for key, value in outputs.items()}",
        f"print(*({f'words[k] for k in {said}' if words else said}))",
    ]
    return "\n".join([*lines, ""])


__all__ = ["caption_program"]
