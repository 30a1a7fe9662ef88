"""Interpolated models: KL to the base and loss over each grid of interpolated weights."""

from __future__ import annotations

import math

from rich.console import RenderableType

from kltui.analysis.kl import KL
from kltui.analysis.loss import bits_per_byte
from kltui.analysis.map import Map
from kltui.analysis.point import Point, grid_of
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table, words

Place = tuple[float, float]


def interpolation(ctx: Context) -> Section:
    """For each grid: KL to the base and loss at every (a, b), rows b, columns a."""
    grids: dict[str, list[int]] = {}
    for row, point in enumerate(ctx.map.points):
        if name := grid_of(point.tags):
            grids.setdefault(name, []).append(row)
    if not grids:
        raise MissingError(
            "no interpolated models are scored",
            'add an [[interpolations]] table to a job file: base = "a@100", others = ["b@100", "c@100"]',
        )
    blocks: list[RenderableType] = []
    data = []
    for name, rows in grids.items():
        found = _grid(ctx.map, rows)
        blocks += _blocks(ctx, name, rows, found)
        data.append(_data(ctx.map, name, rows, found))
    notes = (
        "weights at (a, b): (1 - a - b) base + a first + b second; KL to the base in bits/byte, loss in bits/byte"
        " (arXiv 2502.16173)",
        f"{ctx.floor_words}; below it: *",
        ctx.basis,
    )
    return Section(
        "interpolation", "Interpolated models", tuple(blocks), notes, {"unit": "bits/byte", "grids": data}
    )


def _grid(shown: Map, rows: list[int]) -> dict[Place, tuple[int, KL | None]]:
    """{(a, b): (row, KL to the base)}; the KL is None if the base is not on the map."""
    base = _parts(shown.points[rows[0]])[0]
    known = base in shown.names
    at = shown.row(base) if known else -1
    return {
        (_number(shown.points[r], "a"), _number(shown.points[r], "b")): (
            r,
            shown.pair_rows(at, r) if known else None,
        )
        for r in rows
    }


def _parts(point: Point) -> list[str]:
    """The names of the models that a grid point interpolates, base first: those of its parents, which are up to date.

    If a name contains a comma, the names at the time of scoring are used, which are stored in tags.
    """
    reported = [t.removeprefix("part=") for t in point.tags if t.startswith("part=")]
    parents = [p.strip() for p in point.parent.split(",")]
    return parents if not reported or len(parents) == len(reported) else reported


def _number(point: Point, name: str) -> float:
    """The coordinate `name` of a grid point, from its tags."""
    text = next((t.partition("=")[2] for t in point.tags if t.startswith(f"{name}=")), "nan")
    try:
        return float(text)
    except ValueError:
        return math.nan


def _blocks(
    ctx: Context, name: str, rows: list[int], found: dict[Place, tuple[int, KL | None]]
) -> list[RenderableType]:
    shown = ctx.map
    base, *others = _parts(shown.points[rows[0]])
    blocks: list[RenderableType] = [words(f"{name}: base {base}, a: {', b: '.join(others)}")]
    across, down = sorted({a for a, _ in found}), sorted({b for _, b in found})
    for title, value in (("KL", _kl_of), ("loss", _loss_of)):
        cells = []
        for b in down:
            shown_values = [value(ctx, *found[a, b]) if (a, b) in found else "-" for a in across]
            cells.append([f"b = {b:g}", *shown_values])
        blocks.append(table([title, *(f"a = {a:g}" for a in across)], cells, tight=True))
    return blocks


def _kl_of(ctx: Context, _row: int, kl: KL | None) -> str:
    if kl is None:
        return "-"
    return f"{figure(kl.value)}{'*' if kl.value < ctx.floor else ''}"


def _loss_of(ctx: Context, row: int, _kl: KL | None) -> str:
    return figure(bits_per_byte(ctx.map.loglik_KN[row], ctx.map.text_bytes_N)[0])


def _data(
    shown: Map, name: str, rows: list[int], found: dict[Place, tuple[int, KL | None]]
) -> dict[str, object]:
    base, *others = _parts(shown.points[rows[0]])
    return {
        "grid": name,
        "base": base,
        "others": others,
        "points": [
            {
                "name": shown.names[r],
                "a": a,
                "b": b,
                "kl_to_base_bits_per_byte": kl.value if kl else math.nan,
                "se": kl.se if kl else math.nan,
                "bits_per_byte": bits_per_byte(shown.loglik_KN[r], shown.text_bytes_N)[0],
            }
            for (a, b), (r, kl) in found.items()
        ],
    }
