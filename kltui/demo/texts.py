"""Texts that every machine has: code, docstrings, comments and manual of its Python standard library.

A hash of the name assigns each file (and each topic of the manual) either to training or to the held-out corpus.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.corpus.chunk import chunk_document
from kltui.errors import KltuiError
from kltui.sanitize import safe_text

CORPUS_TEXTS = 512
MAX_BYTES = 384  # fewer than the papers' 1024: the demo scores 77 checkpoints in about a minute
MIN_BYTES = 256
QUOTAS = {"code": 224, "docstring": 128, "comment": 32, "manual": 128}

HELD_OUT_ONE_IN = 6
FILE_BYTES = 1 << 16  # only the beginning of a longer file is used for training, so that none dominates
TRAINING_BYTES = 4 << 20
MANUAL = "pydoc_data/topics.py"

# Tests are missing on many machines, encodings are tables, and the others are not part of the library.
LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text for training or for the corpus, with its file (or topic of the manual) and domain."""

    file: str
    domain: str
    text: str


@dataclass(frozen=True, slots=True)
class CorpusText:
    """One text of the corpus: chunk number `chunk` of its file's `domain`; `package` is the top-level name."""

    text: str
    domain: str
    file: str
    chunk: int

    @property
    def package(self) -> str:
        """`asyncio` for `asyncio/base_events.py`, `argparse` for `argparse.py`, the topic for a manual page."""
        if self.domain == "manual":
            return self.file.partition("#")[2]
        return self.file.split("/")[0].removesuffix(".py")


def stdlib_folder() -> Path:
    """The folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def held_out(name: str) -> bool:
    """Whether a file or topic belongs to the corpus; one name in `HELD_OUT_ONE_IN` does, chosen by its hash."""
    return int.from_bytes(_rank(name)[:8], "little") % HELD_OUT_ONE_IN == 0


def training_texts(root: Path | None = None, n_bytes: int | None = None) -> list[Document]:
    """Source files for pretraining, about `n_bytes` (default `TRAINING_BYTES`) in the order of their names' hashes.

    Raises KltuiError if the library has less than a quarter of that.
    """
    root, n_bytes = root or stdlib_folder(), n_bytes or TRAINING_BYTES
    names = sorted((n for n in source_files(root) if not held_out(n)), key=_rank)
    documents: list[Document] = []
    total = 0
    for name in names:
        if total >= n_bytes:
            break
        if text := _head(read_source(root / name), FILE_BYTES):
            documents.append(Document(name, "code", text))
            total += len(text.encode())
    if total < n_bytes // 4:
        raise _too_little(root, len(documents), total, n_bytes // 4)
    return documents


def finetuning_texts(root: Path | None = None) -> list[Document]:
    """Texts from another domain than pretraining: topics of the manual, or docstrings if there is no manual.

    Topics quote each other; paragraphs that a held-out topic also contains are left out.
    """
    root = root or stdlib_folder()
    topics = manual_topics(root)
    if not topics:
        return [
            replace(d, domain="docstring", text=docs)
            for d in training_texts(root)
            if (docs := split_source(d.text)["docstring"])
        ]
    hidden = {p for t, text in topics.items() if held_out(_topic_name(t)) for p in _paragraphs(text)}
    kept = {
        topic: "\n\n".join(p for p in _paragraphs(text) if p not in hidden)
        for topic, text in topics.items()
        if not held_out(_topic_name(topic))
    }
    return [Document(_topic_name(t), "manual", kept[t]) for t in sorted(kept, key=_rank) if kept[t]]


def corpus_items(root: Path | None = None, n_texts: int = CORPUS_TEXTS) -> list[CorpusText]:
    """The held-out corpus: `n_texts` chunks of 257 to 384 bytes (SPEC section 2), sorted by domain, file and position.

    Each domain has its share of `QUOTAS`, chosen by hash; if a domain has too few chunks, others fill the gap. Raises
    KltuiError if there are too few in total.
    """
    root = root or stdlib_folder()
    pools: dict[str, list[CorpusText]] = {domain: [] for domain in QUOTAS}
    for document in _held_out_documents(root):
        for chunk, text in enumerate(chunk_document(document.text, MAX_BYTES, MIN_BYTES)):
            pools[document.domain].append(CorpusText(text, document.domain, document.file, chunk))
    drawn = _drawn(pools, n_texts)
    if len(drawn) < n_texts:
        raise KltuiError(
            f"The standard library at {safe_text(str(root))} gives {len(drawn)} held-out texts; "
            f"the demo needs {n_texts}",
            "Use a Python installation that includes its .py files.",
        )
    order = {domain: place for place, domain in enumerate(QUOTAS)}
    return sorted(drawn, key=lambda t: (order[t.domain], t.file, t.chunk))


def source_files(root: Path) -> list[str]:
    """Sorted paths, relative to `root`, of the library's .py files, without tests, encodings and installed packages."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return sorted(name for name in names if LEFT_OUT.isdisjoint(name.split("/")[:-1]))


def read_source(path: Path) -> str:
    """The text of a file in the encoding that it declares; "" if it cannot be read."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def split_source(source: str) -> dict[str, str]:
    """{`code`, `docstring`, `comment`: text} of a module; each line is in one of them, whole-line comments without the #."""
    nodes = _docstring_nodes(source)
    documented = {line for n in nodes for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    code: list[str] = []
    comments: list[str] = []
    for number, line in enumerate(io.StringIO(source), 1):
        if number in documented:
            continue
        (comments if line.lstrip().startswith("#") else code).append(line)
    prose = (line.strip().lstrip("#!").removeprefix(" ") for line in comments)
    return {
        "code": "".join(code),
        "docstring": "\n\n".join(inspect.cleandoc(str(n.value)) for n in nodes),
        "comment": "\n".join(prose),
    }


def manual_topics(root: Path) -> dict[str, str]:
    """{topic: page} of the language manual (`pydoc_data/topics.py`); {} if the machine has none."""
    tree = _parsed(read_source(root / MANUAL))
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return {str(topic): str(text) for topic, text in topics.items()}
    return {}


def _held_out_documents(root: Path) -> Iterator[Document]:
    for name in source_files(root):
        if held_out(name):
            for domain, text in split_source(read_source(root / name)).items():
                yield Document(name, domain, text)
    for topic, text in manual_topics(root).items():
        if held_out(_topic_name(topic)):
            yield Document(_topic_name(topic), "manual", text)


def _drawn(pools: dict[str, list[CorpusText]], n_texts: int) -> list[CorpusText]:
    """`n_texts` chunks without duplicates: first the share of each domain, then the next ones by domain."""
    seen: set[str] = set()
    drawn: list[CorpusText] = []
    rest: list[CorpusText] = []
    for domain, pool in pools.items():
        share = n_texts * QUOTAS[domain] // sum(QUOTAS.values())
        ranked = {item.text: item for item in sorted(pool, key=lambda t: _rank(t.text))}
        fresh = [item for text, item in ranked.items() if text not in seen]
        seen.update(ranked)
        drawn += fresh[:share]
        rest += fresh[share:]
    return (drawn + rest)[:n_texts]


def _docstring_nodes(source: str) -> list[ast.Constant]:
    tree = _parsed(source)
    return sorted(_docstrings_of(ast.walk(tree)), key=lambda n: n.lineno) if tree else []


def _docstrings_of(nodes: Iterable[ast.AST]) -> Iterator[ast.Constant]:
    for node in nodes:
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        value = first.value if isinstance(first, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


def _parsed(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # on invalid escapes in library files
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _paragraphs(text: str) -> list[str]:
    return [p.strip("\n") for p in text.split("\n\n") if p.strip()]


def _topic_name(topic: str) -> str:
    return f"{MANUAL}#{topic}"


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()


def _head(text: str, n_bytes: int) -> str:
    return text.encode(errors="replace")[:n_bytes].decode(errors="ignore")


def _too_little(root: Path, n_files: int, n_bytes: int, needed: int) -> KltuiError:
    return KltuiError(
        f"The standard library at {safe_text(str(root))} has {n_files} source files for training, "
        f"{n_bytes / 1e6:.1f} MB; the demo needs {needed / 1e6:.1f} MB",
        "It may contain only compiled files or be zipped: use a Python installation that includes its .py files.",
    )
