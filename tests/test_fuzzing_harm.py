"""Data made to harm: bombs, endless files, ways out of the folder. What is refused is named, and nothing is run."""

from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pytest
from fuzzing import DEEP, WORDS, guard
from PIL import Image
from test_fuzzing import (
    COCO,
    PICTURES,
    SIZE,
    XML,
    coco,
    flickr,
    folder,
    mask,
    pets,
    pets_boxes,
    picture,
    read_or_refuse,
    text,
    voc,
    vocboxes,
)

import keras_cv_lectures as kcvl
from keras_cv_lectures.data import doctor, read_image, read_label_file
from keras_cv_lectures.data.objects import read_class_file
from keras_cv_lectures.data.yolo import read_yaml_names
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import Vocabulary, tokenize


def names_file(error, path):
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 20_000


# Annotations


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
XML_FILES = {
    "a billion laughs": f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>' + XML.replace("cat", "&a9;"),
    "an external entity": '<!DOCTYPE a [<!ENTITY e SYSTEM "{secret}">]>' + XML.replace("cat", "&e;"),
    "a parameter entity": '<!DOCTYPE a [<!ENTITY % e SYSTEM "{secret}"> %e;]>' + XML,
    "an external document type": '<!DOCTYPE annotation SYSTEM "{secret}">' + XML,
    "an entity that is not defined": XML.replace("cat", "&e;"),
    "another encoding": '<?xml version="1.0" encoding="utf-7"?>' + XML,
    "an encoding that is none": '<?xml version="1.0" encoding="none"?>' + XML,
    "ten thousand levels, not closed": "<annotation>" * DEEP,
    "a million attributes' worth of text": XML.replace("<object>", '<object a="' + "x" * 10**6 + ">"),
}


@pytest.mark.parametrize("case", XML_FILES)
def test_xml_files_made_to_harm(tmp_path, case):
    secret = text(tmp_path / "secret", "the secret")
    spec, (_, xml, *_) = vocboxes(tmp_path / "data")
    xml.write_text(XML_FILES[case].replace("{secret}", str(secret)))
    with guard(memory=2**27), pytest.raises(DataError) as error:
        kcvl.open_source(spec)
    names_file(error, xml)
    assert "the secret" not in str(error.value)
    assert not doctor(spec).ok


def test_deep_xml_is_read_around(tmp_path):
    """Levels below an object, which nobody asks for."""
    spec, (_, xml, *_) = vocboxes(tmp_path)
    xml.write_text(XML.replace("</object>", "<a>" * DEEP + "</a>" * DEEP + "</object>", 1))
    with guard():
        (example,) = kcvl.open_source(spec)
    assert len(example["boxes"]) == 2


@pytest.mark.parametrize("reader", ["coco", "cococaptions"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "[" * DEEP,
        '{"a":' * DEEP,
        '{"images": 1e999}',
        "9" * 5000,
        '{"images": [], "annotations": null}',
    ],
    ids=lambda content: content[:12],
)
def test_json_files_made_to_harm(tmp_path, reader, content):
    coco(tmp_path)
    path = text(tmp_path / "a.json", content)
    with guard(), pytest.raises(DataError) as error:
        kcvl.open_source(f"{reader}:{path},{tmp_path}/images")
    names_file(error, path)


@pytest.mark.parametrize("change", [{"file_name": "\ud800.png"}, {"file_name": "a" * 5000}, {"file_name": "a/" * 3000}])
def test_names_of_pictures_that_no_disk_has(tmp_path, change):
    spec, _ = coco(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["images"][0] |= change
    path = text(tmp_path / "instances.json", json.dumps(content))
    with guard(), pytest.raises(DataError) as error:
        kcvl.open_source(spec)
    names_file(error, path)
    doctor(spec).text().encode()


SEGMENTATIONS = {
    "to and fro for a million pixels": [[0, 0, 39, 31] * 100_000],
    "infinite": [[0, 0, 1e308, 1e308, 5, 5]],
    "runs of 2**62": {"size": [*SIZE], "counts": [2**62, 2**62]},
    "a picture of 2**40": {"size": [2**20, 2**20], "counts": [2**40]},
    "fractions": {"size": [*SIZE], "counts": [0.5, 1279.5]},
    "a text without end": {"size": [*SIZE], "counts": "o" * 10**6},
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_segmentations_made_to_harm(tmp_path, case):
    spec, _ = coco(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = SEGMENTATIONS[case]
    path = text(tmp_path / "instances.json", json.dumps(content))
    with guard(memory=2**29), pytest.raises(DataError) as error:
        list(kcvl.open_source(spec))
    names_file(error, path)


def test_the_doctor_goes_on_where_a_mask_is_missing(tmp_path):
    spec, _ = coco(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    del content["annotations"][0]["segmentation"]
    text(tmp_path / "instances.json", json.dumps(content))
    report = doctor(spec)
    assert [p for p in report.problems if "annotation 1 has no segmentation, though others have" in p]
    assert report.splits[0].readable == len(COCO["images"])


def test_label_files_made_to_harm(tmp_path):
    path = tmp_path / "labels.txt"
    for line in ("9" * 5000 + " a", "65536 a", "999999999 a", "1 2 9999999999999999999 a", "0 a\nignore " + "9" * 30):
        path.write_text(line)
        with guard(memory=2**27), pytest.raises(DataError, match=r"labels\.txt, line \d.*0\.\.65535") as error:
            read_label_file(path)
        names_file(error, path)
    for rows in ("name,value\na,-5\n", "name,r,g,b\na,-1,0,0\n", "name,value\na," + "9" * 5000, "name,value\na,1_0\n"):
        path.write_text(rows)
        with pytest.raises(DataError, match=r"labels\.txt, line 2.*0\.\.65535"):
            read_label_file(path)


def test_captions_made_to_harm(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    rows = [
        "a.jpg,A dog runs.",
        'a.jpg,"' + "a " * 100_000 + '"',
        'a.jpg,"A cat" ' + "x" * 200_000,
        "a.jpg,no" + "'s" * 10**5,
    ]
    path = text(tmp_path / "a.csv", "\n".join(rows))
    spec = f"captions:{path},{tmp_path}/images"
    assert read_or_refuse(spec, tmp_path)
    (example,) = kcvl.open_source(spec)
    assert example["captions"][0] == "A dog runs."
    assert any("a.csv, line 2" in warning for warning in doctor(spec).warnings)
    assert tokenize("the dog" + "'s" * 5000) == ["the", "dog"] + ["'s"] * 5000


def test_class_names_and_vocabularies_made_to_harm(tmp_path):
    rng = np.random.default_rng(0)
    for read, name, good in (
        (Vocabulary.load, "words.txt", "<pad>\n<start>\n<end>\n<unk>\na\ndog\n"),
        (read_yaml_names, "data.yaml", "names:\n  0: cat\n  1: dog\n"),
    ):
        path, refused = tmp_path / name, 0
        for number in range(len(WORDS)):
            lines = good.split("\n")
            lines[int(rng.integers(0, len(lines)))] += f"\n{'0: ' if number % 2 else ''}{WORDS[number]}"
            path.write_text("\n".join(lines), encoding="utf-8")
            message = None
            with guard():
                try:
                    read(path)
                except DataError as error:
                    message = str(error)
            assert message is None or str(path) in message
            refused += message is not None
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match="no UTF-8 text: line 1"):
            read(path)
        assert refused > 5
    with pytest.raises(DataError, match=r"data\.yaml: `names` must be"):
        read_yaml_names(text(tmp_path / "data.yaml", "names: {0: cat, " + "9" * 5000 + ": dog}"))
    for content in (b"cat\ncat\n", b"\n \n", b"\xff\xfe"):
        (tmp_path / "classes.txt").write_bytes(content)
        with pytest.raises(DataError, match=r"classes\.txt"):
            read_class_file(tmp_path / "classes.txt")


# Files


def test_superscripts_in_names_of_files(tmp_path):
    """Digits for Python's `isdigit`, but no numbers to sort by."""
    for name in ("\u00b2", "1\u00b22", "a\u00b9"):
        picture(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / f"{name}.png")
    assert len(kcvl.open_source(f"folder:{tmp_path}/images,{tmp_path}/masks")) == 3


@pytest.mark.parametrize("place", ["list.txt", "labels.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_files_without_an_end(tmp_path, place, kind):
    spec, _ = folder(tmp_path)
    path = tmp_path / place
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    with guard(), pytest.raises(DataError, match=r"cannot be read|does not exist") as error:
        kcvl.open_source(spec)
    names_file(error, path)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_annotations_and_pictures_without_an_end(tmp_path, kind):
    spec, (image, xml, *_) = vocboxes(tmp_path)
    for path in (xml, image):
        content = path.read_bytes()
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if kind == "device" else path)
        with guard(), pytest.raises(DataError) as error:
            list(kcvl.open_source(spec))
        names_file(error, path)
        path.unlink()
        path.write_bytes(content)


def test_links_are_followed_as_pictures_only(tmp_path):
    """A link out of the folder is an ordinary way to use pictures twice; what is no picture shows nothing of itself."""
    other = picture(tmp_path / "other" / "x.png")
    secret = text(tmp_path / "secret", "the secret words")
    spec, (_, xml, *_) = vocboxes(tmp_path / "data")
    image = tmp_path / "data" / "JPEGImages" / "a.jpg"
    image.unlink()
    image.symlink_to(other)
    assert len(list(kcvl.open_source(spec))) == 1
    for path in (image, xml):
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(DataError) as error:
            list(kcvl.open_source(spec))
        assert str(path) in str(error.value)
        assert "secret words" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret", "../../secret", "/secret", "..\\secret", "C:\\secret", "a" * 5000])
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    """Names in lists, annotations and captions: none is opened outside."""
    picture(tmp_path / "secret.png")
    picture(tmp_path / "secret.jpg")
    mask(tmp_path / "data" / "secret.png")
    spec, files = voc(tmp_path / "data" / "voc")
    text(files[-1], name)
    boxes, files = vocboxes(tmp_path / "data" / "boxes")
    text(files[-1], name)
    objects, files = coco(tmp_path / "data" / "coco")
    text(files[-1], files[-1].read_text().replace("0.png", name.replace("\\", "\\\\") + ".png"))
    trimaps, files = pets(tmp_path / "data" / "pets")
    text(files[-1], name)
    heads, files = pets_boxes(tmp_path / "data" / "heads")
    text(files[-1], name)
    for each in (spec, boxes, objects, trimaps, heads):
        with guard(), pytest.raises(DataError, match="a path inside") as error:
            kcvl.open_source(each)
        assert str(tmp_path / "data") in str(error.value)
    flickr(tmp_path / "data" / "flickr")
    tokens = text(tmp_path / "data" / "flickr" / "Flickr8k.token.txt", f"{name}.png#0\tA dog\na.jpg#0\tA cat\n")
    report = doctor(f"flickr:{tokens.parent},split=train" if name.startswith("a") else f"flickr:{tokens.parent}")
    assert report.examples == 1


# Pictures


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def with_size(path, pattern, size):
    content = path.read_bytes()
    assert pattern in content
    return content.replace(pattern, size, 1)


def pictures(root):
    """name -> content of files that claim to be large."""
    plain = Image.new("RGB", (40, 32))
    for suffix in ("jpg", "gif", "bmp", "ppm", "jp2"):
        plain.save(root / f"good.{suffix}")
    short, tall = struct.pack(">HH", 32, 40), struct.pack(">HH", 65500, 65500)
    little = struct.pack("<HH", 65535, 65535)
    return {
        "png.png": png(60_000, 60_000),
        "zero.png": png(0, 0),
        "widest.png": png(2**31 - 1, 1),
        "text.png": png(40, 32, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**8)))),
        "profile.png": png(40, 32, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * 10**8)))),
        "jpg.jpg": with_size(root / "good.jpg", short, tall),
        "gif.gif": with_size(root / "good.gif", struct.pack("<HH", 40, 32), little),
        "bmp.bmp": with_size(root / "good.bmp", struct.pack("<ii", 40, 32), struct.pack("<ii", 2**31 - 1, 2**31 - 1)),
        "ppm.ppm": with_size(root / "good.ppm", b"40 32", b"99999 99999"),
        "long.ppm": with_size(root / "good.ppm", b"40 32", b"9" * 5000 + b" 32"),
        "jp2.jp2": with_size(root / "good.jp2", struct.pack(">II", 32, 40), struct.pack(">II", 2**31, 2**31)),
    }


def test_pictures_made_to_harm(tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for name, content in pictures(good).items():
        path = tmp_path / name
        path.write_bytes(content)
        with guard(memory=2**28), pytest.raises(DataError) as error:
            read_image(path)
        names_file(error, path)


def test_a_page_that_follows_itself(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(PICTURES[0]).save(path)
    tiff = path.read_bytes()
    at = struct.unpack("<I", tiff[4:8])[0]
    behind = at + 2 + 12 * struct.unpack("<H", tiff[at : at + 2])[0]
    path.write_bytes(tiff[:behind] + struct.pack("<I", at) + tiff[behind + 4 :])
    with guard():
        np.testing.assert_array_equal(read_image(path), PICTURES[0])


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow would ask Ghostscript to draw PostScript, also where the file is called .png."""
    program = text(tmp_path / "bin" / "gs", f"#!/bin/sh\ntouch {tmp_path}/harmed\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\n%%EndComments\n(x) run\n%%EOF\n"
    path = tmp_path / "a.png"
    path.write_bytes(script)
    with guard(), pytest.raises(DataError, match="is not a picture"):
        read_image(path)
    assert not (tmp_path / "harmed").exists()
