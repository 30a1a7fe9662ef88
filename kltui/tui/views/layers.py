"""The Layers screen: KL between the layer vectors of neighbouring layers, and each model's layers as a line in one PCA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.style import Style

from kltui.errors import KltuiError
from kltui.sanitize import short_name
from kltui.tui.number_format import loss_of, with_error
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.views.map_plot import UNIT
from kltui.tui.widgets.canvas import Pane, Span, TextPane, fitted_name, spelled, width_of
from kltui.tui.widgets.plot import PlotPane
from kltui.tui.widgets.run_tree import counted
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    from kltui.analysis.embed import Picture
    from kltui.analysis.kl import KL
    from kltui.analysis.map import Map
    from kltui.figures.shown import ShownSubject
    from kltui.tui.session import Session
    from kltui.view.axis import Scale
    from kltui.view.space import Outline

SAID = {"adjacent": "KL to the previous layer", "threads": "threads (PCA)"}
MAX_MODELS = 8


def lens_models(kl: Session) -> list[str]:
    """Up to MAX_MODELS models with layer vectors: those selected or marked, else one of each run, the cursor's or the last."""
    rows = {r.name: r for r in kl.snapshot.with_layers if r.scored}
    chosen = kl.selection
    wanted = [n for n in dict.fromkeys((*chosen.selected, chosen.a, chosen.b)) if n in rows]
    if not wanted:
        last: dict[str, str] = {}
        for row in rows.values():
            last[row.checkpoint.run] = row.name
        here = rows.get(chosen.cursor)
        if here is not None:
            last[here.checkpoint.run] = here.name
        wanted = list(last.values())
    return wanted[:MAX_MODELS]


class LayersPlot(PlotPane):
    """KL between neighbouring layers against depth ("adjacent"), or each model's layers as a line in a PCA ("threads")."""

    title = "Layers"

    def __init__(self, method: str) -> None:
        super().__init__()
        self.map: Map | None = None
        self.picture: Picture | None = None
        self.models: list[str] = []
        # The number of each model, for its colour and mark, as it is drawn: a run may get another one meanwhile.
        self.series: list[int] = []
        self.method = method
        self.y_scale: Scale = "log"
        self.reading = False
        self.blank = ""  # why the layers that are there are not drawn
        self._said: list[str] = []
        self._ends: list[tuple[int, int]] = []

    def header_left(self) -> list[Span]:
        """The quantity, and the number of models."""
        count = f"  {counted(len(self.models), 'model')}" if self.map is not None else ""
        said = (SAID[self.method], self.look("text", bold=True))
        whole = [*super().header_left(), ("  ", self.look()), said, (count, self.look("muted"))]
        return whole if width_of(whole) <= self.body_width else [said]

    def placeholder(self) -> list[tuple[str, str]]:
        """(ink, text) lines on how to score layer vectors."""
        if self.reading:
            return [("muted", "reading the layer vectors …")]
        if self.blank:
            return [("muted", self.blank)]
        start = self.kl.key("start")
        return [
            ("text", self.note or "No layer vectors are stored."),
            ("muted", f"To score layers: press {start} in the Registry, then e, and enter all for layers."),
        ]

    def show_layers(self, found: Map | None, picture: Picture | None, models: list[str]) -> None:
        """Draws the layers of `models`, for "threads" at their places in `picture`."""
        self.map, self.picture, self.models, self.series = found, picture, models, self._numbers(models)
        self.blank = ""
        if found is not None and self.method == "adjacent":
            self._show_adjacent(found)
        elif found is not None and picture is not None:
            self._show_threads(found, picture)
        else:
            self._ends = []
            self.show(None, [])

    def _numbers(self, models: list[str]) -> list[int]:
        """Each model's number, for its colour and marker: its run's if these differ, otherwise 0, 1, 2 ..."""
        numbers = [self.kl.run_number(model) for model in models]
        return numbers if len(set(numbers)) == len(numbers) else list(range(len(numbers)))

    def layer_rows(self, found: Map) -> list[list[int]]:
        """For each model, the map's rows of its layer vectors by depth and of its final vector."""
        made = []
        for model in self.models:
            rows = [
                k for k, p in enumerate(found.points) if p.name.rpartition("#")[0] == model or p.name == model
            ]
            made.append(sorted(rows, key=lambda k: _depth(found.points[k].layer)))
        return made

    def _show_adjacent(self, found: Map) -> None:
        import numpy as np

        from kltui.view.plot_data import Scene, threads
        from kltui.view.space import in_three, with_outlines

        xy: list[tuple[float, float]] = []
        bars: list[Outline] = []
        lines, names, self._said, self._ends = [], [], [], []
        for series, rows in zip(self.series, self.layer_rows(found), strict=True):
            start = len(xy)
            for a, b in pairwise(rows):
                kl = found.pair_rows(a, b)
                if found.points[b].layer is None and not kl.value > 1e-12:
                    continue  # the last layer vector equals the final vector
                depth = _depth(found.points[b].layer)
                x = float(len(xy) - start + 1) if math.isinf(depth) else depth
                xy.append((x, kl.value))
                bars.append((series * SHADES, np.array([(x, y, 0.0) for y in _bar_ends(kl)])))
                names.append(found.names[b])
                self._said.append(f"from {_layer_word(found.points[a].layer)}: {with_error(kl.value, kl.se)}")
            if len(xy) > start:
                lines.append((series, range(start, len(xy))))
                self._ends.append((len(xy) - 1, series))
        self.blank = _why_blank([kl for _, kl in xy], self.y_scale, self.kl.key("axis_scale"))
        if self.blank:
            self._ends = []
            self.show(None, [])
            return
        code_n, segments = threads(lines, len(xy))
        data = np.array(xy, dtype=np.float64)
        places, codes, segments = with_outlines(in_three(data), code_n, segments, bars)
        self.x_name, self.y_name = "layer", "KL, bits/byte"
        places = np.ascontiguousarray(places[:, :2])
        scene = Scene(places, codes, segments, "linear", self.y_scale, n_points=len(data))
        self.show(scene, names)

    def _show_threads(self, found: Map, picture: Picture) -> None:
        import numpy as np

        from kltui.view.plot_data import Scene, threads

        lines = list(zip(self.series, self.layer_rows(found), strict=True))
        code_n, segments = threads(lines, len(found))
        xy = np.ascontiguousarray(picture.xyz_Kd[:, :2], dtype=np.float64)
        self._ends = [(r[-1], series) for series, r in lines if r]
        self.x_name, self.y_name = (
            f"axis {k + 1} ({share:.1%}), {UNIT}" if any(picture.axis_share) else f"axis {k + 1}, {UNIT}"
            for k, share in enumerate(picture.axis_share[:2])
        )
        self.show(Scene(xy, code_n, segments, equal=True), found.names)

    def labels(self) -> list[tuple[int, str, Style]]:
        """Each model's marker and name at its last layer."""
        look, names = self.look, dict(zip(self.series, self.models, strict=True))
        return [
            (point, f"{look.marker(s)} {short_name(names[s], 24)}", look(look.series(s)))
            for point, s in self._ends
        ]

    def marks(self) -> list[tuple[int, str, Style]]:
        """Each model's marker at its last layer."""
        look = self.look
        return [(point, look.marker(s), look(look.series(s), bold=True)) for point, s in self._ends]

    def _said_of(self, point: int) -> str:
        """The text about a point: its KL from the layer before ("adjacent"), or its loss."""
        if self.method == "adjacent" or self.map is None:
            return self._said[point]
        return f"loss {loss_of(self.map, point)} bits/byte"

    def redraw_focus(self) -> None:
        """Redraws the header and the read-out, which has hints for the focused plot."""
        super().redraw_focus()
        self.redraw(self.plot_height + 1)

    def readout(self) -> list[Span]:
        """The layer under the cross-hair."""
        look = self.look
        if not 0 <= self.cursor < len(self.names) or self.map is None:
            if not self.has_focus:
                return []  # the hints below are only for the focused plot
            words = "{} moves, {} another checkpoint of the run, {} the picture, {} the scale"
            return self.how_to_move(words, "method", "axis_scale")
        series = int(self.scene.code_n[self.cursor]) // SHADES if self.scene is not None else 0
        said = f"   {self._said_of(self.cursor)}"
        room = self.body_width - 3 - width_of(spelled([(said, look())], look))
        return [
            (f" {look.marker(series)} ", look(look.series(series))),
            (short_name(self.names[self.cursor], max(24, room)), look("text", bold=True)),
            (said, look("muted")),
        ]


def _depth(layer: int | None) -> float:
    return math.inf if layer is None else float(layer)


def _why_blank(kls: Sequence[float], scale: Scale, key: str) -> str:
    """Why none of these KLs can be drawn, and where it helps the `key` of the axis scale; "" if one can."""
    if not kls:
        return "No model here has two layers to compare."
    if not any(math.isfinite(kl) for kl in kls):
        return "Every KL is undefined: it needs two or more texts that both layers are scored on."
    if scale == "log" and not any(kl > 0 for kl in kls):
        return f"Every KL is 0, which a log axis cannot show: press {key} for a linear one."
    return ""


def _bar_ends(kl: KL) -> tuple[float, float]:
    """The value minus and plus one standard error; the lower end is the value itself if the bar would reach 0."""
    se = kl.se if math.isfinite(kl.se) else 0.0
    return (kl.value - se if kl.value > se else kl.value), kl.value + se


def _layer_word(layer: int | None) -> str:
    return "the final vector" if layer is None else f"layer {layer}"


class LayersView(View):
    """Two plots of the same models, one of them large, and the list of models."""

    screen_name = "layers"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self._asked: tuple[object, ...] = ()
        self.plot, self.other = LayersPlot("adjacent"), LayersPlot("threads")
        self.list = TextPane("Models", self._models)
        return [ColumnOfPanes([self.plot], aside=[self.list, self.other])]

    def shape(self) -> tuple[float, float] | None:
        """Width and height of the large plot's picture; None for KL against depth."""
        return self.plot.shape()

    def wanted_lines(self, pane: Pane) -> int:
        """For the list: one line for each model and five more; 0 for the other plot."""
        return 5 + max(1, len(self.plot.models)) if pane is self.list else 0

    def update_data(self) -> None:
        """Reads the layer vectors if the choice of models has changed."""
        super().update_data()
        wanted = (self.kl.map_cache.version, tuple(lens_models(self.kl)))
        if wanted != self._asked:
            self._asked = wanted
            self.run_worker(self._load(wanted[1]), group="layers", exclusive=True)

    def cursor_moved(self) -> None:
        """Shows the checkpoint under the cursor instead of the other one of its run."""
        self.update_data()

    async def _load(self, names: tuple[str, ...]) -> None:
        self.plot.reading = self.other.reading = bool(names)
        found, picture = None, None
        if names:
            try:
                await self.kl.map_cache.map()
                names = tuple(name for name in names if name not in self.kl.map_cache.excluded)
                found = await self.kl.map_cache.layers(names)
                picture = await self.kl.reader.compute(lambda: found.picture("pca"))
            except KltuiError as error:
                self.plot.note = self.other.note = error.in_one_line
                if found is None:
                    names = ()
        self._show(found, picture, list(names))

    def _show(self, found: Map | None, picture: Picture | None, models: list[str]) -> None:
        for plot in (self.plot, self.other):
            plot.reading = False
            plot.show_layers(found, picture, models)
        self.list.update_data()
        self.make_room(self.kl.size.width)

    def _models(self, width: int) -> list[list[Span]]:
        look = self.look
        lines: list[list[Span]] = []
        for i, name in zip(self.plot.series, self.plot.models, strict=True):
            row = self.kl.snapshot.by_name.get(name)
            lines.append(
                [
                    (look.marker(i) + " ", look(look.series(i))),
                    (fitted_name(name, max(8, width - 13)), look("text")),
                    (f"  {counted(row.layers, 'layer')}" if row else "", look("faint")),
                ]
            )
        more = len(self.kl.snapshot.with_layers) - len(self.plot.models)
        if more > 0:
            lines += [
                [],
                [(f"{more} more {'has' if more == 1 else 'have'} layer vectors;", look("muted"))],
                [(f"{self.kl.key('select')} selects", look("muted"))],
            ]
        return lines

    def do_method(self) -> None:
        """Exchanges the two plots."""
        plot, other = self.plot, self.other
        plot.method, other.method = other.method, plot.method
        plot.y_scale, other.y_scale = other.y_scale, plot.y_scale
        self._show(plot.map, plot.picture, plot.models)
        self.kl.say(f"large plot: {SAID[plot.method]}")

    def do_axis_scale(self) -> None:
        """Switches the KL axis between logarithmic and linear."""
        adjacent = next(plot for plot in (self.plot, self.other) if plot.method == "adjacent")
        adjacent.y_scale = "linear" if adjacent.y_scale == "log" else "log"
        self.kl.say(f"KL axis: {adjacent.y_scale}")
        adjacent.show_layers(adjacent.map, adjacent.picture, adjacent.models)

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the shown models' layers."""
        from kltui.figures.shown import ShownSubject

        return ShownSubject("layers", tuple(self.plot.models)) if self.plot.map is not None else None

    def csv_rows(self) -> list[list[object]]:
        """KL between neighbouring layers of the shown models, with standard errors."""
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
