"""The choice of the corpus that all screens show, in a workspace with several."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.tui.basis import Basis
from kltui.tui.dialogs import prompts
from kltui.tui.widgets.run_tree import counted

if TYPE_CHECKING:
    from kltui.store import CorpusRow
    from kltui.tui.session import WorkspaceSession
    from kltui.workspace import Workspace


NO_MAP = "there is no map yet: score or import vectors first"


def scored_corpora(ws: Workspace) -> tuple[str, list[tuple[CorpusRow, int]]]:
    """(hash of the corpus shown, [(corpus, vectors of its largest map)] for each corpus with vectors)."""
    vectors: Counter[int] = Counter()
    for group in ws.vector_groups():
        vectors[group.corpus_id] = max(vectors[group.corpus_id], group.n_checkpoints)
    return ws.corpus().sha256, [(row, vectors[row.id]) for row in ws.corpora() if vectors[row.id]]


def corpora_to_choose(ws: Workspace) -> tuple[str, list[tuple[CorpusRow, int]]]:
    """As `scored_corpora`; ("", []) if nothing is scored on any corpus."""
    return scored_corpora(ws) if ws.corpora() and ws.vector_groups() else ("", [])


async def choose_corpus(app: WorkspaceSession) -> None:
    """Lists the corpora that have vectors; all screens then show the chosen one."""
    shown, found = await app.reader.read(corpora_to_choose)
    if not found:
        app.say(NO_MAP, "warning")
        return
    if len(found) < 2:
        app.say("all vectors are on the same corpus")
        return
    names = [f"{row.sha256[:12]}{' (shown)' if row.sha256 == shown else ''}" for row, _ in found]
    words = [(counted(row.n, "text"), counted(n, "vector"), safe_text(row.source, 60)) for row, n in found]
    options = list(zip(names, prompts.aligned(words, app.look), strict=True))

    def chosen(index: int | None) -> None:
        if index is not None:
            app.run_worker(_show(app, found[index][0]), group="corpus", exclusive=True)

    app.push_screen(prompts.ChoiceDialog("Show which corpus?", options), chosen)


async def _show(app: WorkspaceSession, row: CorpusRow) -> None:
    await app.make_map_of(Basis(over=row.sha256))
    app.say(f"corpus {row.sha256[:12]}: {counted(row.n, 'text')}", "good")
