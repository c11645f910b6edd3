"""Data specifications: the text by which a command names its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from keras_cv_lectures.data.folders import (
    Pairing,
    camvid_pairs,
    camvid_splits,
    find_pairs,
    paired_source,
)
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.labels import CAMVID_LABELS, VOC_LABELS, LabelMap, read_label_file
from keras_cv_lectures.data.shapes import shapes_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.voc import voc_pairs, voc_splits
from keras_cv_lectures.errors import DataError

SHAPES_COUNT = 400
SHAPES_SIZE = (96, 128)
_VAL_SEED_OFFSET = 1_000_003

_FORMS = {
    "shapes": "shapes  shapes:count=400,size=96x128,seed=0",
    "camvid": "camvid:DIR  camvid:DIR,split=val",
    "folder": "folder:IMAGES,MASKS  folder:IMAGES,MASKS,labels=FILE,list=FILE,channels=1",
    "voc": "voc:DIR  voc:DIR,split=val,labels=FILE",
}
_POSITIONS = {"shapes": 0, "camvid": 1, "folder": 2, "voc": 1}
_OPTIONS = {
    "shapes": ("count", "size", "seed", "split"),
    "camvid": ("split",),
    "folder": ("labels", "list", "channels"),
    "voc": ("split", "labels"),
}
_LATER = ("coco", "yolo", "flickr", "csv")
_USUAL_PAIRS = (("images", "masks"), ("image", "label"), ("image", "mask"), ("images", "labels"), ("imgs", "masks"))

_log = logging.getLogger(__name__)


class Labelled(Protocol):
    """Anything that knows its classes: a `Source`, or the `Metadata` of a model."""

    classes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A specification, taken apart.

    Attributes:
        text: as it was given.
        kind: "shapes", "camvid", "folder" or "voc".
        paths: what stands before the options.
        options: option -> value, both as text.
    """

    text: str
    kind: str
    paths: tuple[Path, ...]
    options: dict[str, str]


def open_source(spec: str, split: str | None = None, *, like: Labelled | None = None) -> Source:
    """Opens the data that `spec` names.

    Args:
        spec: one of::

            shapes                                   generated pictures; options count, size (HxW or N), seed
            camvid:DIR                               DIR/train, DIR/trainannot, DIR/val, DIR/valannot
            folder:IMAGES,MASKS                      any two folders; options labels=FILE, list=FILE, channels=1
            voc:DIR                                  Pascal VOC, from DIR or VOCdevkit/VOC2012 below it
            DIR                                      a folder with one of these layouts

        split: "train" (also None) or "val", where the layout has splits; `split=NAME` in `spec` wins. The validation
            pictures of `shapes` come from another seed and are a quarter as many.
        like: training data, or a model's metadata, whose classes these masks share. Matters for `folder` without
            `labels=`, where class ids are guessed from the masks (see `infer_label_map`).

    Raises:
        DataError: the specification is not understood, or the data cannot be used.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "shapes":
        return _open_shapes(parsed, split)
    pairing = pairs_of(parsed, split).check()
    labels = labels_of(parsed)
    if labels is None:
        labels = infer_label_map([p.mask for p in pairing.pairs], classes=like.classes if like else None)
        if labels.note:
            _log.info("%s: %s", pairing.name, labels.note)
    return paired_source(pairing, labels, channels=channels_of(parsed))


def has_splits(spec: str) -> bool:
    """Whether the data that `spec` names is split into training and validation by its layout.

    False also where `spec` itself picks one by `split=`.
    """
    parsed = parse_spec(spec)
    return parsed.kind != "folder" and "split" not in parsed.options


def splits_of(spec: DataSpec) -> tuple[str | None, ...]:
    """The splits that are there; (None,) for data without splits."""
    if "split" in spec.options:
        return (spec.options["split"],)
    if spec.kind == "shapes":
        return ("train", "val")
    if spec.kind == "folder":
        return (None,)
    present = camvid_splits(spec.paths[0]) if spec.kind == "camvid" else voc_splits(spec.paths[0])
    return present or ("train",)


def pairs_of(spec: DataSpec, split: str | None = None) -> Pairing:
    """The files of one split, unopened; not for "shapes"."""
    split = spec.options.get("split") or split or "train"
    if spec.kind == "camvid":
        return camvid_pairs(spec.paths[0], split)
    if spec.kind == "voc":
        return voc_pairs(spec.paths[0], split)
    return find_pairs(*spec.paths, list_file=_path(spec.options.get("list")))


def labels_of(spec: DataSpec) -> LabelMap | None:
    """The label map that the layout or `labels=FILE` gives; None where it has to be guessed from the masks."""
    if "labels" in spec.options:
        return read_label_file(_path(spec.options["labels"]))
    return {"camvid": CAMVID_LABELS, "voc": VOC_LABELS}.get(spec.kind)


def channels_of(spec: DataSpec) -> int:
    """Channels that pictures are read with: 3, or what `channels=` says."""
    text = spec.options.get("channels", "3")
    if text not in ("1", "3"):
        raise DataError(f"{spec.text!r}: channels must be 1 (grey) or 3 (RGB), not {text!r}.")
    return int(text)


def parse_spec(spec: str) -> DataSpec:
    """Takes a specification apart.

    Raises:
        DataError: unknown kind or option, or a path is missing.
    """
    text = str(spec).strip()
    kind, _, rest = text.partition(":")
    kind = kind.lower()
    if kind in _LATER:
        raise DataError(f"{text!r}: data of the kind {kind!r} is not supported by this version. {_known()}")
    if kind not in _FORMS:
        guessed = _layout_of_folder(text)
        if guessed is None:
            fault = f"{kind!r} is no known kind of data" if rest else "it is no folder with a layout that is known"
            raise DataError(f"{text!r} is no data specification: {fault}. {_known()}")
        return guessed
    words = [word.strip() for word in rest.split(",")] if rest.strip() else []
    count = _POSITIONS[kind]
    paths, options = words[:count], {}
    if len(paths) < count or not all(paths):
        raise DataError(f"{text!r}: {count} path(s) expected after {kind + ':'!r}. Write {_FORMS[kind]}")
    for word in words[count:]:
        name, equals, value = word.partition("=")
        if not equals or name not in _OPTIONS[kind] or not value:
            raise DataError(
                f"{text!r}: {word!r} is no option of {kind!r}; its options are {', '.join(_OPTIONS[kind])}, written as "
                f"name=value. Commas separate options, so paths must not contain any. Write {_FORMS[kind]}"
            )
        if name in options:
            raise DataError(f"{text!r}: the option {name} is given twice. Remove one.")
        options[name] = value
    return DataSpec(text=text, kind=kind, paths=tuple(_path(p) for p in paths), options=options)


def _open_shapes(spec: DataSpec, split: str | None) -> Source:
    count = _integer(spec, "count", SHAPES_COUNT, 1)
    seed = _integer(spec, "seed", 0, 0)
    size = _size(spec)
    split = spec.options.get("split") or split or "train"
    if split not in ("train", "val"):
        raise DataError(f"{spec.text!r}: split must be train or val, not {split!r}.")
    if split == "val":
        count, seed = max(1, count // 4), (seed + _VAL_SEED_OFFSET) % 2**32
    return shapes_source(count, size=size, seed=seed)


def _integer(spec: DataSpec, name: str, default: int, low: int) -> int:
    text = spec.options.get(name, str(default))
    if not text.isdecimal() or not low <= int(text) < 2**32:
        raise DataError(f"{spec.text!r}: {name} must be a whole number of at least {low}, not {text!r}.")
    return int(text)


def _size(spec: DataSpec) -> tuple[int, int]:
    if "size" not in spec.options:
        return SHAPES_SIZE
    numbers = spec.options["size"].lower().split("x")
    if len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise DataError(f"{spec.text!r}: size must be HEIGHTxWIDTH or one number, not {spec.options['size']!r}.")
    return int(numbers[0]), int(numbers[-1])


def _layout_of_folder(text: str) -> DataSpec | None:
    """The specification of a folder that was given without a kind, if its layout leaves no doubt."""
    folder = _path(text)
    if not text or not folder.is_dir():
        return None
    if camvid_splits(folder):
        return DataSpec(text=text, kind="camvid", paths=(folder,), options={})
    if any(next(folder.glob(f"{above}ImageSets/Segmentation"), None) for above in ("", "VOC*/", "*/VOC*/")):
        return DataSpec(text=text, kind="voc", paths=(folder,), options={})
    for images, masks in _USUAL_PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return DataSpec(text=text, kind="folder", paths=(folder / images, folder / masks), options={})
    return None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _known() -> str:
    return "Supported are:\n" + "\n".join(f"  {form}" for form in _FORMS.values())
