"""Tables of captions as others export them: several captions in a cell, and a column of splits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import caption_table, caption_tables, doctor, has_splits, open_source
from keras_cv_lectures.data.caption_tables import read_lines
from keras_cv_lectures.errors import DataError

CAPTIONS = ["A dog, running.", 'It\'s "Rex".', "Two\nwords"]


@pytest.fixture
def table(tmp_path):
    """Writes a table, and the pictures `a.png` to `d.png`."""
    for number, name in enumerate("abcd"):
        Image.fromarray(np.full((4, 6, 3), 10 * number, np.uint8)).save(tmp_path / f"{name}.png")

    def write(*rows):
        path = tmp_path / "table.csv"
        cells = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
        path.write_text("".join(",".join(row) + "\n" for row in cells))
        return path, tmp_path

    return write


def captions_of(source):
    return {source.ids[i]: list(source[i]["captions"]) for i in range(len(source))}


@pytest.mark.parametrize("written", [json.dumps(CAPTIONS), repr(CAPTIONS), repr(tuple(CAPTIONS)), None], ids=str)
def test_a_list_in_a_cell_is_several_captions(table, written):
    several = [" ".join(text.split()) for text in CAPTIONS]
    if written is None:  # As a column of arrays is exported: no commas.
        written = str(np.array(CAPTIONS, object))
        assert "," not in written.replace("dog,", "")
    elif written.startswith("("):
        several = [written.replace("\n", " ")]  # No list.
    found = captions_of(caption_table(*table(["image", "captions"], ["a.png", written], ["b.png", "A cat"])))
    assert found == {"a": several, "b": ["A cat"]}


@pytest.mark.parametrize(
    "text", ["[a dog]", '["a dog", 3]', "['a dog', b]", '["a" + "b"]', "[dog] and ['cat']", '["\\ud800 dog"]']
)
def test_what_is_no_list_of_texts_is_one_caption(table, text):
    assert captions_of(caption_table(*table(["image", "captions"], ["a.png", text]))) == {"a": [text]}


def test_flickr30k_as_one_table(table):
    """A cell of all captions, one of their numbers, and the split of each picture."""
    rows = [
        ['["A dog.", "Dogs."]', "[0, 1]", "train", "a.png", "0"],
        ['["A cat.", "Cats."]', "[2, 3]", "val", "b.png", "1"],
        ['["A cow.", "Cows."]', "[4, 5]", "test", "c.png", "2"],
        ['["A hen."]', "[6]", "Train", "d.png", "3"],
    ]
    path, images = table(["raw", "sentids", "split", "filename", "img_id"], *rows)
    spec = f"captions:{path},{images}"
    assert has_splits(spec)
    assert captions_of(open_source(spec)) == {"a": ["A dog.", "Dogs."], "d": ["A hen."]}
    assert captions_of(open_source(spec, "val")) == {"b": ["A cat.", "Cats."]}
    assert captions_of(open_source(f"{spec},split=test")) == {"c": ["A cow.", "Cows."]}
    assert len(caption_table(path, images)) == 4
    report = doctor(spec)
    assert [(split.name, split.captions.captions) for split in report.splits] == [
        ("captions table.csv train", 3),
        ("captions table.csv val", 2),
    ]
    assert report.warnings == ()
    with pytest.raises(DataError, match="has no split 'dev': its column 'split' names train, val, test"):
        open_source(f"{spec},split=dev")


def test_a_column_of_splits_that_is_not_read_is_said(table, tmp_path):
    rows = [["a.png", "A dog", "train"], ["b.png", "A cat", "restval"], ["c.png", "A cow", "fold 3"]]
    path, images = table(["image", "caption", "split"], *rows)
    spec = f"captions:{path},{images}"
    assert open_source(spec).ids == ("a", "b")
    assert doctor(spec).warnings == (
        f"{path}: of the column 'split' not understood and passed over is 'fold 3' (1 rows).",
    )
    path.rename(tmp_path / "train.csv")
    spec = f"captions:{tmp_path}/{{split}}.csv,{images}"
    assert open_source(spec).ids == ("a", "b", "c")
    assert f"{tmp_path}/train.csv: its column 'split' is not read; all 3 rows are taken." in doctor(spec).warnings


@pytest.mark.parametrize("split", ["train", "val", None])
def test_a_table_of_one_split_is_taken_whole(table, split):
    path, images = table(["image", "caption", "split"], ["a.png", "A dog.", "test"], ["b.png", "A cat.", "Testing"])
    assert captions_of(open_source(f"captions:{path},{images}", split)) == {"a": ["A dog."], "b": ["A cat."]}
    with pytest.raises(DataError, match="has no split 'val': its column 'split' names test"):
        open_source(f"captions:{path},{images},split=val")
    path, images = table(["image", "caption", "split"], ["a.png", "A dog.", "test"], ["b.png", "A cat.", "unused"])
    with pytest.raises(DataError, match="has no split 'val': its column 'split' names test"):
        open_source(f"captions:{path},{images}", "val")


def test_the_splits_of_a_table_are_counted_once_until_it_changes(table, monkeypatch):
    path, images = table(["image", "caption", "split"], ["a.png", "A dog.", "train"], ["b.png", "A cat.", "val"])
    read = []
    monkeypatch.setattr(caption_tables, "read_lines", lambda path: (read.append(path), read_lines(path))[1])
    spec = f"captions:{path},{images}"
    assert (has_splits(spec), len(open_source(spec, "train")), len(open_source(spec, "val"))) == (True, 1, 1)
    assert len(read) == 3  # To count, and for the rows of each split.
    table(["image", "caption", "split"], ["a.png", "A dog.", "train"], ["b.png", "A cat.", "train"])
    assert caption_tables.split_counts(path) == {"train": 2}
