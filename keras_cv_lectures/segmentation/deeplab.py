"""DeepLab v1, v2, v3 and v3+: Chen, Papandreou, Kokkinos, Murphy, Yuille and others, 2014 to 2018.

What they share is atrous convolution: the backbone stops striding at 1/8 or 1/16 and dilates instead, and pyramids of
rates see objects at several sizes. The fully connected CRF of v1 and v2 is `keras_cv_lectures.postprocessing`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.backbones import resnet50_v1_5, resnet101_v1_5, resolve_backbone, warn_of_frozen_noise
from keras_cv_lectures.layers import ImageNormalization, ResizeCornersLike
from keras_cv_lectures.segmentation import deeplab_vgg
from keras_cv_lectures.segmentation.aspp import DECODERS, deeplab_v3_head, deeplab_v3plus_decoder
from keras_cv_lectures.segmentation.fcn import fcn_head
from keras_cv_lectures.segmentation.heads import (
    check_classifier_weights,
    class_scores,
    encoded,
    finished,
    logits_like,
    picture_input,
)
from keras_cv_lectures.signatures import explain_arguments, one_of, refuse_given

VERSIONS = ("v1", "v2", "v3", "v3+")
_BACKBONES = {"v1": "vgg16", "v2": "vgg16", "v3": "resnet50_v1_5", "v3+": "resnet50_v1_5"}
_OUTPUT_STRIDES = {"v1": 8, "v2": 8, "v3": 8, "v3+": 16}
_DROPOUT = {"v1": 0.5, "v2": 0.5, "v3": 0.5, "v3+": 0.1}
_SMP_DROPOUT = 0.5
_WITH_MULTI_GRID = {"resnet50_v1_5": resnet50_v1_5, "resnet101_v1_5": resnet101_v1_5}
# Networks that torchvision published, by backbone.
_PUBLISHED = {
    "resnet50_v1_5": "deeplabv3_resnet50",
    "resnet101_v1_5": "deeplabv3_resnet101",
    "mobilenetv3_large": "deeplabv3_mobilenet_v3_large",
}


@explain_arguments
def build_deeplab(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 21,
    *,
    version: str = "v3+",
    backbone: str | keras.Model | None = None,
    backbone_weights: str | None = None,
    freeze_backbone: bool = False,
    output_stride: int | None = None,
    rates: int | Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    image_pooling: bool | None = None,
    separable: bool | None = None,
    aspp_filters: int | None = None,
    decoder: str | None = None,
    decoder_filters: int | None = None,
    low_level_filters: int | None = None,
    filters: int | None = None,
    normalization: str | None = None,
    fc6_kernel_size: int | None = None,
    dropout: float | None = None,
    auxiliary: bool = False,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "deeplab",
) -> keras.Model:
    """DeepLab: atrous convolutions in the backbone and in the head; logits are scored first and enlarged then.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: logits (B, H, W, num_classes) float32; with `auxiliary` a dict {"logits": ..., "auxiliary": ...} of two.

    Paper: https://arxiv.org/abs/1802.02611 (v3+), https://arxiv.org/abs/1706.05587 (v3),
    https://arxiv.org/abs/1606.00915 (v2), https://arxiv.org/abs/1412.7062 (v1). Differs from the paper: "v3+" is
    the released code's head on torchvision's ResNet, whose stride is in the first unit of a stage; its convolutions
    begin as He et al. have it and its statistics have momentum 0.9 (released: truncated normals, 0.9997). "v3"
    is torchvision's network: another 3x3 convolution behind the pyramid, interpolation with half-pixel centres
    (the others: corner to corner); 42,004,074 parameters with ResNet-50, 21 classes and the auxiliary head. "v1"
    is LargeFOV (20,505,429 parameters), without the predictors that the paper's MSc attaches to earlier poolings.
    "v2" sums four such heads on VGG-16, four 3x3 convolutions on other backbones, without the paper's copies of the
    network for three scales of the picture (0.5, 0.75 and 1, the largest score of each place). Both are trained on
    logits of the picture's size, where the papers take every eighth label. "xception" is Chollet's network and not
    the modified aligned Xception-65 with which the paper of v3+ has its best results; on "mobilenetv2" the
    head sees 1280 channels and has atrous branches and a decoder, where the authors' model sees the 320 of layer 18
    and has neither.

    What is enlarged corner on corner is where it belongs if its first and last cell lie on the first and the
    last pixel: for pictures of 16 k + 1 pixels a side (8 k + 1 at output stride 8), such as 257, 321 or 513,
    on every backbone but the VGGs of `keras.applications`, whose poolings of 2x2 lie between pixels. At other
    sizes the last cell stands up to a stride before the end; on MobileNetV2, EfficientNet and Xception, which
    pad even sizes at the end only, it is the first one that stands off, and the pyramid and "c2" of v3+ are up
    to 12 pixels apart there. Prefer such sizes for `input_size` and `crop_size`.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        version: "v3+", "v3", "v2" or "v1".
        backbone: None for "vgg16" (v1, v2: the authors' own, with poolings of 3x3) or "resnet50_v1_5"; a name
            ("resnet101_v1_5", "mobilenetv3_large", "mobilenetv2", "xception", "resnet50"), or a model from picture to
            `{"c1": ..., "c5": ...}` (see `keras_cv_lectures.backbones`).
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a file. For v1 and v2 on
            VGG-16 a classifier with its top gives fc6 and fc7, too.
        freeze_backbone: the backbone (of v1 and v2: the own VGG-16 up to conv5_3) keeps its weights in training, and
            its batch normalisation is a constant. A model of one's own is frozen itself.
        output_stride: 8 or 16, stride of the last stage. None: 16 for v3+ and for v3 on MobileNetV3, else 8. A model
            as backbone has its own.
        rates: of the atrous convolutions of the head, a number or a list: one for v1, at least one for v2, () for none
            with v3 and v3+. None: 12 (v1); 6, 12, 18, 24 (v2); 6, 12, 18 at stride 16 and 12, 24, 36 at stride 8 and in
            torchvision's MobileNetV3 network.
        multi_grid: factors on the rates of the last stage, one a bottleneck, such as (1, 2, 4); with "resnet50_v1_5"
            and "resnet101_v1_5". None: all 1.
        image_pooling: whether the pyramid of v3 and v3+ has a branch for the mean over the picture. None: it has. In
            batches of one picture that mean is normalised with the moving statistics (see `SyncBatchNormalization`).
        separable: depthwise separable 3x3 convolutions in pyramid and decoder. None: for v3+.
        aspp_filters: channels of each branch of the pyramid (v3, v3+) or of fc6 and fc7 (v1, v2 on its
            own VGG-16; v2 on other backbones has neither). None: 256 or 1024.
        decoder: of v3+, "paper" (None) or "smp" (segmentation_models.pytorch: a convolution less at stride 4).
        decoder_filters: channels of the 3x3 convolutions of the decoder of v3+. None: 256.
        low_level_filters: channels that v3+ reduces "c2" to. None: 48.
        filters: channels of the first stage of the own VGG-16 of v1 and v2. None: 64. Other backbones have their own.
        normalization: of the own VGG-16 of v1 and v2 and of fc6 and fc7: "batch", "group", "layer" or None, as in the
            papers, whose networks start from pretrained weights; from random ones they hardly learn without.
        fc6_kernel_size: of v1, and of no other. None: 3; the paper also has 4 and 7 (rate 4, `aspp_filters=4096`).
        dropout: rate before the scores, which v2 on other backbones has not. None: 0.5; 0.1 for v3+ with the decoder of
            the paper.
        auxiliary: for v3 and v3+, a second head on "c4", whose loss torchvision adds with factor 0.5; for training, by
            `compile(loss={"logits": loss, "auxiliary": loss}, loss_weights={"logits": 1, "auxiliary": 0.5})` and
            `fit` with the targets `{"logits": masks, "auxiliary": masks}`.
        include_preprocessing: False to give the network pictures that are normalised already.
        weights: None, the path of a file of this network, or "torchvision/coco-voc" (v3, downloaded on this request); a
            head with another `num_classes` is left at its initial values, with a warning (of a `.weights.h5` file
            nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for an unknown option, options that exclude each other, an argument that has no effect on the
            version and backbone, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_deeplab((None, None, 3), num_classes=21, backbone="mobilenetv2")
    """
    one_of("version", version, VERSIONS)
    given = {
        "image_pooling": image_pooling,
        "separable": separable,
        "aspp_filters": aspp_filters,
        "decoder": decoder,
        "decoder_filters": decoder_filters,
        "low_level_filters": low_level_filters,
        "filters": filters,
        "normalization": normalization,
        "fc6_kernel_size": fc6_kernel_size,
        "dropout": dropout,
    }
    refuse_given(given, without_effect(version, backbone), version=version, backbone=backbone)
    decoder = decoder or DECODERS[0]
    one_of("decoder", decoder, DECODERS)
    backbone = _BACKBONES[version] if backbone is None else backbone
    own_vgg = _has_own_vgg(version, backbone)
    _check(version, backbone, own_vgg, output_stride, multi_grid, auxiliary)
    if own_vgg:
        check_classifier_weights(normalization, backbone_weights)
    image = picture_input(input_shape, num_classes)
    warn_of_frozen_noise(freeze_backbone, backbone, backbone_weights, weights)
    published = version == "v3" and backbone == "mobilenetv3_large"
    stride = output_stride or (16 if published else _OUTPUT_STRIDES[version])
    if rates is None:
        rates = _default_rates(version, stride, published)
    rates = (rates,) if isinstance(rates, int) else tuple(rates)
    _check_rates(rates, version)
    if dropout is None:
        dropout = _SMP_DROPOUT if decoder == "smp" else _DROPOUT[version]

    if own_vgg:
        x = ImageNormalization("ilsvrc12", name="normalize")(image) if include_preprocessing else image
        x = deeplab_vgg.vgg16_stride8(x, 64 if filters is None else filters, normalization)
        if freeze_backbone:
            keras.Model(image, x).trainable = False
        stages = {"c5": deeplab_vgg.pool5a(x) if version == "v1" else x}
    else:
        if multi_grid is not None:
            backbone = _WITH_MULTI_GRID[backbone](input_shape[-1], backbone_weights, stride, multi_grid)
            encoder, convention = backbone, "torch"
        else:
            by_name = {"output_stride": stride} if isinstance(backbone, str) else {}
            encoder, convention = resolve_backbone(backbone, input_shape[-1], backbone_weights, **by_name)
        x = ImageNormalization(convention, name="normalize")(image) if include_preprocessing else image
        stages = encoded(_named_backbone(encoder), x, freeze_backbone)

    pyramid = {
        "rates": rates,
        "image_pooling": image_pooling is None or image_pooling,
        "separable": version == "v3+" if separable is None else separable,
        "dropout": dropout,
    }
    classifier = {"filters": aspp_filters or 1024, "dropout": dropout, "normalization": normalization}
    if version == "v3":
        scores = deeplab_v3_head(stages["c5"], num_classes, filters=aspp_filters or 256, **pyramid)
    elif version == "v3+":
        decoded = deeplab_v3plus_decoder(
            stages,
            256 if decoder_filters is None else decoder_filters,
            aspp_filters=aspp_filters or 256,
            low_level_filters=48 if low_level_filters is None else low_level_filters,
            variant=decoder,
            **pyramid,
        )
        scores = class_scores(decoded, num_classes, name="segmentation_head.0")
    elif version == "v2" and own_vgg:
        scores = deeplab_vgg.aspp_of_classifiers(stages["c5"], num_classes, rates=rates, **classifier)
    elif version == "v2":
        scores = deeplab_vgg.aspp_of_scores(stages["c5"], num_classes, rates=rates)
    else:
        scores = deeplab_vgg.large_fov_head(
            stages["c5"], num_classes, rate=rates[0], kernel_size=fc6_kernel_size or 3, **classifier
        )

    outputs = _enlarged(scores, image, "logits", version)
    if auxiliary:
        # Torchvision's MobileNetV3 network looks at an earlier map.
        source = stages.get("aux", stages["c4"])
        scores = fcn_head(source, num_classes, dropout=min(dropout, 0.1), name="aux_classifier")
        outputs = {"logits": outputs, "auxiliary": _enlarged(scores, image, "auxiliary", version)}
    architecture = _PUBLISHED.get(backbone) if version == "v3" and isinstance(backbone, str) else None
    model = finished(image, outputs, name=name, weights=weights, architecture=architecture)
    if own_vgg and backbone_weights is not None and weights is None:
        deeplab_vgg.load_classifier(model, backbone_weights)
    return model


def without_effect(version: str, backbone: str | keras.Model | None) -> dict[str, str]:
    """Arguments of `build_deeplab` that this version has no use for on this backbone, each with what they go with."""
    own_vgg, places = _has_own_vgg(version, backbone), {}
    if not own_vgg:
        places["filters"] = "v1 and v2 on their own VGG-16; other backbones have their own"
        if version != "v1":
            places["normalization"] = "v1 and with v2 on its own VGG-16; other backbones bring theirs"
    if version == "v2" and not own_vgg:
        places |= dict.fromkeys(("aspp_filters", "dropout"), "the other versions, and with v2 on its own VGG-16")
    if version != "v1":
        places["fc6_kernel_size"] = "v1"
    if version != "v3+":
        places |= dict.fromkeys(("decoder", "decoder_filters", "low_level_filters"), "v3+")
    if version not in ("v3", "v3+"):
        places |= dict.fromkeys(("image_pooling", "separable"), "v3 and v3+")
    return places


def _has_own_vgg(version: str, backbone: str | keras.Model | None) -> bool:
    return version in ("v1", "v2") and (backbone is None or backbone == "vgg16")


def _enlarged(scores, image, name, version):
    """Scores at the picture's size: a twelfth of the work that enlarging the features before scoring would be."""
    if version == "v3":
        return logits_like(scores, image, name=name)
    scores = ResizeCornersLike(dtype="float32", name=f"{name}_resize")([scores, image])
    return logits_like(scores, image, "none", name=name)


def _named_backbone(encoder: keras.Model) -> keras.Model:
    """The same layers in a model called "backbone", as torchvision's weights begin."""
    return encoder if encoder.name == "backbone" else keras.Model(encoder.input, encoder.output, name="backbone")


def _default_rates(version: str, stride: int, published: bool) -> tuple[int, ...]:
    if version in ("v1", "v2"):
        return (12,) if version == "v1" else (6, 12, 18, 24)
    return (12, 24, 36) if stride == 8 or published else (6, 12, 18)


def _check(version, backbone, own_vgg, output_stride, multi_grid, auxiliary) -> None:
    if output_stride not in (None, 8, 16):
        raise ValueError(f"`output_stride` must be 8 or 16. Received: output_stride={output_stride!r}")
    if output_stride is not None and not isinstance(backbone, str):
        raise ValueError(
            f"`output_stride` goes with a backbone's name. Received: output_stride={output_stride} beside a model. "
            "Pass backbones.dilate(model, output_stride)."
        )
    if own_vgg and output_stride == 16:
        raise ValueError(
            f"`output_stride` must be 8 for {version} on its own VGG-16. Received: output_stride=16. Take another "
            "backbone, such as resnet50_v1_5."
        )
    if auxiliary and version in ("v1", "v2"):
        raise ValueError(f"`auxiliary` goes with v3 and v3+. Received: auxiliary=True, version={version!r}.")
    if multi_grid is not None and (not isinstance(backbone, str) or backbone not in _WITH_MULTI_GRID):
        raise ValueError(
            f"`multi_grid` goes with the backbones {tuple(_WITH_MULTI_GRID)}. Received: backbone={backbone!r}. Give a "
            "model of your own its rates before passing it."
        )


def _check_rates(rates, version) -> None:
    expected = {"v1": "one number", "v2": "at least one number"}.get(version)
    if (version == "v1" and len(rates) != 1) or (version == "v2" and not rates):
        raise ValueError(f"`rates` must be {expected} for {version}. Received: rates={rates}. None takes the paper's.")


__all__ = ["build_deeplab", "without_effect"]
