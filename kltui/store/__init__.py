"""The SQLite database of a workspace: registry, corpora, jobs, vectors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow, CorpusRow, JobItemRow, JobRow, VectorRow
    from kltui.store.store import Store

__all__ = ["CheckpointRow", "CorpusRow", "JobItemRow", "JobRow", "Store", "VectorRow"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the command line needs only names from here, and SQLite would delay the first frame."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'store' if name == 'Store' else 'rows'}"), name)
