"""Forms: lineage, how a job scores, a new run, released vectors; filled in by keys, on real workspaces."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import FakeHub
from screen_text import text_of
from textual.pilot import Pilot

import kltui
from kltui.corpus.corpus import Corpus
from kltui.errors import StoreError, UsageError
from kltui.jobs.lineage import common, edit_lineage, parse_changes
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.writer_lock import Writer
from kltui.tui.app import KltuiApp
from kltui.tui.dialogs.job_form import merged
from kltui.tui.dialogs.prompts import Prompt, completed

MakeApp = Callable[..., KltuiApp]


def workspace(folder: Path) -> Path:
    """Runs "tiny" (three steps) and "tuned", whose parent is the last of them; one vector each."""
    store = Store.write(folder)
    rng = np.random.default_rng(1)
    made = [Checkpoint("tiny", LocalSource(Path(f"/m/{s}")), s, size="tiny") for s in (10, 20, 30)]
    made.append(Checkpoint("tuned", LocalSource(Path("/m/t")), parent="tiny@30"))
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(f"text {i}" for i in range(12))), "test")
        for i, checkpoint in enumerate(made):
            row = store.checkpoints.upsert(checkpoint)
            store.checkpoints.set_weights(row, f"w{i}")
            counts = np.full(12, 5, np.int32)
            store.vectors.put(
                row, corpus, None, {"weights": f"w{i}"}, "dtype=float32", rng.normal(-50, 5, 12), counts, None
            )
    store.close()
    return folder


def lineages(folder: Path) -> dict[str, Checkpoint]:
    with kltui.open(folder) as ws:
        return {r.name: r.checkpoint for r in ws.checkpoints()}


async def write(pilot: Pilot[int], text: str) -> None:
    """Puts `text` in place of what the focused line holds."""
    line = pilot.app.focused
    line.value = text  # type: ignore[union-attr]
    await pilot.pause(0.02)


def test_a_renamed_run_keeps_its_vectors_and_its_children(tmp_path: Path) -> None:
    workspace(tmp_path)
    names = ["tiny@10", "tiny@20", "tiny@30"]
    assert edit_lineage(tmp_path, names, {"run": "small", "seed": "3", "tags": "a, b"}) == 3
    found = lineages(tmp_path)
    assert set(found) == {"small@10", "small@20", "small@30", "tuned"}
    assert found["tuned"].parent == "small@30"
    assert (found["small@10"].seed, found["small@10"].tags, found["small@10"].size) == (3, ("a", "b"), "tiny")
    with kltui.open(tmp_path) as ws:
        assert len(ws.map()) == 4


def test_a_name_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    workspace(tmp_path)
    with pytest.raises(StoreError, match="already"):
        edit_lineage(tmp_path, ["tuned", "tiny@10"], {"run": "tiny", "seed": "4"})
        edit_lineage(tmp_path, ["tiny@10"], {"step": "30"})
    found = lineages(tmp_path)
    assert found["tiny@10"].step == 10 and found["tiny"].seed == 4


@pytest.mark.parametrize(
    ("changes", "count"),
    [({"run": " "}, 1), ({"step": "x"}, 1), ({"step": "-1"}, 1), ({"step": "5"}, 2), ({"seed": "1.5"}, 1),
     ({"parent": "a\x1b[31m"}, 1)],
)  # fmt: skip
def test_what_cannot_be_meant_names_its_field(changes: dict[str, str], count: int) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        parse_changes(changes, count)


def test_fields_that_differ_are_told_from_empty_ones() -> None:
    a, b = (Checkpoint("tiny", LocalSource(Path("/m")), s, size="tiny") for s in (1, 2))
    assert common([a, b]) == {
        "run": "tiny", "step": None, "parent": "", "seed": "", "size": "tiny", "type": "", "tags": "",
    }  # fmt: skip


def test_settings_of_a_job_from_a_form() -> None:
    answers = {
        "texts": "demo", "sample": "50", "dtype": "float32", "device": "auto", "layers": "0 4", "tokens": "yes",
        "overlong": "window", "workers": "1",
    }  # fmt: skip
    tables = merged({"corpus": {"source": "demo", "seed": 7}, "scoring": {"dtype": "float16"}}, answers)
    assert tables == {
        "corpus": {"source": "demo", "seed": 7, "sample": 50},
        "scoring": {"layers": [0, 4], "tokens": True, "overlong": "window"},
        "engine": {},
    }


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "a\x1bb").write_text("")
    (tmp_path / ".hidden").mkdir()
    assert completed(f"{tmp_path}/r") == f"{tmp_path}/runs/"
    assert completed(f"{tmp_path}/runs/t") == f"{tmp_path}/runs/tiny/"
    assert completed(f"{tmp_path}/") == f"{tmp_path}/runs/"
    assert (
        completed(f"{tmp_path}/x") is completed("/nowhere/at/all") is completed(f"{tmp_path}/runs/") is None
    )


async def test_tab_takes_the_path_up(tmp_path: Path, until) -> None:
    (tmp_path / "runs").mkdir()
    app = KltuiApp(tmp_path / "ws")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", "enter")
        await write(pilot, f"{tmp_path}/r")
        await pilot.press("end")
        await until(pilot, lambda: app.focused._suggestion)
        await pilot.press("tab")
        assert app.focused.value == f"{tmp_path}/runs/"


async def test_lineage_is_edited_in_a_form(tmp_path: Path, until) -> None:
    app = KltuiApp(workspace(tmp_path))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("k", "E")
        await until(pilot, lambda: "Lineage of 3 checkpoints" in text_of(app))
        assert "several values" not in text_of(app)
        await write(pilot, "")
        await pilot.press("enter")
        assert "a checkpoint needs a run" in text_of(app)
        await write(pilot, "small")
        await pilot.press("down", "down")
        await write(pilot, "12")
        await pilot.press("enter")
        await until(pilot, lambda: "small@10" in app.snapshot.by_name)
        await until(pilot, lambda: "stored: run, seed of 3 checkpoints" in text_of(app))
        assert app.snapshot.by_name["small@20"].checkpoint.seed == 12
        assert app.selection.cursor == "small@10"


async def test_a_workspace_in_use_is_not_edited(tmp_path: Path, until, monkeypatch) -> None:
    app = KltuiApp(workspace(tmp_path))
    monkeypatch.setattr(
        "kltui.store.writer_lock.current_writer", lambda db: Writer("far", 77, "", 0.0, time.time())
    )
    async with app.run_test(size=(140, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("E")
        await write(pilot, "other")
        await pilot.press("enter")
        await until(pilot, lambda: "is being written by process 77" in text_of(app))


async def test_released_vectors_are_shown_and_imported(tmp_path: Path, until) -> None:
    rng = np.random.default_rng(3)
    vectors = {"410m": {1000 * k: rng.normal(-900, 100, 20) for k in range(1, 4)}}
    (tmp_path / "loglik.pkl").write_bytes(pickle.dumps(vectors))
    (tmp_path / "texts.json").write_text(json.dumps([f"text {i} " * 30 for i in range(20)]))
    app = KltuiApp(tmp_path / "ws")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", *"released", "enter")
        await until(pilot, lambda: "Import released vectors" in text_of(app))
        await pilot.press("enter")
        assert "give a file or a folder" in text_of(app)
        await write(pilot, str(tmp_path / "loglik.pkl"))
        await pilot.press("down")
        await write(pilot, str(tmp_path / "texts.json"))
        await pilot.press("enter")
        await until(pilot, lambda: "Import 3 vectors over 20 texts?" in text_of(app))
        assert "pythia-410m: 3 checkpoints, steps 1000 to 3000" in text_of(app)
        await pilot.press("y")
        await until(pilot, lambda: "pythia-410m@2000" in app.snapshot.by_name)
        assert app.snapshot.n_scored == 3


async def test_what_a_file_does_not_tell_is_said_in_the_form(tmp_path: Path, until) -> None:
    vectors = {"m": {k: np.arange(4.0) - 20 - k for k in range(3)}}
    (tmp_path / "vectors.pkl").write_bytes(pickle.dumps(vectors))
    workspace(tmp_path / "ws")
    store = Store.write(tmp_path / "ws")
    with store.atomic():
        corpus = Corpus(tuple(f"word {i}" for i in range(4)))
        store.corpora.add(corpus, "test")
    store.close()
    app = KltuiApp(tmp_path / "ws")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for numbered in ("", "steps"):
            await pilot.press("A", *"released", "enter")
            await until(pilot, lambda: "Import released vectors" in text_of(app))
            await write(pilot, str(tmp_path / "vectors.pkl"))
            await pilot.press("down", "down")
            await write(pilot, "neither")
            await pilot.press("enter")
            assert "As: steps or layers" in text_of(app)
            await write(pilot, numbered)
            await pilot.press("down")
            await write(pilot, corpus.sha256[:10])
            await pilot.press("enter")
            if not numbered:
                await until(pilot, lambda: "--as steps" in app.message)
        await until(pilot, lambda: "Import 3 vectors over 4 texts?" in text_of(app))
        assert "m: 3 checkpoints, steps 0 to 2" in text_of(app)
        await pilot.press("y")
        await until(pilot, lambda: "m@2" in app.snapshot.by_name)


async def test_what_cannot_be_imported_is_told(tmp_path: Path, until) -> None:
    (tmp_path / "loglik.pkl").write_bytes(b"no pickle")
    app = KltuiApp(tmp_path / "ws")
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", *"released", "enter")
        await until(pilot, lambda: "Import released vectors" in text_of(app))
        await write(pilot, "/" + "a" * 300)  # which the system refuses, as a folder of another user
        await pilot.press("enter")
        assert "there is nothing at /aaa" in text_of(app)
        await write(pilot, str(tmp_path / "loglik.pkl"))
        await pilot.press("enter")
        await until(pilot, lambda: "loglik.pkl" in app.message)
        assert app.message_ink == "bad"


async def test_how_a_job_scores_is_changed_before_it_is_written(
    make_app: MakeApp, tmp_path: Path, until
) -> None:
    app = make_app(path=tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("s")
        await until(pilot, lambda: "This job" in text_of(app))
        await pilot.press("e")
        await until(pilot, lambda: "Settings of this job" in text_of(app))
        await pilot.press("down", "down")
        await write(pilot, "float99")
        await pilot.press("enter")
        assert "Settings of this job" not in text_of(app) and "float99" in text_of(app)
        await write(pilot, "float16")
        await pilot.press("down", "down")
        await write(pilot, "all")
        await pilot.press("enter")
        await until(pilot, lambda: 'dtype = "float16"' in text_of(app))
        assert 'layers = "all"' in text_of(app)
        await pilot.press("w")
        await until(pilot, lambda: list((tmp_path / "jobs").glob("*.toml")))


async def test_a_found_run_gets_its_lineage_before_it_is_added(tmp_path: Path, until) -> None:
    for step in (5, 10):
        folder = tmp_path / "runs" / "mine" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
        (folder / "model.safetensors").write_bytes(b"")
    app = KltuiApp(tmp_path / "ws")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", "enter")
        await write(pilot, str(tmp_path / "runs" / "mine"))
        await pilot.press("enter")
        await until(pilot, lambda: "Add these 2 checkpoints as run mine?" in text_of(app))
        assert "gpt_neox" in text_of(app)
        await pilot.press("e")
        await until(pilot, lambda: "Lineage of this run" in text_of(app))
        await pilot.press("down", "down")
        await write(pilot, "3")
        await pilot.press("enter")
        await until(pilot, lambda: "Score which texts?" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: "This job" in text_of(app))
        assert "seed = 3" in text_of(app) and 'run = "mine"' in text_of(app)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository of twelve revisions."""
    with FakeHub() as made:
        for name in ("main", *(f"step{i}" for i in (8, 4, 16, 2, 1, 0, 32, 64, 128, 256, 1000))):
            made.add("org/tiny", name, {"config.json": b"{}"})
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        # Other tests import the library offline.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield made


async def ask_for_repo(pilot: Pilot[int], repo: str) -> None:
    """Types a repository's name where the interface asks for it."""
    await pilot.press("A", "down", "enter")
    await pilot.press(*["slash" if c == "/" else c for c in repo], "enter")


async def test_a_hub_repository_is_added_with_the_revisions_that_it_has(
    make_app: MakeApp, until, hub: FakeHub
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await ask_for_repo(pilot, "org/nothing")
        await until(pilot, lambda: "The hub has no repository org/nothing, or it is private" in text_of(app))
        await pilot.press(*["backspace"] * 7, *"tiny", "enter")
        await until(
            pilot, lambda: "12 revisions: main, step0, step1, step2, step4 … step256," in text_of(app)
        )
        await pilot.press("ctrl+u", *"step{0,1,3,5}", "enter")
        await until(pilot, lambda: "org/tiny has no revision step3 and 1 more of these" in text_of(app))
        await pilot.press("ctrl+u", *"walk*", "enter")
        await until(pilot, lambda: "no known revision matches walk*" in text_of(app))
        await pilot.press("ctrl+u", *"step{0,1} step?6", "enter")
        await until(pilot, lambda: "This job" in text_of(app))
        assert 'repo = "org/tiny"' in text_of(app) and '"step{0,1}"' in text_of(app)
        assert '"step16"' in text_of(app) and "step64" not in text_of(app)


@pytest.mark.parametrize("why", ["busy", "offline", "gone"])
async def test_a_hub_that_cannot_be_asked_leaves_the_revisions_to_the_user(
    make_app: MakeApp, until, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "busy":
        hub.fail("/refs", status=503)
    elif why == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        hub.stop()
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await ask_for_repo(pilot, "org/tiny")
        await until(pilot, lambda: "Its revisions are unknown: " in text_of(app))
        await pilot.press("ctrl+u", *"step{0..2}", "enter")
        await until(pilot, lambda: "This job" in text_of(app) and "step{0..2}" in text_of(app))


async def test_a_preset_is_added_as_a_job_that_names_its_revisions(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", *"preset", "enter")
        await until(pilot, lambda: "Add which runs?" in text_of(app))
        await pilot.press(*"pythia-410m", "enter")
        await until(pilot, lambda: "This job" in text_of(app))
        assert "EleutherAI/pythia-410m" in text_of(app) and "step{" in text_of(app)


async def test_paths_are_completed_in_forms_too(make_app: MakeApp, until, tmp_path: Path) -> None:
    (tmp_path / "released-vectors.npz").write_bytes(b"")
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("A", *"released", "enter")
        await until(pilot, lambda: "Import released vectors" in text_of(app))
        line = app.screen.lines.line
        line.value = f"{tmp_path}/rel"
        line.action_end()
        await until(pilot, lambda: "released-vectors.npz" in text_of(app))
        await pilot.press("right")
        assert line.value == f"{tmp_path}/released-vectors.npz"


async def test_a_question_names_the_keys_that_answer_it(tmp_path: Path, until) -> None:
    app = KltuiApp(workspace(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for keys, completes in (("/", False), ("2s", True)):
            await pilot.press(*keys)
            await until(pilot, lambda: isinstance(app.screen, Prompt))
            said = text_of(app)
            assert "enter: done" in said and "esc: leave" in said
            assert ("tab: complete" in said) == completes
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, Prompt))
