"""Released t-SNE coordinates, as the place of each vector by its name here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kltui.analysis.map import Map
from kltui.importers.imported import ImportFormatError, lineage
from kltui.importers.naming import released

FILES = {
    "pretraining": "pretraining_tsne_2d.pkl",
    "quantisation": "8bit_quantization_tsne.pkl",
    "fine-tuning": "ft_tsne.pkl",
    "layer": "layer_tsne.pkl",
}
Places = dict[str, tuple[float, float]]


def _pretraining(data: object, shown: Map) -> Places:
    """{"embedding": K x 2, "metadata": {"model_names": [...], "model_lengths": {...}}}: runs in order, by rising step."""
    found = _mapping(data, "pretraining")
    about = _mapping(found.get("metadata"), "pretraining")
    xy = np.asarray(found.get("embedding"), dtype=np.float64)
    lines = {t.run: t for t in shown.trajectories()}
    places: Places = {}
    start = 0
    for name in about.get("model_names", ()):  # type: ignore[attr-defined]
        n = int(_mapping(about.get("model_lengths"), "pretraining")[name])  # type: ignore[call-overload]
        line = lines.get(lineage(str(name)).run)
        if line is not None and len(line.rows) == n:
            for row, place in zip(line.rows, xy[start : start + n], strict=True):
                places[shown.names[row]] = _pair(place)
        start += n
    return places


def _quantisation(data: object, shown: Map) -> Places:
    """{model: {"original": xy, "quantized": xy}}."""
    places: Places = {}
    for name, both in _mapping(data, "quantisation").items():
        of = _mapping(both, "quantisation")
        places[released(str(name)).name] = _pair(of["original"])
        places[released(str(name), "bnb-8bit").name] = _pair(of["quantized"])
    return places


def _tuning(data: object, shown: Map) -> Places:
    """{model: xy}."""
    return {released(str(name)).name: _pair(xy) for name, xy in _mapping(data, "fine-tuning").items()}


def _layers(data: object, shown: Map) -> Places:
    """{model: layers x 2}, by rising layer."""
    places: Places = {}
    for name, xy in _mapping(data, "layer").items():
        run = lineage(str(name)).run
        own = sorted((p.layer, p.name) for p in shown.points if p.run == run and p.layer is not None)
        rows = np.asarray(xy, dtype=np.float64)
        if len(own) == len(rows):
            places |= {point: _pair(place) for (_, point), place in zip(own, rows, strict=True)}
    return places


READERS: dict[str, Callable[[object, Map], Places]] = {
    "pretraining": _pretraining,
    "quantisation": _quantisation,
    "fine-tuning": _tuning,
    "layer": _layers,
}


def _pair(value: object) -> tuple[float, float]:
    x, y = np.asarray(value, dtype=np.float64)[:2]
    return float(x), float(y)


def _mapping(value: object, picture: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise ImportFormatError(f"tsne/{FILES[picture]} is not laid out as released", "fetch it again")
    return value
