"""Every key of every screen in tmux, on the real program: what is pressed, and what a person then reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import HERE
from test_tmux import leave, new_interface
from test_tmux import panes as panes
from tmux_pane import Pane

from kltui.tui.actions import ACTIONS, PLOTS, SCREENS

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

# By screen: (keys as tmux names them, what must then be shown). Keys go one after another into one program.
STEPS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "registry": [
        ("1", ("84 checkpoints", "▾ ● tiny", "Details")),
        ("j", ("● tiny@1 ", "name        tiny@1")),
        ("Down", ("name        tiny@2",)),
        ("k", ("name        tiny@1",)),
        ("Up", ("name        tiny@0",)),
        ("]", ("name        tiny@1",)),
        ("[", ("name        tiny@0",)),
        ("h", ("checkpoints 21",)),
        ("Enter", ("▸ ● tiny",)),
        ("l", ("▾ ● tiny",)),
        ("Right", ("▾ ● tiny",)),
        ("G", ("name        tuned@40", "reason for the failure")),
        ("Home", ("checkpoints 21",)),
        ("End", ("name        tuned@40",)),
        ("g", ("checkpoints 21",)),
        ("n", ("run         tiny-seed2",)),
        ("N", ("checkpoints 21",)),
        ("NPage", ("name        tiny",)),
        ("PPage", ("checkpoints 21",)),
        ("j", ("name        tiny@0",)),
        ("Space", ("1 selected",)),
        ("Escape", ("name        tiny@1",)),
        ("a", ("A tiny@1",)),
        ("j", ("name        tiny@2",)),
        ("b", ("A tiny@1  B tiny@2",)),
        ("x", ("A tiny@2  B tiny@1",)),
        ("Tab", ("Details",)),
        ("BTab", ("Checkpoints",)),
        ("/", ("run:NAME",)),
        ("s", ("/s",)),
        ("Escape", ("▾ ● tiny",)),
        ("A", ("Add checkpoints from", "folder", "hub repository", "preset", "released vectors")),
        ("Escape", ("84 checkpoints",)),
        ("P", ("Place which model?", "adapter's folder")),
        ("Escape", ("84 checkpoints",)),
        ("E", ("Lineage of tiny@2", "parent", "seed", "tags")),
        ("Escape", ("84 checkpoints",)),
        ("o", ("Sort by what?", "bits/byte")),
        ("Escape", ("84 checkpoints",)),
        ("D", ("Remove tiny@2 from the workspace?", "U restores everything")),
        ("Escape", ("84 checkpoints",)),
        ("U", ("undone: mark A and mark B",)),
        ("x", ("A tiny@2  B tiny@1",)),
        ("s", ("This job", "models = [", "s write and start")),
        ("Escape", ("84 checkpoints",)),
        ("e", ("Export as", "svg", "csv", "job file")),
        ("Escape", ("84 checkpoints",)),
        ("y", ("copied: tiny@2",)),
        ("C", ("palette: light",)),
        ("C", ("palette: ",)),
        ("r", ("84 checkpoints",)),
        (":", ("Run which action?", "screen registry")),
        ("Escape", ("84 checkpoints",)),
        ("?", ("Keys on the Registry screen", "edit the lineage")),
        ("Escape", ("84 checkpoints",)),
        ("c", ("half of it lies in",)),
    ],
    "jobs": [
        ("2", ("running", "43%", "missing tensors", "Log")),
        ("j", ("99%",)),
        ("k", ("43%",)),
        ("t", ("not following",)),
        ("t", ("following the current checkpoint",)),
        ("p", ("job 2 runs on here",)),
        ("K", ("Stop job 2?", "stay stored")),
        ("n", ("43%",)),
        ("R", ("job 2 is running",)),
        ("s", ("Start which job file?",)),
        ("Escape", ("43%",)),
        ("A", ("Add checkpoints from",)),
        ("Escape", ("43%",)),
        ("Enter", ("tiny@0",)),
        ("y", ("copied: ",)),
    ],
    "map": [
        ("3", ("Map", "83 checkpoints", "◉", "Runs", "t-SNE  83", "axis 1, no unit")),
        ("v", ("PCA", "√(bits/byte)", "axes keep")),
        ("]", ("KL from @0", "bits/byte", "nearest to")),
        ("[", ("● tiny@0   loss",)),
        ("l", ("◉", "loss")),
        ("h", ("◉", "loss")),
        ("j", ("◉",)),
        ("k", ("◉",)),
        ("G", ("@1400",)),
        ("g", ("@0 ",)),
        ("]", ("loss",)),
        ("+", ("loss",)),
        ("H", ("loss",)),
        ("J", ("loss",)),
        ("K", ("loss",)),
        ("L", ("loss",)),
        ("-", ("loss",)),
        ("=", ("loss",)),
        ("m", ("marker: dots",)),
        ("m", ("marker: half",)),
        ("m", ("marker: ascii",)),
        ("m", ("marker: braille",)),
        ("E", ("ellipses: one standard error", "± 1 s.e.")),
        ("E", ("ellipses: 95%", "± 95%")),
        ("E", ("no errors",)),
        ("i", ("colour and marker by type", "Colour: type", "gpt_neox")),
        ("i", ("colour and marker by size", "Colour: size")),
        ("i", ("colour and marker by run", "Runs")),
        ("p", ("lines of descent: not drawn",)),
        ("p", ("lines of descent: drawn", "original to quantised")),
        ("V", ("83 checkpoints and 4 layers",)),
        ("V", ("models only",)),
        ("d", ("3 dimensions", "PCA 3-D", "turned 30°", "raised 25°")),
        (">", ("turned 40°",)),
        ("<", ("turned 30°",)),
        ("}", ("raised 35°",)),
        ("{", ("raised 25°",)),
        ("d", ("2 dimensions",)),
        ("w", ("random walk", "walks wind more")),
        ("w", ("random walk removed",)),
        ("t", ("following the newest checkpoint",)),
        ("t", ("not following",)),
        ("z", ("hidden: ",)),
        ("Z", ("Runs",)),
        ("v", ("MDS", "stress")),
        ("Enter", ("84 checkpoints", "Details")),
    ],
    "curves": [
        ("4", ("KL to the previous checkpoint", "KL between", "tiny settled at step 100", "settled at 100")),
        ("]", ("● tiny@1 ", "±")),
        ("l", ("● tiny@2 ",)),
        ("h", ("● tiny@1 ",)),
        ("[", ("● tiny@0 ",)),
        ("G", ("● tiny@1400 ",)),
        ("g", ("● tiny@1 ",)),
        ("k", ("★ tuned@",)),
        ("j", ("▲ tiny-seed2@",)),
        ("L", ("step axis: linear",)),
        ("L", ("step axis: log10(1 + step)",)),
        ("Y", ("KL to previous: linear",)),
        ("Y", ("KL to previous: logarithmic",)),
        ("v", ("level of the settled step: 0.2 bits/byte",)),
        ("v", ("0.067 bits/byte",)),
        ("v", ("0.011 bits/byte", "has not settled")),
        ("v", ("the smallest level reached",)),
        ("a", ("A tiny",)),
        ("w", ("window of exponents: 20",)),
        ("w", ("window of exponents: 5",)),
        ("w", ("window of exponents: 10",)),
        ("z", ("hidden: tiny",)),
        ("Z", ("KL to the last",)),
        ("t", ("following the newest checkpoint",)),
        ("t", ("not following",)),
        ("+", ("Loss",)),
        ("S-Right", ("Loss",)),
        ("=", ("Loss",)),
        ("Tab", ("Loss, bits/byte",)),
        ("BTab", ("KL to the previous checkpoint",)),
        ("Enter", ("KL to the previous checkpoint",)),
        ("Escape", ("Loss, bits/byte",)),
        ("e", ("Export as", "csv")),
        ("Escape", ("Loss, bits/byte",)),
    ],
    "diffusion": [
        ("5", ("likelihood c =", "weights c =", "Medians over starts", "published (Pythia)")),
        ("w", ("window: 20",)),
        ("w", ("window: 5",)),
        ("w", ("window: 10",)),
        ("u", ("noise floor subtracted", "noise subtracted")),
        ("u", ("distances without correction",)),
        ("z", ("hidden: tiny",)),
        ("Z", ("all runs shown",)),
        ("L", ("log10(1 + step)",)),
        ("L", ("step axis: linear",)),
        ("l", ("R²",)),
        ("+", ("R²",)),
        ("S-Right", ("R²",)),
        ("=", ("R²",)),
    ],
    "matrix": [
        ("6", ("KL, bits/byte", "enter compares", "Nearest to the row, bits/byte", "frame: part in view")),
        ("l", ("→", "±")),
        ("-", ("enter goes there",)),
        ("+", ("enter compares",)),
        ("-", ("enter goes there",)),
        ("=", ("enter compares",)),
        ("I", ("this terminal does not support",)),
        ("e", ("Export as", "figure (pdf)", "fonts embedded", "screenshot")),
        ("Escape", ("enter compares",)),
        ("o", ("by KL to the cursor",)),
        ("o", ("clustered",)),
        ("o", ("by run and step",)),
        ("G", ("itself",)),
        ("g", ("itself",)),
        ("j", ("±",)),
        ("Enter", ("half of it lies in",)),
    ],
    "compare": [
        ("7", ("A against B", "half of it lies in", "published: size < KL < 4-bit", "no token log-probabilities stored")),
        ("I", ("this terminal does not support",)),
        ("n", ("text ",)),
        ("N", ("text ",)),
        ("o", ("where A is better",)),
        ("o", ("where B is better",)),
        ("o", ("that drive the KL",)),
        ("x", ("half of it lies in",)),
        ("T", ("This job", "tokens = true")),
        ("Escape", ("half of it lies in",)),
        ("X", ("exact KL needs the models",)),
        ("O", ("on the same corpus",)),
        ("f", ("Map settings", "save as")),
        ("Escape", ("half of it lies in",)),
        ("y", ("copied: def heap_push",)),
    ],
    "layers": [
        ("8", ("KL to the previous layer", "Models", "layers", "threads (PCA)")),
        ("v", ("large plot: threads (PCA)",)),
        ("v", ("large plot: KL to the previous layer",)),
        ("L", ("KL axis: linear",)),
        ("L", ("KL axis: log",)),
        ("l", ("from layer",)),
        ("]", ("Models",)),
        ("+", ("Models",)),
        ("S-Right", ("Models",)),
    ],
    "scale": [
        ("9", ("later pretraining", "published", "A and B on the scale")),
        ("I", ("this terminal does not support",)),
        ("j", ("Pairs: early pretraining",)),
        ("G", ("Pairs: adjacent layers",)),
        ("g", ("Pairs: later pretraining",)),
        ("Enter", ("tiny@",)),
        ("Enter", ("half of it lies in",)),
    ],
    "report": [
        ("0", ("Sections", "overview", "leakage", "Overview")),
        ("j", ("loss", "Loss")),
        ("w", ("Options of the report", "level", "noise")),
        ("Escape", ("Loss",)),
        ("r", ("Loss",)),
        ("G", ("Leakage",)),
        ("g", ("Overview",)),
        ("Enter", ("Overview",)),
        ("Escape", ("Sections",)),
    ],
}  # fmt: skip
# Pressed by scripts beside STEPS: one needs weights on disk, one a shell, and `leave` presses one at the end of each.
ELSEWHERE = {"weights": "test_real_workspace.py", "suspend": "test_tmux.py", "quit": "test_tmux.py"}


@pytest.fixture
def pane(panes: list[Pane], tmp_path: Path) -> Iterator[Pane]:
    with new_interface(panes, (120, 40), tmp_path) as made:
        yield made


@pytest.mark.parametrize("screen", SCREENS)
def test_keys(pane: Pane, screen: str) -> None:
    pane.shows("84 checkpoints", "▾ ● tiny")
    if screen in ("compare", "layers"):
        for key in ("j", "a", "j", "j", "b"):
            pane.keys(key)
        pane.shows("A tiny@1", "B tiny@4")
    if screen == "layers":
        pane.keys("x", "x")
    text, new = pane.text(), [""]  # words that the step before has brought
    for keys, wanted in STEPS[screen]:
        if keys == "Escape" and not new:
            pane.settled()
        before = pane.text("-e")
        pane.keys(keys)
        if keys == "Escape":  # right before a letter it would be that letter with alt
            for words in new:
                pane.gone(words)
            if not new:
                pane.other_than(before)
        last, text = text, pane.shows(*wanted)
        is_in_a_line = keys == "s" and "/s" in wanted
        new = new if is_in_a_line else [words for words in wanted if words not in last]
    leave(pane)


def test_every_action_is_pressed_on_its_screens() -> None:
    names = {"Escape": "escape", "Enter": "enter", "Space": "space", "Tab": "tab", "BTab": "shift+tab",
             "Up": "up", "Down": "down", "Left": "left", "Right": "right", "Home": "home", "End": "end",
             "NPage": "pagedown", "PPage": "pageup", "S-Right": "shift+right"}  # fmt: skip
    pressed = {s: {names.get(k, k) for k, _ in steps} for s, steps in STEPS.items()}
    anywhere = set().union(*pressed.values())
    for action in ACTIONS:
        if action.name in ELSEWHERE:
            script = (HERE / ELSEWHERE[action.name]).read_text(encoding="utf-8")
            keys = [key.replace("ctrl+", "C-") for key in action.keys]
            assert any(f'pane.keys("{key}")' in script for key in keys), action.name
            continue
        plots = set(PLOTS) <= set(action.screens)  # which share one widget
        lists = action.group == "move" or action.name in (
            "next_match",
            "previous_match",
        )  # which share another
        if plots or lists or not action.screens:
            assert set(action.keys) & anywhere, f"{action.name} is pressed nowhere"
        for screen in action.screens:
            if not (lists or (plots and screen in PLOTS)):
                assert set(action.keys) & pressed[screen], f"{action.name} is not pressed on {screen}"
