"""Messages name the keys that keys.json gives the actions, not the usual ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from screen_text import opened, text_of

import kltui.tui
from kltui.tui.actions import ACTIONS, SCREENS
from kltui.tui.app import KltuiApp
from kltui.tui.data import run_of
from kltui.tui.keymap import Keymap, key_label

SOURCES = sorted(Path(kltui.tui.__file__).parent.rglob("*.py"))
USUAL = {key_label(key) for action in ACTIONS for key in action.keys}
# what messages say that a key does; a number before such a word is a count, as in "5 runs"
DOES = (
    "clears|compares|draws|enter|goes|loads|marks|moves|opens|picks|quits|removes|restores|runs|scores|says|selects"
    "|shows|starts|suggests|turn|walks|again"
)
NAMES_A_KEY = re.compile(
    rf"(?:[Pp]ress (?P<pressed>\S+?)|(?:^|(?<=[\s(;:,]))(?P<done>[^\s\d]\S*) (?:{DOES}))(?=[\s.,;:)]|$)"
)
# Each action has one letter that is no other's, and is no letter of the messages.
ODD = {action.name: chr(0x3B1 + at) for at, action in enumerate(ACTIONS)}


def usual_keys_in(text: str) -> set[str]:
    """The usual keys that a text names as keys."""
    found = {match["pressed"] or match["done"] for match in NAMES_A_KEY.finditer(text)}
    return found & USUAL


def constants(path: Path) -> set[str]:
    """The texts in a source file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    }


def test_usual_keys_are_found_in_a_text() -> None:
    assert usual_keys_in("No job yet. Press s to start one") == {"s"}
    assert usual_keys_in("hidden: tiny; Z shows all") == {"Z"}
    assert usual_keys_in("no start passes the filter: press esc to clear it") == {"esc"}
    assert usual_keys_in("where A is better; B not marked") == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_message_of_the_interface_has_a_key_written_into_it(path: Path) -> None:
    found = {text: keys for text in constants(path) if (keys := usual_keys_in(text))}
    assert not found


def test_keys_are_spelled_for_messages() -> None:
    usual = Keymap()
    assert usual.spelled("map", "show_runs") == "Z" and usual.spelled("map", "out") == "esc"
    assert usual.spelled("map", "left", "down", "up", "right") == "hjkl"
    assert usual.spelled("map", "previous_step", "next_step") == "[ ]"
    assert usual.spelled("compare", "start") == "s"  # of another screen
    moved = Keymap({"show_runs": ["ctrl+a", "Z"], "null": [], "mark_a": ["Z"], "filter": ["s"]})
    assert moved.spelled("map", "show_runs") == "ctrl+a"
    assert moved.spelled("map", "null") == ": null"
    assert moved.spelled("jobs", "start") == ": start"
    assert Keymap({"palette": []}).spelled("map", "palette") == "palette"


@pytest.mark.parametrize("name", SCREENS)
async def test_no_screen_names_a_usual_key_where_every_action_has_another(
    name: str, make_app: Callable[..., KltuiApp], until: Callable[..., object]
) -> None:
    app = make_app(keymap=Keymap({action: [key] for action, key in ODD.items()}))
    seen: dict[str, str] = {}

    async def press(*actions: str) -> None:
        for action in actions:
            app.press(ODD[action])
            await pilot.pause(0.05)
            await app.workers.wait_for_complete()
            seen[f"{action} {len(seen)}"] = f"{text_of(app)}\n{app.message}"
            while app.is_asking:
                await pilot.press("escape")
                await pilot.pause()

    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)  # type: ignore[arg-type]
        await press("select", "out", "out", "swap", f"screen_{name}")
        if name == "compare":
            await press("compare")
        await press("enter", "errors", "dimensions", "null", "hide_run", "show_runs", "with_layers", "method")
        await press("mark_a", "next_step", "mark_b", "stop", "pause", "tokens", "remove")
        app.selection.hidden.update(run_of(row) for row in app.snapshot.rows)
        app.set_filter("no such checkpoint")
        await press("refresh")
    named = {line for text in seen.values() for line in text.splitlines() if usual_keys_in(line)}
    assert not named
    assert any(set(text) & set(ODD.values()) for text in seen.values())
