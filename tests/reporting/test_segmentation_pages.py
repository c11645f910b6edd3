"""What a segmentation's evaluation keeps and shows, with a network that calls bright pixels cells."""

import dataclasses
import json

import numpy as np
import pytest

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.evaluating import evaluate_segmentation
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.reporting import pages, report_evaluation
from keras_cv_lectures.runners import Runner

NAMES = ("ground", "cell")
# Of each picture 6 x 8 the bright columns, and the labelled ones; None where no pixel is labelled.
COLUMNS = [(4, 4), (8, 0), (8, None), (4, 2), (0, 0)]
# IoU by hand, of ground and cell, of those that occur: 4/4, 4/4; 0/8, 0/8; nothing; 4/6, 2/4; 8/8.
IOU = [1.0, 0.0, np.nan, (2 / 3 + 1 / 2) / 2, 1.0]


def source_of(channels):
    def read(index):
        bright, labelled = COLUMNS[index]
        image, mask = np.full((6, 8, channels), 9, np.uint8), np.zeros((6, 8), np.int32)
        image[:, :bright] = 200
        mask[:, :labelled] = 255 if labelled is None else 1
        return {"image": image, "mask": mask, "image_id": f"p{index}"}

    ids, colors = tuple(f"p{i}" for i in range(len(COLUMNS))), ((0, 0, 0), (255, 0, 0))
    return Source(name="test", ids=ids, read=read, classes=NAMES, colors=colors)


def runner_of(channels):
    def run(images):
        bright = images[..., :1] > 100
        return {"probabilities": np.concatenate([~bright, bright], axis=-1).astype(np.float32)}

    shape = {"input_shape": (None, None, channels), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(system="unet", classes=NAMES), path=None, run=run, **shape)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_pictures_of_any_number_of_channels_are_shown(channels, tmp_path):
    source, runner = source_of(channels), runner_of(channels)
    report_evaluation(tmp_path, runner, source, evaluate_segmentation(runner, source), command="kcvl evaluate")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in text for name in ("p0", "p1", "p3", "p4"))


def test_examples_are_predicted_as_the_evaluation_was(tmp_path):
    """By a network that calls a window a cell where its mean is bright: another answer for every size of windows."""

    def run(images):
        bright = np.broadcast_to(images.mean((1, 2, 3), keepdims=True) > 100, (*images.shape[:3], 1))
        return {"probabilities": np.concatenate([~bright, bright], axis=-1).astype(np.float32)}

    source, runner = source_of(3).subset([0]), dataclasses.replace(runner_of(3), run=run)
    asked = {"tile": (6, 4), "margin": (0, 0), "stride": 2}
    evaluation = evaluate_segmentation(runner, source, **asked)
    assert evaluation.picture_iou == [1.0]  # The left window is bright, the right one is dark.
    report_evaluation(tmp_path, runner, source, evaluation)
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert [kept[name] for name in asked] == [[6, 4], [0, 0], 2]
    shown = "each picture&#x27;s own size; predicted in windows (tile 6x4, margin 0x0, stride 2)"
    assert shown in (tmp_path / "report.html").read_text(encoding="utf-8").replace("&#39;", "&#x27;")
    for found in (pages._evaluation_json(evaluation, source), kept):
        np.testing.assert_array_equal(pages._examples(runner, source, found)[0][0].prediction, source[0]["mask"])


def test_a_picture_without_labelled_pixels_has_no_score_and_is_no_example():
    source, runner = source_of(3), runner_of(3)
    evaluation = evaluate_segmentation(runner, source)
    np.testing.assert_allclose(evaluation.picture_iou, IOU)
    kept = pages._evaluation_json(evaluation, source)
    assert json.loads(json.dumps(kept, allow_nan=False))["picture_iou"][2] is None
    best, worst = pages._examples(runner, source, kept)
    assert [picture.caption for picture in best] == ["p0", "p4"]
    assert [picture.caption for picture in worst] == ["p1", "p3"]
