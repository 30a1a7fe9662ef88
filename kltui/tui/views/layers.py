"""Layers: each model's lens vectors, KL from layer to layer, and their threads through one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.style import Style

from kltui.errors import KltuiError
from kltui.safe import safe_text
from kltui.tui.canvas import Span, TextPane, fitted
from kltui.tui.figures import with_error
from kltui.tui.plot import PlotPane
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.figures.shown import Shown
    from kltui.view.axis import Scale

METHODS = ("adjacent", "threads")
SAID = {"adjacent": "KL from the layer before, by layer", "threads": "threads (PCA)"}
MOST_MODELS = 8


class LayersPlot(PlotPane):
    """KL between neighbouring layers against depth, or every model's layers as a thread."""

    title = "Layers"

    def __init__(self) -> None:
        super().__init__(id="layers-plot")
        self.map: Map | None = None
        self.models: list[str] = []
        self.method = "adjacent"
        self.y_scale: Scale = "log"
        self._rows: list[int] = []
        self._said: list[str] = []
        self._ends: list[tuple[int, int]] = []

    def header_right(self) -> list[Span]:
        """What is drawn."""
        unit = "  bits/byte" if self.method == "adjacent" else "  √(bits/byte)"
        return [(SAID[self.method] + unit, self.look("muted"))] if self.map is not None else []

    def placeholder(self) -> list[tuple[str, str]]:
        """What would fill this screen."""
        return [
            ("text", self.note or "No lens vectors are stored."),
            ("muted", "Score with layers: s in the Registry, then e, and all in the line layers."),
        ]

    def show_layers(self, found: Map | None, models: list[str]) -> None:
        """Draws the layers of `models`."""
        self.map, self.models = found, models
        if found is None:
            self.show(None, [])
        elif self.method == "adjacent":
            self._show_adjacent(found)
        else:
            self._show_threads(found)

    def layer_rows(self, found: Map) -> list[list[int]]:
        """Rows of each model's lens vectors by depth, the final vector last."""
        made = []
        for model in self.models:
            rows = [
                k for k, p in enumerate(found.points) if p.name.rpartition("#")[0] == model or p.name == model
            ]
            made.append(sorted(rows, key=lambda k: _depth(found.points[k].layer)))
        return made

    def _show_adjacent(self, found: Map) -> None:
        import numpy as np

        from kltui.view.scene import Scene, threads

        xy: list[tuple[float, float]] = []
        lines, names, self._said, self._ends = [], [], [], []
        for series, rows in enumerate(self.layer_rows(found)):
            start = len(xy)
            for a, b in pairwise(rows):
                kl = found.pair_rows(a, b)
                if found.points[b].layer is None and not kl.value > 1e-12:
                    continue  # the last lens vector is the final one: there is no step to show
                depth = _depth(found.points[b].layer)
                xy.append((float(len(xy) - start + 1) if math.isinf(depth) else depth, kl.value))
                names.append(found.names[b])
                self._said.append(f"from {_layer_word(found.points[a].layer)}: {with_error(kl.value, kl.se)}")
            if len(xy) > start:
                lines.append((series, range(start, len(xy))))
                self._ends.append((len(xy) - 1, series))
        code_n, segments = threads(lines, len(xy))
        data = np.array(xy or [(math.nan, math.nan)], dtype=np.float64)
        codes = code_n if xy else np.array([-1], dtype=np.int16)
        self.show(Scene(data, codes, segments, "linear", self.y_scale), names or [""])

    def _show_threads(self, found: Map) -> None:
        import numpy as np

        from kltui.view.scene import Scene, threads

        rows = self.layer_rows(found)
        lines = list(enumerate(rows))
        code_n, segments = threads(lines, len(found))
        try:
            xy = np.ascontiguousarray(found.coordinates("pca"), dtype=np.float64)
        except KltuiError as error:
            self.note = f"{error.message}: {error.hint}"
            self.show(None, [])
            return
        mean = found.mean_loglik
        self._said = [f"{float(m):.1f} nats/text" for m in mean]
        self._ends = [(r[-1], series) for series, r in lines if r]
        self.show(Scene(xy, code_n, segments, equal=True), found.names)

    def labels(self) -> list[tuple[int, str, Style]]:
        """Each model's name at its last layer."""
        look = self.look
        return [(point, safe_text(self.models[s], 24), look(look.series(s))) for point, s in self._ends]

    def marks(self) -> list[tuple[int, str, Style]]:
        """Each model's marker at its last layer."""
        look = self.look
        return [(point, look.marker(s), look(look.series(s), bold=True)) for point, s in self._ends]

    def readout(self) -> list[Span]:
        """The layer under the cross-hair."""
        look = self.look
        if not 0 <= self.cursor < len(self._said):
            return [
                (" hjkl moves, [ ] another checkpoint of the run, v the picture, L the scale", look("faint"))
            ]
        series = int(self.scene.code_n[self.cursor]) // SHADES if self.scene is not None else 0
        return [
            (f" {look.marker(series)} ", look(look.series(series))),
            (safe_text(self.names[self.cursor], 40), look("text", bold=True)),
            (f"   {self._said[self.cursor]}", look("muted")),
        ]

    def do_axis_scale(self) -> None:
        self.y_scale = "linear" if self.y_scale == "log" else "log"
        self.kl.say(f"KL axis: {self.y_scale}")
        self.show_layers(self.map, self.models)

    def do_method(self) -> None:
        self.method = METHODS[(METHODS.index(self.method) + 1) % len(METHODS)]
        self.show_layers(self.map, self.models)


def _depth(layer: int | None) -> float:
    return math.inf if layer is None else float(layer)


def _layer_word(layer: int | None) -> str:
    return "the final vector" if layer is None else f"layer {layer}"


class LayersView(View):
    """The plot, and the models it shows."""

    screen_name = "layers"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self._asked: tuple[object, ...] = ()
        self.plot = LayersPlot()
        self.list = TextPane("Models", self._models)
        return [ColumnOfPanes([self.plot]), ColumnOfPanes([self.list], width=38, least=120)]

    def chosen(self) -> list[str]:
        """Models with lens vectors: those selected or marked, else the cursor's and the last of each run."""
        rows = {r.name: r for r in self.kl.snapshot.rows if r.layers and r.scored}
        selection = self.kl.selection
        wanted = [n for n in dict.fromkeys((*selection.selected, selection.a, selection.b)) if n in rows]
        if not wanted:
            last: dict[str, str] = {}
            for row in rows.values():
                last[row.checkpoint.run] = row.name
            here = rows.get(selection.cursor)
            if here is not None:
                last[here.checkpoint.run] = here.name
            wanted = list(last.values())
        return wanted[:MOST_MODELS]

    def update_data(self) -> None:
        """Reads the lens vectors of other models when the choice has changed."""
        super().update_data()
        wanted = (self.kl.atlas.version, tuple(self.chosen()))
        if wanted != self._asked:
            self._asked = wanted
            self.run_worker(self._load(wanted[1]), group="layers", exclusive=True)

    def cursor_moved(self) -> None:
        """Another checkpoint of a run takes its place."""
        self.update_data()

    async def _load(self, names: tuple[str, ...]) -> None:
        if not names:
            self.plot.show_layers(None, [])
            return
        try:
            await self.kl.atlas.map()
            found = await self.kl.atlas.layers(names)
        except KltuiError as error:
            self.plot.note = error.message
            self.plot.show_layers(None, [])
            return
        self.plot.show_layers(found, list(names))
        self.list.update_data()

    def _models(self, width: int) -> list[list[Span]]:
        look = self.look
        lines: list[list[Span]] = []
        for i, name in enumerate(self.plot.models):
            row = self.kl.snapshot.by_name.get(name)
            lines.append(
                [
                    (look.marker(i) + " ", look(look.series(i))),
                    (fitted(name, max(8, width - 13)), look("text")),
                    (f"  {row.layers} layers" if row else "", look("faint")),
                ]
            )
        more = sum(1 for r in self.kl.snapshot.rows if r.layers) - len(self.plot.models)
        if more > 0:
            lines += [
                [],
                [(f"{more} more have lens vectors;", look("muted"))],
                [("space selects", look("muted"))],
            ]
        return lines

    def shown_figure(self) -> Shown | None:
        """The figure of these models' layers."""
        from kltui.figures.shown import Shown

        return Shown("layers", tuple(self.plot.models)) if self.plot.map is not None else None

    def csv_rows(self) -> list[list[object]]:
        """KL between neighbouring layers of the models in view."""
        found, plot = self.plot.map, self.plot
        if found is None:
            return []
        rows: list[list[object]] = [["model", "from", "to", "kl_bits_per_byte", "se"]]
        for model, layers in zip(plot.models, plot.layer_rows(found), strict=True):
            for a, b in pairwise(layers):
                kl = found.pair_rows(a, b)
                rows.append([model, found.names[a], found.names[b], kl.value, kl.se])
        return rows


VIEW = LayersView
