"""The result of an import: vectors with lineage and texts, corpora, weight distances and benchmark scores."""

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

Scores = Mapping[str, Mapping[str, float]]

_PYTHIA = re.compile(r"pythia-(?P<size>\d+(?:\.\d+)?[mb])(?:-seed(?P<seed>\d{1,9}))?$", re.IGNORECASE)
# A Pythia that a release names by its size alone; other sizes, such as 7b-chat, are names of other models.
_BARE_PYTHIA = re.compile(
    r"(?:14m|31m|70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(?:-deduped|-(?:data-|weight-)?seed\d{1,9})?",
    re.IGNORECASE,
)


class ImportFormatError(KltuiError):
    """Raised for a file that is damaged or in an unknown format."""


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a vector as far as its file states them: a corpus, or the SHA-256 or only the length of each text."""

    corpus: Corpus | None = None
    digests: tuple[bytes, ...] = ()
    text_bytes: tuple[int, ...] = ()

    @property
    def known(self) -> tuple[bytes, ...]:
        """SHA-256 of every text in order, () if the file does not identify them."""
        return self.corpus.digests if self.corpus else self.digests

    @cached_property
    def in_any_order(self) -> bytes:
        """A hash that does not depend on the order of the texts; empty if they are unknown."""
        return hashlib.sha256(b"".join(sorted(self.known))).digest() if self.known else b""


@dataclass(frozen=True, eq=False)
class ImportedVector:
    """One vector: `loglik` (N float64, nats, NaN where unscored) and, where known, scored tokens (N int32).

    `source` says which program scored it: vectors of different sources share no map, because they may treat the first
    token differently, unless it is known how they were scored. `key` says that, as far as the release or the file states
    it (`on_record`; then also `settings`). `texts` are its texts if its own file states them, `origin` is the file or
    folder that was requested. `named_here`: names in the file have kltui's form, `run@step+variant#layer`.
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
        """Whether the values are not preprocessed; preprocessed ones never join a map of others."""
        return not self.source.startswith("imported-")

    @property
    def identity(self) -> tuple[str, str, bytes]:
        """(name, source, hash of the texts), which must be different for different vectors."""
        return self.point.name, self.source, self.texts.in_any_order if self.texts else b""


@dataclass(frozen=True, eq=False)
class Imported:
    """Everything that was found: vectors, corpora, weight distances, benchmark scores, and notes for the user.

    `named` are the corpora read from files of texts; vectors whose own file has no texts may belong to them.
    `weight_sqdist` is {(run, earlier step, later step): squared distance}; `scores` is {name: {benchmark: score}};
    `left` has the reason for each file that could not be read; `side` are the other files of a release.
    """

    vectors: tuple[ImportedVector, ...] = ()
    named: tuple[Corpus, ...] = ()
    weight_sqdist: Mapping[tuple[str, int, int], float] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    side: ReleaseSideFiles = field(default_factory=ReleaseSideFiles)

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus, those of vectors included, each once."""
        own = [v.texts.corpus for v in self.vectors if v.texts and v.texts.corpus]
        return tuple({corpus.sha256: corpus for corpus in (*self.named, *own)}.values())

    @property
    def corpus(self) -> Corpus | None:
        """The only corpus; None if there are none or several."""
        return self.corpora[0] if len(self.corpora) == 1 else None

    @property
    def n_texts(self) -> int:
        """N of the first vector, else of the first corpus, else 0."""
        if self.vectors:
            return len(self.vectors[0].loglik)
        return len(self.named[0]) if self.named else 0

    @property
    def tasks(self) -> list[str]:
        """The tasks of which there are scores, sorted."""
        return sorted({task for tasks in self.scores.values() for task in tasks})

    def joined(self, other: Imported) -> Imported:
        """Both imports as one; a vector of `other` with the same identity as one of these is skipped, with a note that says whether it is equal."""
        have = {v.identity: v.loglik for v in self.vectors}
        notes = [*self.notes, *other.notes, *_other_scores(self.scores, other.scores)]
        again = [v for v in other.vectors if v.identity in have]
        unlike = [v for v in again if not np.array_equal(v.loglik, have[v.identity], equal_nan=True)]
        equal = [v for v in again if v not in unlike]
        for found, what in (
            (equal, "are duplicates and"),
            (unlike, "have the name of another but other values, and"),
        ):
            if found:
                such = safe_text(found[0].point.name, 80)
                notes.append(f"{len(found)} vectors {what} were skipped, such as {such}")
        named = {corpus.sha256: corpus for corpus in (*other.named, *self.named)}
        for corpus in other.named:  # of two corpora with the same texts, keep the one with domains
            if corpus.domains and not named[corpus.sha256].domains:
                named[corpus.sha256] = corpus
        order = dict.fromkeys(corpus.sha256 for corpus in (*self.named, *other.named))
        return Imported(
            self.vectors + tuple(v for v in other.vectors if v.identity not in have),
            tuple(named[sha256] for sha256 in order),
            {**other.weight_sqdist, **self.weight_sqdist},
            {
                name: {**other.scores.get(name, {}), **self.scores.get(name, {})}
                for name in dict.fromkeys((*self.scores, *other.scores))
            },
            tuple(dict.fromkeys(notes)),
            self.left + other.left,
            self.side.joined(other.side),
        )

    def checked(self) -> Imported:
        """Returns itself. Raises ImportFormatError if vectors of one file or folder have different lengths or equal names."""
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


def _other_scores(first: Scores, second: Scores) -> list[str]:
    """A note on scores that two files state differently; [] if there are none."""
    odd = [
        f"{safe_text(task, 60)} of {safe_text(name, 80)}"
        for name, tasks in second.items()
        for task, score in tasks.items()
        if first.get(name, {}).get(task, score) != score
    ]
    return (
        [f"{len(odd)} scores differ between two files, such as {odd[0]}: those of the first file are used"]
        if odd
        else []
    )


class Gathering:
    """Joins the parts of an import; a part that cannot be read is listed in `left`."""

    def __init__(self) -> None:
        self._found = Imported()
        self._errors: list[KltuiError] = []

    def take(self, path: Path, read: Callable[[], Imported]) -> None:
        """Joins the result of `read` for `path`. Raises only UsageError, which asks the user for something."""
        try:
            with naming(path):
                self._found = self._found.joined(read())
        except UsageError:
            raise
        except KltuiError as error:
            self._errors.append(error)

    def result(self) -> Imported:
        """Everything that was joined. If that is nothing, raises the first error."""
        found = self._found
        if self._errors and not (
            found.vectors or found.named or found.weight_sqdist or found.scores or found.side
        ):
            first, more = self._errors[0], len(self._errors) - 1
            also = f" ({more} more could not be read either)" if more else ""
            raise type(first)(first.message + also, first.hint)
        return self.gathered()

    def gathered(self) -> Imported:
        """Everything that was joined, possibly nothing; errors are listed in `left`."""
        return replace(self._found, left=self._found.left + tuple(error.message for error in self._errors))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which any error of a file's reader is raised as an ImportFormatError that names the file."""
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
    run: str,
    step: int | None = None,
    *,
    quantization: str = "none",
    layer: int | None = None,
    own_name: bool = False,
) -> Point:
    """The point of a released vector. Size and seed are read from the name of a Pythia, and `pythia-` is put before the size
    of one unless `run` is an `own_name`, given by kltui.

    >>> p = lineage("410m-seed3", 1000)
    >>> p.name, p.size, p.seed, p.type
    ('pythia-410m-seed3@1000', '410m', 3, 'gpt_neox')
    """
    if not own_name and _BARE_PYTHIA.fullmatch(run):
        run = f"pythia-{run}"
    pythia = _PYTHIA.match(run)
    name = point_name(run, step, quantization, layer)
    if pythia is None:
        return Point(name, run, step, quantization, layer)
    seed = int(pythia["seed"]) if pythia["seed"] else None
    return Point(name, run, step, quantization, layer, seed, pythia["size"], "gpt_neox")


def point_name(run: str, step: int | None, quantization: str, layer: int | None) -> str:
    """`run@step+variant#layer`, without the parts that are None or "none"."""
    name = run if step is None else f"{run}@{step}"
    name += "" if quantization == "none" else f"+{quantization}"
    return name + ("" if layer is None else f"#{layer}")


def with_metadata(
    vectors: tuple[ImportedVector, ...], types: Mapping[str, object], parents: Mapping[str, object]
) -> tuple[ImportedVector, ...]:
    """The vectors with types {run: type} and parents {run: parent or list of parents}; several are joined by commas."""
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
    """The vectors; variants and layers without a type, size, seed or parent get those of their model."""
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
