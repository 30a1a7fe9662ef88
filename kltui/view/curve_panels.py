"""The content of each panel of curves against the step, computed from a map: for the Curves screen and its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kltui.analysis import curves
from kltui.analysis.diffusion import PUBLISHED_EXPONENTS, Exponent, auto_from_step, windows
from kltui.analysis.number_text import figure
from kltui.analysis.scale import PUBLISHED
from kltui.analysis.spikes import Spike, run_figures, spikes
from kltui.view.curve_content import WINDOWS, Content, Settled
from kltui.view.sections.diffusion import undefined_exponents
from kltui.view.sections.stabilisation import EQUAL, LEVELS

if TYPE_CHECKING:
    from kltui.analysis.curves import Curve
    from kltui.analysis.map import Map

NO_RUN = "no run has two scored checkpoints with steps: press 1, then s to score more"


def settled(shown: Map, levels: Sequence[float] = LEVELS) -> Settled:
    """Where the runs settled at each level in bits/byte, as in the report's section."""
    return Settled({level: {s.run: s for s in shown.stabilisation(level)} for level in levels})


def found_spikes(shown: Map, raw: Map, limits: tuple[float, float]) -> list[Spike]:
    """The spikes that `--watch` would report, by its limits (standard errors of a loss, ratio of a KL).

    KLs are those of the map `shown`, losses those of the raw vectors.
    """
    found = [s for run in run_figures(shown).values() for s in spikes(run, *limits)]
    if raw is shown:
        return found
    of_raw = [s for run in run_figures(raw).values() for s in spikes(run, *limits)]
    return [s for s in found if s.rule == "kl"] + [s for s in of_raw if s.rule == "loss"]


def consecutive(shown: Map) -> Content:
    """KL to the previous checkpoint, with the published medians early and late in training."""
    made = curves.consecutive_curves(shown)
    lines = published("early pretraining", "later pretraining")
    return Content(tuple(made), lines, missing="" if made else no_run(shown))


def no_run(shown: Map) -> str:
    """Why no run of the map has two steps to compare, and what to press."""
    return EQUAL if shown.repeats.left_out else NO_RUN


def loss(raw: Map) -> Content:
    """Loss in bits per byte of the raw vectors, because clipping or leaving out texts would change it."""
    made = curves.loss_curves(raw)
    why = "" if made else "no scored checkpoint has a step: models without steps have no curve"
    return Content(tuple(made), missing=why)


def to_last(shown: Map) -> Content:
    """KL to the last checkpoint of each run."""
    made = curves.curves_to_last(shown)
    return Content(tuple(made), missing="" if made else no_run(shown))


def pair_of_runs(shown: Map, a: str, b: str) -> tuple[str, str] | None:
    """(label of A's run, label of B's run), if these are two runs with steps; otherwise None."""
    one, other = label_at(shown, a), label_at(shown, b)
    return (one, other) if one and other and one != other else None


def between_two(shown: Map, run: str, other: str) -> Content:
    """KL of `other` against `run` at the steps that both have."""
    made = [c for c in [curves.divergence(shown, other, run)] if len(c)]
    why = f"{run} and {other} have no step in common: mark two other runs with a and b"
    setting = "seed" if other in curves.seed_family(shown, run) else "size"
    return Content(tuple(made), published(setting), missing="" if made else why)


def between_seeds(shown: Map, family: Sequence[str]) -> Content:
    """KL between the first of a family of seeds and each other one at equal steps."""
    made = [curve for curve in curves.seed_divergence(shown, family) if len(curve)]
    why = (
        f"{family[0]} has no step in common with another seed: mark two other runs with a and b"
        if family
        else "no run is scored with two seeds: mark two runs to compare with a and b"
    )
    return Content(tuple(made), published("seed"), missing="" if made else why)


def to_marked(shown: Map, a: str) -> Content:
    """KL to the checkpoint marked A ("" for none)."""
    if not a:
        return Content(missing="KL of every checkpoint to one: mark it with a")
    if not shown.rows_of([a]):
        return Content(missing=f"{a} is not on this map: mark another with a")
    made = curves.curves_to(shown, a)
    return Content(tuple(made), missing="" if made else "no other scored checkpoint has a step")


def exponents(shown: Map, fits: Sequence[Exponent], window: int) -> Content:
    """Diffusion exponents in likelihood space, with those published for the runs' sizes."""
    why = undefined_exponents(fits, window) if fits else no_window(shown, window)
    made = [] if why else curves.exponent_curves(fits)
    return Content(tuple(made), published_exponents(shown), missing=why)


def no_window(shown: Map, window: int) -> str:
    """Why no run has an exponent over `window` checkpoints, and what helps: a shorter window, or more scored steps."""
    runs = [t.steps for t in shown.trajectories()]
    others = [w for w in WINDOWS if any(windows(steps, w, auto_from_step(steps, w)) for steps in runs)]
    need = f"needs a run with {window + 1} or more scored steps"
    if others:
        return f"{need}: press w until the window is {max(others)}"
    longest = max(map(len, runs), default=0)
    if longest > min(WINDOWS):
        return f"{need} from the step on from which it is saved evenly: press 1, then s to score more"
    shortest = f", or {min(WINDOWS) + 1} with the shortest window (w)" if window > min(WINDOWS) else ""
    once = " (equal vectors count once)" if shown.repeats.left_out else ""
    here = f"the longest here has {longest}{once}" if longest else "no scored checkpoint has a step"
    return f"{need}{shortest}; {here}"


def updates(shown: Map, weight_sqdist: Mapping[tuple[str, str], float]) -> Content:
    """Norm of the weight update from the previous checkpoint."""
    made = curves.update_curves(shown, weight_sqdist)
    return Content(
        tuple(made), missing="" if made else "no weight distances are stored: press W to compute them"
    )


def label_at(shown: Map, name: str) -> str:
    """The label of the trajectory of the vector `name`; "" if it has none."""
    row = next(iter(shown.rows_of([name])), -1)
    return next((t.label for t in shown.trajectories() if row in t.rows), "")


def published(*settings: str) -> tuple[tuple[float, str], ...]:
    """(median in bits/byte, label) of settings of the published scale."""
    return tuple((s.median, f"{s.name} {figure(s.median, 2)}") for s in PUBLISHED if s.name in settings)


def published_exponents(shown: Map) -> tuple[tuple[float, str], ...]:
    """(c_q, label) published for the sizes of the map's runs; if for none of them, the smallest and the largest."""
    sizes = {p.size for p in shown.points} & set(PUBLISHED_EXPONENTS)
    ordered = sorted(PUBLISHED_EXPONENTS, key=lambda size: PUBLISHED_EXPONENTS[size][1])
    chosen = [s for s in ordered if s in sizes] or [ordered[0], ordered[-1]]
    return tuple(
        (PUBLISHED_EXPONENTS[s][1], f"Pythia {s} {figure(PUBLISHED_EXPONENTS[s][1], 2)}") for s in chosen
    )


def only(content: Content, hidden: frozenset[str]) -> list[Curve]:
    """The curves without the checkpoints in `hidden`; curves without any point are left out."""
    found = []
    for c in content.curves:
        points = zip(c.names, c.steps, c.values, c.errors, strict=True)
        kept = curves.Curve.of(c.run, (p for p in points if p[0] not in hidden), c.against)
        found += [kept] if len(kept) else []
    return found
