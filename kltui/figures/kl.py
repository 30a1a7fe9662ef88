"""Figures of KL between models: the scale's settings, the matrix, the trees, the drivers of one KL, quantisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.colour_ends import ColourEnds, colour_ends
from kltui.analysis.floors import FLOAT32_FLOOR
from kltui.analysis.map import Map
from kltui.analysis.neighbours import Clustering
from kltui.analysis.number_text import figure
from kltui.analysis.scale import ScaleRow
from kltui.analysis.tree import TreeFork
from kltui.figures.picture import (
    DARK,
    GREY,
    Array,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    slot_colour,
    slot_mark,
    values,
)
from kltui.view.sections import drivers as drivers_section
from kltui.view.sections import quantisation as quantisation_section
from kltui.view.sections.context import Context, finals, thinned
from kltui.view.sections.section import MissingError
from kltui.view.sections.tree import BRANCHES
from kltui.view.tables import count, with_error

MATRIX_MAX = 60
NAMED_MAX = 40  # number of rows of a matrix that are named; if there are more, every second, third and so on
KL_AXIS = "KL, bits/byte"
ON_BRIGHT = "#202020"  # of marks on the brightest cells, whatever the ground of the figure
CELLS_ACROSS = 130.0  # width in points of a matrix drawn by its script


def scale(ctx: Context) -> PaperFigure:
    """The ten settings of the scale: every pair, the median with its quartiles, and the published median."""
    rows = ctx.scale_rows
    if not any(r.n for r in rows):
        raise MissingError("the scale has no setting here", "; ".join(f"{r.setting} {r.note}" for r in rows))
    notes = [f"{r.setting}: {r.note}" for r in rows]
    published = "published: medians of arXiv 2505.15353 for Pythia and hub models"
    below = sum(0 < v < _floor(ctx) for r in rows for v in r.values)
    if below:
        notes.append(
            f"{count(below, 'pair')} below the noise floor of {_floor(ctx):.1g} bits/byte: not drawn, but in the CSV of the figure"
        )
    return PaperFigure(
        "scale",
        "The scale of KL",
        (scale_panel(rows, floor=_floor(ctx)),),
        (published, ctx.basis, *notes),
        columns=1,
    )


def _floor(ctx: Context) -> float:
    """The KL in bits/byte that rounding alone can cause; if it is not known, that of float32."""
    return FLOAT32_FLOOR if math.isnan(ctx.floor) else ctx.floor


def _from_floor(value: Array, floor: float) -> tuple[float, float] | None:
    """(smallest, largest) of the positive values not below `floor`; None if no value is below it, or all are."""
    known = value[np.isfinite(value) & (value > 0)]
    above = known[known >= floor]
    if not len(above) or len(above) == len(known):
        return None
    return float(above.min()), float(above.max())


def scale_panel(rows: Sequence[ScaleRow], title: str = "The scale of KL", floor: float = 0.0) -> Panel:
    """The settings side by side: pairs as small points, medians with quartiles, published medians as lines.

    Values below `floor` (bits/byte) do not extend the axis.
    """
    here = [(k, r) for k, r in enumerate(rows) if r.n]
    layers = []
    for k, r in here:
        value = values(r.values)
        x = k + 0.5 * (_scattered(len(value)) - 0.5)
        names = tuple(f"{a} | {b}" for a, b in r.pairs)
        colour = slot_colour(k)
        layers.append(Layer("", x, value, "points", names=names, colour=colour, mark="o", size=1.2))
    x, median = values([k for k, _ in here]), values([r.median for _, r in here])
    low, high = values([r.q25 for _, r in here]), values([r.q75 for _, r in here])
    label = "median here, with quartiles"
    layers.append(Layer(label, x, median, "points", low=low, high=high, colour=DARK, mark="D", size=3.5))
    every = values(range(len(rows)))
    reported = values([r.published for r in rows])
    layers.append(
        Layer("published median", every, reported, "points", colour="#c03028", mark="_", size=9.0, width=1.6)
    )
    ticks = tuple((float(k), f"{r.setting} ({r.n})" if r.n else r.setting) for k, r in enumerate(rows))
    limits = _from_floor(np.concatenate([layer.y for layer in layers]), floor)
    limits = limits and (limits[0] / 2, 2 * limits[1])
    return Panel(
        title,
        FigureAxis("setting (pairs)", ticks=ticks),
        FigureAxis(KL_AXIS, "log", limits=limits),
        tuple(layers),
    )


def _scattered(n: int) -> Array:
    """n positions in [0, 1) that fill it evenly and are always the same (multiples of the golden ratio)."""
    return values(np.mod(np.arange(n) * 0.6180339887498949 + 0.5, 1.0))


def matrix(ctx: Context) -> PaperFigure:
    """KL between the last checkpoints of runs as a matrix of coloured cells, similar models next to each other."""
    rows = finals(ctx.map)
    if len(rows) < 2:
        raise MissingError(
            f"only {count(len(rows), 'run')} on the map, and this figure shows KL between runs",
            "score a second run or model on the same corpus",
        )
    ends = ctx.map.select(rows)
    shown = ends.select(thinned(ends, MATRIX_MAX)[:MATRIX_MAX]) if len(ends) > MATRIX_MAX else ends
    notes = [f"{ctx.basis}; ±, and low and high in the CSV: one standard error over texts"]
    if len(shown) < len(ends):
        notes.append(f"{len(shown)} of {len(ends)} models; kltui --export has all pairs")
    panel = matrix_panel(shown, floor=_floor(ctx))
    notes += _colours_note(panel)
    return PaperFigure("matrix", "KL between models", (panel,), tuple(notes), columns=1)


def matrix_of(ctx: Context, names: Sequence[str]) -> PaperFigure:
    """KL between the vectors `names` as a matrix in that order. Raises MissingError if fewer than two are on the map."""
    at = {name: k for k, name in enumerate(ctx.map.names)}
    shown = ctx.map.select([at[name] for name in names if name in at])
    if len(shown) < 2:
        raise MissingError("a KL needs two or more models", "select two or more that are scored")
    panel = matrix_panel(shown, "KL between checkpoints", kept_order=True, floor=_floor(ctx))
    basis = f"{ctx.basis}; ±, and low and high in the CSV: one standard error over texts"
    notes = (basis, *_colours_note(panel))
    return PaperFigure("matrix", "KL between models", (panel,), notes, columns=1)


def _colours_note(panel: Panel) -> list[str]:
    if not panel.value_beyond or panel.value_limits is None:
        return []
    low, high = panel.value_limits
    return [f"colours: {figure(low, 2)} to {figure(high, 2)} bits/byte; {panel.value_beyond}"]


def matrix_panel(
    shown: Map, title: str = "KL between last checkpoints", *, kept_order: bool = False, floor: float = 0.0
) -> Panel:
    """The KL matrix, ordered by hierarchical clustering if every KL is defined; the smallest KL is the brightest.

    Values below `floor` (bits/byte) are as bright as the smallest KL above it, and those far out have the colours of the ends.
    A KL of 0 and an undefined one are marked.
    """
    kl, se = shown.kl(), shown.kl_se()
    sorts = not kept_order and len(shown) > 2 and bool(np.isfinite(kl).all())
    order = shown.clustering().order if sorts else np.arange(len(shown))
    names = [shown.names[k] for k in order]
    x, y = (v.ravel().astype(np.float64) for v in np.meshgrid(range(len(order)), range(len(order))))
    value, error = (m[np.ix_(order, order)].ravel() for m in (kl, se))
    value = np.where(x == y, np.nan, value)
    cells = Layer(
        "",
        x,
        y,
        "cells",
        low=value - error,
        high=value + error,
        value=value,
        names=tuple(f"{a} | {b}" for a in names for b in names),
        size=CELLS_ACROSS / len(names),
    )
    odd = (
        _marked(cells, value == 0, "KL = 0: equal on every text", "o", ON_BRIGHT),
        _marked(cells, np.isnan(value) & (x != y), "undefined: too few texts in common", "x", GREY),
    )
    found = colour_ends(value, floor)
    ticks = tuple((float(k), name) for k, name in enumerate(names))
    if len(names) > NAMED_MAX:
        ticks = ticks[:: -(-len(names) // NAMED_MAX)]
    return Panel(
        title,
        FigureAxis(ticks=ticks),
        FigureAxis(ticks=ticks),
        (cells, *(layer for layer in odd if len(layer.x))),
        value_label=KL_AXIS,
        value_log=True,
        value_limits=_limits(found, floor),
        value_beyond=_beyond(found, floor),
    )


def _limits(found: ColourEnds, floor: float) -> tuple[float, float] | None:
    """The limits of the colours of a matrix, which differ; None if no KL is positive."""
    low, high = found.ends or (floor, floor)
    if found.ends is None and not found.noise:
        return None
    return low, high if high > low else 10 * low  # one KL alone is as bright as can be


def _beyond(found: ColourEnds, floor: float) -> str:
    """Which KLs are beyond the ends of the colours of a matrix; "" if none is."""
    if found.ends is None:
        return f"every KL is below the noise floor of {figure(floor, 2)}" if found.noise else ""
    said = [f"noise below {figure(floor, 2)}"] * found.noise
    said += [f"KLs from {figure(found.smallest, 2)}"] * (found.smallest < found.ends[0])
    said += [f"KLs to {figure(found.largest, 2)}"] * (found.largest > found.ends[1])
    return f"beyond the ends: {', '.join(said)}" if said else ""


def _marked(cells: Layer, which: NDArray[np.bool_], label: str, mark: str, colour: str) -> Layer:
    """Marks on those cells of a matrix whose colour says too little."""
    names = tuple(name for name, marked in zip(cells.names, which, strict=True) if marked)
    size = min(4.0, max(1.3, 0.4 * cells.size))
    return Layer(
        label, cells.x[which], cells.y[which], "points", names=names, colour=colour, mark=mark, size=size
    )


def tree(ctx: Context) -> PaperFigure:
    """Trees of the last checkpoints of runs by neighbour joining and average linkage, with the support of every fork."""
    found = ctx.forest
    names = found.leaves.names
    panels = (
        fork_panel(found.trees.joined, names, "Neighbour joining"),
        fork_panel(found.trees.linked, names, "Average linkage"),
    )
    support = f"support: share of {found.trees.n_draws} draws of the texts whose tree has the same fork"
    notes = [BRANCHES, "neighbour joining is unrooted: its top is not an ancestor", support, ctx.basis]
    notes += [ctx.tree_without] if ctx.tree_without else []
    return PaperFigure("tree", "Trees of models", panels, tuple(notes))


def fork_panel(top: TreeFork, names: Sequence[str], title: str) -> Panel:
    """A tree with branches as long as their KL, leaves on the y axis, forks coloured by their support."""
    leaves = [node.row for node in top.nodes() if not node.children]
    places: dict[
        int, tuple[float, float]
    ] = {}  # {id of a node: (x, distance from the top; y, position among the leaves)}
    _place(top, 0.0, {row: k for k, row in enumerate(leaves)}, places)
    made = []
    for node in top.nodes():
        x, y = places[id(node)]
        for child in node.children:
            x_child, y_child = places[id(child)]
            label = names[child.row] if not child.children else f"{len(child.leaves())} models"
            branch = values([x, x, x_child]), values([y, y_child, y_child])
            made.append(Layer("", *branch, names=(label,) * 3, colour=DARK, width=0.7))
    forks = [node for node in top.nodes() if node.support is not None]
    if forks:
        at = values([places[id(node)] for node in forks])
        value = values([node.support for node in forks])
        made.append(Layer("", at[:, 0], at[:, 1], "points", value=value, colour=DARK, mark="o", size=4.0))
    ticks = tuple((float(k), names[row]) for k, row in enumerate(leaves))
    label = "support of the fork" if forks else ""
    return Panel(
        title,
        FigureAxis("branches from the top, KL in bits/byte"),
        FigureAxis(ticks=ticks, limits=_rows(len(ticks))),
        tuple(made),
        value_label=label,
        value_limits=(0.0, 1.0),
    )


def _place(
    node: TreeFork, x: float, order: Mapping[int, int], places: dict[int, tuple[float, float]]
) -> float:
    """Stores the positions of a node and all below it in `places`; returns its y, the mean of its children's."""
    below = [_place(child, x + child.length, order, places) for child in node.children]
    y = sum(below) / len(below) if below else float(order[node.row])
    places[id(node)] = (x, y)
    return y


def tree_panel(made: Clustering, names: Sequence[str], title: str = "Tree of models") -> Panel:
    """A dendrogram: leaves on the y axis, forks at the sqrt(KL) at which their branches merge."""
    K = len(names)
    at = {int(leaf): (0.0, float(k)) for k, leaf in enumerate(made.order)}
    layers = []
    for k, (a, b, height, size) in enumerate(made.merges):
        (xa, ya), (xb, yb) = at[int(a)], at[int(b)]
        at[K + k] = (float(height), (ya + yb) / 2)
        place = values([xa, height, height, xb]), values([ya, ya, yb, yb])
        layers.append(Layer("", *place, names=(f"{int(size)} models",) * 4, colour=DARK, width=0.7))
    ticks = tuple((float(k), names[leaf]) for k, leaf in enumerate(made.order))
    leaves = FigureAxis(ticks=ticks, limits=_rows(len(ticks)))
    return Panel(title, FigureAxis("sqrt(KL), sqrt(bits/byte)"), leaves, tuple(layers))


def _rows(n: int) -> tuple[float, float]:
    """The limits of an axis of n names, without empty space before the first or after the last."""
    return -0.7, n - 0.3


def drivers(ctx: Context) -> PaperFigure:
    """The drivers of one KL: the share of each domain next to its share of texts, and the cumulative share of the texts."""
    data = drivers_section.drivers(ctx).data
    a, b = str(data["a"]), str(data["b"])
    domains, texts = _dicts(data["domains"]), _dicts(data["texts"])
    pair = f"{a} against {b}"  # in the titles, because a figure is often shown without its notes
    panels = [_shares_by_domain(pair, domains)] if domains else []
    panels.append(_shares_by_text(pair, texts))
    notes = (
        f"{pair}: {with_error(float(str(data['kl_bits_per_byte'])), float(str(data['se'])))} bits/byte",
        ctx.raw_basis,
    )
    return PaperFigure("drivers", f"What drives KL({a}, {b})", tuple(panels), notes)


def _shares_by_domain(pair: str, domains: Sequence[Mapping[str, object]]) -> Panel:
    x = values(range(len(domains)))
    layers = [
        Layer(
            name,
            x + shift,
            values([d[key] for d in domains]),
            "points",
            colour=slot_colour(k),
            mark=mark,
            size=4,
        )
        for k, (name, key, shift, mark) in enumerate(
            (("share of the KL", "kl_share", -0.1, "o"), ("share of the texts", "text_share", 0.1, "s"))
        )
    ]
    ticks = tuple((float(k), str(d["domain"]) or "(none)") for k, d in enumerate(domains))
    return Panel(
        f"{pair}, by domain",
        FigureAxis(ticks=ticks, limits=(-0.6, len(domains) - 0.4)),
        FigureAxis("share"),
        (*map(_stem, layers), *layers),
    )


def _shares_by_text(pair: str, texts: Sequence[Mapping[str, object]]) -> Panel:
    grown = np.cumsum(values([t["share"] for t in texts]))
    names = tuple(f"text {t['index']}" for t in texts)
    sums = Layer("", values(range(1, len(grown) + 1)), grown, names=names, colour=slot_colour(0), width=1.2)
    return Panel(
        f"{pair}, by text",
        FigureAxis("texts, by falling share"),
        FigureAxis("share of the KL", limits=(0.0, 1.0)),
        (sums,),
    )


def _stem(layer: Layer) -> Layer:
    """Vertical lines from 0 to the layer's points."""
    flat = [(x, v) for x, y in zip(layer.x, layer.y, strict=True) for v in (0.0, y, math.nan)]
    x, y = (values(v) for v in zip(*flat, strict=True))
    return Layer("", x, y, colour=layer.colour, width=1.0)


def quantisation(ctx: Context) -> PaperFigure:
    """KL of every model to its quantised variants with errors, and the cosines between their shifts."""
    data = quantisation_section.quantisation(ctx).data
    rows, cosines = _dicts(data["variants"]), _dicts(data["cosines"])
    models = list(dict.fromkeys(str(r["model"]) for r in rows))
    kinds = list(dict.fromkeys(str(r["quantization"]) for r in rows))
    layers = []
    for slot, kind in enumerate(kinds):
        own = [r for r in rows if r["quantization"] == kind]
        x = values([models.index(str(r["model"])) + 0.15 * (slot - (len(kinds) - 1) / 2) for r in own])
        kl, se = values([r["kl_bits_per_byte"] for r in own]), values([r["se"] for r in own])
        names = tuple(str(r["variant"]) for r in own)
        layers.append(
            Layer(
                kind,
                x,
                kl,
                "points",
                low=kl - se,
                high=kl + se,
                names=names,
                colour=slot_colour(slot),
                mark=slot_mark(slot),
                size=3.5,
            )
        )
    ticks = tuple((float(k), m) for k, m in enumerate(models)) if len(models) <= MATRIX_MAX else ()
    panels = [
        Panel(
            "KL to the quantised variant",
            FigureAxis("" if ticks else "model", ticks=ticks),
            FigureAxis(KL_AXIS, "log"),
            tuple(layers),
        )
    ]
    if cosines and len(models) <= MATRIX_MAX:
        panels.append(_cosines(cosines))
    notes = (
        f"bits/byte, bars: one standard error over texts; {ctx.basis}",
        "published cosines within a family: 0.91 to 0.98",
    )
    return PaperFigure("quantisation", "Quantisation", tuple(panels), notes)


def _cosines(rows: Sequence[dict[str, object]]) -> Panel:
    names = list(dict.fromkeys(str(r[side]) for r in rows for side in ("a", "b")))
    at = {name: k for k, name in enumerate(names)}
    pairs = [(at[str(r[p])], at[str(r[q])], r["cosine"]) for r in rows for p, q in (("a", "b"), ("b", "a"))]
    x, y, value = (values(v) for v in zip(*pairs, strict=True))
    reported = tuple(f"{names[int(i)]} | {names[int(j)]}" for i, j in zip(y, x, strict=True))
    ticks = tuple((float(k), name) for k, name in enumerate(names))
    cells = Layer("", x, y, "cells", value=value, names=reported, size=CELLS_ACROSS / len(names))
    known = value[np.isfinite(value)]
    limits = (float(known.min()), 1.0) if len(known) else (0.0, 1.0)
    return Panel(
        "Cosine of shifts",
        FigureAxis(ticks=ticks),
        FigureAxis(ticks=ticks),
        (cells,),
        value_label="cosine",
        value_limits=limits,
    )


def _dicts(rows: object) -> list[dict[str, object]]:
    assert isinstance(rows, list)
    return rows
