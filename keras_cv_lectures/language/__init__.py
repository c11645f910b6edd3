"""Language about pictures: captioners, their decoders and the search for a sentence.

>>> import keras_cv_lectures as kcvl
>>> model = kcvl.build_show_attend_tell((224, 224, 3), num_classes=len(vocabulary))  # doctest: +SKIP
>>> vocabulary.decode(model.predict(pictures)["tokens"][0])  # doctest: +SKIP
'a dog runs through the grass'
"""

from keras_cv_lectures.language.beam import beam_search, sample_words
from keras_cv_lectures.language.captioner import Captioner
from keras_cv_lectures.language.decoders import AttentionDecoder
from keras_cv_lectures.language.encoder import AppendPositions, AverageToGrid, caption_encoder
from keras_cv_lectures.language.plain_decoder import PlainDecoder
from keras_cv_lectures.language.recurrence import attention_lstm, attention_step
from keras_cv_lectures.language.search import CaptionSearch
from keras_cv_lectures.language.show_and_tell import build_show_and_tell
from keras_cv_lectures.language.show_attend_tell import build_show_attend_tell

__all__ = [
    "AppendPositions",
    "AttentionDecoder",
    "AverageToGrid",
    "CaptionSearch",
    "Captioner",
    "PlainDecoder",
    "attention_lstm",
    "attention_step",
    "beam_search",
    "build_show_and_tell",
    "build_show_attend_tell",
    "caption_encoder",
    "sample_words",
]
