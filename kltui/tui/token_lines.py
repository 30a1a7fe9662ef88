"""Per-token log-probabilities of one text under one checkpoint, with the pieces of text they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kltui.registry.checkpoint import HubSource, LocalSource, Source

if TYPE_CHECKING:
    from kltui.workspace import Workspace


@dataclass(frozen=True)
class TokenLine:
    """The scored tokens of a text: where each starts and ends in it (n x 2 characters), and log p (n, nats).

    `spans` is empty where the tokenizer's pieces could not be laid over the text.
    """

    spans: tuple[tuple[int, int], ...]
    logprobs: NDArray[np.float32]


def read_tokens(ws: Workspace, name: str, index: int, text: str) -> TokenLine | None:
    """Tokens of text number `index` under checkpoint `name`, or None where they were not kept."""
    path = ws.token_logprobs(name)
    if path is None:
        return None
    from safetensors import safe_open

    with safe_open(str(path), "np") as file:
        lengths = file.get_tensor("lengths")
        start = int(lengths[:index].sum())
        logprobs = file.get_slice("logprobs")[start : start + int(lengths[index])]
    row = next(r for r in ws.checkpoints() if r.name == name)
    return TokenLine(
        _spans(row.checkpoint.source, text, len(logprobs)), np.asarray(logprobs, dtype=np.float32)
    )


def _spans(source: Source, text: str, n_tokens: int) -> tuple[tuple[int, int], ...]:
    """Character spans of the last `n_tokens` tokens: where no BOS is put in front, the first one is not scored."""
    path = _tokenizer_file(source)
    if path is None or any("\ud800" <= c <= "\udfff" for c in text):
        return ()
    from tokenizers import Tokenizer

    try:
        offsets = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).offsets
    except Exception:  # tokenizers raises nothing narrower; the text is shown without its tokens
        return ()
    if not 0 <= len(offsets) - n_tokens <= 1:
        return ()
    return tuple((int(a), int(b)) for a, b in offsets[len(offsets) - n_tokens :])


def _tokenizer_file(source: Source) -> Path | None:
    if isinstance(source, LocalSource):
        path = source.path / "tokenizer.json"
        return path if path.is_file() else None
    return _cached(source)


def _cached(source: HubSource) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    revision = source.commit or source.revision
    found = try_to_load_from_cache(source.repo, "tokenizer.json", revision=revision)
    return Path(found) if isinstance(found, str) else None


def colored_runs(text: str, line: TokenLine, values: NDArray[np.float64]) -> list[tuple[str, float | None]]:
    """The text in pieces, each with the value of its token, None where no token was scored."""
    runs: list[tuple[str, float | None]] = []
    at = 0
    for (start, end), value in zip(line.spans, values, strict=True):
        if start > at:
            runs.append((text[at:start], None))
        if end > max(start, at):
            runs.append((text[max(start, at) : end], float(value)))
        at = max(at, end)
    if at < len(text):
        runs.append((text[at:], None))
    return runs
