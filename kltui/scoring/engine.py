"""A loaded model, prepared to compute the log-probabilities of the targets of batches."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.kernels import cuda
from kltui.scoring import (
    attention,
    families,
    model_introspection,
    prepacked_linear,
    quantize,
    unpadded,
    wide_stream,
)
from kltui.scoring.attention import NativeAttention
from kltui.scoring.batching import Batch, BatchScores, sum_rows
from kltui.scoring.device import start_tokens
from kltui.scoring.head import Head, HeadTrial, chunk_bytes, log_softmax_gather, make_head
from kltui.scoring.lens import Flow, LayerLogprobs, Lens, LensError
from kltui.scoring.loading import Loaded, context_length, first_line
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.numerics import kernel_chooser
from kltui.scoring.rotary import NativeRotary
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.transfer import Mark, transfers
from kltui.scoring.unpadded import RowAttention, UnsuitedError

PROBE_TOKENS = 256  # tokens of a test batch, long enough to show effects in texts of usual length


class _Read(NamedTuple):
    """The model's inputs for a batch, on the device: ids, flat positions to score, further inputs, and a context to run it in."""

    ids_BT: torch.Tensor
    positions_n: torch.Tensor
    more: dict[str, torch.Tensor]
    attending: AbstractContextManager[None]


class Engine:
    """Runs batches through one model. `layers` are those that get a vector too; `notes` are observations for the user.

    `no_layers` is the reason why requested layers are not available.
    `cache_dir`: where a job stores its choice of kernels.
    `seconds` is the total time of all submitted batches, and of body and head if they run separately.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: ScoringSettings,
        device: torch.device,
        quantization: str,
        cache_dir: Path | None = None,
    ) -> None:
        self.model = loaded.model
        self.dtype = loaded.dtype
        self.attention = loaded.attention
        self.device = device
        self.transfers = transfers(device)
        self.notes: tuple[str, ...] = ()
        self.layers: tuple[int, ...] = ()
        self.no_layers = ""
        self.seconds = {"batches": 0.0, "body": 0.0, "head": 0.0}
        self.start_tokens = start_tokens(device.type)
        self.shape_key = (
            f"{loaded.config.model_type} {self.model.num_parameters()} {self.dtype} {quantization}"
        )
        self._chooser = kernel_chooser(cache_dir) if device.type == "cpu" else None
        self._packing: prepacked_linear.Packing | None = None
        self._native: NativeAttention | None = None
        self._rotary: NativeRotary | None = None
        self._wide = False  # a bfloat16 model with float32 between its products
        self._row: RowAttention | None = None
        self._all_served = True  # every faster way that was tried passed its test
        prepacked_linear.unpack(
            self.model
        )  # a model with reloaded weights still has the packed weights of the last checkpoint
        try:
            self._head = make_head(self.model, self.dtype, self._chooser)
            self._check_causal()
            self._speed_up()
            self._try_one_row()
        except (
            RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError
        ) as error:  # fmt: skip
            hint = _run_hint(self.model, quantization)
            raise KltuiError(f"the model fails on a small batch: {first_line(error)}", hint) from error
        if device.type == "cuda" and (why := cuda.why_not(device)):
            self.notes += (
                f"kltui's own GPU kernels are not used; torch is used instead, more slowly: {why}",
            )
        if self._head is None:
            self.notes += ("the model's head cannot be separated; its own logits are used, in chunks",)
        self._settings = settings
        self._lens = self._make_lens(settings)

    def after_reload(self) -> bool:
        """Updates the engine to its model's new weights; whether it can be used with them.

        Properties of the architecture are the same for all checkpoints of a run; that the values agree is tested for each.
        """
        if self._head is None or not self._all_served:
            return False
        module, head = self._head
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        try:
            prepacked_linear.unpack(self.model)
            probe = HeadTrial(self.model)
            self._head = module, head.after_reload()
            if self._packing is not None and not self._packing.apply():
                return False
            if self._wide:
                wide_stream.apply(self.model, module, self._packing)
            # In half precision, the layers and the head may each deviate as much as is allowed for one of them.
            slack = 0.0 if self.dtype == torch.float32 else 64 * torch.finfo(self.dtype).eps
            with self._attending():
                if not probe.agrees(*self._head, self.dtype, slack):
                    return False
            if self._row is not None and not self._agrees_in_one_row():
                return False
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # a new engine will report the reason
        self._lens = self._make_lens(self._settings)
        return True

    @property
    def products(self) -> str:
        """How the head and the linear layers are computed, in words for the vector's key, because these ways round differently."""
        head = "whole model's" if self._head is None else self._head[1].name
        between = ", float32 between them" if self._wide else ""
        return f"{head} head, {'plain' if self._packing is None else self._packing} linear layers{between}"

    def _check_causal(self) -> None:
        module = None if self._head is None else self._head[0]
        with self._attending():
            looks_ahead = model_introspection.looks_ahead(self.model, module, self.dtype)
        if looks_ahead:
            raise KltuiError(
                "this model's output at a position depends on later tokens: it is not a causal language model",
                "its log-likelihoods would be meaningless; leave it out",
            )

    def _speed_up(self) -> None:
        """Uses packed linear layers and native attention where possible, if a small batch gives the same values."""
        if self._head is None or self.device.type != "cpu":
            return
        module, head = self._head
        width = min(PROBE_TOKENS, context_length(self.model.config) or PROBE_TOKENS)
        ids_BT = model_introspection.probe_ids(self.model, rows=1, width=width)

        def hidden() -> torch.Tensor:
            return model_introspection.body(self.model, module, ids_BT).flatten(0, 1)

        def answers() -> NDArray[np.float32]:
            return head(hidden(), ids_BT.flatten()).cpu().numpy()

        before = answers()
        self._packing = prepacked_linear.find(self.model, module, self.start_tokens, hidden, self._chooser)
        if self._packing is not None and not self._packing.apply():
            self._packing = None  # `apply` has logged why
        if self._packing is not None and not _same(answers(), before, self.dtype):
            prepacked_linear.unpack(self.model)
            self._packing, self._all_served = None, False
        if self.dtype == torch.bfloat16 and wide_stream.is_possible(self.model):
            self._try_wide_stream(answers, before)
        if attention.is_possible(self.model) and self._attends_faster():
            self._try_native_attention(answers, before)
        self._try_native_rotary(answers)

    def _attends_faster(self) -> bool:
        config, dtype = self.model.config.get_text_config(), torch.float32 if self._wide else self.dtype
        return self._chooser is None or attention.is_faster(config, dtype, self._chooser)

    def _try_native_attention(
        self, answers: Callable[[], NDArray[np.float32]], before: NDArray[np.float32]
    ) -> None:
        self._native = NativeAttention()
        with self._attending():
            same = _same(answers(), before, self.dtype)
        if same and self._native.calls:
            self.attention = attention.NAME
            self._check_causal()
        else:
            self._native, self._all_served = None, self._all_served and same

    def _try_native_rotary(self, answers: Callable[[], NDArray[np.float32]]) -> None:
        """Rotates queries and keys in place, if a small batch gives bit-identical values."""
        rotary = NativeRotary(self.model)
        if not rotary.is_possible:
            return
        with self._attending():
            before = answers()
            with rotary.in_place():
                same = np.array_equal(answers(), before)
        self._rotary = rotary if same and rotary.calls else None

    def _try_wide_stream(
        self, answers: Callable[[], NDArray[np.float32]], before: NDArray[np.float32]
    ) -> None:
        """Uses float32 between matrix products, if the model supports it and a small batch gives the same values."""
        module, _ = self._split()
        try:
            wide_stream.apply(self.model, module, self._packing)
            with self._attending():
                goes_through = wide_stream.goes_through(self.model, module)
                self._wide = goes_through and _same(answers(), before, self.dtype)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if ran_out(error):
                raise  # not a property of the model
            self._wide = False
        if not self._wide:
            prepacked_linear.unpack(self.model)
            if self._packing is not None:
                self._packing.apply()

    def _try_one_row(self) -> None:
        """Concatenates texts instead of padding them, if torch supports it and a small batch gives the same values as padded."""
        kernel = unpadded.kernel_for(self.device, self.dtype)
        if kernel is None or self._head is None or not unpadded.takes_positions(self.model):
            return
        self._row = RowAttention(kernel)
        try:
            same = self._agrees_in_one_row()
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if ran_out(error):
                raise  # not a property of the model
            self._row = None
            return
        if same:
            self.attention = unpadded.NAME
        else:
            self._row, self._all_served = None, False

    def _agrees_in_one_row(self) -> bool:
        """Whether a small batch of concatenated texts gives the same values as padded. Raises UnsuitedError if it is impossible."""
        row, self._row = self._row, None
        assert row is not None
        width = min(PROBE_TOKENS, context_length(self.model.config) or PROBE_TOKENS)
        ids_n = model_introspection.probe_ids(self.model, rows=1, width=width).cpu().numpy()[0]
        batch, other = (unpadded.probe_batch(ids_n, first_changed=changed) for changed in (False, True))
        padded_n = self.final(batch)
        self._row, row.calls = row, 0
        hidden_nD, changed_nD = self.hidden(batch), self.hidden(other)
        depth = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        if row.calls != 2 * (depth or 0) or unpadded.leaks(hidden_nD, changed_nD, len(ids_n) - 1):
            raise UnsuitedError("not every layer uses attention, or texts in one row influence each other")
        return _same(self.final(batch), padded_n, self.dtype)

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """Context in which the model uses the native attention and rotation that passed their tests."""
        with ExitStack() as stack:
            for replacement in (self._native, self._rotary):
                if replacement is not None:
                    stack.enter_context(replacement.in_place())
            yield

    def _make_lens(self, settings: ScoringSettings) -> Lens | None:
        """The lens for the requested layers; None if there are none, or they are not available (`no_layers` says why)."""
        self.layers, self.no_layers = (), ""
        if settings.layers in ("none", ()):
            return None
        if self._head is None:
            self.no_layers = "layers cannot be scored: this model's head cannot be separated"
            return None
        try:
            lens = Lens(self.model, *self._head, settings.layers, self.dtype)
        except LensError as error:
            self.no_layers = error.message
            return None
        self.layers = lens.wanted
        return lens

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probabilities (1 + layers, n) of the batch's targets, in nats."""
        return self.transfers.fetch(self._logprobs(batch, []))()

    def final(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probabilities (n,) of the batch's targets by the whole model, in nats."""
        return self.transfers.fetch(self._final(batch, []))()

    def submit(self, batch: Batch) -> Callable[[], BatchScores]:
        """Submits the batch for scoring, on a GPU without waiting; calling the result waits for the scores and returns them."""
        marks: list[Mark] = []
        begun = self.transfers.mark()
        logp_Ln = self._logprobs(batch, marks)
        sums = self._row_sums(logp_Ln, batch)
        tokens = self.transfers.fetch(logp_Ln[0]) if self._settings.tokens else None
        ended = self.transfers.mark()
        cells = batch.ids_BT.size if self._row is None else batch.n_inputs

        def result() -> BatchScores:
            scores = BatchScores(sums(), cells, None if tokens is None else tokens())
            self._count_seconds(marks)
            self.seconds["batches"] += self.transfers.seconds(begun, ended)
            return scores

        return result

    def _row_sums(self, logp_Ln: torch.Tensor, batch: Batch) -> Callable[[], NDArray[np.float64]]:
        """A function that waits for and returns the sums over the targets of each row, (1 + layers, B)."""
        B = len(batch.ids_BT)
        if not cuda.usable(logp_Ln.device):
            fetched = self.transfers.fetch(logp_Ln)
            return lambda: sum_rows(fetched(), batch.rows_n, B)
        rows_n = self.transfers.send(batch.rows_n).to(logp_Ln.device)
        sums = [cuda.sum_by_text(logp_n, rows_n, B) for logp_n in logp_Ln]
        return self.transfers.fetch(torch.stack(sums))

    def _logprobs(self, batch: Batch, marks: list[Mark]) -> torch.Tensor:
        """Log-probabilities (1 + layers, n) in nats, on the device; time marks around body and head are added to `marks`."""
        if self._lens is not None:
            return self._with_layers(self._lens, batch)
        return self._final(batch, marks)[None]

    def _final(self, batch: Batch, marks: list[Mark]) -> torch.Tensor:
        """Log-probabilities (n,) by the whole model; time marks before, between and after body and head are added to `marks`."""
        if self._head is None:
            return self._by_own_logits(batch)
        mark = self.transfers.mark
        marks.append(mark())
        hidden_nD = self.hidden(batch)
        marks.append(mark())
        logp_n = self._head[1](hidden_nD, self.transfers.send(batch.targets_n))
        marks.append(mark())
        return logp_n

    def _count_seconds(self, marks: list[Mark]) -> None:
        """Adds the times of body and head in a finished batch, if they were run separately."""
        for part, before, after in zip(("body", "head"), marks[:-1], marks[1:], strict=bool(marks)):
            self.seconds[part] += self.transfers.seconds(before, after)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The inputs of the model's head at the batch's target positions, (n, D)."""
        read = self._read(batch)
        with read.attending:
            body = model_introspection.body(self.model, self._split()[0], read.ids_BT, **read.more)
            return model_introspection.rows(body, read.positions_n)

    def logits(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Final logits (n, V) in float32 of at most `logit_rows` hidden states."""
        return self._split()[1].logits(hidden_nD)

    @property
    def logit_rows(self) -> int:
        """The maximum number of rows of logits in memory at a time."""
        return self._split()[1].rows(self.device)

    def _split(self) -> tuple[Any, Head]:
        if self._head is None:
            raise KltuiError(
                "this model's head cannot be split off", "its log-likelihoods can still be scored"
            )
        return self._head

    def _read(self, batch: Batch) -> _Read:
        """The model's inputs for a batch: padded, or concatenated in one row."""
        send = self.transfers.send
        if self._row is None:
            return _Read(send(batch.ids_BT), send(batch.positions_n), {}, self._attending())
        row = unpadded.in_one_row(batch)
        return _Read(
            send(row.ids_1T),
            send(row.positions_n),
            {"position_ids": send(row.places_1T)},
            self._row.over(send(row.starts), row.longest),
        )

    def _with_layers(self, lens: Lens, batch: Batch) -> torch.Tensor:
        """The log-probabilities of the final layer and of each requested one, (1 + layers, n), computed during one forward pass."""
        module, head = self._split()
        read, targets_n = self._read(batch), self.transfers.send(batch.targets_n)
        layers = LayerLogprobs(head, targets_n)

        def consume(k: int, flow: Flow) -> None:
            if k < lens.depth:
                layers.add(k, lens.head_input(flow, read.ids_BT, read.positions_n, **read.more))

        with lens.watching(consume), read.attending:
            hidden_nD = model_introspection.rows(
                model_introspection.body(self.model, module, read.ids_BT, **read.more), read.positions_n
            )
        layers.add(lens.depth, hidden_nD)
        found = layers.found()
        final_n = found[lens.depth]
        # layers and head of a spread model may be on several devices
        return torch.stack([final_n, *(found[k].to(final_n.device) for k in lens.wanted)])

    def _by_own_logits(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities from the model's own logits, for some positions at a time if the model supports `logits_to_keep`."""
        B, T = batch.ids_BT.shape
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        step = max(1, 16 * chunk_bytes(self.device) // (4 * vocabulary * B)) if keeps else T
        send, ids_BT = self.transfers.send, self.transfers.send(batch.ids_BT)
        row_n, column_n = np.divmod(batch.positions_n, T)
        order, parts = np.argsort(column_n // step, kind="stable"), []
        for start in range(0, T, step):
            columns = torch.arange(start, min(start + step, T), device=self.device)
            options: dict[str, Any] = {"logits_to_keep": columns} if keeps else {}
            logits = model_introspection.run(self.model, ids_BT, **options)
            # selected on the host, because selection by a mask on a GPU would wait for it
            here = order[column_n[order] // step == start // step]
            rows = logits[send(row_n[here]), send(column_n[here] - start)]
            parts.append(log_softmax_gather(rows, send(batch.targets_n[here]), LogitRule()))
        return torch.cat(parts)[send(np.argsort(order))]

    def free_memory(self) -> None:
        """Frees memory left over from a failed batch."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _run_hint(model: Any, quantization: str) -> str:
    """The hint for a model that does not run."""
    if quantize.is_quantized(quantization):
        return quantize.refusal(quantization, model)
    if families.notes_of(model.config):
        return "it may need an image or sound, and kltui scores texts alone; otherwise check that it runs in transformers"
    return "check that it runs in transformers"


def _same(found_n: NDArray[np.float32], wanted_n: NDArray[np.float32], dtype: torch.dtype) -> bool:
    """Whether log-probabilities differ by rounding alone: at most 1e-4 nats in float32, 64 eps (mean: 4 eps) otherwise."""
    difference_n = np.abs(found_n - wanted_n)
    if dtype == torch.float32:
        return bool(difference_n.max() <= 1e-4)
    eps = torch.finfo(dtype).eps
    return bool(difference_n.max() <= 64 * eps and difference_n.mean() <= 4 * eps)
