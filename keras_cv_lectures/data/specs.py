"""Data specifications: the text by which a command names its data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from keras_cv_lectures.data.caption_listing import CaptionListing
from keras_cv_lectures.data.caption_tables import has_one_split, table_splits
from keras_cv_lectures.data.captions import caption_source, coco_listing, flickr_listing, table_listing
from keras_cv_lectures.data.cityscapes import cityscapes_objects, cityscapes_pairs, cityscapes_splits
from keras_cv_lectures.data.coco import coco_objects
from keras_cv_lectures.data.flickr import flickr_splits
from keras_cv_lectures.data.folders import Pairing, camvid_pairs, camvid_splits, find_pairs, paired_source
from keras_cv_lectures.data.instance_folder import instance_folder_objects
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.labels import LabelMap, read_label_file
from keras_cv_lectures.data.objects import ObjectListing, object_source, read_class_file
from keras_cv_lectures.data.own_reader import python_source, python_splits
from keras_cv_lectures.data.pets import pets_boxes_objects, pets_pairs, pets_splits
from keras_cv_lectures.data.shapes import shapes_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.spec_text import (
    CAPTION_KINDS,
    MIXED_KINDS,
    OBJECT_KINDS,
    SPLIT,
    SPLIT_IN_PATHS,
    DataSpec,
    parse_spec,
)
from keras_cv_lectures.data.tfds_source import FEATURES, tfds_source, tfds_splits
from keras_cv_lectures.data.voc import voc_pairs, voc_splits
from keras_cv_lectures.data.voc_boxes import voc_boxes_objects, voc_boxes_splits
from keras_cv_lectures.data.yolo import yolo_objects, yolo_splits
from keras_cv_lectures.errors import DataError

SHAPES_COUNT = 400
SHAPES_SIZE = (96, 128)
MAX_SHAPES = 6
# How data sets call what is validated on; Roboflow calls it `valid`.
_NAMES_OF_VAL = ("val", "valid", "validation")
_VAL_SEED_OFFSET = 1_000_003

_log = logging.getLogger(__name__)


class Labelled(Protocol):
    """Anything that knows its classes: a `Source`, or the `Metadata` of a model."""

    classes: Sequence[str]


def open_source(spec: str, split: str | None = None, *, like: Labelled | None = None) -> Source:
    """Opens the data that `spec` names.

    Args:
        spec: one of::

            shapes                                   generated pictures; options count, size (HxW or N), seed, shapes
                                                     (the most in a picture), clear=yes (captions beyond doubt)
            camvid:DIR                               DIR/train, DIR/trainannot, DIR/val, DIR/valannot
            folder:IMAGES,MASKS                      any two folders; options labels=FILE, list=FILE, channels=1
            voc:DIR                                  Pascal VOC, from DIR or VOCdevkit/VOC2012 below it
            cityscapes:DIR                           Cityscapes: DIR/leftImg8bit, DIR/gtFine; option labels=FILE
            pets:DIR                                 Oxford-IIIT Pet: DIR/images, DIR/annotations/trimaps
            coco:JSON,IMAGES                         COCO's boxes, masks and keypoints; options labels=FILE, masks=no
            vocboxes:DIR                             Pascal VOC's XML files of boxes; option labels=FILE
            yolo:DIR                                 YOLO's text files; options labels=FILE, masks=no
            instances:IMAGES,MASKS                   a mask for each object; options class=NAME, list=FILE, void=VALUE
            cityscapesobjects:DIR                    Cityscapes' instances; option masks=no
            petsboxes:DIR                            the heads of Oxford-IIIT Pet: DIR/annotations/xmls
            flickr:DIR                               Flickr8k or Flickr30k: pictures, captions, lists of the splits
            cococaptions:JSON,IMAGES                 COCO's captions
            captions:CSV,IMAGES                      any table of a picture's path and captions, and maybe its split
            tfds:NAME                                prepared by tensorflow-datasets; options dir=DIR, labels=FILE,
                                                     download=yes, and mask=, objects=, captions=, image=FEATURE
            python:MODULE:FUNCTION                   what your own function returns, a `Source`: docs/own_reader.md
            DIR                                      a folder with one of these layouts

        split: "train" (also None) or "val", where the layout has splits; `split=NAME` in `spec` wins. The validation
            pictures of `shapes` come from another seed and are a quarter as many. In the paths of `coco`,
            `instances`, `cococaptions` and `captions`, "{split}" is replaced by its name ("val" also by "valid" or
            "validation"); without it a table of captions may name the split of each row in a column "split". Where that
            names one split only, all rows are taken, whichever is asked for.
        like: training data, or a model's metadata, whose classes these masks share. Matters for `folder` without
            `labels=`, where class ids are guessed from the masks (see `infer_label_map`), and for data of objects
            without `labels=`, whose classes get the labels that they have in `like`.

    Raises:
        DataError: the specification is not understood, or the data cannot be used.
    """
    parsed = parse_spec(spec)
    if parsed.kind in MIXED_KINDS:
        source = _open_mixed(parsed, split, like)
        for note in source.notes:
            _log.info("%s: %s", source.name, note)
        return source
    if parsed.kind in OBJECT_KINDS:
        listing = objects_of(parsed, split, like=like).check()
        for warning in listing.warnings:
            _log.info("%s: %s", listing.name, warning)
        return object_source(listing, channels=parsed.channels())
    if parsed.kind in CAPTION_KINDS:
        captions = captions_of(parsed, split).check()
        if captions.left_out:
            rows = len(captions.left_out)
            more = "" if rows == 1 else f" and {rows - 1} other rows (`kcvl doctor` lists them)"
            _log.info("%s: left out is %s%s", captions.name, captions.left_out[0], more)
        return caption_source(captions, channels=parsed.channels())
    pairing = pairs_of(parsed, split).check()
    for note in pairing.notes:
        _log.info("%s: %s", pairing.name, note)
    labels = labels_of(parsed) or pairing.labels
    if labels is None:
        labels = infer_label_map([p.mask for p in pairing.pairs], classes=like.classes if like else None)
        if labels.note:
            _log.info("%s: %s", pairing.name, labels.note)
    return paired_source(pairing, labels, channels=parsed.channels())


def has_splits(spec: str) -> bool:
    """Whether the data that `spec` names is split into training and validation by its layout.

    False also where `spec` itself picks one by `split=`.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "folder" or "split" in parsed.options:
        return False
    return splits_of(parsed) != (None,)


def splits_of(spec: DataSpec) -> tuple[str | None, ...]:
    """The splits that are there; (None,) for data without splits."""
    if "split" in spec.options:
        return (spec.options["split"],)
    if spec.kind == "shapes":
        return ("train", "val")
    if spec.kind == "folder":
        return (None,)
    if spec.kind == "python":
        return python_splits(spec.names[0])
    if spec.kind == "tfds":
        return tfds_splits(spec.names[0], data_dir=spec.path("dir"), download=spec.yes("download", "no"))
    if spec.kind in SPLIT_IN_PATHS:
        return _splits_in_paths(spec)
    if spec.kind == "flickr":
        return flickr_splits(spec.paths[0]) or (None,)
    if spec.kind == "vocboxes":
        return voc_boxes_splits(spec.paths[0]) or (None,)
    if spec.kind in ("pets", "petsboxes"):
        return pets_splits(spec.paths[0]) or (None,)
    if spec.kind == "yolo":
        return yolo_splits(spec.paths[0])
    present = {
        "camvid": camvid_splits,
        "voc": voc_splits,
        "cityscapes": cityscapes_splits,
        "cityscapesobjects": cityscapes_splits,
    }[spec.kind](spec.paths[0])
    return present or ("train",)


def objects_of(spec: DataSpec, split: str | None = None, *, like: Labelled | None = None) -> ObjectListing:
    """The annotations of one split of data of `OBJECT_KINDS`, no picture opened; `like` as in `open_source`.

    What makes them unlearnable is a warning of data that are not trained on: of "val", and of those `like` others.

    Raises:
        DataError: see the reader of the kind.
    """
    listing = _objects(spec, _chosen_split(spec, split), like)
    if split == "val" or like is not None:
        listing = replace(listing, warnings=(*listing.warnings, *listing.unlearnable), unlearnable=())
    return listing


def _objects(spec: DataSpec, split: str | None, like: Labelled | None) -> ObjectListing:
    labels = spec.path("labels")
    classes = read_class_file(labels) if labels else _classes_of(like)
    masks = spec.yes("masks")
    if spec.kind == "vocboxes":
        return voc_boxes_objects(spec.paths[0], split, classes=classes)
    if spec.kind == "petsboxes":
        return pets_boxes_objects(spec.paths[0], split, classes=classes)
    if spec.kind == "cityscapesobjects":
        return cityscapes_objects(spec.paths[0], split or "train", classes=classes, masks=masks)
    if spec.kind == "yolo":
        return yolo_objects(spec.paths[0], split, classes=classes, masks=masks)
    paths = _paths_of_split(spec, split)
    if spec.kind == "coco":
        return coco_objects(*paths, classes=classes, masks=masks)
    return instance_folder_objects(
        *paths,
        name=spec.options.get("class"),
        void=spec.integer("void", 0, 0) if "void" in spec.options else None,
        list_file=spec.path("list"),
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
    if spec.kind == "cococaptions":
        return coco_listing(*paths)
    if _has_placeholder(spec):
        return table_listing(*paths)
    if split is not None and "split" not in spec.options and has_one_split(paths[0]):
        # Such as a table of the test rows alone: which are meant is clear, whatever they are called there.
        only = table_splits(paths[0])[0]
        if split != only:
            _log.info("%s: all rows are of the split %r and taken for %r.", paths[0], only, split)
            split = None
    return table_listing(*paths, split)


def _chosen_split(spec: DataSpec, split: str | None) -> str | None:
    """The split to open: the one that the text names, else `split`, else the first that is there."""
    if split is None or "split" in spec.options or splits_of(spec) == (None,):
        split = splits_of(spec)[0]
    if split and spec.kind in SPLIT_IN_PATHS and not _has_placeholder(spec) and not _names_splits(spec):
        table = " (or a column called split in the table)" if spec.kind == "captions" else ""
        raise DataError(
            f"{spec.text!r}: split= needs {SPLIT} in a path, where its name goes{table}. Remove it, or write that."
        )
    return split


def _paths_of_split(spec: DataSpec, split: str | None) -> list[Path]:
    return next(_paths_there(spec, split or "train"), [_replaced(path, split or "train") for path in spec.paths])


def _paths_there(spec: DataSpec, split: str) -> Iterator[list[Path]]:
    """The paths for each name of `split` for which all of them exist."""
    for name in _NAMES_OF_VAL if split == "val" else (split,):
        paths = [_replaced(path, name) for path in spec.paths]
        if all(path.exists() for path in paths):
            yield paths


def _replaced(path: Path, name: str) -> Path:
    return Path(str(path).replace(SPLIT, name))


def pairs_of(spec: DataSpec, split: str | None = None) -> Pairing:
    """The files of one split, unopened; for data with masks of classes only."""
    if spec.kind == "folder":
        return find_pairs(*spec.paths, list_file=spec.path("list"))
    if spec.kind == "pets":
        return pets_pairs(spec.paths[0], _chosen_split(spec, split))
    split = spec.options.get("split") or split or "train"
    if spec.kind == "camvid":
        return camvid_pairs(spec.paths[0], split)
    if spec.kind == "cityscapes":
        return cityscapes_pairs(spec.paths[0], split)
    return voc_pairs(spec.paths[0], split, labels=labels_of(spec))


def labels_of(spec: DataSpec) -> LabelMap | None:
    """The label map of `labels=FILE`; without one a `Pairing` may have one, or it has to be guessed from the masks."""
    labels = spec.path("labels")
    return read_label_file(labels) if labels else None


def _splits_in_paths(spec: DataSpec) -> tuple[str | None, ...]:
    """Those of train and val for which all paths exist, or which a table names; (None,) where nothing says a split."""
    if not _has_placeholder(spec):
        there = table_splits(spec.paths[0]) if spec.kind == "captions" else ()
        return tuple(split for split in there if split != "test") or there or (None,)
    return tuple(name for name in ("train", "val") if any(_paths_there(spec, name))) or ("train",)


def _names_splits(spec: DataSpec) -> bool:
    """Whether the data are a table of captions that names the split of each row."""
    return spec.kind == "captions" and spec.paths[0].is_file() and bool(table_splits(spec.paths[0]))


def _has_placeholder(spec: DataSpec) -> bool:
    return any(SPLIT in str(path) for path in spec.paths)


def _classes_of(like: Labelled | None) -> tuple[str, ...] | None:
    """Names of what boxes can be: of a source without its background."""
    return tuple(getattr(like, "object_classes", ()) or getattr(like, "classes", ())) or None


def _open_mixed(spec: DataSpec, split: str | None, like: Labelled | None) -> Source:
    split = spec.options.get("split") or split
    if spec.kind == "shapes":
        return _open_shapes(spec, split or "train")
    if spec.kind == "python":
        return python_source(spec.names[0], split)
    return tfds_source(
        spec.names[0],
        split,
        data_dir=spec.path("dir"),
        download=spec.yes("download", "no"),
        features={name: spec.options[name] for name in FEATURES if name in spec.options},
        labels=spec.path("labels"),
        classes=tuple(like.classes) if like else None,
        object_classes=_classes_of(like),
        channels=spec.channels(),
    )


def _open_shapes(spec: DataSpec, split: str) -> Source:
    count = spec.integer("count", SHAPES_COUNT, 1)
    seed = spec.integer("seed", 0, 0)
    size = _size(spec)
    if split not in ("train", "val"):
        raise DataError(f"{spec.text!r}: split must be train or val, not {split!r}.")
    if split == "val":
        count, seed = max(1, count // 4), (seed + _VAL_SEED_OFFSET) % 2**32
    most = spec.integer("shapes", MAX_SHAPES, 1)
    return shapes_source(count, size=size, seed=seed, max_shapes=most, clear=spec.yes("clear", "no"))


def _size(spec: DataSpec) -> tuple[int, int]:
    if "size" not in spec.options:
        return SHAPES_SIZE
    numbers = spec.options["size"].lower().split("x")
    if len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise DataError(f"{spec.text!r}: size must be HEIGHTxWIDTH or one number, not {spec.options['size']!r}.")
    return int(numbers[0]), int(numbers[-1])
