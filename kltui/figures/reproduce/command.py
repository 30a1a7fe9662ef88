"""kltui --reproduce: every figure and table of both papers that a folder of released files allows, and a summary."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from kltui.atomic_files import replacing, replacing_together
from kltui.errors import KltuiError, UsageError
from kltui.figures.command import look_of
from kltui.figures.draw import FigureStyle
from kltui.figures.files import check_folder, write, write_table
from kltui.figures.picture import COLUMNS, PaperFigure, rows
from kltui.figures.reproduce import kishino, oyama
from kltui.figures.reproduce.item import OYAMA, Number, ReproducedItem, Result
from kltui.figures.reproduce.release import Release, read_releases
from kltui.figures.text import text_of
from kltui.json_schema import JSON_SCHEMA
from kltui.sanitize import safe_text
from kltui.view.provenance import version_words
from kltui.view.tables import count, figure, table

ITEMS: tuple[ReproducedItem, ...] = (*kishino.ITEMS, *oyama.ITEMS)
SUMMARY = (
    "paper",
    "item",
    "what",
    "quantity",
    "unit",
    "here",
    "low",
    "high",
    "n",
    "published",
    "deviation",
    "ratio",
    "note",
)
NOT_HERE = (
    "never reproduced: the comparison of exact and estimated KL, interpolated models,"
    " and the list of models of the appendix (they need the models themselves or their cards)"
)
Made = tuple[ReproducedItem, Result]


def reproduce(arguments: argparse.Namespace, notify: Callable[[str], None]) -> int:
    """Writes the figures, tables and summary of --reproduce FOLDER into --out, and prints the summary."""
    if arguments.target:
        raise UsageError(
            f"unexpected {arguments.target!r}", "--reproduce reads only released files, not a workspace."
        )
    if arguments.out is None:
        raise UsageError("--reproduce writes a folder of figures", "Add --out DIR.")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(
            f"--out {safe_text(str(arguments.out))} is not a folder",
            "Name a new folder or an existing one.",
        )
    look = look_of(arguments)
    releases = read_releases(arguments.reproduce)
    check_folder(arguments.out)
    made = [(item, _made(item, releases, notify)) for item in ITEMS]
    with replacing_together(arguments.out) as aside:
        written = [path for item, result in made for path in _write(item, result, aside, look)]
        written += _summary(made, releases, aside)
    files = [arguments.out / path.name for path in written]
    if arguments.json:
        json.dump(_as_dict(made, releases, files), sys.stdout, indent=1)
        print()  # noqa: T201
    else:
        _print(made, files)
    return 0


def _made(item: ReproducedItem, releases: Sequence[Release], notify: Callable[[str], None]) -> Result:
    """The result from the first release that has the data of an item; if none has, a result that states what is missing."""
    notify(f"{item.paper} {item.what}")
    lacks = []
    for release in sorted(releases, key=lambda r: item.paper == OYAMA and not r.scores):
        try:
            return item.make(release)
        except KltuiError as error:
            lacks.append(f"{error.message}; {error.hint}" if error.hint else error.message)
    return Result(lacks="; ".join(dict.fromkeys(lacks)))


def _write(item: ReproducedItem, result: Result, folder: Path, look: FigureStyle) -> list[Path]:
    paths = []
    stem = f"{item.paper}-{item.name}"
    for number, picture in enumerate(result.pictures):
        name = stem if number == 0 else f"{stem}-{picture.name}"
        paths += _figure(picture, folder / f"{name}.pdf", look)
    if result.numbers:
        path = folder / f"{stem}-numbers.csv"
        write_table(path, SUMMARY, _rows(item, result))
        paths.append(path)
    return paths


def _figure(picture: PaperFigure, path: Path, look: FigureStyle) -> list[Path]:
    """Writes the figure with matplotlib, or as a text plot if that is not installed; returns the paths, including the CSV."""
    if importlib.util.find_spec("matplotlib") is not None:
        return write(picture, path, look)
    text, points = path.with_suffix(".txt"), path.with_suffix(".csv")
    with replacing(text) as file:
        file.write(text_of(picture).encode())
    write_table(points, COLUMNS, rows(picture))
    return [text, points]


def _rows(item: ReproducedItem, result: Result) -> Iterable[Sequence[object]]:
    for n in result.numbers:
        values = (n.here, n.low, n.high, n.n or None, n.published, n.deviation, n.ratio)
        yield (item.paper, item.name, item.what, n.quantity, n.unit, *values, n.note)
    if result.lacks:
        yield (item.paper, item.name, item.what, "not reproduced", "", *[None] * 7, result.lacks)


def _summary(made: Sequence[Made], releases: Sequence[Release], folder: Path) -> list[Path]:
    """Writes summary.csv and README.txt and returns their paths."""
    path, readme = folder / "summary.csv", folder / "README.txt"
    write_table(path, SUMMARY, [row for item, result in made for row in _rows(item, result)])
    lines = [
        "Figures and tables of arXiv 2505.15353 and arXiv 2502.16173, drawn from released files.",
        *(
            f"Files: {safe_text(str(r.folder))}: {len(r.whole)} vectors over {len(r.texts)} texts."
            for r in releases
        ),
        f"Made with {version_words()}.",
        "",
        "Each figure has a CSV with its points and a script that redraws it from them, both with its name. summary.csv has every",
        "number next to the published one: deviation is ours minus published, ratio is ours divided by published; low and high are",
        "quartiles unless the note says otherwise.",
        "",
        *(_line(item, result) for item, result in made),
        "",
        NOT_HERE,
        *(safe_text(note) for r in releases for note in r.notes),
    ]
    with replacing(readme) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return [path, readme]


def _line(item: ReproducedItem, result: Result) -> str:
    head = f"{item.paper} {item.what} ({item.name})"
    if result.lacks:
        return f"{head}: not reproduced: {safe_text(result.lacks)}"
    return f"{head}: {count(len(result.pictures), 'figure')}, {count(len(result.numbers), 'number')}"


def _print(made: Sequence[Made], files: Sequence[Path]) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, soft_wrap=False)
    lines = [
        [item.what if k == 0 else "", n.quantity, figure(n.here), str(n.n or ""), *_beside(n)]
        for item, result in made
        for k, n in enumerate(_printed(result.numbers))
    ]
    headings = ["figure or table", "quantity", "here", "n", "published", "deviation"]
    console.print(table(headings, lines, left=(0, 1)))
    for item, result in made:
        if result.lacks:
            console.print(
                f"{item.what}: not reproduced: {safe_text(result.lacks)}", markup=False, highlight=False
            )
    console.print(NOT_HERE, markup=False, highlight=False)
    console.print(f"{len(files)} files, summary.csv and README.txt among them", markup=False, highlight=False)


def _printed(numbers: Sequence[Number]) -> list[Number]:
    """The numbers with a published value; if there are none, the first three."""
    reported = [n for n in numbers if math.isfinite(n.published)]
    return reported or list(numbers[:3])


def _beside(n: Number) -> list[str]:
    if math.isnan(n.published):
        return ["-", "-"]
    return [figure(n.published), f"{n.deviation:+.2g}" if math.isfinite(n.deviation) else "-"]


def _as_dict(made: Sequence[Made], releases: Sequence[Release], files: Sequence[Path]) -> dict[str, object]:
    """All results as data for JSON, with None for NaN."""

    def plain(row: Sequence[object]) -> list[object]:
        return [None if isinstance(v, float) and not math.isfinite(v) else v for v in row]

    numbers = [
        dict(zip(SUMMARY, plain(row), strict=True)) for item, result in made for row in _rows(item, result)
    ]
    items = [
        {"item": i.name, "paper": i.paper, "what": i.what, "figures": len(r.pictures), "lacks": r.lacks}
        for i, r in made
    ]
    return {
        "schema": JSON_SCHEMA,
        "releases": [str(r.folder) for r in releases],
        "items": items,
        "numbers": [row for row in numbers if row["quantity"] != "not reproduced"],
        "not_reproduced": NOT_HERE,
        "files": [str(path) for path in files],
    }
