"""One checkpoint's result as a file of the inbox: a safetensors file with its identity and checksum in the metadata.

Files in an inbox are not trusted: all metadata is checked before the numbers are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kltui.corpus.corpus import Corpus
from kltui.corpus.files import memory_bytes, open_regular
from kltui.errors import KltuiError
from kltui.jobs.prepare import Ready
from kltui.registry.checkpoint import Checkpoint
from kltui.sanitize import safe_text
from kltui.scoring.settings import ScoreResult, Vector

FORMAT = 1
HEADER_MAX_BYTES = 16 << 20
_DTYPES = {
    "loglik_LN": "float64", "n_scored_LN": "int32", "tokens": "float32", "lengths": "int64",
    "alone_loglik_LN": "float64", "alone_n_scored_LN": "int32", "alone_tokens": "float32", "alone_lengths": "int64",
}  # fmt: skip
_FINAL, _TOKENS, _ALONE, _ALONE_TOKENS = (
    ("loglik_LN", "n_scored_LN"),
    ("tokens", "lengths"),
    ("alone_loglik_LN", "alone_n_scored_LN"),
    ("alone_tokens", "alone_lengths"),
)


def _storable(text: str) -> str:
    text.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate, which cannot be stored
    return text


Word = Annotated[str, AfterValidator(_storable)]
Layer = Annotated[int, Field(ge=0, lt=1_000_000)]


class About(BaseModel):
    """The metadata of an inbox file."""

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1]
    request: Word
    name: Word
    weights: Annotated[Word, Field(min_length=1)]
    commit: Word
    folder: Word
    signature: Word
    layers: Annotated[list[Layer | None], Field(min_length=1)]
    key: dict[Word, Word]
    stats: dict[Word, Annotated[float, Field(allow_inf_nan=False, gt=-(2.0**63), lt=2.0**63)]]
    no_layers: Word = ""
    unconditional: bool = False


@dataclass(frozen=True)
class ShardResult:
    """The checked contents of one inbox file."""

    about: About
    result: ScoreResult

    def ready(self, index: int, checkpoint: Checkpoint) -> Ready:
        """The checkpoint as it was when it was scored, at `index` of a plan.

        Its fingerprint may be remembered only for the folder that the plan itself names.
        """
        a = self.about
        signature = a.signature if a.folder == str(checkpoint.source) else ""
        return Ready(index, Path(a.folder), a.weights, a.commit, signature, bool(signature))


def pack(request: str, name: str, ready: Ready, result: ScoreResult) -> bytes:
    """One checkpoint's result as the bytes of a safetensors file, its identity and checksum in the metadata."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    for names, vectors in ((_FINAL, result.vectors), (_ALONE, result.unconditional)):
        if vectors:
            values_LN, counts_LN = [v.loglik_N for v in vectors], [v.n_scored_N for v in vectors]
            arrays |= {
                names[0]: np.stack(values_LN),
                names[1]: np.stack(counts_LN).astype(np.int32, copy=False),
            }
    for names, tokens in ((_TOKENS, result.token_logprobs), (_ALONE_TOKENS, result.unconditional_tokens)):
        if tokens is not None:
            arrays |= dict(zip(names, flat_tokens(tokens), strict=True))
    about = {
        "format": FORMAT,
        "request": request,
        "name": name,
        "weights": ready.weights,
        "commit": ready.commit,
        "folder": str(ready.folder),
        "signature": ready.signature if ready.settled else "",
        "layers": [v.layer for v in result.vectors],
        "key": result.key,
        "stats": result.stats,
        "no_layers": result.no_layers,
        "unconditional": bool(result.unconditional),
    }
    about_text = json.dumps(about)
    return save(arrays, {"about": about_text, "sha256": _checksum(arrays, about_text)})


def flat_tokens(
    tokens: Sequence[NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Concatenated log-probabilities of all tokens, number of tokens per text)."""
    return np.concatenate([*tokens, np.empty(0, np.float32)]), np.array([len(t) for t in tokens], np.int64)


def unpack(path: Path, corpus: Corpus, request: str) -> ShardResult | None:
    """The result on `corpus` in an inbox file; None if it belongs to another `request`.

    Raises KltuiError if it is damaged, from another release, or not such a file.
    """
    with _named(path), open_regular(path) as file:
        metadata, header = _header(file)
        about = _about(metadata)
        if about.request != request:
            return None
        arrays = _arrays(file, metadata, header + _max_bytes(about, corpus))
        return ShardResult(about, _result(about, arrays, len(corpus)))


def check(path: Path) -> None:
    """Raises KltuiError if an inbox file is damaged, from another release, or not such a file."""
    with _named(path), open_regular(path) as file:
        metadata, _ = _header(file)
        arrays = _arrays(file, metadata, memory_bytes() // 2)
        _result(_about(metadata), arrays, arrays["loglik_LN"].shape[-1] if "loglik_LN" in arrays else 0)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns any exception while a damaged file is read into a KltuiError with the file's name."""
    try:
        yield
    except KltuiError:
        raise
    except Exception as error:  # parsers may raise anything for a damaged file
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KltuiError(
            f"{safe_text(path.name)} is damaged: {safe_text(reason or type(error).__name__, 200)}"
        ) from error


def _arrays(file: BinaryIO, metadata: Mapping[str, str], maximum: int) -> dict[str, NDArray[Any]]:
    """The arrays of a file of at most `maximum` bytes, checked by their checksum. Raises ValueError."""
    from safetensors.numpy import load

    size = os.fstat(file.fileno()).st_size
    if size > maximum:
        raise ValueError(f"it has {size:,} bytes, but its stated contents have at most {maximum:,}")
    file.seek(0)
    arrays: dict[str, NDArray[Any]] = load(file.read(size))
    if metadata.get("sha256") != _checksum(arrays, metadata["about"]):
        raise ValueError("its checksum does not match")
    return arrays


def abouts(inbox: Path) -> Iterator[About]:
    """The metadata of the valid files in the inbox, without reading their arrays."""
    for path in sorted(inbox.glob("*.safetensors")):
        with suppress(KltuiError, OSError, ValueError, RecursionError), open_regular(path) as file:
            yield _about(_header(file)[0])


def _header(file: BinaryIO) -> tuple[dict[str, str], int]:
    """(metadata of a safetensors file, offset of its arrays in bytes)."""
    n = int.from_bytes(file.read(8), "little")
    if not 0 < n <= HEADER_MAX_BYTES:
        raise ValueError(f"it states a header of {n:,} bytes")
    header = json.loads(file.read(n))
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("it has no metadata")
    return metadata, 8 + n


def _about(metadata: Mapping[str, str]) -> About:
    about = json.loads(metadata.get("about", ""))
    if isinstance(about, dict) and (type(about.get("format")), about.get("format")) != (int, FORMAT):
        raise KltuiError(
            f"it is of format {safe_text(str(about.get('format')), 40)}, this kltui reads {FORMAT}"
        )
    try:
        return About.model_validate(about)
    except ValidationError as error:
        wrong = sorted({str(item["loc"][0]) if item["loc"] else "about" for item in error.errors()})
        raise ValueError(f"its metadata is wrong: {', '.join(wrong)}") from None


def _max_bytes(about: About, corpus: Corpus) -> int:
    """Maximum bytes of the arrays of a result over this corpus: a text has at most as many tokens as bytes, plus special tokens."""
    n = len(corpus)
    return (
        12 * len(about.layers) * n * (1 + about.unconditional)
        + 8 * n * (1 + about.unconditional)
        + 4 * (int(corpus.text_bytes.sum()) + 64 * n) * (1 + about.unconditional)
    )


def _result(about: About, arrays: Mapping[str, NDArray[Any]], n: int) -> ScoreResult:
    layers = about.layers
    if layers.count(None) != 1 or len(set(layers)) != len(layers):
        raise ValueError("its layers are not one vector each, including a final one")
    kept, kept_alone = _TOKENS[0] in arrays, about.unconditional and _ALONE_TOKENS[0] in arrays
    asked = ((_FINAL, True), (_TOKENS, kept), (_ALONE, about.unconditional), (_ALONE_TOKENS, kept_alone))
    wanted = {name for names, there in asked if there for name in names}
    if arrays.keys() != wanted or any(str(array.dtype) != _DTYPES[name] for name, array in arrays.items()):
        raise ValueError(
            f"it contains {safe_text(', '.join(f'{k} {v.dtype}' for k, v in arrays.items()), 120)}"
        )
    vectors = _vectors(layers, arrays["loglik_LN"], arrays["n_scored_LN"], n)
    if n and not any(np.isfinite(v.loglik_N).any() for v in vectors if v.layer is None):
        raise ValueError("none of its texts has a log-likelihood")
    alone = _vectors(layers, arrays[_ALONE[0]], arrays[_ALONE[1]], n) if about.unconditional else ()
    tokens, tokens_alone = (
        _tokens(arrays[names[0]], arrays[names[1]], n) if there else None
        for names, there in ((_TOKENS, kept), (_ALONE_TOKENS, kept_alone))
    )
    return ScoreResult(vectors, about.key, about.stats, (), tokens, about.no_layers, alone, tokens_alone)


def _vectors(
    layers: Sequence[int | None], loglik_LN: NDArray[np.float64], n_scored_LN: NDArray[np.int32], n: int
) -> tuple[Vector, ...]:
    if loglik_LN.shape != (len(layers), n) or n_scored_LN.shape != loglik_LN.shape:
        raise ValueError(
            f"its values have the shape {loglik_LN.shape} for {len(layers)} layers and {n} texts"
        )
    if np.isinf(loglik_LN).any() or (n_scored_LN < 0).any():
        raise ValueError("it contains infinite values or negative counts")
    rows = zip(layers, loglik_LN, n_scored_LN, strict=True)
    return tuple(Vector(layer, loglik_N, n_N) for layer, loglik_N, n_N in rows)


def _tokens(
    tokens: NDArray[np.float32], lengths: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float32], ...]:
    if (
        tokens.ndim != 1
        or lengths.shape != (n,)
        or (lengths < 0).any()
        or sum(lengths.tolist()) != len(tokens)
    ):
        raise ValueError("the lengths of its tokens are inconsistent")
    return tuple(np.split(tokens, np.cumsum(lengths)[:-1]))


def _checksum(arrays: Mapping[str, NDArray[Any]], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def oldest_first(inbox: Path) -> Sequence[Path]:
    """The inbox's files by time, so that a checkpoint's latest weights come last."""
    found = []
    for path in inbox.glob("*.safetensors"):
        with suppress(OSError):  # gone meanwhile
            found.append((path.lstat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(found)]
