"""The contents of the panels of the Curves screen: computed in a background thread and cached until the vectors change.

Import it in the background too, because it imports numpy and the analyses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kltui.analysis import curves
from kltui.analysis.spikes import Spike
from kltui.analysis.trajectory import saved_steps
from kltui.tui.data import Result
from kltui.tui.weights import Weights, known_distances
from kltui.tui.widgets.curve_panel import Wanted
from kltui.view import curve_panels
from kltui.view.curve_content import Content
from kltui.workspace.alert_limits import alert_limits

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.store.rows import JobRow
    from kltui.tui.data import Snapshot, SnapshotReader
    from kltui.tui.map_cache import MapCache
    from kltui.view.curve_content import Settled


class CurveSource:
    """Computes the contents of the panels from the map that all screens share."""

    def __init__(self, map_cache: MapCache, reader: SnapshotReader) -> None:
        self._map_cache, self._reader = map_cache, reader
        self.computed: Weights = {}  # distances that could not be stored
        self.weights: Weights = {}
        self._weights_for: tuple[object, ...] = ()

    async def _ask(self, key: str, work: Callable[[], Result]) -> Result:
        return await self._map_cache.ask(f"curves {key}", lambda: _ready(work()))

    async def settled(self, found: Map) -> Settled:
        """The steps at which the runs settled, as in the report's section."""
        return await self._ask("settled", lambda: curve_panels.settled(found))

    async def spikes(self, found: Map, jobs: Sequence[JobRow]) -> list[Spike]:
        """The changes that `--watch` would report with the limits of the newest job."""
        limits, raw = alert_limits(jobs), await self._map_cache.as_scored()
        return await self._ask(f"spikes {limits}", lambda: curve_panels.found_spikes(found, raw, limits))

    async def consecutive(self, found: Map) -> Content:
        """KL to the checkpoint before, bits/byte."""
        return await self._ask("consecutive", lambda: curve_panels.consecutive(found))

    async def loss(self) -> Content:
        """Loss in bits/byte, of the vectors as they were scored."""
        raw = await self._map_cache.as_scored()
        return await self._ask("loss", lambda: curve_panels.loss(raw))

    async def to_last(self, found: Map) -> Content:
        """KL to the last checkpoint of the run, bits/byte."""
        return await self._ask("to last", lambda: curve_panels.to_last(found))

    async def between(self, found: Map, wanted: Wanted) -> Content:
        """KL at equal steps between the runs of A and B, or if these are not two runs, between seeds (bits/byte)."""
        pair, family = await self._reader.compute(lambda: _runs_beside(found, wanted))
        if pair:
            return await self._ask(f"between {pair}", lambda: curve_panels.between_two(found, *pair))
        return await self._ask(f"seeds {family[:1]}", lambda: curve_panels.between_seeds(found, family))

    async def to_marked(self, found: Map, wanted: Wanted) -> Content:
        """KL to the checkpoint marked A, bits/byte."""
        return await self._ask(f"to {wanted.a}", lambda: curve_panels.to_marked(found, wanted.a))

    async def exponents(self, found: Map, snapshot: Snapshot, window: int) -> Content:
        """Diffusion exponents in likelihood space, with those published for the runs' sizes."""

        def work() -> Content:
            saved = [(c.run, c.step, c.quantization) for c in (row.checkpoint for row in snapshot.rows)]
            fits = found.diffusion(window=window, from_step="auto", schedule=saved_steps(saved))
            return curve_panels.exponents(found, fits, window)

        return await self._ask(f"exponents {window}", work)

    async def updates(self, found: Map, wanted: Wanted) -> Content:
        """L2 norm of the change of the weights since the checkpoint before."""
        if self._weights_for != (wanted.version, wanted.weights):
            self.weights = await self._reader.read(lambda ws: known_distances(ws, self.computed))
            self._weights_for = (wanted.version, wanted.weights)
        weights = self.weights
        return await self._ask(f"updates {wanted.weights}", lambda: curve_panels.updates(found, weights))


def _runs_beside(found: Map, wanted: Wanted) -> tuple[tuple[str, str] | None, list[str]]:
    """(the runs of A and B or None, without such a pair the labels of the family of seeds that `wanted.run` is in)."""
    pair = curve_panels.pair_of_runs(found, wanted.a, wanted.b)
    return pair, [] if pair else curves.seed_family(found, wanted.run)


def _ready(answer: Result) -> Result:
    """The answer unchanged, after making its curves' arrays here so that the interface's thread need not."""
    for curve in answer.curves if isinstance(answer, Content) else ():
        _ = curve.arrays
    return answer
