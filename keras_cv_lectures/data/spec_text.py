"""What a data specification says: its kind, its paths and its options, taken apart before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from keras_cv_lectures.data.cityscapes import has_cityscapes
from keras_cv_lectures.data.flickr import has_flickr
from keras_cv_lectures.data.folders import camvid_splits, visible
from keras_cv_lectures.data.pets import has_pets
from keras_cv_lectures.data.yolo import has_yolo_labels
from keras_cv_lectures.errors import DataError


class _Kind(NamedTuple):
    form: str  # Examples for messages.
    places: int  # Names or paths before the options.
    options: tuple[str, ...]


_KINDS = {
    "shapes": _Kind(
        "shapes  shapes:count=400,size=96x128,seed=0  shapes:shapes=3,clear=yes",
        0,
        ("count", "size", "seed", "split", "shapes", "clear"),
    ),
    "camvid": _Kind("camvid:DIR  camvid:DIR,split=val", 1, ("split",)),
    "folder": _Kind(
        "folder:IMAGES,MASKS  folder:IMAGES,MASKS,labels=FILE,list=FILE,channels=1", 2, ("labels", "list", "channels")
    ),
    "voc": _Kind("voc:DIR  voc:DIR,split=val,labels=FILE", 1, ("split", "labels")),
    "cityscapes": _Kind("cityscapes:DIR  cityscapes:DIR,split=val,labels=FILE", 1, ("split", "labels", "channels")),
    "pets": _Kind("pets:DIR  pets:DIR,split=test,labels=FILE", 1, ("split", "labels", "channels")),
    "coco": _Kind(
        "coco:JSON,IMAGES  coco:instances_{split}.json,images/{split}  coco:JSON,IMAGES,masks=no",
        2,
        ("split", "labels", "masks", "channels"),
    ),
    "vocboxes": _Kind("vocboxes:DIR  vocboxes:DIR,split=val,labels=FILE", 1, ("split", "labels", "channels")),
    "yolo": _Kind("yolo:DIR  yolo:DIR,split=val,labels=FILE", 1, ("split", "labels", "masks", "channels")),
    "instances": _Kind(
        "instances:IMAGES,MASKS  instances:IMAGES,MASKS,class=cell,list=FILE,void=255",
        2,
        ("split", "class", "list", "void", "channels"),
    ),
    "cityscapesobjects": _Kind(
        "cityscapesobjects:DIR  cityscapesobjects:DIR,split=val,masks=no", 1, ("split", "labels", "masks", "channels")
    ),
    "petsboxes": _Kind("petsboxes:DIR  petsboxes:DIR,labels=FILE", 1, ("split", "labels", "channels")),
    "flickr": _Kind("flickr:DIR  flickr:DIR,split=val", 1, ("split", "channels")),
    "cococaptions": _Kind(
        "cococaptions:JSON,IMAGES  cococaptions:captions_{split}.json,images/{split}", 2, ("split", "channels")
    ),
    "captions": _Kind("captions:CSV,IMAGES  captions:{split}.csv,IMAGES", 2, ("split", "channels")),
    "tfds": _Kind(
        "tfds:NAME  tfds:NAME/CONFIG:1.0.0,dir=DIR,split=train[:80%]  tfds:NAME,mask=FEATURE,labels=FILE,download=yes",
        1,
        ("split", "dir", "download", "image", "mask", "objects", "captions", "labels", "channels"),
    ),
    "python": _Kind("python:MODULE:FUNCTION  python:MODULE:FUNCTION,split=val", 1, ("split",)),
}
# Kinds whose examples hold boxes instead of a mask of classes.
OBJECT_KINDS = ("coco", "vocboxes", "yolo", "instances", "cityscapesobjects", "petsboxes")
# Kinds whose examples hold sentences.
CAPTION_KINDS = ("flickr", "cococaptions", "captions")
# Kinds whose examples may hold anything; only the opened data tell.
MIXED_KINDS = ("shapes", "tfds", "python")
# Kinds of which a name stands where others have a path.
_NAMED_KINDS = ("tfds", "python")
# In the paths of these kinds `SPLIT` stands for the name of the split.
SPLIT_IN_PATHS = ("coco", "instances", "cococaptions", "captions")
SPLIT = "{split}"
# Options whose value is a path.
PATH_OPTIONS = ("labels", "list", "dir")
_USUAL_PAIRS = (("images", "masks"), ("image", "label"), ("image", "mask"), ("images", "labels"), ("imgs", "masks"))


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A specification, taken apart.

    Attributes:
        text: as it was given.
        kind: "folder", "voc" or another kind of masks, or one of `OBJECT_KINDS`, `CAPTION_KINDS` or `MIXED_KINDS`.
        names: what stands before the options and is no path.
        paths: what stands there and is one.
        options: option -> value, both as text.
    """

    text: str
    kind: str
    names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    options: dict[str, str]

    def path(self, name: str) -> Path | None:
        """The path that the option `name` gives, None without it."""
        text = self.options.get(name)
        return None if text is None else Path(text).expanduser()

    def yes(self, name: str, default: str = "yes") -> bool:
        """Whether the option `name` is yes.

        Raises:
            DataError: it is neither yes nor no.
        """
        text = self.options.get(name, default)
        if text not in ("yes", "no"):
            raise DataError(f"{self.text!r}: {name} must be yes or no, not {text!r}.")
        return text == "yes"

    def integer(self, name: str, default: int, low: int) -> int:
        """The option `name` as a number of at least `low`.

        Raises:
            DataError: it is none.
        """
        text = self.options.get(name, str(default))
        if not text.isdecimal() or not low <= int(text) < 2**32:
            raise DataError(f"{self.text!r}: {name} must be a whole number of at least {low}, not {text!r}.")
        return int(text)

    def channels(self) -> int:
        """Channels that pictures are read with: 3, or what `channels=` says.

        Raises:
            DataError: that is neither 1 nor 3.
        """
        text = self.options.get("channels", "3")
        if text not in ("1", "3"):
            raise DataError(f"{self.text!r}: channels must be 1 (grey) or 3 (RGB), not {text!r}.")
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
    guessed = None if kind == "shapes" or (colon and kind in _KINDS) else _layout_of_folder(text)
    if guessed or kind not in _KINDS:
        if guessed is None:
            fault = f"{kind!r} is no known kind of data" if rest else "it is no folder with a layout that is known"
            raise DataError(f"{text!r} is no data specification: {fault}. {_known()}")
        return guessed
    form, count, known = _KINDS[kind]
    words = [word.strip() for word in rest.split(",")] if rest.strip() else []
    places, options = words[:count], {}
    if len(places) < count or not all(places):
        what = "name" if kind in _NAMED_KINDS else "path"
        raise DataError(f"{text!r}: {count} {what}(s) expected after {kind + ':'!r}. Write {form}")
    for word in words[count:]:
        name, equals, value = word.partition("=")
        if not equals or name not in known or not value:
            raise DataError(
                f"{text!r}: {word!r} is no option of {kind!r}; its options are {', '.join(known)}, written as "
                f"name=value. Commas separate options, so paths must not contain any. Write {form}"
            )
        if name in options:
            raise DataError(f"{text!r}: the option {name} is given twice. Remove one.")
        options[name] = value
    if kind in _NAMED_KINDS:
        return DataSpec(text=text, kind=kind, names=tuple(places), options=options)
    return DataSpec(text=text, kind=kind, paths=tuple(Path(p).expanduser() for p in places), options=options)


def _layout_of_folder(text: str) -> DataSpec | None:
    """The specification of a folder that was given without a kind, if its layout leaves no doubt."""
    folder = Path(text).expanduser()
    if not text or not folder.is_dir():
        return None

    def found(kind: str, *paths: Path) -> DataSpec:
        return DataSpec(text=text, kind=kind, paths=paths or (folder,), options={})

    if camvid_splits(folder):
        return found("camvid")
    if has_cityscapes(folder):
        return found("cityscapes")
    if has_pets(folder):
        return found("pets")
    if any(next(folder.glob(f"{above}ImageSets/Segmentation"), None) for above in ("", "VOC*/", "*/VOC*/")):
        return found("voc")
    if any(next(visible(folder.glob(f"{above}Annotations/*.xml")), None) for above in ("", "VOC*/", "*/VOC*/")):
        return found("vocboxes")
    if has_yolo_labels(folder):
        return found("yolo")
    if has_flickr(folder):
        return found("flickr")
    for images, masks in _USUAL_PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return found("folder", folder / images, folder / masks)
    return None


def _known() -> str:
    return "Supported are:\n" + "\n".join(f"  {kind.form}" for kind in _KINDS.values())
