"""Two ways to convert text to token ids: a tokenizer.json with the tokenizers library or, without one, a transformers class."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from kltui.errors import KltuiError
from kltui.registry.layout import TOKENIZER_JSON
from kltui.registry.passed_on import staged_tokenizer
from kltui.registry.tokenizer_json import TokenizerJson, named_special
from kltui.sanitize import safe_text
from kltui.scoring.load_errors import tokenizer_error

_AT_ONCE = 1024  # texts per call, because encodings take much more memory than their ids
Frame = tuple[tuple[int, ...], tuple[int, ...]]


class Backend(Protocol):
    """Converts text to ids. `ids` adds no special tokens, and treats special-token strings as text unless `special`."""

    @property
    def source(self) -> str:
        """A short name of the backend for a vector's key."""

    @property
    def bos(self) -> int | None: ...
    @property
    def unknown(self) -> int | None: ...
    @property
    def n_entries(self) -> int: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def specials(self) -> list[str]:
        """The strings of its special tokens."""

    def ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]: ...
    def frame(self) -> Frame:
        """(ids before a text, ids after it) that it adds by default."""

    def decode(self, ids: Sequence[int]) -> str: ...
    def piece(self, token: int) -> str:
        """The vocabulary's entry for an id, such as `Ġthe`; "" if it has none."""

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over everything that determines the ids."""


class FileBackend:
    """The folder's tokenizer.json, which alone determines the ids: no class name or other setting changes them."""

    def __init__(self, file: TokenizerJson, folder: Path, source: str = TOKENIZER_JSON) -> None:
        self.source = source
        self.core, self.unknown, self.notes = file.core, file.unknown, file.notes
        name = named_special(folder, "bos_token")
        self.bos = self.core.token_to_id(name) if name is not None else None

    @property
    def n_entries(self) -> int:
        """Number of vocabulary entries, without added tokens."""
        return self.core.get_vocab_size(with_added_tokens=False)

    @property
    def specials(self) -> list[str]:
        """The strings of its special tokens."""
        return [t.content for t in self.core.get_added_tokens_decoder().values() if t.special]

    def ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Ids of every text, no special token added; `special`: their strings in a text are the tokens."""
        rows: list[list[int]] = []
        self.core.encode_special_tokens = not special
        try:
            for at in range(0, len(texts), _AT_ONCE):
                batch = list(texts[at : at + _AT_ONCE])
                rows += [e.ids for e in self.core.encode_batch_fast(batch, add_special_tokens=False)]
        finally:
            self.core.encode_special_tokens = True
        return rows

    def frame(self) -> Frame:
        """(ids before a text, ids after it) that the file's post-processor adds."""
        for probe in ("a", "0", " ", *(self.core.id_to_token(i) or "" for i in range(8))):
            bare = self.core.encode(probe, add_special_tokens=False).ids
            if bare:
                return split_frame(bare, self.core.encode(probe, add_special_tokens=True).ids)
        return (), ()

    def decode(self, ids: Sequence[int]) -> str:
        """The text that the ids stand for."""
        return self.core.decode(list(ids), skip_special_tokens=False)

    def piece(self, token: int) -> str:
        """The vocabulary's own spelling of an id."""
        return str(self.core.id_to_token(token) or "")

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 over the pipeline and the vocabulary."""
        return core_digest(self.core)


class ClassBackend:
    """A tokenizer of transformers, built from its class."""

    notes: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.source = f"transformers {type(tokenizer).__name__}"

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-text token; None if it has none."""
        found: int | None = self.tokenizer.bos_token_id
        return found

    @property
    def unknown(self) -> int | None:
        """Id of the token for unknown text; None if it has none."""
        found: int | None = self.tokenizer.unk_token_id
        return found

    @property
    def n_entries(self) -> int:
        """Number of vocabulary entries, without added tokens."""
        return int(self.tokenizer.vocab_size)

    @property
    def specials(self) -> list[str]:
        """The strings of its special tokens."""
        return list(self.tokenizer.all_special_tokens)

    def ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Ids of every text, no special token added; `special`: their strings in a text are the tokens."""
        if not texts:
            return []
        options: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False}
        try:
            rows: list[list[int]] = self.tokenizer(list(texts), split_special_tokens=not special, **options)[
                "input_ids"
            ]
        except TypeError as error:
            raise KltuiError(
                f"this tokenizer cannot read special-token strings as text: {first_line(error)}",
                "convert it to a tokenizer.json, which supports this",
            ) from error
        return rows

    def frame(self) -> Frame:
        """(ids before a text, ids after it) that the class adds."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return split_frame(bare, self.tokenizer("a", add_special_tokens=True)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text that the ids stand for."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """The vocabulary's own spelling of an id."""
        return str(self.tokenizer.convert_ids_to_tokens(token) or "")

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 over the pipeline and the vocabulary, or a Python class's name, files and switches."""
        core = getattr(self.tokenizer, "backend_tokenizer", None)
        if core is not None:
            return core_digest(core)
        name, vocabulary = type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items())
        described = repr((name, vocabulary, _python_parts(self.tokenizer)))
        return hashlib.sha256(described.encode()).hexdigest()


def load_class(folder: Path, config: Any) -> ClassBackend:
    """transformers' tokenizer for the folder's files; the model's `config` helps to choose the class. Raises KltuiError."""
    from transformers import AutoTokenizer

    options = {} if config is None else {"config": config}
    with staged_tokenizer(folder) as where:
        try:
            made = AutoTokenizer.from_pretrained(
                where, local_files_only=True, trust_remote_code=False, **options
            )
            backend = ClassBackend(made)
            assert backend.sha256  # now, because Python classes read their files for it
        except Exception as error:  # transformers and the tokenizers library raise various types
            said = first_line(error).replace(str(where), str(folder))
            raise (
                _no_merges(folder)
                or tokenizer_error(folder)
                or KltuiError(
                    f"the tokenizer in {safe_text(str(folder))} cannot be loaded: {said}",
                    "the folder needs tokenizer.json (or the vocabulary files of its tokenizer) next to the weights",
                )
            ) from error
    return backend


def check_files(backend: ClassBackend, folder: Path) -> None:
    """Raises KltuiError if the class needs a merges file that the folder lacks; transformers may invent merges then."""
    named = getattr(backend.tokenizer, "vocab_files_names", {})
    if isinstance(named, dict) and "merges_file" in named and (error := _no_merges(folder)):
        raise error


def _no_merges(folder: Path) -> KltuiError | None:
    """The error for a folder with vocab.json but without merges.txt; None for others."""
    if not (folder / "vocab.json").is_file() or (folder / "merges.txt").is_file():
        return None
    return KltuiError(
        f"the tokenizer in {safe_text(str(folder))} has vocab.json but no merges.txt, so its ids would be wrong",
        f"copy merges.txt there, or {TOKENIZER_JSON}",
    )


def split_frame(bare: list[int], framed: list[int]) -> Frame:
    """(ids before `bare`, ids after it) in `framed`. Raises KltuiError if `framed` does not contain `bare`."""
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    raise KltuiError(
        "the tokenizer changes a text's ids when it adds special tokens",
        'use bos = "never", which adds none',
    )


def core_digest(core: Any) -> str:
    """Hex SHA-256 over a tokenizer of the tokenizers library."""
    pipeline = json.loads(core.to_str())
    # padding and truncation are left from earlier uses of the tokenizer; kltui does not use them
    described = json.dumps({**pipeline, "padding": None, "truncation": None}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _python_parts(tokenizer: Any) -> tuple[list[str], list[tuple[str, float]]]:
    """(digests of its files, such as merges; its switches): what determines a Python tokenizer's ids besides its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        paths = tokenizer.save_vocabulary(folder) or ()
        files = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
    switches = [(k, v) for k, v in sorted(tokenizer.init_kwargs.items()) if isinstance(v, bool | int | float)]
    return files, switches


def first_line(error: BaseException) -> str:
    """`Type: first line of its message`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {safe_text(lines[0] if lines else '', 300)}"
