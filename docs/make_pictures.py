"""Makes the README's pictures from today's screens: python docs/make_pictures.py [WORKSPACE]  (default: kltui-demo).

The workspace is that of `kltui --demo`. Beside the pictures lies what they were made from, by which a test tells that
they are stale.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from kltui.tui.app import KltuiApp
from kltui.tui.main import prepare_environment
from kltui.tui.screenshot import placed, with_versions

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
MADE_FROM = PICTURES / "made_from.json"
SIZE = (120, 36)
PATIENCE_S = 120.0
# What draws these four screens; whatever else a screen shows comes from the workspace.
SOURCES = (
    "docs/make_pictures.py",
    "kltui/tui/widgets/axis_line.py",
    "kltui/tui/widgets/canvas.py",
    "kltui/tui/widgets/curve_panel.py",
    "kltui/tui/theme.py",
    "kltui/tui/widgets/plot.py",
    "kltui/tui/screenshot.py",
    "kltui/tui/widgets/table.py",
    "kltui/tui/views/compare.py",
    "kltui/tui/views/curves.py",
    "kltui/tui/views/map.py",
    "kltui/tui/views/map_plot.py",
    "kltui/tui/views/map_text.py",
    "kltui/tui/views/scale.py",
    "kltui/view/palette.py",
    "kltui/view/cell_buffer.py",
    "kltui/view/plot_data.py",
)
PAIR = "tiny-seed1", "tiny-seed2"  # runs of the demo, whose last checkpoints are A and B
Ready = Callable[[Any], object]
# By picture: keys, and what holds when they have done their work, one pair after another.
SCREENS: dict[str, tuple[tuple[str, Ready], ...]] = {
    "map-3d": (
        ("3", lambda view: view.plot.drawn_method == "tsne" and not view.plot.waiting),
        ("v d > > }", lambda view: (view.plot.drawn_method, view.plot.dims) == ("pca", 3)),
    ),
    "curves": (("4", lambda view: view.settled.levels),),
    "compare": (("7", lambda view: view.texts.order),),
    "scale": (("9", lambda view: view.pair_table.pairs),),
}


def made_from() -> dict[str, str]:
    """{source: SHA-256} of what the pictures are made from, as it is now."""
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in SOURCES}


async def make(workspace: Path) -> None:
    """Draws every screen and writes it as an SVG, with what it was made from beside."""
    app = KltuiApp(workspace, read_only=True)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        a, b = (_last(app, run) for run in PAIR)
        app.selection.a, app.selection.b, app.selection.cursor = a, b, a
        for name, steps in SCREENS.items():
            for keys, ready in steps:
                await pilot.press(*keys.split())
                await until(pilot, lambda ready=ready: ready(app.view))
            await pilot.pause(0.5)
            app.say("")
            await pilot.pause(0.1)
            picture = with_versions(placed(app.export_screenshot(title="kltui")))
            (PICTURES / f"{name}.svg").write_text(picture, encoding="utf-8")
    MADE_FROM.write_text(json.dumps(made_from(), indent=1) + "\n", encoding="utf-8")


def _last(app: KltuiApp, run: str) -> str:
    """The last checkpoint of a run, not quantised."""
    return next(r.name for r in reversed(app.snapshot.runs[run]) if r.checkpoint.quantization == "none")


async def until(pilot: Pilot[int], holds: Callable[[], object]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("a screen was not ready in time")
        await pilot.pause(0.1)


if __name__ == "__main__":
    prepare_environment()
    asyncio.run(make(Path(sys.argv[1] if len(sys.argv) > 1 else "kltui-demo")))
