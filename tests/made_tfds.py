"""Data sets of tensorflow-datasets, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def builder_class(
    title: str, features: Mapping[str, Any], example: Callable[[int], dict], splits: Mapping[str, tuple[int, int]]
) -> type:
    """The program of a data set: `example(i)` for each split's numbers, from a first one, so many."""
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = title
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._generate_examples(first, count) for split, (first, count) in splits.items()}

        def _generate_examples(self, first, count):
            return ((i, example(i)) for i in range(first, first + count))

    return Made


def prepare(folder: Path, title: str, *parts: Any, file_format: str = "tfrecord") -> Path:
    """Prepares `builder_class(title, *parts)` in `folder`; returns the folder of its version."""
    builder_class(title, *parts)(data_dir=folder, file_format=file_format).download_and_prepare()
    return folder / title / "1.0.0"
