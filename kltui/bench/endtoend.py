"""End to end: kltui's scoring beside the reference procedure on random models of Pythia's shapes.

The reference is the procedure of the papers' code: one text at a time, the model's own forward with its defaults,
log_softmax over the full logits, gather, sum. Both sides see the same model and the same ids, block by block in turn,
so that a machine whose speed drifts drifts for both.
"""

from __future__ import annotations

import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kltui import native
from kltui.bench.shapes import BLOCKS, SHAPES, TEXTS, Shape, build_model, neighbours, random_texts
from kltui.bench.sweep import Sweep, bench_sweep
from kltui.json_schema import JSON_SCHEMA
from kltui.scoring.batching import Ids, cut_pieces, fill_batch, plan_batches
from kltui.scoring.engine import Engine
from kltui.scoring.heap import kept_heap
from kltui.scoring.loading import Loaded, pick_device
from kltui.scoring.numerics import fast_float32
from kltui.scoring.settings import ScoringSettings

Logliks = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One way of scoring the texts: ids in, log-likelihoods (vectors, N) out."""

    dtype: str
    score: Callable[[list[Ids]], Logliks]
    engine: Engine | None = None  # None: the reference


@dataclass(frozen=True)
class Case:
    """One row of the table. Seconds are for all texts; memory is the peak beyond what was there before, in MB."""

    model: str
    what: str
    dtype: str
    texts: int
    tokens: int
    reference_seconds: float
    seconds: float
    floor_seconds: float
    body_share: float
    head_share: float
    reference_peak_mb: float
    peak_mb: float
    largest_difference_nat: float

    @property
    def ratio(self) -> float:
        """How many times faster than the reference."""
        return self.reference_seconds / self.seconds

    @property
    def over_floor(self) -> float:
        """Seconds over those of the bare matrix products of body and heads."""
        return self.seconds / self.floor_seconds

    @property
    def most(self) -> float:
        """The reference's seconds over the floor's: the ratio that bare products would have."""
        return self.reference_seconds / self.floor_seconds

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens a second."""
        return self.tokens / self.seconds


def run(device: str, as_json: bool, shapes: Sequence[Shape] = SHAPES) -> int:
    """Exit code 0 once the table, shape by shape, or with `as_json` one JSON object, is on stdout."""
    picked = pick_device(device)
    machine = {"device": str(picked), "machine": _machine(picked), "threads": torch.get_num_threads()}
    _say("" if as_json else _table_head(machine))
    cases = []
    for shape in shapes:
        sys.stderr.write(f"pythia-{shape.name}: building a random model and timing it ...\n")
        found = bench_shape(shape, picked)
        _say("" if as_json else "".join(_table_row(case) + "\n" for case in found))
        cases += found
        gc.collect()
    swept = _swept(shapes[0], picked)
    report = {
        "schema": JSON_SCHEMA,
        **machine,
        "cases": [_as_dict(case) for case in cases],
        "sweeps": [_as_dict(swept)],
    }
    _say(json.dumps(report) + "\n" if as_json else _sweep_lines(swept) + _LEGEND)
    return 0


def _swept(shape: Shape, device: torch.device) -> Sweep:
    """The sweep over a run of the shape, with as much memory as one model of before has left."""
    gc.collect()
    sys.stderr.write(f"pythia-{shape.name}: a sweep over the checkpoints of a run ...\n")
    return bench_sweep(shape, device)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _as_dict(case: Case | Sweep) -> dict[str, Any]:
    """The case and its ratios, with None for NaN, which JSON does not know."""
    names = ("ratio", "most", "over_floor", "tokens_per_second", "over_scoring", "over_own_scoring")
    ratios = {name: getattr(case, name) for name in names if hasattr(case, name)}
    return {k: None if isinstance(v, float) and v != v else v for k, v in {**asdict(case), **ratios}.items()}


def bench_shape(shape: Shape, device: torch.device) -> list[Case]:
    """The cases of one shape: float32 and, where the device multiplies it, a bfloat16 body; and every layer.

    All stand over the float32 reference.
    """
    ids = neighbours(TEXTS if device.type == "cuda" else shape.cpu_texts)
    # An engine packs the layers of its model: the reference has a model of its own, as transformers made it.
    plain, model = build_model(shape).to(device), build_model(shape).to(device)
    bodies = [model]
    if multiplies_bfloat16(device):
        bodies.append(build_model(shape).to(device, torch.bfloat16))
    with torch.inference_mode(), fast_float32(device):
        reference = Side("float32", lambda block: by_reference(plain, block, device))
        ours = [_kltui(m, device, "none") for m in bodies]
        cases = _compare(shape, "final", [reference, *ours], ids, device)
        if shape.layers <= 12:
            lens = Side("float32", lambda block: by_reference_lens(plain, block, device))
            cases += _compare(shape, "layers", [lens, _kltui(model, device, "all")], neighbours(8), device)
    return cases


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has products of bfloat16, without which such a body is several times slower than float32's."""
    return device.type != "cpu" or bool(native.info()["bf16_products"])


def _kltui(model: Any, device: torch.device, layers: Literal["none", "all"]) -> Side:
    """kltui's side on a model in memory, warmed up."""
    engine = make_engine(model, device, layers)
    by_kltui(engine, random_texts(6, seed=1))
    return Side(str(engine.dtype).removeprefix("torch."), lambda block: by_kltui(engine, block), engine)


def _compare(shape: Shape, what: str, sides: list[Side], ids: list[Ids], device: torch.device) -> list[Case]:
    """Time all sides and their floors in turn, block by block; one case per side behind the first, the reference."""
    times, floors, peaks = np.zeros(len(sides)), np.zeros(len(sides)), np.zeros(len(sides))
    values: list[list[Logliks]] = [[] for _ in sides]
    for side in sides[1:]:
        assert side.engine is not None
        side.engine.seconds.update(body=0.0, head=0.0)
    for start in range(BLOCKS):
        for at, side in enumerate(sides):
            block = ids[start * len(ids) // BLOCKS : (start + 1) * len(ids) // BLOCKS]
            with _as_kltui_runs(device) if side.engine else _as_torch_runs():
                seconds, peak, value = _measured(side.score, block, device)
                floors[at] += gemm_floor(side.engine, block, device) if side.engine else 0.0
            times[at] += seconds
            peaks[at] = max(peaks[at], peak)
            values[at].append(value)
    return [
        _case(shape, what, side, at, times, floors, peaks, values, ids) for at, side in enumerate(sides) if at
    ]


@contextmanager
def _as_kltui_runs(device: torch.device) -> Iterator[None]:
    with fast_float32(device), kept_heap():
        yield


@contextmanager
def _as_torch_runs() -> Iterator[None]:
    with fast_float32(torch.device("meta")):  # the default of torch, whatever holds around it
        yield


def _case(
    shape: Shape,
    what: str,
    side: Side,
    at: int,
    times: NDArray[np.float64],
    floors: NDArray[np.float64],
    peaks: NDArray[np.float64],
    values: list[list[Logliks]],
    ids: list[Ids],
) -> Case:
    """The row of side `at`."""
    assert side.engine is not None
    return Case(
        model=shape.name,
        what=what,
        dtype=side.dtype,
        texts=len(ids),
        tokens=sum(len(row) - 1 for row in ids),
        reference_seconds=float(times[0]),
        seconds=float(times[at]),
        floor_seconds=float(floors[at]),
        body_share=side.engine.seconds["body"] / float(times[at]),
        head_share=side.engine.seconds["head"] / float(times[at]),
        reference_peak_mb=float(peaks[0]),
        peak_mb=float(peaks[at]),
        largest_difference_nat=max(
            float(np.abs(a - b).max()) for a, b in zip(values[0], values[at], strict=True)
        ),
    )


def make_engine(model: Any, device: torch.device, layers: Literal["none", "all"]) -> Engine:
    """kltui's engine on a model that is already in memory."""
    model.config.use_cache = (
        True  # the reference keeps transformers' default; kltui asks for none on each call
    )
    loaded = Loaded(model, model.config, "sdpa", next(model.parameters()).dtype, ())
    return Engine(loaded, ScoringSettings(layers=layers), device, "none")


def by_kltui(engine: Engine, ids: list[Ids]) -> Logliks:
    """Log-likelihoods (1 + layers, N), nats: sorted batches, split head, float64 sums."""
    sums = np.zeros((1 + len(engine.layers), len(ids)))
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    for batch in (fill_batch(rows, ids) for rows in plan_batches(pieces, engine.start_tokens)):
        for row, logp_n in enumerate(engine(batch)):
            sums[row] += np.bincount(batch.texts_n, weights=logp_n, minlength=len(ids))
    return sums


def by_reference(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (1, N), nats, as the papers' code computes them."""
    logliks = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        logp_1TV = torch.log_softmax(model(ids_1T).logits, dim=-1)
        logliks.append(logp_1TV[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item())
    return np.array([logliks])


def by_reference_lens(model: Any, ids: list[Ids], device: torch.device) -> Logliks:
    """Log-likelihoods (2 + depth, N), nats, of the final and every layer: norm and head per layer per text."""
    columns = []
    for row in ids:
        ids_1T = torch.from_numpy(row)[None].to(device)
        states = model(ids_1T, output_hidden_states=True).hidden_states
        logits = [model.lm_head(model.gpt_neox.final_layer_norm(h)) for h in states[:-1]]
        logits.append(model.lm_head(states[-1]))  # already normed
        gathered = [
            torch.log_softmax(z, dim=-1)[0, :-1].gather(1, ids_1T[0, 1:, None]).sum().item() for z in logits
        ]
        columns.append([gathered[-1], *gathered])
    return np.array(columns).T


def gemm_floor(engine: Engine, ids: list[Ids], device: torch.device) -> float:
    """Seconds of the bare matrix products of body and heads for all tokens, in the engine's batches, best of three."""
    tokens = sum(len(row) - 1 for row in ids)
    rows = min(engine.start_tokens, tokens)
    total = 0.0
    for shape, count in _linear_shapes(engine).items():
        weight = torch.randn(shape, device=device).to(engine.dtype)
        x = torch.randn(rows, shape[1], device=device).to(engine.dtype)
        total += count * min(_timed_product(x, weight, device) for _ in range(3)) * tokens / rows
    return total


def _timed_product(x: torch.Tensor, weight: torch.Tensor, device: torch.device) -> float:
    return _timed(lambda: torch.nn.functional.linear(x, weight), device)


def _linear_shapes(engine: Engine) -> dict[tuple[int, int], int]:
    """How often each shape of linear layer runs: the head once, and once more for each layer but the last one."""
    model = engine.model
    shapes: dict[tuple[int, int], int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            shape = (module.out_features, module.in_features)
            again = len(engine.layers[:-1]) if module is model.get_output_embeddings() else 0
            shapes[shape] = shapes.get(shape, 0) + 1 + again
    return shapes


def _timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _measured(
    procedure: Callable[[list[Ids]], Logliks], block: list[Ids], device: torch.device
) -> tuple[float, float, Logliks]:
    """Seconds, peak memory beyond the start in MB, and the log-likelihoods of one block."""
    gc.collect()
    before = _reset_peak(device)
    values: list[Logliks] = []
    seconds = _timed(lambda: values.append(procedure(block)), device)
    return seconds, (_peak(device) - before) / 2**20, values[0]


def _reset_peak(device: torch.device) -> float:
    """Bytes in use now; the peak counts from here on, where the system lets it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _status("VmRSS:")


def _peak(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _status("VmHWM:")


def _status(field: str) -> float:
    """A memory figure of this process in bytes, NaN where the system keeps none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * float(line.split()[1]) for line in lines if line.startswith(field)), float("nan"))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


_LEGEND = """
reference: one text at a time in float32, log_softmax over the full logits, gather, sum; glibc then keeps as much freed
memory for it as it ever does by itself;
ratio: reference over kltui, same process, in turn; /floor: kltui over the bare matrix products of body and heads;
most: reference over these products, the ratio at which nothing but they would be left;
sweep: a job over one run's checkpoints, read from disk and verified ahead, beside scoring the same files with nothing else at work
"""


def _table_head(machine: dict[str, Any]) -> str:
    head = f"{'model':6} {'what':7} {'dtype':9} {'texts':>5} {'reference':>10} {'kltui':>8} {'ratio':>6} {'most':>6} "
    head += f"{'tok/s':>8} {'/floor':>7} {'body':>5} {'head':>5} {'rest':>5} {'ref MB':>7} {'MB':>6} {'max |d| nat':>11}"
    return f"{machine['machine']}, {machine['device']}, {machine['threads']} threads\n\n{head}\n"


def _sweep_lines(s: Sweep) -> str:
    return (
        f"\nsweep  {s.model}, {s.dtype}: {s.checkpoints} checkpoints of {s.texts} texts behind the first in {s.seconds:.2f}s, "
        f"scoring alone {s.alone_seconds:.2f}s: {s.over_scoring:.3f}x, over its own scoring {s.over_own_scoring:.3f}x "
        f"(filling and testing the model {s.load_seconds:.2f}s; the first with the job's start {s.first_seconds:.2f}s)\n"
    )


def _table_row(c: Case) -> str:
    rest = 1 - c.body_share - c.head_share
    shares = (
        ["    -"] * 3 if c.what == "layers" else [f"{s:5.2f}" for s in (c.body_share, c.head_share, rest)]
    )
    return (
        f"{c.model:6} {c.what:7} {c.dtype:9} {c.texts:5d} {c.reference_seconds:9.2f}s {c.seconds:7.2f}s "
        f"{c.ratio:5.2f}x {c.most:5.2f}x {c.tokens_per_second:8.0f} {c.over_floor:6.2f}x {' '.join(shares)} "
        f"{c.reference_peak_mb:7.0f} {c.peak_mb:6.0f} {c.largest_difference_nat:11.1e}"
    )
