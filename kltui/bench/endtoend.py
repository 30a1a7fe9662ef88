"""End to end: kltui's scoring compared with the reference procedure and an optimised loop, on random models of Pythia's shapes.

The reference is the procedure of the papers' code: one text at a time, the model's own forward pass with its defaults,
log_softmax over the full logits, gather, sum. The careful loop is optimised code with transformers. All use the same
weights and ids and take turns block by block, so that changes in the machine's speed affect all.
"""

from __future__ import annotations

import gc
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kltui.bench.against import lacking as absent
from kltui.bench.against import make_rival, version
from kltui.bench.agreement import CAREFUL, TOLERANCE_NAT, Beside, largest
from kltui.bench.loops import Logliks, by_careful_loop, by_reference, by_reference_lens
from kltui.bench.parts import MODEL_PARTS
from kltui.bench.shapes import BLOCKS, LARGE, SHAPES, TEXTS, ModelShape, build_model, neighbours, random_texts
from kltui.bench.sweep import Sweep, bench_sweep
from kltui.json_schema import JSON_SCHEMA
from kltui.kernels import native
from kltui.scoring.batch_effects import BatchRule
from kltui.scoring.batching import Ids, cut_pieces
from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded, first_line, pick_device
from kltui.scoring.malloc_tuning import kept_heap
from kltui.scoring.numerics import fast_float32
from kltui.scoring.oom_retry import run_batches
from kltui.scoring.settings import ScoringSettings

# Memory of a GPU besides the models: logits of the loops, states of a batch, operands of products, libraries.
_WORKING_BYTES = 6 << 30


@dataclass(frozen=True)
class BenchSide:
    """One way of scoring the texts: a function from token ids to log-likelihoods (vectors, N) in nats."""

    kind: str  # reference, careful, kltui, or a program of bench.parts.RIVALS
    dtype: str
    score: Callable[[list[Ids]], Logliks]
    engine: Engine | None = None  # for kltui only


@dataclass
class Timed:
    """The measurements of a side over all blocks: seconds, those of its matrix products alone, peak MB, values by block."""

    seconds: float = 0.0
    floor: float = 0.0
    peak_mb: float = 0.0
    values: list[Logliks] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One row of the table. Seconds are for all texts; memory is the additional peak in MB.

    `careful_seconds` is NaN without such a loop; `largest_difference_nat`, the difference from the float32 reference, is NaN
    if no side is in float32.
    """

    model: str
    what: str
    dtype: str
    reference_dtype: str
    texts: int
    tokens: int
    reference_seconds: float
    careful_seconds: float
    seconds: float
    floor_seconds: float
    body_share: float
    head_share: float
    reference_peak_mb: float
    peak_mb: float
    largest_difference_nat: float

    @property
    def ratio(self) -> float:
        """How many times faster kltui is than the reference."""
        return self.reference_seconds / self.seconds

    @property
    def over_careful(self) -> float:
        """How many times faster kltui is than the careful loop in the same dtype."""
        return self.careful_seconds / self.seconds

    @property
    def over_floor(self) -> float:
        """Time divided by that of the matrix products of body and heads alone."""
        return self.seconds / self.floor_seconds

    @property
    def maximum(self) -> float:
        """The reference's time divided by that of the matrix products alone: the largest possible speed-up."""
        return self.reference_seconds / self.floor_seconds

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Found:
    """The measurements of one shape: rows of the table, and comparisons of other ways of scoring with kltui."""

    cases: list[Case] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)


def run(
    device: str,
    as_json: bool,
    shapes: Sequence[ModelShape] = (),
    parts: Sequence[str] = tuple(MODEL_PARTS),
    against: Sequence[str] = (),
) -> int:
    """Prints a table, or with `as_json` one JSON object; returns the exit code, 1 if values differ by more than the tolerance."""
    picked = pick_device(device)
    missing = {name: why for name in against if (why := absent(name))}
    able = [name for name in against if name not in missing]
    machine = {"device": str(picked), "machine": _machine(picked), "threads": torch.get_num_threads()}
    _say("" if as_json else "".join(f"{why}\n" for why in missing.values()) + _table_head(machine, parts))
    found: list[Found] = []
    skipped: dict[str, str] = {}
    for shape in shapes or ((*SHAPES, LARGE) if picked.type == "cuda" else SHAPES):
        own = [
            part
            for part in parts
            if part != "layers" or shape.layers <= 12 or (shapes and shape is not LARGE)
        ]
        got = _found_or_why(shape, picked, own, able)
        if isinstance(got, str):
            skipped[shape.name] = got
            _say("" if as_json else f"{shape.name:6} left out: {got}\n")
            continue
        found.append(got)
        _say("" if as_json else _lines(got))
    first = (shapes or SHAPES)[0]
    swept = [_swept(first, picked)] if "sweep" in parts and first is not LARGE else []
    report = {
        "schema": JSON_SCHEMA,
        **machine,
        "parts": list(parts),
        "cases": [_as_dict(case) for one in found for case in one.cases],
        "beside": [_as_dict(beside) for one in found for beside in one.beside],
        "missing": missing,
        "skipped": skipped,
        "sweeps": [_as_dict(sweep) for sweep in swept],
    }
    _say(json.dumps(report) + "\n" if as_json else "".join(map(_sweep_lines, swept)) + _LEGEND)
    return 0 if all(beside.agrees for one in found for beside in one.beside) else 1


def _lines(found: Found) -> str:
    rows = [_table_row(case) + "\n" for case in found.cases]
    return "".join([*rows, *(beside.line() for beside in found.beside)])


def _found_or_why(
    shape: ModelShape, device: torch.device, parts: Sequence[str], against: Sequence[str]
) -> Found | str:
    """The measurements of one shape, or the reason why it is left out, such as too little memory."""
    if not against and not {"final", "layers"} & set(parts):
        return Found()
    sys.stderr.write(f"pythia-{shape.name}: building a random model and timing it ...\n")
    try:
        return lacking(shape, device) or bench_shape(shape, device, parts, against)
    except torch.OutOfMemoryError as error:
        return first_line(error)
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def lacking(shape: ModelShape, device: torch.device) -> str:
    """Why the shape is not measured on `device`: too little memory of the GPU, or a shape only for GPUs; "" if it is."""
    if device.type != "cuda":
        return "it is timed only on a GPU" if shape is LARGE else ""
    free, _ = torch.cuda.mem_get_info(device)
    needed = _WORKING_BYTES + shape.parameters * sum(dtype.itemsize for dtype in _dtypes(shape, device))
    return "" if free >= needed else f"it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def _swept(shape: ModelShape, device: torch.device) -> Sweep:
    """The measurement of a whole run of the shape, after the memory of the models before it was released."""
    gc.collect()
    sys.stderr.write(f"pythia-{shape.name}: a sweep over the checkpoints of a run ...\n")
    return bench_sweep(shape, device)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _as_dict(found: Case | Beside | Sweep) -> dict[str, Any]:
    """The measurements and their ratios as JSON data, with None for NaN."""
    names = (
        "ratio",
        "maximum",
        "over_careful",
        "over_floor",
        "tokens_per_second",
        "over_scoring",
        "over_own_scoring",
        "agrees",
    )
    more = {
        "most" if name == "maximum" else name: getattr(found, name) for name in names if hasattr(found, name)
    }
    return {k: None if isinstance(v, float) and v != v else v for k, v in {**asdict(found), **more}.items()}


def bench_shape(
    shape: ModelShape,
    device: torch.device,
    parts: Sequence[str] = ("final", "layers"),
    against: Sequence[str] = (),
) -> Found:
    """Measures one shape, in the dtypes that the device multiplies fast, and all layers in float32.

    On a CPU all are compared with the reference in float32, on a GPU with the reference in their own dtype.
    """
    ids = neighbours(TEXTS if device.type == "cuda" else shape.cpu_texts)
    found = Found()
    with torch.inference_mode(), fast_float32(device), ExitStack() as stack:
        sides = _sides(shape, device, "final" in parts, against, stack)
        timed = _timed_in_turn(sides, ids, device)
        found.beside.extend(_beside(shape, sides, timed, ids))
        if "final" in parts:
            found.cases.extend(_cases(shape, "final", sides, timed, ids))
    with torch.inference_mode(), fast_float32(device):
        if "layers" in parts:
            plain, model = (build_model(shape).to(device) for _ in range(2))
            lens = BenchSide("reference", "float32", lambda block: by_reference_lens(plain, block, device))
            sides, ids = [lens, _kltui(model, device, "all")], neighbours(8)
            found.cases.extend(_cases(shape, "layers", sides, _timed_in_turn(sides, ids, device), ids))
    return found


def _sides(
    shape: ModelShape, device: torch.device, final: bool, against: Sequence[str], stack: ExitStack
) -> list[BenchSide]:
    """Reference, careful loop and kltui for each dtype; on a CPU the reference only in float32.

    Other programs are compared with kltui in the dtype in which they are fastest with correct values; without `final`, only
    they are measured.
    """
    sides: list[BenchSide] = []
    for dtype in _dtypes(shape, device):
        rivals = against if dtype == (torch.float32 if device.type == "cpu" else torch.float16) else ()
        if not final and not rivals:
            continue
        plain, model = _models(shape, dtype, device)
        name = _name(dtype)
        if final and (device.type != "cpu" or not sides):
            sides.append(BenchSide("reference", name, partial(by_reference, plain, device=device)))
        if final:
            sides.append(BenchSide("careful", name, partial(by_careful_loop, plain, device=device)))
        sides += [BenchSide(rival, name, make_rival(rival, plain, device, stack)) for rival in rivals]
        sides.append(_kltui(model, device, "none"))
    return sides


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _models(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """(model for the loops, model for kltui); on a GPU the same, because kltui's engine does not change it."""
    if shape is LARGE:
        model = build_model(shape, dtype, str(device))
        return model, model
    plain = build_model(shape).to(device, dtype)
    return plain, plain if device.type == "cuda" else build_model(shape).to(device, dtype)


def _dtypes(shape: ModelShape, device: torch.device) -> list[torch.dtype]:
    """The dtypes in which the shape is measured on `device`."""
    if device.type == "cuda":
        return [torch.float16] if shape is LARGE else [torch.float32, torch.float16, torch.bfloat16]
    return [torch.float32, torch.bfloat16] if multiplies_bfloat16(device) else [torch.float32]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16; otherwise it is several times slower than float32."""
    return device.type != "cpu" or bool(native.info()["bf16_products"])


def _kltui(model: Any, device: torch.device, layers: Literal["none", "all"]) -> BenchSide:
    """kltui with a model in memory, warmed up."""
    engine = make_engine(model, device, layers)
    by_kltui(engine, random_texts(6, seed=1))
    return BenchSide("kltui", _name(engine.dtype), lambda block: by_kltui(engine, block), engine)


def _timed_in_turn(sides: list[BenchSide], ids: list[Ids], device: torch.device) -> list[Timed]:
    """Measures all sides and their floors in turn, block by block.

    On a GPU each side first scores the block of the longest texts untimed, which loads kernels and chooses tiles.
    """
    timed = [Timed() for _ in sides]
    if device.type == "cuda":
        for side in sides:
            with _as_its_users_run(side, device):
                _measured(side.score, ids[(BLOCKS - 1) * len(ids) // BLOCKS :], device)
    for side in sides:
        if side.engine is not None:
            side.engine.seconds.update(body=0.0, head=0.0)
    for start in range(BLOCKS):
        block = ids[start * len(ids) // BLOCKS : (start + 1) * len(ids) // BLOCKS]
        for side, took in zip(sides, timed, strict=True):
            with _as_its_users_run(side, device):
                seconds, peak, value = _measured(side.score, block, device)
                took.floor += gemm_floor(side.engine, block, device) if side.engine else 0.0
            took.seconds += seconds
            took.peak_mb = max(took.peak_mb, peak)
            took.values.append(value)
    return timed


def _beside(shape: ModelShape, sides: list[BenchSide], timed: list[Timed], ids: list[Ids]) -> list[Beside]:
    """The comparisons of the careful loop and other programs with kltui in the same dtype."""
    ours = {s.dtype: t for s, t in zip(sides, timed, strict=True) if s.engine is not None}
    return [
        Beside(
            name=CAREFUL if side.kind == "careful" else side.kind,
            version="" if side.kind == "careful" else version(side.kind),
            model=shape.name,
            dtype=side.dtype,
            texts=len(ids),
            largest_difference_nat=largest(took.values, ours[side.dtype].values),
            tolerance_nat=max(TOLERANCE_NAT[side.dtype], TOLERANCE_NAT.get(side.kind, 0.0)),
            seconds=took.seconds,
            kltui_seconds=ours[side.dtype].seconds,
        )
        for side, took in zip(sides, timed, strict=True)
        if side.kind not in ("reference", "kltui")
    ]


def _cases(
    shape: ModelShape, what: str, sides: list[BenchSide], timed: list[Timed], ids: list[Ids]
) -> list[Case]:
    """One row of the table for each dtype of kltui."""
    return [_case(shape, what, k, sides, timed, ids) for k, side in enumerate(sides) if side.engine]


@contextmanager
def _as_its_users_run(side: BenchSide, device: torch.device) -> Iterator[None]:
    """Context with torch's defaults for the reference and other programs, and kltui's settings for the others."""
    if side.kind not in ("careful", "kltui"):
        with fast_float32(torch.device("meta")):
            yield
    else:
        with fast_float32(device), kept_heap():
            yield


def _case(
    shape: ModelShape, what: str, at: int, sides: list[BenchSide], timed: list[Timed], ids: list[Ids]
) -> Case:
    """The row of side `at`, relative to the reference in its dtype, or to the first reference if there is none."""
    side, took = sides[at], timed[at]
    assert side.engine is not None
    found = {(s.kind, s.dtype): (s, t) for s, t in zip(sides, timed, strict=True)}
    beside, reference = found.get(("reference", side.dtype), (sides[0], timed[0]))
    careful = found.get(("careful", side.dtype))
    exact = found.get(("reference", "float32"))
    return Case(
        model=shape.name,
        what=what,
        dtype=side.dtype,
        reference_dtype=beside.dtype,
        texts=len(ids),
        tokens=sum(len(row) - 1 for row in ids),
        reference_seconds=reference.seconds,
        careful_seconds=math.nan if careful is None else careful[1].seconds,
        seconds=took.seconds,
        floor_seconds=took.floor,
        body_share=side.engine.seconds["body"] / took.seconds,
        head_share=side.engine.seconds["head"] / took.seconds,
        reference_peak_mb=reference.peak_mb,
        peak_mb=took.peak_mb,
        largest_difference_nat=math.nan if exact is None else largest(exact[1].values, took.values),
    )


def make_engine(model: Any, device: torch.device, layers: Literal["none", "all"]) -> Engine:
    """kltui's engine for a model that is already in memory."""
    model.config.use_cache = (
        True  # transformers' default, for the reference; kltui turns the cache off in each call
    )
    loaded = Loaded(model, model.config, "sdpa", next(model.parameters()).dtype, ())
    return Engine(loaded, ScoringSettings(layers=layers), device, "none")


def by_kltui(engine: Engine, ids: list[Ids]) -> Logliks:
    """Log-likelihoods (1 + layers, N) in nats, scored in batches like those of a job."""
    sums = np.zeros((1 + len(engine.layers), len(ids)))
    pieces = cut_pieces([len(row) for row in ids], 1, None, "error")
    for batch, scores, _ in run_batches(
        engine.submit, pieces, ids, engine.start_tokens, ScoringSettings(), engine.free_memory,
        BatchRule().group, ahead=engine.transfers.waits,
    ):  # fmt: skip
        sums[:, batch.row_texts] += scores.loglik_LB
    return sums


def gemm_floor(engine: Engine, ids: list[Ids], device: torch.device) -> float:
    """Seconds of the matrix products of body and heads alone, for all tokens, in the engine's batches; best of three."""
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
    """{shape of a linear layer: how often it runs}; the head runs once, and once more for each layer except the last."""
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
    """(seconds, additional peak memory in MB, log-likelihoods) of one block."""
    gc.collect()
    before = _reset_peak(device)
    values: list[Logliks] = []
    seconds = _timed(lambda: values.append(procedure(block)), device)
    return seconds, (_peak(device) - before) / 2**20, values[0]


def _reset_peak(device: torch.device) -> float:
    """Bytes in use now; also resets the peak, if the system allows it."""
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
    """A memory field of this process in bytes; NaN if the system does not report it."""
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
dtype: of kltui's computation; its logits are in float32 and its sums in float64 in any case;
reference: one text at a time, log_softmax over the full logits, gather, sum, in the dtype of the column "in" (on a CPU
float32, on a GPU kltui's), with glibc's default settings for keeping freed memory;
ratio: time of the reference / time of kltui, in the same process, in turn; careful: time of a batched loop in transformers
(sorted by length, padded on the right, sdpa, head on scored rows only) in kltui's dtype / time of kltui; /floor: time of kltui
/ time of the matrix products of body and heads alone, in kltui's dtype; most: time of the reference / time of these
products, the largest possible ratio;
max |d|: largest difference from the reference in float32, - if there is no such reference;
below a model's rows: the careful loop and other programs (--against), in the dtype in which their values are compared with
kltui's; then their times divided by kltui's; the time of lm_eval includes its tokenisation;
sweep: a job over one run's checkpoints, read from disk and verified ahead, compared with only scoring the same files
"""


def _table_head(machine: dict[str, Any], parts: Sequence[str]) -> str:
    """The description of the machine, and the column headings if the table has rows."""
    reported = f"{machine['machine']}, {machine['device']}, {machine['threads']} threads\n"
    if not {"final", "layers"} & set(parts):
        return reported
    head = f"{'model':6} {'what':7} {'dtype':9} {'texts':>5} {'reference':>10} {'in':>8} {'kltui':>8} {'ratio':>6} {'most':>6} {'careful':>7} "
    head += f"{'tok/s':>8} {'/floor':>7} {'body':>5} {'head':>5} {'rest':>5} {'ref MB':>7} {'MB':>6} {'max |d| nat':>11}"
    return f"{reported}\n{head}\n"


def _sweep_lines(s: Sweep) -> str:
    return (
        f"\nsweep  {s.model}, {s.dtype}: {s.checkpoints} checkpoints of {s.texts} texts behind the first in {s.seconds:.2f}s, "
        f"scoring alone {s.alone_seconds:.2f}s: {s.over_scoring:.3f}x, over its own scoring {s.over_own_scoring:.3f}x "
        f"(filling and testing the model {s.load_seconds:.2f}s; the first with the job's start {s.first_seconds:.2f}s)\n"
    )


def _times(ratio: float) -> str:
    return "      -" if math.isnan(ratio) else f"{ratio:6.2f}x"


def _difference(c: Case) -> str:
    return "-" if math.isnan(c.largest_difference_nat) else f"{c.largest_difference_nat:.1e}"


def _table_row(c: Case) -> str:
    rest = 1 - c.body_share - c.head_share
    shares = (
        ["    -"] * 3 if c.what == "layers" else [f"{s:5.2f}" for s in (c.body_share, c.head_share, rest)]
    )
    return (
        f"{c.model:6} {c.what:7} {c.dtype:9} {c.texts:5d} {c.reference_seconds:9.2f}s {c.reference_dtype:>8} {c.seconds:7.2f}s "
        f"{c.ratio:5.2f}x {c.maximum:5.2f}x {_times(c.over_careful)} {c.tokens_per_second:8.0f} {c.over_floor:6.2f}x {' '.join(shares)} "
        f"{c.reference_peak_mb:7.0f} {c.peak_mb:6.0f} {_difference(c):>11}"
    )
