"""The model zoo's page has the recorded numbers and no others, and the runs behind it survive what fails."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from kcvl.parser import make_parser
from kcvl.settings import parse_settings
from keras_cv_lectures.data import open_source
from keras_cv_lectures.systems import SYSTEMS


@pytest.fixture(scope="module")
def tools():
    """The two programs, which import a third by its name alone, as programs beside each other do."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(ROOT / "tools")
    import model_zoo
    import train_zoo
    import zoo_records

    yield SimpleNamespace(page=model_zoo, train=train_zoo, records=zoo_records)
    for name in ("model_zoo", "train_zoo", "zoo_records"):
        del sys.modules[name]
    patch.undo()


def _card(**more):
    card = {
        "gflops": 0.125,
        "parameters": 54321,
        "input": {"image": {"dtype": "uint8", "shape": [1, 40, 56, 3]}},
        "file_size": 7_650_000,
        "latency_ms": {"1": 12.34, "2": 6.78},
        "max_difference": 3.5e-6,
        "label_agreement": 0.9987,
        "metrics": {"mean_iou": 0.4444, "pixel_accuracy": 0.9},
        "metrics_data": "shapes seed 5",
    }
    return json.dumps({**card, **more})


@pytest.fixture
def runs(tmp_path):
    """A folder with one run, of a U-Net: three files were exported, one failed."""
    folder = tmp_path / "runs" / "some run"
    for sub in ("unseen", "exports/saved", "predictions"):
        (folder / sub).mkdir(parents=True)
    run = {
        "system": "unet",
        "input_size": [40, 56],
        "config": {"filters": 6, "depth": 2},
        "parameters": 54321,
        "options": {"steps_per_epoch": 17, "batch_size": 4},
        "seconds": 96.0,
        "machine": "riscv64, 3 CPUs",
        "versions": {"keras": "99.5"},
        "data": "shapes:count=40",
        "command": "kcvl train unet --data shapes:count=40 --out '/some where/zoo/unet'",
    }
    scores = {"mean_iou": 0.4321, "pixel_accuracy": 0.8765, "boundary_f1": 0.2468, "per_class": []}
    files = {
        "run.json": json.dumps(run),
        "train_ids.txt": "a\nb\nc\n",
        "history.csv": "epoch,loss\n1,0.5\n2,0.4\n",
        "evaluation.json": json.dumps({"data": "shapes seed 4", "scores": {"mean_iou": 0.99}}),
        "unseen/scores.json": json.dumps({"data": "shapes seed 5", "scores": scores, "pictures": 11}),
        "published.json": json.dumps({"size": [572, 572, 1], "gflops": 300.857}),
        "failures.json": json.dumps({"tflite float16": "ModelError: /some/where/unet.tflite | differs\n  a lot"}),
        "exports/f.json": _card(),
        "exports/i.json": _card(file_size=1980, latency_ms={"1": 3.0}, max_difference=0.25, metrics_data="others"),
        "exports/saved/model_card.json": _card(latency_ms={"2": 5.67}, label_agreement=None),
        "exports/saved/saved_model.pb": "",
        "exports.json": json.dumps(
            {
                "rows": [
                    {"file": "exports/f.tflite", "format": "tflite", "precision": "float32"},
                    {"file": "exports/i.tflite", "format": "tflite", "precision": "int8"},
                    {"file": "exports/saved", "format": "saved_model", "precision": "float32"},
                    {"file": "exports/gone.tflite", "format": "tflite", "precision": "float16"},
                ]
            }
        ),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    picture = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    Image.fromarray(picture).save(folder / "predictions" / "p_overlay.png")
    return tmp_path / "runs"


def _sections(page: str) -> dict[str, str]:
    title, *rest = re.split(r"^## (.*)\n", page, flags=re.M)
    return {"": title, **dict(zip(rest[::2], rest[1::2], strict=True))}


def test_the_page_has_the_recorded_numbers_and_no_others(tools, runs, tmp_path, capsys):
    page = tmp_path / "docs" / "zoo.md"
    assert tools.page.main([str(runs), "--page", str(page)]) == 0
    assert f"1 of {len(SYSTEMS)} systems were run" in capsys.readouterr().out
    sections = _sections(page.read_text())
    published = SYSTEMS["unet"].reference.result
    assert (
        f"| [`unet`](#unet) | {published} | 31,030,658 | 301 at 572x572 with one channel | mean IoU: 0.432 | 1.6 "
        "| TFLite float32, TFLite int8, SavedModel; failed: TFLite float16 |"
    ) in sections[""].splitlines()
    assert f"1 of {len(SYSTEMS)} systems were trained from scratch, for 1.6 to 1.6 minutes each" in sections[""]
    assert "on riscv64, 3 CPUs (keras 99.5)" in sections[""]
    found = sections["unet"].strip().split("\n\n")
    assert found[1:] == [
        "|  |  |\n| --- | --- |\n"
        f"| published result | {published} |\n"
        "| published form | 31,030,658 parameters; 300.9 GFLOPs for a picture of 572x572 with one channel |\n"
        "| trained here | 54,321 parameters; 0.125 GFLOPs for a picture of 40x56; filters=6, depth=2 |\n"
        "| training | `shapes:count=40`, 3 pictures, 2 epochs of 17 steps, batches of 4, 1.60 minutes |\n"
        "| result | mean IoU 0.432, pixel accuracy 0.876, boundary F1 0.247 on 11 pictures of shapes seed 5, which "
        "played no part in the training |",
        "| file | size | ms, 1 thread | ms, 2 threads | largest difference | same answers | score |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| TFLite float32 | 7.65 MB | 12.3 | 6.78 | 3.5e-06 | 99.87 % | mean IoU: 0.444 |\n"
        "| TFLite float16 |  |  |  |  |  | failed: ModelError: unet.tflite \\| differs a lot |\n"
        "| TFLite int8 | 2.0 kB | 3 |  | 2.5e-01 | 99.87 % | mean IoU: 0.444 on others |\n"
        "| SavedModel | 7.65 MB |  | 5.67 | 3.5e-06 | not recorded | mean IoU: 0.444 |",
        "![unet: prediction on a picture that it was not trained on](zoo/unet.jpg)",
        "```\nkcvl train unet --data shapes:count=40 --out runs/unet\n```",
    ]
    assert list(sections)[2:] == list(SYSTEMS)
    for name, recipe in SYSTEMS.items():
        if name != "unet":
            assert "| status | not run |" in sections[name]
            assert f"| published form | {recipe.reference.parameters:,} parameters |" in sections[name]
            assert re.search(rf"^\| \[`{name}`\].*\| not run \|", sections[""], re.M)
    assert (tmp_path / "docs" / "zoo" / "unet.jpg").stat().st_size <= 400_000 / len(SYSTEMS)


def test_a_small_segmentation_is_enlarged_and_its_legend_stands_beside_it(tools, runs):
    folder = runs / "some run"
    overlay = np.full((20 + 7, 30, 3), 255, np.uint8)
    overlay[:20], overlay[0, 29] = (10, 20, 30), (200, 100, 0)
    overlay[25] = (1, 2, 3)
    Image.fromarray(overlay).save(folder / "predictions" / "p_overlay.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "predictions" / "p_classes.png")
    sheet = np.asarray(tools.records.picture_of(folder))
    assert sheet.shape == (20 * 12, 30 * 12 + 30, 3)  # 12 times 30 is the most below 384.
    np.testing.assert_array_equal(sheet[:12, 29 * 12 : 30 * 12], np.broadcast_to([200, 100, 0], (12, 12, 3)))
    np.testing.assert_array_equal(sheet[5, 30 * 12 :], np.broadcast_to([1, 2, 3], (30, 3)))
    np.testing.assert_array_equal(sheet[7:, 30 * 12 :], 255)


def test_a_page_that_somebody_wrote_in_is_found_and_written_again_without_the_runs(tools, runs, tmp_path, monkeypatch):
    page = tmp_path / "zoo.md"
    assert tools.page.main(["--check", "--page", str(page)]) == 1
    tools.page.main([str(runs), "--page", str(page)])
    text = page.read_text()
    assert tools.page.main(["--check", "--page", str(page)]) == 0
    page.write_text(text.replace("mean IoU: 0.432", "mean IoU: 0.932"))
    assert tools.page.main(["--check", "--page", str(page)]) == 1
    assert tools.page.main(["--page", str(page)]) == 0
    assert page.read_text() == text
    monkeypatch.setitem(SYSTEMS, "newer_net", dataclasses.replace(SYSTEMS["unet"], name="newer_net"))
    assert tools.page.main(["--check", "--page", str(page)]) == 1


def test_what_a_run_lacks_is_said_to_be_missing(tools, runs, tmp_path):
    folder = runs / "some run"
    for name in ("unseen/scores.json", "published.json", "failures.json", "exports.json", "predictions/p_overlay.png"):
        (folder / name).unlink()
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({"system": run["system"]}))
    tools.page.main([str(runs), "--page", str(tmp_path / "zoo.md")])
    section = _sections((tmp_path / "zoo.md").read_text())["unet"]
    assert "| trained here | parameters not recorded; defaults |" in section
    assert "time not recorded |" in section
    assert "| result | mean IoU 0.990 on shapes seed 4, which played the part of choosing the best epoch |" in section
    assert section.count("| not exported |") == 4
    assert "There is no picture of a prediction." in section


def test_one_system_has_one_run(tools, runs, tmp_path, capsys):
    (runs / "again").mkdir()
    (runs / "again" / "run.json").write_text('{"system": "unet"}')
    assert tools.page.main([str(runs), "--page", str(tmp_path / "zoo.md")]) == 1
    assert "two runs of unet: again and some run" in capsys.readouterr().err
    assert tools.page.main([str(tmp_path), "--page", str(tmp_path / "zoo.md")]) == 1
    assert "holds no run folders" in capsys.readouterr().err


def test_detections_and_sentences_tell_what_agrees(tools, tmp_path):
    card = {"max_difference": 0.001, "label_agreement": 0.5}
    detector = {**card, "agreement": {"detections": 1234, "mean_iou": 0.98765}}
    captioner = {**card, "agreement": {"pictures": 8, "equal": 7}}
    assert tools.page._agreement(detector) == "50.00 % of 1,234, overlap 0.9877"
    assert tools.page._agreement(captioner) == "50.00 %, 7 of 8 sentences equal"
    found = {"box": {"ap": 0.25, "ap50": 0.5, "per_class": []}, "masks": {}}
    nested = {"boxes": found["box"], "masks": {"ap": None, "ap50": None, "voc_ap50": 0.75}}
    assert tools.records._headlines(nested) == {"ap": 0.25, "ap50": 0.5, "mask_voc_ap50": 0.75}


@pytest.mark.parametrize("name", SYSTEMS)
def test_runs_train_the_demo_settings(tools, name):
    recipe = SYSTEMS[name]
    config, options, augmentation = parse_settings(recipe, tools.train.settings_of(recipe))
    assert config == dict(recipe.demo)
    assert options == dataclasses.replace(recipe.demo_options, epochs=options.epochs)
    assert augmentation == recipe.demo_augmentation


@pytest.mark.parametrize("name", ["unet", "show_attend_tell"])
def test_pictures_that_runs_are_judged_on_were_not_trained_on(tools, name):
    data = tools.train.data_for(SYSTEMS[name])
    sources = [open_source(data.train, "train"), open_source(data.validate, "val"), open_source(data.unseen, "val")]
    sources.append(open_source(data.unseen, "train"))  # What int8 is calibrated with.
    names = [name for source in sources for name in source.ids]
    assert len(set(names)) == len(names)
    assert len(sources[2]) == 60
    assert len(sources[3]) >= 100


def test_a_published_network_costs_what_its_layers_multiply(tools):
    """A pyramid's convolution whose rate is over half of its map, as DeepLab's at 512 x 512."""
    import keras

    from keras_cv_lectures.layers import AtrousConv2D

    def build(rate):
        inputs = keras.Input((64, 64, 32))
        return keras.Model(inputs, AtrousConv2D(32, 3, padding="same", dilation_rate=rate, name="logits")(inputs))

    recipe = SimpleNamespace(build=build, reference=SimpleNamespace(parameters_of={"rate": 36}))
    # Twice the multiply-adds: of 64 x 64 pixels, 32 filters, 9 weights in 32 channels.
    expected = {"size": [64, 64, 32], "gflops": round(2 * 64 * 64 * 32 * 9 * 32 / 1e9, 3)}
    assert tools.train.published(recipe) == expected


def test_a_step_that_fails_is_noted_and_stops_nothing(tools, tmp_path):
    calls = []

    def step(name, *, done=False, error=None):
        def run():
            calls.append(name)
            if error:
                raise error

        return tools.train.Step(name, lambda: done, run)

    steps = [step("train", done=True), step("tflite int8", error=ValueError("no such operator")), step("predict")]
    assert not tools.train.run_steps(steps, tmp_path)
    assert calls == ["tflite int8", "predict"]
    assert json.loads((tmp_path / "failures.json").read_text()) == {"tflite int8": "ValueError: no such operator"}
    assert not tools.train.run_steps(steps, tmp_path)
    assert calls == ["tflite int8", "predict", "predict"]  # What failed is not tried again.
    calls.clear()
    assert not tools.train.run_steps([step("train", error=ValueError("no data")), step("predict")], tmp_path)
    assert calls == ["train"]  # Nothing can be done without it.


def test_a_crash_belongs_to_the_step_under_way(tools, tmp_path):
    assert not tools.train.note_crash(tmp_path, -6)
    (tmp_path / "under_way.txt").write_text("tflite int8")
    assert tools.train.note_crash(tmp_path, -6)
    assert json.loads((tmp_path / "failures.json").read_text()) == {"tflite int8": "the process ended by SIGABRT"}
    assert not tools.train.note_crash(tmp_path, -6)


def test_a_training_that_was_stopped_is_not_taken_for_done(tools, tmp_path):
    train, *_ = tools.train.steps_of(SYSTEMS["unet"], tmp_path, 60.0)
    assert not train.done()
    (tmp_path / "run.json").write_text('{"system": "unet", "seconds": 0.0}')  # As `kcvl train` begins.
    assert not train.done()
    (tmp_path / "run.json").write_text('{"system": "unet", "seconds": 61.5}')
    assert not train.done()  # Killed while it scored its best epoch.
    (tmp_path / "evaluation.json").write_text("{}")
    assert train.done()


@pytest.mark.slow
@pytest.mark.long
def test_a_small_system_goes_all_the_way(tools, tmp_path, monkeypatch):
    size = "size=48x64"
    data = tools.train.Data(
        f"shapes:count=32,{size}", f"shapes:count=8,{size},seed=3", f"shapes:count=120,{size},seed=9"
    )
    monkeypatch.setattr(tools.train, "data_for", lambda recipe: data)
    recipe = dataclasses.replace(
        SYSTEMS["unet"], demo=SYSTEMS["unet"].smoke, demo_options=SYSTEMS["unet"].smoke_options
    )
    assert tools.train.work_on(recipe, tmp_path / "runs" / "unet", seconds=1.0) == 0
    assert not (tmp_path / "runs" / "unet" / "failures.json").exists()
    assert tools.page.main([str(tmp_path / "runs"), "--page", str(tmp_path / "zoo.md")]) == 0
    text = (tmp_path / "zoo.md").read_text()
    section = _sections(text)["unet"]
    assert "not recorded" not in section
    assert "not exported" not in section
    assert "30 pictures of shapes seed 1000012" in section
    assert str(tmp_path) not in text
    assert (tmp_path / "zoo" / "unet.jpg").exists()
    command = re.search(r"```\nkcvl (.*)\n```", section).group(1)
    assert make_parser().parse_args(command.split()).out == "runs/unet"


def test_the_page_of_this_repository_lists_every_system(tools, capsys):
    page = ROOT / "docs" / "model_zoo.md"
    if not page.exists():
        pytest.skip("docs/model_zoo.md was not written yet: python tools/train_zoo.py, python tools/model_zoo.py RUNS")
    assert tools.page.main(["--check"]) == 0, capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert [head for head in re.findall(r"^## (.*)", text, re.M) if head in SYSTEMS] == list(SYSTEMS)
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    assert shown, "no system was run"
    assert sum((page.parent / name).stat().st_size for name in shown) < 400_000
    assert not re.search(r"/(work|tmp|home|root)/", text)
