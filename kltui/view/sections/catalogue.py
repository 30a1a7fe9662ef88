"""The sections of a report, in the order they are shown."""

from __future__ import annotations

from collections.abc import Callable

from kltui.view.sections.benchmark import benchmark, leakage
from kltui.view.sections.context import Context
from kltui.view.sections.corpora import corpora
from kltui.view.sections.diffusion import diffusion
from kltui.view.sections.directions import directions
from kltui.view.sections.drivers import drivers
from kltui.view.sections.exact import exact
from kltui.view.sections.interpolation import interpolation
from kltui.view.sections.kl import consecutive, kl
from kltui.view.sections.layers import layers
from kltui.view.sections.loss import loss
from kltui.view.sections.neighbours import neighbours
from kltui.view.sections.overview import overview
from kltui.view.sections.quantisation import quantisation
from kltui.view.sections.resampling import added, resampling
from kltui.view.sections.scale import scale
from kltui.view.sections.section import Section
from kltui.view.sections.stabilisation import stabilisation
from kltui.view.sections.trajectories import trajectories
from kltui.view.sections.tree import tree
from kltui.view.sections.uncertainty import uncertainty
from kltui.view.sections.where import where

Builder = Callable[[Context], Section]

SECTIONS: dict[str, Builder] = {
    "overview": overview,
    "loss": loss,
    "kl": kl,
    "consecutive": consecutive,
    "stabilisation": stabilisation,
    "scale": scale,
    "where": where,
    "neighbours": neighbours,
    "tree": tree,
    "trajectories": trajectories,
    "uncertainty": uncertainty,
    "diffusion": diffusion,
    "layers": layers,
    "quantisation": quantisation,
    "interpolation": interpolation,
    "drivers": drivers,
    "directions": directions,
    "corpora": corpora,
    "exact": exact,
    "resampling": resampling,
    "added": added,
    "benchmark": benchmark,
    "leakage": leakage,
}
