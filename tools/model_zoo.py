"""The model zoo, docs/model_zoo.md and docs/zoo/: what every system of `SYSTEMS` is, and what was measured of it here.

python tools/model_zoo.py RUNS     takes in the run folders in RUNS, each the run of a system, and writes the page
python tools/model_zoo.py          writes the page again, for instance when a system was added
python tools/model_zoo.py --check  exit code 1 if the page is not what the records and `SYSTEMS` give

RUNS is what `tools/train_zoo.py` leaves, or folders made by hand with `kcvl train`, `kcvl evaluate RUN --out
RUN/unseen`, `kcvl export RUN --out RUN/exports` and `kcvl predict RUN PICTURE --out RUN/predictions`. Every figure
comes from `SYSTEMS`, from what these commands recorded, and from the model cards; the page says what is missing.
docs/zoo/records.json keeps what was taken in, so that the run folders need not be kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from zoo_records import FORMS, find_runs, picture_of, record_of, write_jpeg

from kcvl.text import PIXEL_SCORES, count_text, headline, size_text
from keras_cv_lectures.files import read_json, write_json, write_text
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.visualize.sections import FILE_SCORES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "model_zoo.md"
NOT_RUN, MISSING = "not run", "not recorded"
# All pictures of the page together, in bytes.
LARGEST = 400_000

_NAMES = {**PIXEL_SCORES, **FILE_SCORES}
_FORM_NAMES = {"tflite": "TFLite", "saved_model": "SavedModel"}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the page. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", metavar="RUNS", help="folder of run folders")
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    arguments = parser.parse_args(argv)
    page, pictures = arguments.page, arguments.page.parent / "zoo"
    records = read_json(pictures / "records.json") if (pictures / "records.json").exists() else {}
    if arguments.check:
        if page.exists() and page.read_text(encoding="utf-8") == zoo_page(SYSTEMS.values(), records, pictures):
            print(f"{page} is up to date")
            return 0
        print(f"{page} is old. Run `python tools/model_zoo.py`.")
        return 1
    if arguments.runs:
        try:
            folders = find_runs(arguments.runs)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        for name, folder in folders.items():
            records[name] = record_of(folder)
            shown = picture_of(folder)
            if shown is not None:
                write_jpeg(shown, pictures / f"{name}.jpg", LARGEST // len(SYSTEMS))
    records = {name: records[name] for name in SYSTEMS if name in records}
    write_json(pictures / "records.json", records)
    write_text(page, zoo_page(SYSTEMS.values(), records, pictures))
    print(f"wrote {page}: {len(records)} of {len(SYSTEMS)} systems were run")
    return 0


def zoo_page(recipes: Iterable[Recipe], records: Mapping[str, Mapping[str, Any]], pictures: Path) -> str:
    """The page as Markdown that GitHub shows.

    Args:
        recipes: the systems, in the order of the page.
        records: system -> what `record_of` gave, for those that were run.
        pictures: folder `zoo` beside the page, with NAME.jpg of the systems that have a picture.
    """
    recipes = list(recipes)
    heads = ("system", "published result", "parameters", "GFLOPs", "measured here", "minutes", "exported")
    rows = [_overview(recipe, records.get(recipe.name)) for recipe in recipes]
    parts = ["# Model zoo", _introduction(recipes, records), _table(heads, rows)]
    parts += [
        "Parameters and GFLOPs are those of the published form; the networks trained here are the smaller ones that "
        "each section describes.",
        "## How to read the tables",
        _LEGEND,
    ]
    for recipe in recipes:
        parts += _section(recipe, records.get(recipe.name), pictures)
    return "\n\n".join(parts) + "\n"


_LEGEND = """\
* **parameters** of the published form: those that its training changes, without an encoder that it leaves as it is.
* **GFLOPs**: billions of floating-point operations for one picture, twice the multiply-adds of convolutions and matrix
  products; a loop, such as that over the words of a sentence, counts once.
* **largest difference**: of the export's numbers to the model's, as compared when it was exported: of a segmentation
  the logits, of a detector the scores, of a captioner log probabilities and attention.
* **same answers**: share of pixels with the model's label, of detections that the model has, too, or of a captioner's
  words.
* **score**: of the exported file itself, on the pictures that the model was judged on unless the section names others.
* **ms**: median time for one picture, of TFLite files with one and with two threads, of SavedModels with the threads
  that TensorFlow had."""


def _introduction(recipes: Sequence[Recipe], records: Mapping[str, Mapping[str, Any]]) -> str:
    run = [records[recipe.name] for recipe in recipes if recipe.name in records]
    lines = [
        "Written by `tools/model_zoo.py` from `SYSTEMS`, from what `kcvl train`, `kcvl evaluate` and `kcvl export` "
        "recorded, and from the model cards: no figure on this page was typed. `tools/train_zoo.py` makes the runs."
    ]
    minutes = [record["seconds"] / 60 for record in run if record["seconds"]]
    if minutes:
        machines = sorted({record["machine"] for record in run if record["machine"]})
        versions = sorted({f"{k} {v}" for record in run for k, v in record["versions"].items()})
        lines.append(
            f"{len(run)} of {count_text(len(recipes), 'system')} were trained from scratch, for {min(minutes):.1f} to "
            f"{max(minutes):.1f} minutes each, {sum(minutes):.0f} minutes together"
            + (f", on {'; '.join(machines)}" if machines else "")
            + (f" ({', '.join(versions)})" if versions else "")
            + ". Such short trainings on small pictures show that every step works; they say nothing about the "
            "systems' rank, and their scores cannot be compared with the published results, which stand beside them."
        )
    return "\n\n".join(lines)


def _overview(recipe: Recipe, record: Mapping[str, Any] | None) -> tuple[str, ...]:
    reference = recipe.reference
    known = (f"[`{recipe.name}`](#{recipe.name})", reference.result, f"{reference.parameters:,}")
    if record is None:
        return (*known, "", NOT_RUN, "", "")
    published, result = record["published"], record["result"]
    judged = headline(result["scores"]) if result else None
    return (
        *known,
        f"{published['gflops']:.3g} at {_size(published['size'])}" if published else MISSING,
        "{}: {:.3f}".format(*judged) + _beside_constant(result["constant"], judged) if judged else MISSING,
        f"{record['seconds'] / 60:.1f}" if record["seconds"] else MISSING,
        _exported(record),
    )


def _beside_constant(constant: Mapping[str, float] | None, judged: tuple[str, float]) -> str:
    """Beside a captioner's score, that of the one best sentence for all pictures."""
    found = headline(constant) if constant else None
    return f" (the best constant caption {found[1]:.3f})" if found and found[0] == judged[0] else ""


def _exported(record: Mapping[str, Any]) -> str:
    """Which forms there are, which failed and which are missing."""
    states: dict[str, list[str]] = {}
    for form in FORMS:
        key = " ".join(form)
        state = "" if key in record["exports"] else "failed" if key in record["failures"] else "missing"
        states.setdefault(state, []).append(_form_name(form))
    return "; ".join((f"{state}: " if state else "") + ", ".join(states[state]) for state in sorted(states))


def _section(recipe: Recipe, record: Mapping[str, Any] | None, pictures: Path) -> list[str]:
    reference = recipe.reference
    parts = [f"## {recipe.name}", f"{recipe.summary}. [{reference.paper}]({reference.url}), {reference.year}."]
    published = f"{reference.parameters:,} parameters"
    if record is None:
        facts = {"published result": reference.result, "published form": published, "status": NOT_RUN}
        return [*parts, _table(("", ""), list(facts.items()))]
    if record["published"]:
        cost = record["published"]
        published += f"; {cost['gflops']:.4g} GFLOPs for a picture of {_size(cost['size'])}"
    facts = {
        "published result": reference.result,
        "published form": published,
        "trained here": _network(record),
        "training": _training(record),
        "result": _result_text(record["result"]),
        **_beside(record["result"]),
        **{f"{step} failed": why for step, why in record["failures"].items() if step not in map(" ".join, FORMS)},
    }
    parts += [_table(("", ""), list(facts.items())), _export_table(record)]
    if (pictures / f"{recipe.name}.jpg").exists():
        what = "a sentence about" if "captions" in recipe.keys else "prediction on"
        parts.append(
            f"![{recipe.name}: {what} a picture that it was not trained on]({pictures.name}/{recipe.name}.jpg)"
        )
    else:
        parts.append("There is no picture of a prediction.")
    if record["command"]:
        parts.append(f"```\n{record['command']}\n```")
    return parts


def _network(record: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in record["config"].items()) or "defaults"
    parts = [f"{record['parameters']:,} parameters" if record["parameters"] else f"parameters {MISSING}"]
    cards = [record["exports"][" ".join(form)] for form in FORMS if " ".join(form) in record["exports"]]
    if cards:
        _, *size, channels = cards[0]["input"]["image"]["shape"]
        size = cards[0].get("measured_size") or size  # That of a file for pictures of any size.
        parts.append(f"{cards[0]['gflops']:.3g} GFLOPs for a picture of {_size((*size, channels))}")
    return f"{'; '.join(parts)}; {settings}"


def _training(record: Mapping[str, Any]) -> str:
    parts = [f"`{record['data']}`" if record["data"] else f"data {MISSING}"]
    if record["pictures"]:
        parts.append(count_text(record["pictures"], "picture"))
    if record["epochs"]:
        epochs = count_text(record["epochs"], "epoch")
        parts.append(epochs + (f" of {count_text(record['steps'], 'step')}" if record["steps"] else ""))
    if record["batch_size"]:
        parts.append(f"batches of {record['batch_size']}")
    parts.append(f"{record['seconds'] / 60:.2f} minutes" if record["seconds"] else f"time {MISSING}")
    return ", ".join(parts)


def _result_text(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return MISSING
    where = f"{count_text(result['pictures'], 'picture')} of {result['data']}" if result["pictures"] else result["data"]
    part = "no part in the training" if result["unseen"] else "the part of choosing the best epoch"
    return f"{_scores_text(result['scores'])} on {where}, which played {part}"


def _beside(result: Mapping[str, Any] | None) -> dict[str, str]:
    """What a captioner has to beat."""
    return {"the best constant caption": _scores_text(result["constant"])} if result and result["constant"] else {}


def _scores_text(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{_NAMES.get(name, name)} {value:.3f}" for name, value in scores.items()) or MISSING


def _export_table(record: Mapping[str, Any]) -> str:
    cards = record["exports"]
    threads = sorted({int(count) for card in cards.values() for count in card["latency_ms"]})
    times = [f"ms, {count_text(count, 'thread')}" for count in threads]
    rows = []
    for form in FORMS:
        key = " ".join(form)
        if key in cards:
            rows.append((_form_name(form), *_card_cells(cards[key], threads, record["result"])))
        else:
            why = record["failures"].get(key)
            state = f"failed: {why}" if why else "not exported"
            rows.append((_form_name(form), *[""] * (len(times) + 3), state))
    return _table(("file", "size", *times, "largest difference", "same answers", "score"), rows)


def _card_cells(card: Mapping[str, Any], threads: Sequence[int], result: Mapping[str, Any] | None) -> list[str]:
    times = [card["latency_ms"].get(str(count)) for count in threads]
    judged = headline(card["metrics"])
    score = "{}: {:.3f}".format(*judged) if judged else MISSING
    if judged and card["metrics_data"] and not (result and result["data"] == card["metrics_data"]):
        score += f" on {card['metrics_data']}"
    return [
        size_text(card["file_size"]),
        *("" if ms is None else f"{ms:.3g}" for ms in times),
        MISSING if card["max_difference"] is None else f"{card['max_difference']:.1e}",
        _agreement(card),
        score,
    ]


def _agreement(card: Mapping[str, Any]) -> str:
    if card["label_agreement"] is None:
        return MISSING
    text = f"{100 * card['label_agreement']:.2f} %"
    more = card["agreement"] or {}
    if more.get("detections"):
        text += f" of {more['detections']:,}, overlap {more['mean_iou']:.4f}"
    if more.get("pictures"):
        text += f", {more['equal']} of {count_text(more['pictures'], 'sentence')} equal"
    return text


def _form_name(form: tuple[str, str]) -> str:
    kind, precision = form
    return _FORM_NAMES[kind] if kind == "saved_model" else f"{_FORM_NAMES[kind]} {precision}"


def _size(shape: Sequence[int]) -> str:
    height, width, *channels = shape
    return f"{height}x{width}" + (" with one channel" if channels == [1] else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
