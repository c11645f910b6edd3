"""Tables of pictures and captions as rows: headings, delimiters and quotes understood, faults named by line."""

from __future__ import annotations

import ast
import csv
import functools
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_cv_lectures.data.images import IMAGE_SUFFIXES
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

_DELIMITERS = (",", "\t", ";", "|")
_PICTURE_NAMES = ("image", "image_name", "image_path", "image_file", "picture", "filename", "file_name", "file", "path",
                  "filepath", "file_path", "img", "img_name", "img_path", "img_file", "image_filename", "photo",
                  "image_filepath", "img_filename", "img_filepath", "picture_file", "picture_name",
                  "picture_path")  # fmt: skip
_CAPTION_NAMES = ("caption", "comment", "captions", "text", "sentence", "description", "raw", "title", "sentences")
SPLIT_COLUMN = "split"
# Pictures of COCO's validation data that are neither validated nor tested on, "restval", are trained on by custom.
SPLIT_OF = {"train": "train", "training": "train", "restval": "train", "val": "val", "valid": "val",
            "validation": "val", "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
_LOOKED_AT = 200  # Lines by which delimiter and columns are found.
_LONGEST = 20  # Lines that one quoted caption may cover.
_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)  # As Python writes it.


@dataclass(frozen=True, kw_only=True)
class _Columns:
    delimiter: str
    picture: int
    captions: tuple[int, ...]
    count: int
    heading: bool
    split: int | None = None

    def described(self, first: str) -> str:
        """Which columns are read, for a person; `first` is the first line."""
        cells = _cells(first, self.delimiter) or []

        def named(column: int) -> str:
            name = f" ({cells[column].strip()[:40]})" if self.heading and column < len(cells) else ""
            return f"{column + 1}{name}"

        several = "columns" if len(self.captions) > 1 else "column"
        return f"pictures from column {named(self.picture)}, captions from {several} " + ", ".join(
            map(named, self.captions)
        )


def described_columns(path: Path) -> str:
    """Which columns of a table `caption_rows` reads; errors as there."""
    return _survey(path)[0]


def split_counts(path: Path) -> Counter[str]:
    """What stands in the column "split" of a table, in lower case -> number of rows; empty without such a column."""
    return _survey(path)[1].copy()


def _survey(path: Path) -> tuple[str, Counter[str]]:
    """`described_columns` and `split_counts`, which opening asks for many times: a large table takes seconds."""
    try:
        state = os.stat(path)
    except OSError:  # Said where the file is read.
        return _survey_of(path, 0, 0)
    return _survey_of(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=16)
def _survey_of(path: Path, changed: int, size: int) -> tuple[str, Counter[str]]:
    """`_survey` of the file as it was then; `changed` and `size` tell that from what is written later."""
    lines = read_lines(path)
    columns = _find_columns(path, lines)
    described = columns.described(lines[_first(lines) - 1])
    if columns.split is None:
        return described, Counter()
    splits = (_split(fields, columns) for _, fields in _body(lines, columns) if _whole(fields, columns))
    return described, Counter(splits)


def table_splits(path: Path) -> tuple[str, ...]:
    """Those of train, val and test that the column "split" of a table names; () without such a column."""
    there = {SPLIT_OF.get(name) for name in split_counts(path)}
    return tuple(split for split in ("train", "val", "test") if split in there)


def has_one_split(path: Path) -> bool:
    """Whether all rows of a table are of one of train, val and test by its column "split"."""
    return len({SPLIT_OF.get(name) for name in split_counts(path)}) == len(table_splits(path)) == 1


def caption_rows(path: Path, split: str | None = None) -> Iterator[tuple[str, str | None, str]]:
    """(picture, caption, where) of each caption; (fault, None, where) of a malformed row. Empty lines are passed over.

    With `split` only rows of that split, of a table that has such a column, and malformed ones.

    Raises:
        DataError: the file cannot be read as UTF-8 text, or which columns are meant is not found.
    """
    lines = read_lines(path)
    columns = _find_columns(path, lines)
    for number, fields in _body(lines, columns):
        where = f"{path}, line {number}"
        if fields is None:
            yield (
                "has a quotation mark that is not closed, or too much text between two. Close or remove it.",
                None,
                where,
            )
        elif not _whole(fields, columns):
            fault = f"has {len(fields)} columns instead of {columns.count}"
            yield f"{fault}. Put a caption that holds {columns.delimiter!r} in quotation marks.", None, where
        elif split is None or SPLIT_OF.get(_split(fields, columns)) == split:
            # Of several columns of captions some rows need not fill all.
            cells = [cell for column in columns.captions if (cell := fields[column]).strip()]
            texts = [text for cell in cells for text in _sentences(cell)]
            yield from ((fields[columns.picture].strip(), text, where) for text in texts or [""])


def _body(lines: list[str], columns: _Columns) -> Iterator[tuple[int, list[str] | None]]:
    """`_records` without the heading."""
    first = _first(lines) if columns.heading else 0
    return ((number, fields) for number, fields in _records(lines, columns) if number != first)


def _whole(fields: list[str] | None, columns: _Columns) -> bool:
    return fields is not None and len(fields) == columns.count


def _split(fields: list[str], columns: _Columns) -> str:
    return fields[columns.split].strip().lower() if columns.split is not None else ""


def _sentences(cell: str) -> list[str]:
    """The captions in a cell: the texts of a list as JSON, Python or NumPy write it, or else the cell itself."""
    inner = cell.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return [cell]
    try:
        found = json.loads(inner)
    except (ValueError, RecursionError):
        found = []
        # NumPy writes no commas, so that Python would unite the texts.
        if re.fullmatch(r"[\s,]*", _TEXT.sub("", inner[1:-1])):
            with warnings.catch_warnings(action="ignore"):  # of unknown signs after a backslash
                try:
                    found = [ast.literal_eval(text) for text in _TEXT.findall(inner[1:-1])]
                except (ValueError, SyntaxError):
                    return [cell]
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        return [cell]
    try:
        "".join(found).encode()
    except UnicodeEncodeError:  # Half a sign, which only an escape can write.
        return [cell]
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file without their ends.

    Raises:
        DataError: the file cannot be read.
    """
    text = read_text(path, repair="Check the path, and save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _first(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines, 1) if line.strip()), 0)


def _find_columns(path: Path, lines: list[str]) -> _Columns:
    first = _first(lines)
    if not first:
        raise DataError(f"{path} is empty. Write a picture and its caption in each line.")
    for delimiter in _DELIMITERS:
        names = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in _cells(lines[first - 1], delimiter) or ()]
        picture = next((names.index(n) for n in _PICTURE_NAMES if n in names), None)
        captions = _caption_columns(names)
        if picture is not None and captions:
            split = names.index(SPLIT_COLUMN) if SPLIT_COLUMN in names else None
            return _Columns(
                delimiter=delimiter, picture=picture, captions=captions, count=len(names), heading=True, split=split
            )
    best, votes = None, 0
    for delimiter in _DELIMITERS:
        rows = [cells for line in lines[:_LOOKED_AT] if line.strip() and (cells := _cells(line, delimiter))]
        counts = [len(r) for r in rows if len(r) > 1 and r[0].strip().lower().endswith(IMAGE_SUFFIXES)]
        # The usual number of columns: captions that hold the delimiter, unquoted, are the exception.
        usual = max(sorted(set(counts)), key=counts.count, default=0)
        if counts.count(usual) > votes:
            best, votes = (delimiter, usual), counts.count(usual)
    if best is None:
        raise DataError(
            f"{path} is no table of pictures and captions: expected a line such as photo.jpg,A dog runs. in each row "
            "(or tabs, semicolons, bars between the columns), or a heading such as image,caption."
        )
    delimiter, count = best
    cells = _cells(lines[first - 1], delimiter) or [""]
    heading = not cells[0].strip().lower().endswith(IMAGE_SUFFIXES) and len(cells) == count
    if heading and count > 2:
        raise DataError(
            f"{path}, line {first}: which of the columns {', '.join(cell.strip() for cell in cells)[:200]} hold the "
            "picture and the caption? Name them image and caption (or caption_1, caption_2 and so on)."
        )
    return _Columns(delimiter=delimiter, picture=0, captions=(count - 1,), count=count, heading=heading)


def _caption_columns(names: list[str]) -> tuple[int, ...]:
    """The columns called like a caption, with or without a number: caption, or caption_1, caption_2 and so on."""
    for name in _CAPTION_NAMES:
        found = [i for i, each in enumerate(names) if re.fullmatch(rf"{name}(_text|_?\d+)?", each)]
        if found:
            return tuple(found)
    return ()


def _records(lines: list[str], columns: _Columns) -> Iterator[tuple[int, list[str] | None]]:
    """(number of its first line, cells) of each record; None instead of cells where a quotation mark stays open."""
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        cells, taken = _cells(lines[at], columns.delimiter), 1
        # A quoted caption may go on in the next lines; where it never ends, only its first line is lost.
        while cells is None and taken < _LONGEST and at + taken < len(lines):
            if _stands_alone(lines[at + taken], columns):
                break
            taken += 1
            cells = _cells("\n".join(lines[at : at + taken]), columns.delimiter)
        if cells is None:
            taken = 1
        yield at + 1, cells
        at += taken


def _stands_alone(line: str, columns: _Columns) -> bool:
    """Whether a line is a row of its own for sure, and no part of the caption before it."""
    cells = _cells(line, columns.delimiter) if line.count('"') % 2 == 0 else None
    return bool(cells) and len(cells) == columns.count and cells[columns.picture].lower().endswith(IMAGE_SUFFIXES)


def _cells(text: str, delimiter: str) -> list[str] | None:
    """The cells of one record; None if a quotation mark is open at its end, or might be, because it is too long."""
    if '"' not in text:
        return text.split(delimiter)
    if len(text) > csv.field_size_limit():
        return None
    source = text.splitlines(keepends=True)
    try:
        return next(csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    # Text after a closing quotation mark: "Stop" he said.
    return next(csv.reader(source, delimiter=delimiter, skipinitialspace=True))
