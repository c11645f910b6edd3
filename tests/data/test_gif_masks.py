"""Masks in GIF files, whose colours programs number anew in each file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import VOC_CLASSES, default_colors, doctor, open_source, read_mask
from keras_cv_lectures.errors import DataError


@pytest.fixture
def gifs(tmp_path):
    """Writes masks (2, 4), each by the colours of its pixels row by row and their numbers in the file, and pictures."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()

    def write(*masks, labels=None):
        for earlier in (*tmp_path.glob("images/*"), *tmp_path.glob("masks/*")):
            earlier.unlink()
        for number, (palette, values) in enumerate(masks):
            Image.fromarray(np.full((2, 4, 3), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
            picture = Image.fromarray(np.resize(np.uint8(values), (2, 4))).convert("P")
            picture.putpalette(np.ravel(palette).tolist())
            picture.save(tmp_path / "masks" / f"{number}.gif", optimize=False)
        spec = f"folder:{tmp_path}/images,{tmp_path}/masks"
        if labels is None:
            return spec
        (tmp_path / "labels.txt").write_text(labels)
        return f"{spec},labels={tmp_path}/labels.txt"

    return write


BLACK, GREY, WHITE, RED = [0] * 3, [128] * 3, [255] * 3, [255, 0, 0]
VESSELS = "0 background\n1 vessel\n"


def rows(spec):
    return [example["mask"][0].tolist() for example in open_source(spec)]


def test_numbers_of_a_label_file_are_those_of_the_palette(gifs):
    """And not its greys, of which the label file names none."""
    assert rows(gifs(([BLACK, WHITE], [0, 1]), ([BLACK, WHITE], [0]), labels=VESSELS)) == [[0, 1, 0, 1], [0] * 4]
    assert rows(gifs(([BLACK, RED], [0, 1]), labels=VESSELS))[0] == [0, 1, 0, 1]


def test_greys_that_a_label_file_names_are_greys(gifs):
    masks = (([BLACK, WHITE], [0, 1]), ([BLACK, [1] * 3, WHITE], [0, 1, 2]))
    # 255 is what is left out, although the first file has it as number 1.
    assert rows(gifs(*masks, labels=VESSELS)) == [[0, 255, 0, 255], [0, 1, 255, 0]]
    assert rows(gifs(*masks[:1], labels="0 background\n255 vessel\n1 other\n"))[0] == [0, 1, 0, 1]
    spec = gifs(([BLACK, WHITE], [0, 1]), labels="0 background 0 0 0\n1 vessel 255 255 255\n")
    assert rows(spec)[0] == [0, 1, 0, 1]


def test_greys_with_several_numbers_are_no_classes(gifs):
    """A mask that is white throughout has number 0."""
    spec = gifs(([BLACK, WHITE], [0, 1]), ([WHITE, BLACK], [0]), labels=VESSELS)
    with pytest.raises(DataError, match=r"the greys 0, 255, of which the label file names no class.*`255 NAME`"):
        open_source(spec)[0]
    assert sum("the greys 0, 255" in problem for problem in doctor(spec).problems) == 1
    spec = gifs(([BLACK, WHITE], [0, 1]), ([BLACK, GREY], [0, 1]), labels=VESSELS)
    with pytest.raises(DataError, match=r"1\.gif holds mask values outside the label map: 128"):
        open_source(spec)[1]


def test_colours_with_several_numbers_are_told_apart(gifs, tmp_path):
    """Persons and boats of Pascal VOC, each the second colour of its file."""
    colors = default_colors(21)
    masks = (([BLACK, colors[15]], [0, 1]), ([BLACK, colors[3]], [0, 1]))
    spec = gifs(*masks)
    assert read_mask(tmp_path / "masks/1.gif")[0, 1].tolist() == list(colors[3])
    source = open_source(spec)
    assert source.classes == VOC_CLASSES
    assert [example["mask"][0].tolist() for example in source] == [[0, 15, 0, 15], [0, 3, 0, 3]]
    with pytest.raises(DataError, match=r"0\.gif is a coloured mask, but the label map knows integers only"):
        open_source(gifs(*masks, labels="0 background\n1 thing\n"))[0]
    assert rows(gifs(*masks, labels="0 0 0 background\n192 128 128 person\n0 128 0 bird\n128 128 0 boat\n")) == [
        [0, 1, 0, 1],
        [0, 3, 0, 3],
    ]
