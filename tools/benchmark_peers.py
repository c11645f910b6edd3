"""Networks: our serving paths and training step beside PyTorch and Keras alternatives, in one run.

    python tools/benchmark_peers.py [CASE ...] [--torch-python PYTHON] [--rounds 7] [--threads 2] [--only NAME ...]
    python tools/benchmark_peers.py fcn_resnet50 --train --torch-python PYTHON
    python tools/benchmark_peers.py unet segnet --torch-python PYTHON --json peers.json --plot peers.png

PYTHON is the interpreter of an environment with PyTorch, torchvision and segmentation_models_pytorch;
keras-unet-collection and keras-hub are looked for in the environment that runs this. Contenders take turns (see
`turns.py`); those that cannot be started are reported as missing with the reason, in the table, in the file of --json
and in the chart of --plot alike. All networks of a case have random weights and, but for KerasHub's, the same layers.
Ours take uint8 pictures and give logits, probabilities and class map (names in `_logits`: logits alone), the others
take normalised floats and give logits. --train times a training step at 256x256 in batches of 4 (SGD).

Detectors of random weights find nothing: their box deltas are zero here, and the score threshold is set so that about
400 boxes pass it, of which 100 come out, on both sides. Their training step has two pictures of 320x320 with five
objects each.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Turns, answer, take_turns

OURS = (
    "keras",
    "frozen",
    "frozen_logits",
    "saved_model",
    "saved_model_variables",
    "tflite",
    "tflite_logits",
    "tflite_int8",
    "tflite_int8_logits",
)
TORCH = ("torch_channels_last", "torch_compile_freeze", "torch_bfloat16")
# Keras packages that have such a network, and the case; they are looked for beside this package.
KERAS_PEERS = {"keras_unet_collection": "unet", "keras_hub_stride32": "deeplabv3plus_resnet50"}
TRAINING = ("keras_fit", "keras_fit_bfloat16", "torch_channels_last", "torch_bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """One network: picture size, number of classes, ours (in the namespace `kcvl`) and PyTorch's.

    `auxiliary` is whether a segmentation is trained with torchvision's second head, on both sides. That of MobileNetV3
    stands on another map than ours, and both sides go without.
    """

    size: tuple[int, int]
    classes: int
    ours: Callable[..., Any]
    torch: Callable[..., Any]
    detector: bool = False
    auxiliary: bool = False


def _torchvision(name: str):
    def build(classes: int, train: bool):
        from torchvision.models import segmentation

        make = getattr(segmentation, name)
        return make(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)

    return build


def _smp(classes: int, train: bool):
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=classes)


def _our_detector(name: str, **options):
    def build(kcvl, shape, classes, train: bool = False, **more):
        import numpy as np

        make = getattr(kcvl, f"build_{name}")
        if train:
            return make(shape, classes, **{"min_size": shape[0], "max_size": shape[0], **options, **more})
        from keras_cv_lectures.benchmarking.busy import busy_detector

        picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        settings = {"frozen_normalization": True, **options, **more}
        return busy_detector(lambda **score: make(shape, classes, **settings, **score), picture, passing=_PASSING)

    return build


def _torch_detector(name: str):
    def build(classes: int, train: bool, **more):
        import torch
        from torchvision.models import detection

        sizes = {**({"min_size": 320, "max_size": 320} if train else {}), **more}
        model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes + 1, **sizes)
        if train:
            return model
        with torch.no_grad():
            for part in (model.rpn.head, model.roi_heads.box_predictor):
                part.bbox_pred.weight.zero_()
                part.bbox_pred.bias.zero_()
        return model.eval()

    return build


_PASSING = 400
CASES = {
    "mask_rcnn": Case(
        (800, 1066), 90, _our_detector("mask_rcnn"), _torch_detector("maskrcnn_resnet50_fpn"), detector=True
    ),
    "faster_rcnn": Case(
        (800, 1066), 90, _our_detector("faster_rcnn"), _torch_detector("fasterrcnn_resnet50_fpn"), detector=True
    ),
    "faster_rcnn_mobilenet320": Case(
        (320, 426),
        90,
        # torchvision's builder has so many proposals at every size, ours for its two sizes alone.
        _our_detector(
            "faster_rcnn",
            backbone="mobilenetv3_large",
            min_size=320,
            max_size=640,
            rpn_pre_nms=(2000, 150),
            rpn_post_nms=(2000, 150),
        ),
        _torch_detector("fasterrcnn_mobilenet_v3_large_320_fpn"),
        detector=True,
    ),
    "unet": Case((512, 512), 2, lambda kcvl, shape, n, **_: kcvl.build_unet(shape, n), lambda n, train: _torch_unet(n)),
    "segnet": Case(
        (360, 480), 11, lambda kcvl, shape, n, **_: kcvl.build_segnet(shape, n), lambda n, train: _torch_segnet(n)
    ),
    "fcn_resnet50": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **heads: kcvl.build_fcn(shape, n, **heads),
        _torchvision("fcn_resnet50"),
        auxiliary=True,
    ),
    "deeplabv3_resnet50": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **heads: kcvl.build_deeplab(shape, n, version="v3", **heads),
        _torchvision("deeplabv3_resnet50"),
        auxiliary=True,
    ),
    "deeplabv3_mobilenet": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **_: kcvl.build_deeplab(shape, n, version="v3", backbone="mobilenetv3_large"),
        _torchvision("deeplabv3_mobilenet_v3_large"),
    ),
    "deeplabv3plus_resnet50": Case(
        (512, 512), 21, lambda kcvl, shape, n, **_: kcvl.build_deeplab(shape, n, version="v3+", decoder="smp"), _smp
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: unet)")
    parser.add_argument("--train", action="store_true", help="time a training step instead")
    parser.add_argument("--torch-python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG file for a chart of the results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(CASES))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; cases: {', '.join(CASES)}")
    if arguments.export:
        _export(CASES[arguments.cases[0]], arguments)
        return
    if arguments.worker:
        answer(lambda: _contender(arguments))
        return
    found = {case: _compare(case, arguments) for case in arguments.cases or ["unet"]}
    if arguments.json:
        _write_json(arguments.json, found, arguments)
    if arguments.plot:
        _write_plot(arguments.plot, found, arguments)


def _compare(case: str, arguments) -> dict[str, Turns]:
    names = TRAINING if arguments.train else (*OURS, *(name for name, of in KERAS_PEERS.items() if of == case), *TORCH)
    print(f"{case}{', training step' if arguments.train else ''}")
    commands, absent = {}, {}
    for name in names:
        python = arguments.torch_python if name.startswith("torch") else sys.executable
        if arguments.only and name not in arguments.only:
            continue
        if python is None:
            absent[name] = Turns(missing="no --torch-python was given")
            print(f"  {name:24s} missing: {absent[name].missing}", flush=True)
            continue
        commands[name] = [python, "-W", "ignore", __file__, case, "--worker", name, f"--threads={arguments.threads}"]
        commands[name] += ["--train"] if arguments.train else []
    return {**take_turns(commands, arguments.rounds, arguments.threads), **absent}


def _write_json(path: Path, found: dict[str, dict[str, Turns]], arguments) -> None:
    """Seconds of every call and peak memory of every contender, and why some are missing."""
    from keras_cv_lectures.files import write_json

    rows = [
        {"case": case, "contender": name, **dataclasses.asdict(turns)}
        for case, contenders in found.items()
        for name, turns in contenders.items()
    ]
    settings = {"train": arguments.train, "rounds": arguments.rounds, "threads": arguments.threads}
    write_json(path, {"cores": os.cpu_count(), "settings": settings, "rows": rows})


def _write_plot(path: Path, found: dict[str, dict[str, Turns]], arguments) -> None:
    from keras_cv_lectures.benchmarking.results import short_number
    from keras_cv_lectures.files import atomic_path
    from keras_cv_lectures.visualize import Bar, bars

    def bar(name: str, turns: Turns) -> Bar:
        if turns.missing:
            return Bar(name, None, "missing")
        return Bar(name, 1000 * turns.median, f"{short_number(1000 * turns.median, 3)} ms, {turns.megabytes:.0f} MB")

    title = ", training step" if arguments.train else ""
    panels = {case + title: [bar(*item) for item in contenders.items()] for case, contenders in found.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(bars(panels, unit="ms"))


def _contender(arguments) -> Callable[[], object]:
    case = CASES[arguments.cases[0]]
    if arguments.worker.startswith("torch"):
        return _torch(case, arguments)
    return _keras_training(case, arguments) if arguments.train else _tensorflow(case, arguments)


def _tensorflow(case: Case, arguments):
    import tempfile

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    shape = (*case.size, 3)
    picture = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    if arguments.worker in KERAS_PEERS:
        peer = {"keras_unet_collection": _unet_collection, "keras_hub_stride32": _keras_hub}[arguments.worker](
            shape, case.classes
        )
        function = tf.function(lambda x: peer(x, training=False), autograph=False)
        batch = tf.constant(picture.astype("float32"))
        return lambda: function(batch).numpy()

    import keras_cv_lectures as kcvl

    if arguments.worker.startswith(("frozen", "keras")):
        model = our_model(case, logits=arguments.worker.endswith("_logits"))
        runner = kcvl.load_runner(model, optimize=arguments.worker.startswith("frozen"))
        return lambda: runner(picture)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.tflite" if "tflite" in arguments.worker else "saved_model")
        # In a process of its own: what it takes to export is no part of what it takes to serve.
        command = [sys.executable, "-W", "ignore", __file__, *arguments.cases, "--worker", arguments.worker]
        subprocess.run([*command, "--export", str(path)], check=True, stdout=subprocess.DEVNULL)
        runner = kcvl.load_runner(path, threads=arguments.threads)
    return lambda: runner(picture)


def _unet_collection(shape, classes):
    from keras_unet_collection import models

    filters = [64 * 2**k for k in range(5)]
    options = {"batch_norm": True, "pool": True, "unpool": False, "output_activation": None}
    return models.unet_2d(shape, filters, n_labels=classes, **options)


def _keras_hub(shape, classes):
    """KerasHub's DeepLabV3+ as its documentation builds it: it has no output stride of 16, so its last stage has a
    quarter of the others' work, and it scores at the picture's size."""
    from keras_hub import models

    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=shape,
    )
    backbone = models.DeepLabV3Backbone(
        image_encoder=encoder,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        image_shape=shape,
    )
    return models.DeepLabV3ImageSegmenter(backbone, classes)


def our_model(case: Case, *, logits: bool):
    """Our model with random weights, which gives its scores alone or all that is served."""
    import keras

    import keras_cv_lectures as kcvl
    from keras_cv_lectures.benchmarking.busy import with_offsets

    model = case.ours(kcvl, (*case.size, 3), case.classes)
    if not case.detector:  # Busy detectors have them.
        model = with_offsets(model)
    if not logits:
        return model
    # Under another name an output is given as it is.
    scores = keras.layers.Activation("linear", dtype="float32", name="scores")(model.output)
    return keras.Model(model.input, scores)


def _export(case: Case, arguments) -> None:
    import numpy as np

    import keras_cv_lectures as kcvl
    from keras_cv_lectures.exporting import tflite

    model = our_model(case, logits=arguments.worker.endswith("_logits"))
    if arguments.worker.startswith("saved_model"):
        constant = not arguments.worker.endswith("variables")
        kcvl.export_saved_model(model, arguments.export, verify=False, constant_weights=constant)
        return
    precision = "int8" if "int8" in arguments.worker else "float32"
    # The ranges of one picture make a bad file that is as fast as a good one; 100 would take minutes to measure.
    tflite.MIN_EXAMPLES = 1
    noise = np.random.default_rng(0).integers(0, 256, (*case.size, 3), np.uint8)
    pictures = [noise] if precision == "int8" else None
    kcvl.export_tflite(model, arguments.export, precision=precision, representative=pictures, verify=False)


def _keras_training(case: Case, arguments):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_cv_lectures as kcvl

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    if arguments.worker.endswith("bfloat16"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (4, 256, 256, 3)).astype("float32")
    labels = random.integers(0, case.classes, (4, 256, 256)).astype("int32")
    if case.detector:
        return _detector_step(case, random)
    model, targets, options = our_segmentation(case, kcvl, (256, 256, 3), labels)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), jit_compile=False, **options)
    return lambda: model.train_on_batch(pictures, targets)


def our_segmentation(case: Case, kcvl, shape, labels):
    """(our model to train, targets, what it is compiled with)."""
    loss = kcvl.losses.SegmentationCrossEntropy
    if not case.auxiliary:
        return case.ours(kcvl, shape, case.classes), labels, {"loss": loss()}
    options = {"loss": {"logits": loss(), "auxiliary": loss()}, "loss_weights": {"logits": 1.0, "auxiliary": 0.5}}
    model = case.ours(kcvl, shape, case.classes, auxiliary=True)
    return model, {"logits": labels, "auxiliary": labels}, options


def torch_network(case: Case, train: bool, **more):
    """PyTorch's network of random weights, with the heads that `case` has."""
    model = case.torch(case.classes, train, **more)
    if hasattr(model, "aux_classifier") and not (train and case.auxiliary):
        model.aux_classifier = None
    return model


def _detector_step(case: Case, random):
    import keras
    import numpy as np

    import keras_cv_lectures as kcvl

    pictures = random.integers(0, 256, (2, 320, 320, 3)).astype("float32")
    boxes = np.array([[[40 * i + 10, 30 * i + 10, 40 * i + 90, 30 * i + 100] for i in range(5)]] * 2, "float32")
    targets = {
        "boxes": boxes,
        "labels": random.integers(0, case.classes, (2, 5)).astype("int32"),
        "masks": np.ones((2, 5, 56, 56), "uint8"),
        "mask_windows": boxes,
    }
    model = case.ours(kcvl, (320, 320, 3), case.classes, train=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), jit_compile=False)
    return lambda: model.train_on_batch(pictures, targets)


def _torch_detector_step(model, case: Case, precision):
    import torch

    pictures = [torch.rand(3, 320, 320) for _ in range(2)]
    boxes = torch.tensor([[40.0 * i + 10, 30.0 * i + 10, 40.0 * i + 90, 30.0 * i + 100] for i in range(5)])
    masks = torch.zeros(5, 320, 320, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    targets = [{"boxes": boxes, "labels": torch.randint(1, case.classes, (5,)), "masks": masks} for _ in pictures]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad()
        with precision():
            loss = sum(model(pictures, targets).values())
        loss.backward()
        optimizer.step()

    return step


def _torch(case: Case, arguments):
    import torch

    torch.set_num_threads(arguments.threads)
    bfloat16 = arguments.worker.endswith("bfloat16")

    def precision():
        return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    model = torch_network(case, arguments.train).to(memory_format=torch.channels_last)
    if arguments.train and case.detector:
        return _torch_detector_step(model.train(), case, precision)
    if arguments.train:
        x = torch.rand(4, 3, 256, 256).to(memory_format=torch.channels_last)
        labels = torch.randint(case.classes, (4, 256, 256))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

        def step():
            optimizer.zero_grad()
            with precision():
                loss = torch_segmentation_loss(model(x), labels)
            loss.backward()
            optimizer.step()

        return step

    model.eval()
    x = torch.rand(1, 3, *case.size).to(memory_format=torch.channels_last)
    if case.detector:
        # A detector takes a list of pictures. Its threshold: the score of the box that shall be the last to pass.
        x, heads = [x[0]], model.roi_heads
        wanted, masks = heads.detections_per_img, heads.mask_roi_pool
        # Without masks: pasting hundreds into the picture would take more memory than anything that is measured.
        heads.score_thresh, heads.detections_per_img, heads.mask_roi_pool = 0.0, _PASSING, None
        with torch.inference_mode():
            heads.score_thresh = float(model(x)[0]["scores"][-1])
        heads.detections_per_img, heads.mask_roi_pool = wanted, masks
    if arguments.worker == "torch_compile_freeze":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model)

    def run():
        with torch.no_grad() if arguments.worker == "torch_compile_freeze" else torch.inference_mode(), precision():
            return model(x)

    return run


def torch_segmentation_loss(outputs, labels):
    """Cross entropy of a PyTorch network, with half of that of its auxiliary head where it has one."""
    from torch.nn.functional import cross_entropy

    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    loss = cross_entropy(outputs["out"].float(), labels)
    return loss + 0.5 * cross_entropy(outputs["aux"].float(), labels) if "aux" in outputs else loss


def _double(inputs: int, outputs: int, convolutions: int = 2):
    from torch import nn

    layers = []
    for c in (inputs, *(outputs,) * (convolutions - 1)):
        layers += [nn.Conv2d(c, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _torch_unet(classes: int, filters: int = 64):
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self, filters: int):
            super().__init__()
            sizes = [filters * 2**k for k in range(5)]
            self.down = nn.ModuleList(_double(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
            pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
            self.decode = nn.ModuleList(_double(i, o) for i, o in pairs)
            self.score = nn.Conv2d(filters, classes, 1)

        def forward(self, x):
            skips = []
            for block in self.down[:-1]:
                x = block(x)
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
            x = self.down[-1](x)
            for up, decode, skip in zip(self.up, self.decode, reversed(skips), strict=True):
                x = decode(torch.cat([skip, up(x)], dim=1))
            return self.score(x)

    return UNet(filters)


def _torch_segnet(classes: int):
    from torch import nn

    class SegNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths, counts = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
            self.encode = nn.ModuleList(_double(i, o, n) for i, o, n in zip((3, *widths), widths, counts, strict=False))
            # The last convolution of a decoder block narrows to the next one's width.
            narrow = (64, 64, 128, 256, 512)
            self.decode = nn.ModuleList(
                nn.Sequential(_double(w, w, n - 1), _double(w, o, 1))
                for w, o, n in zip(widths[:0:-1], narrow[:0:-1], counts[:0:-1], strict=True)
            )
            self.last = nn.Sequential(_double(64, 64, 1), nn.Conv2d(64, classes, 3, padding=1))

        def forward(self, x):
            places = []
            for block in self.encode:
                x = block(x)
                size = x.shape[2:]
                x, index = nn.functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
                places.append((index, size))
            for block in (*self.decode, self.last):
                index, size = places.pop()
                x = block(nn.functional.max_unpool2d(x, index, 2, output_size=size))
            return x

    return SegNet()


if __name__ == "__main__":
    main()
