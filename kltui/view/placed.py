"""The position of a model on a map (a placement), as text, a table and JSON."""

from __future__ import annotations

import json
import math
from typing import TextIO

from rich.console import Console, RenderableType

from kltui.analysis.benchmark import SUSPICIOUS
from kltui.view.report import plain
from kltui.view.sections.context import below
from kltui.view.tables import figure, table, with_error, words
from kltui.workspace.placement import Near, Placement

SHARE = 0.95


def placed_blocks(p: Placement) -> list[RenderableType]:
    """A placement as rich renderables: a table and sentences."""
    over = f"{p.drawn} draws, {p.n_texts} distinct of" if p.drawn else "all"
    blocks: list[RenderableType] = [
        words(f"{p.name} among {p.n_vectors} vectors, on {over} {p.n_corpus} texts"),
        words(f"scored with {p.settings}"),
        table(_headings(p), [_row(p, n) for n in p.nearest]),
        words(_floor(p)),
        words(_on_scale(p)),
        words(_standing(p)),
        *(words(line) for line in _expected(p)),
        words(_leakage(p)),
        *(words(f"note: {note}") for note in p.notes),
    ]
    return blocks


def _headings(p: Placement) -> list[str]:
    if not p.drawn:
        return ["nearest on the map", "KL ± error, bits/byte"]
    return ["nearest on the map", "KL ± error by the draw", "by the whole corpus"]


def _row(p: Placement, n: Near) -> list[str]:
    kl = with_error(n.kl, n.se) + below(n.kl, p.floor)
    return [n.name, kl, f"± {figure(n.se_whole, 2)}"] if p.drawn else [n.name, kl]


def _floor(p: Placement) -> str:
    if math.isnan(p.floor):
        return "noise floor unknown: the dtype of the vectors is not on record"
    same = [n.name for n in p.nearest if n.kl <= p.floor]
    said = f"noise floor: {figure(p.floor, 2)} bits/byte"
    return f"{said}; not distinguishable from {', '.join(same)}" if same else said


def _on_scale(p: Placement) -> str:
    where = p.scale
    if not where.nearest:
        return "on the published scale: not applicable, because its KL to some vector is only rounding"
    parts = ([f"above {where.below}"] if where.below else []) + (
        [f"below {where.above}"] if where.above else []
    )
    return (
        f"on the published scale: its KL to {p.scale_to}, {figure(where.kl)}, lies {' and '.join(parts)};"
        f" nearest in ratio: {where.nearest}"
    )


def _standing(p: Placement) -> str:
    e = p.ellipse.scaled(SHARE)
    spread = (
        f"error ellipse of {SHARE:.0%}: {figure(e.major, 2)} by {figure(e.minor, 2)} at {e.angle:.0f} degrees"
        if math.isfinite(e.major)
        else "error ellipse unknown: too few texts or vectors"
    )
    return f"its position is ({figure(p.x)}, {figure(p.y)}) in the map's PCA, sqrt(bits/byte); {spread}"


def _expected(p: Placement) -> list[str]:
    if not p.expected:
        return [
            "predicted benchmark scores: none, because too few models of the map have scores (kltui --import scores.csv)"
        ]
    lines = [f"predicted benchmark scores, from {p.expected[0].n_models} models:"]
    for e in p.expected:
        error = (
            f" ± {figure(e.error, 2)}"
            if math.isfinite(e.error)
            else ", error unknown (fewer than five types)"
        )
        given = f"; it has {figure(e.given)}" if math.isfinite(e.given) else ""
        lines.append(f"  {e.task}: {figure(e.score)}{error}{given}")
    return lines


def _leakage(p: Placement) -> str:
    leak = p.leakage
    if leak is None:
        return "suspected leakage: unknown, because it needs three or more models with benchmark scores"
    verdict = (
        "it has probably seen these texts" if p.suspicious else f"not suspicious (threshold: {SUSPICIOUS:g})"
    )
    by = "own" if p.expected and math.isfinite(p.expected[0].given) else "predicted"
    return (
        f"suspected leakage: mean log-likelihood {figure(leak.mean_loglik, 5)}, {figure(leak.expected, 5)} expected by its"
        f" {by} score: {figure(leak.z, 2)} robust deviations above the trend: {verdict}"
    )


def print_placement(p: Placement, stream: TextIO, *, as_json: bool = False) -> None:
    """Writes a placement to `stream`, as text or as one JSON object."""
    if as_json:
        json.dump(plain({"placement": p.as_dict()}), stream, indent=1, allow_nan=False)
        stream.write("\n")
        return
    console = Console(file=stream, highlight=False, markup=False, emoji=False, legacy_windows=False)
    for block in placed_blocks(p):
        console.print(block)
