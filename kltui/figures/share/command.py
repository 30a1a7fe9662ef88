"""Runs --share: writes one page with the map, curves, scale and matrix of a workspace."""

from __future__ import annotations

from pathlib import Path

from kltui.atomic_files import replacing
from kltui.errors import KltuiError
from kltui.figures.catalogue import picture
from kltui.figures.files import checked_file
from kltui.figures.picture import PaperFigure
from kltui.figures.share.page import check_plotly, page, unwritten
from kltui.view.report import check_choice
from kltui.view.sections.context import Context

FIGURES = ("trajectories", "trajectories-3d", "curves", "scale", "matrix")


def checked_page(path: Path) -> Path:
    """The path of a page to write. Raises UsageError if it does not end in .html or .htm, or is not writable."""
    return checked_file("--share", path, "page", ("html", "htm"))


def share(ctx: Context, path: Path) -> Path:
    """Writes a page with every figure for which the workspace has data, and returns its path. Raises KltuiError if there is none."""
    check_plotly()
    checked_page(path)
    check_choice(ctx)
    pictures: list[PaperFigure] = []
    lacking: list[KltuiError] = []
    for name in FIGURES:
        ctx.notify(f"drawing {name}")
        try:
            pictures.append(picture(ctx, name))
            for line in unwritten(pictures[-1]):
                ctx.notify(line)
        except KltuiError as error:
            lacking.append(error)
            ctx.notify(f"left out: {error.message}")
    if not pictures:
        raise lacking[0]
    text = page(f"{ctx.ws.path.resolve().name} in log-likelihood space", ctx.basis, pictures)
    with replacing(path) as file:
        file.write(text.encode())
    return path
