"""Data specifications: the text by which a command names its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from keras_cv_lectures.data.captions import (
    CaptionListing,
    caption_source,
    coco_listing,
    flickr_listing,
    table_listing,
)
from keras_cv_lectures.data.coco import coco_objects
from keras_cv_lectures.data.flickr import flickr_splits, has_flickr
from keras_cv_lectures.data.folders import (
    Pairing,
    camvid_pairs,
    camvid_splits,
    find_pairs,
    paired_source,
)
from keras_cv_lectures.data.instance_folder import instance_folder_objects
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.labels import CAMVID_LABELS, VOC_LABELS, LabelMap, read_label_file
from keras_cv_lectures.data.objects import ObjectListing, object_source, read_class_file
from keras_cv_lectures.data.shapes import shapes_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.voc import voc_pairs, voc_splits
from keras_cv_lectures.data.voc_boxes import voc_boxes_objects, voc_boxes_splits
from keras_cv_lectures.data.yolo import has_yolo_labels, yolo_objects, yolo_splits
from keras_cv_lectures.errors import DataError

SHAPES_COUNT = 400
SHAPES_SIZE = (96, 128)
MAX_SHAPES = 6
_VAL_SEED_OFFSET = 1_000_003

_FORMS = {
    "shapes": "shapes  shapes:count=400,size=96x128,seed=0  shapes:shapes=3,clear=yes",
    "camvid": "camvid:DIR  camvid:DIR,split=val",
    "folder": "folder:IMAGES,MASKS  folder:IMAGES,MASKS,labels=FILE,list=FILE,channels=1",
    "voc": "voc:DIR  voc:DIR,split=val,labels=FILE",
    "coco": "coco:JSON,IMAGES  coco:instances_{split}.json,images/{split}  coco:JSON,IMAGES,masks=no",
    "vocboxes": "vocboxes:DIR  vocboxes:DIR,split=val,labels=FILE",
    "yolo": "yolo:DIR  yolo:DIR,split=val,labels=FILE",
    "instances": "instances:IMAGES,MASKS  instances:IMAGES,MASKS,class=cell,list=FILE,void=255",
    "flickr": "flickr:DIR  flickr:DIR,split=val",
    "cococaptions": "cococaptions:JSON,IMAGES  cococaptions:captions_{split}.json,images/{split}",
    "captions": "captions:CSV,IMAGES  captions:{split}.csv,IMAGES",
}
_POSITIONS = {
    "shapes": 0,
    "camvid": 1,
    "folder": 2,
    "voc": 1,
    "coco": 2,
    "vocboxes": 1,
    "yolo": 1,
    "instances": 2,
    "flickr": 1,
    "cococaptions": 2,
    "captions": 2,
}
_OPTIONS = {
    "shapes": ("count", "size", "seed", "split", "shapes", "clear"),
    "camvid": ("split",),
    "folder": ("labels", "list", "channels"),
    "voc": ("split", "labels"),
    "coco": ("split", "labels", "masks", "channels"),
    "vocboxes": ("split", "labels", "channels"),
    "yolo": ("split", "labels", "masks", "channels"),
    "instances": ("split", "class", "list", "void", "channels"),
    "flickr": ("split", "channels"),
    "cococaptions": ("split", "channels"),
    "captions": ("split", "channels"),
}
# Kinds whose examples hold boxes instead of a mask of classes.
OBJECT_KINDS = ("coco", "vocboxes", "yolo", "instances")
# Kinds whose examples hold sentences.
CAPTION_KINDS = ("flickr", "cococaptions", "captions")
# In the paths of these kinds `_SPLIT` stands for the name of the split.
_SPLIT_IN_PATHS = ("coco", "instances", "cococaptions", "captions")
_SPLIT = "{split}"
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
        kind: "shapes", "camvid", "folder", "voc", or one of `OBJECT_KINDS` or `CAPTION_KINDS`.
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

            shapes                                   generated pictures; options count, size (HxW or N), seed, shapes
                                                     (the most in a picture), clear=yes (captions beyond doubt)
            camvid:DIR                               DIR/train, DIR/trainannot, DIR/val, DIR/valannot
            folder:IMAGES,MASKS                      any two folders; options labels=FILE, list=FILE, channels=1
            voc:DIR                                  Pascal VOC, from DIR or VOCdevkit/VOC2012 below it
            coco:JSON,IMAGES                         COCO's boxes, masks and keypoints; options labels=FILE, masks=no
            vocboxes:DIR                             Pascal VOC's XML files of boxes; option labels=FILE
            yolo:DIR                                 YOLO's text files; options labels=FILE, masks=no
            instances:IMAGES,MASKS                   a mask for each object; options class=NAME, list=FILE, void=VALUE
            flickr:DIR                               Flickr8k or Flickr30k: pictures, captions, lists of the splits
            cococaptions:JSON,IMAGES                 COCO's captions
            captions:CSV,IMAGES                      any table of a picture's path and a caption, one caption a row
            DIR                                      a folder with one of these layouts

        split: "train" (also None) or "val", where the layout has splits; `split=NAME` in `spec` wins. The validation
            pictures of `shapes` come from another seed and are a quarter as many. In the paths of `coco`,
            `instances`, `cococaptions` and `captions`, "{split}" is replaced by its name.
        like: training data, or a model's metadata, whose classes these masks share. Matters for `folder` without
            `labels=`, where class ids are guessed from the masks (see `infer_label_map`), and for data of objects
            without `labels=`, whose classes get the labels that they have in `like`.

    Raises:
        DataError: the specification is not understood, or the data cannot be used.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "shapes":
        return _open_shapes(parsed, split)
    if parsed.kind in OBJECT_KINDS:
        listing = objects_of(parsed, split, like=like).check()
        for warning in listing.warnings:
            _log.info("%s: %s", listing.name, warning)
        return object_source(listing, channels=channels_of(parsed))
    if parsed.kind in CAPTION_KINDS:
        captions = captions_of(parsed, split).check()
        if captions.left_out:
            rows = len(captions.left_out)
            more = "" if rows == 1 else f" and {rows - 1} other rows (`kcvl doctor` lists them)"
            _log.info("%s: left out is %s%s", captions.name, captions.left_out[0], more)
        return caption_source(captions, channels=channels_of(parsed))
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
    if parsed.kind == "folder" or "split" in parsed.options:
        return False
    return parsed.kind not in (*OBJECT_KINDS, *CAPTION_KINDS) or splits_of(parsed) != (None,)


def splits_of(spec: DataSpec) -> tuple[str | None, ...]:
    """The splits that are there; (None,) for data without splits."""
    if "split" in spec.options:
        return (spec.options["split"],)
    if spec.kind == "shapes":
        return ("train", "val")
    if spec.kind == "folder":
        return (None,)
    if spec.kind in _SPLIT_IN_PATHS:
        return _splits_in_paths(spec)
    if spec.kind == "flickr":
        return flickr_splits(spec.paths[0]) or (None,)
    if spec.kind == "vocboxes":
        return voc_boxes_splits(spec.paths[0]) or (None,)
    if spec.kind == "yolo":
        return yolo_splits(spec.paths[0])
    present = camvid_splits(spec.paths[0]) if spec.kind == "camvid" else voc_splits(spec.paths[0])
    return present or ("train",)


def objects_of(spec: DataSpec, split: str | None = None, *, like: Labelled | None = None) -> ObjectListing:
    """The annotations of one split of data of `OBJECT_KINDS`, no picture opened; `like` as in `open_source`.

    Raises:
        DataError: see the reader of the kind.
    """
    split = _chosen_split(spec, split)
    labels = spec.options.get("labels")
    classes = read_class_file(_path(labels)) if labels else _classes_of(like)
    masks = _yes(spec, "masks")
    if spec.kind == "vocboxes":
        return voc_boxes_objects(spec.paths[0], split, classes=classes)
    if spec.kind == "yolo":
        return yolo_objects(spec.paths[0], split, classes=classes, masks=masks)
    paths = _paths_of_split(spec, split)
    if spec.kind == "coco":
        return coco_objects(*paths, classes=classes, masks=masks)
    return instance_folder_objects(
        *paths,
        name=spec.options.get("class"),
        void=_integer(spec, "void", 0, 0) if "void" in spec.options else None,
        list_file=_path(spec.options.get("list")),
        classes=classes,
    )


def captions_of(spec: DataSpec, split: str | None = None) -> CaptionListing:
    """The captions of one split of data of `CAPTION_KINDS`, no picture opened.

    Raises:
        DataError: see the reader of the kind.
    """
    split = _chosen_split(spec, split)
    if spec.kind == "flickr":
        return flickr_listing(spec.paths[0], split)
    paths = _paths_of_split(spec, split)
    return coco_listing(*paths) if spec.kind == "cococaptions" else table_listing(*paths)


def _chosen_split(spec: DataSpec, split: str | None) -> str | None:
    """The split to open: the one that the text names, else `split`, else the first that is there."""
    if split is None or "split" in spec.options or splits_of(spec) == (None,):
        split = splits_of(spec)[0]
    if split and spec.kind in _SPLIT_IN_PATHS and not _has_placeholder(spec):
        raise DataError(
            f"{spec.text!r}: split= needs {_SPLIT} in a path, where its name goes. Remove it, or write that."
        )
    return split


def _paths_of_split(spec: DataSpec, split: str | None) -> list[Path]:
    return [Path(str(path).replace(_SPLIT, split or "train")) for path in spec.paths]


def pairs_of(spec: DataSpec, split: str | None = None) -> Pairing:
    """The files of one split, unopened; for data with masks of classes only."""
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
    kind, colon, rest = text.partition(":")
    kind = kind.lower()
    # A folder may be called VOC or camvid; `shapes` alone is complete.
    guessed = None if kind == "shapes" or (colon and kind in _FORMS) else _layout_of_folder(text)
    if guessed or kind not in _FORMS:
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


def _splits_in_paths(spec: DataSpec) -> tuple[str | None, ...]:
    """Those of train and val for which all paths exist; (None,) where no path depends on the split."""
    if not _has_placeholder(spec):
        return (None,)
    names = ("train", "val")
    there = [n for n in names if all(Path(str(path).replace(_SPLIT, n)).exists() for path in spec.paths)]
    return tuple(there) or ("train",)


def _has_placeholder(spec: DataSpec) -> bool:
    return any(_SPLIT in str(path) for path in spec.paths)


def _classes_of(like: Labelled | None) -> tuple[str, ...] | None:
    """Names of what boxes can be: of a source without its background."""
    return tuple(getattr(like, "object_classes", ()) or getattr(like, "classes", ())) or None


def _yes(spec: DataSpec, name: str, default: str = "yes") -> bool:
    text = spec.options.get(name, default)
    if text not in ("yes", "no"):
        raise DataError(f"{spec.text!r}: {name} must be yes or no, not {text!r}.")
    return text == "yes"


def _open_shapes(spec: DataSpec, split: str | None) -> Source:
    count = _integer(spec, "count", SHAPES_COUNT, 1)
    seed = _integer(spec, "seed", 0, 0)
    size = _size(spec)
    split = spec.options.get("split") or split or "train"
    if split not in ("train", "val"):
        raise DataError(f"{spec.text!r}: split must be train or val, not {split!r}.")
    if split == "val":
        count, seed = max(1, count // 4), (seed + _VAL_SEED_OFFSET) % 2**32
    most = _integer(spec, "shapes", MAX_SHAPES, 1)
    return shapes_source(count, size=size, seed=seed, max_shapes=most, clear=_yes(spec, "clear", "no"))


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
    if any(next(folder.glob(f"{above}Annotations/*.xml"), None) for above in ("", "VOC*/", "*/VOC*/")):
        return DataSpec(text=text, kind="vocboxes", paths=(folder,), options={})
    if has_yolo_labels(folder):
        return DataSpec(text=text, kind="yolo", paths=(folder,), options={})
    if has_flickr(folder):
        return DataSpec(text=text, kind="flickr", paths=(folder,), options={})
    for images, masks in _USUAL_PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return DataSpec(text=text, kind="folder", paths=(folder / images, folder / masks), options={})
    return None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _known() -> str:
    return "Supported are:\n" + "\n".join(f"  {form}" for form in _FORMS.values())
