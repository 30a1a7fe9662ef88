"""Figures and tables of Kishino et al., arXiv 2505.15353, from its released files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kltui.analysis.diffusion import PUBLISHED_EXPONENTS, Exponent
from kltui.analysis.lineage import quantization_pairs
from kltui.analysis.map import ConsecutiveKL, Map
from kltui.analysis.preprocess import PYTHIA_EXCLUDED
from kltui.analysis.scale import PUBLISHED, ScaleRow, row_of, scale
from kltui.figures.curves import exponent_panel, steps
from kltui.figures.groups import Colouring, colouring
from kltui.figures.kl import KL_AXIS, scale_panel
from kltui.figures.maps import layer_map, panel
from kltui.figures.picture import FigureAxis, Layer, Panel, PaperFigure, slot_colour, slot_mark, values
from kltui.figures.reproduce.item import KISHINO, Number, ReproducedItem, Result, medians
from kltui.figures.reproduce.pairs import as_rows, published_pairs
from kltui.figures.reproduce.release import Release
from kltui.view.sections.layers import threads
from kltui.view.sections.section import MissingError

WINDOW, WARM_UP, START = 10, 2000, 120_000
PERPLEXITY, TUNING_PERPLEXITY = 30.0, 20.0
# The table of version 1: KL of 410m between neighbouring thousands, and to other sizes; layers of Llama-2-7b.
STEPS_V1 = {(10_000, 11_000): 0.069, (50_000, 51_000): 0.053, (100_000, 101_000): 0.023}
SEEDS_V1, SIZES_V1 = 0.11, {"1b": 0.28, "1.4b": 0.52, "2.8b": 1.0, "6.9b": 1.7}
LAYERS_V1 = {(1, 2): 0.61, (16, 17): 1.6, (31, 32): 1.3}
COSINES = (0.91, 0.98)


def _slots(shown: Map) -> dict[str, int]:
    return {t.label: k for k, t in enumerate(shown.trajectories())}


def trajectories(release: Release) -> Result:
    """Figure 1: pretraining trajectories by t-SNE, as released and computed here."""
    shown = release.pretraining
    look = colouring(shown, "run", _slots(shown))
    panels = []
    found = release.coordinates("pretraining", shown)
    if found is not None:
        panels.append(panel("released coordinates", shown, found, look, unit=""))
    panels.append(
        panel("t-SNE, computed", shown, shown.coordinates("tsne", 2, perplexity=PERPLEXITY), look, unit="")
    )
    note = f"{len(shown)} checkpoints over {len(shown.text_bytes_N)} texts; perplexity 30, init pca, seed 42"
    picture = PaperFigure("trajectories", "Pretraining trajectories", tuple(panels), (note,))
    return Result((picture,), _prepared_numbers(shown))


def _prepared_numbers(shown: Map) -> tuple[Number, ...]:
    record = shown.record["preprocess"]
    assert isinstance(record, dict)
    return (
        Number("checkpoints", float(len(shown)), unit=""),
        Number("texts in use", float(len(shown.text_bytes_N)), unit=""),
        Number("outlier texts removed", float(len(record["removed_texts"])), 300.0, unit=""),
        Number("mean bytes of the texts in use", float(shown.text_bytes_N.mean()), unit="bytes"),
        Number("clip threshold", float(record["clip_threshold"]), unit="nats"),
    )


def spiral(release: Release) -> Result:
    """Version 1 of the paper: the same trajectories in three dimensions, the spiral."""
    shown = release.pretraining
    look = colouring(shown, "run", _slots(shown))
    xyz = shown.coordinates("tsne", 3, perplexity=PERPLEXITY)
    made = panel("t-SNE in three dimensions", shown, xyz, look, unit="")
    return Result((PaperFigure("spiral", "Trajectories in three dimensions", (made,), columns=1),))


def quantised_map(release: Release) -> Result:
    """Figure 2 (a): models and their 8-bit variants by t-SNE; cosines between their shifts."""
    every = quantization_pairs(release.whole.points, 8).pairs
    if not every:
        raise MissingError(
            "no models with 8-bit variants", "logp/8bit_quantization_logp.pkl and the models' own vectors"
        )
    numbers = [*_cosines(release, 8), *_cosines(release, 4)]
    shown = release.whole.select([a for a, _ in every] + [b for _, b in every])
    return Result(
        _pictures(release, "quantisation", "Models and their 8-bit variants", shown, PERPLEXITY),
        tuple(numbers),
    )


def _cosines(release: Release, bits: int) -> list[Number]:
    """Median cosine between the shifts of two models of the same type, and of different types."""
    pairs = quantization_pairs(release.whole.points, bits).pairs
    if len(pairs) < 2:
        return []
    shown = release.whole.select([k for pair in pairs for k in pair])
    moved = shown.quantization_shifts(bits)
    kinds = [shown.points[shown.row(name)].type for name in moved.names]
    i, j = np.triu_indices(len(kinds), 1)
    same = np.array([kinds[a] == kinds[b] != "" for a, b in zip(i, j, strict=True)], dtype=bool)
    note = f"published: {COSINES[0]} to {COSINES[1]} within a family"
    cosine = moved.cosine[i, j]
    return [
        medians(f"{bits}-bit shifts: cosine within a type", cosine[same].tolist(), unit="", note=note),
        medians(f"{bits}-bit shifts: cosine across types", cosine[~same].tolist(), unit=""),
    ]


def tuned_map(release: Release) -> Result:
    """Figure 2 (b): fine-tuned models and their parents by t-SNE."""
    related = as_rows(release, published_pairs(release).related)
    if not related:
        raise MissingError(
            "no fine-tuned model with its parent", "model_info/sibling_info.json, or tags base_model:NAME"
        )
    shown = release.whole.select(sorted({k for pair in related for k in pair}))
    numbers = (Number("models", float(len(shown)), unit=""), Number("pairs", float(len(related)), unit=""))
    return Result(_pictures(release, "fine-tuning", "Fine-tuned models", shown, TUNING_PERPLEXITY), numbers)


def _pictures(
    release: Release, name: str, title: str, shown: Map, perplexity: float
) -> tuple[PaperFigure, ...]:
    """A map of models coloured by type: with the released coordinates, if there are any, and as computed here."""
    look = _by_type(shown)
    found = release.coordinates(name, shown)
    panels = [] if found is None else [panel("released coordinates", shown, found, look, unit="")]
    if len(shown) > perplexity:
        xy = shown.coordinates("tsne", 2, perplexity=perplexity)
        panels.append(panel("t-SNE, computed", shown, xy, look, unit=""))
    else:
        panels.append(panel("PCA: too few models for t-SNE", shown, shown.coordinates("pca", 2), look))
    return (PaperFigure(name, title, tuple(panels), (f"{len(shown)} vectors, perplexity {perplexity:g}",)),)


def _by_type(shown: Map) -> Colouring:
    return colouring(shown, "type")


def layers(release: Release) -> Result:
    """Figure 2 (c): the layers of all models in one t-SNE; KL from layer to layer."""
    rows = [k for k, p in enumerate(release.whole.points) if p.layer is not None]
    if not rows:
        raise MissingError("no layer vectors", "logp/layer_logp.pkl")
    shown = release.whole.select(rows)
    models = list(dict.fromkeys(p.name.rpartition("#")[0] for p in shown.points))
    found = release.coordinates("layer", shown)
    panels = [] if found is None else [layer_map(shown, "tsne", models, found, "released coordinates")]
    if len(shown) > PERPLEXITY:
        panels.append(layer_map(shown, "tsne", models))
    curves = [
        Layer(
            t.model,
            values([b for _, b, _ in t.steps]),
            values([kl.value for _, _, kl in t.steps]),
            colour=slot_colour(k),
            mark="",
            width=0.6,
        )
        for k, t in enumerate(threads(shown))
        if t.steps
    ]
    panels.append(
        Panel(
            "KL to the previous layer",
            FigureAxis("layer k", whole=True),
            FigureAxis(KL_AXIS, "log"),
            tuple(curves),
        )
    )
    picture = PaperFigure(
        "layers",
        "Layers of all models",
        tuple(panels),
        (f"{len(shown)} layer vectors of {len(models)} models",),
    )
    return Result((picture,), _llama_layers(shown))


def _llama_layers(shown: Map) -> tuple[Number, ...]:
    """KL between the layers of Llama-2-7b that version 1 of the paper reports, if `shown` has them."""
    found = [t for t in threads(shown) if t.model.lower().endswith("llama-2-7b-hf")]
    return tuple(
        Number(
            f"{t.model}: layer {a} to {b}",
            kl.value,
            LAYERS_V1[a, b],
            kl.value - kl.se,
            kl.value + kl.se,
            1,
            note="version 1",
        )
        for t in found
        for a, b, kl in t.steps
        if (a, b) in LAYERS_V1
    )


def settings(release: Release) -> Result:
    """Figure 3: the ten settings, with the published random pairs next to kltui's own."""
    rows = scale(release.whole, pretraining=_has_runs(release), exclude=PYTHIA_EXCLUDED)
    drawn = published_pairs(release)
    as_published = {
        "fine-tuning": (drawn.related, "(child, parent) of sibling_info.json"),
        "within type": (drawn.within, "random pairs within types as published (seed 0)"),
        "random": (drawn.over_all, "random pairs over all as published (seed 0)"),
    }
    shown: list[ScaleRow] = []
    numbers = []
    for row, setting in zip(rows, PUBLISHED, strict=False):
        pairs, note = as_published.get(row.setting, ([], ""))
        used = row_of(release.whole, setting, as_rows(release, pairs), note) if pairs else row
        shown.append(used)
        numbers.append(_number(used))
        if pairs:
            numbers.append(_number(row, f"{row.setting}, kltui's own pairs"))
    if not any(r.n for r in shown):
        raise MissingError("none of the ten settings", "; ".join(f"{r.setting} {r.note}" for r in rows))
    notes = tuple(f"{r.setting}: {r.note}" for r in shown)
    return Result(
        (PaperFigure("scale", "The scale of KL", (scale_panel(shown),), notes, columns=1),), tuple(numbers)
    )


def _has_runs(release: Release) -> bool:
    return any(p.step is not None for p in release.whole.points)


def _number(row: ScaleRow, name: str = "") -> Number:
    return Number(name or row.setting, row.median, row.published, row.q25, row.q75, row.n, note=row.note)


def pretraining_kl(release: Release) -> Result:
    """Figure 4: KL between neighbouring checkpoints during and after the warm-up."""
    shown = release.main
    runs: dict[str, list[ConsecutiveKL]] = {}
    for one in shown.consecutive():
        runs.setdefault(one.run, []).append(one)
    slots = _slots(shown)
    parts = {
        "During warm-up": (
            {r: [c for c in v if c.step_from < WARM_UP] for r, v in runs.items()},
            "symlog",
            "linear",
        ),
        "After warm-up": (
            {r: [c for c in v if c.step_from >= WARM_UP] for r, v in runs.items()},
            "linear",
            "log",
        ),
    }
    panels = tuple(
        Panel(
            title,
            FigureAxis("step", x),  # type: ignore[arg-type]
            FigureAxis(KL_AXIS, y),  # type: ignore[arg-type]
            steps({r: v for r, v in part.items() if v}, slots),
        )
        for title, (part, x, y) in parts.items()
        if any(part.values())
    )
    numbers = [
        medians(f"{run}: consecutive KL from step {WARM_UP}", [c.kl for c in found if c.step_from >= WARM_UP])
        for run, found in runs.items()
    ]
    note = "placed at the later of the two steps; the paper places them at the earlier"
    return Result((PaperFigure("pretraining-kl", "KL during pretraining", panels, (note,)),), tuple(numbers))


def exponents(release: Release) -> list[Exponent]:
    """Diffusion exponents of the main runs, prepared as published, in both spaces."""
    return release.main.diffusion(release.weight_sqdist or None, window=WINDOW, from_step="auto")


def diffusion(release: Release) -> Result:
    """Figure 5 and the table of exponents: distances from step 120,000, exponents of every window, medians by size."""
    shown, found = release.main, exponents(release)
    if not found:
        raise MissingError("no run with eleven evenly saved checkpoints", "logp/pretraining_logp.pkl whole")
    slots = _slots(shown)
    start = START if any(e.start == START for e in found) else max(e.start for e in found)
    panels = [_growth(release, start, slots, weights=False)]
    if release.weight_sqdist:
        panels.append(_growth(release, start, slots, weights=True))
    panels.append(exponent_panel(found, slots))
    picture = PaperFigure("diffusion", "Diffusion in likelihood and weight space", tuple(panels), columns=3)
    return Result((picture,), tuple(n for run in slots for n in _exponent_numbers(run, found)))


def _exponent_numbers(run: str, found: Sequence[Exponent]) -> list[Number]:
    own = [e for e in found if e.run == run]
    reported = PUBLISHED_EXPONENTS.get(run.removeprefix("pythia-"), (math.nan,) * 3)
    parts = (
        ("c_w", [e.c_w for e in own], reported[0]),
        ("c_q", [e.c_q for e in own], reported[1]),
        ("alpha", [e.alpha for e in own], reported[2]),
    )
    note = "median over starts; the paper does not say how it averages"
    return [medians(f"{run}: {name}", part, published, unit="", note=note) for name, part, published in parts]


def _growth(release: Release, start: int, slots: dict[str, int], *, weights: bool) -> Panel:
    shown, layers = release.main, []
    for t in shown.trajectories():
        name = {s: shown.names[r] for s, r in zip(t.steps, t.rows, strict=True)}
        later = [s for s in t.steps if s > start][:WINDOW]
        if start not in name:
            continue
        d = [
            release.weight_sqdist.get((name[start], name[s]), math.nan)
            if weights
            else shown.pair(name[start], name[s]).value
            for s in later
        ]
        slot = slots[t.label]
        layers.append(
            Layer(
                t.label,
                values([s - start for s in later]),
                values(d),
                colour=slot_colour(slot),
                mark=slot_mark(slot),
            )
        )
    title, unit = ("Weight space", "squared weight distance") if weights else ("Likelihood space", KL_AXIS)
    return Panel(title, FigureAxis(f"steps from {start}", "log"), FigureAxis(unit, "log"), tuple(layers))


def version_1(release: Release) -> Result:
    """The table of version 1: KL of pythia-410m between its steps, between its seeds and to other sizes."""
    shown = release.main
    numbers = []
    for (a, b), published in STEPS_V1.items():
        pair = (f"pythia-410m@{a}", f"pythia-410m@{b}")
        if set(pair) <= set(shown.names):
            numbers.append(_pair_number(shown, pair, f"410m: step {a} to {b}", published))
    lines = {t.run: t for t in shown.trajectories()}
    small = lines.get("pythia-410m")
    for size, published in SIZES_V1.items():
        other = lines.get(f"pythia-{size}")
        common = set(small.steps) & set(other.steps) if small and other else set()
        if common:
            pair = (f"pythia-410m@{max(common)}", f"pythia-{size}@{max(common)}")
            numbers.append(_pair_number(shown, pair, f"410m to {size}", published))
    seeds = next(
        (r for r in scale(release.whole, pretraining=True, exclude=PYTHIA_EXCLUDED) if r.setting == "seed"),
        None,
    )
    if seeds is not None and seeds.n:
        numbers.append(
            Number(
                "410m: between seeds", seeds.median, SEEDS_V1, seeds.q25, seeds.q75, seeds.n, note=seeds.note
            )
        )
    if not numbers:
        raise MissingError("no run of pythia-410m", "logp/pretraining_logp.pkl")
    return Result(numbers=tuple(numbers))


def _pair_number(shown: Map, pair: tuple[str, str], name: str, published: float) -> Number:
    kl = shown.pair(*pair)
    return Number(
        name,
        kl.value,
        published,
        kl.value - kl.se,
        kl.value + kl.se,
        1,
        note="low and high: one standard error",
    )


ITEMS = (
    ReproducedItem("fig1-trajectories", KISHINO, "Figure 1: pretraining trajectories", trajectories),
    ReproducedItem("fig2a-quantisation", KISHINO, "Figure 2 (a): quantisation", quantised_map),
    ReproducedItem("fig2b-fine-tuning", KISHINO, "Figure 2 (b): fine-tuning", tuned_map),
    ReproducedItem("fig2c-layers", KISHINO, "Figure 2 (c): layers", layers),
    ReproducedItem("fig3-scale", KISHINO, "Figure 3: the scale of KL", settings),
    ReproducedItem("fig4-pretraining-kl", KISHINO, "Figure 4: KL during pretraining", pretraining_kl),
    ReproducedItem("fig5-diffusion", KISHINO, "Figure 5 and table of exponents", diffusion),
    ReproducedItem("v1-spiral", KISHINO, "Version 1: trajectories in three dimensions", spiral),
    ReproducedItem("v1-table", KISHINO, "Version 1: table of KL of 410m", version_1),
)
