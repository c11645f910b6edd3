"""The HTML and CSS of a report page: a few builders, each of which escapes what it is given."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

WIDE = 9  # Columns of a table beyond which they stand closer.

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f4f5f7; --card: #ffffff; --ink: #1c2027; --soft: #5b6472; --line: #e2e5ea; --accent: #1f5fd0;
  --bar: #d6e3fb; --good: #1a7f4b; --bad: #b3261e; --code: #f1f3f6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1216; --card: #171b22; --ink: #e6e9ee; --soft: #98a2b1; --line: #2b323d; --accent: #6ea2ff;
    --bar: #213a66; --good: #57c98c; --bad: #ff8a80; --code: #1f252e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; overflow-wrap: anywhere; }
header p { margin: 8px 0 0; max-width: none; color: var(--soft); overflow-wrap: anywhere; }
section {
  margin-top: 20px; padding: 24px; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
h2 { margin: 0 0 4px; font-size: 19px; letter-spacing: -0.01em; }
h3 { margin: 28px 0 8px; font-size: 15px; }
p { margin: 0 0 12px; max-width: 95ch; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.tile { padding: 14px 18px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile b { display: block; font-size: 28px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; margin: 8px -24px 0; padding: 0 24px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; font-size: 12.5px; text-align: left; white-space: nowrap; }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
td { white-space: nowrap; }
.wide { font-size: 13px; }
.wide th { font-size: 12px; }
.wide th, .wide td { padding-right: 11px; }
.number { text-align: right; }
.bar {
  display: inline-block; width: 132px; height: 10px; border-radius: 3px; background: var(--line); margin-right: 10px;
}
.bar i { display: block; height: 100%; border-radius: 3px; background: var(--accent); }
.none { color: var(--soft); font-style: italic; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.swatch {
  display: inline-block; width: 13px; height: 13px; margin-right: 8px; border-radius: 3px; vertical-align: -1.5px;
  box-shadow: inset 0 0 0 1px rgba(128, 128, 128, 0.55);
}
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 4px; font-size: 13.5px; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); gap: 16px 28px;
  margin-top: 12px;
}
.pairs { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
img { display: block; max-width: 100%; height: auto; }
.charts img { width: 100%; max-width: 500px; margin: 0 auto; }
.matrix { min-width: 560px; width: 100%; max-width: 780px; margin: 0 auto; }
.pixelated { image-rendering: pixelated; }
.example { margin-top: 18px; }
.example p {
  display: flex; justify-content: space-between; gap: 16px; margin: 0 0 6px; max-width: none; overflow-wrap: anywhere;
}
.example p b { white-space: nowrap; font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; }
.panels.three { grid-template-columns: repeat(3, 1fr); }
.panels img { width: 100%; border-radius: 4px; }
figure { margin: 0; }
figcaption { margin-top: 4px; color: var(--soft); font-size: 12.5px; }
dl {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px 24px; margin: 12px 0 0; font-size: 14px;
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre {
  margin: 0; padding: 10px 12px; background: var(--code); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere;
}
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; }
ul { margin: 8px 0 0; padding-left: 20px; }
li { overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 24px 12px 40px; }
  header { padding: 0 4px; }
  header h1 { font-size: 24px; }
  section { padding: 18px 16px; }
  .scroll { margin: 8px -16px 0; padding: 0 16px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px 14px; }
  .tile b { font-size: 23px; }
  .bar { width: 64px; }
  .panels, .panels.three { grid-template-columns: 1fr 1fr; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 10px; }
}
@media print {
  body { background: #fff; }
  section, .example { break-inside: avoid; }
  section { border: 0; padding: 12px 0; }
}
"""


def escape(value: Any) -> str:
    """Text that is safe between tags and inside quoted attributes, and can be written as UTF-8.

    File names may hold bytes that are not text; these become question marks.
    """
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def document(title: str, body: str) -> str:
    """A whole page. `body` is HTML, `title` is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(name: str, heading: str, *parts: str) -> str:
    """A card. `name` is its anchor, `heading` is text, `parts` are HTML."""
    return f'<section id="{escape(name)}">\n<h2>{escape(heading)}</h2>\n' + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """An explaining sentence, in the softer ink."""
    return f'<p class="soft">{escape(text)}</p>'


def table(name: str, heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways on narrow screens.

    Args:
        name: its id.
        heads: (text, whether the column holds numbers) for each column.
        rows: cells as HTML.
    """
    kinds = [' class="number"' if number else "" for _, number in heads]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for (text, _), kind in zip(heads, kinds, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    wide = ' class="wide"' if len(heads) > WIDE else ""
    return (
        f'<div class="scroll"><table id="{escape(name)}"{wide}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def swatch(color: Sequence[int]) -> str:
    """A small square of a colour (red, green, blue)."""
    red, green, blue = (int(value) for value in color)
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'


def image(png: bytes, alt: str, kind: str = "") -> str:
    """A picture inside the page. `kind` is a CSS class."""
    classes = f' class="{escape(kind)}"' if kind else ""
    return f'<img{classes} alt="{escape(alt)}" src="{data_address(png)}">'


def chart(light: bytes, dark: bytes, alt: str, kind: str = "") -> str:
    """A chart in two versions, of which the browser shows the one that suits the reader's screen."""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{data_address(dark)}">'
    return f"<picture>{source}{image(light, alt, kind)}</picture>"


def data_address(png: bytes) -> str:
    """A PNG file as an address that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
