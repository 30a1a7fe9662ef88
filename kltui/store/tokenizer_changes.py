"""Which checkpoints of a run were scored with another tokenizer than the one before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from kltui.store.rows import CheckpointRow, VectorRow

# Keys are JSON with sorted names; of 100,000 of them only this field is needed.
_TOKENIZER = re.compile(r'"tokenizer": "([^"]*)"')


def tokenizer_of(key: str) -> str:
    """The digest of the tokenizer in a vector's key; "" if it has none, as imported vectors."""
    found = _TOKENIZER.search(key)
    return found[1] if found else ""


def changed_tokenizers(rows: Sequence[CheckpointRow], vectors: Sequence[VectorRow]) -> dict[str, str]:
    """{checkpoint: the one before it in its run, in steps} of those whose newest vectors have different tokenizers."""
    of = {v.checkpoint_id: tokenizer_of(v.key) for v in vectors if v.layer is None}
    runs: dict[tuple[str, str], list[CheckpointRow]] = {}
    for row in rows:
        if row.checkpoint.step is not None and of.get(row.id):
            runs.setdefault((row.checkpoint.run, row.checkpoint.quantization), []).append(row)
    changed = {}
    for members in runs.values():
        for a, b in pairwise(sorted(members, key=lambda row: row.checkpoint.step or 0)):
            if of[a.id] != of[b.id]:
                changed[b.name] = a.name
    return changed


def change_words(before: str) -> str:
    """What a changed tokenizer means for a checkpoint, given the name of the one before it."""
    return f"its tokenizer is not that of {before}: part of the KL between them comes from that"
