"""An open workspace: what the interface, reports and notebooks query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from kltui.analysis.point import Point
from kltui.errors import StoreError, UsageError
from kltui.registry.checkpoint import layer_name
from kltui.store import (
    CheckpointRow,
    CorpusRow,
    JobItemRow,
    JobRow,
    Store,
    VectorRow,
    comparable,
    pair_values,
    same_weights,
    saved_maps,
)
from kltui.store.rows import Beginning
from kltui.store.same_weights import point_of
from kltui.store.saved_maps import Preparation, SavedMap
from kltui.store.side_tables import TOKENS, TOKENS_ALONE
from kltui.store.tables import replaced_meanwhile
from kltui.store.tokenizer_changes import changed_tokenizers
from kltui.workspace import map_record
from kltui.workspace.choice import listing, one_group, wanted
from kltui.workspace.losses import StoredLoss, on_corpus, read_losses, stored_losses
from kltui.workspace.map_device import gram_on, nothing_scored
from kltui.workspace.one_moment import at_one_moment, at_one_moment_if_wal
from kltui.workspace.weight_distances import StoredDistances, WeightProgress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.analysis.diffusion import Exponent
    from kltui.analysis.exact import NextTokenKL
    from kltui.analysis.kl import KL, CentredGram
    from kltui.analysis.map import Map
    from kltui.corpus.corpus import Prompt
    from kltui.workspace.exact import ExactProgress, ExactRequest

MAX_AT_ONCE = 5000  # with more checkpoints, a list first shows its beginning (`beginning`)


@dataclass(frozen=True, slots=True)
class VectorGroup:
    """Vectors that may share a map: one corpus and one group of settings (`store.comparable`)."""

    corpus_id: int
    settings: str
    n_checkpoints: int


class Workspace(StoredDistances):
    """A workspace folder opened read-only; only maps computed on a GPU import torch. Reading damaged data raises DamageError."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.name = store.folder.resolve().name
        self.over = ""  # SHA-256 of the default corpus; "": the one with the most checkpoints
        self.settings = ""  # default settings; "": those with the most checkpoints
        self.values = pair_values.CONDITIONAL  # default values of maps of pairs
        self._text_ids: dict[int, NDArray[np.intp] | None] = {}
        # The rows read last with their generation, because one map needs them several times.
        self._last_checkpoints: tuple[int, list[CheckpointRow]] = (-1, [])
        self._last_vectors: tuple[int, list[VectorRow]] = (-1, [])
        self._comparable = comparable.Comparable()

    @classmethod
    def open(cls, path: str | PathLike[str], over: str = "", values: str = "conditional") -> Self:
        """Opens the workspace in folder `path`; `over` selects its corpus as in `choose_corpus`, `values` as in `map`.

        Raises StoreError if there is none, and UsageError if it has no such corpus.
        """
        made = cls(Store.read(Path(path)))
        try:
            made.values = pair_values.checked(values)
            if over:
                made.choose_corpus(over)
        except BaseException:
            made.close()
            raise
        return made

    def choose_corpus(self, sha256: str) -> CorpusRow:
        """Makes the corpus whose hash begins with `sha256` the default. Raises UsageError if there is none."""
        row = self.corpus(sha256)
        self.over = row.sha256
        return row

    def close(self) -> None:
        """Closes the database."""
        self._store.close()

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation(self) -> int:
        """A number that changes when another process has written to the workspace; cheap to poll."""
        return self._store.generation()

    @at_one_moment
    def checkpoints(self) -> list[CheckpointRow]:
        """Every registered checkpoint, by run, step and variant. Unchanged ones are the same objects as in the last call."""
        generation = self.generation()  # read before the rows, so that rows written meanwhile are read again
        known = {row.id: row for row in self._last_checkpoints[1]}
        rows = [kept if (kept := known.get(row.id)) == row else row for row in self._store.checkpoints.all()]
        self._last_checkpoints = generation, rows
        return list(rows)

    @at_one_moment
    def checkpoints_on_corpus(self) -> list[CheckpointRow]:
        """`checkpoints`, of whose vectors only those on the default corpus count."""
        rows = self.checkpoints()
        if len(self.corpora()) < 2:
            return rows
        return on_corpus(rows, self._store.vectors, self.corpus().id)

    @at_one_moment
    def beginning(self, n: int) -> Beginning | None:
        """The first n checkpoints and the numbers of all runs, not verified; None in small workspaces (up to MAX_AT_ONCE)."""
        return self._store.checkpoints.beginning(n) if self._store.checkpoints.count() > MAX_AT_ONCE else None

    def known_checkpoints(self) -> list[CheckpointRow]:
        """The checkpoints as read last, if no other process has written since; otherwise they are read again."""
        generation, rows = self._last_checkpoints
        return rows if generation == self.generation() else self.checkpoints()

    @at_one_moment
    def _vector_rows(self) -> list[VectorRow]:
        """Every stored vector without its values, read again only if another process has written."""
        generation = self.generation()
        if self._last_vectors[0] != generation:
            self._last_vectors = generation, self._store.vectors.rows()
        return self._last_vectors[1]

    def run_numbers(self) -> dict[str, int]:
        """{run or interpolation grid: number that gives it its colour and marker}, as first seen in this workspace."""
        return self._store.checkpoints.run_numbers()

    @at_one_moment
    def losses(self) -> dict[int, StoredLoss]:
        """{checkpoint id: loss on the default corpus}, without reading a vector; {} if nothing is scored."""
        try:
            corpora = self.corpora()
            corpus = corpora[0] if len(corpora) == 1 and not self.over else self.corpus()
        except StoreError:
            return {}
        return stored_losses(self._store.vectors.means(corpus.id), corpus.mean_bytes)

    @at_one_moment_if_wal
    def losses_of(self, vectors: Sequence[int]) -> dict[int, tuple[float, float]]:
        """{vector id: (loss, its standard error) in bits/byte} of final vectors on the default corpus."""
        corpus_id = self.corpus().id
        return read_losses(self._store, corpus_id, self._ids_of_texts(corpus_id), vectors)

    def corpora(self) -> list[CorpusRow]:
        """Every corpus of the workspace, oldest first."""
        return self._store.corpora.all()

    @at_one_moment
    def corpus(self, sha256: str | None = None) -> CorpusRow:
        """The corpus whose SHA-256 begins with `sha256`; by default the chosen one, or that with the most checkpoints.

        Raises UsageError unless exactly one corpus matches, StoreError if the workspace has none.
        """
        corpora, sha256 = self.corpora(), sha256 or self.over
        if sha256:
            found = [c for c in corpora if c.sha256.startswith(sha256)]
            if len(found) == 1:
                return found[0]
            matching = f"{len(found)} corpora match" if found else "no corpus matches"
            raise UsageError(f"{matching} {sha256!r}", listing(c.sha256[:12] for c in corpora))
        groups = self.vector_groups()
        if groups:
            return next(c for c in corpora if c.id == groups[0].corpus_id)
        if corpora:
            return corpora[-1]
        raise nothing_scored()

    @at_one_moment
    def texts(self, sha256: str | None = None) -> list[str]:
        """The texts of a corpus in order."""
        return self._store.corpora.texts(self.corpus(sha256).id)

    @at_one_moment
    def prompts(self, sha256: str | None = None) -> tuple[Prompt, ...]:
        """The prompt of every text of a corpus of pairs, each with (role, content) of its turns; () for a corpus of texts."""
        return self._store.corpora.prompts(self.corpus(sha256).sha256)

    @at_one_moment
    def copies(self, sha256: str | None = None) -> int:
        """Number of texts of a corpus that are copies of an earlier one."""
        ids = self._ids_of_texts(self.corpus(sha256).id)
        return 0 if ids is None else len(ids) - len(set(ids.tolist()))

    @at_one_moment
    def same_weights(self) -> list[tuple[Point, ...]]:
        """Groups of scored checkpoints that have the same weights."""
        return same_weights.in_store(self._store, self.known_checkpoints(), self._vector_rows())

    @at_one_moment
    def changed_tokenizers(self) -> dict[str, str]:
        """{checkpoint: the one before it in its run} of those that were scored with another tokenizer than that."""
        return changed_tokenizers(self.known_checkpoints(), self._vector_rows())

    @at_one_moment
    def domains(self, sha256: str | None = None) -> list[str]:
        """The domain of every text of a corpus, "" for a text without one."""
        return self._store.corpora.domains(self.corpus(sha256).id)

    def jobs(self) -> list[JobRow]:
        """Every job, newest first."""
        return self._store.jobs.all()

    def job_items(self, job_id: int) -> list[JobItemRow]:
        """The checkpoints of one job, in order."""
        return self._store.jobs.items(job_id)

    @at_one_moment
    def vector_groups(self) -> list[VectorGroup]:
        """Groups of final vectors that may share a map, that with most checkpoints (then the newest) first; drawn texts last."""
        drawn = {str(record.get("corpus", "")) for record in self.records("draw").values()}
        on_drawn = {c.id for c in self.corpora() if c.sha256 in drawn} if drawn else set()
        return [VectorGroup(*found) for found in self._comparable.fullest(self._vector_rows(), on_drawn)]

    @at_one_moment
    def token_logprobs(self, name: str, *, alone: bool = False) -> Path | None:
        """Path of the safetensors file with a checkpoint's per-token log-probabilities (with `alone`: of responses without prompts), if stored."""
        row = next((r for r in self.checkpoints() if r.name == name), None)
        if row is None:
            return None
        kind = TOKENS_ALONE if alone else TOKENS
        return self._store.side_files.find(self.path, row.id, self.corpus().id, kind)

    @at_one_moment_if_wal
    def map(
        self,
        runs: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        layers: bool = False,
        corpus: str | None = None,
        preprocess: str = "none",
        settings: str | None = None,
        device: str = "cpu",
        values: str = "",
    ) -> Map:
        """The map of the chosen checkpoints' vectors on one corpus (layers=True: with their layer vectors).

        By default it has the vectors of the comparable group with most checkpoints. `runs` and `names` select runs and
        checkpoints, `corpus` is the beginning of a SHA-256, `settings` how vectors were scored, `preprocess` a mode of
        `Map.preprocessed`. `values` of pairs: "conditional" log p(response | prompt), "unconditional" log p(response), or
        "pmi", the difference (pointwise mutual information; arXiv 2603.18593); "": as the workspace was opened. With `device`
        "cuda" or "cuda:1", large matrices are centred and multiplied on that GPU. Raises KltuiError if nothing is scored or
        torch has no such GPU, and UsageError that names the differing settings if chosen vectors cannot share a map.
        """
        gram = gram_on(device)
        chosen = self._choose(runs, names, layers, corpus, settings)
        values = pair_values.checked(values or self.values)
        if values == pair_values.CONDITIONAL:
            result = self._assemble(chosen, gram)
        else:
            result = self._of_pairs(chosen, values, gram)
        return result if preprocess == "none" else result.preprocessed(preprocess)

    @at_one_moment_if_wal
    def map_in_file(self, rows_in: BinaryIO) -> Map:
        """The result of `map()`, with its K x N float64 written to an empty file and memory-mapped, to save memory.

        The values are in memory nevertheless if vectors are left out of the map, or if `self.values` is not "conditional".
        """
        if self.values != pair_values.CONDITIONAL:
            return self.map()
        return self._assemble(self._choose(None, None, False, None, None), rows_in=rows_in)

    def _of_pairs(
        self, chosen: Sequence[tuple[CheckpointRow, VectorRow]], values: str, gram: CentredGram | None
    ) -> Map:
        """The map of unconditional values, or of the differences "pmi", for the chosen vectors."""
        found, lacking = pair_values.matched(chosen, self._store.vectors.rows(), values)
        minuend = [v for _, v, _ in found] if values == pair_values.PMI else None
        return self._assemble([(row, u) for row, _, u in found], gram, minuend, values, lacking)

    def vectors(
        self,
        runs: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        layers: bool = False,
        corpus: str | None = None,
        settings: str | None = None,
    ) -> dict[str, VectorRow]:
        """The stored vector of each row of the map that `map` gives for the same choice, by name."""
        chosen = self._choose(runs, names, layers, corpus, settings)
        return {layer_name(row.name, v.layer): v for row, v in chosen}

    def benchmark_scores(self) -> dict[str, dict[str, float]]:
        """Imported benchmark scores, {checkpoint or run: {task: score}}."""
        return self._store.benchmark_scores.all()

    def saved_maps(self) -> list[SavedMap]:
        """The saved maps, oldest first."""
        return saved_maps.listed(self._store.records.all(saved_maps.KIND))

    @at_one_moment_if_wal
    def saved_map(self, name: str, *, prepared: bool = True, device: str = "cpu") -> Map:
        """The saved map `name`; with `prepared=False` its vectors before preprocessing. `device` as in `map`.

        Raises UsageError if there is none, or if a vector has changed since it was saved.
        """
        pair_values.check_kept(self.values)
        saved = saved_maps.find(self.saved_maps(), name)
        known = {row.name for row in self.checkpoints()}
        names = [n for n in saved.keys if n in known]
        chosen = self._choose(None, names, False, saved.corpus, saved.settings) if names else []
        saved.check({row.name: v for row, v in chosen})
        result = self._assemble(chosen, gram_on(device))
        result.record["map"] = name
        p = saved.preparation
        return result.preprocessed(p.mode, exclude=p.exclude) if prepared and p != Preparation() else result

    @at_one_moment_if_wal
    def save_map(self, name: str, preparation: Preparation | None = None) -> Map:
        """Saves the map of all comparable vectors with `preparation` under `name`; returns it. Raises as `saved_maps.save`."""
        pair_values.check_kept(self.values)
        p = preparation or Preparation()
        rows, whole = self.vectors(), self.map()
        made = whole.preprocessed(p.mode, exclude=p.exclude)
        keys = {n: rows[n].key_fields for n in whole.names}
        record = whole.record
        saved = SavedMap(
            name, str(record["corpus"]), str(record["settings"]), p, keys, made.record["preprocess"]
        )
        saved_maps.save(self.path, saved)
        return made

    def released_pictures(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """{"released NAME": K x 2 (or 3) coordinates of `names`} of every imported picture; NaN for names that it lacks."""
        import numpy as np

        found = {}
        for picture, record in self.records("picture").items():
            points = cast("dict[str, list[float]]", record["points"])
            dims = max(map(len, points.values()), default=2)
            rows = [points.get(name, [math.nan] * dims) for name in names]
            if any(name in points for name in names):
                found[f"released {picture}"] = np.array(rows, dtype=np.float64)
        return found

    def type_colours(self) -> dict[str, str]:
        """{model type: colour} as imported with a release, #rrggbb or a colour's name; {} if there are none."""
        record = self.records("colours").get("type", {})
        return cast("dict[str, str]", record.get("colours", {}))

    def records(self, kind: str) -> dict[str, dict[str, object]]:
        """The workspace's named records of one kind, oldest first."""
        return self._store.records.all(kind)

    def exact_kl(
        self,
        a: str,
        b: str,
        *,
        corpus: str | None = None,
        compute: bool = True,
        device: str = "auto",
        progress: ExactProgress | None = None,
    ) -> NextTokenKL | None:
        """Exact next-token KL of two scored checkpoints with the same tokenizer, and the estimate from their vectors.

        For pairs it covers the responses' tokens, given their prompts or, with `values` "unconditional", without them.
        It is computed once, in a separate process on `device`, and stored; with compute=False only a stored result is
        returned, or None. Raises UsageError for names that are not scored, and KltuiError if it cannot be computed.
        """
        from dataclasses import replace

        from kltui.workspace import exact

        asked = self._asked_exactly(a, b, corpus)
        found = exact.stored(self.records(exact.KIND), asked)
        if found is None and compute:
            found = exact.exact_kl_of(self._store, asked, device, progress or exact.silent)
        return found and replace(found, estimate=self._estimate(asked))

    def check_exact(self, a: str, b: str, *, corpus: str | None = None) -> None:
        """Raises KltuiError if `exact_kl` cannot be computed, as far as is known without the models' files."""
        from kltui.workspace import exact

        exact.check(self._asked_exactly(a, b, corpus))

    @at_one_moment
    def exact_pairs(self) -> list[tuple[str, str]]:
        """(name, name) of the pairs whose exact KL is stored, oldest first, as named when it was computed."""
        from kltui.workspace import exact

        return [exact.names_in(record) for record in self.records(exact.KIND).values()]

    @at_one_moment
    def _asked_exactly(self, a: str, b: str, corpus: str | None) -> ExactRequest:
        from kltui.workspace.exact import ExactRequest, ExactSide

        names = list(dict.fromkeys((a, b)))
        found = self._choose(None, names, False, corpus, None)
        found = pair_values.with_next_tokens(found, self._store.vectors.rows(), self.values)
        chosen = {row.name: ExactSide(row, v) for row, v in found}
        row = self.corpus(corpus)
        unscored = [name for name in names if name not in chosen]
        if unscored:
            raise UsageError(
                f"{unscored[0]} has no vector on the corpus {row.sha256[:12]}",
                "Score it first: kltui --batch job.toml, or s on the Registry.",
            )
        return ExactRequest(chosen[a], chosen[b], row)

    @at_one_moment_if_wal
    def _estimate(self, asked: ExactRequest) -> KL:
        """The KL estimated from the two vectors, as on the map."""
        from kltui.analysis.kl import kl_pair

        text_bytes_N = self._store.corpora.text_bytes(asked.corpus.id)
        a_N, b_N = (
            self._store.vectors.load((side.vector.id,), len(text_bytes_N))[0][0]
            for side in (asked.a, asked.b)
        )
        return kl_pair(a_N, b_N, text_bytes_N, self._ids_of_texts(asked.corpus.id))

    @at_one_moment
    def _choose(
        self,
        runs: Sequence[str] | None,
        names: Sequence[str] | None,
        layers: bool,
        corpus: str | None,
        settings: str | None,
    ) -> list[tuple[CheckpointRow, VectorRow]]:
        by_id = {row.id: row for row in self.known_checkpoints()}
        ids = wanted(by_id.values(), runs, names)
        corpus_id = self.corpus(corpus).id if self.corpora() else -1
        if settings is None and corpus is None:
            settings = self.settings or None
        every = self._vector_rows()
        groups = self._comparable.groups(every)
        rows = [
            v
            for v in every
            if v.checkpoint_id in ids
            and v.corpus_id == corpus_id
            and (layers or v.layer is None)
            and not comparable.is_unconditional(v.settings)
        ]
        of = {v.id: groups[v.corpus_id, v.settings] for v in rows}
        if settings is not None:
            wished = groups.get((corpus_id, settings), settings)
            rows = [v for v in rows if of[v.id] == wished]
        if not rows:
            raise nothing_scored(
                has_layers=any(v.layer is not None and v.corpus_id == corpus_id for v in every)
            )
        group = one_group(rows, of, strict=names is not None)
        # Rows are sorted by age, so that the newest vector of each checkpoint and layer is chosen; one with exactly the
        # requested settings takes precedence.
        rows = sorted((v for v in rows if of[v.id] == group), key=lambda v: v.settings == (settings or group))
        newest = {(v.checkpoint_id, v.layer): v for v in rows}
        order = {cid: i for i, cid in enumerate(by_id)}
        chosen = sorted(
            newest.values(), key=lambda v: (order[v.checkpoint_id], v.layer is None, v.layer or 0)
        )
        return [(by_id[v.checkpoint_id], v) for v in chosen]

    def _assemble(
        self,
        chosen: Sequence[tuple[CheckpointRow, VectorRow]],
        gram: CentredGram | None = None,
        minuend: Sequence[VectorRow] | None = None,
        values: str = "",
        lacking: Mapping[str, str] | None = None,
        rows_in: BinaryIO | None = None,
    ) -> Map:
        """The map of the chosen vectors; with `minuend`, of those minus the chosen ones (pmi = l(y | x) - l(y))."""
        from kltui.analysis.emptying import LEFT_OUT, all_complete, all_left_out, emptying, no_bytes
        from kltui.analysis.map import Map, shared_counts

        corpus_id = chosen[0][1].corpus_id
        text_bytes_N = self._store.corpora.text_bytes(corpus_id)
        if not text_bytes_N.any():
            raise no_bytes()
        ids = [v.id for _, v in chosen]
        loglik_KN, n_scored_KN = self._store.vectors.load(ids, len(text_bytes_N), rows_in)
        if minuend is not None:
            conditional_KN, n_scored_KN = self._store.vectors.load((v.id for v in minuend), len(text_bytes_N))
            loglik_KN = conditional_KN - loglik_KN
        complete = rows_in is not None and all_complete(_blocks_of(rows_in, len(text_bytes_N)))
        out = {} if complete else emptying(loglik_KN)
        left_out = {layer_name(chosen[k][0].name, chosen[k][1].layer): why for k, why in out.items()}
        left_out |= lacking or {}
        if out:
            kept = [k for k in range(len(chosen)) if k not in out]
            if not kept:
                raise all_left_out(left_out)
            chosen, loglik_KN, n_scored_KN = [chosen[k] for k in kept], loglik_KN[kept], n_scored_KN[kept]
        files = same_weights.files_on_record(self._store)
        record = map_record.record_of(
            [v for _, v in chosen],
            corpus=next(c.sha256 for c in self.corpora() if c.id == corpus_id),
            settings=comparable.conditional_settings(self._group_of(chosen[0][1])),
            values=values,
        )
        if left_out:
            record[LEFT_OUT] = left_out
        return Map(
            points=tuple(point_of(row.checkpoint, v.layer, v.weights, files) for row, v in chosen),
            loglik_KN=loglik_KN,
            text_bytes_N=text_bytes_N,
            n_scored_KN=shared_counts(n_scored_KN),
            record=record,
            text_ids_N=self._ids_of_texts(corpus_id),
            gram=gram,
        )

    def _group_of(self, vector: VectorRow) -> str:
        """The settings of the map that a vector belongs to."""
        found = self._comparable.groups(self._vector_rows()).get((vector.corpus_id, vector.settings))
        if found is None:
            raise replaced_meanwhile()
        return found

    def _ids_of_texts(self, corpus_id: int) -> NDArray[np.intp] | None:
        """A number for every text of a corpus, the same for equal texts, shape (N,); None if all differ."""
        if corpus_id not in self._text_ids:
            from kltui.corpus.corpus import text_ids

            self._text_ids[corpus_id] = text_ids(self._store.corpora.distinguished(corpus_id))
        return self._text_ids[corpus_id]

    def diffusion(
        self,
        window: int = 10,
        from_step: int | None = None,
        compute_weights: bool = False,
        noise_corrected: bool = False,
        progress: WeightProgress | None = None,
    ) -> list[Exponent]:
        """Diffusion exponents in log-likelihood space and, if known, in weight space; see `Map.diffusion`.

        `compute_weights` computes missing weight distances.
        """
        distances = self.weight_distances(compute_weights, window, progress)
        return self.map().diffusion(
            distances or None, window=window, from_step=from_step, noise_corrected=noise_corrected
        )


def _blocks_of(rows_in: BinaryIO, n_texts: int) -> Iterator[NDArray[np.float64]]:
    """Rows of a file of float64, 256 at a time; they are read, not memory-mapped, so that their memory is freed."""
    import numpy as np

    rows_in.seek(0)
    while data := rows_in.read(8 * n_texts * 256):
        yield np.frombuffer(data, "<f8").reshape(-1, n_texts)
