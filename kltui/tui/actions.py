"""The one table of actions: bindings, help, key line and palette are all read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kltui.sanitize import safe_text

SCREENS = (
    "registry", "jobs", "map", "curves", "diffusion", "matrix", "compare", "layers", "scale", "report"
)  # fmt: skip
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
PLOTS = ("map", "curves", "diffusion", "layers")
ZOOMED = (*PLOTS, "matrix")
FIGURES = (*ZOOMED, "compare", "scale")


def screen_key(number: int) -> str:
    """The key of the `number`th screen, from 1: its last digit, so that the tenth is 0."""
    return str(number % 10)


@dataclass(frozen=True, slots=True)
class Action:
    """Something the user can do: its handler is `do_<name>` of the focused pane, the view or the app.

    `screens` empty means everywhere. `rank` above 0 puts it on the key line, lower first; `group` heads
    its paragraph of the help. `writes` actions are refused with `--read-only`.
    """

    name: str
    keys: tuple[str, ...]
    label: str
    help: str
    group: str
    screens: tuple[str, ...] = ()
    rank: int = 0
    writes: bool = False

    def on(self, screen: str) -> bool:
        """Whether the action exists on that screen."""
        return not self.screens or screen in self.screens


def _screen_actions() -> list[Action]:
    texts = (
        "checkpoints as a tree of runs",
        "what runs, how far it is, what failed",
        "trajectories of all runs on one map",
        "loss, KL and updates against the training step",
        "diffusion exponents in likelihood and weight space",
        "KL between the chosen checkpoints",
        "A against B, down to single tokens",
        "lens threads and KL between neighbouring layers",
        "this workspace beside the published medians",
        "every section of the report, with its choices",
    )
    return [
        Action(f"screen_{name}", (screen_key(i),), name.capitalize(), text, "screens")
        for i, (name, text) in enumerate(zip(SCREENS, texts, strict=True), start=1)
    ]


ACTIONS: tuple[Action, ...] = (
    *_screen_actions(),
    Action("help", ("?",), "help", "help of the focused pane", "everywhere", rank=90),
    Action("palette", (":",), "palette", "all actions by name", "everywhere", rank=80),
    Action("quit", ("q",), "quit", "leave; jobs go on", "everywhere", rank=91),
    Action("suspend", ("ctrl+z",), "", "back to the shell for a while; fg returns", "everywhere"),
    Action("next_pane", ("tab",), "pane", "next pane", "everywhere", rank=60),
    Action("previous_pane", ("shift+tab",), "", "previous pane", "everywhere"),
    Action("out", ("escape",), "", "out one layer: detail, filter, selection", "everywhere"),
    Action("undo", ("U",), "", "undo: filter, selection, marks, removals", "everywhere"),
    Action("refresh", ("r",), "", "read the workspace again and redraw", "everywhere"),
    Action("theme", ("C",), "", "next palette: dark, light", "everywhere"),
    Action("left", ("h", "left"), "", "left; on a plot: nearest point that way", "move"),
    Action("down", ("j", "down"), "", "down; on a plot: nearest point that way", "move"),
    Action("up", ("k", "up"), "", "up; on a plot: nearest point that way", "move"),
    Action("right", ("l", "right"), "", "right; on a plot: nearest point that way", "move"),
    Action("page_down", ("pagedown",), "", "one page down", "move"),
    Action("page_up", ("pageup",), "", "one page up", "move"),
    Action("first", ("g", "home"), "", "first", "move"),
    Action("last", ("G", "end"), "", "last", "move"),
    Action("previous_step", ("[",), "", "previous checkpoint of the run", "move"),
    Action("next_step", ("]",), "walk", "next checkpoint of the run", "move", rank=22),
    Action("enter", ("enter",), "", "drill in: fold a run, open a row, find the point", "move"),
    Action("zoom_in", ("+",), "zoom", "zoom in", "plot", ZOOMED, rank=9),
    Action("zoom_out", ("-", "_"), "", "zoom out", "plot", ZOOMED),
    Action("zoom_reset", ("=",), "", "show everything", "plot", ZOOMED),
    Action("pan_left", ("H", "shift+left"), "", "pan left", "plot", PLOTS),
    Action("pan_down", ("J", "shift+down"), "", "pan down", "plot", PLOTS),
    Action("pan_up", ("K", "shift+up"), "", "pan up", "plot", PLOTS),
    Action("pan_right", ("L", "shift+right"), "pan", "pan right (HJKL)", "plot", ("map",), rank=21),
    Action("axis_scale", ("L",), "log", "axis scale: linear or log", "plot", ("curves", "diffusion", "layers"), rank=10),
    Action("value_scale", ("Y",), "", "scale of this panel's values: linear or log", "plot", ("curves",)),
    Action("settled_level", ("v",), "level", "KL below which a run counts as settled", "plot", ("curves",), rank=6),
    Action("marker", ("m",), "marker", "marker: braille, dots, half blocks, ASCII", "plot", PLOTS, rank=40),
    Action("method", ("v",), "method", "picture: t-SNE, PCA, MDS, released; Layers: which", "plot", ("map", "layers"), rank=5),
    Action("dimensions", ("d",), "2D/3D", "two or three dimensions", "plot", ("map",), rank=19),
    Action("turn_left", ("<",), "", "turn it to the left, in three dimensions", "plot", ("map",)),
    Action("turn_right", (">",), "turn", "turn it to the right, in three dimensions", "plot", ("map",), rank=42),
    Action("turn_up", ("}",), "", "look from further above", "plot", ("map",)),
    Action("turn_down", ("{",), "", "look from further below", "plot", ("map",)),
    Action("colour_by", ("i",), "colour", "colour and mark by run, type, size, tag or score", "plot", ("map",), rank=20),
    Action("errors", ("E",), "errors", "ellipses of errors: one standard error, 95%, none", "plot", ("map",), rank=23),
    Action("descent", ("p",), "", "lines from parents and originals, or none", "plot", ("map",)),
    Action("with_layers", ("V",), "", "layers of the models in the same picture, or none", "plot", ("map",)),
    Action("hide_run", ("z",), "hide", "hide or show the run under the cursor", "plot", ("map", "curves"), rank=18),
    Action("show_runs", ("Z",), "", "show every run again", "plot", ("map", "curves")),
    Action("null", ("w",), "null", "a random walk with the run's step lengths", "plot", ("map",), rank=31),
    Action("follow", ("t",), "follow", "follow live: the newest checkpoint", "plot", ("map", "curves", "jobs"), rank=11),
    Action("filter", ("/",), "filter", "filter: run:NAME|NAME2 step>=1000 -quant:8bit words", "choose", rank=12),
    Action("next_match", ("n",), "", "next match of the filter; Compare: next text", "choose"),
    Action("previous_match", ("N",), "", "previous match; Compare: previous text", "choose"),
    Action("select", ("space",), "select", "select or unselect", "choose", rank=13),
    Action("mark_a", ("a",), "A", "mark A", "choose", rank=14),
    Action("mark_b", ("b",), "B", "mark B", "choose", rank=15),
    Action("swap", ("x",), "swap", "swap A and B", "choose", rank=35),
    Action("compare", ("c",), "compare", "compare A with B", "choose", rank=16),
    Action("order", ("o",), "order", "order: by name, by KL to the cursor, clustered", "choose", ("matrix",), rank=6),
    Action("sort", ("o",), "sort", "sort by a column, or as the tree of runs", "choose", ("registry",), rank=19),
    Action("order_texts", ("o",), "order", "order texts: driving B, driving A", "choose", ("compare",), rank=6),
    Action("window", ("w",), "window", "window of the fit: 5, 10, 20 checkpoints", "plot", ("curves", "diffusion"), rank=7),
    Action("noise", ("u",), "noise", "subtract the noise floor before the fit", "plot", ("diffusion",), rank=7),
    Action("weights", ("W",), "weights", "compute missing weight distances", "plot", ("curves", "diffusion"), rank=8,
           writes=True),
    Action("tokens", ("T",), "tokens", "score the tokens of A and B by a short job", "plot", ("compare",), rank=7,
           writes=True),
    Action("exact", ("X",), "exact", "exact next-token KL of A and B by a short job; kept", "plot", ("compare",), rank=8,
           writes=True),
    Action("choices", ("w",), "choices", "what the report looks at: where, level, noise", "plot", ("report",), rank=6),
    Action("add", ("A",), "add", "add a folder, a hub repo, a preset, released vectors", "jobs",
           ("registry", "jobs"), rank=4, writes=True),
    Action("place", ("P",), "on this map", "where a model of your own stands on this map", "jobs",
           ("registry",), writes=True),
    Action("edit", ("E",), "edit", "edit the lineage: run, step, parent, seed, size, tags", "jobs",
           ("registry",), rank=17, writes=True),
    Action("remove", ("D",), "", "remove from the workspace (asks; U brings back)", "jobs", ("registry",), writes=True),
    Action("start", ("s",), "start", "start a job file, or a job for what is selected", "jobs",
           ("registry", "jobs"), rank=5, writes=True),
    Action("pause", ("p",), "pause", "pause or resume the job", "jobs", ("jobs",), rank=6, writes=True),
    Action("stop", ("K",), "stop", "stop the job (asks)", "jobs", ("jobs",), rank=7, writes=True),
    Action("retry", ("R",), "retry", "run the job again: what is missing or failed", "jobs", ("jobs",), rank=8,
           writes=True),
    Action("pixels", ("I",), "", "the figure itself, where the terminal shows pixels", "plot", FIGURES),
    Action("export", ("e",), "export", "export: a figure for a paper, CSV, text, screenshot", "everywhere",
           rank=50),
    Action("basis", ("f",), "map of", "corpus, preparation, exclusions; saved maps",
           "choose", rank=17),
    Action("corpus", ("O",), "", "choose which corpus the screens show (--over HASH)", "everywhere"),
    Action("copy", ("y",), "", "copy the name or the row (OSC 52)", "everywhere"),
)  # fmt: skip

BY_NAME: Mapping[str, Action] = {a.name: a for a in ACTIONS}


class Keymap:
    """Which action a key means on a screen. `remapped` gives an action other keys, before whatever had them."""

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
            # A remapping must never lock the user in.
            self._keys["quit"] = BY_NAME["quit"].keys
            self._by_key["q"] = [BY_NAME["quit"]]

    def action(self, key: str, screen: str) -> Action | None:
        """The action of `key` (a character, or a name such as "tab") on `screen`."""
        return next((a for a in self._by_key.get(key, ()) if a.on(screen)), None)

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of an action, as shown and as pressed, but for those that another has taken on all its screens."""
        screens = BY_NAME[name].screens or SCREENS
        return tuple(k for k in self._keys[name] if any(self._means(k, name, s) for s in screens))

    def _means(self, key: str, name: str, screen: str) -> bool:
        action = self.action(key, screen)
        return action is not None and action.name == name

    def _keys_on(self, action: Action, screen: str) -> tuple[str, ...]:
        return tuple(k for k in self._keys[action.name] if self._means(k, action.name, screen))

    def line(self, screen: str, *, writing: bool = True) -> list[tuple[str, str]]:
        """(key, label) pairs for the key line of a screen, most useful first; without `writing`, of what only reads."""
        shown = sorted(
            (a for a in ACTIONS if a.rank and a.on(screen) and (writing or not a.writes)),
            key=lambda a: a.rank,
        )
        return [(key_label(keys[0]), a.label) for a in shown if (keys := self._keys_on(a, screen))]

    def everywhere(self, screen: str, *, writing: bool = True) -> list[Action]:
        """All actions of all screens but the list of them itself, those of `screen` first."""
        shown = [a for a in ACTIONS if a.name != "palette" and (writing or not a.writes)]
        return sorted(shown, key=lambda a: not a.on(screen))

    def file_help(self, screen: str) -> list[tuple[str, str]]:
        """For the help: where keys.json lies, what is wrong with it, and the names of the actions of `screen`."""
        where = [("file", safe_text(str(self.path), 400))] if self.path else []
        wrong = [("wrong", problem) for problem in self.problems]
        names = " ".join(a.name for a in ACTIONS if a.on(screen))
        return [*where, *wrong, ("shape", '{"filter": ["f"], "quit": ["Q"]}'), ("names", names)]

    def help(self, screen: str, *, writing: bool = True) -> list[tuple[str, list[tuple[str, str]]]]:
        """Paragraphs (group, [(keys, help)]) for the help of a screen; without `writing`, of what only reads."""
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
    """What the key is called on screen.

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
    """Why `key` is no key that a remapping can name, "" where it is one.

    >>> key_problem("x"), key_problem("shift+left"), bool(key_problem("pgdn"))
    ('', '', True)
    """
    if not isinstance(key, str) or not key:
        return f"{key!r} is no key"
    *modifiers, last = [key] if len(key) == 1 else key.split("+")
    named = last in NAMED_KEYS or (len(last) == 1 and last.isprintable() and last != " ")
    if named and all(m in ("shift", "ctrl", "alt") for m in modifiers):
        return ""
    return f"{safe_text(key, 30)!r} is no key: one character, or {', '.join(sorted(NAMED_KEYS))}"


def keys_path() -> Path:
    """Where the user's keys.json lies, or would."""
    from platformdirs import user_config_path

    return user_config_path("kltui") / "keys.json"


def load_keymap(path: Path) -> Keymap:
    """The keymap with the remappings of a JSON file {"action": ["key", ...]}; what it cannot mean is in its `problems`.

    A missing file changes nothing, nor does a file that is no such JSON.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Keymap(path=path)
    except (OSError, ValueError) as error:
        return Keymap(path=path, problems=(f"not read: {safe_text(str(error), 120)}",))
    if not isinstance(data, dict):
        return Keymap(path=path, problems=('it must hold {"action": ["key", ...]}',))
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
        made.problems += ("quit: it needs a key of its own, q stays",)
    return made


def _entry_problems(name: str, keys: object) -> list[str]:
    """What is wrong with one entry of a keys.json."""
    if name not in BY_NAME:
        near = get_close_matches(name, BY_NAME, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return [f"no action {safe_text(name, 40)!r}{meant}"]
    if not isinstance(keys, list):
        return [f'{name}: a list of keys is wanted, such as ["f"]']
    return [f"{name}: {problem}" for key in keys if (problem := key_problem(key))]
