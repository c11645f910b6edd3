"""Measured systems as a table, as JSON and as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_cv_lectures.benchmarking.system import BenchmarkRow, SystemBenchmark, machine
from keras_cv_lectures.visualize import Bar, bars

HEADS = ("path", "ms", "fastest ms", "GFLOP/s", "of matrix product", "peak MB", "file MB", "missing")


def cells(row: BenchmarkRow) -> list[Any]:
    """A row under `HEADS`; None where there is nothing to tell."""
    share = row.share_of_matrix_product
    return [
        row.label + (f", {row.pictures} pictures" if row.pictures > 1 else ""),
        row.median_ms,
        row.min_ms,
        row.gflops_per_second,
        None if share is None else f"{100 * share:.0f} %",
        None if row.peak_mb is None else round(row.peak_mb),
        None if row.size_bytes is None else row.size_bytes / 1e6,
        row.missing or "",
    ]


def headline(found: SystemBenchmark) -> str:
    """What the rows of a system belong to, on one line."""
    told = f"{found.system}: {found.size[0]}x{found.size[1]} pixels, num_classes={found.classes}"
    if found.parameters is not None:
        told += f", {found.parameters:,} parameters, {found.gflops:.3g} GFLOPs a picture"
    if found.matrix_gflops is not None:
        told += f"; matrix product {found.matrix_gflops:.3g} GFLOP/s, in a process of {found.matrix_mb:.0f} MB"
    return told


def markdown(systems: Sequence[SystemBenchmark], settings: Mapping[str, Any]) -> str:
    """All tables as a page of Markdown."""
    lines = ["# Benchmark", "", *_about(settings), ""]
    for found in systems:
        lines += [f"## {found.system}", "", headline(found), ""]
        lines += ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 2) + " --- |"]
        lines += ["| " + " | ".join(_text(cell) for cell in cells(row)) + " |" for row in found.rows]
        lines.append("")
    return "\n".join(lines)


def as_json(systems: Sequence[SystemBenchmark], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that was measured, with the machine and the settings that it belongs to."""
    return {"machine": machine(), "settings": dict(settings), "systems": [found.to_json() for found in systems]}


def chart(systems: Sequence[SystemBenchmark]) -> bytes:
    """A PNG file: for each system, milliseconds a picture by each path."""
    return bars(
        {found.system: [_bar(row) for row in found.rows] for found in systems},
        unit="ms a picture",
    )


def _bar(row: BenchmarkRow) -> Bar:
    if row.missing:
        return Bar(row.label, None, "missing")
    note = f"{short_number(row.median_ms / row.pictures, 3)} ms"
    if row.share_of_matrix_product is not None:
        note += f", {100 * row.share_of_matrix_product:.0f} %"
    return Bar(row.label, row.median_ms / row.pictures, f"{note}, {row.peak_mb:.0f} MB")


def _about(settings: Mapping[str, Any]) -> list[str]:
    facts = machine()
    told = ", ".join(f"{key}={value}" for key, value in settings.items())
    return [
        f"{facts['processor']}, {facts['cores']} cores, TensorFlow {facts['tensorflow']}, Keras {facts['keras']}.",
        f"Settings: {told}." if told else "",
        "",
        "Random weights. Every path is a process of its own, and in each round each has one call; ms is the median of",
        "the rounds. Memory is the most that the process held, libraries and loading included. GFLOP/s counts",
        "convolutions and matrix products (a training step as three inferences); the share is of what a product of",
        "float32 matrices reached in the same rounds on the same threads.",
    ]


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return short_number(cell) if isinstance(cell, float) else str(cell).replace("|", "\\|")


def short_number(value: float, digits: int = 4) -> str:
    """`digits` digits, more only before the point, without the power of ten of `g`: 4.126, 41.26, 41263."""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


__all__ = ["HEADS", "as_json", "cells", "chart", "headline", "markdown", "short_number"]
