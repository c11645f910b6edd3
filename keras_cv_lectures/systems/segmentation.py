"""The systems of semantic segmentation.

An entry holds what is peculiar to the system; what all systems of the task share stands in `_segmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from keras_cv_lectures import losses, metrics
from keras_cv_lectures.evaluating import evaluate_segmentation
from keras_cv_lectures.preprocessing import training_batches, with_border_weights
from keras_cv_lectures.recipe import Recipe, Reference, TrainingOptions
from keras_cv_lectures.segmentation import (
    build_deconvnet,
    build_deeplab,
    build_fcn,
    build_fcn8s,
    build_fcn16s,
    build_fcn32s,
    build_segnet,
    build_unet,
    deeplab,
    fcn_vgg,
    unet,
)


def _segmentation(
    *, without_effect: Callable[[Mapping[str, Any]], Collection[str]] = lambda config: (), **fields: Any
) -> Recipe:
    """A recipe of semantic segmentation: what `fields` leave out is the same for all such systems.

    Args:
        without_effect: builder arguments -> those that the backbone among them has no use for.
    """

    def fit_config(
        config: Mapping[str, Any], options: TrainingOptions, source: Any, build: Any = None
    ) -> dict[str, Any]:
        """Drops what the recipe says of its own backbone where another one was chosen; the builder refuses the rest."""
        said = [fields[scale] for scale in ("config", "smoke", "demo")]
        unused = without_effect(config)
        return {
            name: value
            for name, value in config.items()
            if name not in unused or value not in [own[name] for own in said if name in own]
        }

    defaults = {
        "options": TrainingOptions(),
        "smoke_options": TrainingOptions(
            epochs=2, batch_size=2, input_size=(48, 64), warmup_epochs=0, learning_rate=5e-3
        ),
        "demo_options": TrainingOptions(epochs=12, batch_size=8, input_size=(96, 128), learning_rate=4e-3),
        "augmentation": {"flip": 0.5, "scale": (0.7, 1.5), "rotate": 10.0, "brightness": 0.2, "contrast": 0.2},
        "make_batches": training_batches,
        "keys": ("image", "mask", "weights"),
        "add_weights": _border_weights,
        "count_labels": _median_frequency,
        "unused": ("max_objects", "captions", "captions_per_picture", "min_count", "vocabulary", "min_visible"),
        "make_loss": _segmentation_loss,
        "make_metrics": lambda classes: [
            metrics.PixelAccuracy(classes),
            metrics.MeanIoU(classes),
            metrics.MeanDice(classes),
        ],
        "fit_config": fit_config,
        "evaluate": evaluate_segmentation,
        "agreement": lambda a, b: float(np.mean(a["class_map"] == b["class_map"])),
    }
    return Recipe(**{**defaults, **fields})


def _border_weights(source, options: TrainingOptions, class_weights: list[float] | None):
    # The paper adds the border term to the class weight, so that the map holds both, and the loss neither.
    return with_border_weights(source, class_weights=class_weights) if options.border_weights else source


def _median_frequency(source) -> np.ndarray:
    """SegNet's class weights: the median class frequency over each class's frequency."""
    classes = len(source.classes)
    counts, present = np.zeros(classes), np.zeros(classes)
    for example in source:
        mask = np.asarray(example["mask"])
        found = np.bincount(mask[(mask >= 0) & (mask < classes)], minlength=classes)
        counts += found
        present += (found > 0) * found.sum()
    return losses.median_frequency_weights(counts, present)


def _segmentation_loss(options: TrainingOptions, class_weights: list[float] | None):
    if options.border_weights:
        class_weights = None  # They are in the map.
    terms: Mapping[str, Any] = {
        "cross_entropy": lambda: losses.SegmentationCrossEntropy(
            class_weights=class_weights,
            label_smoothing=options.label_smoothing,
            normalize="pixels" if options.border_weights else "weights",
        ),
        "dice": losses.DiceLoss,
        "jaccard": losses.JaccardLoss,
        "focal": lambda: losses.FocalLoss(alpha=class_weights),
        "tversky": losses.TverskyLoss,
        "lovasz": losses.LovaszSoftmaxLoss,
    }
    chosen = [terms[name]() for name in options.loss.split("+")]
    return chosen[0] if len(chosen) == 1 else losses.WeightedSum(chosen)


# Where the paper's network needs pretrained weights to train at all, `config` is a narrower one that does not; the
# builders' own defaults are the papers' networks.
_VGG = {"filters": 32, "fc_filters": 512, "normalization": "batch"}
_SMALL_VGG = {"filters": 8, "convolutions": (1, 1, 1, 1, 1), "fc_filters": 32, "dropout": 0.0}
_SMALL_RESNET = {"backbone": "resnet14_v1_5", "dropout": 0.0}
_FCN = {
    "paper": "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015",
    "year": 2015,
    "url": "https://arxiv.org/abs/1411.4038",
}
_LARGE_FOV = {
    "config": {"filters": 32, "aspp_filters": 512, "normalization": "batch"},
    "smoke": {"filters": 8, "aspp_filters": 32, "dropout": 0.0},
    "demo": {"filters": 16, "aspp_filters": 128},
}
_STAGES = ("fcn32s", "fcn16s", "fcn8s")


def _fcn(stride: int, build, mean_iou: float, parameters: int, **fields: Any) -> Recipe:
    return _segmentation(
        name=f"fcn{stride}s",
        build=build,
        config=_VGG,
        smoke=_SMALL_VGG,
        demo={"filters": 16, "fc_filters": 128},
        without_effect=lambda config: fcn_vgg.without_effect(config.get("backbone", "vgg16")),
        reference=Reference(
            **_FCN,
            result=f"VOC 2011 validation (736 pictures, released weights): mean IoU {mean_iou}",
            parameters=parameters,
            parameters_of={"num_classes": 21, "variant": "paper"},
        ),
        **fields,
    )


def _deeplab(version: str, *, config: Mapping[str, Any], **fields: Any) -> Recipe:
    return _segmentation(
        name="deeplab" + version.replace("+", "plus"),
        build=build_deeplab,
        config={"version": version, **config},
        without_effect=lambda config: deeplab.without_effect(config["version"], config.get("backbone")),
        **fields,
    )


RECIPES: tuple[Recipe, ...] = (
    _fcn(
        32,
        build_fcn32s,
        63.6,
        134_346_581,
        summary="FCN-32s: a classifier made convolutional, its scores upsampled 32 times",
    ),
    _fcn(
        16,
        build_fcn16s,
        65.0,
        134_357_354,
        summary="FCN-16s: FCN-32s with the scores of pool4 added",
        stages=_STAGES[:2],
    ),
    _fcn(
        8,
        build_fcn8s,
        65.5,
        134_362_751,
        summary="FCN-8s: FCN-16s with the scores of pool3 added",
        stages=_STAGES,
    ),
    _segmentation(
        name="fcn",
        summary="FCN on a dilated ResNet, as torchvision trained it",
        build=build_fcn,
        config={},
        smoke=_SMALL_RESNET,
        demo=_SMALL_RESNET,
        reference=Reference(
            **_FCN,
            result="COCO validation, VOC classes (torchvision, ResNet-50): mean IoU 60.5, pixel accuracy 91.4",
            parameters=35_322_218,
            parameters_of={"num_classes": 21, "auxiliary": True},
        ),
    ),
    _segmentation(
        name="segnet",
        summary="SegNet: VGG-16 and its mirror, which unpools by the pooling indices",
        build=build_segnet,
        config={"filters": 32},
        smoke={"filters": 8},
        demo={"filters": 16},
        reference=Reference(
            paper="Badrinarayanan, Kendall, Cipolla: SegNet, PAMI 2017",
            year=2017,
            url="https://arxiv.org/abs/1511.00561",
            result="CamVid, 11 classes, 3433 training pictures: mean IoU 60.10, boundary F1 46.84",
            parameters=29_449_355,
            parameters_of={"num_classes": 11},
        ),
    ),
    _segmentation(
        name="deconvnet",
        summary="DeconvNet: VGG-16 down to one vector, unpooling and deconvolution back up",
        build=build_deconvnet,
        config={"filters": 32, "fc_filters": 512, "fc_kernel": 5},
        smoke={"filters": 8, "fc_filters": 64, "fc_kernel": 2},
        demo={"filters": 16, "fc_filters": 128, "fc_kernel": 3},
        reference=Reference(
            paper="Noh, Hong, Han: Learning Deconvolution Network for Semantic Segmentation, ICCV 2015",
            year=2015,
            url="https://arxiv.org/abs/1505.04366",
            result="VOC 2012 test: mean IoU 69.6; 72.5 as an ensemble with FCN-8s and a CRF",
            parameters=251_805_653,
            parameters_of={"num_classes": 21},
        ),
    ),
    _deeplab(
        "v1",
        summary="DeepLab-LargeFOV: VGG-16 with holes, one wide field of view",
        **_LARGE_FOV,
        reference=Reference(
            paper="Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab, ICLR 2015",
            year=2015,
            url="https://arxiv.org/abs/1412.7062",
            result="VOC 2012 validation: mean IoU 62.25, with the CRF 67.64",
            parameters=20_505_429,
            parameters_of={"num_classes": 21, "version": "v1"},
        ),
    ),
    _deeplab(
        "v2",
        summary="DeepLab v2: four atrous heads of different rates, summed (ASPP)",
        **_LARGE_FOV,
        reference=Reference(
            paper="Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab, PAMI 2018",
            year=2018,
            url="https://arxiv.org/abs/1606.00915",
            result="VOC 2012 validation (VGG-16, ASPP-L): mean IoU 68.96, with the CRF 71.57",
            parameters=37_877_652,
            parameters_of={"num_classes": 21, "version": "v2"},
        ),
    ),
    _deeplab(
        "v3",
        summary="DeepLab v3: a pyramid of atrous convolutions and of the whole picture, as torchvision trained it",
        config={},
        smoke={**_SMALL_RESNET, "aspp_filters": 32},
        demo={**_SMALL_RESNET, "aspp_filters": 64},
        reference=Reference(
            paper="Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution, 2017",
            year=2017,
            url="https://arxiv.org/abs/1706.05587",
            result="COCO validation, VOC classes (torchvision, ResNet-50): mean IoU 66.4, pixel accuracy 92.4",
            parameters=42_004_074,
            parameters_of={"num_classes": 21, "version": "v3", "auxiliary": True},
        ),
    ),
    _deeplab(
        "v3+",
        summary="DeepLab v3+: the pyramid of v3 with a decoder that takes a finer layer in",
        config={"backbone": "mobilenetv2"},
        smoke={**_SMALL_RESNET, "aspp_filters": 32, "decoder_filters": 32, "low_level_filters": 8},
        demo={**_SMALL_RESNET, "aspp_filters": 64, "decoder_filters": 64},
        reference=Reference(
            paper="Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Convolution, ECCV 2018",
            year=2018,
            url="https://arxiv.org/abs/1802.02611",
            result="VOC 2012 validation: mean IoU 78.85 (ResNet-101, output stride 16), 80.02 (modified Xception, 8); "
            "parameters with ResNet-50",
            parameters=26_696_133,
            parameters_of={"num_classes": 21, "version": "v3+"},
        ),
    ),
    _segmentation(
        name="unet",
        summary="U-Net: contracting and expanding path with concatenated skips",
        build=build_unet,
        config={"filters": 32},
        smoke={"filters": 8, "depth": 2},
        demo={"filters": 16, "depth": 3},
        without_effect=lambda config: unet.without_effect(config.get("backbone")),
        context=lambda config, options, names: unet.context_for(config),
        needs_one_size=lambda config: unet.context_for(config) is not None,
        reference=Reference(
            paper="Ronneberger, Fischer, Brox: U-Net, MICCAI 2015",
            year=2015,
            url="https://arxiv.org/abs/1505.04597",
            result="ISBI 2012: warping error 0.000353, Rand error 0.0382, pixel error 0.0611",
            parameters=31_030_658,
            parameters_of={"input_shape": (572, 572, 1), "num_classes": 2, "variant": "paper"},
        ),
    ),
)
