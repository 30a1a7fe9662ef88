"""Reads GGUF files (llama.cpp) without any library: keys, tensors, parts and quantisation.

A file is b"GGUF", a version, the numbers of tensors and of keys; the keys with typed values; the tensors' names, shapes,
types and offsets; then, aligned, their bytes. A file is not trusted: every count and length is checked against the size of
the file before memory is allocated for it.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from kltui.errors import KltuiError
from kltui.missing_path import missing_path
from kltui.sanitize import safe_text

SUFFIX = ".gguf"
VARIANT_PREFIX = "gguf-"
TOKENS = "tokenizer.ggml.tokens"
MAX_HEADER_BYTES = 1 << 29  # the largest vocabularies with their merges have 15 MB
MAX_ENTRIES = 1 << 20  # keys, and tensors
MAX_NAME_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 26  # of one string value
MAX_AXES = 4

# {ggml's number of a tensor type: (name, elements of a block, bytes of a block)}
TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
# {general.file_type: (llama.cpp's name of the mixture of types, tensor type that such a file must contain)}
FILE_TYPES: Final[dict[int, tuple[str, str]]] = {
    0: ("F32", "F32"), 1: ("F16", "F16"), 2: ("Q4_0", "Q4_0"), 3: ("Q4_1", "Q4_1"), 7: ("Q8_0", "Q8_0"),
    8: ("Q5_0", "Q5_0"), 9: ("Q5_1", "Q5_1"), 10: ("Q2_K", "Q2_K"), 11: ("Q3_K_S", "Q3_K"), 12: ("Q3_K_M", "Q3_K"),
    13: ("Q3_K_L", "Q3_K"), 14: ("Q4_K_S", "Q4_K"), 15: ("Q4_K_M", "Q4_K"), 16: ("Q5_K_S", "Q5_K"),
    17: ("Q5_K_M", "Q5_K"), 18: ("Q6_K", "Q6_K"), 19: ("IQ2_XXS", "IQ2_XXS"), 20: ("IQ2_XS", "IQ2_XS"),
    21: ("Q2_K_S", "Q2_K"), 22: ("IQ3_XS", "IQ3_S"), 23: ("IQ3_XXS", "IQ3_XXS"), 24: ("IQ1_S", "IQ1_S"),
    25: ("IQ4_NL", "IQ4_NL"), 26: ("IQ3_S", "IQ3_S"), 27: ("IQ3_M", "IQ3_S"), 28: ("IQ2_S", "IQ2_XS"),
    29: ("IQ2_M", "IQ2_S"), 30: ("IQ4_XS", "IQ4_XS"), 31: ("IQ1_M", "IQ1_M"), 32: ("BF16", "BF16"),
    36: ("TQ1_0", "TQ1_0"), 37: ("TQ2_0", "TQ2_0"), 38: ("MXFP4_MOE", "MXFP4"), 39: ("NVFP4", "NVFP4"),
    40: ("Q1_0", "Q1_0"),
}  # fmt: skip

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# What follows a model's name in the names of its files: -Q4_K_M, .IQ2_XS, -UD-Q4_K_XL, -f16.
_QUANTISED_NAME = re.compile(
    r"[-._](?:(?:UD|imat|i1)[-._])?(?:I?Q\d(?:_(?:\d|K|S|M|L|XL|XS|XXS|NL))*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)$",
    re.IGNORECASE,
)

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]


class GGUFError(KltuiError):
    """Raised for a GGUF file that is invalid or of a kind that is not supported."""


class NoModelError(GGUFError):
    """Raised for a GGUF file that is not a language model, but a projector, an adapter or an importance matrix."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor of a file: shape in numpy's order, name of ggml's type, offset from the file's start and size, in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    start: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a file. Arrays of strings are included only if requested.

    `keys_start` and `keys_end` are the byte range of the keys in the file.
    """

    path: Path
    n_bytes: int
    keys: dict[str, Value] = field(repr=False)
    tensors: tuple[GGUFTensor, ...] = field(repr=False)
    keys_start: int
    keys_end: int
    n_keys: int
    n_tokens: int

    def number(self, key: str) -> int | None:
        """The integer value of `key`, or None."""
        value = self.keys.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def words(self, key: str) -> str:
        """The string value of `key`, or ""."""
        value = self.keys.get(key)
        return value if isinstance(value, str) else ""

    @property
    def architecture(self) -> str:
        return self.words("general.architecture")


@dataclass(frozen=True)
class GGUFModel:
    """A complete model: the header of its file, or the headers of its parts in order."""

    parts: tuple[GGUFHeader, ...]

    @property
    def first(self) -> GGUFHeader:
        """The part that contains the model's keys."""
        return self.parts[0]

    @property
    def tensors(self) -> list[GGUFTensor]:
        return [t for part in self.parts for t in part.tensors]

    @property
    def bits_per_weight(self) -> float:
        """Mean number of bits per element: 8 * bytes of the tensors / number of their elements; NaN without tensors."""
        n = sum(t.n_elements for t in self.tensors)
        return 8 * sum(t.n_bytes for t in self.tensors) / n if n else math.nan

    @property
    def variant(self) -> str:
        """The name of the variant, such as `gguf-q4_k_m`: general.file_type, or else the type of most elements.

        A stated file type is ignored if no tensor has its type, as in a file that was edited or requantised afterwards.
        """
        counts: Counter[str] = Counter()
        for t in self.tensors:
            counts[t.type] += t.n_elements
        stated = self.first.number("general.file_type")
        name, needs = FILE_TYPES.get(-1 if stated is None else stated, ("", ""))
        if needs not in counts:
            name = counts.most_common(1)[0][0]
        return f"{VARIANT_PREFIX}{name.lower()}"


def is_gguf(path: Path) -> bool:
    """Whether `path` has the suffix of a GGUF file and is not a folder."""
    try:
        return path.suffix.lower() == SUFFIX and not path.is_dir()
    except OSError:  # reading the file will report why
        return True


def gguf_has_tokenizer(path: Path) -> bool:
    """Whether a GGUF file contains the tokens of its tokenizer; False if it cannot be read."""
    try:
        return read_model(path).first.n_tokens > 0
    except GGUFError:
        return False


def is_gguf_variant(quantization: str) -> bool:
    """Whether a variant's name is that of a GGUF file."""
    return quantization.startswith(VARIANT_PREFIX)


def split_place(name: str) -> tuple[str, int, int] | None:
    """(name without the ending, part, number of parts) of a file name that ends in -00002-of-00003.gguf; None for others."""
    found = _PART.fullmatch(name)
    return (found["stem"], int(found["no"]), int(found["count"])) if found else None


def model_stem(name: str) -> str:
    """A GGUF file's name without suffix, part and quantisation.

    >>> model_stem("tiny-Q4_K_M.gguf"), model_stem("tiny.IQ2_XS-00001-of-00002.gguf"), model_stem("tiny.gguf")
    ('tiny', 'tiny', 'tiny')
    """
    place = split_place(name)
    stem = place[0] if place else name[: -len(SUFFIX)]
    return _QUANTISED_NAME.sub("", stem) or stem


def first_names(names: Collection[str]) -> list[str]:
    """The names of GGUF files that represent one model each, sorted: single files, and the first parts of split ones.

    A split model whose first part is missing is represented by its first existing part.
    """
    found: dict[tuple[str, int], str] = {}
    for name in sorted(n for n in names if n.lower().endswith(SUFFIX)):
        place = split_place(name)
        found.setdefault((place[0], place[2]) if place else (name, 0), name)
    return sorted(found.values())


def part_names(name: str) -> list[str]:
    """Names of all parts of the model to which the file `name` belongs, in order; for a single file its own name.

    Raises GGUFError for a part number beyond their count.
    """
    place = split_place(name)
    if place is None:
        return [name]
    stem, no, count = place
    if not 1 <= no <= count:
        raise GGUFError(
            f"{safe_text(name)} cannot be part {no} of {count}", "Restore the file's original name."
        )
    return [f"{stem}-{k:05d}-of-{count:05d}{name[-len(SUFFIX) :]}" for k in range(1, count + 1)]


def part_paths(path: Path) -> list[Path]:
    """The files of the model that `path` (any of its parts) belongs to, in order. Raises GGUFError that names a missing one."""
    paths = [path.with_name(name) for name in part_names(path.name)]
    missing = [p.name for p in paths if not p.is_file()]
    if missing and missing != [path.name]:
        raise GGUFError(
            f"{safe_text(path.name)} is split into {len(paths)} files, and {safe_text(missing[0])} is missing"
            + (f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""),
            "Copy or fetch every part into one folder.",
        )
    if missing:
        raise GGUFError(
            f"The file {safe_text(str(path))} does not exist",
            missing_path(path, patterns=False) or "Check the path.",
        )
    return paths


def read_model(path: Path, keep: Collection[str] = ()) -> GGUFModel:
    """The model in a GGUF file and its other parts, headers only; arrays of strings only for the keys in `keep`.

    Raises GGUFError if it cannot be read or is not a complete language model.
    """
    try:
        parts = tuple(read_header(p, keep) for p in part_paths(path))
    except OSError as error:
        where = safe_text(str(error.filename or path))
        raise GGUFError(f"{where} cannot be read: {error.strerror}", "Check its permissions.") from error
    return checked_model(parts)


def checked_model(parts: tuple[GGUFHeader, ...]) -> GGUFModel:
    """The model formed by these files. Raises GGUFError if they are not a language model, or not parts of one model."""
    first = parts[0]
    _check_kind(first)
    _check_split(parts)
    model = GGUFModel(parts)
    names = Counter(t.name for t in model.tensors)
    if not names:
        raise _bad(first.path, "contains no tensor")
    twice, count = names.most_common(1)[0]
    if count > 1:
        raise _bad(first.path, f"has the tensor {safe_text(twice, 80)} twice")
    return model


def _check_kind(header: GGUFHeader) -> None:
    kind = header.words("general.type")
    if kind not in ("", "model"):
        raise NoModelError(
            f"{safe_text(str(header.path))} is a GGUF file of the kind {safe_text(kind, 40)}, not a language model",
            "Exclude it with `files`, which can select only the models.",
        )
    if not header.architecture:
        raise _bad(header.path, "does not say its general.architecture")


def _check_split(parts: tuple[GGUFHeader, ...]) -> None:
    """Raises GGUFError if the parts' keys contradict their names, or tensors are missing."""
    for no, part in enumerate(parts):
        stated, count = part.number("split.no"), part.number("split.count")
        if (count or 1) != len(parts) or (stated or 0) != no:
            raise GGUFError(
                f"{safe_text(part.path.name)} says that it is part {(stated or 0) + 1} of {count or 1}, and its name"
                f" that it is part {no + 1} of {len(parts)}",
                "Restore the file's original name.",
            )
    stated, found = parts[0].number("split.tensors.count"), sum(len(p.tensors) for p in parts)
    if len(parts) > 1 and stated is not None and stated != found:
        raise GGUFError(
            f"{safe_text(parts[0].path.name)} says that the model has {stated} tensors, and its parts have {found}",
            "They may belong to different models: download them again.",
        )


def read_header(path: Path, keep: Collection[str] = ()) -> GGUFHeader:
    """The header of one GGUF file on this machine, checked against its size. Raises GGUFError, or OSError."""
    return _remembered(path, _stamp(path), tuple(sorted(keep)))


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@lru_cache(maxsize=256)
def _remembered(path: Path, stamp: tuple[int, int, int, int], keep: tuple[str, ...]) -> GGUFHeader:
    with path.open("rb") as file:
        return parse_header(file, stamp[0], path, keep)


def parse_header(file: BinaryIO, n_bytes: int, path: Path, keep: Collection[str] = ()) -> GGUFHeader:
    """The header at the start of `file`, which has `n_bytes` bytes; it is read sequentially, without seeking.

    `path` is for messages. Raises GGUFError for an invalid header.
    """
    return _Reader(file, n_bytes, path).header(keep)


class _Reader:
    """Reads one file's header sequentially and counts the bytes."""

    def __init__(self, file: BinaryIO, n_bytes: int, path: Path) -> None:
        self._file, self._n_bytes, self._path, self._at = file, n_bytes, path, 0

    def header(self, keep: Collection[str]) -> GGUFHeader:
        self._check_magic()
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        # A key takes at least 13 bytes (length, type, value), a tensor at least 24 (length, axes, type, offset).
        if n_keys > min(MAX_ENTRIES, self._left // 13) or n_tensors > min(MAX_ENTRIES, self._left // 24):
            self._fail(f"says it has {n_keys} keys and {n_tensors} tensors")
        keys_start, n_tokens = self._at, 0
        keys: dict[str, Value] = {}
        for _ in range(n_keys):
            key = self._text(MAX_NAME_BYTES, "a key")
            if key in keys:
                self._fail(f"has the key {safe_text(key, 80)} twice")
            value, count = self._value(key, key in keep)
            keys[key] = value
            n_tokens = count if key == TOKENS else n_tokens
        keys_end = self._at
        found = [self._tensor() for _ in range(n_tensors)]
        tensors = self._placed(found, self._alignment(keys))
        return GGUFHeader(self._path, self._n_bytes, keys, tensors, keys_start, keys_end, n_keys, n_tokens)

    @property
    def _left(self) -> int:
        return self._n_bytes - self._at

    def _fail(self, what: str) -> NoReturn:
        raise _bad(self._path, what)

    def _check_magic(self) -> None:
        if self._left < 24:
            self._fail(f"has {self._n_bytes} bytes, too few for a header")
        magic = self._bytes(4)
        if magic != b"GGUF":
            old = " (GGML, the format before GGUF)" if magic in (b"lmgg", b"tjgg", b"fmgg") else ""
            self._fail(f"begins with {magic!r} and not with b'GGUF'{old}")
        version = self._number("I")
        if version in (2, 3):
            return
        if version in (0x02000000, 0x03000000):
            raise GGUFError(
                f"{safe_text(str(self._path))} is a big-endian GGUF file",
                "Convert it with gguf's own tool: gguf-convert-endian FILE little.",
            )
        self._fail(f"is of GGUF's version {version}; 2 and 3 are read")

    def _bytes(self, n: int) -> bytes:
        if n > self._left or self._at + n > MAX_HEADER_BYTES:
            self._fail(f"ends within its header: {n} bytes are said to follow byte {self._at}")
        data = self._file.read(n)
        if len(data) != n:
            self._fail(f"ends within its header, after {self._at + len(data)} bytes")
        self._at += n
        return data

    def _skip(self, n: int) -> None:
        for start in range(0, n, 1 << 20):
            self._bytes(min(1 << 20, n - start))

    def _number(self, kind: str) -> int:
        value: int = struct.unpack(f"<{kind}", self._bytes(struct.calcsize(kind)))[0]
        return value

    def _text(self, maximum: int, what: str) -> str:
        n = self._number("Q")
        if n > min(maximum, self._left):
            self._fail(f"says that {what} has {n} bytes")
        try:
            return self._bytes(n).decode()
        except UnicodeDecodeError:
            self._fail(f"has {what} that is not UTF-8")

    def _value(self, key: str, keep: bool) -> tuple[Value, int]:
        """(value of a key, number of its elements); an array of strings is read as [] unless `keep`."""
        what = f"the value of {safe_text(key, 80)}"
        kind = self._number("I")
        if kind in _NUMBERS:
            return self._numbers(kind, 1)[0], 1
        if kind == _STRING:
            return self._text(MAX_TEXT_BYTES, what), 1
        if kind != _ARRAY:
            self._fail(f"gives {what} the unknown type {kind}")
        kind, n = self._number("I"), self._number("Q")
        size = struct.calcsize(_NUMBERS[kind]) if kind in _NUMBERS else 8
        if n * size > self._left:
            self._fail(f"says that {what} has {n} elements")
        if kind in _NUMBERS:
            return self._numbers(kind, n) if n <= MAX_ENTRIES else self._skipped(n * size), n
        if kind != _STRING:
            self._fail(f"gives {what} elements of the type {kind}, which is not read")
        return self._texts(n, what) if keep else self._skipped_texts(n, what), n

    def _numbers(self, kind: int, n: int) -> list[int]:
        form = f"<{n}{_NUMBERS[kind]}"
        return list(struct.unpack(form, self._bytes(struct.calcsize(form))))

    def _skipped(self, n: int) -> list[int]:
        self._skip(n)
        return []

    def _texts(self, n: int, what: str) -> list[str]:
        return [self._text(MAX_TEXT_BYTES, f"a part of {what}") for _ in range(n)]

    def _skipped_texts(self, n: int, what: str) -> list[str]:
        for _ in range(n):
            length = self._number("Q")
            if length > min(MAX_TEXT_BYTES, self._left):
                self._fail(f"says that a part of {what} has {length} bytes")
            self._bytes(length)
        return []

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape in numpy's order, ggml's number of its type, offset among the tensors' bytes)."""
        name = self._text(MAX_NAME_BYTES, "the name of a tensor")
        axes = self._number("I")
        if axes > MAX_AXES:
            self._fail(f"gives {safe_text(name, 80)} {axes} axes")
        shape = tuple(self._number("Q") for _ in range(axes))[::-1]
        return name, shape, self._number("I"), self._number("Q")

    def _alignment(self, keys: dict[str, Value]) -> int:
        found = keys.get("general.alignment", 32)
        if not isinstance(found, int) or not 0 < found <= 1 << 20 or found & (found - 1):
            self._fail(f"gives the alignment {safe_text(str(found), 40)}, which is not a power of two")
        return found

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> tuple[GGUFTensor, ...]:
        """The tensors with their positions. Raises GGUFError if one is outside the file or overlaps another."""
        base = -(-self._at // alignment) * alignment
        tensors = []
        for name, shape, kind, offset in found:
            if kind not in TYPES:
                self._fail(f"gives {safe_text(name, 80)} the unknown type {kind}")
            type_name, block, size = TYPES[kind]
            n = math.prod(shape)
            if not n or (shape or (1,))[-1] % block:
                self._fail(
                    f"gives {safe_text(name, 80)} the shape {list(shape)}, which {type_name} cannot have"
                )
            start, n_bytes = base + offset, n // block * size
            if offset % alignment or start + n_bytes > self._n_bytes:
                self._fail(
                    f"places {safe_text(name, 80)} at bytes {start} to {start + n_bytes} of {self._n_bytes}"
                )
            tensors.append(GGUFTensor(name, shape, type_name, start, n_bytes))
        self._check_apart(tensors)
        return tuple(tensors)

    def _check_apart(self, tensors: list[GGUFTensor]) -> None:
        ordered = sorted(tensors, key=lambda t: t.start)
        for before, after in pairwise(ordered):
            if before.start + before.n_bytes > after.start:
                self._fail(f"places {safe_text(after.name, 80)} over {safe_text(before.name, 80)}")


def _bad(path: Path, what: str) -> GGUFError:
    return GGUFError(
        f"{safe_text(str(path))} {what}",
        "The file is damaged or not a GGUF file: download or create it again.",
    )
