import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import has_splits, open_source
from keras_cv_lectures.data.specs import parse_spec, splits_of
from keras_cv_lectures.errors import DataError


@pytest.fixture
def camvid(tmp_path):
    for split, value in (("train", 0), ("val", 3)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
            array = np.full((4, 4) if folder.endswith("annot") else (4, 4, 3), value, np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{split}_1.png")
    return tmp_path


def test_shapes_have_defaults_and_options():
    assert len(open_source("shapes")) == 400
    assert open_source("shapes")[0]["image"].shape == (96, 128, 3)
    source = open_source("shapes:count=8,size=40x56,seed=3")
    assert len(source) == 8
    assert source[0]["mask"].shape == (40, 56)
    assert open_source("shapes:size=48")[0]["mask"].shape == (48, 48)
    assert not np.array_equal(source[0]["image"], open_source("shapes:size=40x56")[0]["image"])


def test_shapes_split_by_seed():
    train, val = (open_source("shapes:count=8,size=32", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert not {x["image"].tobytes() for x in train} & {x["image"].tobytes() for x in val}
    again = open_source("shapes:count=8,size=32,split=val", "train")
    np.testing.assert_array_equal(again[1]["image"], val[1]["image"])


def test_split_in_the_text_wins(camvid):
    assert open_source(f"camvid:{camvid}").ids == ("train_1",)
    assert open_source(f"camvid:{camvid}", "val").ids == ("val_1",)
    assert open_source(f"camvid:{camvid},split=val", "train").ids == ("val_1",)
    assert has_splits(f"camvid:{camvid}")
    assert not has_splits(f"camvid:{camvid},split=val")
    assert has_splits("shapes")
    assert not has_splits(f"folder:{camvid},{camvid}")
    assert splits_of(parse_spec(f"camvid:{camvid}")) == ("train", "val")


def test_folder_with_its_options(camvid, tmp_path):
    (tmp_path / "labels.txt").write_text("0 road\n3 car\n")
    (tmp_path / "list.txt").write_text("val_1\n")
    spec = f"folder:{camvid}/val,{camvid}/valannot,labels={tmp_path}/labels.txt,list={tmp_path}/list.txt,channels=1"
    source = open_source(spec)
    assert source.classes == ("road", "car")
    assert source[0]["image"].shape == (4, 4, 1)
    assert source[0]["mask"].max() == 1


def test_guessed_classes_of_training_hold_for_validation(camvid):
    Image.fromarray(np.array([[0, 5], [2, 1]], np.uint8)).resize((4, 4), 0).save(camvid / "trainannot" / "train_1.png")
    train = open_source(f"folder:{camvid}/train,{camvid}/trainannot")
    alone = open_source(f"folder:{camvid}/val,{camvid}/valannot")
    assert (len(train.classes), len(alone.classes)) == (6, 4)
    assert open_source(f"folder:{camvid}/val,{camvid}/valannot", like=train).classes == train.classes


def test_folder_without_kind_is_recognised(camvid, tmp_path):
    assert open_source(str(camvid), "val").ids == ("val_1",)
    pair = tmp_path / "pair"
    for name in ("image", "label"):
        (pair / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(pair / name / "a.png")
    assert open_source(str(pair)).ids == ("a",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coco:a.json,images", "a.json cannot be read"),
        ("coco:a.json", "2 path"),
        ("coco:a.json,.,split=val", "split= needs {split} in a path"),
        ("coco:a.json,.,masks=maybe", "masks must be yes or no, not 'maybe'"),
        ("vocboxes:.", "does not hold Pascal VOC boxes"),
        ("yolo:dir", "dir is not a folder"),
        ("yolo:.,seed=3", "'seed=3' is no option of 'yolo'"),
        ("instances:.,.,void=x", "void must be a whole number"),
        ("flickr:dir", "dir is not a folder"),
        ("flickr:.", "holds no captions"),
        ("flickr:.,labels=x", "'labels=x' is no option of 'flickr'; its options are split, channels"),
        ("cococaptions:a.json,.", "a.json cannot be read"),
        ("cococaptions:a.json", "2 path"),
        ("captions:a.csv,.", "a.csv cannot be read"),
        ("captions:a.csv,.,split=val", "split= needs {split} in a path"),
        ("csv:file", "'csv' is no known kind of data"),
        ("shapes:shapes=0", "shapes must be a whole number of at least 1"),
        ("shapes:clear=maybe", "clear must be yes or no, not 'maybe'"),
        ("cityscapes:dir", "leftImg8bit/train is not a folder"),
        ("cityscapesobjects:.", "leftImg8bit/train is not a folder"),
        ("cityscapes:.,list=x", "'list=x' is no option of 'cityscapes'"),
        ("pets:dir", "dir is not a folder"),
        ("pets:.", "does not hold the Oxford-IIIT Pet data"),
        ("petsboxes:.", "images/ and annotations/ are expected in it"),
        ("tfds:", "1 name"),
        ("tfds:x,seed=3", "'seed=3' is no option of 'tfds'"),
        ("imagenet:dir", "'imagenet' is no known kind"),
        ("/nowhere/at/all", "no folder with a layout"),
        ("", "no folder with a layout"),
        ("camvid:", "1 path"),
        ("folder:images", "2 path"),
        ("folder:a,b,c", "Commas separate options, so paths must not contain any"),
        ("camvid:dir,labels=x", "'labels=x' is no option of 'camvid'; its options are split"),
        ("shapes:count=0", "count must be a whole number of at least 1, not '0'"),
        ("shapes:count=many", "not 'many'"),
        ("shapes:size=4x5x6", "size must be HEIGHTxWIDTH"),
        ("shapes:split=test", "split must be train or val"),
        ("shapes:seed=1,seed=2", "seed is given twice"),
        ("folder:.,.,channels=4", "channels must be 1"),
        ("camvid:/nowhere", "no split 'train'"),
    ],
)
def test_errors_say_what_is_expected(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a_mask.png")
    with pytest.raises(DataError, match=message):
        open_source(spec)


def test_unsupported_kinds_come_with_examples_of_the_supported():
    with pytest.raises(DataError) as caught:
        open_source("video:x")
    for form in (
        "flickr:DIR",
        "captions:CSV,IMAGES",
        "shapes:count=400",
        "camvid:DIR",
        "folder:IMAGES,MASKS",
        "voc:DIR",
        "coco:JSON,IMAGES",
        "yolo:DIR",
        "cityscapes:DIR",
        "petsboxes:DIR",
        "tfds:NAME",
        "python:MODULE:FUNCTION",
    ):
        assert form in str(caught.value)


def test_splits_of_data_with_objects(tmp_path):
    spec = f"coco:{tmp_path}/{{split}}.json,{tmp_path}"
    assert splits_of(parse_spec(spec)) == ("train",)
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert splits_of(parse_spec(spec)) == ("train", "val")
    assert has_splits(spec)
    assert not has_splits(f"{spec},split=val")
    assert splits_of(parse_spec(f"coco:{tmp_path}/train.json,{tmp_path}")) == (None,)
    assert not has_splits(f"coco:{tmp_path}/train.json,{tmp_path}")


def test_classes_of_a_source_with_background_are_those_of_its_objects(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("5 0.5 0.5 1 1")
    shapes = open_source("shapes:count=1,size=32")
    assert open_source(f"yolo:{tmp_path}", like=shapes).classes == shapes.object_classes == shapes.classes[1:]
