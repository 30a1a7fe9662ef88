"""Every private name of Textual that the interface uses, in this file alone: what a newer Textual may take away."""

from __future__ import annotations

from typing import Any


def driver_of(app: Any) -> Any:
    """What reads and writes the terminal for an application; None where it has none."""
    return app._driver
