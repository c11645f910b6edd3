"""The predictor: pictures in, class maps at each picture's own size out, from a model stored in whatever way.

`predict` decides the size that the network sees (see there), `predict_tiled` is the overlap-tile strategy for pictures
of any size in bounded memory, `SegmentationResult` is what a person gets to see and save.
"""

from keras_cv_lectures.predicting.averaged import predict_averaged
from keras_cv_lectures.predicting.pictures import picture_files
from keras_cv_lectures.predicting.predictor import predict
from keras_cv_lectures.predicting.result import SegmentationResult
from keras_cv_lectures.predicting.tiled import as_runner, predict_tiled, stream_tiles

__all__ = [
    "SegmentationResult",
    "as_runner",
    "picture_files",
    "predict",
    "predict_averaged",
    "predict_tiled",
    "stream_tiles",
]
