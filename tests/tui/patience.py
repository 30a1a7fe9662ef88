"""How long tests of the interface wait for its helper processes.

In a module of its own: a fixture of conftest.py, which imports the interface, would make every test here a costly one.
"""

from __future__ import annotations

import pytest

LIMITS = (
    "read_ahead.PATIENCE_S",
    "gpu.PATIENCE_S",
    "report_source.PATIENCE_S",
    "dialogs.prompts.FOLDER_SECONDS",
)


@pytest.fixture(autouse=True)
def patience_of_a_minute(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs beside it, a helper process is waited for; a test of what happens after too long sets its own time."""
    if request.node.get_closest_marker("quick"):  # it has no helper, and need not import these modules
        return
    for limit in LIMITS:
        monkeypatch.setattr(f"kltui.tui.{limit}", 60.0)
