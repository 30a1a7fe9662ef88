"""Figures and tables of Kishino et al., arXiv 2505.15353, from its released files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kltui.analysis import lineage
from kltui.analysis.diffusion import PUBLISHED_EXPONENTS, Exponent
from kltui.analysis.embed import PERPLEXITIES
from kltui.analysis.map import Map
from kltui.analysis.preprocess import PYTHIA_EXCLUDED
from kltui.analysis.scale import PUBLISHED, ScaleRow, row_of, scale
from kltui.errors import KltuiError
from kltui.figures.curves import exponent_panel, steps
from kltui.figures.groups import colouring
from kltui.figures.kl import KL_AXIS, scale_panel
from kltui.figures.maps import layer_map, panel
from kltui.figures.picture import Array, Axis, Layer, Panel, Picture, slot_colour, slot_mark, values
from kltui.figures.reproduce.item import KISHINO, Item, Number, Result, medians
from kltui.figures.reproduce.pairs import as_rows, published_pairs
from kltui.figures.reproduce.release import Release
from kltui.view.sections.layers import threads
from kltui.view.sections.section import MissingError
