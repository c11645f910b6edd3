"""Weight files that torchvision publishes: where they are, what they hold, and their download on request."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path

import keras

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import digest, locked

BASE_URL = "https://download.pytorch.org/models/"
_CHUNK = 2**20
_ELSEWHERE = "fetch that address elsewhere and put the file at {path}, or pass its path as `weights`."
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published weight file.

    Attributes:
        name: the file's name; the digits before `.pth` begin its SHA-256.
        architecture: the network that it fits, by torchvision's name.
        label: the name that `weights=` takes, such as "torchvision/coco-voc".
        megabytes: its size in units of 2**20 bytes, as published.
        holds: what it was trained on and what it reached there, as published.
    """

    name: str
    architecture: str
    label: str
    megabytes: float
    holds: str

    @property
    def url(self) -> str:
        return BASE_URL + self.name

    @property
    def sha256_prefix(self) -> str:
        return Path(self.name).stem.rsplit("-", 1)[1]


def _file(name: str, label: str, megabytes: float, holds: str) -> PublishedFile:
    architecture = name.rsplit("-", 1)[0].removesuffix("_coco")
    return PublishedFile(
        name=name, architecture=architecture, label=f"torchvision/{label}", megabytes=megabytes, holds=holds
    )


_COCO = "COCO train2017 with the 21 classes of VOC: mean IoU {}, pixel accuracy {} on val2017"
_DETECTION = "COCO train2017: {} on val2017"
_IMAGENET = "ImageNet-1K, recipe {}: top-1 {}"
PUBLISHED = {
    file.name: file
    for file in (
        _file("fcn_resnet50_coco-1167a1af.pth", "coco-voc", 135.009, _COCO.format(60.5, 91.4)),
        _file("fcn_resnet101_coco-7ecb50ca.pth", "coco-voc", 207.711, _COCO.format(63.7, 91.9)),
        _file("deeplabv3_resnet50_coco-cd0a2569.pth", "coco-voc", 160.515, _COCO.format(66.4, 92.4)),
        _file("deeplabv3_resnet101_coco-586e9e4e.pth", "coco-voc", 233.217, _COCO.format(67.4, 92.4)),
        _file("deeplabv3_mobilenet_v3_large-fc3c493d.pth", "coco-voc", 42.301, _COCO.format(60.3, 91.2)),
        _file("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "coco_v1", 159.743, _DETECTION.format("box AP 37.0")),
        _file("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", "coco_v1", 167.104, _DETECTION.format("box AP 46.7")),
        _file(
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "coco_v1", 169.84, _DETECTION.format("box AP 37.9, mask AP 34.6")
        ),
        _file(
            "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
            "coco_v1",
            177.219,
            _DETECTION.format("box 47.4, mask AP 41.8"),
        ),
        _file(
            "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
            "coco_v1",
            226.054,
            _DETECTION.format("box AP 54.6, keypoint AP 65.0"),
        ),
        _file(
            "keypointrcnn_resnet50_fpn_coco-9f466800.pth",
            "coco_legacy",
            226.054,
            _DETECTION.format("box AP 50.6, keypoint AP 61.1"),
        ),
        _file("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", "coco_v1", 74.239, _DETECTION.format("box AP 32.8")),
        _file(
            "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", "coco_v1", 74.239, _DETECTION.format("box AP 22.8")
        ),
        _file("resnet50-0676ba61.pth", "imagenet", 97.781, _IMAGENET.format(1, 76.130)),
        _file("resnet50-11ad3fa6.pth", "imagenet-v2", 97.79, _IMAGENET.format(2, 80.858)),
        _file("resnet101-63fe2227.pth", "imagenet", 170.511, _IMAGENET.format(1, 77.374)),
        _file("resnet101-cd907fc2.pth", "imagenet-v2", 170.53, _IMAGENET.format(2, 81.886)),
        _file("mobilenet_v3_large-8738ca79.pth", "imagenet", 21.114, _IMAGENET.format(1, 74.042)),
        _file("mobilenet_v3_large-5c1a4163.pth", "imagenet-v2", 21.107, _IMAGENET.format(2, 75.274)),
        _file("vgg16-397923af.pth", "imagenet", 527.796, _IMAGENET.format(1, 71.592)),
    )
}


def find_published(label: str, architecture: str | None) -> PublishedFile:
    """The published file of `architecture` under `label`, such as "torchvision/coco-voc".

    Raises:
        ModelError: there is none; the message lists what there is.
    """
    known = {file.label: file for file in PUBLISHED.values() if file.architecture == architecture}
    if label not in known:
        choices = f"Known for {architecture}: {sorted(known)}." if known else "This network has no published file."
        raise ModelError(
            f"`weights` names no published file. Received: weights={label!r}. {choices} A path is accepted, too."
        )
    return known[label]


def cache_folder() -> Path:
    """Where downloads are kept: `keras_cv_lectures` in Keras's folder (`KERAS_HOME`, or `~/.keras`)."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras_cv_lectures"


def download(file: PublishedFile | str) -> Path:
    """Path of a published file in the cache, downloaded if it is not there yet.

    An interrupted download goes on where it stopped when it is asked for again. Of several processes or threads that
    ask for the same file one downloads it, and the others wait for it.

    Args:
        file: an entry of `PUBLISHED`, or its name.

    Raises:
        ModelError: the name is unknown, there is no connection, the cache cannot be written, or the bytes are not the
            published ones.
    """
    if isinstance(file, str):
        if file not in PUBLISHED:
            raise ModelError(f"`file` must be one of {sorted(PUBLISHED)}. Received: file={file!r}")
        file = PUBLISHED[file]
    path = cache_folder() / file.name
    if path.exists():
        if not digest(path).startswith(file.sha256_prefix):
            raise ModelError(
                f"{path} is not the published file: its SHA-256 does not begin with {file.sha256_prefix}. Delete it; "
                f"it is fetched again from {file.url}"
            )
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            if not path.exists():  # Nobody else has brought it meanwhile.
                _download(file, part, path)
    except OSError as error:
        raise ModelError(
            f"{file.name} ({file.megabytes:.0f} MB, {file.url}) could not be kept in {path.parent}: {error}. Let "
            f"KERAS_HOME name a folder that can be written, or {_ELSEWHERE.format(path=path)}"
        ) from error
    return path


def _download(file: PublishedFile, part: Path, path: Path) -> None:
    # Imported here: HTTP and TLS are a tenth of the time that importing this package takes.
    import http.client

    try:
        _fetch(file.url, part)
    except (http.client.HTTPException, OSError) as error:
        came = part.stat().st_size if part.exists() else 0
        kept = f" The {came} bytes that came are kept; ask again to go on." if came else ""
        raise ModelError(
            f"{file.name} ({file.megabytes:.0f} MB) could not be downloaded from {file.url}: {error}.{kept} Without "
            f"network, {_ELSEWHERE.format(path=path)}"
        ) from error
    if not digest(part).startswith(file.sha256_prefix):
        part.unlink()
        raise ModelError(
            f"what came from {file.url} is not the published file: its SHA-256 does not begin with "
            f"{file.sha256_prefix}. It was deleted; ask again, or fetch it elsewhere and put it at {path}."
        )
    os.replace(part, path)


def _alone(part: Path) -> contextlib.AbstractContextManager[None]:
    """Waits until nobody else writes to `part`, and keeps others waiting meanwhile; leaves no empty file."""
    return locked(part, lambda: _log.info("waiting for another download of %s", part.with_suffix("").name))


def _fetch(url: str, part: Path) -> None:
    """Brings `part` to the whole file, from the byte that it ends with."""
    import urllib.error
    import urllib.request

    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # Nothing is behind the last byte: the part is whole, which its digest will tell.
            return
        raise
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        bar = keras.utils.Progbar(total, unit_name="byte")
        with part.open("ab" if goes_on else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                bar.update(min(out.tell(), total or out.tell()))
            size = out.tell()
    if total is not None and size < total:
        raise OSError(f"the connection ended after {size} of {total} bytes")
