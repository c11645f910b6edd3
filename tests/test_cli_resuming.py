"""What the command line makes of `--set` words and of a run that is continued."""

from __future__ import annotations

import pytest

from kcvl import resuming, settings
from kcvl.parser import UsageError
from keras_cv_lectures.files import write_json
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.systems import SYSTEMS


def test_none_is_a_word_where_an_option_takes_words():
    def option(name, text):
        return getattr(settings.parse_settings(SYSTEMS["unet"], [f"{name}={text}"])[1], name)

    assert [option("class_weights", text) for text in ("none", "None")] == ["none", "none"]
    assert (option("input_size", "none"), option("cache_features", "none")) == (None, None)
    with pytest.raises(UsageError, match="`loss` must be a sum of .*Received: loss='none'"):
        option("loss", "none")


def test_epochs_at_which_the_rate_falls_have_words_of_their_own():
    def milestones(text):
        return settings.parse_settings(SYSTEMS["unet"], ["schedule=steps", f"milestones={text}"])[1].milestones

    assert [milestones(text) for text in ("4", "16x22", "4,6,8")] == [4, (16, 22), (4, 6, 8)]
    told = r"`milestones` takes one epoch or several in ascending order, such as 12, 16x22 or 4,6,8. Received: '4x6x8'"
    with pytest.raises(UsageError, match=told):
        milestones("4x6x8")


@pytest.mark.parametrize(
    ("epochs", "schedule", "told"),
    [
        (30, "cosine", "--set epochs=60 would go on, its learning rate raised again to that of epoch 31 of 60"),
        (8, "poly", "--set epochs=60 would go on, its learning rate raised again to that of epoch 31 of 60"),
        (8, "constant", "--set epochs=60 would go on"),
        (8, "steps", "--set epochs=60 would go on"),
    ],
)
def test_more_epochs_than_are_done_are_advised(tmp_path, epochs, schedule, told):
    """Also where fewer were asked for: as many again as these would be done already."""
    state = {"epochs_done": 30, "best": None, "monitor": "val_mean_iou", "seconds": 1.0, "history": []}
    write_json(tmp_path / "checkpoint/state.json", state)
    line = resuming.resumption(tmp_path, TrainingOptions(epochs=epochs, schedule=schedule, milestones=4))
    assert line == f"all 30 epochs are done already; {told}"
