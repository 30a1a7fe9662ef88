"""How the interpreter serves keys beside threads that compute: hands over often, looks for all garbage while nobody types."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from kltui.tui import app_session
from kltui.tui.app import KltuiApp
from kltui.tui.main import SWITCH_SECONDS, THRESHOLDS, prepare_environment


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leaves the interpreter as it was."""
    interval, thresholds, enabled = sys.getswitchinterval(), gc.get_threshold(), gc.isenabled()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


def test_threads_hand_over_often_and_no_collection_looks_at_every_object(as_before: None) -> None:
    prepare_environment()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS) and SWITCH_SECONDS <= 0.001
    assert gc.get_threshold() == THRESHOLDS
    before = gc.get_stats()[2]["collections"]
    gc.enable()
    kept = [[i] for i in range(300_000)]  # dozens of collections of young objects, and by default some of all
    assert len(kept) == 300_000 and gc.get_stats()[2]["collections"] == before


async def test_all_garbage_is_collected_once_after_keys_when_none_has_come_for_a_while(
    make_app: Callable[..., KltuiApp], until, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(app_session.gc, "collect", lambda: asked.append(app.typed_at))
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("j")
        first = app.typed_at
        assert first >= app._read_at > 0
        app._collect_garbage()
        assert not asked  # a key came just now
        monkeypatch.setattr(app_session, "REST_SECONDS", -1.0)
        app._collect_garbage()
        app._collect_garbage()
        assert asked == [first]
        await pilot.press("k")
        app._collect_garbage()
        assert asked == [first, app.typed_at] and app.typed_at > first
        await app.reload()
        app._collect_garbage()
        assert len(asked) == 2  # nothing was new
        app.snapshot = replace(app.snapshot, generation=-5)
        await app.reload()
        app._collect_garbage()
        assert len(asked) == 3
