"""Pascal VOC's XML files of boxes, as the challenge and LabelImg write them.

The challenge's own files count pixels from 1 and mean the last one to belong to the box: (xmin - 1, ymin - 1, xmax,
ymax) are its edges. LabelImg and its followers write edges. A file is taken for one of the challenge's if its
`<source><database>` begins with "The VOC".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_cv_lectures.data.folders import natural, pictures_below, visible
from keras_cv_lectures.data.images import IMAGE_SUFFIXES
from keras_cv_lectures.data.objects import (
    ObjectListing,
    Objects,
    Size,
    check_size,
    class_numbers,
    object_source,
    path_inside,
    without_learnable,
)
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.voc import find_below, list_of_split, listed_names, with_suffix
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_bytes

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LISTS = Path("ImageSets", "Main")
_ANNOTATION_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_boxes_source(
    folder: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    channels: int | None = 3,
) -> Source:
    """Boxes of Pascal VOC or of anything annotated in its format.

    `Annotations/NAME.xml` describes `JPEGImages/NAME.jpg`; the folders may also be `annotations` and `images`, or the
    XML files may lie beside the pictures; hidden files are passed over. Objects marked difficult are so in `difficult`:
    not trained on, and neither right nor wrong when detected.

    Args:
        folder: the folder that holds `Annotations`, or one above `VOCdevkit/VOC2012`.
        split: name of a list in `ImageSets/Main`; None takes every XML file.
        classes: class names in the order of labels; names that are not among them are a fault. None takes all names
            in all XML files of the folder, sorted, so that all splits agree; VOC's 20 come in VOC's order.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the folder, the list or a listed file is missing, or an XML file is damaged, defines entities or
            names a picture outside of the folder. Damaged pictures and other sizes than written are reported when read.
    """
    return object_source(voc_boxes_objects(folder, split, classes=classes).check(), channels=channels)


def voc_boxes_objects(
    folder: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None
) -> ObjectListing:
    """What `voc_boxes_source` reads, with all problems.

    Raises:
        DataError: there is no annotation or no such list.
    """
    folders = _layout(folder)
    return boxes_listing(folders, split, name=f"vocboxes {split or folders.root.name}", classes=classes)


class BoxFolders(NamedTuple):
    """Where XML files, pictures and lists lie; `root` holds all of them."""

    root: Path
    annotations: Path
    images: Path
    lists: Path


def boxes_listing(
    folders: BoxFolders,
    split: str | None = None,
    *,
    name: str,
    classes: Sequence[str] | None = None,
    complete: bool = True,
) -> ObjectListing:
    """The listing of XML files wherever they lie; `split` and `classes` as of `voc_boxes_source`.

    Args:
        folders: where they lie.
        name: for messages.
        complete: whether a picture in a list without an XML file is a fault; else it is left out with a warning.

    Raises:
        DataError: there is no such list.
    """
    _, annotations, images, lists = folders
    present = sorted((path.stem for path in visible(annotations.glob("*.xml"))), key=natural)
    problems, warnings, rows = [], [], []
    listed: dict[Path, dict[str, Path]] = {}
    names = present if split is None else list(dict.fromkeys(listed_names(list_of_split(lists, split), images)))
    if not complete and split is not None:
        names, bare = _with_file(names, present)
        if not names:
            problems.append(f"no picture of the list {split!r} has an XML file in {annotations}. Choose another split.")
        elif bare:
            shown = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
            warnings.append(f"{annotations}: {len(bare)} pictures of the list {split!r} have no XML file: {shown}.")
    files: dict[str, _File | str] = {}
    for stem in dict.fromkeys([*names, *(present if classes is None else ())]):
        try:
            files[stem] = _read(annotations / f"{stem}.xml")
        except DataError as error:
            files[stem] = str(error)
    if classes is None:
        found = {entry.name for file in files.values() if isinstance(file, _File) for entry in file.entries}
        classes = tuple(sorted(found)) or ("object",)
    numbers = class_numbers(classes, "the list of classes")
    for stem in names:
        file = files[stem]
        if isinstance(file, str):
            problems.append(file)
            continue
        xml = annotations / f"{stem}.xml"
        problems += file.problems
        unknown = sorted({entry.name for entry in file.entries} - set(numbers))
        if unknown:
            known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            problems.append(
                f"{xml} holds {', '.join(map(repr, unknown))}, but the classes are {known}. Correct the name, or name "
                "the class in a file labels=FILE."
            )
        try:
            image = _picture_of(images, stem, file.filename, xml, listed)
        except DataError as error:
            problems.append(str(error))
            continue
        rows.append((stem, image, xml, file))
    if split is None and complete:
        warnings = _unused_pictures(images, {image for _, image, _, _ in rows})
    marks = [entry.difficult for row in rows for entry in row[3].entries]
    difficult = any(marks)
    unlearnable = without_learnable(marks, str(annotations), "<difficult> 1")

    def objects(index: int, size: Size) -> Objects:
        _, image, xml, file = rows[index]
        check_size(size, file.size, image, xml)
        entries = file.entries
        return Objects(
            names=[f"{xml}: object {entry.number} ({entry.name})" for entry in entries],
            boxes=np.array([entry.box for entry in entries], np.float64).reshape(-1, 4),
            labels=np.array([numbers[entry.name] for entry in entries], np.int32),
            difficult=np.array([entry.difficult for entry in entries], bool) if difficult else None,
        )

    return ObjectListing(
        name=name,
        ids=tuple(stem for stem, *_ in rows),
        files=tuple((image, xml) for _, image, xml, _ in rows),
        objects=objects,
        classes=tuple(numbers),
        problems=tuple(problems),
        unlearnable=tuple(unlearnable),
        warnings=tuple(warnings),
    )


def voc_boxes_splits(folder: str | Path) -> tuple[str, ...]:
    """Those of train and val that have a list; trainval where neither has; () where there are no lists."""
    lists = _layout(folder).lists
    present = tuple(split for split in ("train", "val") if (lists / f"{split}.txt").is_file())
    return present or (("trainval",) if (lists / "trainval.txt").is_file() else ())


def parse_xml(path: Path) -> Element:
    """The root of an XML file from an unknown origin.

    Raises:
        DataError: the file is missing, no well-formed XML, or has a document type, which is what defines entities
            that expand to gigabytes or read other files; annotations need none.
    """
    from xml.etree.ElementTree import TreeBuilder
    from xml.parsers import expat

    def refuse(*_):
        raise DataError(f"{path} has a document type (<!DOCTYPE), which annotations do not need. Remove that line.")

    content = read_bytes(path, repair="Add it, or remove its name from the list.")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except DataError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no valid XML ({error}). Export or copy it again.") from error


class _Entry(NamedTuple):
    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _File(NamedTuple):
    filename: str
    size: tuple[float, float] | None
    entries: tuple[_Entry, ...]
    problems: tuple[str, ...]


def _read(xml: Path) -> _File:
    root = parse_xml(xml)
    if root.tag != "annotation":
        raise DataError(f"{xml} begins with <{root.tag}>; expected <annotation>. Export it in Pascal VOC's format.")
    size = tuple(_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    from_one = (root.findtext("source/database") or "").strip().startswith("The VOC")
    entries, problems = [], []
    for number, element in enumerate(root.findall("object"), 1):
        name = (element.findtext("name") or "").strip()
        box = tuple(_number(element.findtext(f"bndbox/{edge}")) for edge in _EDGES)
        if not name or None in box:
            fault = "has no name" if not name else "has no <bndbox> of four numbers xmin, ymin, xmax, ymax"
            problems.append(f"{xml}: object {number} {fault}. Correct or remove it.")
            continue
        if from_one:
            box = (box[0] - 1, box[1] - 1, *box[2:])
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        entries.append(_Entry(number, name, box, difficult))
    known = None not in size and min(size) > 0
    return _File(root.findtext("filename") or "", size if known else None, tuple(entries), tuple(problems))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None


def _layout(folder: str | Path) -> BoxFolders:
    folder = Path(folder)
    for name in _ANNOTATION_FOLDERS:
        root = find_below(folder, (name,))
        if root is not None:
            images = next((root / n for n in _IMAGE_FOLDERS if (root / n).is_dir()), root)
            if not any(visible((root / name).glob("*.xml"))):
                raise DataError(f"{root / name} holds no XML file. Check the path.")
            return BoxFolders(root, root / name, images, root / _LISTS)
    if any(visible(folder.glob("*.xml"))):
        images = next((folder / n for n in _IMAGE_FOLDERS if (folder / n).is_dir()), folder)
        return BoxFolders(folder, folder, images, folder / _LISTS)
    raise DataError(
        f"{folder} does not hold Pascal VOC boxes: Annotations/*.xml and JPEGImages/ are expected in it or in "
        "VOCdevkit/VOC2012 below it. Check the path."
    )


def _with_file(names: Sequence[str], present: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of `names` that are among `present`, and the others."""
    there = set(present)
    return [name for name in names if name in there], [name for name in names if name not in there]


def _picture_of(images: Path, name: str, filename: str, xml: Path, listed: dict[Path, dict[str, Path]]) -> Path:
    """The picture called like the XML file; otherwise the one that the file names. `listed` as of `with_suffix`."""
    image = with_suffix(images / name, listed)
    if image.is_file():
        return image
    if filename.strip():
        named = path_inside(images, filename.strip(), f"{xml}: <filename>")
        if named.is_file():
            return named
    raise DataError(f"{image} is missing, though {xml} describes it. Add the picture or remove the file.")


def _unused_pictures(images: Path, used: set[Path]) -> list[str]:
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(images.iterdir())):
        return []
    unused = [path for paths in pictures_below(images).values() for path in paths if path not in used]
    if not unused:
        return []
    shown = ", ".join(path.name for path in unused[:5]) + (", ..." if len(unused) > 5 else "")
    return [
        f"{images}: {len(unused)} pictures have no XML file and are not used: {shown}. A picture without objects needs "
        "an XML file without <object>."
    ]
