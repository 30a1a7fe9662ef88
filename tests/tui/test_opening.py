"""What `kltui TARGET` leads to, and what it offers where it is started without a workspace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from opened_paths import write_paths
from screen_text import lines_of, text_of

from kltui.errors import KltuiError
from kltui.tui.app import KltuiApp
from kltui.tui.opening import NEW, Target, target_of
from kltui.tui.ui_state import Memory

JOB = 'workspace = "out"\n[corpus]\nsource = "{texts}"\n[[models]]\npath = "{model}"\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two checkpoints, texts, a job file, a workspace, and files of no use."""
    made = write_paths(tmp_path_factory.mktemp("place"))
    (made / "many").mkdir()
    (made / "many" / "a.txt").write_text("a text")
    (made / "job.toml").write_text(JOB.format(texts=made / "texts.jsonl", model=made / "run"))
    (made / "broken.toml").write_text("workspace = ")
    (made / "picture.png").write_bytes(b"\x89PNG")
    (made / "notes" / "plan.toml").write_text("")
    return made


def test_what_a_target_is(place: Path) -> None:
    new = place / NEW
    for named, wanted in (
        (None, Target(None)),
        ("ws", Target(place / "ws")),
        ("job.toml", Target(place / "out", job=place / "job.toml")),
        ("texts.jsonl", Target(new, texts=place / "texts.jsonl")),
        ("many", Target(new, texts=place / "many")),
        ("run", Target(new, models=place / "run")),
        ("run/step10", Target(new, models=place / "run" / "step10")),
        ("notes", Target(place / "notes")),
        ("not-yet", Target(place / "not-yet")),
    ):
        assert target_of(named and str(place / named), place) == wanted, named
    assert target_of(None, place / "ws") == Target(place / "ws")
    assert target_of(str(place / "run"), place / "ws") == Target(place / "ws", models=place / "run")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("picture.png", "cannot be opened by kltui"),
        ("broken.toml", "is not valid TOML"),
        ("none.toml", "no job file"),
        ("none.jsonl", "none.jsonl does not exist"),
        ("none.gguf", "does not exist"),
    ],
)
def test_a_wrong_file_is_a_clear_error(place: Path, named: str, said: str) -> None:
    with pytest.raises(KltuiError, match=said):
        target_of(str(place / named), place)


@pytest.mark.parametrize(
    ("named", "said", "hint"),
    [
        ("report", "there is no workspace report", "kltui --report"),
        ("help", "there is no workspace help", "kltui --help"),
        ("https://huggingface.co/OWNER/NAME", "is an address", 'repo = "OWNER/NAME"'),
        ("OWNER/NAME", "there is no folder OWNER", 'repo = "OWNER/NAME"'),
        ("./a/b/c", "there is no folder a/b for ./a/b/c", "make the folder a/b first."),
    ],
)
def test_what_names_no_new_workspace_is_refused(
    place: Path, named: str, said: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(KltuiError, match=said) as refused:
        target_of(named, place)
    assert hint in refused.value.hint
    assert target_of("./report", place) == Target(Path("report"))


async def test_a_misspelt_workspace_is_said_to_be_new_with_the_one_meant(place: Path, until) -> None:
    target = target_of(str(place / "wss"), place)
    app = KltuiApp(target.workspace, begin=target.begin)
    async with app.run_test(size=(160, 30)) as pilot:
        await until(pilot, lambda: "wss does not exist yet. Did you mean" in text_of(app))


async def test_a_job_file_leads_to_its_question(place: Path, until) -> None:
    target = target_of(str(place / "job.toml"), place)
    app = KltuiApp(target.workspace, begin=target.begin)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "Start which job file?" in text_of(app))
        assert app.screen_name == "jobs" and app.screen.line.value == str(place / "job.toml")


async def test_texts_lead_to_a_job_over_them(place: Path, until) -> None:
    target = target_of(str(place / "texts.jsonl"), place)
    app = KltuiApp(target.workspace, begin=target.begin)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "Add checkpoints from" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: "A model folder, a run folder" in text_of(app))
        app.screen.line.value = str(place / "run")
        await pilot.press("enter")
        await until(pilot, lambda: "Add these 2 checkpoints" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: f'source = "{place / "texts.jsonl"}"' in text_of(app))
        assert not (place / NEW).exists()


async def test_checkpoints_lead_to_the_form_that_adds_them(place: Path, until) -> None:
    target = target_of(str(place / "run"), place)
    app = KltuiApp(target.workspace, begin=target.begin)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "Add these 2 checkpoints as run run?" in text_of(app))
    app = KltuiApp(target.workspace, begin=target.begin, read_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "opened with --read-only" in text_of(app))


async def test_a_folder_of_runs_leads_to_the_form_that_adds_them_all(place: Path, until) -> None:
    runs = place / "runs"
    shutil.copytree(place / "run", runs / "first")
    shutil.copytree(place / "run", runs / "second")
    (runs / "second" / "second-Q4_0.gguf").write_bytes(b"GGUF")
    target = target_of(str(runs), place)
    assert target.models == runs
    app = KltuiApp(target.workspace, begin=target.begin)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "Add these 2 runs with 4 checkpoints?" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: "Score which texts?" in text_of(app))
        app.screen.line.value = str(place / "texts.jsonl")
        await pilot.press("enter")
        await until(pilot, lambda: f'path = "{runs / "second"}"' in text_of(app))
        assert f'path = "{runs / "first"}"' in text_of(app)


async def test_recent_workspaces_are_listed_and_opened(place: Path, until, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "view.json")
    memory.save(place / "gone", {"screen": "map"})
    memory.save(place / "ws", {"screen": "jobs"})
    app = KltuiApp(None, memory=memory)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "open a recent workspace" in text_of(app))
        shown = text_of(app)
        assert f"{place / 'gone'}   (missing)" in shown and f"{place / 'ws'}   (missing)" not in shown
        assert shown.index(str(place / "ws")) < shown.index(str(place / "gone"))
        await pilot.press("enter", "down", "enter")
        await until(pilot, lambda: "no longer exists: its folder was moved or deleted" in text_of(app))
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.snapshot.loaded and app.reader.path == place / "ws")
        assert app.screen_name == "jobs" and "No workspace" not in text_of(app)


async def test_a_workspace_that_never_was_is_not_remembered(place: Path, until, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "view.json")
    for name in ("misspelt", "run"):
        app = KltuiApp(place / name, memory=memory)
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, lambda app=app: "This workspace is empty." in text_of(app))
            await pilot.press("q")
    assert memory.workspaces() == []


async def test_without_any_the_welcome_is_as_before(until, tmp_path: Path) -> None:
    app = KltuiApp(None, memory=Memory(tmp_path / "view.json"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No workspace yet." in text_of(app))
        await pilot.press("enter")
        assert "recent" not in text_of(app)


@pytest.mark.parametrize("screen", ["1", "3", "0"])
async def test_without_a_workspace_only_keys_that_do_something_are_named(
    until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'no job'\n")
    app = KltuiApp(None, memory=Memory(tmp_path / "view.json"))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "s   start an existing job file" in text_of(app))
        await pilot.press(screen)
        await until(
            pilot,
            lambda: lines_of(app)[-1].split() == ["s", "start", ":", "palette", "?", "help", "q", "quit"],
        )
        assert "A   add" not in text_of(app)
        await pilot.press("s")
        await until(pilot, lambda: "Start which job file?" in text_of(app))
        assert "job.toml" in text_of(app) and "pyproject" not in text_of(app)


@pytest.mark.parametrize("inside", [".", "jobs"])
async def test_the_job_file_of_an_empty_workspace_is_offered(
    until, place: Path, tmp_path: Path, inside: str
) -> None:
    folder = tmp_path / "new" / inside
    folder.mkdir(parents=True)
    shutil.copy(place / "job.toml", folder / "mine.toml")
    (folder / "settings.toml").write_text("a = 1\n")
    (folder / "zz.toml").write_text("broken = ")
    app = KltuiApp(tmp_path / "new", memory=Memory(tmp_path / "view.json"))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "s   start the job file mine.toml" in text_of(app))
        await pilot.press("3")
        await until(pilot, lambda: lines_of(app)[-1].split()[:4] == ["A", "add", "s", "start"])
        await pilot.press("s")
        await until(pilot, lambda: "Start which job file?" in text_of(app))
        assert str(Path(inside, "mine.toml")) in text_of(app)


async def test_a_job_started_without_a_workspace_opens_its_own(
    until, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.jobs.launch.start_detached", lambda path, watch=False: 4711)
    monkeypatch.chdir(place)
    app = KltuiApp(None, memory=Memory(tmp_path / "view.json"))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "s   start the job file job.toml" in text_of(app))
        await pilot.press("s", "enter")
        await until(pilot, lambda: "started as process 4711" in text_of(app))
        assert app.screen_name == "jobs" and app.reader.path == place / "out"
