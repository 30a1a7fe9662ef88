"""The figures by name, and the function that writes one into files."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from kltui.errors import KltuiError, UsageError
from kltui.figures import curves, kl, maps, scores
from kltui.figures.draw import FigureStyle, check_matplotlib
from kltui.figures.files import checked_path, write
from kltui.figures.groups import BY
from kltui.figures.picture import PaperFigure
from kltui.sanitize import safe_text
from kltui.view.report import check_choice
from kltui.view.sections.context import Context
from kltui.view.sections.section import MissingError

BY_COLOUR: dict[str, Callable[[Context, str], PaperFigure]] = {
    "trajectories": maps.trajectories,
    "trajectories-3d": maps.trajectories_3d,
}
FIGURES: dict[str, Callable[[Context], PaperFigure]] = {
    "trajectories": maps.trajectories,
    "trajectories-3d": maps.trajectories_3d,
    "scale": kl.scale,
    "curves": curves.curves,
    "diffusion": curves.diffusion,
    "layers": maps.layers,
    "matrix": kl.matrix,
    "tree": kl.tree,
    "drivers": kl.drivers,
    "quantisation": kl.quantisation,
    "benchmark": scores.benchmark,
    "leakage": scores.leakage,
    "resampling": curves.resampling,
}


def check_name(name: str) -> None:
    """Raises UsageError, which lists the known figures, if `name` is not one of them."""
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"unknown figure {safe_text(name, 60)!r}{meant}", f"Known figures: {', '.join(FIGURES)}."
        )


def picture(ctx: Context, name: str, colour: str = "") -> PaperFigure:
    """The figure `name` of a workspace. Raises UsageError for an unknown one, KltuiError if the workspace lacks its data."""
    check_name(name)
    if colour and name not in BY_COLOUR:
        raise UsageError(
            f"--colour applies only to {' and '.join(BY_COLOUR)}, not with {name}",
            f"--colour takes {', '.join(BY)}.",
        )
    try:
        return BY_COLOUR[name](ctx, colour) if colour else FIGURES[name](ctx)
    except MissingError as error:
        raise KltuiError(f"the figure {name} cannot be drawn: {error.message}", error.hint) from error


def write_figure(ctx: Context, name: str, path: Path, look: FigureStyle, colour: str = "") -> list[Path]:
    """Writes the figure `name` of a workspace to `path`, with its CSV and script, and returns the three paths."""
    check_name(name)
    checked_path(path)
    check_matplotlib()
    check_choice(ctx)
    made = picture(ctx, name, colour)
    for note in made.notes:
        ctx.notify(note)
    return write(made, path, look, ctx.notify)
