"""What an import yields: vectors with their lineage and what they are over, corpora, weight distances, benchmark scores."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError, UsageError
from kltui.importers.side_files import ReleaseSideFiles
from kltui.sanitize import safe_text

log = logging.getLogger(__name__)

_PYTHIA = re.compile(r"pythia-(?P<size>\d+(?:\.\d+)?[mb])(?:-seed(?P<seed>\d{1,9}))?$", re.IGNORECASE)
_PLAIN_SIZE = re.compile(r"^\d+(?:\.\d+)?[mb](?=$|[-_])", re.IGNORECASE)


class ImportFormatError(KltuiError):
    """A file that is in none of the formats that can be imported, or is damaged."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What a vector is over, as far as its file says: the texts, or each one's SHA-256, or no more than their lengths."""

    corpus: Corpus | None = None
    digests: tuple[bytes, ...] = ()
    text_bytes: tuple[int, ...] = ()

    @property
    def known(self) -> tuple[bytes, ...]:
        """SHA-256 of every text in order, () where the file does not say which they are."""
        return self.corpus.digests if self.corpus else self.digests

    @cached_property
    def in_any_order(self) -> bytes:
        """What two of these share where their texts are the same, in whatever order; empty where they are not known."""
        return hashlib.sha256(b"".join(sorted(self.known))).digest() if self.known else b""


@dataclass(frozen=True, eq=False)
class ImportedVector:
    """One vector: `loglik` (N float64, nats, NaN where unscored) and, where known, scored tokens (N int32).

    `source` tells who scored it: vectors of different sources share no map, for their first tokens may differ, unless
    it is known how they were scored. That is in `key`, as far as it is known by the release or on record in the file
    (`on_record`, with its `settings`). `texts` is what it is over where its own file says so, and `origin` the file or
    folder that was asked for. `named_here` says that the file has names as they are made here, `run@step+variant#layer`.
    """

    point: Point
    loglik: NDArray[np.float64]
    n_scored: NDArray[np.int32] | None = None
    source: str = "imported"
    texts: Texts | None = None
    origin: Path = Path()
    named_here: bool = False
    key: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""

    @property
    def on_record(self) -> bool:
        """Whether the file itself has the vector's key."""
        return bool(self.settings)

    @property
    def is_raw(self) -> bool:
        """Whether the values are as they were scored: prepared ones never join a map of raw ones."""
        return not self.source.startswith("imported-")

    @property
    def identity(self) -> tuple[str, str, bytes]:
        """What two vectors must not share: name and scorer, over the same texts."""
        return self.point.name, self.source, self.texts.in_any_order if self.texts else b""


@dataclass(frozen=True, eq=False)
class Imported:
    """Everything found: vectors, texts given by themselves, distances and scores, notes of what was odd, and what was left.

    `named` are the corpora that came as files of texts: what vectors without texts of their own may be over.
    `weight_sqdist` is {(run, earlier step, later step): squared distance}; `scores` is {name: {benchmark: score}};
    `left` gives the reason for each file that could not be read; `side` is what a release holds besides.
    """

    vectors: tuple[ImportedVector, ...] = ()
    named: tuple[Corpus, ...] = ()
    weight_sqdist: Mapping[tuple[str, int, int], float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    side: ReleaseSideFiles = field(default_factory=ReleaseSideFiles)

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus among these, each once."""
        own = [v.texts.corpus for v in self.vectors if v.texts and v.texts.corpus]
        return tuple({corpus.sha256: corpus for corpus in (*self.named, *own)}.values())

    @property
    def corpus(self) -> Corpus | None:
        """The only corpus, None where there are none or several."""
        return self.corpora[0] if len(self.corpora) == 1 else None

    @property
    def n_texts(self) -> int:
        """N of the first vector, else of the first corpus, else 0."""
        if self.vectors:
            return len(self.vectors[0].loglik)
        return len(self.named[0]) if self.named else 0

    def joined(self, other: Imported) -> Imported:
        """Both imports as one; a vector is left out where one of its name over the same texts is there already."""
        have = {v.identity for v in self.vectors}
        twice = [v.point.name for v in other.vectors if v.identity in have]
        notes = [*self.notes, *other.notes]
        if twice:
            such = safe_text(twice[0], 80)
            notes.append(f"{len(twice)} vectors are duplicates and were skipped, such as {such}")
        named = {corpus.sha256: corpus for corpus in (*other.named, *self.named)}
        for corpus in other.named:  # of the same texts, those with domains say more
            if corpus.domains and not named[corpus.sha256].domains:
                named[corpus.sha256] = corpus
        order = dict.fromkeys(corpus.sha256 for corpus in (*self.named, *other.named))
        return Imported(
            self.vectors + tuple(v for v in other.vectors if v.identity not in have),
            tuple(named[sha256] for sha256 in order),
            {**other.weight_sqdist, **self.weight_sqdist},
            {**other.scores, **self.scores},
            tuple(dict.fromkeys(notes)),
            self.left + other.left,
            self.side.joined(other.side),
        )

    def checked(self) -> Imported:
        """Itself, when what one file or folder holds fits together; else ImportFormatError naming the first that does not."""
        without = [v for v in self.vectors if v.texts is None or not v.texts.known]
        if len(self.named) <= 1 and without:
            n = len(self.named[0]) if self.named else len(without[0].loglik)
            whose = "the corpus" if self.named else safe_text(without[0].point.name, 80)
            misfit = next((v for v in without if len(v.loglik) != n), None)
            if misfit:
                raise ImportFormatError(
                    f"{safe_text(misfit.point.name, 80)} has {len(misfit.loglik)} values, {whose} has {n}",
                    "vectors of one map must cover the same texts, in the same order",
                )
        if any(not v.point.run for v in self.vectors):
            raise ImportFormatError("a vector has no name", "name each model")
        twice = [name for (name, *_), count in Counter(v.identity for v in self.vectors).items() if count > 1]
        if twice:
            raise ImportFormatError(
                f"two vectors would be called {safe_text(twice[0], 80)}", "give each model a unique name"
            )
        return self


class Gathering:
    """Parts of an import as they come: one that cannot be read is named in `left`, and the others are taken."""

    def __init__(self) -> None:
        self._found = Imported()
        self._errors: list[KltuiError] = []

    def take(self, path: Path, read: Callable[[], Imported]) -> None:
        """Joins what `read` finds at `path`. Only a question to the user (UsageError) is passed on."""
        try:
            with naming(path):
                self._found = self._found.joined(read())
        except UsageError:
            raise
        except KltuiError as error:
            self._errors.append(error)

    def result(self) -> Imported:
        """Everything taken. Raises the first complaint where nothing could be."""
        found = self._found
        if self._errors and not (
            found.vectors or found.named or found.weight_sqdist or found.scores or found.side
        ):
            first, more = self._errors[0], len(self._errors) - 1
            also = f" ({more} more could not be read either)" if more else ""
            raise type(first)(first.message + also, first.hint)
        return self.whatever()

    def whatever(self) -> Imported:
        """Everything taken, be it nothing, with what was left."""
        return replace(self._found, left=self._found.left + tuple(error.message for error in self._errors))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns whatever a malformed file makes its reader raise into an ImportFormatError with the file's name."""
    try:
        yield
    except KltuiError as error:
        if path.name in error.message:
            raise
        raise type(error)(f"{safe_text(str(path))}: {error.message}", error.hint) from error
    except Exception as error:
        log.info("while reading %s", safe_text(str(path)), exc_info=error)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImportFormatError(
            f"{safe_text(str(path))} cannot be read: {safe_text(reason or type(error).__name__, 160)}",
            "check whether it is damaged or still being written",
        ) from error


def lineage(
    run: str, step: int | None = None, *, quantization: str = "none", layer: int | None = None
) -> Point:
    """The point of a released vector; `pythia-` is put before a bare size, size and seed read from a Pythia name.

    >>> p = lineage("410m-seed3", 1000)
    >>> p.name, p.size, p.seed, p.type
    ('pythia-410m-seed3@1000', '410m', 3, 'gpt_neox')
    """
    if _PLAIN_SIZE.match(run):
        run = f"pythia-{run}"
    pythia = _PYTHIA.match(run)
    name = point_name(run, step, quantization, layer)
    if pythia is None:
        return Point(name, run, step, quantization, layer)
    seed = int(pythia["seed"]) if pythia["seed"] else None
    return Point(name, run, step, quantization, layer, seed, pythia["size"], "gpt_neox")


def point_name(run: str, step: int | None, quantization: str, layer: int | None) -> str:
    """`run@step+variant#layer`, each part where there is one."""
    name = run if step is None else f"{run}@{step}"
    name += "" if quantization == "none" else f"+{quantization}"
    return name + ("" if layer is None else f"#{layer}")


def with_metadata(
    vectors: tuple[ImportedVector, ...], types: Mapping[str, object], parents: Mapping[str, object]
) -> tuple[ImportedVector, ...]:
    """Vectors with the type of `types` and the parent of `parents` by run; several parents (a merge) are joined by commas."""
    out = []
    for v in vectors:
        kind, parent = types.get(v.point.run), parents.get(v.point.run)
        changed = v.point
        if isinstance(kind, str):
            changed = replace(changed, type=kind)
        if isinstance(parent, str):
            changed = replace(changed, parent=parent)
        elif isinstance(parent, list) and all(isinstance(p, str) for p in parent):
            changed = replace(changed, parent=",".join(parent))
        out.append(replace(v, point=changed))
    return tuple(out)


def variants_like_models(vectors: tuple[ImportedVector, ...]) -> tuple[ImportedVector, ...]:
    """Vectors whose variants and layers have type, size, seed and parent of their model, where they state none."""
    plain = {v.point.base: v.point for v in vectors if v.point.name == v.point.base}
    out = []
    for v in vectors:
        p, model = v.point, plain.get(v.point.base)
        if model is not None and p is not model:
            like = replace(
                p,
                type=p.type or model.type,
                size=p.size or model.size,
                parent=p.parent or model.parent,
                seed=model.seed if p.seed is None else p.seed,
            )
            v = replace(v, point=like)
        out.append(v)
    return tuple(out)
