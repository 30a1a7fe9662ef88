"""A workspace and its maps with methods for notebooks: data frames, plots and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from os import PathLike
from typing import TYPE_CHECKING, Self

from kltui.analysis.embed import Method
from kltui.analysis.map import Map
from kltui.analysis.number_text import with_error
from kltui.errors import NoWorkspaceError
from kltui.html_table import html_table
from kltui.notebook.frames import losses, map_frame, square_frame
from kltui.sanitize import expanded
from kltui.store.saved_maps import Preparation
from kltui.view.report import check_choice, checked, report_on
from kltui.view.sections.context import PERPLEXITY, Context, ReportChoice, silent
from kltui.view.sections.section import Section
from kltui.workspace import Workspace
from kltui.workspace.placement import Placement, place

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROWS_SHOWN = 20


class NotebookMap(Map):
    """A map with methods for data frames and plots."""

    @classmethod
    def of(cls, made: Map) -> NotebookMap:
        """The same map."""
        return cls(**{f.name: getattr(made, f.name) for f in fields(made)})

    def to_pandas(
        self, method: Method = "pca", dims: int = 2, *, perplexity: float = PERPLEXITY
    ) -> pd.DataFrame:
        """One row for each of the K vectors: name, run, step, size, type, loss in bits/byte with its error, coordinates x, y (z).

        `method` is "pca", "mds" or "tsne". Raises KltuiError if pandas is not installed.
        """
        return map_frame(self, method, dims, perplexity)

    def kl_pandas(self) -> pd.DataFrame:
        """K x K KL in bits/byte, with names as index and columns."""
        return square_frame(self.names, self.kl())

    def kl_se_pandas(self) -> pd.DataFrame:
        """K x K standard errors of `kl_pandas`, with names as index and columns; NaN if unknown."""
        return square_frame(self.names, self.kl_se())

    def plot(
        self, method: Method = "pca", dims: int = 2, *, by: str = "run", perplexity: float = PERPLEXITY
    ) -> Figure:
        """The map as a figure of matplotlib, coloured `by` run, type, size or tag.

        `method` and `dims` (2 or 3) as in `coordinates`. Raises KltuiError if matplotlib is not installed.
        """
        from kltui.notebook.plot import map_figure

        return map_figure(self, method, dims, by, perplexity)

    def _repr_html_(self) -> str:
        caption = f"map of {len(self)} vectors over {len(self.text_bytes_N)} texts, {self.mean_bytes:.1f} bytes on average"
        if len(self) > ROWS_SHOWN:
            caption += f"; the first {ROWS_SHOWN}"
        rows = [
            (p.name, "" if p.step is None else str(p.step), p.size, p.type, with_error(*loss))
            for p, loss in zip(self.points[:ROWS_SHOWN], losses(self), strict=False)
        ]
        return html_table(caption, ("name", "step", "size", "type", "loss, bits/byte"), rows)


class NotebookWorkspace(Workspace):
    """A workspace whose maps are NotebookMaps, with methods for placing a model and for single sections of the report."""

    @classmethod
    def open(cls, path: str | PathLike[str], over: str = "", values: str = "conditional") -> Self:
        """As `Workspace.open`, with ~ for the home folder; the error for what is no workspace says what it is."""
        try:
            return super().open(expanded(path), over, values)
        except NoWorkspaceError as error:
            from kltui.jobs.path_hint import no_workspace

            raise no_workspace(str(path), error, python=True) from None

    def map(
        self,
        runs: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        layers: bool = False,
        corpus: str | None = None,
        preprocess: str = "none",
        settings: str | None = None,
        device: str = "cpu",
        values: str = "",
    ) -> NotebookMap:
        """As `Workspace.map`."""
        return NotebookMap.of(super().map(runs, names, layers, corpus, preprocess, settings, device, values))

    def saved_map(self, name: str, *, prepared: bool = True, device: str = "cpu") -> NotebookMap:
        """As `Workspace.saved_map`."""
        return NotebookMap.of(super().saved_map(name, prepared=prepared, device=device))

    def save_map(self, name: str, preparation: Preparation | None = None) -> NotebookMap:
        """As `Workspace.save_map`."""
        return NotebookMap.of(super().save_map(name, preparation))

    def place(
        self,
        model: str | PathLike[str],
        texts: int | None = None,
        overrides: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> Placement:
        """The position of `model` on this workspace's map, scored in a separate process; see `kltui.workspace.placement.place`."""
        return place(self, str(model), texts, overrides, say)

    def section(
        self,
        name: str,
        *,
        preprocess: str = "none",
        exclude: Sequence[str] = (),
        saved_map: str = "",
        pair: tuple[str, str] | None = None,
        where: float | None = None,
        level: float | None = None,
        noise_corrected: bool = False,
        compute: bool = False,
        device: str = "auto",
        notify: Callable[[str], None] = silent,
    ) -> Section:
        """One section of the report, such as "scale"; `data` contains the numbers, and a notebook displays the tables.

        The options are those of `--report`. With `compute`, results that need the models are computed on `device`; progress of
        long computations goes to `notify`. Raises UsageError for an unknown name or option.
        """
        preparation = Preparation(checked(preprocess), exclude=tuple(exclude))
        choice = ReportChoice(
            preparation,
            saved_map,
            pair,
            where,
            level,
            noise_corrected,
            compute=compute,
            scoring_device=device,
        )
        ctx = Context(self, choice, notify)
        check_choice(ctx)
        return report_on(ctx, [name]).sections[0]
