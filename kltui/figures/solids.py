"""Panels with three axes: boxes with equal units, drawn as large as the layout allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kltui.figures.picture import Array, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLATTEST = 0.4  # minimum length of each axis relative to the longest
_FIRST_ZOOM = 0.8  # of a box before it is fitted to its area


def solid_box(panel: Panel) -> tuple[Array, Array]:
    """(centre, half of the sides) of the box around a panel's points, (3,) each, in data units."""
    found = [
        [layer.x, layer.y, layer.x if layer.z is None else layer.z] for layer in panel.layers if len(layer.x)
    ]
    xyz = np.concatenate([np.array(v) for v in found], axis=1)
    low, high = np.nanmin(xyz, axis=1), np.nanmax(xyz, axis=1)
    half: Array = np.maximum(high - low, _FLATTEST * float((high - low).max()) or 1.0) * 0.53
    return (low + high) / 2, half


def shape_solid(axes: Any, panel: Panel) -> None:
    """Gives three axes equal units and an orthographic view; none is much shorter than the longest."""
    from matplotlib.ticker import MaxNLocator

    middle, half = solid_box(panel)
    for which, m, h in zip("xyz", middle, half, strict=True):
        getattr(axes, f"set_{which}lim")(m - h, m + h)
        getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(4))
        axes.tick_params(axis=which, pad=0)
    axes.patch.set_visible(False)  # it would cover the label of the next panel's third axis
    axes.zaxis.labelpad = -3.0
    axes.set_proj_type("ortho")
    if panel.turned is not None:
        axes.view_init(azim=panel.turned[0], elev=panel.turned[1])
    axes.set_box_aspect(half, zoom=_FIRST_ZOOM)
    for artist in (*axes.lines, *axes.collections):
        artist.set_clip_on(False)  # the box may be wider than the square that matplotlib gives it
        artist.set_in_layout(False)  # they are inside the box


def fit_solids(figure: Figure, n_rows: int = 0) -> None:
    """Makes boxes of three axes as large as their areas allow; with `n_rows`, unused height of the rows is removed first."""
    solids = [axes for axes in figure.axes if axes.name == "3d"]
    if not solids:
        return
    if n_rows:
        figure.draw_without_rendering()
        found = [(_room(axes), _reach(axes)) for axes in solids]
        empty = min(float(room[1] - reach[1] * (room / reach).min()) for room, reach in found)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height - n_rows * 2 * max(0.0, empty) / figure.dpi)
    zooms = [np.full(len(solids), _FIRST_ZOOM)]
    reached = []
    for _ in range(
        2
    ):  # labels do not grow with the box, so that its extent is a linear function fitted at two zooms
        _zoom(solids, zooms[-1])
        figure.draw_without_rendering()
        rooms = np.array([_room(axes) for axes in solids])
        reached.append(np.array([_reach(axes) for axes in solids]))
        zooms.append(zooms[-1] * (rooms / reached[-1]).min(axis=1))
    change = (zooms[1] - zooms[0])[:, None]
    slopes = (reached[1] - reached[0]) / np.where(change, change, np.inf)
    slopes = np.where(slopes > 0, slopes, reached[1] / zooms[1][:, None])
    _zoom(solids, zooms[1] + ((rooms - reached[1]) / slopes).min(axis=1))


def _zoom(solids: Sequence[Any], zooms: Iterable[float]) -> None:
    for axes, zoom in zip(solids, zooms, strict=True):
        axes.set_box_aspect([np.ptp(getattr(axes, f"get_{which}lim")()) for which in "xyz"], zoom=zoom)
        axes.drawn_zoom = float(zoom)


def zoom_of(axes: Any) -> float:
    """The zoom of a drawn box of three axes, for matplotlib's `set_box_aspect`."""
    return float(getattr(axes, "drawn_zoom", _FIRST_ZOOM))


def _place(axes: Any) -> Any:
    """The area of three axes in the layout, in pixels (matplotlib itself uses only the square in its middle)."""
    return axes.get_position(original=True).transformed(axes.figure.transSubfigure)


def _room(axes: Any) -> Array:
    """(half of the width, half of the height) of the area of three axes, in pixels."""
    place = _place(axes)
    return np.array([place.width, place.height]) / 2


def _reach(axes: Any) -> Array:
    """How far three axes and their labels extend from the middle of their area, (horizontally, vertically), in pixels."""
    from matplotlib.transforms import Bbox

    renderer, place = axes.figure.canvas.get_renderer(), _place(axes)
    box = Bbox.union([axis.get_tightbbox(renderer) for axis in (axes.xaxis, axes.yaxis, axes.zaxis)])
    middle = (place.min + place.max) / 2
    reach: Array = np.maximum(box.max - middle, middle - box.min)
    return reach
