"""Figures of a map: trajectories in two and three dimensions, models with their lineage, layers as trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kltui.analysis.embed import Picture, complete_texts
from kltui.analysis.lineage import parent_pairs, variant_pairs
from kltui.analysis.map import Map
from kltui.analysis.uncertainty import Ellipse
from kltui.errors import KltuiError
from kltui.figures.groups import Colouring, colouring
from kltui.figures.picture import (
    GREY,
    Array,
    Dash,
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    segments,
    slot_colour,
    slot_mark,
    values,
)
from kltui.view.provenance import version_words
from kltui.view.sections.benchmark import scored
from kltui.view.sections.context import PERPLEXITY, Context, complete_words, finals
from kltui.view.sections.layers import Thread, model_slots, of_model, threads
from kltui.view.sections.section import MissingError
from kltui.view.sections.uncertainty import DRAWS, MINIMUM, POINTS_MAX, SHARE, outline
from kltui.view.tables import count

UNIT = "sqrt(bits/byte)"
SMALL, LARGE = 1.6, 4.5
SHADED = "every run is shaded by step, from light (its first) to its full colour (its last)"


def coloured(ctx: Context, by: str) -> Colouring:
    """The colouring of a context's map by `by`."""
    scores = scored(ctx) if by not in ("run", "type", "size", "tag") else {}
    return colouring(ctx.map, by, ctx.slots, scores)


def trajectories(ctx: Context, by: str = "run") -> PaperFigure:
    """The map by t-SNE, if there are enough points, and by PCA with error ellipses; equal units on both axes."""
    shown = _two_or_more(ctx)
    look = coloured(ctx, by)
    panels = []
    notes = [ctx.basis, *complete_words(shown), *_shaded_words(shown, look)]
    if "tsne" in ctx.pictures:
        panels.append(panel("t-SNE", shown, ctx.pictures["tsne"], look, unit=""))
        notes.append(f"t-SNE: perplexity {PERPLEXITY}, init pca, seed 42; its distances have no unit")
    if "pca" in ctx.pictures:
        made = panel(
            f"PCA, {kept_words(ctx.made_pictures['pca'], 2)}", shown, ctx.pictures["pca"][:, :2], look
        )
        layers = _ellipses(ctx, look)
        if layers:
            notes.append(f"outlines: {SHARE:.0%} of {DRAWS} maps from resampled texts, for last checkpoints")
        panels.append(
            Panel(
                made.title, made.x, made.y, (*made.layers, *layers), equal=True, value_label=made.value_label
            )
        )
    if not panels:
        raise ctx.picture_problems[0]
    return PaperFigure(
        "trajectories", "Trajectories", tuple(panels), (*notes, f"made with {version_words()}")
    )


def trajectories_3d(ctx: Context, by: str = "run") -> PaperFigure:
    """The map in three dimensions by PCA, and by t-SNE if there are enough points."""
    shown = _two_or_more(ctx)
    look = coloured(ctx, by)
    panels = []
    if len(shown) > PERPLEXITY:
        ctx.notify(f"t-SNE of {len(shown)} points in three dimensions")
        xyz = shown.coordinates("tsne", 3, perplexity=PERPLEXITY)
        panels.append(panel("t-SNE in three dimensions", shown, xyz, look, unit=""))
    if "pca" not in ctx.made_pictures:
        raise ctx.picture_problems[0]
    kept = kept_words(ctx.made_pictures["pca"], 3)
    panels.append(panel(f"PCA, {UNIT}, {kept}", shown, ctx.pictures["pca"], look, unit=""))
    notes = (ctx.basis, *complete_words(shown), *_shaded_words(shown, look), f"made with {version_words()}")
    return PaperFigure("trajectories-3d", "Trajectories in three dimensions", tuple(panels), notes)


def _shaded_words(shown: Map, look: Colouring) -> tuple[str, ...]:
    """(a note on the meaning of lightness,) if the figure uses it."""
    return (SHADED,) if not look.task and any(len(t.rows) > 1 for t in shown.trajectories()) else ()


def kept_words(made: Picture, dims: int) -> str:
    """The share of the sum of squared distances that the first `dims` axes of a PCA preserve, for a title; equal vectors have none."""
    if not any(made.axis_share):
        return "all vectors are equal"
    return f"{dims} axes keep {sum(made.axis_share[:dims]):.0%}"


METHOD_WORDS = {"tsne": "t-SNE", "pca": "PCA", "mds": "MDS"}


def drawn(
    ctx: Context,
    names: Sequence[str],
    xy_Kd: Array,
    method: str,
    by: str = "run",
    turned: tuple[float, float] | None = None,
) -> PaperFigure:
    """The vectors `names` at the given coordinates `xy_Kd` (K x 2 or 3), which `method` has computed.

    `turned`: azimuth and elevation in degrees of three axes.
    """
    at = {name: k for k, name in enumerate(names)}
    rows = [k for k, name in enumerate(ctx.map.names) if name in at]
    shown = ctx.map.select(rows)
    xy = xy_Kd[[at[name] for name in shown.names]]
    title = METHOD_WORDS.get(method, method)
    unit = UNIT if method in ("pca", "mds") else ""
    look = coloured(ctx, by)
    made = replace(panel(title, shown, xy, look, unit=unit), turned=turned)
    notes = (ctx.basis, *complete_words(shown), *_shaded_words(shown, look), f"made with {version_words()}")
    name = "trajectories-3d" if xy.shape[1] > 2 else "trajectories"
    return PaperFigure(name, "Trajectories", (made,), notes, columns=1)


def _two_or_more(ctx: Context) -> Map:
    if len(ctx.map) < 2:
        raise MissingError(f"only {count(len(ctx.map), 'vector')} on the map", "score more checkpoints")
    return ctx.map


def panel(title: str, shown: Map, xy_Kd: Array, look: Colouring, unit: str = UNIT) -> Panel:
    """One map with its trajectories, models without steps, and lines from parents to children."""
    layers = [*_lines(shown, xy_Kd), *_threads(shown, xy_Kd, look), *_alone(shown, xy_Kd, look)]
    names = [f"axis {k + 1}" + (f", {unit}" if unit else "") for k in range(xy_Kd.shape[1])]
    z = FigureAxis(names[2]) if len(names) > 2 else None
    return Panel(
        title,
        FigureAxis(names[0]),
        FigureAxis(names[1]),
        tuple(layers),
        z,
        equal=True,
        value_label=f"{look.task}, {look.unit}" if look.task else "",
    )


def _lines(shown: Map, xy_Kd: Array) -> list[Layer]:
    """Thin lines from parents to children and from originals to quantised variants."""
    found: tuple[tuple[str, Sequence[tuple[int, int]], Dash], ...] = (
        ("parent to child", parent_pairs(shown.points).pairs, "solid"),
        ("original to quantised", variant_pairs(shown.points), "dotted"),
    )
    return [
        replace(segments(pairs, xy_Kd, label, shown.names), dash=dash)
        for label, pairs, dash in found
        if pairs
    ]


def _layer(
    label: str, xy_Kd: Array, rows: Sequence[int], shown: Map, colour: str, mark: str, **more: object
) -> Layer:
    part = xy_Kd[list(rows)]
    return Layer(
        label,
        part[:, 0],
        part[:, 1],
        z=part[:, 2] if part.shape[1] > 2 else None,
        names=tuple(shown.points[k].name for k in rows),
        steps=tuple(shown.points[k].step for k in rows),
        colour=colour,
        mark=mark,
        **more,  # type: ignore[arg-type]
    )


def _threads(shown: Map, xy_Kd: Array, look: Colouring) -> list[Layer]:
    """Each run as a line shaded by step, with its last checkpoint as a larger marker."""
    layers = []
    for t in shown.trajectories():
        label = look.label(shown.points[t.rows[0]])
        slot = look.slot(label)
        colour, mark = slot_colour(slot), slot_mark(slot)
        if look.task:
            value = values([look.score(shown.points[k]) for k in t.rows])
            layers.append(_layer("", xy_Kd, t.rows, shown, GREY, "", width=0.5))
            layers.append(_layer("", xy_Kd, t.rows, shown, GREY, "o", kind="points", value=value, size=LARGE))
            continue
        layers.append(_layer("", xy_Kd, t.rows, shown, colour, mark, shaded=True, size=SMALL))
        layers.append(_layer(label, xy_Kd, t.rows[-1:], shown, colour, mark, kind="points", size=LARGE))
    return layers


def _alone(shown: Map, xy_Kd: Array, look: Colouring) -> list[Layer]:
    """Models without steps, one layer per series, or one layer coloured by score."""
    threaded = {k for t in shown.trajectories() for k in t.rows} | set(shown.repeats.left_out)
    rows = [k for k, p in enumerate(shown.points) if k not in threaded and p.layer is None]
    size = LARGE if len(rows) < 100 else 2.5
    if look.task:
        value = values([look.score(shown.points[k]) for k in rows])
        return (
            [_layer("", xy_Kd, rows, shown, GREY, "o", kind="points", value=value, size=size)] if rows else []
        )
    groups: dict[str, list[int]] = {}
    for k in rows:
        groups.setdefault(look.label(shown.points[k]), []).append(k)
    return [
        _layer(
            label,
            xy_Kd,
            of,
            shown,
            slot_colour(look.slot(label)),
            slot_mark(look.slot(label)),
            kind="points",
            size=size,
        )
        for label, of in groups.items()
    ]


def _ellipses(ctx: Context, look: Colouring) -> list[Layer]:
    """Error ellipses of the last checkpoints of runs; none on maps with too few or too many points."""
    if not MINIMUM <= len(ctx.map) <= POINTS_MAX:
        return []
    try:
        ctx.notify(f"{DRAWS} resampled maps of {len(ctx.map)} points")
        _, found = ctx.map.error_ellipses("pca", draws=DRAWS)
    except KltuiError:
        return []
    return [_outline(found[k], look, ctx.map, k) for k in finals(ctx.map) if math.isfinite(found[k].major)]


def _outline(e: Ellipse, look: Colouring, shown: Map, row: int) -> Layer:
    x, y = outline(e.scaled(SHARE))
    colour = GREY if look.task else slot_colour(look.slot(look.label(shown.points[row])))
    return Layer("", x, y, names=(shown.names[row],) * len(x), colour=colour, width=0.6)


def layers(ctx: Context) -> PaperFigure:
    """KL from layer to layer, and one map with the layers of every model as a trajectory and the models themselves."""
    if not any(row.layers for row in ctx.rows):
        raise MissingError("no layer vectors are stored", 'score with layers = "all" in the [scoring] table')
    found = [t for t in threads(ctx.layered) if t.steps]
    if not found:
        raise MissingError("no model has layer vectors of two layers", 'score with layers = "all"')
    held = list(dict.fromkeys(t.model for t in found))
    whole = ctx.layered
    slots = model_slots(ctx, held)
    rows = [k for k, p in enumerate(whole.points) if of_model(p) in held or p.name in held]
    part = whole.select(rows)
    curve = Panel(
        "KL to the previous layer",
        FigureAxis("layer k", whole=True),
        FigureAxis("KL, bits/byte", "log"),
        _layer_curves(found, slots),
    )
    panels = (curve, layer_map(part, "tsne" if len(part) > PERPLEXITY else "pca", held, slots=slots))
    notes = (
        "layer 0 is the embedding output; the model's own norm and head are applied to each layer; large markers: the models",
        f"raw layer vectors of each run's last checkpoint; {len(complete_texts(part.loglik_KN))} texts",
        "bars: one standard error over texts",
        f"made with {version_words()}",
    )
    return PaperFigure("layers", "Layers", panels, notes)


def _layer_curves(found: Sequence[Thread], slots: Mapping[str, int]) -> tuple[Layer, ...]:
    made = []
    for t in found:
        slot = slots[t.model]
        kl = values([k.value for _, _, k in t.steps])
        se = values([k.se for _, _, k in t.steps])
        x = values([b for _, b, _ in t.steps])
        made.append(
            Layer(t.model, x, kl, low=kl - se, high=kl + se, colour=slot_colour(slot), mark=slot_mark(slot))
        )
    return tuple(made)


def layer_map(
    part: Map,
    method: str,
    models: Sequence[str],
    xy_K2: Array | None = None,
    title: str = "",
    slots: Mapping[str, int] | None = None,
) -> Panel:
    """A map with the layers of every model as a line, light at the embedding; a large marker shows the model itself.

    `xy_K2` are coordinates computed elsewhere (None: they are computed by `method`).
    """
    xy = part.coordinates(method, 2, perplexity=PERPLEXITY) if xy_K2 is None else xy_K2  # type: ignore[arg-type]
    made = []
    for number, model in enumerate(dict.fromkeys(models)):
        slot = number if slots is None else slots[model]
        own = sorted(
            (p.layer, k) for k, p in enumerate(part.points) if p.layer is not None and of_model(p) == model
        )
        rows = [k for _, k in own]
        colour, mark = slot_colour(slot), slot_mark(slot)
        made.append(_layer(model, xy, rows, part, colour, mark, shaded=True, size=2.2))
        whole = [k for k, p in enumerate(part.points) if p.name == model]
        if whole:
            made.append(_layer("", xy, whole, part, colour, mark, kind="points", size=LARGE))
    name, unit = ("t-SNE of layers", "") if method == "tsne" else ("PCA of layers", f", {UNIT}")
    return Panel(
        title or name, FigureAxis(f"axis 1{unit}"), FigureAxis(f"axis 2{unit}"), tuple(made), equal=True
    )
