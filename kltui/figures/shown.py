"""The figure of what a screen shows: its vectors in their order, and the places at which it drew them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kltui.figures import curves as curves_figure
from kltui.figures import kl, maps
from kltui.figures.catalogue import picture
from kltui.figures.picture import Array, PaperFigure
from kltui.view.sections.context import Context, ReportChoice


@dataclass(frozen=True, eq=False)
class ShownSubject:
    """What a screen shows: the name of its figure, and its vectors in their order (none: all of the map).

    `pair`: A and B; `method` and `xy_Kd`: the picture of those vectors that is on screen, K x 2 or 3;
    `colour`: what colours them; `turned`: azimuth and elevation in degrees of a picture in three
    dimensions; `window`, `noise_corrected`: of a fit of diffusion; `curves`: scales, marks and what is
    hidden among curves against the step.
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
        """What a report's reader would have chosen to see the same, on top of `base`."""
        return replace(
            base,
            pair=self.pair or base.pair,
            only=frozenset(self.names),
            window=self.window or base.window,
            noise_corrected=self.noise_corrected or base.noise_corrected,
        )


def picture_of(ctx: Context, shown: ShownSubject) -> PaperFigure:
    """The figure of what is shown, made on a context of its `choice`. Raises KltuiError where something lacks."""
    if shown.curves is not None:
        return curves_figure.drawn(ctx, shown.curves)
    if shown.xy_Kd is not None:
        return maps.drawn(ctx, shown.names, shown.xy_Kd, shown.method, shown.colour, shown.turned)
    if shown.figure == "matrix" and shown.names:
        return kl.matrix_of(ctx, shown.names)
    return picture(ctx, shown.figure)
