"""Data sets that tensorflow-datasets has prepared, as examples of this package.

What a data set holds is told by its features: a picture with a picture of labels, a sequence of boxes with a class
each, or sentences. Pictures are decoded here, by the same rules as files. The extra `[data]` installs
tensorflow-datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cv_lectures.data.images import read_image, read_mask
from keras_cv_lectures.data.label_inference import label_map_of_values, values_of
from keras_cv_lectures.data.labels import IGNORE, LabelMap, default_colors, read_label_file
from keras_cv_lectures.data.objects import Objects, check_size, class_numbers, object_arrays, read_class_file
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.tfds_folder import Records, import_tfds, open_builder, open_records
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import tokenize

# What features can be named for.
FEATURES = ("image", "mask", "objects", "captions")
# Usual names, the most likely first.
_IMAGES = ("image", "image_left", "picture", "photo")
_MASKS = ("segmentation_mask", "segmentation_label", "semantic_mask", "mask", "annotation", "segmentation", "label")
_OBJECTS = ("objects", "bobjects", "annotations")
_CAPTIONS = ("captions", "caption", "sentences", "sentence", "text", "description", "raw")
_CROWDS = ("is_crowd", "iscrowd")
_DIFFICULT = ("is_difficult", "difficult")
# The name of the validation split differs from data set to data set.
_VALIDATION = ("val", "validation", "valid", "dev")
_SAMPLE = 500  # Masks that a label map is guessed from, as in `infer_label_map`.
_OUTSIDE = 1e-3  # What rounding may add to coordinates in 0..1.


def tfds_source(
    name: str,
    split: str | None = None,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    features: Mapping[str, str] | None = None,
    labels: str | Path | None = None,
    classes: Sequence[str] | None = None,
    object_classes: Sequence[str] | None = None,
    channels: int | None = 3,
) -> Source:
    """One split of a data set of tensorflow-datasets.

    Args:
        name: "NAME", "NAME/CONFIG", either with ":VERSION"; without one the newest prepared version.
        split: "train" (also None), "val" for whatever the data set calls it, or what tensorflow-datasets understands,
            such as "test" or "train[:80%]".
        data_dir: where it was prepared; None means the variable TFDS_DATA_DIR, or ~/tensorflow_datasets.
        download: prepare it where it is not, which downloads it.
        features: which feature to take for which of `FEATURES`. Without it the usual names and kinds decide. A data set
            with masks and with objects needs a choice, since both have classes of their own.
        labels: of masks a label file (see `read_label_file`), of objects a file of class names. None takes the names in
            the data set; masks without names are guessed (see `infer_label_map`).
        classes: where masks are guessed, the class names that were guessed for the training masks.
        object_classes: the classes of objects in the order of labels, for instance of a model.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: tensorflow-datasets is not installed, the data set is not prepared or damaged, or its features are
            none that can be learned from. Damaged pictures and boxes outside of 0..1 are reported when they are read.
    """
    builder = open_builder(name, data_dir, download=download)
    chosen = _split_of(builder, split)
    fields = _fields(builder, features or {})
    records = _Examples(builder, fields, open_records(builder, chosen))
    map_, names, notes = None, (), ()
    if fields.mask:
        map_ = read_label_file(labels) if labels else _named_labels(builder.info.features[fields.mask])
        map_ = map_ or _guessed_labels(records, classes)
        notes = (map_.note,) if map_.note else ()
    elif fields.objects:
        names = _object_names(builder, fields, read_class_file(labels) if labels else object_classes)

    def inspect(index: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        return records.example(index, channels, map_, names)

    return Source(
        name=f"tfds {builder.info.full_name} {chosen}",
        ids=records.ids,
        read=lambda index: inspect(index)[0],
        classes=map_.classes if map_ else names,
        # The first colour is black, which is for the background.
        colors=map_.colors if map_ else default_colors(len(names) + 1)[1:],
        object_classes=names,
        inspect=inspect,
        captions_at=(lambda index: records.captions(index)[0]) if fields.captions else None,
        notes=notes,
    )


def tfds_splits(name: str, *, data_dir: str | Path | None = None, download: bool = False) -> tuple[str, ...]:
    """Those of train and val that the data set has; its first split where it has neither.

    Raises:
        DataError: as `tfds_source`.
    """
    splits = open_builder(name, data_dir, download=download).info.splits
    present = [split for split, names in (("train", ("train",)), ("val", _VALIDATION)) if set(names) & set(splits)]
    return tuple(present or list(splits)[:1] or ["train"])


class _Fields(NamedTuple):
    """The features that are read."""

    image: str
    mask: str | None
    objects: str | None
    captions: str | None
    box: str | None  # Inside of `objects`, as are the next four; None where it is a sequence of nothing but boxes.
    label: str | None
    crowd: str | None
    difficult: str | None
    area: str | None
    sentence: str | None  # Inside of `captions`; None where it is a sentence or a sequence of them.


class _Examples:
    """Records of one split, parsed and decoded."""

    def __init__(self, builder: Any, fields: _Fields, records: Records):
        tfds = import_tfds()
        self.ids = records.ids
        self._records, self._fields, self._features = records, fields, builder.info.features
        pictures = [n for n, feature in self._features.items() if isinstance(feature, tfds.features.Image)]
        self._decoders = dict.fromkeys(pictures, tfds.decode.SkipDecoding())  # They come as bytes.

    def example(
        self, index: int, channels: int | None, labels: LabelMap | None, classes: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The example, and one line for each object or caption that was left out of it."""
        content, where, left_out = self._parse(index), self._records.where[index], ()
        name = self._fields.image
        with self._blaming(index):
            image = read_image(f"{where}, {name}", channels, content=self._bytes(content, name))
        example: dict[str, Any] = {"image": image, "image_id": self.ids[index]}
        if labels is not None:
            raw = self.mask(index, labels.by_color, content)
            check_size(image.shape[:2], raw.shape[:2], Path(f"{where}, {name}"), self._fields.mask)
            example["mask"] = labels.encode(raw, f"{where}, {self._fields.mask}")
        if classes:
            with self._blaming(index):
                objects = self._objects(content, where, image.shape[:2], classes)
            arrays, left_out = object_arrays(objects, image.shape[:2])
            example |= arrays
        if self._fields.captions:
            captions, rows = self.captions(index, content)
            example["captions"], left_out = np.array(captions, dtype=object), (*left_out, *rows)
        return example, left_out

    def mask(self, index: int, colors: bool, content: Mapping[str, Any] | None = None) -> np.ndarray:
        """The stored values of the mask, as of `read_mask`."""
        content = self._parse(index) if content is None else content
        where = f"{self._records.where[index]}, {self._fields.mask}"
        with self._blaming(index):
            return read_mask(where, colors=colors, content=self._bytes(content, self._fields.mask))

    def captions(self, index: int, content: Mapping[str, Any] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sentences with a word, and one line for each without.

        Raises:
            DataError: there is no sentence with a word.
        """
        content = self._parse(index) if content is None else content
        with self._blaming(index):
            value = content[self._fields.captions]
            value = value[self._fields.sentence] if self._fields.sentence else value
            texts = [t.decode("utf-8", "replace") for t in ([value] if isinstance(value, bytes) else value)]
        texts = [" ".join(text.split()) for text in texts]
        where = f"{self._records.where[index]}, {self._fields.captions}"
        kept = tuple(text for text in texts if tokenize(text))
        if not kept:
            raise DataError(f"{where}: there is no caption with a word. Write one, or leave the example out.")
        return kept, tuple(f"{where}: the caption {text[:60]!r} has no word." for text in texts if text not in kept)

    def _parse(self, index: int) -> Mapping[str, Any]:
        record = self._records.read(index)
        with self._blaming(index):
            return self._features.deserialize_example_np(record, decoders=self._decoders)

    @contextmanager
    def _blaming(self, index: int) -> Iterator[None]:
        """Damaged records make parsers raise almost anything, or leave `None` where a value should be."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            where, told = self._records.where[index], f"{type(error).__name__}: {str(error)[:500]}"
            raise DataError(f"{where} cannot be parsed ({told}). Prepare the data set again.") from error

    def _bytes(self, content: Mapping[str, Any], name: str) -> bytes:
        value = content[name]
        if not isinstance(value, bytes):
            raise TypeError(f"{name} is {type(value).__name__}, not bytes")
        return value

    def _objects(
        self, content: Mapping[str, Any], where: str, size: tuple[int, int], classes: Sequence[str]
    ) -> Objects:
        fields, numbers = self._fields, {name: label for label, name in enumerate(classes)}
        value = content[fields.objects]
        boxes = np.asarray(value[fields.box] if fields.box else value, np.float64).reshape(-1, 4)
        if not ((boxes >= -_OUTSIDE) & (boxes <= 1 + _OUTSIDE)).all():
            raise DataError(
                f"{where}, {fields.objects}: boxes must be (ymin, xmin, ymax, xmax) in 0..1, but are "
                f"{boxes.min():g} to {boxes.max():g}. Prepare the data set so."
            )
        label = self._features[fields.objects].feature[fields.label] if fields.label else None
        names = _class_names(label) if label else classes[:1]
        ids = np.asarray(value[fields.label], np.int64).reshape(-1) if fields.label else np.zeros(len(boxes), np.int64)
        marks = {
            key: np.asarray(value[name], bool).reshape(-1)
            for key, name in (("crowd", fields.crowd), ("difficult", fields.difficult))
            if name
        }
        if fields.area:
            areas = np.asarray(value[fields.area], np.float32).reshape(-1)
            marks["area"] = np.where(areas >= 0, areas, np.float32("nan"))
        if any(len(rows) != len(boxes) for rows in (ids, *marks.values())):
            raise DataError(f"{where}, {fields.objects}: {len(boxes)} boxes have {len(ids)} labels. Prepare it again.")
        unknown = sorted({i for i in ids.tolist() if not 0 <= i < len(names)})
        if unknown:
            raise DataError(f"{where}, {fields.objects}: the labels {unknown[:5]} have no name. Prepare it again.")
        height, width = size
        return Objects(
            names=[f"{where}, {fields.objects}: object {i} ({names[label]})" for i, label in enumerate(ids.tolist())],
            boxes=boxes[:, [1, 0, 3, 2]] * [width, height, width, height],
            labels=np.array([numbers[names[label]] for label in ids.tolist()], np.int32),
            **marks,
        )


def _split_of(builder: Any, split: str | None) -> str:
    """What the data set calls a split."""
    if split == "val":
        return next((name for name in _VALIDATION if name in builder.info.splits), split)
    return split or next(iter([s for s in builder.info.splits if s == "train"] or builder.info.splits), "train")


def _fields(builder: Any, asked: Mapping[str, str]) -> _Fields:
    """Chooses the features to read.

    Raises:
        DataError: there is no picture, nothing that can be learned from, or no telling which.
    """
    kinds, where = import_tfds().features, str(builder.data_dir)
    features = builder.info.features
    # In an order, which a description that was read from its file has not.
    features = dict(sorted(features.items())) if isinstance(features, kinds.FeaturesDict) else {}
    pictures = [name for name, feature in features.items() if _is_picture(feature, kinds)]
    labelled = [name for name in pictures if isinstance(features[name], kinds.LabeledImage)]
    boxes = {name: _boxes_in(feature, kinds) for name, feature in features.items()}
    texts = {name: _texts_in(feature, kinds) for name, feature in features.items()}
    found = {
        "mask": labelled + [name for name in _MASKS if name in pictures and name not in labelled],
        "objects": [name for name, inside in boxes.items() if inside is not None],
        "captions": [name for name in _CAPTIONS if texts.get(name) is not None],
    }
    rest = [name for name in pictures if name not in found["mask"]]
    found["image"] = [name for name in _IMAGES if name in rest] or rest
    possible = {
        **found,
        "image": pictures,
        "mask": pictures,
        "captions": [n for n, t in texts.items() if t is not None],
    }
    listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items()) or "none"
    for use, name in asked.items():
        if name not in possible[use]:
            fit = ", ".join(possible[use]) or "none"
            raise DataError(f"{where}: {use}={name} must be a feature for that: {fit}. The features are {listed}.")
    chosen = {use: asked.get(use) for use in FEATURES}
    chosen["image"] = chosen["image"] or next(iter(found["image"]), None)
    if not any(chosen[use] for use in FEATURES[1:]):
        chosen |= {use: next(iter(found[use]), None) for use in FEATURES[1:]}
    if chosen["mask"] and chosen["objects"]:
        raise DataError(
            f"{where} has masks and objects, which have classes of their own. Choose one: mask={chosen['mask']} or "
            f"objects={chosen['objects']}."
        )
    if not chosen["image"] or not any(chosen[use] for use in FEATURES[1:]) or chosen["image"] == chosen["mask"]:
        raise DataError(
            f"{where}: a picture and a mask, objects with boxes, or captions are expected; the features are {listed}. "
            "Name them with image=, mask=, objects= or captions=, or read the data set with a reader of your own "
            "(docs/own_reader.md)."
        )
    inside = boxes[chosen["objects"]] if chosen["objects"] else (None,) * 5
    return _Fields(
        **chosen,
        **dict(zip(("box", "label", "crowd", "difficult", "area"), inside, strict=True)),
        sentence=texts.get(chosen["captions"]) or None,
    )


def _is_picture(feature: Any, kinds: Any) -> bool:
    """Whether it is one picture of whole numbers, not a film, nor a map of depths."""
    return isinstance(feature, kinds.Image) and len(feature.shape) == 3 and np.dtype(feature.np_dtype).kind in "iu"


def _boxes_in(feature: Any, kinds: Any) -> tuple[str | None, ...] | None:
    """Names of boxes, labels, marks of crowds and difficult objects, and areas in a sequence; None without boxes."""
    inner = getattr(feature, "feature", None) if isinstance(feature, kinds.Sequence) else None
    if isinstance(inner, kinds.BBoxFeature):
        return (None,) * 5
    if not isinstance(inner, kinds.FeaturesDict):
        return None
    box = [name for name in inner if isinstance(inner[name], kinds.BBoxFeature)]
    label = [name for name in inner if isinstance(inner[name], kinds.ClassLabel)]
    label = [name for name in label if name in ("label", "category", "class")] or label
    marks = [next((name for name in names if name in inner), None) for names in (_CROWDS, _DIFFICULT)]
    numbers = (name for name in inner if inner[name].shape == () and np.dtype(inner[name].np_dtype).kind in "iuf")
    area = "area" if "area" in numbers else None
    return (box[0], next(iter(label), None), *marks, area) if box else None


def _texts_in(feature: Any, kinds: Any) -> str | None:
    """The name of the sentences in it, "" where it is made of nothing else; None where there are none."""
    inner = getattr(feature, "feature", None) if isinstance(feature, kinds.Sequence) else feature
    if isinstance(inner, kinds.Text):
        return ""
    names = inner if isinstance(inner, kinds.FeaturesDict) else ()
    return next((name for name in _CAPTIONS if name in names and isinstance(inner[name], kinds.Text)), None)


def _class_names(label: Any) -> tuple[str, ...]:
    """Of a `ClassLabel` or `LabeledImage`; numbers where it has no names, () where it does not know how many."""
    return tuple(label.names or map(str, range(label.num_classes or 0)))


def _object_names(builder: Any, fields: _Fields, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Class names in the order of labels: those of the data set, or `wanted`, which must hold all of them.

    Raises:
        DataError: it does not, or boxes are written in another form.
    """
    inner = builder.info.features[fields.objects].feature
    form = (inner[fields.box] if fields.box else inner).bbox_format
    # None: prepared before tensorflow-datasets knew other forms.
    if form is not None and getattr(form, "name", form) != "REL_YXYX":
        raise DataError(f"{builder.data_dir}, {fields.objects}: boxes of form {form} are not read, only REL_YXYX.")
    own = (_class_names(inner[fields.label]) if fields.label else ()) or ("object",)
    if wanted is None:
        return tuple(class_numbers(own, f"{builder.data_dir}, {fields.objects}"))
    if not fields.label and len(wanted) == 1:
        return tuple(wanted)
    missing = [name for name in own if name not in wanted]
    if missing:
        raise DataError(
            f"{builder.data_dir} holds objects {', '.join(map(repr, missing[:8]))}, but the classes are "
            f"{', '.join(list(wanted)[:8])}. Name all of them in a file labels=FILE."
        )
    return tuple(class_numbers(wanted, "the list of classes"))


def _named_labels(mask: Any) -> LabelMap | None:
    """The map of a picture of labels that names them; None where it does not."""
    names = _class_names(mask) if hasattr(mask, "num_classes") else ()
    if not names:
        return None
    values = {i: i for i in range(len(names))}
    return LabelMap(classes=names, colors=default_colors(len(names)), values=values, ignore=frozenset({IGNORE}))


def _guessed_labels(examples: _Examples, classes: Sequence[str] | None) -> LabelMap:
    """`infer_label_map` of masks in records; those that cannot be read are reported when their turn comes."""
    count = len(examples.ids)
    found, fault = {}, None
    for index in np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int)).tolist():
        try:
            found[Path(examples.ids[index])] = values_of(examples.mask(index, False))
        except DataError as error:
            fault = fault or error
    if fault and not found:
        raise fault
    return label_map_of_values(found, classes=classes)
