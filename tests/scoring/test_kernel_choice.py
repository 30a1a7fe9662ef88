"""The way that was found fastest is kept, by machine and shape, and never found anew; no test here depends on speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_models import build_model

from kltui.scoring import attention, head, kernel_choice, numerics, prepacked_linear
from kltui.scoring.engine import Engine
from kltui.scoring.head import FusedHead, TiledHead
from kltui.scoring.kernel_choice import FILE_NAME, Candidate, KernelChooser
from kltui.scoring.loading import Loaded
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")


class Slow:
    """Candidates of given seconds on a clock that only they move."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.runs, self.seconds = 0.0, 0, seconds

    def clock(self) -> float:
        return self.now

    def candidates(self, wrong: str = "") -> list[Candidate]:
        def run(name: str) -> None:
            self.now += self.seconds[name]
            self.runs += 1

        return [
            Candidate(name, lambda n=name: run(n), lambda n=name: n != wrong)  # type: ignore[misc]
            for name in self.seconds
        ]

    def chooser(self, job: Path | None, user: Path | None, machine: str = "m") -> KernelChooser:
        return KernelChooser(machine, job, user, self.clock)


def test_the_fastest_that_is_right_is_taken_and_its_times_are_kept(tmp_path: Path) -> None:
    work = Slow(native=3.0, tiles=2.0, wrong=1.0)
    assert work.chooser(None, tmp_path).among("head", work.candidates("wrong")) == "tiles"
    (choice,) = kernel_choice.read(tmp_path / FILE_NAME)["m"].values()
    assert choice.taken == "tiles" and choice.milliseconds == {"native": 3000.0, "tiles": 2000.0}
    assert str(choice) == "tiles (native 3e+03 ms, tiles 2e+03 ms)"


def test_a_way_that_is_hardly_faster_changes_nothing(tmp_path: Path) -> None:
    work = Slow(native=1.0, tiles=0.97)
    assert work.chooser(None, tmp_path).among("head", work.candidates()) == "native"


def test_a_choice_stands_though_times_change_and_is_one_machines_and_one_shapes(tmp_path: Path) -> None:
    first, later = Slow(native=2.0, tiles=1.0), Slow(native=1.0, tiles=2.0)
    assert first.chooser(None, tmp_path).among("head", first.candidates()) == "tiles"
    assert later.chooser(None, tmp_path).among("head", later.candidates()) == "tiles" and not later.runs
    assert later.chooser(None, tmp_path).among("other", later.candidates()) == "native"
    assert later.chooser(None, tmp_path, "n").among("head", later.candidates()) == "native"
    assert first.chooser(None, tmp_path, "n").among("head", first.candidates()) == "native"


def test_a_resumed_job_does_as_before_though_the_users_file_is_gone_or_says_otherwise(tmp_path: Path) -> None:
    job, user = tmp_path / "job", tmp_path / "user"
    first, later = Slow(native=2.0, tiles=1.0), Slow(native=1.0, tiles=2.0)
    assert first.chooser(job, user).among("head", first.candidates()) == "tiles"
    (user / FILE_NAME).unlink()
    assert later.chooser(None, user).among("head", later.candidates()) == "native"
    assert later.chooser(job, user).among("head", later.candidates()) == "tiles"
    assert later.chooser(None, user).among("head", later.candidates()) == "native", "the user's stands too"
    assert later.chooser(tmp_path / "new job", user).among("head", later.candidates()) == "native"


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b'{"kernels": 3}', b'{"kernels": {"m": []}}', b'{"kernels": {"m": {"head": {"taken": 1}}}}',
     b'{"kernels": {"m": {"head": {"taken": "gone", "milliseconds": {}}}}}', b"\xff" * 40, b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    work = Slow(native=2.0, tiles=1.0)
    assert work.chooser(None, tmp_path).among("head", work.candidates()) == "tiles"
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["kernels"]["m"]["head"]["taken"] == "tiles"


def test_what_cannot_be_kept_is_not_timed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    work = Slow(native=2.0, tiles=1.0)
    for folder in (None, tmp_path / "file" / "below"):
        assert work.chooser(None, folder).among("head", work.candidates()) == "native"
    assert not work.runs


def test_workers_that_begin_at_once_agree(tmp_path: Path) -> None:
    """Each finds another way fastest; one of them times, and all take what it found."""
    works = [Slow(native=1.0 + k % 2, tiles=2.0 - k % 2) for k in range(6)]

    def choose(work: Slow) -> str:
        return work.chooser(tmp_path / "job", tmp_path / "user").among("head", work.candidates())

    with ThreadPoolExecutor(len(works)) as pool:
        taken = list(pool.map(choose, works))
    assert len(set(taken)) == 1 and sum(work.runs > 0 for work in works) == 1


def test_one_way_is_not_timed_and_one_that_raises_is_left_out(tmp_path: Path) -> None:
    work = Slow(native=2.0)
    assert work.chooser(None, tmp_path).among("head", work.candidates()) == "native" and not work.runs

    def fails() -> bool:
        raise RuntimeError("not on this processor")

    ways = [Candidate("packed", lambda: None, fails), *work.candidates()]
    assert work.chooser(None, tmp_path).among("linear", ways) == "native"
    ways = [Candidate("packed", lambda: None, fails), Candidate("plain", lambda: None, fails)]
    assert work.chooser(None, tmp_path).among("none", ways) == "packed", "the model's own test decides"


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")]
)
def test_memory_that_ran_out_chooses_nothing(tmp_path: Path, error: Exception) -> None:
    """It says nothing about the way, and the choice would be permanent."""
    work = Slow(native=2.0, tiles=1.0)

    def fails() -> bool:
        raise error

    short = [Candidate("packed", lambda: None, fails), *work.candidates()]
    with pytest.raises(type(error), match=str(error)):
        work.chooser(None, tmp_path).among("linear", short)
    assert kernel_choice.read(tmp_path / FILE_NAME) == {} and not work.runs
    assert work.chooser(None, tmp_path).among("linear", work.candidates()) == "tiles"


@pytest.mark.skipif(not prepacked_linear._available(), reason="this torch has no packed linear layers")
@pytest.mark.parametrize(
    ("error", "succeeds"), [("no such operator", False), ("DefaultCPUAllocator: can't allocate memory", None)]
)
def test_layers_that_cannot_all_be_packed_are_all_unpacked(
    error: str, succeeds: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor without the operator scores without it; where memory ran out, a resumed job would give other bits."""
    layers = [torch.nn.Linear(8, 8).requires_grad_(False) for _ in range(3)]
    before, packed = [layer.forward for layer in layers], []

    def pack(layer: torch.nn.Linear, *_: object) -> object:
        packed.append(layer)
        if len(packed) == 3:
            raise RuntimeError(error)
        return torch.neg

    monkeypatch.setattr(prepacked_linear, "_packed_forward", pack)
    packing = prepacked_linear.Packing(dict.fromkeys(layers), rows=4)
    if succeeds is None:
        with pytest.raises(RuntimeError, match=error):
            packing.apply()
    else:
        assert packing.apply() is succeeds
    assert packed == layers and [layer.forward for layer in layers] == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_both_heads_sum_in_float32(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 5000, bias=bias).to(dtype).requires_grad_(False)
    hidden_nD, targets_n = (3 * torch.randn(40, 96)).to(dtype), torch.randint(5000, (40,))
    z_nV = hidden_nD.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0.0)
    truth_n = z_nV.log_softmax(-1).gather(1, targets_n[:, None])[:, 0]
    for kind in (FusedHead, TiledHead):
        assert (kind(linear, LogitRule(), 5000)(hidden_nD, targets_n) - truth_n).abs().max() < 2e-5


class Prefers(KernelChooser):
    """Takes what it is asked to, among candidates that it has found right."""

    def __init__(self, *names: str) -> None:
        super().__init__("m", None, None)
        self.names, self.asked = names, dict[str, list[str]]()

    def among(self, what: str, candidates: Sequence[Candidate]) -> str:
        self.asked[what] = [c.name for c in candidates if kernel_choice._works(c)]
        return next((name for name in self.names if name in self.asked[what]), "plain")


@pytest.fixture
def all_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models count as large."""
    for module in (head, prepacked_linear):
        monkeypatch.setattr(module, "MIN_WEIGHTS", 1)
    monkeypatch.setattr(attention, "MIN_WIDTH", 1)


@pytest.mark.usefixtures("all_timed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(not prepacked_linear._available(), reason="this torch has no packed linear layers")
def test_an_engine_computes_as_was_chosen_and_its_key_says_so(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("llama").to(dtype).requires_grad_(False)
    ids = torch.arange(40)[None] * 7 % 300
    said, values = [], []
    for names in (("native", "packed"), ("tiles", "plain", "torch")):
        chooser = Prefers(*names)
        monkeypatch.setattr("kltui.scoring.engine.kernel_chooser", lambda _job, c=chooser: c)
        with torch.inference_mode():
            engine = Engine(Loaded(model, model.config, "sdpa", dtype, ()), ScoringSettings(), CPU, "none")
            said.append((engine.products.removesuffix(", float32 between them"), engine.attention))
            hidden_nD = engine.logits(model.model(ids).last_hidden_state[0])
            values.append(hidden_nD.log_softmax(-1))
        kinds = {what.split()[0] for what in chooser.asked}
        assert kinds == {"head", "linear", "attention"}
    packed = any("packed" in names for names in chooser.asked.values())
    assert packed or dtype == torch.bfloat16, "float32 is packed on any processor"
    layers = 7 * model.config.num_hidden_layers
    assert said == [
        (f"native head, {f'{layers} packed' if packed else 'plain'} linear layers", attention.NAME),
        ("tiles head, plain linear layers", "sdpa"),
    ]
    assert all((a - b).abs().max() < (1e-4 if dtype == torch.float32 else 0.1) for a, b in pairwise(values))


@pytest.mark.usefixtures("all_timed")
def test_bfloat16_layers_may_be_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("gpt_neox").to(torch.bfloat16).requires_grad_(False)
    ids, chooser = torch.arange(40)[None] * 7 % 300, Prefers("native", "widened")
    with torch.inference_mode():
        before = model(ids).logits
        monkeypatch.setattr("kltui.scoring.engine.kernel_chooser", lambda _job: chooser)
        engine = Engine(
            Loaded(model, model.config, "sdpa", torch.bfloat16, ()), ScoringSettings(), CPU, "none"
        )
        widened = f"native head, {4 * model.config.num_hidden_layers} widened linear layers"
        assert engine.products == f"{widened}, float32 between them"
        after = model(ids).logits
        assert (after - before).abs().max() < 0.1
        prepacked_linear.unpack(model)
        assert torch.equal(model(ids).logits, before)


def test_the_machine_is_named_by_what_speed_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(kernel_choice, "processor_name", lambda: "Zen 9")
    chooser = numerics.kernel_chooser(None)
    assert chooser._machine.startswith("Zen 9; ") and "; 3 threads; torch 2" in chooser._machine
    assert torch.backends.cpu.get_cpu_capability() in chooser._machine
