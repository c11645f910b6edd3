"""Where tensorflow-datasets keeps what it has prepared: DIR/NAME/[CONFIG/]VERSION/features.json, and its records.

Found and checked without a data set's own program, so nothing is downloaded and nothing of it is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cv_lectures.data.objects import path_inside
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_json

INSTALL = "pip install 'keras_cv_lectures[data]'"
_NAME = re.compile(r"(?P<name>[A-Za-z]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Names of classes in features.json: tensorflow-datasets would import any other module that one names.
_OWN_CLASSES = "tensorflow_datasets."
# A record of a TFRecord file: length, checksum of the length, content, checksum of the content.
_HEAD, _FRAME = 8, 16


def import_tfds() -> Any:
    """The module `tensorflow_datasets`.

    Raises:
        DataError: it is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"tfds: needs tensorflow-datasets, which cannot be imported ({error}). {INSTALL}") from error
    return tfds


def open_builder(name: str, data_dir: str | Path | None = None, *, download: bool = False) -> Any:
    """The read-only builder of a data set that was prepared before.

    Args:
        name: "NAME", "NAME/CONFIG", either with ":VERSION".
        data_dir: None means the variable TFDS_DATA_DIR, or ~/tensorflow_datasets.
        download: prepare it where it is not, which downloads it.

    Raises:
        DataError: tensorflow-datasets is not installed, the data set is not prepared or damaged, or its preparation
            fails.
    """
    tfds = import_tfds()
    found = _NAME.fullmatch(name)
    if not found:
        raise DataError(
            f"tfds:{name}: {name!r} is no name of a data set. Write NAME, NAME/CONFIG or NAME/CONFIG:1.0.0."
        )
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()
    folder = _prepared(root, name, **found.groupdict())
    if folder is None and download:
        try:
            tfds.builder(name, data_dir=str(root)).download_and_prepare()
        except Exception as error:  # A program of somebody else's, the network, the disk: anything may go wrong.
            raise DataError(
                f"tfds:{name} cannot be prepared in {root} ({type(error).__name__}: {error}). Check the name, the "
                "network and the free space."
            ) from error
        folder = _prepared(root, name, **found.groupdict())
    if folder is None:
        raise DataError(
            f"tfds:{name} is not prepared in {root}. Add download=yes, choose the folder with dir=DIR, or run python -c"
            f" \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}').download_and_prepare()\""
        )
    _refuse_foreign_classes(folder / "features.json")
    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # Damaged descriptions make it raise almost anything.
        raise DataError(
            f"{folder} cannot be read as a data set of tensorflow-datasets ({type(error).__name__}: {error}). Prepare "
            "it again."
        ) from error


@dataclass(frozen=True, kw_only=True)
class Records:
    """The serialized examples of a split.

    Attributes:
        ids: one each, as tensorflow-datasets numbers them: "mine-train.tfrecord-00000-of-00001__7".
        where: what messages call them: the file, and the number of the example in it, from 0.
        read: index -> bytes; raises `DataError`. May be called from several threads at once.
    """

    ids: tuple[str, ...]
    where: tuple[str, ...]
    read: Callable[[int], bytes]


def open_records(builder: Any, split: str) -> Records:
    """Finds the records of `split`, which may be a slice, such as "train[:80%]".

    Raises:
        DataError: there is no such split, or a file is missing, damaged or of a kind that cannot be read in any order.
    """
    folder = Path(builder.data_dir)
    try:
        instructions = builder.info.splits[split].file_instructions
        kind = builder.info.file_format.value
    except Exception as error:  # Whatever a text that is no split may raise.
        there = ", ".join(builder.info.splits) or "none"
        raise DataError(f"{folder} has no split {split!r}; there is {there}. Choose one with split=NAME.") from error
    opened = {"tfrecord": _tfrecords, "array_record": _array_records}.get(kind)
    if opened is None:
        raise DataError(f"{folder} holds files of kind {kind}; tfrecord or array_record is expected. Prepare it so.")
    rows: list[tuple[Path, int, Callable[[], bytes]]] = []
    for instruction in instructions:
        file = Path(os.path.normpath(instruction.filename))
        if file.parent != Path(os.path.normpath(folder)) or not file.is_file():
            raise DataError(f"{file} is no file in {folder}. Prepare the data set again.")
        records = opened(file)
        if len(records) != instruction.examples_in_shard:
            raise DataError(
                f"{file} holds {len(records)} examples, but {folder / 'dataset_info.json'} says "
                f"{instruction.examples_in_shard}. Prepare the data set again."
            )
        stop = len(records) if instruction.take < 0 else instruction.skip + instruction.take
        rows += [(file, i, records[i]) for i in range(instruction.skip, stop)]
    return Records(
        ids=tuple(f"{file.name}__{i}" for file, i, _ in rows),
        where=tuple(f"{file}, example {i}" for file, i, _ in rows),
        read=lambda index: rows[index][2](),
    )


def _prepared(root: Path, text: str, name: str, config: str | None, version: str | None) -> Path | None:
    """The folder of the newest version, or of `version`; None where there is none."""
    base = path_inside(root, f"{name}/{config}" if config else name, f"tfds:{text}")
    found = _versions(base)
    if not found and config is None and base.is_dir():
        configs = sorted(path for path in base.iterdir() if path.is_dir() and _versions(path))
        if len(configs) > 1:
            names = ", ".join(path.name for path in configs)
            raise DataError(f"{base} holds the configurations {names}. Choose one: tfds:{name}/{configs[0].name}")
        found = _versions(configs[0]) if configs else []
    if version is not None:
        return next((path for path in found if path.name == version), None)
    return found[-1] if found else None


def _versions(folder: Path) -> list[Path]:
    """The prepared versions in `folder`, the newest last."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _VERSION.fullmatch(p.name) and (p / "features.json").is_file()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _refuse_foreign_classes(file: Path) -> None:
    waiting = [read_json(file, repair="Prepare the data set again.")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            named = [value[key] for key in ("pythonClassName", "python_class_name", "type") if key in value]
            foreign = [name for name in named if isinstance(name, str) and not name.startswith(_OWN_CLASSES)]
            if foreign:
                raise DataError(
                    f"{file} names the class {foreign[0][:100]!r}, which is none of tensorflow-datasets; its module is "
                    "not imported. Read such data with a reader of your own (docs/own_reader.md)."
                )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _tfrecords(file: Path) -> list[Callable[[], bytes]]:
    """A reader for each record; only the lengths are read now."""
    places, size = [], file.stat().st_size
    with file.open("rb") as opened:
        start = 0
        while start < size:
            length = int.from_bytes(opened.read(_HEAD), "little")
            if start + length + _FRAME > size:
                raise DataError(f"{file} is truncated or damaged at byte {start:,}. Prepare the data set again.")
            places.append((start + _HEAD + 4, length))
            start += length + _FRAME
            opened.seek(start)

    def reader(start: int, length: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with file.open("rb") as opened:
                opened.seek(start)
                return opened.read(length)

        return read

    return [reader(*place) for place in places]


def _array_records(file: Path) -> list[Callable[[], bytes]]:
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        records = ArrayRecordDataSource([str(file)])
        count = len(records)
    except ImportError as error:
        raise DataError(f"{file} needs array_record, which cannot be imported ({error}). {INSTALL}") from error
    except Exception as error:
        raise DataError(f"{file} is damaged ({type(error).__name__}: {error}). Prepare the data set again.") from error

    def reader(index: int) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                return records[index]
            except Exception as error:  # Its own checksums are wrong.
                raise DataError(
                    f"{file}, example {index} is damaged ({type(error).__name__}: {error}). Prepare the data set again."
                ) from error

        return read

    return [reader(index) for index in range(count)]
