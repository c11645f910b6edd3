"""ResNet v1.5: torchvision's numbers, names and rates."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures import backbones
from keras_cv_lectures.weights.torchvision import load_torch, to_torch_state


def _rates(model) -> dict[str, int]:
    return {layer.name: layer.dilation_rate[0] for layer in model.layers if layer.name.endswith("conv2")}


@pytest.mark.golden
@pytest.mark.parametrize("case", ["model_fcn_narrow", "model_deeplabv3_narrow"])
def test_dilated_stages_are_those_of_torchvision(golden, case):
    arrays, _ = golden(case)
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}

    def count(stage):
        return len({key.split(".")[2] for key in state if key.startswith(f"backbone.layer{stage}.")})

    model = backbones.resnet_v1_5(
        [count(stage) for stage in range(1, 5)],
        [len(state[f"backbone.layer{stage}.0.conv1.weight"]) for stage in range(1, 5)],
        stem=len(state["backbone.conv1.weight"]),
        output_stride=8,
    )
    load_torch(model, state, prefix="backbone.")
    stages = model(arrays["in/x"].transpose(0, 2, 3, 1))
    for stage, layer in (("c4", "layer3"), ("c5", "layer4")):
        expected = arrays[f"mid/{layer}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(stages[stage], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_convolution_that_lost_its_stride_keeps_the_old_rate():
    narrow = {"units": (1, 1, 2, 3), "planes": (4, 4, 4, 4), "stem": 4}
    assert _rates(backbones.resnet_v1_5(**narrow, output_stride=8)) == {
        "layer1.0.conv2": 1,
        "layer2.0.conv2": 1,
        "layer3.0.conv2": 1,
        "layer3.1.conv2": 2,
        "layer4.0.conv2": 2,
        "layer4.1.conv2": 4,
        "layer4.2.conv2": 4,
    }
    gridded = _rates(backbones.resnet_v1_5((1, 1, 1, 3), (4, 4, 4, 4), stem=4, output_stride=16, multi_grid=(1, 2, 4)))
    assert [gridded[f"layer4.{unit}.conv2"] for unit in range(3)] == [1, 4, 8]


def test_dilate_gives_the_network_that_the_builder_dilates():
    narrow = {"units": (1, 1, 2, 2), "planes": (3, 4, 5, 6), "stem": 4}
    plain = backbones.resnet_v1_5(**narrow)
    built = backbones.resnet_v1_5(**narrow, output_stride=8)
    built.set_weights(plain.get_weights())
    x = np.random.default_rng(0).normal(size=(1, 41, 66, 3)).astype("float32")
    for stage, value in backbones.dilate(plain, 8)(x).items():
        np.testing.assert_array_equal(value, built(x)[stage])


def test_parameters_of_the_published_networks():
    def bottlenecks(units):
        total, before = 7 * 7 * 3 * 64 + 2 * 64, 64
        for count, planes in zip(units, (64, 128, 256, 512), strict=True):
            for unit in range(count):
                total += before * planes + 9 * planes**2 + 4 * planes**2 + 2 * (planes + planes + 4 * planes)
                total += before * 4 * planes + 2 * 4 * planes if unit == 0 else 0
                before = 4 * planes
        return total

    # With the classifier of a thousand classes: 25,557,032 and 44,549,160.
    assert bottlenecks((3, 4, 6, 3)) + 2049 * 1000 == 25_557_032
    assert bottlenecks((3, 4, 23, 3)) + 2049 * 1000 == 44_549_160
    narrow = backbones.resnet_v1_5((1, 1, 1, 2), (4, 8, 16, 32), stem=4)
    names = {key.rsplit(".", 1)[0] for key in to_torch_state(narrow)}
    # conv1, bn1; six layers a bottleneck; two of each projection.
    assert len(names) == 2 + 6 * 5 + 2 * 4
    assert {"conv1", "bn1", "layer1.0.downsample.0", "layer1.0.downsample.1", "layer4.1.bn3"} <= names


def test_a_torch_file_loads_by_name_and_its_first_kernel_adapts():
    source = backbones.resnet_v1_5((1, 1, 1, 1), (3, 3, 3, 3), stem=3)
    grey = backbones.resnet_v1_5((1, 1, 1, 1), (3, 3, 3, 3), stem=3, channels=1)
    load_torch(grey, {**to_torch_state(source), "fc.weight": np.zeros((2, 12)), "fc.bias": np.zeros(2)})
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype("float32")
    expected = np.asarray(source(np.repeat(x, 3, axis=-1))["c5"])
    np.testing.assert_allclose(grey(x)["c5"], expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_saved_and_reloaded_exactly(tmp_path):
    model = backbones.resnet_v1_5((1, 1, 1, 2), (3, 3, 3, 3), stem=3, output_stride=8)
    model.save(tmp_path / "resnet.keras")
    again = keras.saving.load_model(tmp_path / "resnet.keras")
    x = np.random.default_rng(0).normal(size=(1, 33, 40, 3)).astype("float32")
    np.testing.assert_array_equal(again(x)["c5"], model(x)["c5"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "`output_stride` must be one of"),
        ({"units": (1, 1, 1)}, "four numbers"),
        ({"multi_grid": (1, 2)}, "3 positive numbers"),
        ({"multi_grid": (2, 2, 2)}, "must begin with 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        backbones.resnet_v1_5(**options)
