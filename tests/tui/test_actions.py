"""One table of actions: complete, without clashes, remappable, and never without a way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from screen_text import lines_of

from kltui.tui.actions import ACTIONS, SCREENS, Action, ActionHandlers, screen_key
from kltui.tui.app import KltuiApp
from kltui.tui.keymap import EXAMPLE, Keymap, key_label, load_keymap
from kltui.tui.views.base import View


@pytest.mark.parametrize("screen", SCREENS)
def test_no_key_means_two_things_on_a_screen(screen: str) -> None:
    keys = [k for a in ACTIONS if a.on(screen) for k in a.keys]
    assert sorted(keys) == sorted(set(keys))


class CalledName:
    """Stands for whatever does an action, and says the name of the handler that was called."""

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *given: name


def handler_name(action: Action) -> str:
    return str(action.handler(CalledName()))  # type: ignore[arg-type]


def overridden(cls: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(ActionHandlers, name)


@pytest.mark.parametrize("screen", SCREENS)
def test_every_action_has_a_handler_on_every_screen_that_lists_it(screen: str) -> None:
    app = KltuiApp(None)
    with app._context():
        view: View = import_module(f"kltui.tui.views.{screen}").VIEW()
    asked = {type(pane) for pane in view.panes} | {type(view), KltuiApp}
    listed = [action for action in ACTIONS if action.on(screen)]
    lacking = [a.name for a in listed if not any(overridden(cls, handler_name(a)) for cls in asked)]
    assert lacking == []


def test_every_handler_is_of_an_action_and_each_has_its_own() -> None:
    handlers = [handler_name(a) for a in ACTIONS if not a.name.startswith("screen_")]
    assert sorted(handlers) == sorted(
        n for n in dir(ActionHandlers) if n.startswith("do_") and n != "do_screen"
    )
    assert handlers == [f"do_{a.name}" for a in ACTIONS if not a.name.startswith("screen_")]
    modules = [import_module(f"kltui.tui.views.{s}") for s in SCREENS]
    classes = {v for m in modules for v in vars(m).values() if isinstance(v, type)}
    found = {name for c in (*classes, KltuiApp) for name in dir(c) if name.startswith("do_")}
    assert found == {*handlers, "do_screen"}


@pytest.mark.parametrize("screen", SCREENS)
def test_help_and_key_line_come_from_the_table(screen: str) -> None:
    keymap = Keymap()
    reported = {text for _, entries in keymap.help(screen) for _, text in entries}
    assert reported == {a.help for a in ACTIONS if a.on(screen)}
    assert ("q", "quit") in keymap.line(screen) and ("?", "help") in keymap.line(screen)


def test_keys_of_the_specification() -> None:
    keymap = Keymap()
    on = {"map": "1234567890?:q/nN abcx[]+-=mtgeyrCHJKLvzU", "jobs": "spKR"}
    for screen, keys in on.items():
        for key in keys:
            assert keymap.action("space" if key == " " else key, screen), (screen, key)
    assert keymap.action("L", "diffusion").name == "axis_scale"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "taken", [{"quit": []}, {"help": ["q"]}, {"quit": ["?"], "help": ["q"]}, {"quit": ["x"]}]
)
def test_quit_can_never_be_unbound(taken: dict[str, list[str]]) -> None:
    keymap = Keymap(taken)
    assert any(keymap.action(k, s) and keymap.action(k, s).name == "quit"  # type: ignore[union-attr]
               for k in keymap.keys("quit") for s in ("registry",))  # fmt: skip


def test_remapping_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"filter": ["f"], "nonsense": ["g"], "help": 3}))
    keymap = load_keymap(path)
    assert keymap.action("f", "map").name == "filter"  # type: ignore[union-attr]
    assert keymap.action("/", "map") is None
    assert keymap.action("?", "map").name == "help"  # type: ignore[union-attr]


def test_a_remapped_key_is_taken_from_what_had_it_on_the_same_screens_only() -> None:
    keymap = Keymap({"copy": ["E"], "order": ["j"]})
    assert keymap.action("E", "registry").name == "copy"  # type: ignore[union-attr]
    assert "edit" not in dict(keymap.line("registry")).values() and keymap.keys("edit") == ()
    assert keymap.action("j", "matrix").name == "order"  # type: ignore[union-attr]
    assert keymap.action("j", "map").name == "down"  # type: ignore[union-attr]
    moves = dict(keymap.help("matrix"))["move"]
    assert ("↓", "down; on a plot: nearest point that way") in moves
    assert keymap.keys("down") == ("j", "down")


@pytest.mark.parametrize("content", [None, "", "[1]", "{", '{"quit": "x"}'])
def test_a_missing_or_foreign_file_changes_nothing(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    assert load_keymap(path).keys("quit") == ("q",)
    assert bool(load_keymap(path).problems) == (content is not None)


def test_what_a_keys_file_cannot_mean_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({
        "fliter": ["f"], "help": 3, "compare": ["pgdn"], "map_of_\x1b[2J": ["x"], "copy": [" "], "sort": ["ctrl+s"],
        "quit": ["j"], "down": ["j"],
    }))  # fmt: skip
    keymap = load_keymap(path)
    said = "\n".join(keymap.problems)
    for words in ("unknown action 'fliter'; did you mean filter?", "help: expected a list of keys", "compare: 'pgdn' is not a key",
                  "copy: ' ' is not a key"):  # fmt: skip
        assert words in said
    assert "\x1b" not in said and "sort" not in said
    assert keymap.keys("sort") == ("ctrl+s",) and key_label("ctrl+s") == "ctrl+s"


def test_an_action_that_has_lost_all_its_keys_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for written, lost in (
        ({"start": ["space"]}, "select: space is now another action's on registry"),
        ({"filter": ["f"]}, "basis: f is now another action's; give it a key of its own, or [] for none"),
        ({"start": ["space"], "select": ["S"]}, ""),
        ({"start": ["space"], "select": []}, ""),
        (json.loads(EXAMPLE), ""),
    ):
        path.write_text(json.dumps(written))
        assert "\n".join(load_keymap(path).problems).startswith(lost), written
        assert bool(load_keymap(path).problems) == bool(lost), written


def test_the_help_names_the_file_and_every_action_of_the_screen(tmp_path: Path) -> None:
    said = dict(load_keymap(tmp_path / "keys.json").file_help("map"))
    assert said["file"] == str(tmp_path / "keys.json")
    assert {a.name for a in ACTIONS if a.on("map")} == set(said["names"].split())


def test_key_labels() -> None:
    assert [key_label(k) for k in ("+", "shift+left", "space", "up")] == ["+", "S-←", "space", "↑"]


async def test_the_key_line_of_80_columns_begins_with_what_the_screen_is_for(
    make_app: Callable[..., KltuiApp],
) -> None:
    wanted = {
        "registry": {"A": "add", "s": "start", "space": "select", "a": "A", "b": "B", "c": "compare"},
        "jobs": {"s": "start", "p": "pause", "K": "stop", "R": "retry", "t": "follow"},
        "map": {"v": "method", "+": "zoom", "t": "follow", "a": "A", "b": "B"},
        "diffusion": {"w": "window", "u": "noise", "W": "weights"},
        "matrix": {"o": "order", "space": "select", "c": "compare"},
        "compare": {"o": "order", "T": "tokens", "a": "A", "b": "B"},
        "layers": {"v": "method", "space": "select"},
    }
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        for screen, keys in wanted.items():
            await pilot.press(screen_key(SCREENS.index(screen) + 1))
            line = lines_of(app)[-1]
            for key, label in {**keys, "?": "help", "q": "quit"}.items():
                assert f" {key} {label} " in line, (screen, key, line)


def test_every_help_fits_its_box_at_80_columns() -> None:
    assert [a.help for a in ACTIONS if len(a.help) > 53] == []
