"""The command-line options on figures."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(what: argparse._MutuallyExclusiveGroup) -> None:
    """Adds --figure, --share and --reproduce to the commands."""
    what.add_argument(
        "--figure",
        metavar="NAME",
        help="write a figure for a paper to --out, with its points as CSV and a script that redraws it:"
        " trajectories, trajectories-3d, scale, curves, diffusion, layers, matrix, tree, drivers, quantisation, benchmark,"
        " leakage, resampling (pip install '.[figures]')",
    )
    what.add_argument(
        "--share",
        metavar="FILE",
        type=Path,
        help="write an interactive page with WORKSPACE's map (2-D and 3-D), curves, scale and matrix to FILE.html;"
        " it is self-contained (pip install '.[share]')",
    )
    what.add_argument(
        "--reproduce",
        metavar="FOLDER",
        type=Path,
        help="reproduce the figures and tables of arXiv 2505.15353 and 2502.16173 from the released files in FOLDER into"
        " --out, and compare each number with the published one",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of --figure and --reproduce."""
    figures = parser.add_argument_group(
        "with --figure and --reproduce",
        "--figure and --share also take --preprocess, --exclude, --separate, --map and --pair.",
    )
    figures.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="with --figure: the file, .pdf, .svg or .png; with --reproduce: the folder",
    )
    figures.add_argument(
        "--width",
        metavar="WIDTH",
        help="width of the figure: 85mm, 8.5cm, 3.3in or 240pt (default: by its panels)",
    )
    figures.add_argument(
        "--style", metavar="FILE", type=Path, help="a matplotlib style file, such as lines font.size: 7"
    )
    figures.add_argument(
        "--colour",
        metavar="BY",
        default="",
        help="colour of points with --figure trajectories and trajectories-3d: run, type, size, tag, score, or a benchmark's name"
        " (default: run)",
    )
