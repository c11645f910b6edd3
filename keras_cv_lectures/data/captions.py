"""Pictures with sentences about them: Flickr8k and Flickr30k, COCO's captions, and any table of path and caption.

A row that cannot be used (no caption, an unknown picture, a wrong number of columns) is left out, counted, and named by
`doctor`. Sentences stay as they are written; only white space around them is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data.caption_listing import CaptionListing, Gathered
from keras_cv_lectures.data.caption_tables import (
    SPLIT_COLUMN,
    SPLIT_OF,
    caption_rows,
    described_columns,
    split_counts,
    table_splits,
)
from keras_cv_lectures.data.flickr import find_flickr, flickr_rows, in_split
from keras_cv_lectures.data.images import read_image
from keras_cv_lectures.data.objects import shortened
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_json
from keras_cv_lectures.text import as_text, tokenize


def flickr_captions(folder: str | Path, split: str | None = None, *, channels: int | None = 3) -> Source:
    """Flickr8k or Flickr30k as they are distributed: pictures, one file of captions, and lists of the splits.

    Args:
        folder: holds, itself or up to two folders below, the pictures and `captions.txt` or `results.csv` (a table with
            a heading) or `Flickr8k.token.txt` (`name.jpg#0`, a tab, the caption), and lists of names such as
            `Flickr_8k.trainImages.txt`.
        split: "train", "val" or "test"; None takes all pictures.
        channels: 3 for RGB, 1 for grey.

    Returns:
        A source whose examples hold `image`, `captions` (N,) strings and `image_id`.

    Raises:
        DataError: a file is missing or unreadable, there is no such list, or no row can be used. Damaged pictures are
            reported when they are read.
    """
    return caption_source(flickr_listing(folder, split).check(), channels=channels)


def coco_captions(json_file: str | Path, images: str | Path, *, channels: int | None = 3) -> Source:
    """COCO's captions, such as `captions_train2017.json`; arguments, result and errors as of `flickr_captions`.

    Args:
        json_file: with the lists `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`).
        images: the folder that `file_name` is relative to.
        channels: 3 for RGB, 1 for grey.
    """
    return caption_source(coco_listing(json_file, images).check(), channels=channels)


def caption_table(
    csv_file: str | Path, images: str | Path, split: str | None = None, *, channels: int | None = 3
) -> Source:
    """Any table of pictures and captions; result and errors as of `flickr_captions`.

    Args:
        csv_file: columns divided by comma, tab, semicolon or bar, quoted as the `csv` module reads it. A heading names
            the columns (such as "image" and "caption", or "caption_1", "caption_2" and so on, which are all read);
            without one the first column is the picture and the last the caption. A heading of two columns may have
            any names. A cell that is a list of texts as JSON, Python or NumPy write it holds several captions.
        images: the folder that paths are relative to.
        split: "train", "val" or "test", of a table with a column "split"; None takes all rows.
        channels: 3 for RGB, 1 for grey.
    """
    return caption_source(table_listing(csv_file, images, split).check(), channels=channels)


def caption_source(listing: CaptionListing, *, channels: int | None = 3) -> Source:
    """Examples of `image` (H, W, C) uint8, `captions` (N,) strings (dtype object) and `image_id`, read from files."""

    def read(index: int) -> dict[str, Any]:
        image = read_image(listing.files[index], channels)
        return {
            "image": image,
            "captions": np.array(listing.captions[index], dtype=object),
            "image_id": listing.ids[index],
        }

    return Source(
        name=listing.name,
        ids=listing.ids,
        read=read,
        classes=(),
        colors=(),
        files=lambda index: (listing.files[index],),
        captions_at=lambda index: listing.captions[index],
    )


def caption_texts(source: Source) -> Iterable[str]:
    """All captions of `source` as texts; no picture is opened where the source knows its captions without.

    Raises:
        DataError: the source has no captions, or one of them is no UTF-8.
    """
    if source.texts is not None:
        return (as_text(text) for text in source.texts())
    if not has_captions(source):
        raise DataError(
            f"{source.name} has no captions. Give data with captions: flickr, cococaptions, captions or shapes."
        )
    return (text for index in range(len(source)) for text in _captions_of(source, index))


def has_captions(source: Source) -> bool:
    """Whether `source` knows captions, or its first example holds some."""
    return source.texts is not None or (len(source) > 0 and "captions" in source[0])


def most_captions(*sources: Source | None, limit: int) -> int:
    """The most captions of a picture in the sources, 1 to `limit`, with which the search ends.

    It is `limit`, too, where a source does not know its captions without its pictures.
    """
    given, most = [source for source in sources if source is not None], 1
    if any(source.captions_at is None for source in given):
        return limit
    for source in given:
        for index in range(len(source)):
            most = max(most, len(source.captions_at(index)))
            if most >= limit:
                return limit
    return most


def caption_pairs(source: Source) -> Source:
    """Every (picture, caption) of `source` as an example of its own, in the order of the pictures.

    `captions` of its examples is (1,), and ids end in "#0", "#1" and so on. The picture is read anew for each of its
    captions: give a source that is `cached`. Where the source does not know its captions without its pictures, each is
    read once beforehand.

    Raises:
        DataError: a picture has no `captions`, or one of them is no UTF-8.
    """
    texts = [_captions_of(source, i) for i in range(len(source))]
    # A caption without a word has nothing to learn.
    pairs = [(i, k) for i, each in enumerate(texts) for k, text in enumerate(each) if tokenize(text)]

    def read(index: int) -> dict[str, Any]:
        picture, number = pairs[index]
        example = source.read(picture)
        chosen = np.array([texts[picture][number]], dtype=object)
        return {k: v for k, v in example.items() if k != "caption_objects"} | {"captions": chosen}

    return Source(
        name=source.name,
        ids=tuple(f"{source.ids[i]}#{k}" for i, k in pairs),
        read=read,
        classes=source.classes,
        colors=source.colors,
        files=None if source.files is None else lambda index: source.files(pairs[index][0]),
        object_classes=source.object_classes,
        captions_at=lambda index: (texts[pairs[index][0]][pairs[index][1]],),
    )


def _captions_of(source: Source, index: int) -> tuple[str, ...]:
    """The captions of one picture, which is opened only where the source does not know them without."""
    if source.captions_at is not None:
        found = source.captions_at(index)
    else:
        example = source.read(index)
        if "captions" not in example:
            raise DataError(
                f"{source.name} has no captions, or not of {source.ids[index]}. Give data with captions: flickr, "
                "cococaptions, captions or shapes, or examples of your own with `captions`."
            )
        found = example["captions"]
    # A single text is one caption, not its letters.
    return tuple(as_text(text) for text in np.asarray(found, dtype=object).ravel())


def flickr_listing(folder: str | Path, split: str | None = None) -> CaptionListing:
    """What `flickr_captions` reads.

    Raises:
        DataError: as there.
    """
    layout = find_flickr(folder)
    name = f"flickr {layout.folder.name}" + (f" {split}" if split else "")
    gathered = Gathered(layout.pictures)
    chosen = in_split(layout, split) if split else None
    for row in flickr_rows(layout):
        # Nobody can say which split a malformed row belongs to.
        if chosen is None or row[1] is None or chosen.takes(row[0]):
            gathered.add(row)
    warnings = chosen.missing(layout) if chosen else ()
    return gathered.listing(name, layout.captions, warnings, every_picture=split is None)


def coco_listing(json_file: str | Path, images: str | Path) -> CaptionListing:
    """What `coco_captions` reads.

    Raises:
        DataError: the file cannot be read or has not the two lists, or `images` is no folder.
    """
    json_file, images = Path(json_file), _folder(images)
    content = _load(json_file)
    names: dict[Any, str] = {}
    gathered = Gathered(images)
    for number, entry in enumerate(content["images"]):
        entry = entry if isinstance(entry, dict) else {}
        key, where = entry.get("id"), f"{json_file}: picture {entry.get('id', number + 1)}"
        if not isinstance(key, int | str) or not isinstance(entry.get("file_name"), str):
            gathered.left_out.append(f"{where} has no id or no file_name. Correct or remove it.")
        elif key in names:
            gathered.left_out.append(f"{where}: the id occurs twice. Give every picture its own.")
        else:
            names[key] = entry["file_name"]
    seen: set[Any] = set()
    for number, entry in enumerate(content["annotations"]):
        entry = entry if isinstance(entry, dict) else {}
        key, picture = entry.get("id"), entry.get("image_id")
        where = f"{json_file}: annotation {number + 1 if key is None else key}"
        if isinstance(key, int | str):
            if key in seen:
                gathered.left_out.append(f"{where}: the id occurs twice. Remove one.")
                continue
            seen.add(key)
        if not isinstance(picture, int | str) or picture not in names:
            fault = f"belongs to picture {shortened(picture)}, which is not in the list of images"
            gathered.left_out.append(f"{where} {fault}. Correct or remove it.")
            continue
        caption = entry.get("caption")
        gathered.add((names[picture], caption if isinstance(caption, str) else "", where))
    gathered.expect(names.values())
    return gathered.listing(f"captions {json_file.name}", json_file)


def table_listing(csv_file: str | Path, images: str | Path, split: str | None = None) -> CaptionListing:
    """What `caption_table` reads.

    Raises:
        DataError: the file cannot be read or has no two columns, there is no such split, or `images` is no folder.
    """
    csv_file = Path(csv_file)
    gathered = Gathered(_folder(images))
    counts = split_counts(csv_file)
    warnings = []
    if split is None and counts:
        warnings.append(f"{csv_file}: its column {SPLIT_COLUMN!r} is not read; all {counts.total()} rows are taken.")
    elif split is not None:
        there = table_splits(csv_file)
        if split not in there:
            raise DataError(
                f"{csv_file} has no split {split!r}: its column {SPLIT_COLUMN!r} names {', '.join(there) or 'none'}. "
                "Choose another."
            )
        unknown = {name: count for name, count in counts.items() if name not in SPLIT_OF}
        if unknown:
            shown = ", ".join(f"{name!r} ({count} rows)" for name, count in unknown.items())
            warnings.append(f"{csv_file}: of the column {SPLIT_COLUMN!r} not understood and passed over is {shown}.")
    for row in caption_rows(csv_file, split):
        gathered.add(row)
    name = f"captions {csv_file.name}" + (f" {split}" if split else "")
    listing = gathered.listing(name, csv_file, warnings, every_picture=split is None)
    return dataclasses.replace(listing, notes=(f"{csv_file.name}: {described_columns(csv_file)}.",))


def _load(json_file: Path) -> dict[str, list]:
    content = read_json(json_file)
    names = ("images", "annotations")
    missing = [n for n in names if not isinstance(content, dict) or not isinstance(content.get(n), list)]
    if missing:
        raise DataError(
            f"{json_file} is no COCO file of captions: a list {', '.join(map(repr, missing))} is expected at its top. "
            "Give a file such as captions_train2017.json."
        )
    return content


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder. Check the path.")
    return path
