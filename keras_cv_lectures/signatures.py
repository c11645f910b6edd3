"""Wrong arguments answered with the right ones."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras

# What users of other packages type, and what it is called here.
_KNOWN_AS = {
    "n_classes": "num_classes",
    "classes": "num_classes",
    "n_labels": "num_classes",
    "encoder_weights": "backbone_weights",
    "weights_backbone": "backbone_weights",
    "pretrained": "backbone_weights",
    "encoder_name": "backbone",
    "backbone_name": "backbone",
    "encoder": "backbone",
    "encoder_freeze": "freeze_backbone",
    "freeze_encoder": "freeze_backbone",
    "freeze": "freeze_backbone",
    "input_size": "input_shape",
    "image_size": "input_shape",
    "filter_num": "filters",
    "decoder_channels": "decoder_filters",
    "batchnorm": "normalization",
    "dropout_rate": "dropout",
}
# What users of other packages choose, and nobody has to here.
_NO_CHOICE = dict.fromkeys(
    ("activation", "classifier_activation", "output_activation"),
    "There is none to choose: segmentation networks give logits, of which prediction and exported files make "
    "probabilities.",
)

Builder = TypeVar("Builder", bound=Callable)


def explain_arguments(builder: Builder) -> Builder:
    """Makes `builder` answer an unknown keyword with the name this package uses.

    Raises:
        TypeError: for a keyword that `builder` does not have, naming the likely one and listing all.
    """
    parameters = inspect.signature(builder).parameters

    @functools.wraps(builder)
    def checked(*args, **kwargs):
        for keyword in kwargs:
            if keyword not in parameters:
                raise TypeError(
                    f"`{builder.__name__}` has no argument `{keyword}`.{_hint(keyword, parameters)} "
                    f"Its arguments: {', '.join(parameters)}."
                )
        return builder(*args, **kwargs)

    return checked


def _hint(keyword: str, parameters: Mapping[str, Any]) -> str:
    if keyword in _NO_CHOICE:
        return f" {_NO_CHOICE[keyword]}"
    # A known name that the builder has nothing for is no misspelling of another.
    near = [_KNOWN_AS[keyword]] if keyword in _KNOWN_AS else difflib.get_close_matches(keyword, parameters, 1)
    return f" Did you mean `{near[0]}`?" if near and near[0] in parameters else ""


def takes_also(other: Callable) -> Callable[[Builder], Builder]:
    """Decorator: the `**options` of a builder are the keyword-only arguments of `other`, and its signature says so."""

    def decorate(builder: Builder) -> Builder:
        own = [p for p in inspect.signature(builder).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {p.name for p in own}
        more = [
            p
            for p in inspect.signature(other).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in names
        ]
        builder.__signature__ = inspect.Signature([*own, *more])
        return builder

    return decorate


def check_task(input_shape: Any, num_classes: Any, *, background: str) -> None:
    """Looks at the two arguments that every builder of pictures and classes has.

    Args:
        background: what the message says of the background among the classes.

    Raises:
        ValueError: `input_shape` is not (height, width, known channels), `num_classes` < 1, or Keras is set to another
            order of axes.
    """
    check_axes()
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3 or not isinstance(input_shape[-1], int):
        raise ValueError(
            "`input_shape` must be (height, width, channels) with a known number of channels. "
            f"Received: input_shape={input_shape}. Use (None, None, 3) for pictures of any size."
        )
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be at least 1 ({background}). Received: num_classes={num_classes}")


def check_axes() -> None:
    """Raises ValueError where Keras is set to channels first, which layers would silently take height for."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Networks here have their channels last. Received: keras.config.image_data_format() == "
            f"{keras.config.image_data_format()!r}. Call keras.config.set_image_data_format('channels_last') first."
        )


def one_of(argument: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises ValueError, naming the argument and the choices, unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{argument}` must be one of {tuple(allowed)}. Received: {argument}={value!r}")


def refuse_given(given: Mapping[str, Any], places: Mapping[str, str], **chosen: Any) -> None:
    """Refuses arguments that would silently have no effect.

    Args:
        given: name -> value of at least the arguments in `places`; None is not given.
        places: name of an argument without effect here -> what it goes with.
        chosen: the arguments because of which they have none.

    Raises:
        ValueError: for the first that is given.
    """
    for name, place in places.items():
        if given[name] is not None:
            received = ", ".join(f"{key}={value!r}" for key, value in {name: given[name], **chosen}.items())
            raise ValueError(f"`{name}` goes with {place}. Received: {received}. Leave it out, or set it to None.")
