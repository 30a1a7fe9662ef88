"""The form for the map's settings: corpus, scoring settings, preprocessing, exclusions, saved maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.basis import MODES, Basis, left_out
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.corpus_choice import NO_MAP, corpora_to_choose, scored_corpora
from kltui.tui.dialogs.forms import Answers, Field, Form
from kltui.tui.filter import split_unquoted
from kltui.tui.widgets.run_tree import counted

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow, CorpusRow
    from kltui.tui.session import WorkspaceSession
    from kltui.workspace import Workspace
    from kltui.workspace.losses import StoredLoss

YES, NO = ("yes", "y", "true", "1"), ("", "no", "n", "false", "0")
REPLACED = "A map of this name is saved already. Reports and figures of it would then show the new one."
LISTED = 4  # how many corpora, settings and maps are named below the form


@dataclass(frozen=True)
class Offers:
    """The possible choices: corpora and settings with their numbers of vectors, names of saved maps, checkpoints."""

    shown: str  # hash of the corpus that the screens show
    corpora: Sequence[tuple[CorpusRow, int]]
    settings: Sequence[tuple[str, str, int]]  # (hash of the corpus, settings, vectors)
    maps: Sequence[str]
    rows: Sequence[CheckpointRow]
    losses: Mapping[int, StoredLoss] = field(default_factory=dict)

    def corpus(self, text: str) -> CorpusRow:
        """The corpus whose hash begins with `text`, or whose source has that name. Raises KltuiError unless it is one."""
        found = [r for r, _ in self.corpora if r.sha256.startswith(text)]
        found = found or [r for r, _ in self.corpora if text in (r.source, PurePath(r.source).name)]
        if len(found) != 1:
            raise KltuiError(f"corpus: {len(found)} of {len(self.corpora)} match {safe_text(text, 30)!r}")
        return found[0]

    def scoring(self, text: str, corpus: str) -> str:
        """The settings of a corpus: number `text` in the list, or those that contain every word of it.

        Raises KltuiError unless these are one.
        """
        known = [settings for sha256, settings, _ in self.settings if sha256 == corpus]
        if text.isdecimal() and 0 < int(text) <= len(known):
            return known[int(text) - 1]
        found = [s for s in known if s == text] or [s for s in known if all(w in s for w in text.split())]
        if len(found) != 1:
            raise KltuiError(
                f"scoring: {len(found)} of {len(known)} settings of this corpus hold {safe_text(text, 40)!r}"
            )
        return found[0]

    def saved_map(self, text: str) -> str:
        """The saved map of that name, or whose name alone begins with `text`. Raises KltuiError unless it is one."""
        found = [text] if text in self.maps else [name for name in self.maps if name.startswith(text)]
        if len(found) != 1:
            known = ", ".join(safe_text(name, 30) for name in self.maps) or "none yet"
            raise KltuiError(f"saved map: no map {safe_text(text, 30)!r}; there are: {known}")
        return found[0]


def offers_of(ws: Workspace, rows: Sequence[CheckpointRow]) -> Offers:
    """The choices in a workspace with the checkpoints `rows`."""
    shown, corpora = scored_corpora(ws)
    hashes = {row.id: row.sha256 for row, _ in corpora}
    settings = [
        (hashes[g.corpus_id], g.settings, g.n_checkpoints)
        for g in ws.vector_groups()
        if g.corpus_id in hashes
    ]
    return Offers(shown, corpora, settings, [m.name for m in ws.saved_maps()], rows, ws.losses())


async def ask_basis(app: WorkspaceSession) -> None:
    """Asks for the map's settings, shows the new map on every screen, and saves it if a name is given."""
    if app.map_cache.is_empty and len((await app.reader.read(corpora_to_choose))[1]) < 2:
        app.say(NO_MAP, "warning")
        return
    rows = app.snapshot.rows
    offers = await app.reader.read(lambda ws: offers_of(ws, rows))
    now = app.reader.basis

    def complaint(answers: Answers) -> str:
        try:
            meant(answers, offers, now)
        except KltuiError as error:
            return error.in_one_line
        name = answers["save as"].strip()
        if name and app.read_only:
            return "opened with --read-only: no map can be saved"
        if name and answers["saved map"].strip():
            return "that map is already saved: clear one of the last two lines"
        return ""

    def answered(answers: Answers | None) -> None:
        if answers is None:
            return
        basis, name = meant(answers, offers, now), answers["save as"].strip()
        if name not in offers.maps:
            app.run_worker(_make(app, basis, name), group="basis", exclusive=True)
            return

        def agreed(key: str | None) -> None:
            if key == "y":
                app.run_worker(_make(app, basis, name), group="basis", exclusive=True)

        question = f"Replace the saved map {safe_text(name, 40)}?"
        app.push_screen(prompts.confirm(question, REPLACED, app.look("text")), agreed)

    app.push_screen(Form("Map settings", _fields(now), complaint, _hints(offers)), answered)


def _fields(now: Basis) -> list[Field]:
    return [
        Field("corpus", now.over[:12], "default: that of most checkpoints"),
        Field("scoring", now.settings, "default: the settings of most checkpoints"),
        Field("preprocessing", now.mode, "none, clip or pretraining"),
        Field(
            "apart",
            "yes" if now.separate else "no",
            "yes: preprocess main and seed runs separately for Scale",
        ),
        Field(
            "exclude",
            ", ".join(f'"{part}"' if "," in part and '"' not in part else part for part in now.exclude),
            "runs, checkpoints or filters, separated by commas",
        ),
        Field("saved map", now.saved, "a saved map, which replaces all of the above"),
        Field("save as", "", "a name to save this map under"),
    ]


def _hints(offers: Offers) -> list[str]:
    corpora = [
        f"{row.sha256[:12]} {safe_text(PurePath(row.source).name or row.source, 24)} ({counted(n, 'vector')})"
        for row, n in offers.corpora
    ]
    several = len(offers.settings) > 1
    own = [(s, n) for sha256, s, n in offers.settings if sha256 == offers.shown]
    settings = [f"{k}: {safe_text(s, 60)} ({counted(n, 'vector')})" for k, (s, n) in enumerate(own, start=1)]
    found = [
        f"preprocessing: {', '.join(MODES)}; apart: yes (main and seed runs) or no",
        "exclude: tiny-seed2, step<100, quant:8bit - as for --exclude or the filter",
    ]
    found += [f"corpora: {_some(corpora)}"] if len(corpora) > 1 else []
    found += [f"scoring: {_some(settings)}"] if several else []
    found += [f"saved maps: {_some([safe_text(name, 30) for name in offers.maps])}"] if offers.maps else []
    return found


def _some(words: Sequence[str]) -> str:
    more = f", and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return ", ".join(words[:LISTED]) + more


def meant(answers: Answers, offers: Offers, now: Basis | None = None) -> Basis:
    """The basis that the form describes. Raises KltuiError that names the invalid line.

    A newly named saved map replaces the other lines if these are as the form showed them for the basis `now`.
    """
    line = {name: text.strip() for name, text in answers.items()}
    mode, apart = line["preprocessing"] or "none", line["apart"].lower()
    if mode not in MODES:
        raise KltuiError(f"preprocessing: {safe_text(mode, 30)!r} is not one of {', '.join(MODES)}")
    if apart not in (*YES, *NO):
        raise KltuiError("apart: yes or no")
    over = offers.corpus(line["corpus"]).sha256 if line["corpus"] else ""
    settings = offers.scoring(line["scoring"], over or offers.shown) if line["scoring"] else ""
    exclude = tuple(part for p in split_unquoted(line["exclude"], ",".__eq__) if (part := p.strip()))
    if exclude:
        rows = [row for row in offers.rows if row.scored]
        left_out(exclude, rows, [row.name for row in rows], offers.losses)
    saved = offers.saved_map(line["saved map"]) if line["saved map"] else ""
    basis = Basis(over, settings, mode, exclude, apart in YES, saved)
    if now is not None and saved and not now.saved and replace(basis, saved="") == now:
        basis = Basis(saved=saved)
    if saved and basis != Basis(saved=saved):
        raise KltuiError("a saved map has its own corpus and preprocessing: clear it, or the lines above it")
    if basis.separate and mode == "none":
        raise KltuiError("apart: choose the preprocessing clip or pretraining")
    return basis


async def _make(app: WorkspaceSession, basis: Basis, name: str) -> None:
    app.busy_with("loading the map …")
    try:
        if basis != app.reader.basis:
            await app.make_map_of(basis)
        if name:
            made = await app.reader.draw(lambda ws: _saved(ws, basis, name))
            app.say(f"saved {made} as map {name}", "good")
    finally:
        app.busy_with("")


def _saved(ws: Workspace, basis: Basis, name: str) -> str:
    made = ws.save_map(name, basis.choice(ws).preparation)
    return f"{counted(len(made), 'vector')} over {counted(len(made.text_bytes_N), 'text')}"
