"""What is read belongs together: another process commits before every statement in turn, and the answer is that of then or now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kltui
from kltui.corpus import Corpus
from kltui.errors import TryAgainError
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.connection import Cursor
from kltui.tui import data
from kltui.tui.basis import Basis, facts_of
from kltui.tui.dialogs.basis_form import offers_of
from kltui.workspace import Workspace

FEW = Corpus(tuple(f"text number {i}" for i in range(8)))
MORE = Corpus(tuple(f"another text {i}" for i in range(9)))
AUTO, NEVER = "bos=auto dtype=float32 overlong=error", "bos=never dtype=float32 overlong=error"


def score(
    store: Store, run: str, step: int, corpus: Corpus, settings: str, seed: int, weights: str = ""
) -> None:
    """Stores a vector, in the transaction that goes on."""
    rng = np.random.default_rng(seed)
    weights = weights or f"{run} {step}"
    row = store.checkpoints.upsert(Checkpoint(run, LocalSource(Path("/none")), step))
    store.checkpoints.set_weights(row, weights)
    key = {"weights": weights, "settings": settings}
    counts = np.full(len(corpus), 9, np.int32)
    of = store.corpora.add(corpus, "x")
    store.vectors.put(row, of, None, key, settings, rng.normal(-100, 5, len(corpus)), counts, None)


def scored_anew(store: Store) -> None:
    """New weights under the same names, scored with other settings: no vector is what it was."""
    for step in range(3):
        score(store, "a", step, FEW, NEVER, 10 + step, f"new {step}")
    store.db.execute("DELETE FROM vector WHERE settings = ?", (AUTO,))


def scored_on_more(store: Store) -> None:
    """More checkpoints over a new corpus, which the map is then of."""
    for step in range(5):
        score(store, "b", step, MORE, AUTO, 20 + step)


def renamed(store: Store) -> None:
    for row in store.checkpoints.all():
        store.checkpoints.relabel(row.id, Checkpoint("c", row.checkpoint.source, row.checkpoint.step))


CHANGES = (scored_anew, scored_on_more, renamed)


def read_map(ws: Workspace) -> object:
    m = ws.map()
    return m.names, m.loglik_KN.tolist(), m.text_bytes_N.tolist(), m.record


def read_snapshot(ws: Workspace) -> object:
    found = data._snapshot(ws, ws.path, None)
    return found.rows, found.losses, found.known_numbers, found.jobs, found.items


def in_interface(question: Callable[[Workspace], object]) -> Callable[[Workspace], object]:
    return lambda ws: data.at_one_moment(question, ws)


QUESTIONS: dict[str, Callable[[Workspace], object]] = {
    "map": read_map,
    "vectors": lambda ws: ws.vectors(layers=True),
    "corpus": lambda ws: ws.corpus(),
    "texts": lambda ws: ws.texts(),
    "copies": lambda ws: ws.copies(),
    "vector groups": lambda ws: ws.vector_groups(),
    "checkpoints": lambda ws: ws.checkpoints(),
    "losses": lambda ws: ws.losses(),
    "same weights": lambda ws: ws.same_weights(),
    "snapshot": in_interface(read_snapshot),
    "facts": in_interface(lambda ws: facts_of(ws, Basis())),
    "offers": in_interface(lambda ws: offers_of(ws, ())),
    "prepared map": in_interface(lambda ws: Basis(mode="clip").map_of(ws).record),
}
AGAIN = [f"{question}, asked again" for question in ("map", "snapshot")]
PLACES = 5


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    store = Store.write(folder)
    with store.atomic():
        for step in range(3):
            score(store, "a", step, FEW, AUTO, step)
    store.close()
    return folder


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("question", [*QUESTIONS, *AGAIN])
def test_an_answer_is_of_one_moment(
    before: Path, tmp_path: Path, monkeypatch, question: str, change: Callable[[Store], None]
) -> None:
    """A change comes between two statements of the answer, at PLACES places."""
    question, again, _ = question.partition(", asked again")
    ask, execute = QUESTIONS[question], Cursor.execute
    shutil.copytree(before, tmp_path / "after")
    commit(tmp_path / "after", change)
    answers = []
    for folder in (before, tmp_path / "after"):
        with kltui.open(folder) as ws:
            answers.append(ask(ws))

    def answered(folder: Path, at: int) -> tuple[object, int]:
        """(answer with a change before statement `at`, number of statements)."""
        n = 0
        with kltui.open(folder) as ws, monkeypatch.context() as patched:
            if again:
                ask(ws)

            def executed(cursor: Cursor, *arguments: object) -> Cursor:
                nonlocal n
                if cursor.connection is ws._store.db:
                    if n == at:
                        commit(folder, change)
                    n += 1
                return execute(cursor, *arguments)

            patched.setattr(Cursor, "execute", executed)
            return ask(ws), n

    _, n = answered(before, -1)
    for at in {1 + k * (n - 2) // (PLACES - 1) for k in range(PLACES)}:
        shutil.copytree(before, folder := tmp_path / str(at))
        assert answered(folder, at)[0] in answers, f"a commit before statement {at + 1} of {n}"


def commit(folder: Path, change: Callable[[Store], None]) -> None:
    """Makes a change to a workspace, as another process does."""
    store = Store.write(folder)
    with pytest.MonkeyPatch.context() as patched, store.atomic():
        patched.setattr("time.time", lambda: 2e9)  # so that what is made twice is the same
        change(store)
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_with_a_rollback_journal_no_change_passes_for_damage(
    before: Path, tmp_path: Path, monkeypatch, change: Callable[[Store], None]
) -> None:
    """On a network file system a writer need not wait for a reader of many vectors, which says what has happened."""
    for module in ("connection", "store"):
        monkeypatch.setattr(f"kltui.store.{module}.is_network", lambda name: True)
    execute = Cursor.execute

    def ended(at: int) -> str:
        """How a map ends that is read with a change before statement `at` of those outside of transactions."""
        shutil.copytree(before, folder := tmp_path / str(at))
        commit(folder, lambda store: None)  # which makes it one with a rollback journal
        n = 0
        with kltui.open(folder) as ws, monkeypatch.context() as patched:

            def executed(cursor: Cursor, *arguments: object) -> Cursor:
                nonlocal n
                if cursor.connection is ws._store.db and not cursor.connection.in_transaction:
                    n += 1
                    if n == at:
                        commit(folder, change)
                return execute(cursor, *arguments)

            patched.setattr(Cursor, "execute", executed)
            try:
                ws.map()
            except TryAgainError as error:
                return error.message
        return "read" if n >= at else "unchanged"

    found = [ended(1)]
    while found[-1] != "unchanged":
        found.append(ended(len(found) + 1))
    gone = "vectors were replaced while they were read"
    assert set(found) == {"read", "unchanged"} | ({gone} if change is scored_anew else set())


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_vector_that_was_replaced_since_it_was_listed_is_no_damage(
    before: Path, tmp_path: Path, monkeypatch, journal: str
) -> None:
    """Vectors that are read long after they were listed: for losses on the screen, or when an exact KL is computed."""
    if journal == "delete":
        for module in ("connection", "store"):
            monkeypatch.setattr(f"kltui.store.{module}.is_network", lambda name: True)
    shutil.copytree(before, folder := tmp_path / "w")
    commit(folder, lambda store: None)
    with kltui.open(folder) as ws:
        assert ws._store.db.execute("PRAGMA journal_mode").fetchone() == (journal,)
        listed = [v.id for v in ws.vectors().values()]
        asked = ws._asked_exactly("a@0", "a@1", None)
        assert ws.losses_of(listed).keys() == set(listed)
        commit(folder, scored_anew)
        assert ws.losses_of(listed) == {}
        with pytest.raises(TryAgainError, match="replaced"):
            ws._estimate(asked)
