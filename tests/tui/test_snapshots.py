"""Pictures of the screens at three sizes, on the fixed workspace.

After a change that is meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at them.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from pytest_textual_snapshot import SVGImageExtension, normalize_svg
from syrupy.assertion import SnapshotAssertion
from textual.pilot import Pilot

from kltui.analysis.embed import Picture
from kltui.errors import NoWorkspaceError
from kltui.tui.app import KltuiApp
from kltui.tui.map_cache import ShownMap

ROOT = Path(__file__).parents[2]
PINNED = re.findall(r'"(textual|rich)==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OTHERS = [f"{name} {version(name)}, not {pinned}" for name, pinned in PINNED if version(name) != pinned]
pytestmark = pytest.mark.skipif(
    bool(OTHERS), reason=f"pictures are of pinned versions; here is {', '.join(OTHERS)}"
)

KEYS = {
    "registry": "j j a j b space",
    "jobs": "2",
    "map": "3 ] ] ]",
    "curves": "4",
    "diffusion": "5",
    "matrix": "6 j l l",
    "compare": "a j j b c",
    "layers": "8",
    "scale": "9 j",
}
SIZES = ((80, 24), (120, 40), (200, 60))
OF_ONE_SIZE = {"help": ("question_mark", (80, 24)), "lineage": ("E", (80, 24)), "job": ("s e", (120, 40))}
NAMES = (*KEYS, *OF_ONE_SIZE)
KEPT = Path(__file__).parent / "__snapshots__" / "test_snapshots"
SHOTS = [(name, size) for name in KEYS for size in SIZES] + [
    (n, size) for n, (_, size) in OF_ONE_SIZE.items()
]


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same clock everywhere: jobs show when they began."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("kltui.tui.gpu.which", lambda program: None)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def fixed_pictures(app: KltuiApp) -> Callable[[str], object]:
    """Coordinates by formula, so that no linear algebra library can move a dot."""

    async def pictures(method: str, dims: int = 2, **more: object) -> AsyncIterator[ShownMap]:
        found = await app.map_cache.map()
        runs = {p.run: i for i, p in enumerate({p.run: p for p in found.points}.values())}
        along = [np.log1p(p.step or 0) / 7.5 for p in found.points]
        turn = [0.9 * i + 2.2 * t for t, i in zip(along, (runs[p.run] for p in found.points), strict=True)]
        xy = np.array([(t * np.cos(a), t * np.sin(a)) for t, a in zip(along, turn, strict=True)])
        yield ShownMap(found, Picture("tsne", xy), final=True, n_total=len(found))

    return pictures


async def settle(pilot: Pilot[int], keys: str) -> None:
    """Presses the keys, each once nothing is being computed any more, and waits until that is so again."""
    app = pilot.app
    assert isinstance(app, KltuiApp)
    while not app.snapshot.loaded:
        await pilot.pause(0.02)
    for key in keys.split():
        await computed(pilot)  # a move before there is a matrix goes nowhere
        await pilot.press(key)
    await computed(pilot)
    await pilot.pause(0.1)


async def computed(pilot: Pilot[int]) -> None:
    """Waits until nothing is being computed: what one worker has found may start another."""
    for _ in range(3):
        await pilot.pause(0.05)
        await pilot.app.workers.wait_for_complete()


async def taken(
    app: KltuiApp, keys: str, sizes: tuple[tuple[int, int], ...], name: str, patience: float
) -> dict[tuple[int, int], str]:
    """By size: the picture of what the keys lead to, in one app that is resized.

    A picture that is not as it was kept is taken again for `patience` seconds: on a busy machine something may be on its way.
    """
    found = {}
    async with app.run_test(size=sizes[0]) as pilot:
        await settle(pilot, keys)
        for size in sizes:
            await pilot.resize_terminal(*size)
            kept, end = kept_picture(name, size), math.inf
            while time.monotonic() < end:
                await settle(pilot, "")
                found[size] = normalize_svg(app.export_screenshot(title=app.title, simplify=True))
                if found[size] == kept:
                    break
                end = min(end, time.monotonic() + patience)
    return found


def kept_picture(name: str, size: tuple[int, int]) -> str:
    """The picture kept of a screen, "" where there is none."""
    path = KEPT / (f"test_screen[{name}-{size[0]}x{size[1]}].svg" if name in NAMES else f"{name}.svg")
    return normalize_svg(path.read_text(encoding="utf-8")) if path.is_file() else ""


@cache
def pictures_of(name: str, patience: float) -> dict[tuple[int, int], str]:
    """The pictures of one screen, at all its sizes."""
    app = KltuiApp(Path("/workspaces/demo"), opener=lambda _: FakeWorkspace())  # type: ignore[arg-type,return-value]
    app.map_cache.pictures = fixed_pictures(app)  # type: ignore[method-assign,assignment]
    keys, sizes = (KEYS[name], SIZES) if name in KEYS else (OF_ONE_SIZE[name][0], (OF_ONE_SIZE[name][1],))
    return asyncio.run(taken(app, keys, sizes, name, patience))


@pytest.fixture
def patience(pytestconfig: pytest.Config) -> float:
    """Seconds for which a picture that differs is taken again."""
    return 1.0 if pytestconfig.getoption("update_snapshots") else 20.0


@pytest.mark.parametrize(("name", "size"), SHOTS, ids=[f"{n}-{w}x{h}" for n, (w, h) in SHOTS])
def test_screen(snapshot: SnapshotAssertion, patience: float, name: str, size: tuple[int, int]) -> None:
    assert snapshot.use_extension(SVGImageExtension) == pictures_of(name, patience)[size]


def test_empty_workspace(snapshot: SnapshotAssertion, patience: float) -> None:
    def opener(_: Path) -> FakeWorkspace:
        raise NoWorkspaceError("there is no workspace here", "")

    app = KltuiApp(Path("/workspaces/new"), opener=opener)  # type: ignore[arg-type]
    [picture] = asyncio.run(taken(app, "", SIZES[:1], "test_empty_workspace", patience)).values()
    assert snapshot.use_extension(SVGImageExtension) == picture
