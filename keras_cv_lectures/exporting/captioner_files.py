"""What lies beside an exported captioner: a program that says a sentence about a picture."""

from __future__ import annotations

from keras_cv_lectures.exporting.detector_files import bands_resized, picture_read


def caption_program(name: str, shape: tuple[int | None, ...], words: str | None, *, tflite: bool) -> str:
    """A program that needs nothing of this package.

    It takes a picture file; of other than 1 and 3 channels an array (height, width, C) in 0..255, as `.npy` file.

    Args:
        name: of the `.tflite` file; not used otherwise.
        shape: (H, W, C) of the picture, H and W None where they are open.
        words: name of the file with the vocabulary; None: the words are printed as numbers.
        tflite: whether it is a `.tflite` file; else a SavedModel folder.
    """
    height, width, channels = shape
    sides = None if None in (height, width) else f"({width}, {height})"
    if channels in (1, 3):
        given, imports = "PICTURE", ["from PIL import Image, ImageOps"]
        read = picture_read("sys.argv[1]", "L" if channels == 1 else "RGB")
        read += [f"picture = picture.resize({sides}, Image.Resampling.BILINEAR)"] if sides else []
        array = f"np.asarray(picture, np.uint8).reshape(1, picture.height, picture.width, {channels})"
    else:  # No picture file that Pillow reads has so many channels.
        given, imports = f"ARRAY.npy, (height, width, {channels}) in 0..255", ["from PIL import Image"] if sides else []
        read = [
            "picture = np.load(sys.argv[1]).astype(np.uint8)",
            *([bands_resized("picture", sides)] if sides else []),
        ]
        array = "np.stack(bands, axis=-1)[None]" if sides else "picture[None]"
    said = 'found["tokens"][0, : int(found["length"][0])]'
    lines = [
        f'"""Describes a picture in words: python THIS_FILE {given}"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter" if tflite else "import tensorflow as tf",
        *imports,
        "",
        "folder = Path(__file__).resolve().parent",
        *([f'words = (folder / "{words}").read_text(encoding="utf-8").split("\\n")'] if words else []),
        f'model = Interpreter(str(folder / "{name}"), num_threads=2)'
        if tflite
        else "model = tf.saved_model.load(folder)",
        'run = model.get_signature_runner("beam")' if tflite else 'run = model.signatures["caption"]',
        *read,
        f"outputs = run(image={array if tflite else f'tf.constant({array})'})",
        "found = {key: np.asarray(value) for key, value in outputs.items()}",
        f"print(*({f'words[k] for k in {said}' if words else said}))",
    ]
    return "\n".join([*lines, ""])


__all__ = ["caption_program"]
