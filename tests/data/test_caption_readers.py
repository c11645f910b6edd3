"""Readers of captions: layouts as they are distributed, and rows that cannot be used."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import (
    Source,
    cached,
    caption_pairs,
    caption_table,
    caption_texts,
    coco_captions,
    doctor,
    flickr_captions,
    has_splits,
    open_source,
    shapes_source,
    to_dataset,
)
from keras_cv_lectures.data.captions import coco_listing, flickr_listing, most_captions, table_listing
from keras_cv_lectures.errors import DataError


def paint(folder, *names, size=(4, 6)):
    """Pictures of one grey each, the first 0, the second 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(folder / name)
    return folder


def captions_of(source):
    return {source.ids[i]: list(source[i]["captions"]) for i in range(len(source))}


# Flickr8k and Flickr30k.

ROWS = {"a": ["A dog .", "One dog, running ."], "b": ["A cat ."], "c": ['A " quoted " word .', "Two"]}


def kaggle(root):
    paint(root / "Images", "a.png", "b.png", "c.png")
    (root / "captions.txt").write_text(
        'image,caption\na.png,A dog .\na.png,"One dog, running ."\nb.png,A cat .\n'
        'c.png,"A "" quoted "" word ."\nc.png,Two\n'
    )
    return root


def tokens(root):
    paint(root / "Flicker8k_Dataset", "a.png", "b.png", "c.png")
    text = root / "Flickr8k_text"
    text.mkdir()
    rows = [f"{name}.png#{i}\t{caption}" for name, texts in ROWS.items() for i, caption in enumerate(texts)]
    (text / "Flickr8k.token.txt").write_text("\n".join(rows) + "\n")
    return root


def flickr30k(root):
    paint(root / "flickr30k_images" / "flickr30k_images", "a.png", "b.png", "c.png")
    rows = [f"{name}.png| {i}| {caption}" for name, texts in ROWS.items() for i, caption in enumerate(texts)]
    (root / "flickr30k_images" / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(rows))
    return root


@pytest.mark.parametrize("layout", [kaggle, tokens, flickr30k])
def test_flickr_layouts(tmp_path, layout):
    source = flickr_captions(layout(tmp_path))
    assert captions_of(source) == ROWS
    assert list(source.texts()) == [text for texts in ROWS.values() for text in texts]
    example = source[1]
    assert example["captions"].dtype == object
    assert example["image"].shape == (4, 6, 3)
    assert (example["image"] == 10).all()
    assert example["image_id"] == "b"
    assert source.classes == source.colors == ()


@pytest.mark.parametrize("suffix", [".png", ""])
@pytest.mark.parametrize("names", [("Flickr_8k.trainImages", "Flickr_8k.devImages"), ("train", "val")])
def test_splits_of_flickr(tmp_path, names, suffix):
    kaggle(tmp_path)
    (tmp_path / f"{names[0]}.txt").write_text(f"a{suffix}\nb{suffix}\n")
    spec = f"flickr:{tmp_path}"
    assert not has_splits(f"{spec},split=train")
    (tmp_path / f"{names[1]}.txt").write_text(f"c{suffix}\n")
    assert has_splits(spec)
    assert open_source(spec).ids == open_source(spec, "train").ids == ("a", "b")
    assert open_source(str(tmp_path), "val").ids == ("c",)
    assert open_source(f"{spec},split=dev").ids == ("c",)
    with pytest.raises(DataError, match=r"no list of the split 'test'; there is train, val"):
        open_source(f"{spec},split=test")


@pytest.mark.parametrize("flat", [False, True])
def test_what_macos_leaves_behind_is_no_list(tmp_path, flat):
    if flat:  # Pictures, captions and lists in one folder.
        text = paint(tmp_path, "a.png", "b.png", "c.png")
        (text / "captions.txt").write_text("image,caption\na.png,A dog .\nb.png,A cat .\nc.png,Two\n")
    else:
        text = tokens(tmp_path) / "Flickr8k_text"
    names = {"Flickr_8k.trainImages.txt": "a.png\nb.png\n", "Flickr_8k.devImages.txt": "c.png\n"}
    for name, listed in names.items():
        (text / name).write_text(listed)
        for folder in (text, tmp_path / "__MACOSX" / "Flickr8k_text"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (text / "._Flickr_8k.testImages.txt").write_bytes(b"\0\5\x16\7")
    assert flickr_captions(tmp_path, "train").ids == ("a", "b")
    assert flickr_captions(tmp_path, "val").ids == ("c",)
    with pytest.raises(DataError, match="no list of the split 'test'"):
        flickr_captions(tmp_path, "test")


def test_flickr_without_lists_has_no_splits(tmp_path):
    assert not has_splits(f"flickr:{kaggle(tmp_path)}")
    assert len(open_source(f"flickr:{tmp_path}")) == 3


def test_what_a_list_names_in_vain(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "train.txt").write_text("a.png\nzebra.png\n")
    listing = flickr_listing(tmp_path, "train")
    assert listing.ids == ("a",)
    assert "train.txt names pictures without a caption: 1: zebra.png." in listing.warnings[0]


def test_token_rows_that_are_no_such(tmp_path):
    tokens(tmp_path)
    path = tmp_path / "Flickr8k_text" / "Flickr8k.token.txt"
    path.write_text(path.read_text() + "\nno key here\nb.png#0\tAgain .\nz.png#0\tA zebra .\nb.png#1\t\n")
    listing = flickr_listing(tmp_path)
    assert listing.captions == tuple(map(tuple, ROWS.values()))
    faults = [
        ("line 7", "expected name.jpg#0, a tab, and the caption"),
        ("line 8", "has b.png#0 a second time"),
        ("line 9", "z.png does not exist"),
        ("line 10", "has no caption"),
    ]
    assert len(listing.left_out) == len(faults)
    for text, (line, fault) in zip(listing.left_out, faults, strict=True):
        assert text.startswith(f"{path}, {line}")
        assert fault in text


def test_flickr_parts_that_are_missing(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        flickr_captions(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no captions: one of captions.txt"):
        flickr_captions(tmp_path)
    kaggle(tmp_path)
    for path in (tmp_path / "Images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"holds none of the pictures that .*captions.txt names, such as a.png"):
        flickr_captions(tmp_path)


# COCO.


def coco(root, images=None, annotations=None, name="captions.json"):
    paint(root / "images", "a.png", "b.png")
    default = [{"id": 5, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    content = {
        "images": default if images is None else images,
        "annotations": annotations
        or [
            {"id": 1, "image_id": 2, "caption": " A cat\nsits. "},
            {"id": 2, "image_id": 5, "caption": "A dog."},
            {"id": 3, "image_id": 2, "caption": "Cat!"},
        ],
    }
    (root / name).write_text(json.dumps(content))
    return root / name, root / "images"


def test_coco_captions(tmp_path):
    source = coco_captions(*coco(tmp_path))
    assert captions_of(source) == {"b": ["A cat sits.", "Cat!"], "a": ["A dog."]}
    assert source.name == "captions captions.json"


def test_coco_annotations_that_are_no_such(tmp_path):
    images = [{"id": i, "file_name": f} for i, f in enumerate(["a.png", "../a.png", "z.png", "b.png"])]
    images += [{"id": 0, "file_name": "b.png"}, {"id": 9}, "none"]
    rows = [{"image_id": i, "caption": "A dog."} for i in (0, 1, 2, 77)]
    rows += [{"image_id": 0, "caption": c} for c in ("", None, 3, "...")] + [
        7,
        {"id": 1, "image_id": 0, "caption": "x"},
    ]
    listing = coco_listing(*coco(tmp_path, images, [*rows, {"id": 1, "image_id": 0, "caption": "y"}]))
    assert listing.ids == ("a",)
    assert listing.captions == (("A dog.", "x"),)
    expected = [
        "picture 0: the id occurs twice",
        "picture 9 has no id or no file_name",
        "picture 7 has no id or no file_name",
        "names the picture '../a.png'; expected a path inside",
        "z.png does not exist",
        "belongs to picture 77",
        "annotation 5 (a.png): has no caption",
        "annotation 6 (a.png): has no caption",
        "annotation 7 (a.png): has no caption",
        "annotation 8 (a.png): the caption '...' has no word",
        "annotation 9 belongs to picture None",
        "annotation 1: the id occurs twice",
    ]
    assert len(listing.left_out) == len(expected)
    for text, fault in zip(listing.left_out, expected, strict=True):
        assert fault in text
    assert "pictures without a caption, which are not trained on: 3: ../a.png, z.png, b.png" in listing.warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no valid JSON"),
        ("[]", "is no COCO file of captions: a list 'images', 'annotations' is expected"),
        ('{"images": []}', "a list 'annotations' is expected"),
        ('{"images": [], "annotations": []}', "has no usable row. Expected are pictures inside"),
    ],
)
def test_coco_files_that_are_no_such(tmp_path, content, message):
    path, images = coco(tmp_path)
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        coco_captions(path, images)
    with pytest.raises(DataError, match="cannot be read"):
        coco_captions(tmp_path / "absent.json", images)
    with pytest.raises(DataError, match="is not a folder"):
        coco_captions(path, tmp_path / "absent")


def test_split_in_the_paths(tmp_path):
    for split in ("train", "val"):
        coco(tmp_path, name=f"captions_{split}.json")
    spec = f"cococaptions:{tmp_path}/captions_{{split}}.json,{tmp_path}/images"
    assert has_splits(spec)
    assert open_source(spec, "val").name == "captions captions_val.json"
    one = f"cococaptions:{tmp_path}/captions_val.json,{tmp_path}/images"
    assert not has_splits(one)
    assert open_source(one, "train").name == "captions captions_val.json"
    with pytest.raises(DataError, match="split= needs {split} in a path"):
        open_source(f"{one},split=val")


# Tables.


def table(root, text, *names):
    images = paint(root / "pictures", *(names or ("a.png", "b.png")))
    (root / "table.csv").write_bytes(text.encode())
    return root / "table.csv", images


WANTED = {"a": ["A dog, running.", "Dog"], "b": ["A cat"]}


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\na.png,"A dog, running."\na.png,Dog\nb.png,A cat\n',
        'a.png,"A dog, running."\na.png,Dog\nb.png,A cat\n',
        "a.png\tA dog, running.\r\na.png\tDog\r\n\r\nb.png\tA cat",
        "\ufefffilename;text\na.png;A dog, running.\na.png; Dog \nb.png;A cat\n",
        'a.png|0|A dog, running.\na.png|1|"Dog"\nb.png|0|A cat\n',
        'caption,id,file\n"A dog,\n running.",1,a.png\nDog,2,a.png\nA cat,3,b.png\n',
        "what;which\na.png;A dog, running.\na.png;Dog\nb.png;A cat\n",
        'Img-File,caption_text,split\na.png,"A dog, running.",train\na.png,Dog,val\nb.png,A cat,val\n',
        'image,caption_1,caption 2,split\na.png,"A dog, running.",Dog,val\nb.png,A cat,,val\n',
    ],
)
def test_tables_of_any_form(tmp_path, text):
    assert captions_of(caption_table(*table(tmp_path, text))) == WANTED


def test_pictures_in_folders_and_of_one_stem(tmp_path):
    path, images = table(tmp_path, "x/a.png,One\nx\\a.jpg,Two\n")
    paint(images / "x", "a.png", "a.jpg")
    assert captions_of(caption_table(path, images)) == {"x/a.png": ["One"], "x/a.jpg": ["Two"]}


def test_rows_that_cannot_be_used(tmp_path):
    lines = [
        "image,caption",
        "a.png,A dog",
        "a.png",
        "a.png,A dog, running",
        "a.png,",
        'a.png,"  "',
        "z.png,A zebra",
        "/etc/passwd,Secret",
        "../a.png,Outside",
        ",No picture",
        'b.png,"An open quotation mark',
        "b.png,A cat",
        'b.png,"Stop" he said',
        "b.png,A cat",
    ]
    path, images = table(tmp_path, "\n".join(lines))
    listing = table_listing(path, images)
    assert listing.captions == (("A dog",), ("A cat", "Stop he said", "A cat"))
    faults = [
        (3, "has 1 columns instead of 2"),
        (4, "has 3 columns instead of 2. Put a caption that holds ',' in quotation marks"),
        (5, "has no caption"),
        (6, "has no caption"),
        (7, "z.png does not exist"),
        (8, "names the picture '/etc/passwd'; expected a path inside"),
        (9, "names the picture '../a.png'; expected a path inside"),
        (10, "names the picture ''"),
        (11, "has a quotation mark that is not closed"),
    ]
    assert len(listing.left_out) == len(faults)
    for text, (number, fault) in zip(listing.left_out, faults, strict=True):
        assert re.match(rf"{re.escape(str(path))}, line {number}\b", text)
        assert fault in text
    assert listing.warnings == ("captions table.csv: pictures that have the same caption more than once: 1: b.png.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Write a picture and its caption in each line"),
        ("just words\nand more\n", "is no table of pictures and captions"),
        ("image,caption\n", "has no usable row. Expected"),
        (
            "what,which,part\na.png,A dog,val\n",
            "line 1: which of the columns what, which, part hold .* Name them image",
        ),
        ("image,said,part\na.png,A dog,val\n", "line 1: which of the columns image, said, part hold"),
        ("image,caption\nz.png,A zebra\n", "has no usable row; the first is left out because .*z.png does not exist"),
    ],
)
def test_tables_that_are_no_such(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        caption_table(*table(tmp_path, text))


def test_tables_in_another_encoding(tmp_path):
    path, images = table(tmp_path, "")
    path.write_bytes("a.png,A dog\na.png,Ein Häuschen\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no UTF-8 text: line 2"):
        caption_table(path, images)


def test_pictures_are_reported_when_they_are_read(tmp_path):
    path, images = table(tmp_path, "a.png,A dog\nb.png,A cat\n")
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:40])
    source = caption_table(path, images)
    assert list(source.texts()) == ["A dog", "A cat"]
    with pytest.raises(DataError, match=r"pictures.b\.png is truncated or damaged"):
        source[1]
    assert open_source(f"captions:{path},{images},channels=1")[0]["image"].shape == (4, 6, 1)


# The doctor.


def test_the_doctor_names_rows_and_files(tmp_path):
    text = "a.png,A dog\na.png,A dog runs fast\nb.png,A cat\nb.png,\nz.png,A zebra\n"
    path, images = table(tmp_path, text, "a.png", "b.png", "c.png")
    (images / "b.png").write_bytes(b"")
    report = doctor(f"captions:{path},{images}")
    assert not report.ok
    assert len(report.problems) == 1
    assert "b.png is empty" in report.problems[0]
    bare, rows = report.warnings
    assert "pictures without a caption, which are not trained on: 1: c.png." in bare
    assert rows.split("\n")[0] == "captions table.csv: rows left out: 2"
    assert "line 4 (b.png): has no caption" in rows
    assert "line 5: " in rows
    count = report.splits[0].captions
    assert (count.captions, count.fewest, count.most, count.mean_words, count.longest) == (2, 2, 2, 3.0, 4)
    assert (count.words, count.rare) == (4, 4)
    shown = report.text()
    assert "captions: 2, 2 a picture; 3.0 words on average, at most 4" in shown
    assert "different words: 4, 0 of them 5 times or more often" in shown


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a.png,A dog\n", "pictures from column 1, captions from column 2"),
        (
            "caption;split;image\nA dog;train;a.png\n",
            "pictures from column 3 (image), captions from column 1 (caption)",
        ),
        (
            "image\tcaption_1\tcaption_2\na.png\tA dog\tA cat\n",
            "pictures from column 1 (image), captions from columns 2 (caption_1), 3 (caption_2)",
        ),
    ],
)
def test_the_doctor_says_which_columns_it_reads(tmp_path, text, columns):
    path, images = table(tmp_path, text, "a.png")
    assert doctor(f"captions:{path},{images}").notes == (f"table.csv: {columns}.",)


def test_the_doctor_looks_at_all_splits(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    (tmp_path / "val.txt").write_text("c.png\n")
    report = doctor(f"flickr:{tmp_path}")
    assert report.ok
    assert [(split.name.split()[-1], split.examples, split.captions.captions) for split in report.splits] == [
        ("train", 2, 3),
        ("val", 1, 2),
    ]
    assert not doctor(f"flickr:{tmp_path}/Images").ok
    assert doctor("shapes:count=4,size=32").splits[0].captions.captions == 4


# Sources.


def test_captions_become_tensors(tmp_path):
    source = cached(flickr_captions(kaggle(tmp_path)))
    examples = list(to_dataset(source, shuffle=False, seed=0, epochs=1, keys=["image", "captions"]))
    assert [[t.decode() for t in e["captions"].numpy()] for e in examples] == list(ROWS.values())


def test_captions_of_a_subset_are_its_own(tmp_path):
    source = flickr_captions(kaggle(tmp_path)).subset([2, 1])
    assert list(source.texts()) == [*ROWS["c"], *ROWS["b"]]
    assert list(cached(source.subset([1])).texts()) == ROWS["b"]


def test_captions_of_a_source_that_only_knows_all_of_them():
    def read(index):
        return {"image": np.zeros((2, 2, 3), np.uint8), "captions": np.array([f"text {index}"], dtype=object)}

    fields = {"name": "toy", "ids": ("0", "1"), "read": read, "classes": (), "colors": ()}
    whole = Source(texts=lambda: iter(["text 0", "text 1"]), **fields)
    assert list(caption_texts(whole)) == ["text 0", "text 1"]
    assert list(caption_texts(whole.subset([1]))) == ["text 1"]
    assert list(caption_texts(Source(**fields))) == ["text 0", "text 1"]
    assert Source(**fields).texts is None
    as_bytes = Source(captions_at=lambda index: [f"text {index}".encode()], **fields)
    assert list(caption_texts(as_bytes)) == ["text 0", "text 1"]
    alone = Source(**{**fields, "read": lambda index: {"captions": f"text {index}"}})
    assert list(caption_texts(alone)) == ["text 0", "text 1"]
    bare = Source(**{**fields, "read": lambda index: {"image": np.zeros((2, 2, 3), np.uint8)}})
    with pytest.raises(DataError, match="toy has no captions"):
        caption_texts(bare)


def test_pairs_of_picture_and_caption(tmp_path):
    pairs = caption_pairs(flickr_captions(kaggle(tmp_path)))
    assert pairs.ids == ("a#0", "a#1", "b#0", "c#0", "c#1")
    assert captions_of(pairs) == dict(zip(pairs.ids, ([text] for text in pairs.texts()), strict=True))
    assert (pairs[2]["image"] == 10).all()
    assert pairs.files(2)[0].name == "b.png"
    fields = {"name": "toy", "ids": ("a",), "read": lambda index: {}, "classes": (), "colors": ()}
    wordless = Source(captions_at=lambda index: ("...", "a dog"), **fields)
    assert caption_pairs(wordless).ids == ("a#1",)
    with pytest.raises(DataError, match="toy has no captions, or not of a"):
        caption_pairs(Source(**fields))
    read = {"read": lambda index: {"captions": [b"...", b"a dog"]}}
    told_by_reading = caption_pairs(Source(**{**fields, **read}))
    assert told_by_reading.ids == ("a#1",)
    assert list(told_by_reading[0]["captions"]) == list(told_by_reading.texts()) == ["a dog"]


def test_the_most_captions_of_a_picture(tmp_path):
    few = flickr_captions(kaggle(tmp_path))
    assert most_captions(few, None, few.subset([1]), limit=5) == 2
    assert most_captions(few.subset([1]), limit=5) == most_captions(few, limit=1) == 1
    unknown = Source(name="toy", ids=("a",), read=lambda index: {}, classes=(), colors=())
    assert most_captions(few, unknown, limit=5) == 5


def test_generated_pictures_know_their_captions():
    source = shapes_source(12, size=(48, 48), seed=4, max_shapes=3)
    assert list(source.texts()) == [str(example["captions"][0]) for example in source]
    assert list(source.subset([7, 3]).texts()) == [str(source[i]["captions"][0]) for i in (7, 3)]
    spec = "shapes:count=12,size=48,seed=4,shapes=3"
    assert list(open_source(spec).texts()) == list(source.texts())
    assert open_source(spec, "val").texts is not None
    with pytest.raises(DataError, match="clear must be yes or no"):
        open_source("shapes:clear=1")


@pytest.mark.realdata
def test_real_flickr8k_is_in_order(realdata):
    spec = f"flickr:{realdata('flickr8k')}"
    train, val = (open_source(spec, split) for split in ("train", "val"))
    assert not set(train.ids) & set(val.ids)
    for source in (train, val):
        assert len(source) > 100
        assert {len(source.captions_at(i)) for i in range(len(source))} == {5}
        assert source[len(source) - 1]["image"].ndim == 3
    listing = flickr_listing(realdata("flickr8k"), "train")
    assert listing.left_out == listing.problems == ()
    table_source = caption_table(realdata("flickr8k") / "captions.txt", realdata("flickr8k") / "Images")
    assert set(train.ids) <= set(table_source.ids)
