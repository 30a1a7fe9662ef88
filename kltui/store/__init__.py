"""The SQLite database of a workspace: registry, corpora, jobs, vectors."""

from kltui.store.rows import CheckpointRow, CorpusRow, JobItemRow, JobRow, VectorRow
from kltui.store.store import Store

__all__ = ["CheckpointRow", "CorpusRow", "JobItemRow", "JobRow", "Store", "VectorRow"]
