"""The figure of a screen's content: its vectors in their order, at the coordinates at which it shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kltui.figures import curves as curves_figure
from kltui.figures import kl, maps
from kltui.figures.catalogue import picture
from kltui.figures.picture import Array, PaperFigure
from kltui.view.sections.context import Context, ReportChoice


@dataclass(frozen=True, eq=False)
class ShownSubject:
    """The content of a screen: the name of its figure, and its vectors in their order (none: all of the map).

    `pair`: A and B; `method` and `xy_Kd`: the embedding of those vectors on screen, K x 2 or 3; `colour`: the property
    that colours them; `turned`: azimuth and elevation in degrees of an embedding in three dimensions; `window`,
    `noise_corrected`: settings of the diffusion fit; `curves`: settings of the Curves screen.
    """

    figure: str
    names: tuple[str, ...] = ()
    pair: tuple[str, str] | None = None
    method: str = ""
    xy_Kd: Array | None = None
    colour: str = "run"
    turned: tuple[float, float] | None = None
    window: int = 0
    noise_corrected: bool = False
    curves: curves_figure.CurvesShown | None = None

    def choice(self, base: ReportChoice) -> ReportChoice:
        """`base` with the choices of a report that shows the same."""
        return replace(
            base,
            pair=self.pair or base.pair,
            only=frozenset(self.names),
            window=self.window or base.window,
            noise_corrected=self.noise_corrected or base.noise_corrected,
        )


def picture_of(ctx: Context, shown: ShownSubject) -> PaperFigure:
    """The figure of `shown`, from a context with its `choice`. Raises KltuiError if data for it is missing."""
    if shown.curves is not None:
        return curves_figure.drawn(ctx, shown.curves)
    if shown.xy_Kd is not None:
        return maps.drawn(ctx, shown.names, shown.xy_Kd, shown.method, shown.colour, shown.turned)
    if shown.figure == "matrix" and shown.names:
        return kl.matrix_of(ctx, shown.names)
    return picture(ctx, shown.figure)
