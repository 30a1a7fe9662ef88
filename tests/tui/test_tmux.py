"""The real program in tmux, read off the pane as a person would."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from replay import visible
from terminal import HERE
from tmux_pane import Pane

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

narrow = pytest.mark.parametrize("pane", [(80, 24)], ids=["80x24"], indirect=True)
wide = pytest.mark.parametrize("pane", [(120, 40)], ids=["120x40"], indirect=True)
both = pytest.mark.parametrize("pane", [(80, 24), (120, 40)], ids=["80x24", "120x40"], indirect=True)


@contextmanager
def new_interface(kept: list[Pane], size: tuple[int, int], tmp: Path) -> Iterator[Pane]:
    """A pane with a new interface: in the process of the one before where that has ended well, and is `kept`."""
    if kept:
        made = kept.pop()
        made.tmux("resize-window", "-x", str(size[0]), "-y", str(size[1]))
        made.keys("Enter")
    else:
        made = Pane(*size, [sys.executable, str(HERE / "big_app.py"), "0", "again"], tmp)
    yield made
    if "ENDED 0" in made.text():
        kept.append(made)
    else:
        made.close()


@pytest.fixture(scope="module")
def panes() -> Iterator[list[Pane]]:
    """At most one pane, in which an interface has ended as it should."""
    kept: list[Pane] = []
    yield kept
    for pane in kept:
        pane.close()


@pytest.fixture
def pane(request: pytest.FixtureRequest, panes: list[Pane], tmp_path: Path) -> Iterator[Pane]:
    with new_interface(panes, request.param, tmp_path) as made:
        yield made


def leave(pane: Pane) -> str:
    """What is shown once the interface has ended."""
    pane.keys("q")
    return pane.shows("ENDED 0")


@both
def test_every_screen_by_its_key(pane: Pane) -> None:
    pane.shows("84 checkpoints", "▾ ● tiny")
    pane.keys("j", "a", "j", "b")
    pane.shows("A tiny@1", "B tiny@2")
    pane.keys("2")
    pane.shows("tiny@16", "queued", "43%")
    pane.keys("3")
    pane.shows("Map", "83 checkpoints", "◉")
    pane.keys("]")
    pane.shows("tiny@4", "KL from @2", "bits/byte")
    pane.keys("+", "v")
    pane.shows("PCA")
    pane.keys("5")
    pane.shows("likelihood c =", "weights c =")
    pane.keys("6")
    pane.shows("KL, bits/byte", "enter compares")
    pane.keys("7")
    pane.shows("A tiny@1", "half of it lies in")
    pane.keys("8")
    pane.shows("KL to the previous layer")
    pane.keys("9")
    pane.shows("later pretraining", "published")
    pane.keys("?")
    pane.shows("Keys on the Scale screen")
    pane.keys("Escape")  # alone: right before a letter it would be that letter with alt
    pane.gone("Keys on the Scale screen")
    text = leave(pane)
    assert "Registry" not in text  # the shell's own screen is back


@wide
def test_the_cursor_row_and_filter_in_tmux(pane: Pane) -> None:
    pane.shows("84 checkpoints")
    pane.keys("/")
    pane.shows("run:NAME")
    pane.keys("run:small", "Enter")
    text = pane.shows("/run:small", "◆ small")
    assert "tiny-seed2" not in text
    pane.keys("Escape")
    pane.shows("▾ ● tiny")
    leave(pane)


@narrow
def test_keys_typed_ahead_reach_what_they_were_meant_for(pane: Pane) -> None:
    """All in one burst, as a slow line delivers them: nothing falls through to the screen below a question."""
    pane.shows("84 checkpoints")
    pane.keys("/", "x", "q", "C-u", *"run:small", "Enter", "j", "a", "j", "b")
    pane.shows("/run:small", "A small@1", "B small@2")
    pane.keys("Escape")
    pane.gone("/run:small")
    pane.keys(":", *"screen matrix", "Enter")
    pane.shows("KL, bits/byte")
    pane.keys("1", "/", *"step", "Left", "Left", "C-a", *"-", "End", *">=4", "Enter", "3")
    pane.shows("/-step>=4", "Map")
    leave(pane)


@wide
def test_after_a_storm_of_sizes_it_is_as_if_drawn_whole(pane: Pane) -> None:
    rng = random.Random(5)
    pane.shows("84 checkpoints")
    for turn in range(60):
        pane.tmux("resize-window", "-x", str(rng.randint(30, 220)), "-y", str(rng.randint(8, 70)))
        if turn % 6 == 0:
            pane.keys(rng.choice("13587j]l"))
        time.sleep(rng.choice([0, 0.01, 0.05]))
    pane.keys("1", "g")
    for width in ("90", "130"):
        pane.tmux("resize-window", "-x", width, "-y", "40")
    pane.shows("@100", "Details", "variant")
    stormy = pane.settled()
    pane.keys("C")
    pane.shows("palette: light")
    pane.keys("C")  # twice, and every cell has been written again
    pane.shows("palette: dark")
    whole = pane.settled()
    assert "palette: dark" in whole[-2]
    assert visible(stormy[:-2]) == visible(whole[:-2]) and visible(stormy[-1:]) == visible(whole[-1:])
    leave(pane)


def test_back_to_the_shell_and_in_again(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, str(HERE / "big_app.py"), "0"])
    pane = Pane(100, 30, ["PS1=ready:", "bash", "--norc", "--noprofile"], tmp_path)
    try:
        pane.shows("ready:")
        pane.keys(command, "Enter")
        pane.shows("84 checkpoints", "▾ ● tiny")
        pane.keys("C-z")
        assert "84 checkpoints" not in pane.shows("Stopped", "ready:")
        pane.keys("echo the-shell-is-well", "Enter")
        pane.shows("\nthe-shell-is-well")
        pane.keys("fg", "Enter")
        pane.shows("84 checkpoints", "▾ ● tiny", "run / step")
        pane.keys("2")
        pane.shows("queued")
        pane.keys("q")
        pane.shows("the-shell-is-well", "ready:")
    finally:
        pane.close()


@narrow
def test_without_a_shell_it_is_not_stopped(pane: Pane) -> None:
    pane.shows("84 checkpoints", "▾ ● tiny")
    pane.keys("C-z")
    pane.shows("cannot suspend: there is no shell to return to; q quits, and jobs continue")
    leave(pane)
