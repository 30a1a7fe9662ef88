"""Pictures of the screens at three sizes, on the fixed workspace.

After a change that is meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from textual.pilot import Pilot

from kltui.analysis.embed import Picture
from kltui.errors import StoreError
from kltui.tui.app import KltuiApp
from kltui.tui.map_cache import ShownMap

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
SHOTS = [(name, keys, size) for name, keys in KEYS.items() for size in SIZES]
SHOTS += [
    ("help", "question_mark", (80, 24)),
    ("lineage", "E", (80, 24)),
    ("job", "s e", (120, 40)),
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
    """Presses the keys and waits until nothing is being computed."""
    app = pilot.app
    assert isinstance(app, KltuiApp)
    while not app.snapshot.loaded:
        await pilot.pause(0.02)
    for key in keys.split():
        await pilot.press(key)
    for _ in range(3):
        await pilot.pause(0.05)
        await app.workers.wait_for_complete()
    await pilot.pause(0.1)


@pytest.mark.parametrize(("name", "keys", "size"), SHOTS, ids=[f"{n}-{w}x{h}" for n, _, (w, h) in SHOTS])
def test_screen(
    snap_compare: Callable[..., bool],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    keys: str,
    size: tuple[int, int],
) -> None:
    app = KltuiApp(Path("/workspaces/demo"), opener=lambda _: FakeWorkspace())  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(app.map_cache, "pictures", fixed_pictures(app))
    assert snap_compare(app, terminal_size=size, run_before=lambda pilot: settle(pilot, keys))


def test_empty_workspace(snap_compare: Callable[..., bool]) -> None:
    def opener(_: Path) -> FakeWorkspace:
        raise StoreError("there is no workspace here", "")

    app = KltuiApp(Path("/workspaces/new"), opener=opener)  # type: ignore[arg-type]
    assert snap_compare(app, terminal_size=(80, 24), run_before=lambda pilot: settle(pilot, ""))
