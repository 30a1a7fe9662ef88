"""The action of each key on each screen, from the table of actions and the user's keys.json."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from kltui.sanitize import safe_text
from kltui.tui.actions import ACTIONS, BY_NAME, FIRST_STEPS, SCREENS, Action

NAMED_KEYS = frozenset(
    [
        "escape",
        "enter",
        "tab",
        "space",
        "up",
        "down",
        "left",
        "right",
        "home",
        "end",
        "pageup",
        "pagedown",
        "insert",
        "delete",
        "backspace",
    ]
) | {f"f{n}" for n in range(1, 13)}


EXAMPLE = '{"filter": ["/", "F"], "quit": ["Q"]}'


class Keymap:
    """The action of each key on each screen. `remapped` is {action: keys}, which override other actions' keys."""

    def __init__(
        self,
        remapped: Mapping[str, Sequence[str]] | None = None,
        *,
        path: Path | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        self.path, self.problems = path, tuple(problems)
        self._keys = {a.name: a.keys for a in ACTIONS}
        chosen = {n: tuple(k) for n, k in (remapped or {}).items() if n in BY_NAME}
        self._keys.update(chosen)
        self._by_key: dict[str, list[Action]] = {}
        for action in sorted(ACTIONS, key=lambda a: a.name not in chosen):
            for key in self._keys[action.name]:
                self._by_key.setdefault(key, []).append(action)
        if not any(a.name == "quit" for k in self._keys["quit"] for a in self._by_key[k][:1]):
            # There must always be a key to quit.
            self._keys["quit"] = BY_NAME["quit"].keys
            self._by_key["q"] = [BY_NAME["quit"]]

    def action(self, key: str, screen: str) -> Action | None:
        """The action of `key` (a character, or a name such as "tab") on `screen`."""
        return next((a for a in self._by_key.get(key, ()) if a.on(screen)), None)

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of an action, without those that other actions have on all of its screens."""
        screens = BY_NAME[name].screens or SCREENS
        return tuple(k for k in self._keys[name] if any(self._means(k, name, s) for s in screens))

    def spelled(self, screen: str, *names: str) -> str:
        """The first key of each action, on `screen` if it has one there, for messages: "hjkl", "a", "< >".

        An action without a key is named as the palette lists it, behind the palette's key.
        """
        found = [(self._keys_on(BY_NAME[name], screen) or self.keys(name))[:1] for name in names]
        opens = "".join(map(key_label, self.keys("palette")[:1]))
        shown = [
            key_label(keys[0]) if keys else f"{opens} {name.replace('_', ' ')}".strip()
            for keys, name in zip(found, names, strict=True)
        ]
        return ("" if all(len(key) == 1 and key.isalnum() for key in shown) else " ").join(shown)

    def _means(self, key: str, name: str, screen: str) -> bool:
        action = self.action(key, screen)
        return action is not None and action.name == name

    def _keys_on(self, action: Action, screen: str) -> tuple[str, ...]:
        return tuple(k for k in self._keys[action.name] if self._means(k, action.name, screen))

    def lost_to(self, usual: Keymap, remapped: Collection[str]) -> Iterator[str]:
        """For each action, but those in `remapped`, that has a key on a screen of `usual` and none here: what to do."""
        for action in ACTIONS:
            if action.name not in remapped:
                screens = [s for s in SCREENS if usual._keys_on(action, s) and not self._keys_on(action, s)]
                if screens:
                    others = ", ".join(usual._keys_on(action, screens[0]))
                    where = (
                        "" if set(screens) == set(action.screens or SCREENS) else f" on {', '.join(screens)}"
                    )
                    yield f"{action.name}: {others} is now another action's{where}; give it a key of its own, or [] for none"

    def line(self, screen: str, *, writing: bool = True) -> list[tuple[str, str]]:
        """(key, label) pairs for the key line of a screen, by rank; without `writing`, only actions that write nothing."""
        shown = sorted(
            (a for a in ACTIONS if a.rank and a.on(screen) and (writing or not a.writes)),
            key=lambda a: a.rank,
        )
        return [(key_label(keys[0]), a.label) for a in shown if (keys := self._keys_on(a, screen))]

    def first_line(self, *, writing: bool = True, adding: bool = True) -> list[tuple[str, str]]:
        """(key, label) pairs for the key line of every screen before there is anything to look at.

        `adding`: whether there is a workspace to which checkpoints can be added.
        """
        names = [name for name in (*FIRST_STEPS, "palette", "help", "quit") if adding or name != "add"]
        useful = {BY_NAME[name].label for name in names}
        return [pair for pair in self.line(SCREENS[0], writing=writing) if pair[1] in useful]

    def everywhere(self, screen: str, *, writing: bool = True) -> list[Action]:
        """The actions of all screens, those of `screen` first, without the palette, which lists them."""
        shown = [a for a in ACTIONS if a.name != "palette" and (writing or not a.writes)]
        return sorted(shown, key=lambda a: not a.on(screen))

    def file_help(self, screen: str) -> list[tuple[str, str]]:
        """Help text on keys.json: its path, its problems, and the names of the actions of `screen`."""
        where = [("file", safe_text(str(self.path), 400))] if self.path else []
        wrong = [("wrong", problem) for problem in self.problems]
        names = " ".join(a.name for a in ACTIONS if a.on(screen))
        return [*where, *wrong, ("shape", EXAMPLE), ("names", names)]

    def help(self, screen: str, *, writing: bool = True) -> list[tuple[str, list[tuple[str, str]]]]:
        """(group, [(keys, help)]) for the help of a screen; without `writing`, only actions that write nothing."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for action in ACTIONS:
            if action.writes and not writing:
                continue
            if action.on(screen) and (found := self._keys_on(action, screen)):
                keys = " ".join(key_label(k) for k in found)
                groups.setdefault(action.group, []).append((keys, action.help))
        order = ("jobs", "plot", "choose", "move", "everywhere", "screens")
        return [(g, groups[g]) for g in order if g in groups]


def key_label(key: str) -> str:
    """The name of a key on screen.

    >>> key_label("shift+tab"), key_label("escape"), key_label("a"), key_label("ctrl+z")
    ('S-tab', 'esc', 'a', 'ctrl+z')
    """
    short = {"escape": "esc", "pagedown": "pgdn", "pageup": "pgup", "left": "←", "right": "→", "up": "↑",
             "down": "↓"}  # fmt: skip
    head, plus, tail = key.partition("+")
    if plus and tail and head:
        return f"{'S-' if head == 'shift' else f'{head}+'}{short.get(tail, tail)}"
    return short.get(key, key)


def key_problem(key: object) -> str:
    """Why `key` is not a valid key for keys.json; "" if it is one.

    >>> key_problem("x"), key_problem("shift+left"), bool(key_problem("pgdn"))
    ('', '', True)
    """
    if not isinstance(key, str) or not key:
        return f"{key!r} is not a key"
    *modifiers, last = [key] if len(key) == 1 else key.split("+")
    named = last in NAMED_KEYS or (len(last) == 1 and last.isprintable() and last != " ")
    if named and all(m in ("shift", "ctrl", "alt") for m in modifiers):
        return ""
    return f"{safe_text(key, 30)!r} is not a key: one character, or {', '.join(sorted(NAMED_KEYS))}"


def keys_path() -> Path:
    """The path of the user's keys.json, which may not exist."""
    from platformdirs import user_config_path

    return user_config_path("kltui") / "keys.json"


def load_keymap(path: Path) -> Keymap:
    """The keymap with the remappings of a JSON file {"action": ["key", ...]}.

    Invalid entries and invalid files are reported in its `problems` and change nothing; nor does a missing file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Keymap(path=path)
    except (OSError, ValueError) as error:
        return Keymap(path=path, problems=(f"not read: {safe_text(str(error), 120)}",))
    if not isinstance(data, dict):
        return Keymap(path=path, problems=('it must contain {"action": ["key", ...]}',))
    remapped: dict[str, list[str]] = {}
    problems: list[str] = []
    for name, keys in data.items():
        wrong = _entry_problems(name, keys)
        problems += wrong
        if not wrong:
            remapped[name] = keys
    made = Keymap(remapped, path=path, problems=tuple(problems))
    if remapped.get("quit") is not None and made.keys("quit") == BY_NAME["quit"].keys != tuple(
        remapped["quit"]
    ):
        made.problems += ("quit: it needs a key that no other action has; q is kept",)
    made.problems += tuple(made.lost_to(Keymap(), remapped))
    return made


def _entry_problems(name: str, keys: object) -> list[str]:
    """The errors in one entry of keys.json."""
    if name not in BY_NAME:
        near = get_close_matches(name, BY_NAME, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return [f"unknown action {safe_text(name, 40)!r}{meant}"]
    if not isinstance(keys, list):
        return [f'{name}: expected a list of keys, such as ["f"]']
    return [f"{name}: {problem}" for key in keys if (problem := key_problem(key))]
