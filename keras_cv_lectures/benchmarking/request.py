"""What is asked of the processes of one measurement, as text that fits on a command line."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Path of a system -> what people read.
PATHS = {
    "predict": "model.predict",
    "call": "compiled call",
    "frozen": "compiled call, frozen",
    "saved_model": "SavedModel",
    "tflite_float32": "TFLite float32",
    "tflite_float16": "TFLite float16",
    "tflite_int8": "TFLite int8",
    "bfloat16": "compiled call, bfloat16",
    "training": "training step",
}
EXPORTS = {
    "saved_model": "saved_model",
    "tflite_float32": "float32.tflite",
    "tflite_float16": "float16.tflite",
    "tflite_int8": "int8.tflite",
}
MODEL_FILE, PREPARED_FILE = "model.keras", "prepared.json"
MATRIX = "matrix_product"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One system at one size.

    Attributes:
        system: name in `SYSTEMS`.
        folder: where the process that prepares leaves the model and its exports.
        size: (height, width) of the picture.
        classes: `num_classes` of the builder: of a captioner its words.
        config: all arguments of the builder.
        threads: threads that compute.
        batch: pictures of a training step.
        paths: keys of `PATHS`.
        matrix: rows and columns of the matrices whose product tells what the machine can do.
    """

    system: str
    folder: str
    size: tuple[int, int]
    classes: int
    config: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 2
    batch: int = 2
    paths: tuple[str, ...] = tuple(PATHS)
    matrix: int = 2048

    def to_text(self) -> str:
        """Python literals, because JSON would make lists of the tuples that builders ask for."""
        return repr({**asdict(self), "config": dict(self.config)})

    @classmethod
    def from_text(cls, text: str) -> Request:
        return cls(**ast.literal_eval(text))

    def file(self, name: str) -> Path:
        return Path(self.folder) / name


__all__ = ["EXPORTS", "MATRIX", "MODEL_FILE", "PATHS", "PREPARED_FILE", "Request"]
