"""The choice of the map that all screens show: corpus, settings, preprocessing, exclusions, or a saved map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError, UsageError
from kltui.sanitize import safe_text
from kltui.tui.filter import Columns, parse_filter, value_of

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.store.rows import CheckpointRow
    from kltui.store.saved_maps import SavedMap
    from kltui.view.sections.context import ReportChoice
    from kltui.workspace import Workspace
    from kltui.workspace.losses import StoredLoss

MODES = ("none", "clip", "pretraining")


@dataclass(frozen=True, slots=True)
class Basis:
    """The choice of a map: a saved map by name, or corpus hash and scoring settings ("": those of most checkpoints).

    `mode` is that of `--preprocess`; `exclude` has names of runs or checkpoints as `--exclude`, and filters.
    """

    over: str = ""
    settings: str = ""
    mode: str = "none"
    exclude: tuple[str, ...] = ()
    separate: bool = False
    saved: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the map has every vector, without preprocessing."""
        return not (self.saved or self.exclude or self.mode != "none")

    def apply(self, ws: Workspace) -> None:
        """Makes this corpus and these settings the defaults of `ws`. Raises UsageError if they are unknown."""
        ws.over, ws.settings = "", ""
        if self.saved:
            kept = _found(ws, self.saved)
            ws.choose_corpus(kept.corpus)
            ws.settings = kept.settings
            return
        if self.over:
            ws.choose_corpus(self.over)
        if self.settings:
            corpus = ws.corpus()
            known = [g.settings for g in ws.vector_groups() if g.corpus_id == corpus.id]
            if self.settings not in known:
                raise UsageError(
                    f"no vectors on the corpus {corpus.sha256[:12]} have the settings {self.settings}",
                    f"Known: {'; '.join(known) or 'none'}.",
                )
            ws.settings = self.settings

    def choice(self, ws: Workspace, **more: Any) -> ReportChoice:
        """This choice in the form that report sections take; `more` are further fields of ReportChoice."""
        from kltui.store.saved_maps import Preparation
        from kltui.view.sections.context import ReportChoice

        exclude = left_out(self.exclude, ws.checkpoints(), ws.vectors(), ws.losses()) if self.exclude else ()
        return ReportChoice(Preparation(self.mode, exclude, self.separate), self.saved, **more)

    def map_of(self, ws: Workspace) -> Map:
        """The map of `ws` according to this basis. Raises KltuiError if there is none."""
        if self.is_whole:
            return ws.map()
        from kltui.view.sections.context import Context

        return Context(ws, self.choice(ws)).map

    def raw_of(self, ws: Workspace) -> Map:
        """The vectors of `map_of` as they were scored, over all texts."""
        from kltui.view.sections.context import Context

        return Context(ws, self.choice(ws)).raw

    def check(self, ws: Workspace) -> None:
        """Raises KltuiError if something named in the basis does not exist; reads no vectors."""
        if self.mode not in MODES:
            raise UsageError(
                f"unknown preprocessing {safe_text(self.mode, 30)!r}", f"Known: {', '.join(MODES)}."
            )
        if self.saved and replace(self, saved="") != Basis():
            raise UsageError(
                "a saved map has its own corpus and preprocessing",
                "Omit the other options, or omit the map.",
            )
        if self.separate and self.mode == "none":
            raise UsageError(
                "separate runs need a preprocessing",
                "Choose clip or pretraining, or turn off separate preprocessing.",
            )
        self.apply(ws)
        self.choice(ws)

    def as_record(self) -> dict[str, object]:
        """Plain data for JSON; {} for the whole map."""
        whole = asdict(Basis())
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v != whole[k]}


def basis_of(record: object) -> Basis:
    """The basis from the result of `as_record`; the whole map for anything else."""
    if not isinstance(record, Mapping):
        return Basis()
    words = {k: record[k] for k in ("over", "settings", "mode", "saved") if isinstance(record.get(k), str)}
    exclude = record.get("exclude")
    parts = tuple(p for p in exclude if isinstance(p, str)) if isinstance(exclude, list) else ()
    return Basis(**words, exclude=parts, separate=record.get("separate") is True)


def left_out(
    parts: Sequence[str],
    rows: Iterable[CheckpointRow],
    on_map: Iterable[str],
    losses: Mapping[int, StoredLoss] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Names for `--exclude`: those `parts` that are names of runs or checkpoints, perhaps in quotes, and for each other
    part, read as a filter, the names in `on_map` that pass it.

    Raises UsageError for a part that is not a name and matches nothing.
    """
    rows, held = list(rows), set(on_map)
    columns = Columns(rows, losses)
    names = {n for r in rows for n in (r.name, r.checkpoint.base_name, r.checkpoint.run)}
    found: list[str] = []
    for part in parts:
        if name := next((n for n in (part, value_of(part).text) if n in names), ""):
            found.append(name)
            continue
        passing = parse_filter(part).passing(columns)
        caught = [r.name for r, passes in zip(rows, passing, strict=True) if passes and r.name in held]
        if not caught or not part.strip():
            from kltui.store.saved_maps import several_words

            runs = ", ".join(list(dict.fromkeys(r.checkpoint.run for r in rows))[:8])
            raise UsageError(
                f"{safe_text(part, 60)!r} matches no run or checkpoint of the map",
                f"Its runs: {runs}.{several_words(part)}",
            )
        found += caught
    return tuple(dict.fromkeys(found))


def _found(ws: Workspace, name: str) -> SavedMap:
    from kltui.store.saved_maps import find

    return find(ws.saved_maps(), name)


@dataclass(frozen=True, slots=True)
class Facts:
    """Texts for the status bar about the map: corpus, preprocessing, exclusions, dtype; "" while nothing is scored."""

    corpus: str = ""
    preparation: str = ""
    excluded: str = ""
    dtype: str = ""


def facts_of(ws: Workspace, basis: Basis) -> Facts:
    """The bar's texts for `ws`, to which the basis was applied; if the map cannot be made, `preparation` is the reason."""
    from kltui.store.comparable import dtypes_of

    try:
        row, vectors = ws.corpus(), ws.vectors()
    except KltuiError:
        return Facts()
    source = PurePath(row.source).name or row.source
    mode, separate = basis.mode, basis.separate
    excluded: tuple[str, ...] = ()
    names = list(vectors)
    try:
        if basis.saved:
            kept = _found(ws, basis.saved)
            mode, separate = kept.preparation.mode, kept.preparation.separate
            excluded, names = kept.preparation.exclude, list(kept.keys)
        elif basis.exclude:
            excluded = left_out(basis.exclude, ws.checkpoints(), vectors, ws.losses())
    except KltuiError as error:
        return Facts(f"{safe_text(source, 40)} {row.sha256[:8]}", error.message)
    gone = 0
    if excluded:
        labels = {r.name: {r.name, r.checkpoint.base_name, r.checkpoint.run} for r in ws.checkpoints()}
        gone = sum(not labels.get(name, {name}).isdisjoint(excluded) for name in names)
    keys = [vectors[name].key_fields for name in names if name in vectors]
    said = {field: sorted({k.get(field, "") for k in keys}) for field in ("dtype", "declared")}
    of = f"map {safe_text(basis.saved, 24)}: " if basis.saved else ""
    prepared = ("as scored" if mode == "none" else mode) + (" apart" if separate else "")
    return Facts(
        f"{safe_text(source, 40)} {row.sha256[:8]}, {row.n} text{'s' * (row.n != 1)}",
        of + prepared,
        f"{gone} of {len(names)} excluded" if gone else "none excluded",
        ", ".join(d or "dtype unknown" for d in dtypes_of(dict(said))),
    )
