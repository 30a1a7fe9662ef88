"""The table of all actions, from which key bindings, help, key line and palette are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

SCREENS = (
    "registry", "jobs", "map", "curves", "diffusion", "matrix", "compare", "layers", "scale", "report"
)  # fmt: skip
PLOTS = ("map", "curves", "diffusion", "layers")
ZOOMED = (*PLOTS, "matrix")
FIGURES = (*ZOOMED, "compare", "scale")
# screens on which the actions for matches, for left and right, and for enter exist
MATCHED = ("registry", "map", "compare")
SIDEWAYS = ("registry", "map", "curves", "diffusion", "matrix", "layers", "report")
ENTERED = ("registry", "jobs", "map", "curves", "matrix", "compare", "scale", "report")

# what can be done before there is anything to look at, on every screen
FIRST_STEPS = ("add", "start")


def screen_key(number: int) -> str:
    """The key of the `number`th screen, from 1: its last digit, so that the tenth is 0."""
    return str(number % 10)


class ActionHandlers:
    """One method for each action; panes, views and the application override those that they can do.

    A handler returns False if it did nothing; the next object is then tried. Here every handler does so.
    """

    def not_here(self) -> bool | None:
        """Returns False: this object does not have the action."""
        return False

    def do_screen(self, name: str) -> bool | None:
        """Shows the screen of that name."""
        return False

    # everywhere
    do_help = do_palette = do_quit = do_suspend = do_next_pane = do_previous_pane = not_here
    do_out = do_undo = do_refresh = do_theme = do_export = do_corpus = do_copy = not_here
    # move
    do_left = do_down = do_up = do_right = do_page_down = do_page_up = do_first = not_here
    do_last = do_previous_step = do_next_step = do_enter = not_here
    # choose
    do_filter = do_next_match = do_previous_match = do_select = do_mark_a = do_mark_b = not_here
    do_swap = do_compare = do_order = do_sort = do_order_texts = do_basis = not_here
    # plot
    do_zoom_in = do_zoom_out = do_zoom_reset = do_pan_left = do_pan_down = do_pan_up = not_here
    do_pan_right = do_pan_right_by_arrow = do_axis_scale = do_value_scale = do_settled_level = do_marker = (
        not_here
    )
    do_method = do_dimensions = do_turn_left = do_turn_right = do_turn_up = do_turn_down = not_here
    do_colour_by = do_errors = do_descent = do_with_layers = do_hide_run = do_show_runs = not_here
    do_null = do_follow = do_window = do_noise = do_weights = do_tokens = do_exact = not_here
    do_choices = do_pixels = not_here
    # jobs
    do_add = do_place = do_edit = do_remove = do_start = do_pause = do_stop = do_retry = not_here


Handler = Callable[[ActionHandlers], bool | None]


class Action(NamedTuple):
    """Something the user can do. `handler` is called with the focused pane, then the view, then the application.

    `screens` empty means everywhere. `rank` above 0 puts it on the key line, lower first; `group` heads
    its paragraph of the help. `writes` actions are refused with `--read-only`.
    """

    name: str
    keys: tuple[str, ...]
    label: str
    help: str
    group: str
    handler: Handler
    screens: tuple[str, ...] = ()
    rank: int = 0
    writes: bool = False

    @property
    def needs_all_rows(self) -> bool:
        """Whether the result would be wrong while only the first checkpoints of a large workspace are read."""
        return self.group in ("choose", "jobs") or self.name in ("next_step", "previous_step", "export")

    def on(self, screen: str) -> bool:
        """Whether the action exists on that screen."""
        return not self.screens or screen in self.screens


def _shows(name: str) -> Handler:
    return lambda on: on.do_screen(name)


def _screen_actions() -> list[Action]:
    texts = (
        "checkpoints as a tree of runs",
        "running jobs, their progress and failures",
        "trajectories of all runs on one map",
        "loss, KL and updates against the training step",
        "diffusion exponents in likelihood and weight space",
        "KL between the selected checkpoints",
        "A against B, down to single tokens",
        "layer vectors and KL between neighbouring layers",
        "KLs of this workspace and published medians",
        "every section of the report, with its options",
    )
    return [
        Action(f"screen_{name}", (screen_key(i),), name.capitalize(), text, "screens", _shows(name))
        for i, (name, text) in enumerate(zip(SCREENS, texts, strict=True), start=1)
    ]


ACTIONS: tuple[Action, ...] = (
    *_screen_actions(),
    Action("help", ("?",), "help", "help of the focused pane", "everywhere", lambda on: on.do_help(), rank=90),
    Action("palette", (":",), "palette", "all actions by name", "everywhere",
           lambda on: on.do_palette(), rank=80),
    Action("quit", ("q",), "quit", "quit; jobs continue", "everywhere", lambda on: on.do_quit(), rank=91),
    Action("suspend", ("ctrl+z",), "", "suspend to the shell; fg returns", "everywhere",
           lambda on: on.do_suspend()),
    Action("next_pane", ("tab",), "pane", "next pane", "everywhere", lambda on: on.do_next_pane(), rank=60),
    Action("previous_pane", ("shift+tab",), "", "previous pane", "everywhere",
           lambda on: on.do_previous_pane()),
    Action("out", ("escape",), "", "step back: close detail, filter, selection", "everywhere",
           lambda on: on.do_out()),
    Action("undo", ("U",), "", "undo: filter, selection, marks, removals", "everywhere",
           lambda on: on.do_undo()),
    Action("refresh", ("r",), "", "reload the workspace and redraw", "everywhere",
           lambda on: on.do_refresh()),
    Action("theme", ("C",), "", "next palette: dark, light", "everywhere", lambda on: on.do_theme()),
    Action("left", ("h", "left"), "", "left; on a plot: nearest point that way", "move",
           lambda on: on.do_left(), SIDEWAYS),
    Action("down", ("j", "down"), "", "down; on a plot: nearest point that way", "move",
           lambda on: on.do_down()),
    Action("up", ("k", "up"), "", "up; on a plot: nearest point that way", "move", lambda on: on.do_up()),
    Action("right", ("l", "right"), "", "right; on a plot: nearest point that way", "move",
           lambda on: on.do_right(), SIDEWAYS),
    Action("page_down", ("pagedown",), "", "one page down", "move", lambda on: on.do_page_down()),
    Action("page_up", ("pageup",), "", "one page up", "move", lambda on: on.do_page_up()),
    Action("first", ("g", "home"), "", "first", "move", lambda on: on.do_first()),
    Action("last", ("G", "end"), "", "last", "move", lambda on: on.do_last()),
    Action("previous_step", ("[",), "", "previous checkpoint of the run", "move",
           lambda on: on.do_previous_step()),
    Action("next_step", ("]",), "walk", "next checkpoint of the run", "move",
           lambda on: on.do_next_step(), rank=22),
    Action("enter", ("enter",), "", "open: fold a run, open a row, find the point", "move",
           lambda on: on.do_enter(), ENTERED),
    Action("zoom_in", ("+",), "zoom", "zoom in", "plot", lambda on: on.do_zoom_in(), ZOOMED, rank=9),
    Action("zoom_out", ("-", "_"), "", "zoom out", "plot", lambda on: on.do_zoom_out(), ZOOMED),
    Action("zoom_reset", ("=",), "", "show everything", "plot", lambda on: on.do_zoom_reset(), ZOOMED),
    Action("pan_left", ("H", "shift+left"), "", "pan left", "plot", lambda on: on.do_pan_left(), PLOTS),
    Action("pan_down", ("J", "shift+down"), "", "pan down", "plot", lambda on: on.do_pan_down(), PLOTS),
    Action("pan_up", ("K", "shift+up"), "", "pan up", "plot", lambda on: on.do_pan_up(), PLOTS),
    Action("pan_right", ("L", "shift+right"), "pan", "pan right", "plot",
           lambda on: on.do_pan_right(), ("map",), rank=21),
    Action("pan_right_by_arrow", ("shift+right",), "", "pan right", "plot",
           lambda on: on.do_pan_right_by_arrow(), ("curves", "diffusion", "layers")),
    Action("axis_scale", ("L",), "log", "axis scale: linear or log", "plot",
           lambda on: on.do_axis_scale(), ("curves", "diffusion", "layers"), rank=10),
    Action("value_scale", ("Y",), "", "value scale of this panel: linear or log", "plot",
           lambda on: on.do_value_scale(), ("curves",)),
    Action("settled_level", ("v",), "level", "KL below which a run counts as settled", "plot",
           lambda on: on.do_settled_level(), ("curves",), rank=6),
    Action("marker", ("m",), "marker", "marker: braille, dots, half blocks, ASCII", "plot",
           lambda on: on.do_marker(), PLOTS, rank=40),
    Action("method", ("v",), "method", "method: t-SNE, PCA, MDS, released; Layers: plot", "plot",
           lambda on: on.do_method(), ("map", "layers"), rank=5),
    Action("dimensions", ("d",), "2D/3D", "two or three dimensions", "plot",
           lambda on: on.do_dimensions(), ("map",), rank=19),
    Action("turn_left", ("<",), "", "rotate left (three dimensions)", "plot",
           lambda on: on.do_turn_left(), ("map",)),
    Action("turn_right", (">",), "turn", "rotate right (three dimensions)", "plot",
           lambda on: on.do_turn_right(), ("map",), rank=42),
    Action("turn_up", ("}",), "", "tilt up (three dimensions)", "plot", lambda on: on.do_turn_up(), ("map",)),
    Action("turn_down", ("{",), "", "tilt down (three dimensions)", "plot", lambda on: on.do_turn_down(), ("map",)),
    Action("colour_by", ("i",), "colour", "colour and marker by run, type, size, tag or score", "plot",
           lambda on: on.do_colour_by(), ("map",), rank=20),
    Action("errors", ("E",), "errors", "error ellipses: one standard error, 95%, none", "plot",
           lambda on: on.do_errors(), ("map",), rank=23),
    Action("descent", ("p",), "", "show or hide lines from parents and originals", "plot",
           lambda on: on.do_descent(), ("map",)),
    Action("with_layers", ("V",), "", "show or hide layers of the models on the map", "plot",
           lambda on: on.do_with_layers(), ("map",)),
    Action("hide_run", ("z",), "hide", "hide or show the run under the cursor", "plot",
           lambda on: on.do_hide_run(), ("map", "curves", "diffusion"), rank=18),
    Action("show_runs", ("Z",), "", "show all runs", "plot",
           lambda on: on.do_show_runs(), ("map", "curves", "diffusion")),
    Action("null", ("w",), "null", "add a random walk with the run's step lengths", "plot",
           lambda on: on.do_null(), ("map",), rank=31),
    Action("follow", ("t",), "follow", "follow the newest checkpoint", "plot",
           lambda on: on.do_follow(), ("map", "curves", "jobs"), rank=11),
    Action("filter", ("/",), "filter", "filter: run:NAME|NAME2 step>=1000 -quant:8bit words", "choose",
           lambda on: on.do_filter(), rank=12),
    Action("next_match", ("n",), "", "next match of the filter; Compare: next text", "choose",
           lambda on: on.do_next_match(), MATCHED),
    Action("previous_match", ("N",), "", "previous match; Compare: previous text", "choose",
           lambda on: on.do_previous_match(), MATCHED),
    Action("select", ("space",), "select", "select or unselect", "choose", lambda on: on.do_select(), rank=13),
    Action("mark_a", ("a",), "A", "mark A", "choose", lambda on: on.do_mark_a(), rank=14),
    Action("mark_b", ("b",), "B", "mark B", "choose", lambda on: on.do_mark_b(), rank=15),
    Action("swap", ("x",), "swap", "swap A and B", "choose", lambda on: on.do_swap(), rank=35),
    Action("compare", ("c",), "compare", "compare A with B", "choose", lambda on: on.do_compare(), rank=16),
    Action("order", ("o",), "order", "order: by name, by KL to the cursor, clustered", "choose",
           lambda on: on.do_order(), ("matrix",), rank=6),
    Action("sort", ("o",), "sort", "sort by a column, or as the tree of runs", "choose",
           lambda on: on.do_sort(), ("registry",), rank=19),
    Action("order_texts", ("o",), "order", "text order: largest share of KL, A better, B better", "choose",
           lambda on: on.do_order_texts(), ("compare",), rank=6),
    Action("window", ("w",), "window", "window of the fit: 5, 10, 20 checkpoints", "plot",
           lambda on: on.do_window(), ("curves", "diffusion"), rank=7),
    Action("noise", ("u",), "noise", "subtract the noise floor before the fit", "plot",
           lambda on: on.do_noise(), ("diffusion",), rank=7),
    Action("weights", ("W",), "weights", "compute missing weight distances", "plot",
           lambda on: on.do_weights(), ("curves", "diffusion"), rank=8,
           writes=True),
    Action("tokens", ("T",), "tokens", "score the tokens of A and B in a short job", "plot",
           lambda on: on.do_tokens(), ("compare",), rank=7,
           writes=True),
    Action("exact", ("X",), "exact", "exact next-token KL of A and B in a short job; stored", "plot",
           lambda on: on.do_exact(), ("compare",), rank=8,
           writes=True),
    Action("choices", ("w",), "choices", "options of the report: where, level, noise", "plot",
           lambda on: on.do_choices(), ("report",), rank=6),
    Action("add", ("A",), "add", "add a folder, hub repo, preset or released vectors", "jobs",
           lambda on: on.do_add(),
           ("registry", "jobs"), rank=4, writes=True),
    Action("place", ("P",), "on this map", "place one of your models on this map", "jobs",
           lambda on: on.do_place(),
           ("registry",), writes=True),
    Action("edit", ("E",), "edit", "edit the lineage: run, step, parent, seed, size, tags", "jobs",
           lambda on: on.do_edit(),
           ("registry",), rank=17, writes=True),
    Action("remove", ("D",), "", "remove from the workspace (asks; undo restores)", "jobs",
           lambda on: on.do_remove(), ("registry",), writes=True),
    Action("start", ("s",), "start", "start a job file, or a job for the selection", "jobs",
           lambda on: on.do_start(),
           ("registry", "jobs"), rank=5, writes=True),
    Action("pause", ("p",), "pause", "pause or resume the job", "jobs",
           lambda on: on.do_pause(), ("jobs",), rank=6, writes=True),
    Action("stop", ("K",), "stop", "stop the job (asks)", "jobs",
           lambda on: on.do_stop(), ("jobs",), rank=7, writes=True),
    Action("retry", ("R",), "retry", "run the job again for missing and failed results", "jobs",
           lambda on: on.do_retry(), ("jobs",), rank=8,
           writes=True),
    Action("pixels", ("I",), "", "show the figure, if the terminal supports images", "plot",
           lambda on: on.do_pixels(), FIGURES),
    Action("export", ("e",), "export", "export: a figure for a paper, CSV, text, screenshot", "everywhere",
           lambda on: on.do_export(),
           rank=50),
    Action("basis", ("f",), "map of", "map settings: corpus, preprocessing, exclusions",
           "choose", lambda on: on.do_basis(), rank=17),
    Action("corpus", ("O",), "", "select the corpus that the screens show (--over HASH)", "everywhere",
           lambda on: on.do_corpus()),
    Action("copy", ("y",), "", "copy the name or the row (OSC 52)", "everywhere", lambda on: on.do_copy()),
)  # fmt: skip

BY_NAME: Mapping[str, Action] = {a.name: a for a in ACTIONS}
