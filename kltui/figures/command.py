"""Runs --figure, and reads the style options that --reproduce shares with it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from kltui.errors import UsageError
from kltui.figures.catalogue import check_name, write_figure
from kltui.figures.draw import FigureStyle, check_matplotlib, check_style, parse_width
from kltui.figures.files import checked_path
from kltui.view.sections.context import Context, ReportChoice
from kltui.workspace import Workspace


def look_of(arguments: argparse.Namespace) -> FigureStyle:
    """The style of figures that --width and --style state."""
    return FigureStyle(parse_width(arguments.width) if arguments.width else 0.0, arguments.style)


def figure(
    arguments: argparse.Namespace,
    folder: Path,
    choose: Callable[[argparse.Namespace, Workspace], ReportChoice],
    notify: Callable[[str], None],
) -> Sequence[Path]:
    """Runs --figure and returns the paths of the files written. Raises UsageError for options that cannot be used."""
    check_name(arguments.figure)
    if arguments.out is None:
        raise UsageError("--figure writes a file", f"Add --out {arguments.figure}.pdf (or .svg, .png).")
    checked_path(arguments.out)
    look = look_of(arguments)
    check_matplotlib()
    check_style(look)
    with Workspace.open(folder, arguments.over, arguments.values) as workspace:
        ctx = Context(workspace, choose(arguments, workspace), notify)
        return write_figure(ctx, arguments.figure, arguments.out, look, arguments.colour)
