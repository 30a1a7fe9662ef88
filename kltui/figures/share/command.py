"""What --share does: the map, curves, scale and matrix of a workspace on one page."""

from __future__ import annotations

from pathlib import Path

from kltui.atomic_files import replacing
from kltui.errors import KltuiError
from kltui.figures.catalogue import picture
from kltui.figures.files import checked_file
from kltui.figures.picture import PaperFigure
from kltui.figures.share.page import check_plotly, page
from kltui.view.report import check_choice
from kltui.view.sections.context import Context

FIGURES = ("trajectories", "trajectories-3d", "curves", "scale", "matrix")


def checked_page(path: Path) -> Path:
    """The path of a page to write. Raises UsageError where no page can be written so."""
    return checked_file("--share", path, "page", ("html", "htm"))


def share(ctx: Context, path: Path) -> Path:
    """The page of every figure that this workspace can fill. Raises KltuiError where it can fill none."""
    check_plotly()
    checked_page(path)
    check_choice(ctx)
    pictures: list[PaperFigure] = []
    lacking: list[KltuiError] = []
    for name in FIGURES:
        ctx.notify(f"drawing {name}")
        try:
            pictures.append(picture(ctx, name))
        except KltuiError as error:
            lacking.append(error)
            ctx.notify(f"left out: {error.message}")
    if not pictures:
        raise lacking[0]
    text = page(f"{ctx.ws.path.resolve().name} in log-likelihood space", ctx.basis, pictures)
    with replacing(path) as file:
        file.write(text.encode())
    return path
