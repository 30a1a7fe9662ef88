"""A workspace gives back maps whose vectors may be compared, and says what keeps others apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kltui
from kltui.corpus import Corpus
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.registry import Checkpoint, LocalSource
from kltui.registry.digest import fingerprint
from kltui.store import CheckpointRow, Store, comparable
from kltui.workspace import Workspace
from kltui.workspace.placement import place
from kltui.workspace.weight_distances import within_runs

CORPUS = Corpus(tuple(f"text number {i}" for i in range(20)), domains=("a", "b") * 10)
RNG = np.random.default_rng(5)


def add(
    store: Store,
    checkpoint: Checkpoint,
    *,
    settings: str = "bos=auto dtype=float32 overlong=error",
    layer: int | None = None,
    corpus: Corpus = CORPUS,
    weights: str = "",
) -> np.ndarray:
    loglik = RNG.normal(-100, 5, len(corpus))
    weights = weights or f"w-{checkpoint.name}"
    with store.atomic():
        corpus_id = store.corpora.add(corpus, "x")
        cid = store.checkpoints.upsert(checkpoint)
        store.checkpoints.set_weights(cid, weights)
        key = {"weights": weights, "settings": settings, "layer": str(layer)}
        store.vectors.put(
            cid, corpus_id, layer, key, settings, loglik, np.full(len(corpus), 9, np.int32), None
        )
    return loglik


def checkpoint(run: str, step: int | None, **more: object) -> Checkpoint:
    return Checkpoint(run, LocalSource(Path("/none")), step, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.write(tmp_path / "ws")


def opened(store: Store) -> Workspace:
    store.close()
    return kltui.open(store.folder)


def test_map_rows_are_the_stored_vectors_in_order_of_run_and_step(store: Store) -> None:
    late = add(store, checkpoint("r", 10))
    early = add(store, checkpoint("r", 2))
    other = add(store, checkpoint("a", None, seed=3, size="tiny", parent="r@10"))
    with opened(store) as ws:
        m = ws.map()
        assert m.names == ["a", "r@2", "r@10"]
        np.testing.assert_array_equal(m.loglik_KN, [other, early, late])
        assert (m.points[0].seed, m.points[0].size, m.points[0].parent) == (3, "tiny", "r@10")
        np.testing.assert_array_equal(m.text_bytes_N, CORPUS.text_bytes)
        truth = np.var(late - early) / (2 * CORPUS.text_bytes.mean() * np.log(2))
        assert m.pair("r@2", "r@10").value == pytest.approx(truth, rel=1e-12)
        assert ws.map(runs=["r"]).names == ["r@2", "r@10"]
        assert ws.texts() == list(CORPUS.texts) and ws.domains() == list(CORPUS.domains)


def test_which_vectors_share_a_map_is_worked_out_once_until_another_process_writes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    fullest = comparable.fullest
    monkeypatch.setattr(
        comparable, "fullest", lambda rows, drawn: asked.append(len(rows)) or fullest(rows, drawn)
    )
    add(store, checkpoint("r", 1))
    with kltui.open(store.folder) as ws:
        assert ws.map().names == ws.map(names=["r@1"]).names == ["r@1"] and len(ws.vector_groups()) == 1
        ws.vector_groups().clear()  # a caller's own
        assert ws.corpus().n == 20 and asked == [1]
        add(store, checkpoint("r", 2))
        add(store, checkpoint("r", 3), settings="bos=never dtype=float32 overlong=error")
        assert ws.map().names == ["r@1", "r@2"] and len(ws.vector_groups()) == 2
        assert ws.corpus().n == 20 and asked == [1, 3]
    store.close()


def test_layers_join_only_when_asked(store: Store) -> None:
    add(store, checkpoint("r", 1))
    add(store, checkpoint("r", 1), layer=0)
    add(store, checkpoint("r", 1), layer=1)
    with opened(store) as ws:
        assert ws.map().names == ["r@1"]
        assert ws.map(layers=True).names == ["r@1#0", "r@1#1", "r@1"]
        assert ws.checkpoints()[0].layers == 2


def test_vectors_under_other_settings_are_never_mixed_and_the_refusal_names_the_key(store: Store) -> None:
    for step in (1, 2):
        add(store, checkpoint("r", step))
    add(store, checkpoint("r", 3), settings="bos=never dtype=float32 overlong=error")
    with opened(store) as ws:
        assert ws.map().names == ["r@1", "r@2"]
        assert ws.map(names=["r@3"]).names == ["r@3"]
        with pytest.raises(UsageError, match=r"bos is (auto or never|never or auto)"):
            ws.map(names=["r@1", "r@3"])


def test_another_corpus_is_another_map(store: Store) -> None:
    add(store, checkpoint("r", 1))
    add(store, checkpoint("r", 2))
    small = Corpus(("x", "y"))
    add(store, checkpoint("r", 1), corpus=small)
    with opened(store) as ws:
        assert len(ws.map().text_bytes_N) == 20
        assert ws.map(corpus=small.sha256[:10]).names == ["r@1"]
        with pytest.raises(UsageError, match="no corpus matches"):
            ws.map(corpus="ffff0000ffff")


def test_unknown_names_and_empty_workspaces_are_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KltuiError, match="no kltui workspace"):
        kltui.open(tmp_path / "elsewhere")
    add(store, checkpoint("r", 1))
    with opened(store) as ws:
        with pytest.raises(UsageError, match="no run 'q'"):
            ws.map(runs=["q"])
        with pytest.raises(UsageError, match="no checkpoint 'r@9'"):
            ws.map(names=["r@9"])
    Store.write(tmp_path / "empty").close()
    with kltui.open(tmp_path / "empty") as ws, pytest.raises(KltuiError, match="nothing is scored"):
        ws.map()


@pytest.mark.process
def test_weight_distances_come_from_the_files_and_are_kept(store: Store, tmp_path: Path) -> None:
    weights = RNG.normal(size=(5, 3, 4)).astype(np.float32)
    for step, w in enumerate(weights):
        folder = tmp_path / f"step{step}"
        folder.mkdir()
        save_file({"layer.weight": w}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
        add(store, Checkpoint("r", LocalSource(folder), step), weights=fingerprint(folder))
    with opened(store) as ws:
        assert ws.weight_distances() == {}
        seen: list[tuple[str, int, int]] = []
        got = ws.weight_distances(compute=True, window=2, progress=lambda *p: seen.append(p))
        assert seen[-1][0] == "r" and seen[-1][1] == seen[-1][2]
        assert set(got) == {(f"r@{i}", f"r@{j}") for i in range(5) for j in range(5) if 0 < abs(i - j) <= 2}
        truth = np.square(weights[1].astype(float) - weights[3].astype(float)).sum()
        assert got["r@1", "r@3"] == pytest.approx(truth, rel=2e-7)
    with kltui.open(store.folder) as ws:
        assert ws.weight_distances() == got


@pytest.mark.process
def test_weight_problems_are_told_and_cost_only_their_run(store: Store, tmp_path: Path) -> None:
    for run, shapes in (("good", (3, 3)), ("bad", (3, 4))):
        for step, n in enumerate(shapes):
            folder = tmp_path / run / f"step{step}"
            folder.mkdir(parents=True)
            save_file({"w.weight": np.full((n, 2), step, np.float32)}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")
            add(store, Checkpoint(run, LocalSource(folder), step), weights=fingerprint(folder))
    with opened(store) as ws:
        got = ws.weight_distances(compute=True)
        assert got["good@0", "good@1"] == 6.0
        assert not any(a.startswith("bad") for a, _ in got)
        assert len(ws.weight_problems) == 1 and ws.weight_problems[0].startswith("bad: ")


def test_models_added_by_drawn_texts_never_outvote_the_map(store: Store) -> None:
    add(store, checkpoint("old", 1))
    add(store, checkpoint("old", 2))
    small = Corpus(CORPUS.texts[:2])
    with store.atomic():
        corpus_id = store.corpora.add(small, "drawn")
        store.records.put("draw", "ls-2", {"corpus": small.sha256})
        for k in range(20):
            cid = store.checkpoints.upsert(Checkpoint(f"added{k}", LocalSource(Path("/m"))))
            store.checkpoints.set_weights(cid, f"a{k}")
            values, n = np.arange(2.0) * k, np.ones(2, np.int32)
            store.vectors.put(cid, corpus_id, None, {"weights": f"a{k}"}, "bos=auto", values, n, None)
    with opened(store) as ws:
        assert len(ws.map().text_bytes_N) == len(CORPUS)
        assert ws.corpus().sha256 == CORPUS.sha256
        assert len(ws.map(corpus=small.sha256)) == 20


def test_weight_distances_by_name_are_those_of_every_pair_of_a_run() -> None:
    def row(run: str, step: int, weights: str) -> CheckpointRow:
        return CheckpointRow(
            step, Checkpoint(run, LocalSource(Path("/m")), step), True, 0, -1.0, "scored", weights=weights
        )

    rows = [row("a", s, w) for s, w in enumerate("uvwv")] + [row("b", s, w) for s, w in enumerate("vux")]
    stored = {("u", "v"): 1.0, ("v", "w"): 2.0, ("x", "v"): 3.0, ("v", "v"): 0.0, ("u", "gone"): 4.0}
    stored |= {(b, a): d for (a, b), d in stored.items()}
    every = {
        (p.name, q.name): stored[p.weights, q.weights]
        for p in rows
        for q in rows
        if p is not q and p.checkpoint.run == q.checkpoint.run and (p.weights, q.weights) in stored
    }
    assert list(within_runs(rows, stored).items()) == list(every.items()) and len(every) == 14


def test_checkpoints_are_read_once_for_all_kinds_of_distances(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        add(store, checkpoint("r", step))
    with opened(store) as ws:
        kind, calls = type(ws._store.checkpoints), []
        read = kind.all
        monkeypatch.setattr(kind, "all", lambda self: calls.append(self) or read(self))
        assert ws.weight_distances() == ws.adapter_distances() == ws.gguf_distances() == {}
        assert len(ws.checkpoints()) == 2
        assert ws.weight_distances() == {} and len(calls) == 2  # the last reading anew was asked for by name


def test_a_run_whose_files_are_gone_is_looked_at_without_writing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        add(store, checkpoint("r", step))
    with opened(store) as ws:
        monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("the workspace was opened for writing"))
        generation = ws.generation()
        assert ws.weight_distances(compute=True) == {} and ws.generation() == generation
        assert len(ws.weight_problems) == 1 and "2 checkpoints are missing" in ws.weight_problems[0]


def test_no_model_is_placed_where_only_a_corpus_is_stored(store: Store) -> None:
    """As in a workspace all of whose checkpoints failed."""
    with store.atomic():
        store.corpora.add(CORPUS, "x")
    with opened(store) as ws, pytest.raises(StoreError, match="nothing is scored in this workspace yet"):
        place(ws, "a-model")


def test_models_that_this_user_cannot_access_are_left_out_and_end_nothing(store: Store) -> None:
    """A path that is too long raises OSError for every user, as a folder of another user does."""
    for step in (1, 2):
        source = LocalSource(Path("/", "a" * 300))
        add(store, Checkpoint("r", source, step), weights=f"w{step}")
    with opened(store) as ws:
        assert ws.adapter_distances() == {}
        assert ws.weight_distances(compute=True) == {}
        assert ws.weight_problems == ["r: the files of 2 checkpoints are missing, r@1 among them"]
        with pytest.raises(KltuiError, match="the files of r@1 are missing"):
            ws.exact_kl("r@1", "r@2")
