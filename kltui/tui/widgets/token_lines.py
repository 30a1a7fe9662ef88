"""Per-token log-probabilities of one text under one checkpoint, with the pieces of text they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.checkpoint import Checkpoint, LocalSource, ServedSource
from kltui.registry.tensors import read_header
from kltui.registry.tokenizer import tokenizer_folder
from kltui.registry.tokenizer_json import read_tokenizer_json
from kltui.store.pair_values import CONDITIONAL, PMI, UNCONDITIONAL

if TYPE_CHECKING:
    from kltui.workspace import Workspace


GIVEN, ALONE = "log p(y|x)", "log p(y)"  # for a response y to a prompt x


@dataclass(frozen=True)
class TokenLine:
    """The n scored tokens of a text: (start, end) of each in characters, and its log p in nats.

    `spans` is () if the tokens could not be aligned with the text.
    """

    spans: tuple[tuple[int, int], ...]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """A line of tokens, what their values are ("" for plain log p), and their sum over the text in nats.

    `signed`: the values are differences.
    """

    of: str
    line: TokenLine
    total: float
    signed: bool = False


@dataclass(frozen=True)
class TextTokens:
    """A map's value for one text, token by token; the last of `parts` is the value itself, others are its terms.

    `lacking` names the terms whose tokens are not stored.
    """

    parts: tuple[Part, ...]
    lacking: str = ""

    @property
    def line(self) -> TokenLine:
        """The tokens of the value itself."""
        return self.parts[-1].line


def read_text_tokens(ws: Workspace, name: str, index: int, text: str) -> TextTokens | None:
    """The tokens of the value that maps have for a text and a checkpoint; None if none are stored."""
    kinds = {CONDITIONAL: ("",), UNCONDITIONAL: (ALONE,), PMI: (GIVEN, ALONE)}[ws.values]
    found = {of: read_tokens(ws, name, index, text, alone=of == ALONE) for of in kinds}
    parts = tuple(
        Part(of, line, float(line.logprobs.sum())) for of, line in found.items() if line is not None
    )
    if not parts:
        return None
    lacking = ", ".join(of for of, line in found.items() if line is None)
    return TextTokens((*parts, _difference(*parts)) if len(parts) > 1 else parts, lacking)


def _difference(given: Part, alone: Part) -> Part:
    """log p(y|x) - log p(y) at each token that has both: the first one of a response may have no log p(y)."""
    n = min(len(given.line.logprobs), len(alone.line.logprobs))
    one, other = (part.line.logprobs[len(part.line.logprobs) - n :] for part in (given, alone))
    spans = given.line.spans[len(given.line.spans) - n :] if given.line.spans else ()
    return Part(PMI, TokenLine(spans, one - other), given.total - alone.total, signed=True)


def read_tokens(ws: Workspace, name: str, index: int, text: str, *, alone: bool = False) -> TokenLine | None:
    """Tokens of text number `index` for checkpoint `name` (`alone`: a response without its prompt); None if not stored."""
    path = ws.token_logprobs(name, alone=alone)
    if path is None:
        return None
    logprobs = _kept(path, index)
    row = next(r for r in ws.checkpoints() if r.name == name)
    return TokenLine(_spans(row.checkpoint, text, len(logprobs)), logprobs)


def _kept(path: Path, index: int) -> NDArray[np.float32]:
    """Log p of one text's tokens in nats, from a side file. Raises KltuiError if the file does not have them.

    The file is not mapped into memory, since the interface would be killed if the file were truncated meanwhile.
    """
    try:
        header, begin = read_header(path)
        with path.open("rb") as file:
            lengths = _read(file, begin, header["lengths"], 0, header["lengths"]["shape"][0], "<i8")
            start = int(lengths[:index].sum())
            return _read(file, begin, header["logprobs"], start, int(lengths[index]), "<f4").astype(
                np.float32
            )
    except (OSError, LookupError, ValueError) as error:
        raise KltuiError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            "Score the checkpoint with tokens = true again; kltui --check lists what else is damaged.",
        ) from error


def _read(
    file: BinaryIO, begin: int, entry: Mapping[str, Any], first: int, count: int, kind: str
) -> NDArray[Any]:
    """`count` values of a tensor, from index `first` on."""
    width = np.dtype(kind).itemsize
    at, end = entry["data_offsets"]
    if min(first, count) < 0 or (first + count) * width > end - at:
        raise ValueError(f"it has {(end - at) // width} values, but {first + count} are needed")
    file.seek(begin + at + first * width)
    data = file.read(count * width)
    if len(data) < count * width:
        raise ValueError("it was truncated")
    return np.frombuffer(data, kind)


def _spans(checkpoint: Checkpoint, text: str, n_tokens: int) -> tuple[tuple[int, int], ...]:
    """Character spans of the last `n_tokens` tokens; without a BOS token the first token is not scored. () if unknown."""
    folder = _tokenizer_in(checkpoint)
    if folder is None or any("\ud800" <= c <= "\udfff" for c in text):
        return ()
    try:
        core = read_tokenizer_json(folder).core
        offsets = core.encode(text, add_special_tokens=False).offsets
    except Exception:  # tokenizers raises nothing narrower; the text is shown without its tokens
        return ()
    if not 0 <= len(offsets) - n_tokens <= 1:
        return ()
    return tuple((int(a), int(b)) for a, b in offsets[len(offsets) - n_tokens :])


def _tokenizer_in(checkpoint: Checkpoint) -> Path | None:
    """The folder that the checkpoint's tokenizer was read from; None if it is not available."""
    source = checkpoint.source
    if isinstance(source, LocalSource):
        return tokenizer_folder(source.path, checkpoint.tokenizer)
    if isinstance(source, ServedSource):
        return tokenizer_folder(Path(), checkpoint.tokenizer)
    from kltui.registry.hub import cached_commit, snapshot_folder

    commit = cached_commit(source)
    if not commit:
        return None
    return tokenizer_folder(snapshot_folder(replace(source, commit=commit)), checkpoint.tokenizer)


def colored_runs(text: str, line: TokenLine, values: NDArray[np.float64]) -> list[tuple[str, float | None]]:
    """The text as (piece, value of its token), with None for pieces without a scored token."""
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
