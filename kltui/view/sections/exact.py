"""Exact next-token KL compared with the estimate from vectors, of the requested pair or of every pair computed before."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from rich.console import RenderableType

from kltui.errors import KltuiError
from kltui.view.sections.context import SECONDS_BETWEEN, Context
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import count, figure, table, with_error, words

if TYPE_CHECKING:
    from kltui.analysis.exact import Direction, NextTokenKL

HOW = "kltui --report --section exact --pair A B WORKSPACE computes and stores it (as does X on Compare)"
STAGES = {
    "fetch": "checking the files",
    "load": "loading both models",
    "tokenize": "tokenising the texts",
}


def exact(ctx: Context) -> Section:
    """The exact KL of the requested pair, computed if it is not stored; without a pair, all stored ones."""
    found = [_asked(ctx)] if ctx.choice.pair else _stored(ctx)
    if not found:
        raise MissingError("no exact next-token KL has been computed in this workspace", HOW)
    blocks: list[RenderableType] = []
    for one in found:
        blocks += _blocks(one)
    notes = (
        "exact: mean over the corpus' positions of sum_v p(v) ln(p(v) / q(v)) over the next token, A against B and B"
        " against A, ± the standard error over texts; median, 99 % and greatest: over positions",
        "estimate: Var(l_A - l_B) / (2 B ln 2) from the two vectors, of second order; ratio: the estimate over the mean of"
        " both directions, which it estimates",
        ctx.raw_basis,
    )
    data: dict[str, object] = {"pairs": [_data(one) for one in found]}
    if ctx.choice.pair:
        data |= _data(found[0])
    return Section("exact", "Exact next-token KL", tuple(blocks), notes, data)


def _asked(ctx: Context) -> NextTokenKL:
    a, b = ctx.pair
    found = ctx.ws.exact_kl(
        a,
        b,
        corpus=_corpus(ctx),
        compute=ctx.choice.compute,
        device=ctx.choice.scoring_device,
        progress=ExactProgress(ctx, f"exact KL of {a} and {b}"),
    )
    if found is None:
        raise MissingError(f"the exact next-token KL of {a} and {b} has not been computed", HOW)
    return found


def _corpus(ctx: Context) -> str | None:
    return str(ctx.raw.record.get("corpus", "")) or None


def _stored(ctx: Context) -> list[NextTokenKL]:
    """The stored exact KLs of pairs on the map, without those of names or weights that no longer exist."""
    on_map = set(ctx.raw.names)
    found = []
    for a, b in ctx.ws.exact_pairs():
        if {a, b} <= on_map:
            try:
                one = ctx.ws.exact_kl(a, b, corpus=_corpus(ctx), compute=False)
            except KltuiError:
                continue
            found += [one] if one is not None else []
    return found


class ExactProgress:
    """Reports every stage of the computation, and the share that is done every few seconds."""

    def __init__(self, ctx: Context, what: str) -> None:
        self._ctx, self._what, self._stage, self._said = ctx, what, "", -math.inf

    def __call__(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage == self._stage and (math.isnan(share) or now - self._said < SECONDS_BETWEEN):
            return
        self._stage, self._said = stage, now
        done = STAGES.get(stage, stage) if math.isnan(share) else f"{share:.0%}"
        self._ctx.notify(f"{self._what}: {done}")


def _blocks(one: NextTokenKL) -> list[RenderableType]:
    ways = (("A to B", one.forward, one.ratio_forward), ("B to A", one.reverse, one.ratio_reverse))
    means = [
        [
            way,
            with_error(d.bits_per_byte, d.bits_per_byte_se),
            with_error(d.nats_per_token, d.nats_per_token_se),
            _times(ratio),
        ]
        for way, d, ratio in ways
    ]
    positions = [[way, figure(d.median_nats), figure(d.high_nats), figure(d.max_nats)] for way, d, _ in ways]
    estimate = with_error(one.estimate.value, one.estimate.se)
    return [
        words(f"A {one.a}, B {one.b}"),
        table(["exact KL", "bits/byte", "nats/token", "estimate is"], means),
        table(["over positions, nats", "median", "99 %", "greatest"], positions),
        words(
            f"estimate from the vectors: {estimate} bits/byte, {_times(one.ratio)} the mean of both directions"
        ),
        words(
            f"the same top token at {100 * one.top1_agreement:.1f} % of"
            f" {count(one.n_tokens, 'position')} in {count(one.n_texts, 'text')}"
        ),
    ]


def _times(ratio: float) -> str:
    return "-" if math.isnan(ratio) else f"{figure(ratio)}x"


def _data(one: NextTokenKL) -> dict[str, object]:
    return {
        "a": one.a,
        "b": one.b,
        "forward": _way(one.forward),
        "reverse": _way(one.reverse),
        "top1_agreement": one.top1_agreement,
        "top1_agreement_se": one.top1_agreement_se,
        "estimate_bits_per_byte": one.estimate.value,
        "estimate_se": one.estimate.se,
        "ratio": one.ratio,
        "ratio_forward": one.ratio_forward,
        "ratio_reverse": one.ratio_reverse,
        "texts": one.n_texts,
        "tokens": one.n_tokens,
        "bytes": one.n_bytes,
    }


def _way(d: Direction) -> dict[str, float]:
    return {
        "kl_bits_per_byte": d.bits_per_byte,
        "kl_bits_per_byte_se": d.bits_per_byte_se,
        "mean_nats_per_token": d.nats_per_token,
        "mean_nats_per_token_se": d.nats_per_token_se,
        "median_nats": d.median_nats,
        "q99_nats": d.high_nats,
        "max_nats": d.max_nats,
    }
