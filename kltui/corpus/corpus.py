"""A corpus: the fixed, ordered texts whose log-likelihoods are a model's coordinates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Turn = tuple[str, str]  # role, content
Prompt = tuple[Turn, ...]
_PAIRS = b"kltui pairs 1\n"  # hashed first for a corpus of pairs


def text_ids(texts: Sequence[object]) -> NDArray[np.intp] | None:
    """For every text the index of the first equal text, shape (N,); None if all texts differ.

    >>> text_ids(["a", "b", "a"]).tolist()
    [0, 1, 0]
    """
    import numpy as np

    first: dict[object, int] = {}
    ids = [first.setdefault(text, place) for place, text in enumerate(texts)]
    return np.array(ids, dtype=np.intp) if len(first) < len(ids) else None


@dataclass(frozen=True)
class Corpus:
    """N texts in order, their domains (length N, or empty), and a record of how they were read and sampled.

    For pairs, `texts` are the responses and `prompts` (length N, otherwise empty) their prompts.
    """

    texts: tuple[str, ...]
    domains: tuple[str, ...] = ()
    record: dict[str, object] = field(default_factory=dict)
    prompts: tuple[Prompt, ...] = ()

    @cached_property
    def text_bytes(self) -> NDArray[np.int64]:
        """UTF-8 length of every text, in bytes, shape (N,)."""
        import numpy as np

        return np.array([len(t.encode()) for t in self.texts], dtype=np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 over the texts' UTF-8 bytes in order, each preceded by its length (8 bytes, little endian).

        The length distinguishes ("ab", "c") from ("a", "bc"). For pairs, each prompt precedes its response, and a marker
        precedes all of them, so that a corpus of texts never has the hash of one of pairs.
        """
        digest = hashlib.sha256(_PAIRS if self.prompts else b"")
        for data in self._hashed:
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()

    @property
    def _hashed(self) -> Iterator[bytes]:
        """What the hash covers: the texts as UTF-8, for pairs each prompt as JSON and then its response."""
        if not self.prompts:
            yield from (text.encode() for text in self.texts)
        for prompt, response in zip(self.prompts, self.texts if self.prompts else (), strict=True):
            yield json.dumps(prompt).encode()
            yield response.encode()

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """SHA-256 of every text's UTF-8 bytes, 32 bytes each, to identify equal texts in two corpora.

        For pairs it covers prompt and response, so that a text never equals a pair.
        """
        if not self.prompts:
            return tuple(hashlib.sha256(text.encode()).digest() for text in self.texts)
        parts = list(self._hashed)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return tuple(hashlib.sha256(_PAIRS + prompt + response).digest() for prompt, response in pairs)

    def __len__(self) -> int:
        return len(self.texts)
