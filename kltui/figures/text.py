"""Figures as text plots, for installations without matplotlib."""

from __future__ import annotations

from kltui.figures.picture import Panel, PaperFigure
from kltui.view.axis import Scale
from kltui.view.textplot import PlotFrame, Series, Style, draw

_SCALES: dict[str, Scale] = {"linear": "linear", "log": "log", "symlog": "log1p"}
WIDTH, HEIGHT = 100, 24


def text_of(picture: PaperFigure) -> str:
    """A figure as text: its title, its panels below each other, and its notes."""
    parts = [picture.title, *(_panel(panel) for panel in picture.panels), *picture.notes]
    return "\n\n".join(parts) + "\n"


def _panel(panel: Panel) -> str:
    slots: dict[str, int] = {}
    series = []
    for layer in panel.layers:
        slot = slots.setdefault(layer.label or layer.colour, len(slots))
        line = layer.kind == "line"
        series.append(
            Series(
                layer.label,
                layer.x,
                layer.y,
                line=line,
                markers=bool(layer.mark) and layer.every == 1,
                slot=slot,
            )
        )
    places = [f"{at:g}: {word}" for axis in (panel.x, panel.y) for at, word in axis.ticks]
    frame = PlotFrame(
        panel.title,
        panel.x.label,
        panel.y.label,
        _SCALES[panel.x.scale],
        _SCALES[panel.y.scale],
        equal=panel.equal,
    )
    drawn = draw(series, frame, Style(WIDTH, HEIGHT))
    return "\n".join([drawn, *(["ticks: " + "; ".join(dict.fromkeys(places))] if places else [])])
