"""Which epoch of a curve is the best, if any."""

from __future__ import annotations

import pytest

from keras_cv_lectures.training.callbacks import Checkpoints
from keras_cv_lectures.visualize.curves import smaller_is_better, training_curves
from keras_cv_lectures.visualize.sections import training


@pytest.mark.parametrize("name", ["val_loss", "loss_mask", "cross_entropy", "reinforce", "mean_iou", "ap50", "bleu4"])
def test_curves_and_checkpoints_agree_on_what_is_better(tmp_path, name):
    falls = name not in ("mean_iou", "ap50", "bleu4")
    checkpoints = Checkpoints(tmp_path, monitor=f"val_{name.removeprefix('val_')}", seed=0)
    assert (smaller_is_better(name), checkpoints._falls()) == (falls, falls)


def test_a_value_without_meaning_has_no_best_epoch(monkeypatch):
    """REINFORCE's cost is there for its gradient: neither its smallest nor its largest value is good."""
    figures = []
    monkeypatch.setattr("keras_cv_lectures.visualize.curves._png", lambda figure: figures.append(figure) or b"")
    history = [{"val_reinforce": 0.5, "val_loss": 2.0}, {"val_reinforce": -0.5, "val_loss": 1.0}]
    training_curves(history, names=["reinforce", "loss"])
    reinforce, loss = figures[0].axes
    assert (reinforce.get_title(loc="right"), loss.get_title(loc="right")) == ("", "1 at epoch 2")
    assert (len(reinforce.lines), len(loss.lines)) == (1, 2)
    told = "".join(training([{"val_reinforce": 0.5}, {"val_reinforce": -0.5}]))
    assert "2 epochs, without validation" in told
