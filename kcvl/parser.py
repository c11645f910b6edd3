"""Arguments of `kcvl`. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import importlib.metadata

SPEC_HELP = """data specifications (SPEC):
  shapes[:count=400,size=96x128,seed=0]      generated pictures, no files needed; shapes=3: at most so many in a
                                             picture, clear=yes: only pictures whose caption is beyond doubt
  camvid:DIR[,split=val]                     CamVid as SegNet's authors lay it out: train/ trainannot/ val/ valannot/
  folder:IMAGES,MASKS[,labels=FILE][,list=FILE][,channels=1]
                                             a folder of pictures and a folder of masks of the same names
  voc:DIR[,split=val][,labels=FILE]          Pascal VOC: JPEGImages/ SegmentationClass/ ImageSets/Segmentation/
  cityscapes:DIR[,split=val]                 Cityscapes: leftImg8bit/ gtFine/; 19 classes, of labelIds or labelTrainIds
  pets:DIR[,split=test]                      Oxford-IIIT Pet: images/ annotations/trimaps/ annotations/trainval.txt
  coco:JSON,IMAGES[,masks=no]                objects as COCO describes them: boxes, masks, keypoints
  vocboxes:DIR[,split=val]                   objects as Pascal VOC does: Annotations/*.xml JPEGImages/ ImageSets/Main/
  yolo:DIR[,split=val]                       objects as YOLO does: a text file of boxes or outlines for each picture
  instances:IMAGES,MASKS[,class=NAME]        objects by masks: a picture of their numbers, or a folder of one file each
  cityscapesobjects:DIR[,split=val]          the persons and vehicles of Cityscapes, one by one
  petsboxes:DIR                              the heads of Oxford-IIIT Pet: annotations/xmls/*.xml
  flickr:DIR[,split=val]                     Flickr8k, Flickr30k: pictures, captions.txt or token file, lists of splits
  cococaptions:JSON,IMAGES                   COCO's captions
  captions:CSV,IMAGES                        any table of a picture's path and a caption, one caption a row
  tfds:NAME[,dir=DIR][,split=train[:80%]][,mask=FEATURE][,objects=FEATURE][,captions=FEATURE][,download=yes]
                                             prepared by tensorflow-datasets (pip install 'keras_cv_lectures[data]')
  python:MODULE:FUNCTION[,split=val]         what your own function returns; docs/own_reader.md is a complete program
  DIR                                        a folder with one of these layouts, or with images/ and masks/
  list=FILE is a text file of picture names, one a line, and chooses those pictures (this is how a folder is split).
  labels=FILE says what the mask values mean, one class a line: "VALUE NAME", "VALUE NAME RED GREEN BLUE" or, for
  coloured masks, "RED GREEN BLUE NAME"; "ignore VALUE" leaves pixels out. Without it the values are guessed, and you
  are told how. 255 is ignored, except in masks of 0 and 255 alone.
  Masks of classes are for segmentations, objects for detectors, captions for captioners; shapes, tfds and python may
  hold any of them. In the paths of coco, instances, cococaptions and captions, {split} stands for train and val.
  labels=FILE of objects is one name a line.
"""

MODEL_HELP = """MODEL is a run folder (its best.keras), a .keras file, a SavedModel folder or a .tflite file.
"""

EXIT_HELP = """exit codes: 0 done; 1 the data, the model or the machine is at fault; 2 the command was not understood.
"""

EXAMPLES = """examples:
  kcvl demo
  kcvl doctor folder:photos,masks
  kcvl train unet --data folder:photos,masks --set epochs=40 --set input_size=180x240 --out runs/mine
  kcvl evaluate runs/mine --data folder:test/photos,test/masks
  kcvl predict runs/mine street.jpg --out predictions
  kcvl export runs/mine --format tflite --precision int8 --out runs/mine/exports
"""

_DOCTOR = """examples:
  kcvl doctor folder:photos,masks
  kcvl doctor folder:photos,masks,labels=labels.txt
  kcvl doctor camvid:CamVid
"""

_VOCAB = """examples:
  kcvl vocab --data flickr:flickr8k --out vocabulary.txt
  kcvl vocab --data cococaptions:captions_{split}2017.json,{split}2017 --min-count 5 --size 10000 --out vocabulary.txt

Writes one word a line; the number of the line, from 0, is the word's id. The first four are padding, start, end and
unknown; the rest follows by falling frequency. Of data with splits the training split is taken.
"""

_TRAIN = """examples:
  kcvl train unet --data folder:photos,masks --out runs/mine
  kcvl train unet --data folder:photos,masks,list=train.txt --val folder:photos,masks,list=val.txt --out runs/mine
  kcvl train unet --data camvid:CamVid --set input_size=180x240 --set class_weights=median_frequency --out runs/camvid
  kcvl train unet --data folder:cells,masks,channels=1 --set crop_size=256x256 --set elastic=10 --out runs/cells
  kcvl train fcn8s --data camvid:CamVid --set input_size=180x240 --staged --out runs/fcn
  kcvl train unet --data folder:photos,masks --resume --set epochs=80 --out runs/mine
  kcvl train mask_rcnn --data coco:cells.json,photos --set evaluate_every=1 --set keep_best=val_ap50 --out runs/cells

input size: pictures are resized to input_size. Without it segmentations take their own size (the most frequent one),
shrunk to 512 pixels on the longer side; with crop_size alone they keep their own size, and random windows of them are
trained on. Detectors fit pictures into 320x320, captioners resize them to 224x224; crop_size takes windows of that.

--resume takes the settings of the run, and its --val; what --set gives is changed, and the network cannot be changed.
The run folder holds best.keras (chosen on the validation data), last.keras, history.csv, run.json and report.html.
best.keras is chosen by keep_best, of a detector by default by val_loss. evaluate_every=1 measures its average precision
after every epoch (val_ap, val_ap50, val_mask_ap50, ...), by which keep_best can choose, too.
"""

_EVALUATE = """examples:
  kcvl evaluate runs/mine --data folder:test/photos,test/masks
  kcvl evaluate runs/mine/exports/unet_int8.tflite --data camvid:CamVid --out scores/int8
  kcvl evaluate runs/cells --data coco:test.json,test/photos

Of data with splits the validation split is taken; camvid:DIR,split=train takes another.
Where a segmentation works at one size, pictures and masks are brought to it and compared there; --original-size brings
the prediction to each picture's own size instead, --tile predicts and compares at that size. A detector needs data with
boxes (coco, vocboxes, yolo, instances) and is compared in each picture's own pixels: average precision of boxes, and of
masks and keypoints where both sides have them. COCO's numbers need pycocotools (pip install 'keras_cv_lectures[coco]').
"""

_PREDICT = """examples:
  kcvl predict runs/mine street.jpg --out predictions
  kcvl predict runs/mine/exports/unet_int8.tflite photos more_photos/a.png --out predictions
  kcvl predict runs/cells slice.tif --tile 512 --out predictions
  kcvl predict runs/deeplab large.tif --tile 512 --margin 64 --out predictions
  kcvl predict faster_rcnn.tflite street.jpg --score 0.3 --out predictions

Writes NAME_classes.png (a palette PNG: its values are the labels) and NAME_overlay.png for each picture, at the
picture's own size. A detector writes NAME_overlay.png with the objects drawn, and NAME_objects.json, which lists them
as COCO does: boxes, scores, masks as run-length codes, keypoints. A captioner writes NAME_caption.png, the picture
with its sentence, or where the network looked for each word, and NAME_caption.json with the words and their numbers.
Pictures of other than 1 and 3 channels are arrays (height, width, channels) of uint8, as numpy.save writes them: .npy.
--tile works in overlapping windows, whose margin and stride are read from the model, or from the card beside a file.
They are not resized: where training shrank the pictures to its input_size, train with crop_size alone instead, or the
network sees another scale than it learned.
Networks whose view has no bound (DeepLab, squeeze-and-excitation) need --margin: 64 or more hides the seams.
Pictures of one name are told apart by their folders' names. A picture that cannot be read, or that the model fails on,
is skipped and named; the exit code is then 1.
"""

_EXPORT = """examples:
  kcvl export runs/mine --out runs/mine/exports
  kcvl export runs/mine --precision int8 --out runs/mine/exports
  kcvl export runs/mine --precision int8 --data folder:photos,masks --size 256x256 --out exports
  kcvl export runs/mine --format saved_model --out runs/mine/exports

int8 needs at least 100 pictures to measure how large the activations get: those the run was trained on, or --data.
A run that was trained on crops alone (crop_size) keeps the pictures' own resolution: its file sees larger pictures in
overlapping windows of --size. Pictures of --data in the run's training folder that it was trained on are not scored.
With --dynamic the file takes any size, but kcvl still resizes pictures to the training's input_size, unless it is given
--tile.
The file is put in place only if it agrees with the model; a model card (JSON and Markdown) lies beside it.
"""

_BENCHMARK = """examples:
  kcvl benchmark unet --size 512x512 --set filters=64
  kcvl benchmark unet segnet --size 180x240 --classes 11 --repeats 20 --out speed
  kcvl benchmark all --scale demo --threads 1 --out speed
  kcvl benchmark mask_rcnn --set min_size=800 --set max_size=1333 --paths frozen saved_model tflite_int8

Paths: predict (model.predict), call (compiled), frozen, saved_model, tflite_float32, tflite_float16, tflite_int8,
bfloat16 (compiled, under the policy mixed_bfloat16), training (a step of the trainer). Each is a process of its own;
in every round each has one call. One that cannot be run is listed as missing, with the reason.
The GFLOP/s are compared with those of a product of float32 matrices in the same rounds on the same threads; memory is
the most that the whole process held. All processes of a system are there at the same time. Detectors work at the size
of the picture unless told otherwise (min_size), with about 400 boxes to choose from; a captioner's call goes from the
picture to a sentence of full length, by beam search.
"""


class UsageError(ValueError):
    """The command's words are at fault: exit code 2."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `kcvl`; `command` names the chosen command."""
    parser = _Parser(
        prog="kcvl",
        description="Train, evaluate, run and export the vision systems that lectures teach, as Keras models.",
        epilog=f"{EXAMPLES}\n{SPEC_HELP}\n{MODEL_HELP}\n{EXIT_HELP}\n`kcvl COMMAND --help` says more about each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add(commands, "list", "the systems: paper, year, parameters")

    demo = _add(commands, "demo", "train, evaluate, export and predict on generated pictures, in a few minutes")
    demo.add_argument(
        "--system", default="unet", metavar="SYSTEM", help="a name that `kcvl list` shows (default: unet)"
    )
    demo.add_argument("--out", metavar="DIR", help="run folder (default: saved_models/SYSTEM/demo-DATE)")

    doctor = _add(
        commands, "doctor", "examine data before training: labels, sizes, broken files; exit code 1 if bad", _DOCTOR
    )
    doctor.add_argument("data", metavar="SPEC", help="the data, see below")

    vocab = _add(commands, "vocab", "write the words of captions as a vocabulary", _VOCAB)
    vocab.add_argument("--data", required=True, metavar="SPEC", help="data with captions, see below")
    vocab.add_argument(
        "--min-count", type=_positive, default=5, metavar="N", help="leave out words that occur less often (default: 5)"
    )
    vocab.add_argument(
        "--size", type=_positive, metavar="N", help="the most words, the four first ones included (default: no limit)"
    )
    vocab.add_argument("--out", required=True, metavar="FILE", help="text file to write, one word a line")

    train = _add(commands, "train", "train a system and write a run folder", _TRAIN)
    train.add_argument("system", metavar="SYSTEM", help="a name that `kcvl list` shows")
    train.add_argument("--data", required=True, metavar="SPEC", help="training data, see below")
    train.add_argument(
        "--val",
        metavar="SPEC",
        help="validation data (default: the layout's own split, else the last 15 %% of --data, of pets of each breed)",
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
    train.add_argument(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="one device; all GPUs of this machine; the machines that TF_CONFIG names (default: none)",
    )
    train.add_argument(
        "--staged",
        action="store_true",
        help="train the coarser networks of the paper first, each starting the next (fcn8s: 32s, 16s, 8s); every "
        "stage gets a run folder in --out",
    )
    train.add_argument("--resume", action="store_true", help="continue where a stopped or killed run left off")
    train.add_argument("--out", required=True, metavar="DIR", help="run folder")

    evaluate = _add(commands, "evaluate", "score a model on labelled pictures", _EVALUATE)
    _model(evaluate)
    evaluate.add_argument("--data", required=True, metavar="SPEC", help="labelled pictures, see below")
    evaluate.add_argument(
        "--original-size", action="store_true", help="compare at each picture's own size, not at the model's"
    )
    _tiles(evaluate)
    _score(evaluate, "of detectors: detections below it are not counted (average precision counts all); default: 0.5")
    evaluate.add_argument("--out", metavar="DIR", help="write scores.json and report.html here")

    predict = _add(commands, "predict", "run a model on pictures or folders of pictures", _PREDICT)
    _model(predict)
    predict.add_argument("paths", nargs="+", metavar="PATH", help="pictures, .npy arrays, or folders of pictures")
    predict.add_argument("--out", required=True, metavar="DIR", help="where class maps, objects and overlays go")
    _tiles(predict)
    _score(predict, "of detectors: objects below it are neither drawn nor listed (default: 0.5)")

    export = _add(commands, "export", "write a TFLite file or a SavedModel, checked against the model", _EXPORT)
    export.add_argument("model", metavar="MODEL", help="run folder or .keras file")
    export.add_argument("--format", choices=("tflite", "saved_model"), default="tflite", help="default: tflite")
    export.add_argument(
        "--precision", choices=("float32", "float16", "int8"), default="float32", help="of a TFLite file"
    )
    export.add_argument(
        "--data",
        metavar="SPEC",
        help="pictures: calibrate int8 and measure the file's score (default: the run's own data)",
    )
    export.add_argument("--size", metavar="HxW", help="input size (default: the size the model was trained at)")
    export.add_argument(
        "--dynamic",
        action="store_true",
        help="leave height and width open (not for int8, nor for TFLite files of detectors and captioners)",
    )
    export.add_argument(
        "--low-memory",
        action="store_true",
        help="of a SavedModel: weights as variables, a third of the memory for large networks",
    )
    export.add_argument("--out", required=True, metavar="DIR", help="where the file or folder and its card go")

    benchmark = _add(
        commands, "benchmark", "time systems by every path they can be run: model, frozen, TFLite, training", _BENCHMARK
    )
    benchmark.add_argument(
        "systems", nargs="+", metavar="SYSTEM", help="names that `kcvl list` shows, or all for every one"
    )
    benchmark.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        dest="settings",
        help="option of the network, such as filters=64; repeat it",
    )
    benchmark.add_argument(
        "--scale",
        choices=("default", "demo", "smoke"),
        default="default",
        help="the network that `kcvl train` takes, that of `kcvl demo`, or that of the tests (default: default)",
    )
    benchmark.add_argument("--size", default="256x256", metavar="HxW", help="of the picture (default: 256x256)")
    benchmark.add_argument(
        "--classes",
        type=_positive,
        metavar="N",
        help="of a captioner its words (default: those of the published network)",
    )
    benchmark.add_argument("--threads", type=_positive, default=2, metavar="N", help="that compute (default: 2)")
    benchmark.add_argument(
        "--batch", type=_positive, default=2, metavar="N", help="pictures of a training step (default: 2)"
    )
    benchmark.add_argument("--repeats", type=_positive, default=7, metavar="N", help="timed rounds (default: 7)")
    benchmark.add_argument("--paths", nargs="+", metavar="PATH", help="measure these only, see below")
    benchmark.add_argument("--out", metavar="DIR", help="write benchmark.json, benchmark.md and benchmark.png here")
    return parser


class _Version(argparse.Action):
    """Looks the version up when it is asked for: a folder of sources works without being installed."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            version = importlib.metadata.version("keras_cv_lectures")
        except importlib.metadata.PackageNotFoundError:
            from keras_cv_lectures import __version__ as version
        print(f"keras_cv_lectures {version}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """A wrong command ends with the way to help, on one line, not with a page of usage."""

    def parse_args(self, args=None, namespace=None):
        arguments, rest = self.parse_known_args(args, namespace)
        if rest:
            command = arguments.command
            message = f"{self.prog} {command}: {' '.join(rest)} is not understood. {_hint(command, rest)}"
            self.exit(2, f"{message}See `{self.prog} {command} --help`.\n")
        return arguments

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _hint(command: str, rest: list[str]) -> str:
    """What a person who wrote the words `rest` too many may have meant."""
    first = rest[0]
    if not first.startswith("-"):
        return "Join or quote what belongs together: no blank after a comma or around =, 'folder:my photos,masks'. "
    if command not in ("train", "benchmark"):
        return ""
    name, _, value = first.lstrip("-").replace("-", "_").partition("=")
    value = value or (rest[1] if len(rest) > 1 and not rest[1].startswith("-") else "VALUE")
    return f"Options of networks and training are given with --set: --set {name}={value}. "


def _add(commands, name: str, summary: str, examples: str = "") -> argparse.ArgumentParser:
    parts = [examples]
    if name in ("doctor", "vocab", "train", "evaluate", "export"):
        parts.append(SPEC_HELP)
    if name in ("evaluate", "predict"):
        parts.append(MODEL_HELP)
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="\n".join(part for part in parts if part) or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="run folder, .keras, SavedModel folder or .tflite")


def _tiles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="PIXELS",
        help="overlap-tile strategy: work at the picture's own resolution in windows of this side, or auto",
    )
    parser.add_argument(
        "--margin",
        type=_whole,
        metavar="PIXELS",
        help="of --tile: pixels at the edge of every window that are not used (default: what the model or the card of "
        "its file says)",
    )
    parser.add_argument(
        "--stride", type=_positive, metavar="PIXELS", help="of --tile: windows lie a multiple of it apart (the same)"
    )


def _score(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--score", type=_share, metavar="S", help=text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to 1 is expected, not {text!r}")
    return value


def _positive(text: str) -> int:
    return _whole(text, lowest=1)


def _whole(text: str, lowest: int = 0) -> int:
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"a whole number of at least {lowest} is expected, not {text!r}")
    return int(text)


def _tile(text: str) -> int | str:
    return text if text == "auto" else _positive(text)
