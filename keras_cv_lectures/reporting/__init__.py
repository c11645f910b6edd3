"""What happens around a run folder after training: scores, exports with their scores, the report page.

`evaluate_run` scores the best model and keeps the scores in the folder; `export_run` exports it, scores the file and
notes it there; `refresh_report` writes `report.html` from what the folder holds, with the confusion of a segmentation
or the average precision of a detector; `data_overview` shows the labelled objects of a data set. Paths that `run.json`
and `exports.json` keep hold from any working directory.
"""

from keras_cv_lectures.reporting.exports import MIN_CALIBRATION, export_run
from keras_cv_lectures.reporting.objects import DATA_SHEET, data_overview
from keras_cv_lectures.reporting.pages import REPORT, SCORES, evaluate_run, refresh_report, report_evaluation
from keras_cv_lectures.reporting.runs import (
    absolute_spec,
    open_numbered,
    record_seconds,
    run_of,
    training_source,
    validation_source,
)

__all__ = [
    "DATA_SHEET",
    "MIN_CALIBRATION",
    "REPORT",
    "SCORES",
    "absolute_spec",
    "data_overview",
    "evaluate_run",
    "export_run",
    "open_numbered",
    "record_seconds",
    "refresh_report",
    "report_evaluation",
    "run_of",
    "training_source",
    "validation_source",
]
