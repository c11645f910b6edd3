"""The predictor: pictures in, class maps, objects or captions out, in each picture's own pixels, from any kind of file.

`predict` decides the size that the network sees (see there), `predict_tiled` is the overlap-tile strategy for pictures
of any size in bounded memory; `SegmentationResult`, `DetectionResult` and `CaptionResult` are what a person gets to see
and save.
"""

from keras_cv_lectures.predicting.averaged import predict_averaged
from keras_cv_lectures.predicting.caption_result import CaptionResult
from keras_cv_lectures.predicting.captioning import vocabulary_of
from keras_cv_lectures.predicting.detection_result import SHOWN_SCORE, DetectionResult
from keras_cv_lectures.predicting.kinds import is_captioner, is_detector
from keras_cv_lectures.predicting.naming import output_names
from keras_cv_lectures.predicting.pictures import picture_files
from keras_cv_lectures.predicting.predictor import network_size, predict
from keras_cv_lectures.predicting.result import SegmentationResult
from keras_cv_lectures.predicting.tiled import TileSize, as_runner, predict_tiled, stream_tiles

__all__ = [
    "SHOWN_SCORE",
    "CaptionResult",
    "DetectionResult",
    "SegmentationResult",
    "TileSize",
    "as_runner",
    "is_captioner",
    "is_detector",
    "network_size",
    "output_names",
    "picture_files",
    "predict",
    "predict_averaged",
    "predict_tiled",
    "stream_tiles",
    "vocabulary_of",
]
