"""What the panels of the Curves screen draw: computed off the interface's thread, kept until the vectors change.

To be imported off it too: numpy and the analyses come with it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kltui.analysis import curves
from kltui.analysis.spikes import Spike, run_figures, spikes
from kltui.analysis.trajectory import saved_steps
from kltui.tui.weights import Weights, known_distances
from kltui.tui.widgets.curve_panel import Content, Settled, Wanted

if TYPE_CHECKING:
    from kltui.analysis.curves import Curve
    from kltui.analysis.map import Map
    from kltui.store.rows import JobRow
    from kltui.tui.data import Snapshot, SnapshotReader
    from kltui.tui.map_cache import MapCache

NO_RUN = "no run has two scored checkpoints with steps: 1 and s score more of them"


class CurveSource:
    """Answers for the panels, from the map that all screens share."""

    def __init__(self, map_cache: MapCache, reader: SnapshotReader) -> None:
        self._map_cache, self._reader = map_cache, reader
        self.computed: Weights = {}  # distances that could not be stored
        self.weights: Weights = {}
        self._weights_for: tuple[object, ...] = ()

    async def _ask(self, key: str, work: Any) -> Any:
        return await self._map_cache.ask(f"curves {key}", work)

    async def settled(self, found: Map) -> Settled:
        """Where the runs settled, as the report's section says it."""

        def work() -> Settled:
            from kltui.view.sections.stabilisation import LEVELS

            return Settled({level: {s.run: s for s in found.stabilisation(level)} for level in LEVELS})

        answer: Settled = await self._ask("settled", work)
        return answer

    async def spikes(self, found: Map, jobs: Sequence[JobRow]) -> list[Spike]:
        """What a watch would alert to, by the limits of the newest job."""

        def work() -> list[Spike]:
            loss_se, kl_ratio = limits_of(jobs)
            return [s for run in run_figures(found).values() for s in spikes(run, loss_se, kl_ratio)]

        answer: list[Spike] = await self._ask("spikes", work)
        return answer

    async def consecutive(self, found: Map) -> Content:
        """KL from the checkpoint before, with the published medians early and late in training."""
        made = await self._ask("consecutive", lambda: curves.consecutive_curves(found))
        lines = published("early pretraining", "later pretraining")
        return Content(tuple(made), lines, missing="" if made else NO_RUN)

    async def loss(self, found: Map) -> Content:
        """Bits per byte."""
        made = await self._ask("loss", lambda: curves.loss_curves(found))
        why = "" if made else "no scored checkpoint has a step: models without steps have no curve"
        return Content(tuple(made), missing=why)

    async def to_last(self, found: Map) -> Content:
        """KL to the last checkpoint of each run."""
        made = await self._ask("to last", lambda: curves.curves_to_last(found))
        return Content(tuple(made), missing="" if made else NO_RUN)

    async def between(self, found: Map, wanted: Wanted) -> Content:
        """KL between the runs of A and B at equal steps, else between the seeds of a family."""
        pair = labels_of(found, wanted.a), labels_of(found, wanted.b)
        if all(pair) and pair[0] != pair[1]:
            made = [
                await self._ask(
                    f"between {pair[1]} {pair[0]}", lambda: curves.divergence(found, pair[1], pair[0])
                )
            ]
            made = [c for c in made if len(c)]
            why = f"{pair[0]} and {pair[1]} have no step in common: mark two other runs with a and b"
            setting = "seed" if pair[1] in curves.seed_family(found, pair[0]) else "size"
            return Content(tuple(made), published(setting), missing="" if made else why)
        family = curves.seed_family(found, wanted.run)
        made = await self._ask(f"seeds {family[:1]}", lambda: curves.seed_divergence(found, family))
        why = "no second seed of a run is scored: a and b mark two runs to hold against each other"
        return Content(tuple(made), published("seed"), missing="" if made else why)

    async def to_marked(self, found: Map, wanted: Wanted) -> Content:
        """KL to the checkpoint marked A."""
        if not wanted.a:
            return Content(missing="KL of every checkpoint to one: a marks it")
        if wanted.a not in set(found.names):
            return Content(missing=f"{wanted.a} is not scored: a marks another")
        made = await self._ask(f"to {wanted.a}", lambda: curves.curves_to(found, wanted.a))
        return Content(tuple(made), missing="" if made else NO_RUN)

    async def exponents(self, found: Map, snapshot: Snapshot, window: int) -> Content:
        """Diffusion exponents in likelihood space, beside those published for the runs' sizes."""
        saved = [(c.run, c.step, c.quantization) for c in (row.checkpoint for row in snapshot.rows)]

        def work() -> list[Curve]:
            fits = found.diffusion(window=window, from_step="auto", schedule=saved_steps(saved))
            return curves.exponent_curves(fits)

        made = await self._ask(f"exponents {window}", work)
        why = f"needs a run with {window + 1} or more scored checkpoints; w makes the window shorter"
        return Content(tuple(made), published_exponents(found), missing="" if made else why)

    async def updates(self, found: Map, wanted: Wanted) -> Content:
        """Norm of the update from the checkpoint before."""
        if self._weights_for != (wanted.version, wanted.weights):
            self.weights = await self._reader.read(lambda ws: known_distances(ws, self.computed))
            self._weights_for = (wanted.version, wanted.weights)
        weights = self.weights
        made = await self._ask(f"updates {wanted.weights}", lambda: curves.update_curves(found, weights))
        return Content(tuple(made), missing="" if made else "no weight distances are stored: W computes them")


def labels_of(found: Map, name: str) -> str:
    """The trajectory of the vector called `name`, "" where it is of none."""
    row = next((k for k, n in enumerate(found.names) if n == name), -1)
    return next((t.label for t in found.trajectories() if row in t.rows), "")


def published(*settings: str) -> tuple[tuple[float, str], ...]:
    """(median in bits/byte, words) of settings of the published scale."""
    from kltui.analysis.scale import PUBLISHED

    return tuple((s.median, f"{s.name} {s.median:g}") for s in PUBLISHED if s.name in settings)


def published_exponents(found: Map) -> tuple[tuple[float, str], ...]:
    """(c_q, words) published for the sizes of the map's runs; of none of them, the least and the greatest."""
    from kltui.analysis.diffusion import PUBLISHED_EXPONENTS

    sizes = {p.size for p in found.points} & set(PUBLISHED_EXPONENTS)
    ordered = sorted(PUBLISHED_EXPONENTS, key=lambda size: PUBLISHED_EXPONENTS[size][1])
    chosen = [s for s in ordered if s in sizes] or [ordered[0], ordered[-1]]
    return tuple((PUBLISHED_EXPONENTS[s][1], f"Pythia {s} {PUBLISHED_EXPONENTS[s][1]:g}") for s in chosen)


def limits_of(jobs: Sequence[JobRow]) -> tuple[float, float]:
    """(standard errors, ratio) from which the newest job's watch alerts, else a watch's usual ones."""
    from kltui.jobs.job_tables import WatchTable

    usual = WatchTable()
    try:
        said = tomllib.loads(jobs[0].job_toml).get("watch", {}) if jobs else {}
    except tomllib.TOMLDecodeError:
        said = {}
    return (
        float(said.get("alert_loss_se", usual.alert_loss_se)),
        float(said.get("alert_kl_ratio", usual.alert_kl_ratio)),
    )
