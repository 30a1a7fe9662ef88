"""The scorer: computes the log-likelihood vectors of one checkpoint on a corpus."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.corpus.corpus import Prompt
from kltui.errors import KltuiError
from kltui.registry.adapters import Adapted, AdaptedReading
from kltui.registry.gguf_file import is_gguf, read_model
from kltui.registry.reading import Hashed, Reading
from kltui.registry.tokenizer import tokenizer_folder
from kltui.scoring import (
    adapters,
    answers,
    device_map,
    families,
    gguf,
    loading,
    quantize,
    tokens,
    weight_reload,
)
from kltui.scoring import tokenizer_checks as checks
from kltui.scoring.batch_effects import BatchRule
from kltui.scoring.batching import Batch, BatchScores, Ids, Piece
from kltui.scoring.device import device_in_use
from kltui.scoring.dtype_cost import dtype_cost, is_worth_comparing
from kltui.scoring.engine import Engine
from kltui.scoring.load_errors import not_finite_error
from kltui.scoring.loading import Loaded
from kltui.scoring.malloc_tuning import kept_heap
from kltui.scoring.numerics import fast_float32
from kltui.scoring.oom_retry import peak_cuda_bytes, rule_within_memory, run_batches
from kltui.scoring.prefetch import Tensors, prefetch_for
from kltui.scoring.settings import DtypeCost, Progress, ScoreResult, ScoringSettings, Vector
from kltui.scoring.versions import library_versions

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class _Prepared:
    """A corpus tokenised by one tokenizer and cut for one context length. There may be more rows of ids than texts."""

    tokenizer: tokens.Tokenizer
    notes: tuple[str, ...]
    scored: answers.ScoredRows
    pieces: list[Piece]
    n_overlong: int

    @property
    def ids(self) -> list[Ids]:
        """The ids that the model reads: a row for every text, then possibly one for every response without its prompt."""
        return self.scored.ids

    @cached_property
    def text_counts(self) -> NDArray[np.int64]:
        """Number of scored ids of each row, (rows,)."""
        texts_n = np.array([piece.text for piece in self.pieces], dtype=np.int64)
        counts_n = np.array([piece.n_scored for piece in self.pieces], dtype=np.int64)
        return np.bincount(texts_n, counts_n, minlength=len(self.ids)).astype(np.int64)

    @cached_property
    def n_inputs(self) -> int:
        """Number of ids that the model reads."""
        return sum(piece.n_inputs for piece in self.pieces)

    @cached_property
    def n_tokens(self) -> int:
        """Number of scored ids."""
        return int(self.text_counts.sum())


@dataclass(frozen=True)
class _InMemory:
    """A loaded checkpoint and the corpus in its ids.

    `stored`: how its files are quantised, or ""; `tokenized`: the time when tokenising ended, by `time.perf_counter`.
    """

    prepared: _Prepared
    loaded: Loaded
    stored: str
    adapter_key: dict[str, str]
    notes: tuple[str, ...]
    read_ahead: bool
    tokenized: float


class Scorer:
    """Scores checkpoints on one corpus; whatever the checkpoints of a run share is reused between calls."""

    def __init__(
        self,
        texts: Sequence[str],
        corpus_sha256: str,
        settings: ScoringSettings,
        cache_dir: Path | None = None,
        tell_cost: Callable[[DtypeCost], None] | None = None,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        self.texts = list(texts)
        self.prompts = prompts
        self.corpus_sha256 = corpus_sha256
        self.settings = settings
        self.cache_dir = cache_dir
        self.in_use = device_in_use(settings.device)
        self.device = loading.torch_device(self.in_use, settings.device)
        device_map.check(settings.device_map, settings.device)
        self._batch_tokens: dict[str, int] = {}
        self._template: weight_reload.ModelTemplate | None = None
        self._filled: Hashed | None = None  # the files whose weights the template's model has now
        self._engine: Engine | None = None
        self._adapted: adapters.AdaptedModel | None = None
        self._rule: tuple[Engine, _Prepared, BatchRule] | None = None
        self._prepared: tuple[tuple[str, int | None, int | None], _Prepared] | None = None
        # for a model that is spread over several devices, weights are not read ahead
        self._prefetch = prefetch_for(self.device) if settings.device_map == "none" else None
        self._last_result_s: float | None = None
        self.tell_cost = tell_cost  # called once at most; None if not requested, or done

    def expect(self, hashed: Hashed, quantization: str, adapted: Adapted | None = None) -> None:
        """Starts to read the next checkpoint's weights, on a GPU and if they fit the model in memory."""
        if self._prefetch is None:
            return
        if adapted is not None:
            header = weight_reload.read_header(adapted.adapter.folder) if self._adapted is not None else None
            if header is not None:
                self._prefetch.begin(adapted.adapter, header, header.keys())
        elif self._template is not None and quantization == "none":
            self._prefetch.begin(hashed, self._template.header, self._template.targets.keys())

    def prepare(self, folder: Path, tokenizer: Path | None) -> None:
        """Imports the code of the model in `folder` and tokenises the corpus for it, which `score` then need not do."""
        config = loading.load_config(folder, tokenizer)
        families.family_of(config)
        self._prepare(folder, config, tokenizer or folder)

    def close(self) -> None:
        """Stops background work."""
        if self._prefetch is not None:
            self._prefetch.release()

    def score(
        self,
        folder: Path,
        quantization: str,
        weights_key: str,
        progress: Report,
        reading: Reading | None = None,
    ) -> ScoreResult:
        """All vectors of the checkpoint in `folder`. Raises KltuiError on failure, without partial results.

        It fails, for example, if files change during scoring or differ from those of `reading`.
        """
        with ExitStack() as stack:
            files = reading or stack.enter_context(Reading(_unhashed(folder)))
            return self._score(folder, quantization, weights_key, progress, files)

    def _score(
        self, folder: Path, quantization: str, weights_key: str, progress: Report, reading: Reading
    ) -> ScoreResult:
        started = time.perf_counter()
        progress(Progress("tokenize", texts_total=len(self.texts)))
        with device_map.spreading(self.settings.device_map, self.cache_dir) as layout:
            made = self._in_memory(folder, quantization, layout, progress, reading)
            prepared, loaded = made.prepared, made.loaded
            with torch.inference_mode(), fast_float32(self.device), kept_heap():
                device = device_map.engine_device(loaded.model, self.device)
                engine = self._make_engine(loaded, device, quantization, folder)
                before, rule = self._rule, self._rule_for(engine, prepared)
                plain = quantization == "none" and not made.stored and not made.adapter_key
                if (
                    plain and self._rule is not before
                ):  # only for the first of several checkpoints with equal architecture
                    self._compare_dtypes(engine, prepared, rule, folder)
                ready = time.perf_counter()
                sums = self._run(engine, prepared, rule, progress)
                idle = self._idle_seconds(engine, started)
            reading.check_used(by_name=device_map.is_offloaded(loaded.model))
        seconds = {
            "seconds_tokenize": made.tokenized - started,
            "seconds_load": ready - made.tokenized,
            "seconds_score": time.perf_counter() - ready,
            "device_idle_seconds": idle,
        }
        stats = seconds | self._stats(engine, made, sums, seconds["seconds_score"])
        if is_gguf(folder):
            stats["bits_per_weight"] = read_model(folder).bits_per_weight
        key = self._key(engine, prepared, quantization, made.stored, weights_key) | made.adapter_key
        notes = (*made.notes, *loaded.notes, *engine.notes, *rule.notes)
        return self._result(prepared, engine, sums, key, stats, notes, quantization)

    def _in_memory(
        self,
        folder: Path,
        quantization: str,
        layout: device_map.DeviceLayout,
        progress: Report,
        reading: Reading,
    ) -> _InMemory:
        """The loaded checkpoint and the tokenised corpus, both checked before any forward pass."""
        config = loading.load_config(folder, reading.tokenizer)
        with self._adapter(reading) as (adapter, adapter_ahead):
            as_scored = adapters.adapted_config(config, adapter)
            prepared = self._prepare(folder, as_scored, reading.tokenizer or folder)
            notes = self._file_notes(folder, config, prepared, reading.tokenizer)
            tokenized = time.perf_counter()
            progress(Progress("load", texts_total=len(self.texts), tokens_total=prepared.n_tokens))
            stored = quantize.stored(quantize.as_stored(folder, config, quantization)[0])
            loaded, ahead = self._load(folder, config, quantization, layout, reading, adapter)
        self._check(reading)
        key = {} if adapter is None else adapter.key()
        return _InMemory(prepared, loaded, stored, key, notes, ahead or adapter_ahead, tokenized)

    @contextmanager
    def _adapter(self, reading: Reading) -> Iterator[tuple[adapters.Adapter | None, bool]]:
        """Context with (the adapter to apply, or None; whether its tensors were read ahead)."""
        if not isinstance(reading, AdaptedReading):
            yield None, False
            return
        with self._read_ahead(reading.adapted.adapter) as ahead:
            yield adapters.read_adapter(reading.adapted, self.settings.allow_bin, ahead), ahead is not None

    def _stats(self, engine: Engine, made: _InMemory, sums: _Sums, seconds: float) -> dict[str, float]:
        """Statistics of scoring a checkpoint, besides its times; `seconds` is the time of scoring."""
        prepared = made.prepared
        stats = {
            "seconds_body": engine.seconds["body"],
            "seconds_head": engine.seconds["head"],
            "tokens": float(prepared.n_tokens),
            "tokens_per_second": prepared.n_tokens / max(seconds, 1e-9),
            "n_unscored": float((sums.n_scored_R[: len(self.texts)] == 0).sum()),
            "n_overlong": float(prepared.n_overlong),
            "batch_tokens": float(self._budget(engine)),
            "padding_share": 1.0 - prepared.n_inputs / max(sums.cells, 1),
            "weights_read_ahead": float(made.read_ahead),
            "peak_rss_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        }
        if self.device.type == "cuda":
            stats["peak_cuda_bytes"] = peak_cuda_bytes()
        return stats

    def _result(
        self, prepared: _Prepared, engine: Engine, sums: _Sums, key: dict[str, str], stats: dict[str, float],
        notes: tuple[str, ...], quantization: str,
    ) -> ScoreResult:  # fmt: skip
        """The result from a checkpoint's sums: its vectors and, if requested, those of responses without prompts."""
        no_layers = engine.no_layers or sums.no_layers
        notes += (*self._notes(sums, prepared, quantization), *((no_layers,) if no_layers else ()))
        n = len(self.texts)
        # texts, then responses without prompts, if any
        rows, beyond = range(n), range(n, len(prepared.ids))
        return ScoreResult(
            sums.vectors(slice(n)), key, stats, notes, sums.token_logprobs(rows), no_layers,
            sums.vectors(slice(n, None)) if beyond else (),
            sums.token_logprobs(beyond) if beyond else None,
        )  # fmt: skip

    def score_loaded(
        self, loaded: Loaded, made: tokens.Tokenized, weights_key: str, model: str
    ) -> ScoreResult:
        """All vectors of a model that is already in memory, over the tokenised corpus `made`; `model` is its name in errors."""
        scored = answers.laid_out(Path(), made.tokenizer, made.ids, (), self.settings)
        prepared = self._cut(made, scored, loading.context_length(loaded.config), model)
        # not inference mode, so that tensors that the model caches in a forward pass can be used in training afterwards
        with torch.no_grad(), fast_float32(self.device), kept_heap():
            engine = Engine(loaded, self.settings, self.device, "none", self.cache_dir)
            rule = self._rule_for(engine, prepared)
            sums = self._run(engine, prepared, rule, lambda _: None)
        key = self._key(engine, prepared, "none", "", weights_key)
        notes = (*loaded.notes, *engine.notes, *rule.notes)
        return self._result(prepared, engine, sums, key, {}, notes, "none")

    def _file_notes(
        self, folder: Path, config: Any, prepared: _Prepared, tokenizer: Path | None
    ) -> tuple[str, ...]:
        """Notes on the tokenizer and configuration of a GGUF file, which may come from other files."""
        if not is_gguf(folder):
            return ()
        notes = gguf.tokenizer_notes(folder, prepared.tokenizer.backend, self.texts)
        return (*notes, *gguf.config_notes(config, tokenizer))

    def _load(
        self, folder: Path, config: Any, quantization: str, layout: device_map.DeviceLayout, reading: Reading,
        adapter: adapters.Adapter | None,
    ) -> tuple[Loaded, bool]:  # fmt: skip
        """The folder's model, and whether its weights were read ahead.

        If it has the same architecture as the last one, the new weights are copied into that; otherwise it is loaded anew.
        """
        if adapter is not None:
            return self._load_adapted(folder, config, quantization, layout, adapter), False
        self._adapted = None
        described = weight_reload.config_text(config)  # now, because loading modifies the configuration
        self._filled = None
        if quantization == "none" and self._template is not None and self._template.takes(folder, described):
            with self._read_ahead(reading.hashed) as ahead:
                loaded = self._template.fill(folder, ahead)
            self._filled = reading.hashed
            return loaded, ahead is not None
        self._template = self._engine = self._rule = None  # frees the last model before the next one is read
        self.close()
        settings = self.settings
        loaded = loading.load_model(
            folder, config, settings.dtype, quantization, self.device, settings.allow_bin, layout
        )
        if quantization == "none" and not quantize.stored(config):
            self._template = weight_reload.make_template(loaded, folder, described)
            self._filled = reading.hashed
        return loaded, False

    def _load_adapted(
        self,
        folder: Path,
        config: Any,
        quantization: str,
        layout: device_map.DeviceLayout,
        adapter: adapters.Adapter,
    ) -> Loaded:
        """The base with an adapter applied.

        If the last adapter has the same `make`, only its tensors are replaced. Otherwise the adapter is applied to the base,
        which is in memory already if it was just scored with or without another adapter.
        """
        make, settings = adapter.make(quantization), self.settings
        if self._adapted is not None and self._adapted.make == make:
            self._adapted.swap(adapter)
            return self._adapted.loaded
        base = self._base_at_hand(adapter.adapted.base, quantization)
        self._template = self._engine = self._rule = self._adapted = self._filled = None
        self.close()
        if base is None:
            base = loading.load_model(
                folder, config, settings.dtype, quantization, self.device, settings.allow_bin, layout
            )
        self._adapted = adapters.adapt(base, adapter, make, quantization)
        return self._adapted.loaded

    def _base_at_hand(self, base: Hashed, quantization: str) -> Loaded | None:
        """The model in memory, without the last adapter, if it is this base in this variant; otherwise None."""
        if self._adapted is not None:
            return self._adapted.taken_off(base, quantization)
        here = self._filled
        if self._template is None or here is None or quantization != "none" or not base.weights:
            return None
        same = (here.folder, here.weights, here.stamps) == (base.folder, base.weights, base.stamps)
        return self._template.loaded if same else None

    def _read_ahead(self, hashed: Hashed) -> AbstractContextManager[Tensors | None]:
        """Context with the weights of a checkpoint if they were read ahead, otherwise None."""
        return nullcontext() if self._prefetch is None else self._prefetch.taken(hashed)

    def _free_memory(self, engine: Engine) -> None:
        """Frees the memory of a failed batch, and of a second set of weights on the GPU."""
        if self._prefetch is not None:
            self._prefetch.give_way()
        engine.free_memory()

    def _idle_seconds(self, engine: Engine, started: float) -> float:
        """Seconds since the previous checkpoint's result (or since `started`, for the first one) in which no batch was computed."""
        before, self._last_result_s = self._last_result_s, time.perf_counter()
        since = started if before is None else before
        return max(0.0, self._last_result_s - since - engine.seconds["batches"])

    def _check(self, reading: Reading) -> None:
        """Raises KltuiError if the files are not those that were hashed; the loaded model is then not reused."""
        try:
            reading.check()
        except KltuiError:
            self._template = self._engine = self._rule = self._adapted = self._filled = None
            raise

    def _make_engine(self, loaded: Loaded, device: torch.device, quantization: str, folder: Path) -> Engine:
        """The last checkpoint's engine if it still passes its tests with the reloaded weights, otherwise a new one."""
        if self._engine is not None and self._engine.after_reload():
            return self._engine
        self._engine = self._rule = None
        engine = Engine(loaded, self.settings, device, quantization, self.cache_dir)
        if self._adapted is not None or (self._template is not None and self._template.holds(folder)):
            self._engine = engine
        else:
            self._template = None
        return engine

    def _rule_for(self, engine: Engine, prepared: _Prepared) -> BatchRule:
        """Which texts may share a batch, determined once for an engine and a tokenised corpus."""
        if self._rule is None or self._rule[0] is not engine or self._rule[1] is not prepared:
            rule = rule_within_memory(
                engine.final, prepared.pieces, prepared.ids, self._budget(engine), self.settings,
                partial(self._free_memory, engine), engine.dtype,
            )  # fmt: skip
            self._rule = engine, prepared, rule
            engine.seconds = dict.fromkeys(engine.seconds, 0.0)
        return self._rule[2]

    def _compare_dtypes(self, engine: Engine, prepared: _Prepared, rule: BatchRule, folder: Path) -> None:
        """Reports, once, the cost of float32 and its effect if the weights are stored in half precision."""
        settings, tell = self.settings, self.tell_cost
        if tell is None or settings.dtype != "float32" or settings.device_map != "none":
            return
        config = loading.load_config(folder)
        auto = loading.stored_dtype(folder, config)
        if not is_worth_comparing(engine, auto):
            return

        def in_half() -> Engine:
            loaded = loading.load_model(folder, config, auto, "none", self.device, settings.allow_bin)
            return Engine(loaded, settings, engine.device, "none", self.cache_dir)

        cost = dtype_cost(engine, in_half, auto, prepared.pieces, prepared.ids, rule, self._budget(engine))
        self.tell_cost = None
        tell(cost)
        engine.free_memory()
        engine.seconds = dict.fromkeys(engine.seconds, 0.0)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _prepare(self, folder: Path, config: Any, tokenizer_in: Path) -> _Prepared:
        """The corpus in this checkpoint's token ids, checked against the model's context before any forward pass."""
        context, size = loading.context_length(config), getattr(config.get_text_config(), "vocab_size", None)
        same = (tokens.files_digest(tokenizer_in, config), context, size)
        if self._prepared is not None and self._prepared[0] == same:
            return self._prepared[1]
        made = tokens.tokenize(
            tokenizer_in, config, self.settings.bos, self.texts, self.corpus_sha256, self.cache_dir
        )
        scored = answers.laid_out(tokenizer_in, made.tokenizer, made.ids, self.prompts, self.settings)
        checks.check_vocabulary(scored.ids, size)
        prepared = self._cut(made, scored, context, str(folder))
        self._prepared = same, prepared
        return prepared

    def _cut(
        self, made: tokens.Tokenized, scored: answers.ScoredRows, context: int | None, model: str
    ) -> _Prepared:
        """A tokenised corpus, cut for a model with that name and context. Raises KltuiError if no text has a token to score."""
        pieces = answers.cut(scored, context, self.settings.overlong)
        n_overlong = len({row % len(self.texts) for row in answers.overlong_rows(scored, context)})
        prepared = _Prepared(made.tokenizer, made.notes, scored, pieces, n_overlong)
        _check_scored(prepared, model)
        return prepared

    def _budget(self, engine: Engine) -> int:
        """Padded inputs per batch: the number found before for such a model, or the requested one, or the device's initial value."""
        start = self.settings.batch_tokens or engine.start_tokens
        return self._batch_tokens.get(_memory_key(engine), start)

    def _run(self, engine: Engine, prepared: _Prepared, rule: BatchRule, progress: Report) -> _Sums:
        """Sums over all batches; the batch size that fitted in memory is remembered."""
        sums = _Sums(len(self.texts), len(prepared.ids), engine.layers, self.settings.tokens)
        done = 0
        progress(self._progress(sums, done, prepared))  # the speed is measured from here
        for batch, scores, budget in run_batches(
            engine.submit, prepared.pieces, prepared.ids, self._budget(engine), self.settings,
            partial(self._free_memory, engine), rule.group, ahead=engine.transfers.waits,
        ):  # fmt: skip
            sums.add(batch, scores, engine.dtype)
            done += batch.n_scored
            progress(self._progress(sums, done, prepared))
            self._batch_tokens[_memory_key(engine)] = budget
        return sums

    def _progress(self, sums: _Sums, done: int, prepared: _Prepared) -> Progress:
        rows_done = sums.n_scored_R == prepared.text_counts
        texts_done = int(rows_done.reshape(-1, max(len(self.texts), 1)).all(axis=0).sum())
        return Progress("score", texts_done, len(self.texts), done, prepared.n_tokens)

    def _key(
        self,
        engine: Engine,
        prepared: _Prepared,
        quantization: str,
        stored: str,
        weights_key: str,
    ) -> dict[str, str]:
        """The vector's key: everything that can change its values."""
        tokenizer, scored = prepared.tokenizer, prepared.scored.key
        return {
            "weights": weights_key,
            "corpus": self.corpus_sha256,
            **tokenizer.key(),
            "bos": self.settings.bos,
            "prefix": ",".join(map(str, tokenizer.prefix)),
            "overlong": self.settings.overlong,
            "dtype": str(engine.dtype).removeprefix("torch."),
            "quantization": stored or quantization,
            "attention": engine.attention,
            "products": engine.products,
            "lens": "model tail",
            **scored,
            **library_versions(quantization),
        }

    def _notes(self, sums: _Sums, prepared: _Prepared, quantization: str) -> tuple[str, ...]:
        notes = list(prepared.notes)
        notes += answers.notes(prepared.scored, sums.n_scored_R, prepared.n_overlong, self.settings.overlong)
        if quantization == "bnb-8bit":
            notes.append("LLM.int8 multiplies in float16")
        return tuple(notes)


def _unhashed(folder: Path) -> Hashed:
    """A model's files without a hash to compare with; the tokenizer may be in its run's folder."""
    place = tokenizer_folder(folder)
    return Hashed(folder, "", tokenizer=place if place != folder else None)


def _check_scored(prepared: _Prepared, model: str) -> None:
    """Raises KltuiError if no text has a token to score, because the vector would have no values."""
    if prepared.ids and not prepared.n_tokens:
        raise KltuiError(
            f"no text of the corpus has a token to score with the tokenizer of {model}",
            'a text needs two tokens, or one token after a beginning-of-text token (bos = "always")',
        )


def _memory_key(engine: Engine) -> str:
    """What determines the memory available for a batch: the model's architecture, and its device."""
    return f"{engine.shape_key} {engine.device} {getattr(engine.model, 'hf_device_map', '')}"


class _Sums:
    """Accumulates log-likelihoods in float64 per row and vector, and per-token values if they are stored.

    A row is a text; they may be followed by rows of the same texts with another context (R rows in total).
    """

    def __init__(self, n_texts: int, n_rows: int, layers: tuple[int, ...], keep_tokens: bool) -> None:
        self._n_texts = n_texts
        self.loglik_LR = np.zeros((1 + len(layers), n_rows))
        self.n_scored_R = np.zeros(n_rows, dtype=np.int32)
        self.cells = 0  # of all batches, padding included
        self.kept: dict[int, list[NDArray[np.float32]]] | None = {} if keep_tokens else None
        self.layers = layers
        self._undefined: dict[int, int] = {}

    def add(self, batch: Batch, scores: BatchScores, dtype: torch.dtype) -> None:
        """Adds one batch's log-likelihoods. Raises KltuiError that names the text for a NaN or infinity in the final vector.

        A NaN or infinity in a layer's vector only removes that layer from the result.
        """
        wrong_LB = ~np.isfinite(scores.loglik_LB)
        texts_B, n_rows = batch.row_texts, len(self.n_scored_R)
        if wrong_LB[0].any():
            text = int(texts_B[int(np.argmax(wrong_LB[0]))]) % self._n_texts
            raise not_finite_error(text, str(dtype)[6:])
        for row in np.flatnonzero(wrong_LB.any(axis=1)).tolist():
            self._undefined.setdefault(self.layers[row - 1], int(texts_B[int(np.argmax(wrong_LB[row]))]))
        for row, loglik_B in enumerate(scores.loglik_LB):
            if row == 0 or self.layers[row - 1] not in self._undefined:
                self.loglik_LR[row] += np.bincount(texts_B, weights=loglik_B, minlength=n_rows)
        self.n_scored_R += np.bincount(batch.texts_n, minlength=n_rows).astype(np.int32)
        self.cells += scores.cells
        if self.kept is not None:
            assert scores.logp_n is not None
            for text in np.unique(batch.texts_n):
                self.kept.setdefault(int(text), []).append(scores.logp_n[batch.texts_n == text])

    def vectors(self, rows: slice) -> tuple[Vector, ...]:
        """The final vector, and one for each layer that is defined on every text, over these rows; unscored texts are NaN."""
        n_scored_N = self.n_scored_R[rows]
        return tuple(
            Vector(layer, np.where(n_scored_N == 0, np.nan, loglik_R[rows]), n_scored_N.copy())
            for layer, loglik_R in zip((None, *self.layers), self.loglik_LR, strict=True)
            if layer not in self._undefined
        )

    @property
    def no_layers(self) -> str:
        """Which layers are left out and why; "" if none."""
        if not self._undefined:
            return ""
        layers = ", ".join(map(str, sorted(self._undefined)))
        text = self._undefined[min(self._undefined)] % self._n_texts
        return f"layers {layers} are not stored: their log-probabilities are NaN, first in text {text}"

    def token_logprobs(self, rows: range) -> tuple[NDArray[np.float32], ...] | None:
        """The log-probabilities of each row's tokens in order; None if not requested."""
        if self.kept is None:
            return None
        empty = np.zeros(0, dtype=np.float32)
        return tuple(np.concatenate(self.kept.get(i, [empty])) for i in rows)
