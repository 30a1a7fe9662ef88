"""Language models in log-likelihood space: trajectories, KL divergence, diffusion exponents.

>>> import kltui
>>> ws = kltui.open("pythia")          # doctest: +SKIP
>>> ws.map(runs=["tiny"]).kl()         # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from kltui.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(
    path: str | PathLike[str], over: str = ""
) -> Workspace:  # shadows the builtin: it reads as kltui.open
    """The workspace in folder `path`, read-only, on the corpus whose hash begins with `over` ("": that of most checkpoints).

    Raises KltuiError where there is none.
    """
    from kltui.workspace import Workspace

    return Workspace.open(path, over)
