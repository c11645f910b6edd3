"""Training: `train(recipe, source, ...)` is `model.fit` under a strategy, and knows no system.

A run folder holds `best.keras`, `last.keras` (models for inference), `run.json` (metadata and options), `history.csv`,
`train_ids.txt` and `checkpoint/` (what `resume` continues from).
"""

from keras_cv_lectures.training.features import cache_features
from keras_cv_lectures.training.loop import TrainingRun, train
from keras_cv_lectures.training.staged import train_staged
from keras_cv_lectures.training.strategies import STRATEGIES, make_strategy

__all__ = ["STRATEGIES", "TrainingRun", "cache_features", "make_strategy", "train", "train_staged"]
