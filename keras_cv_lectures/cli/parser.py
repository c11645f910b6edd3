"""Arguments of `kcvl`. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse

from keras_cv_lectures import __version__

SPEC_HELP = """data specifications (SPEC):
  shapes[:count=400,size=96x128,seed=0]      generated pictures, no files needed
  camvid:DIR[,split=val]                     CamVid as SegNet's authors lay it out: train/ trainannot/ val/ valannot/
  folder:IMAGES,MASKS[,labels=FILE][,list=FILE][,channels=1]
                                             a folder of pictures and a folder of masks of the same names
  voc:DIR[,split=val]                        Pascal VOC: JPEGImages/ SegmentationClass/ ImageSets/Segmentation/
  LIST is a text file of names, one a line; LABELS holds lines "value name red green blue".

MODEL is a run folder, a .keras file, a SavedModel folder or a .tflite file.
"""

EXAMPLES = """examples:
  kcvl demo
  kcvl doctor folder:photos,masks
  kcvl train unet --data folder:photos,masks --set epochs=40 --set input_size=180x240 --out runs/mine
  kcvl evaluate runs/mine --data folder:test/photos,test/masks
  kcvl predict runs/mine street.jpg --out predictions
  kcvl export runs/mine --format tflite --precision int8 --data folder:photos,masks --out runs/mine/exports
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `kcvl`; `command` names the chosen command."""
    parser = _Parser(
        prog="kcvl",
        description="Train, evaluate, run and export the vision systems that lectures teach, as Keras models.",
        epilog=f"{SPEC_HELP}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"keras_cv_lectures {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add(commands, "list", "the systems: paper, parameters, what is done")

    demo = _add(commands, "demo", "train, evaluate, export and predict on generated pictures, in about two minutes")
    demo.add_argument("--system", default="unet", help="which system (default: unet)")
    demo.add_argument("--out", help="run folder (default: saved_models/SYSTEM/demo-DATE)")

    doctor = _add(commands, "doctor", "examine data before training: labels, sizes, broken files; exit code 1 if bad")
    doctor.add_argument("data", metavar="SPEC")

    train = _add(commands, "train", "train a system")
    train.add_argument("system", metavar="SYSTEM", help="a name that `kcvl list` shows")
    train.add_argument("--data", required=True, metavar="SPEC", help="training data")
    train.add_argument(
        "--val", metavar="SPEC", help="validation data (default: the layout's own split, else the last 15 %% of --data)"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        dest="settings",
        help="option of the network (filters=32), of training (epochs=40, learning_rate=1e-3, input_size=180x240, "
        "loss=cross_entropy+dice, class_weights=median_frequency, precision=bfloat16, seed=1) or of augmentation "
        "(rotate=15, elastic=10, scale=0.5..2); repeat it. An unknown option lists all",
    )
    train.add_argument("--strategy", choices=("none", "mirrored", "multiworker"), default="none", help="tf.distribute")
    train.add_argument("--resume", action="store_true", help="continue where a stopped or killed run left off")
    train.add_argument("--out", required=True, metavar="DIR", help="run folder")

    evaluate = _add(commands, "evaluate", "score a model on labelled pictures")
    _model(evaluate)
    evaluate.add_argument("--data", required=True, metavar="SPEC", help="labelled pictures")
    evaluate.add_argument(
        "--original-size", action="store_true", help="compare at each picture's own size, not at the model's"
    )
    evaluate.add_argument("--out", metavar="DIR", help="write scores.json and a report page here")

    predict = _add(commands, "predict", "run a model on pictures or folders of pictures")
    _model(predict)
    predict.add_argument("paths", nargs="+", metavar="PATH", help="pictures, or folders of pictures")
    predict.add_argument("--out", required=True, metavar="DIR", help="where class maps and overlays go")
    predict.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="overlap-tile strategy: work at the picture's own resolution in windows of this side",
    )

    export = _add(commands, "export", "write a TFLite file or a SavedModel, checked against the model")
    _model(export)
    export.add_argument("--format", choices=("tflite", "saved_model"), default="tflite")
    export.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32")
    export.add_argument(
        "--data",
        metavar="SPEC",
        help="pictures: calibrate int8 and measure the file's score (default: the run's own training data)",
    )
    export.add_argument("--size", metavar="HxW", help="input size (default: the size the model was trained at)")
    export.add_argument("--dynamic", action="store_true", help="leave height and width open (float TFLite only)")
    export.add_argument("--out", required=True, metavar="DIR")

    benchmark = _add(commands, "benchmark", "time a system by every path it can be run: model, frozen, TFLite, int8")
    benchmark.add_argument("system", metavar="SYSTEM")
    benchmark.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", dest="settings")
    benchmark.add_argument("--size", default="256x256", metavar="HxW")
    benchmark.add_argument("--classes", type=int, default=2)
    benchmark.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7)")
    return parser


class _Parser(argparse.ArgumentParser):
    """A wrong command ends with the way to help, on one line, not with a page of usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _add(commands, name: str, summary: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=SPEC_HELP if name in ("doctor", "train", "evaluate", "export", "predict") else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="run folder, .keras, SavedModel folder or .tflite")
