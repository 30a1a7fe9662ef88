"""The screen as an SVG that looks the same in every viewer: each word is placed at its cell, no font is downloaded."""

from __future__ import annotations

import re
from html import escape, unescape

from rich.cells import cell_len

from kltui.view.provenance import version_words

FONTS = "Fira Code, DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
_TEXT = re.compile(
    r'<text class="([^"]+)" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)" clip-path="([^"]+)">([^<]*)</text>'
)
_FETCHED = re.compile(r"@font-face\s*\{[^}]*\}\s*")
_WORD = re.compile(r"[!-~]+|[^\x00-\x20\u00a0]")  # a run of printable ASCII, or one other character


def placed(svg: str) -> str:
    """Rich's screenshot with each word at the position of its cells.

    Rich writes a run as one stretched text with no-break spaces. Programs that cannot stretch (librsvg, many
    editors), or have another font, displace the later words of the run and separate box lines.
    """
    svg = _FETCHED.sub("", svg).replace("Fira Code, monospace", FONTS)
    return _TEXT.sub(_words, svg)


def _words(found: re.Match[str]) -> str:
    style, x, y, length, clip, content = found.groups()
    text = unescape(content)
    cells = cell_len(text)
    width = float(length) / cells if cells else 0.0
    spans = []
    for word in _WORD.finditer(text):
        at = float(x) + width * cell_len(text[: word.start()])
        long = cell_len(word.group()) * width
        stretched = f' textLength="{long:g}"' if len(word.group()) > 1 else ""
        spans.append(f'<tspan x="{at:g}"{stretched}>{escape(word.group())}</tspan>')
    return f'<text class="{style}" y="{y}" clip-path="{clip}">{"".join(spans)}</text>' if spans else ""


def with_versions(svg: str) -> str:
    """The SVG with the versions of the libraries in its description."""
    head, end, rest = svg.partition(">")
    return f"{head}{end}\n    <desc>{version_words()}</desc>{rest}"
