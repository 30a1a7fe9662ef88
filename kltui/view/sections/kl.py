"""KL between the runs' final checkpoints, and between neighbouring checkpoints of each run."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from rich.console import RenderableType

from kltui.analysis.kl import KL, length_share
from kltui.analysis.map import ConsecutiveKL, Map
from kltui.analysis.scale import locate
from kltui.view.sections.context import Context, below, finals
from kltui.view.sections.section import MissingError, Plot, Section
from kltui.view.sections.stabilisation import no_two_steps
from kltui.view.tables import UNDEFINED, count, figure, table, with_error, words
from kltui.view.textplot import PlotFrame, Series

PAIRS_SHOWN = 45
LENGTH_SHARE_TOLD = 0.25
MATRIX_MAX = 12
NamedPair = tuple[str, str, KL]


def kl(ctx: Context) -> Section:
    """Every pair of the runs' final checkpoints, with standard error over texts and the texts left out."""
    rows = finals(ctx.map)
    if len(rows) < 2:
        raise MissingError(
            f"only {count(len(rows), 'run')} on the map, and this section shows KL between runs",
            "score a second run or model on the same corpus",
        )
    chosen = _side_by_side(ctx.map.select(rows))
    pairs = every_pair(chosen)
    blocks: list[RenderableType] = [_matrix(chosen)] if 3 <= len(rows) <= MATRIX_MAX else []
    blocks += _pair_blocks(pairs, ctx.floor)
    share = length_share_of(chosen, largest_of(pairs))
    dropped = sum(p.n_dropped > 0 for _, _, p in pairs)
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words]
    notes.append("published like: the setting whose published median is nearest in ratio")
    if dropped:
        notes.append(
            f"{count(dropped, 'pair')} with texts that one of the two lacks: these texts are left out of the pair"
        )
    notes += length_words(ctx.map, share)
    data: dict[str, object] = {
        "unit": "bits/byte",
        "length_share_of_largest": share,
        "pairs": [
            {
                "a": a,
                "b": b,
                "kl_bits_per_byte": p.value,
                "se": p.se,
                "kl_nats_per_text": p.nats,
                "texts": p.n_texts,
                "dropped": p.n_dropped,
                "mean_bytes": p.mean_bytes,
                "nearest_published": locate(p.value).nearest,
            }
            for a, b, p in pairs
        ],
    }
    return Section("kl", "KL between final checkpoints", tuple(blocks), tuple(notes), data)


def every_pair(chosen: Map) -> list[NamedPair]:
    """(name, name, KL) of all pairs of the map's vectors."""
    return [
        (chosen.names[i], chosen.names[j], chosen.pair_rows(i, j))
        for i, j in combinations(range(len(chosen)), 2)
    ]


def largest_of(pairs: list[NamedPair]) -> NamedPair | None:
    """The pair with the largest defined KL; None if there is none."""
    known = [pair for pair in pairs if math.isfinite(pair[2].value)]
    return max(known, key=lambda pair: pair[2].value, default=None)


def length_share_of(chosen: Map, pair: NamedPair | None) -> float:
    """`length_share` of a pair on the map; NaN for no pair."""
    if pair is None:
        return math.nan
    a, b = chosen.row(pair[0]), chosen.row(pair[1])
    return length_share(chosen.loglik_KN[a], chosen.loglik_KN[b], chosen.text_bytes_N)


def length_words(m: Map, share: float) -> list[str]:
    """A note if a large part of the largest KL is due to differing lengths of the texts."""
    if not share >= LENGTH_SHARE_TOLD:
        return []
    return [
        f"{share:.0%} of the largest KL is due to the lengths of the texts ({m.text_bytes_N.min()} to {m.text_bytes_N.max()}"
        " bytes): if losses differ, longer texts differ more; over texts of similar length (chunk = true under [corpus]) it"
        " would be smaller"
    ]


def _side_by_side(chosen: Map) -> Map:
    """The map with similar vectors next to each other, if clustering is defined."""
    if len(chosen) < 3 or not np.isfinite(chosen.kl()).all():
        return chosen
    return chosen.select(chosen.clustering().order.tolist())


def _matrix(chosen: Map) -> RenderableType:
    """KL of all pairs with two significant digits; rows have names, columns the numbers of the rows."""
    values = chosen.kl()
    cells = [
        [f"{i + 1} {name}"]
        + [
            "·" if i == j else "undef" if np.isnan(values[i, j]) else figure(values[i, j], 2)
            for j in range(len(chosen))
        ]
        for i, name in enumerate(chosen.names)
    ]
    return table(["", *(str(j + 1) for j in range(len(chosen)))], cells, tight=True)


def _pair_blocks(pairs: list[NamedPair], floor: float) -> list[RenderableType]:
    order = sorted(pairs, key=lambda p: math.inf if math.isnan(p[2].value) else p[2].value)
    shown = order
    if len(order) > PAIRS_SHOWN:
        half = PAIRS_SHOWN // 2
        shown = order[:half] + order[-half:]
    own_texts = any(p.n_dropped for _, _, p in pairs)
    rows = [
        [
            a,
            b,
            with_error(p.value, p.se) + below(p.value, floor),
            locate(p.value).nearest or "-",
            *([str(p.n_texts), figure(p.mean_bytes, 5)] if own_texts else []),
        ]
        for a, b, p in shown
    ]
    headings = ["a", "b", "KL ± se", "published like", *(["texts", "B"] if own_texts else [])]
    blocks: list[RenderableType] = [table(headings, rows, left=(0, 1, 3))]
    if shown is not order:
        blocks.append(
            words(f"the {len(shown) // 2} nearest and farthest of {len(order)} pairs; --json has them all")
        )
    return blocks


def consecutive(ctx: Context) -> Section:
    """KL between neighbouring checkpoints of each run: a summary, and curves against the step."""
    runs = ctx.consecutive
    every = [x for xs in runs.values() for x in xs]
    if not every:
        raise no_two_steps(ctx)
    series = [
        Series(run, [x.step_to for x in xs], [x.kl for x in xs], slot=ctx.slots.get(run))
        for run, xs in runs.items()
    ]
    plot = Plot(series, PlotFrame("", "step", "KL to the previous checkpoint, bits/byte", "log1p", "log"))
    undefined = sum(math.isnan(x.kl) for x in every)
    notes = [f"bits/byte ± standard error over texts; {ctx.basis}", ctx.floor_words]
    notes.append("neighbours are consecutive saved steps: longer save intervals give larger KLs")
    notes += ctx.repeats_words
    if undefined:
        notes.append(f"{count(undefined, 'pair')} {UNDEFINED}: gaps in the curve")
    rows = [_run_row(run, xs, ctx.floor) for run, xs in runs.items()]
    summary = table(["run", "pairs", "largest", "median", "last", "± se"], rows)
    data: dict[str, object] = {
        "unit": "bits/byte",
        "pairs": [
            {
                "run": x.run,
                "step_from": x.step_from,
                "step_to": x.step_to,
                "kl_bits_per_byte": x.kl,
                "se": x.se,
            }
            for x in every
        ],
    }
    return Section("consecutive", "KL along runs", (summary, plot), tuple(notes), data)


def _run_row(run: str, xs: list[ConsecutiveKL], floor: float) -> list[str]:
    finite = [x for x in xs if math.isfinite(x.kl)]
    last = xs[-1]
    if not finite:
        return [run, str(len(xs)), UNDEFINED, UNDEFINED, UNDEFINED, "-"]
    top = max(finite, key=lambda x: x.kl)
    value, _, se = with_error(last.kl, last.se).partition(" ± ")
    return [
        run,
        str(len(xs)),
        f"{figure(top.kl)} @{top.step_to}",
        figure(float(np.median([x.kl for x in finite]))),
        f"{value} @{last.step_to}{below(last.kl, floor)}",
        se or "-",
    ]
