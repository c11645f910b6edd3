"""`kcvl evaluate`: a model on labelled pictures, whether it gives classes of pixels, objects or captions."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from kcvl.parser import UsageError
from kcvl.terminal import Progress, next_steps, quiet, quoted, say, wrote
from kcvl.text import count_text, scores_table
from keras_cv_lectures.data import Source, open_source
from keras_cv_lectures.data.spec_text import CAPTION_KINDS, MIXED_KINDS, OBJECT_KINDS, parse_spec
from keras_cv_lectures.data.trained_on import count_trained_on
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import (
    CaptionEvaluation,
    DetectionEvaluation,
    Evaluation,
    evaluate_captioning,
    evaluate_detection,
    evaluate_segmentation,
)
from keras_cv_lectures.predicting import (
    SHOWN_SCORE,
    CaptionResult,
    DetectionResult,
    is_captioner,
    is_detector,
    predict,
)
from keras_cv_lectures.reporting import REPORT, SCORES, open_numbered, report_evaluation, run_of
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.systems import SYSTEMS

AnyEvaluation = CaptionEvaluation | DetectionEvaluation | Evaluation
_TILES = ("tile", "margin", "stride")


def run_evaluate(arguments: argparse.Namespace, out: Path | None) -> int:
    """Scores a model and says how good it is, and writes that to `out`. Returns the exit code."""
    with quiet():
        runner = load_runner(arguments.model)
        source = open_labelled(runner, arguments.data)
        seen = count_trained_on(run_of(arguments.model), source)
        with Progress("evaluating") as progress:
            evaluation = _evaluation(runner, source, arguments, progress)
        if out:
            command = quoted("kcvl", *arguments.words)
            report_evaluation(out, runner, source, evaluation, command=command)
    say(scores_table(evaluation.scores, getattr(evaluation, "constant", None)))
    say(_summary(evaluation, source))
    if seen:
        say(f"Note: {seen} of these pictures were trained on; their scores say nothing about new pictures.")
    if out:
        wrote(out / SCORES, out / REPORT)
    next_steps(f"{quoted('kcvl', 'predict', arguments.model)} PICTURE --out predictions")
    return 0


def open_labelled(runner: Runner, spec: str) -> Source:
    """Pictures with masks or boxes that mean what the model's classes mean, or with captions.

    A file without its card has no class names: see `open_numbered`.
    """
    check_data_fits(is_detector(runner), spec, captioner=is_captioner(runner))
    source = open_source(spec, split="val", like=runner.metadata if runner.metadata.classes else None)
    check_source_fits(source, spec, is_detector(runner), is_captioner(runner))
    if runner.metadata.classes:
        return source
    if parse_spec(spec).kind in (*OBJECT_KINDS, *CAPTION_KINDS) or is_detector(runner) or is_captioner(runner):
        return source
    return open_numbered(spec, source, len(predict(runner, source[0]["image"]).classes))


def check_data_fits(detector: bool | None, spec: str, *, captioner: bool | None = None) -> None:
    """Refuses masks of classes for a detector, boxes for a segmentation and so on before anything is read.

    Args:
        detector: whether the model is one; None where it is not known yet.
        spec: of the data.
        captioner: the same of captioners.

    Raises:
        DataError: they do not go together, or `spec` is no specification.
    """
    kind = parse_spec(spec).kind
    if captioner:
        if kind not in (*CAPTION_KINDS, *MIXED_KINDS):
            raise DataError(
                f"a captioner learns and gives sentences, but {spec} has none. Give flickr:DIR, "
                "cococaptions:JSON,IMAGES or captions:CSV,IMAGES."
            )
        return
    if captioner is False and kind in CAPTION_KINDS:
        needed = "boxes of objects, such as coco:JSON,IMAGES" if detector else "masks of classes: folder:IMAGES,MASKS"
        raise DataError(f"{spec} has captions, which are for captioners. This model needs {needed}.")
    if detector and kind not in (*OBJECT_KINDS, *MIXED_KINDS):
        same = {"voc": "vocboxes:DIR", "cityscapes": "cityscapesobjects:DIR", "pets": "petsboxes:DIR"}
        boxes = same.get(kind, "coco:JSON,IMAGES, vocboxes:DIR, yolo:DIR or instances:IMAGES,MASKS")
        raise DataError(
            f"a detector learns and finds objects, but {spec} has masks of classes instead of boxes. Give {boxes}."
        )
    if detector is False and kind in OBJECT_KINDS:
        raise DataError(
            f"a segmentation gives a class for every pixel, but {spec} has boxes of objects. Give masks of classes: "
            "folder:IMAGES,MASKS, camvid:DIR or voc:DIR."
        )


def check_source_fits(source: Source, spec: str, detector: bool | None, captioner: bool | None) -> None:
    """Refuses data without examples, and does what `check_data_fits` does for those that tell only when opened.

    Raises:
        DataError: they are empty, do not hold what the model learns from, or cannot be read.
    """
    if len(source) == 0:
        raise DataError(f"{source.name} has no examples. Check the path, the list file and the split.")
    if parse_spec(spec).kind not in MIXED_KINDS or (detector is None and captioner is None):
        return
    needed = "captions" if captioner else "boxes" if detector else "mask"
    held = [key for key in source[0] if key not in ("image", "image_id")]
    if needed not in held:
        task = "a captioner" if captioner else "a detector" if detector else "a segmentation"
        raise DataError(
            f"{task} needs {needed!r} in every example, but those of {source.name} hold {', '.join(held) or 'nothing'} "
            "beside the picture. Choose other data."
        )


def _evaluation(runner: Runner, source: Source, arguments: argparse.Namespace, progress: Progress) -> AnyEvaluation:
    recipe = SYSTEMS.get(runner.metadata.system)
    detector, captioner = is_detector(runner), is_captioner(runner)
    if detector is None:
        first = predict(runner, source[0]["image"])
        detector, captioner = isinstance(first, DetectionResult), isinstance(first, CaptionResult)
    if captioner:
        reason = "is not for captioners; this model describes pictures in words"
        _refuse(arguments, ("score", "original_size", *_TILES), reason)
        evaluate = recipe.evaluate if recipe else evaluate_captioning
        return evaluate(runner, source, progress=progress)
    if not detector:
        if arguments.score is not None:
            raise UsageError("--score is for detectors; this model gives a class for every pixel.")
        evaluate = recipe.evaluate if recipe else evaluate_segmentation
        settings = {name: getattr(arguments, name) for name in ("original_size", *_TILES)}
        return evaluate(runner, source, progress=progress, **settings)
    reason = "is for masks of classes; objects are compared in the picture's own pixels"
    _refuse(arguments, ("original_size", *_TILES), reason)
    evaluate = recipe.evaluate if recipe else evaluate_detection
    score = SHOWN_SCORE if arguments.score is None else arguments.score
    return evaluate(runner, source, score_threshold=score, progress=progress)


def _refuse(arguments: argparse.Namespace, options: Iterable[str], reason: str) -> None:
    for option in options:
        value = getattr(arguments, option)
        if value is not None and value is not False:
            raise UsageError(f"--{option.replace('_', '-')} {reason}.")


def _summary(evaluation: AnyEvaluation, source: Source) -> str:
    pictures, seconds = count_text(evaluation.pictures, "picture"), f"in {evaluation.seconds:.1f} s"
    if isinstance(evaluation, CaptionEvaluation):
        constant = f"the best constant caption is “{evaluation.constant_caption}”; " if evaluation.constant else ""
        return (
            f"{pictures} of {source.name} with {count_text(evaluation.references, 'reference')}; {constant}"
            f"{count_text(evaluation.distinct, 'different caption')}, {seconds}"
        )
    if isinstance(evaluation, DetectionEvaluation):
        return (
            f"{pictures} of {source.name} with {count_text(evaluation.objects, 'object')}, "
            f"{count_text(evaluation.detections, 'detection')} with a score of at least "
            f"{evaluation.score_threshold:g}, {seconds}"
        )
    at = "each picture's own size" if evaluation.size is None else "{}x{} pixels".format(*evaluation.size)
    return f"{pictures} of {source.name}, compared at {at}, {seconds}"
