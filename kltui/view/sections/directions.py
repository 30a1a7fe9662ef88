"""Which domains each run, or the step of the requested pair, moved towards, with errors over texts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rich.console import RenderableType

from kltui.analysis.directions import DomainDirection, domain_directions
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError, Section
from kltui.view.tables import figure, table, with_error, words

DOMAINS_SHOWN = 12
RUNS_SHOWN = 12


@dataclass(frozen=True)
class DomainStep:
    """A step between two vectors of a map, and its components along the directions of domains."""

    name: str
    before: str
    after: str
    domains: list[DomainDirection]


def directions(ctx: Context) -> Section:
    """The step of the requested pair, or of every run from its first to its last checkpoint, along each domain's direction."""
    sha256 = str(ctx.raw.record.get("corpus", "")) or None
    every = ctx.ws.domains(sha256)
    domains = [every[s] for s in ctx.map.text_index]
    if len(set(domains)) < 2:
        raise MissingError(
            "the texts of the corpus do not have two or more domains",
            'set the field of the domain, domain = "..." under [corpus], and score again',
        )
    steps = _steps(ctx)
    if not steps:
        raise MissingError(
            "no run has two checkpoints", "score another checkpoint, or choose a step: --pair A B"
        )
    found = [DomainStep(name, a, b, _along(ctx, a, b, domains)) for name, a, b in steps]
    blocks: list[RenderableType] = []
    for step in found[:RUNS_SHOWN]:
        said = f"from {step.before} to {step.after}"
        blocks += [words(said if ctx.choice.pair else f"{step.name}: {said}"), _table(step.domains)]
    if len(found) > RUNS_SHOWN:
        blocks.append(words(f"{RUNS_SHOWN} of {len(found)} runs; --json has them all"))
    notes = (
        "D_s = l_after(s) - l_before(s); gain: sum of D over the domain's texts / (ln 2 x their bytes), bits/byte; against the"
        " rest: that less the gain of all other texts, the domains that the step moved towards first; ± standard error over"
        " texts (delta method)",
        "cosine: between D less its mean and the domain's direction (1/n inside, -1/n outside), ± its spread over draws of"
        " the texts; its square is the share of the step's KL along that direction (after arXiv 2603.16622)",
        ctx.basis,
    )
    data: dict[str, object] = {"unit": "bits/byte", "steps": [_step_data(step) for step in found]}
    if not ctx.choice.pair:
        data["between_neighbours"] = [_step_data(step) for step in _between(ctx, domains)]
    return Section(
        "directions", "Domains that training moved towards", tuple(blocks), notes, data, headline=""
    )


def _steps(ctx: Context) -> list[tuple[str, str, str]]:
    """(name, from, to) of the requested pair, otherwise of every run with two checkpoints."""
    if ctx.choice.pair:
        a, b = ctx.pair
        return [(f"{a} to {b}", a, b)]
    names = ctx.map.names
    return [(t.label, names[t.rows[0]], names[t.rows[-1]]) for t in ctx.map.trajectories() if len(t.rows) > 1]


def _between(ctx: Context, domains: list[str]) -> list[DomainStep]:
    """The steps between neighbouring checkpoints, run by run."""
    names = ctx.map.names
    return [
        DomainStep(t.label, names[a], names[b], _along(ctx, names[a], names[b], domains, draws=1))
        for t in ctx.map.trajectories()
        for a, b in pairwise(t.rows)
    ]


def _along(ctx: Context, a: str, b: str, domains: list[str], **how: int) -> list[DomainDirection]:
    shown = ctx.map
    before, after = shown.loglik_KN[shown.row(a)], shown.loglik_KN[shown.row(b)]
    return domain_directions(before, after, shown.text_bytes_N, domains, shown.text_ids_N, **how)


def _table(found: list[DomainDirection]) -> RenderableType:
    """A table of the domains with the largest movements towards and away from them."""
    shown = found
    if len(found) > DOMAINS_SHOWN:
        half = DOMAINS_SHOWN // 2
        shown = [*found[:half], *found[-half:]]
    rows = [
        [
            d.domain or "(none)",
            str(d.n_texts),
            with_error(d.gain, d.gain_se),
            with_error(d.against_rest, d.against_rest_se),
            figure(d.z, 2),
            with_error(d.cosine, d.cosine_se),
        ]
        for d in shown
    ]
    return table(["domain", "texts", "gain", "against the rest", "z", "cosine"], rows)


def _step_data(step: DomainStep) -> dict[str, object]:
    return {
        "name": step.name,
        "from": step.before,
        "to": step.after,
        "domains": [
            {
                "domain": d.domain,
                "texts": d.n_texts,
                "gain_bits_per_byte": d.gain,
                "gain_se": d.gain_se,
                "against_rest_bits_per_byte": d.against_rest,
                "against_rest_se": d.against_rest_se,
                "z": d.z,
                "cosine": d.cosine,
                "cosine_se": d.cosine_se,
            }
            for d in step.domains
        ],
    }
