"""An open workspace: what the interface, reports and notebooks query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kltui.workspace.workspace import Workspace

__all__ = ["Workspace"]


def __getattr__(name: str) -> Any:
    """Imports Workspace when it is asked for: rows that are already read do not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kltui.workspace.workspace import Workspace

    return Workspace
