"""What the values in a mask file mean: value or colour -> class id, with 255 for "ignore"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

Color = tuple[int, int, int]
MaskValue = int | Color

IGNORE = 255
MAX_CLASSES = 255
MAX_VALUE = 65535

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_VOID_COLOR = (224, 224, 192)
CAMVID_CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
CAMVID_COLORS = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
    *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """The classes of a data set and the mask values that stand for them.

    Attributes:
        classes: names; the position is the class id (0..254).
        colors: one (red, green, blue) for each class, for pictures of predictions.
        values: mask value -> class id. A value is an integer (grey or palette masks) or a colour (RGB masks); both
            kinds may stand side by side.
        ignore: mask values that become 255, the label that losses and metrics leave out.
        written: whether a file gives the values; of GIF masks they may then be the numbers of colours in the files.
        note: for the user: how the map was guessed and how to override it; "" where nothing was guessed.
    """

    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    values: Mapping[MaskValue, int]
    ignore: frozenset[MaskValue] = field(default=frozenset({IGNORE}))
    written: bool = False
    note: str = ""

    def __post_init__(self):
        count = len(self.classes)
        if not 1 <= count <= MAX_CLASSES:
            raise DataError(f"a label map needs 1 to {MAX_CLASSES} classes, not {count}: 255 is the ignore label.")
        if len(self.colors) != count:
            raise DataError(f"a label map needs one color for each class: {count} classes, {len(self.colors)} colors.")
        outside = sorted({i for i in self.values.values() if not 0 <= i < count})
        if outside:
            raise DataError(f"a label map gives class ids 0..{count - 1}, but its values name {outside}.")
        values = [*self.values, *self.ignore]
        wrong = [v for v in values if isinstance(v, int) and not 0 <= v <= MAX_VALUE]
        wrong += [v for v in values if not isinstance(v, int) and (len(v) != 3 or not 0 <= min(v) <= max(v) <= 255)]
        if wrong:
            raise DataError(f"mask values are integers in 0..{MAX_VALUE} or colours in 0..255, not {wrong[:5]}.")

    @property
    def by_color(self) -> bool:
        """Whether masks are told apart by colour only, so that palette files must be read as colours."""
        return not any(isinstance(value, int) for value in self.values)

    def encode(self, raw: np.ndarray, path: str | Path) -> np.ndarray:
        """Turns stored mask values into class ids.

        Args:
            raw: (H, W) integers or (H, W, 3) uint8, as `read_mask(path, colors=self.by_color)` gives them.
            path: for the message.

        Returns:
            (H, W) int32 class ids, 255 where the value is to be ignored.

        Raises:
            DataError: the mask holds values that the map does not know.
        """
        if raw.ndim == 3 and not self._color_table[0].size:
            if not is_grey(raw):
                raise DataError(
                    f"{path} is a coloured mask, but the label map knows integers only. Save the mask as grey or "
                    "palette PNG, or give the colours: lines `RED GREEN BLUE NAME` in a file labels=FILE."
                )
            raw = raw[..., 0]
        if raw.ndim == 2 and not self.by_color:
            ids = self._encode_integers(raw)
        else:
            ids = self._encode_colors(pack_colors(raw) if raw.ndim == 3 else raw.astype(np.int64) * 0x010101)
        if ids.min(initial=0) < 0:
            raise DataError(self._unknown(raw, ids < 0, path))
        return ids

    def _encode_integers(self, raw: np.ndarray) -> np.ndarray:
        table = self._integer_table
        if raw.dtype != np.uint8:
            raw = raw.astype(np.int64)
            raw = np.where((raw >= 0) & (raw < table.size), raw, table.size - 1)
        return table[raw]

    def _encode_colors(self, packed: np.ndarray) -> np.ndarray:
        keys, ids = self._color_table
        place = np.searchsorted(keys, packed).clip(max=keys.size - 1)
        return np.where(keys[place] == packed, ids[place], -1).astype(np.int32)

    @cached_property
    def _integer_table(self) -> np.ndarray:
        """Class id for each integer, -1 for unknown; the last entry is never a known value."""
        known = {v: i for v, i in self.values.items() if isinstance(v, int)}
        known = {v: IGNORE for v in self.ignore if isinstance(v, int)} | known
        table = np.full(max(256, max(known, default=0) + 2), -1, np.int32)
        for value, label in known.items():
            table[value] = label
        return table

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted packed colours and their class ids; empty where no class has a colour of its own in the masks."""
        known = {v: i for v, i in self.values.items() if not isinstance(v, int)}
        if known:
            known = {v: IGNORE for v in self.ignore if not isinstance(v, int)} | known
        packed = sorted(((r << 16 | g << 8 | b), i) for (r, g, b), i in known.items())
        return np.array([p for p, _ in packed], np.int64), np.array([i for _, i in packed], np.int32)

    def _unknown(self, raw: np.ndarray, bad: np.ndarray, path: str | Path) -> str:
        values, counts = np.unique(raw[bad], axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shown = ", ".join(f"{shown_value(values[i])} ({counts[i]:,} pixels)" for i in order[:6])
        more = f" and {len(values) - 6} more values" if len(values) > 6 else ""
        kinds = [v for v in self.values if isinstance(v, int) == (raw.ndim == 2 and not self.by_color)]
        first = shown_value(values[order[0]])
        jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
        lossy = " JPEG changes label values: save masks as PNG." if jpeg else ""
        return (
            f"{path} holds mask values outside the label map: {shown}{more}; the map knows "
            f"{listed_values(kinds)}.{lossy} Correct the mask, or name the value in a file labels=FILE "
            f"(`{first} NAME`, or `ignore {first}`)."
        )


def read_label_file(path: str | Path) -> LabelMap:
    """Reads a label map from a text or CSV file.

    Text, one class per line; a `#` with a blank after it starts a comment. Mask values or mask colours are named::

        0 background              # VALUE NAME
        1 cell  255 0 0           # VALUE NAME RED GREEN BLUE: the mask may hold 1 or, as RGB, this colour
        128 0 0 building          # RED GREEN BLUE NAME: masks are coloured
        ignore 7                  # VALUE or RED GREEN BLUE of pixels to leave out
        building:128,0,0::        # NAME:RED,GREEN,BLUE:PARTS:ACTIONS, as in labelmap.txt of CVAT and Datumaro; a
                                  # class `ignored` is left out

    CSV with a header that names the columns `name`, `r`, `g`, `b` (and, if wanted, `value`), in any order, as in
    CamVid's `class_dict.csv`; a row named `ignore` is left out.

    Class ids count up from 0 in the order of the lines. Lines of one name are one class. Value 255 is ignored unless
    a line gives it a name.

    Raises:
        DataError: the file is missing or a line does not have this form.
    """
    lines = read_text(path, what="the label file", repair="Give a text file.").splitlines()
    numbered = [(n, re.sub(r"(^|\s)#(\s.*)?$", "", line).strip()) for n, line in enumerate(lines, 1)]
    numbered = [(n, line) for n, line in numbered if line]
    header = [cell.strip().lower() for cell in numbered[0][1].split(",")] if numbered else []
    ids: dict[str, int] = {}
    colors: dict[str, Color] = {}
    values: dict[MaskValue, int] = {}
    ignore: set[MaskValue] = set()
    shared: set[MaskValue] = set()
    if "name" in header:
        numbered = numbered[1:]
    else:
        numbered = [(n, line) for n, line in numbered if not line.startswith("#")]
    for number, line in numbered:
        where = f"{path}, line {number}: {line[:100]!r}"
        name, value, color = _csv_row(line, header, where) if "name" in header else _text_row(line, where)
        keys = [key for key in (value, color) if key is not None]
        if name == "ignore":
            ignore.update(keys)
            continue
        label = ids.setdefault(name, len(ids))
        if color is not None:
            colors.setdefault(name, color)
        for key in keys:
            # Two classes may share a display colour as long as their values tell them apart.
            if values.setdefault(key, label) == label:
                continue
            if key is color and value is not None:
                shared.add(key)
            else:
                raise DataError(f"{where}: {shown_value(key)} has another name already. Give each value one name.")
    if not ids:
        raise DataError(f"the label file {path} names no class. Write one line `VALUE NAME` for each class.")
    defaults = default_colors(len(ids))
    return LabelMap(
        classes=tuple(ids),
        colors=tuple(colors.get(name, defaults[i]) for name, i in ids.items()),
        values={key: label for key, label in values.items() if key not in shared},
        ignore=frozenset(ignore | ({IGNORE} - set(values))),
        written=True,
    )


def _text_row(line: str, where: str) -> tuple[str, int | None, Color | None]:
    exported = re.fullmatch(r"([^:]*[^:\s])\s*:\s*([0-9]+),\s*([0-9]+),\s*([0-9]+)\s*:[^:]*:[^:]*", line)
    if exported:
        name = "ignore" if exported[1] == "ignored" else exported[1]
        return name, None, _color(exported.groups()[1:], where)
    words = line.split()
    integers = [bool(re.fullmatch("[0-9]+", word)) for word in words]
    if words[0] == "ignore" and len(words) in (2, 4) and all(integers[1:]):
        numbers = tuple(_value(word, where) for word in words[1:])
        return "ignore", *((numbers[0], None) if len(numbers) == 1 else (None, _color(numbers, where)))
    if len(words) >= 4 and integers[:4] == [True, True, True, False]:
        return " ".join(words[3:]), None, _color(words[:3], where)
    if len(words) >= 5 and integers[0] and not integers[1] and all(integers[-3:]):
        return " ".join(words[1:-3]), _value(words[0], where), _color(words[-3:], where)
    if len(words) >= 2 and integers[0] and not integers[1]:
        return " ".join(words[1:]), _value(words[0], where), None
    raise DataError(
        f"{where} is not `VALUE NAME [RED GREEN BLUE]`, `RED GREEN BLUE NAME`, `ignore VALUE` or "
        "`NAME:RED,GREEN,BLUE::`. Correct it."
    )


def _csv_row(line: str, header: list[str], where: str) -> tuple[str, int | None, Color | None]:
    cells = dict(zip(header, (cell.strip().strip('"') for cell in line.split(",")), strict=False))
    try:
        value = _value(cells["value"], where) if cells.get("value") else None
        color = _color([cells[c] for c in "rgb"], where) if any(cells.get(c) for c in "rgb") else None
        if not cells["name"] or (value is None and color is None):
            raise KeyError("name and r, g, b or value")
    except DataError:
        raise
    except (KeyError, ValueError) as error:
        raise DataError(f"{where} does not fit the header {','.join(header)[:100]} ({error}). Correct it.") from error
    return cells["name"], value, color


def _value(word: int | str, where: str) -> int:
    # Nine digits, because Python does not even convert numbers of thousands.
    if not re.fullmatch("[0-9]{1,9}", str(word)) or int(word) > MAX_VALUE:
        raise DataError(f"{where}: mask values are whole numbers in 0..{MAX_VALUE}. Correct it.")
    return int(word)


def _color(numbers: Sequence[int | str], where: str) -> Color:
    color = tuple(_value(n, where) for n in numbers)
    if max(color) > 255:
        raise DataError(f"{where}: colours lie in 0..255. Correct it.")
    return color


def default_colors(count: int) -> tuple[Color, ...]:
    """The Pascal VOC colour map: bits of the class id, dealt to red, green and blue from the highest bit down."""

    def color(index: int) -> Color:
        return tuple(sum((index >> (3 * bit + c) & 1) << (7 - bit) for bit in range(8)) for c in range(3))

    return tuple(color(index) for index in range(count))


VOC_COLORS = default_colors(len(VOC_CLASSES))
VOC_LABELS = LabelMap(
    classes=VOC_CLASSES,
    colors=VOC_COLORS,
    values={i: i for i in range(21)} | {color: i for i, color in enumerate(VOC_COLORS)},
    ignore=frozenset({IGNORE, VOC_VOID_COLOR}),
)
CAMVID_LABELS = LabelMap(
    classes=CAMVID_CLASSES, colors=CAMVID_COLORS, values={i: i for i in range(11)}, ignore=frozenset({11, IGNORE})
)


def is_grey(raw: np.ndarray) -> bool:
    return bool((raw[..., 0] == raw[..., 1]).all() and (raw[..., 0] == raw[..., 2]).all())


def pack_colors(raw: np.ndarray) -> np.ndarray:
    return (raw[..., 0].astype(np.int64) << 16) | (raw[..., 1].astype(np.int64) << 8) | raw[..., 2]


def shown_value(value: MaskValue | np.ndarray) -> str:
    return " ".join(str(int(v)) for v in np.atleast_1d(value))


def listed_values(values: Mapping | Sequence | set) -> str:
    """Mask values in order, runs of integers as first..last."""
    integers = sorted(v for v in values if isinstance(v, int))
    runs: list[list[int]] = []
    for value in integers:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    parts = [str(a) if a == b else f"{a}..{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs]
    parts += [f"({shown_value(v)})" for v in sorted(v for v in values if not isinstance(v, int))]
    return ", ".join(parts[:12]) + (f", ... ({len(parts)} in all)" if len(parts) > 12 else "")
