"""The CUDA kernels without a GPU: their sources, compiled over fibres, against float64 and by the CPU core's rules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from emulated_kernels import CUDA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kltui.kernels import cuda

pytestmark = pytest.mark.usefixtures("emulated_cuda")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
sizes = st.one_of(st.integers(1, 70), st.sampled_from([255, 2047, 2049, 5000]))
seeds = st.integers(0, 2**31 - 1)
# the fixture only puts the module in place: one for all examples is right
quick = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
inf, nan = float("inf"), float("nan")
LOWEST = torch.finfo(torch.float32).min


def draw(
    n: int, columns: int, dtype: torch.dtype, seed: int, spread: float = 4.0, shift: int = 0
) -> torch.Tensor:
    """Random logits whose rows begin `shift` entries behind a 16-byte border and are not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(n, columns + shift + 3, generator=generator, dtype=torch.float64) * spread
    return wide.to(dtype)[:, shift : shift + columns]


def truth(
    logits: torch.Tensor, targets: torch.Tensor, scale: float = 1.0, softcap: float = 0.0
) -> torch.Tensor:
    """log p(target) of every row in float64."""
    x = logits.double() * scale
    x = softcap * torch.tanh(x / softcap) if softcap else x
    return x.gather(1, targets[:, None])[:, 0] - torch.logsumexp(x, 1)


def naive_error(logits: torch.Tensor, targets: torch.Tensor, scale: float, softcap: float) -> float:
    """How far the same computation in float32 throughout is off."""
    x = logits.float() * scale
    x = softcap * torch.tanh(x / softcap) if softcap else x
    single = torch.log_softmax(x, 1).gather(1, targets[:, None])[:, 0]
    return float((single - truth(logits, targets, scale, softcap)).abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(
    n=st.integers(1, 3),
    columns=sizes,
    shift=st.integers(0, 9),
    spread=st.sampled_from([0.1, 4.0, 60.0]),
    transform=st.sampled_from([(1.0, 0.0), (0.0625, 0.0), (2.0, 5.0), (-1.0, 30.0)]),
    seed=seeds,
)
def test_gather_within_the_rule(
    dtype: torch.dtype,
    n: int,
    columns: int,
    shift: int,
    spread: float,
    transform: tuple[float, float],
    seed: int,
) -> None:
    """Not further from float64 than the naive computation in float32, plus 1e-6 relative."""
    scale, softcap = transform
    logits = draw(n, columns, dtype, seed, spread, shift)
    targets = torch.randint(columns, (n,), generator=torch.Generator().manual_seed(seed))
    ours = cuda.log_softmax_gather(logits, targets, scale=scale, softcap=softcap)
    exact = truth(logits, targets, scale, softcap)
    allowed = naive_error(logits, targets, scale, softcap) + 1e-6 * float(exact.abs().max()) + 3e-7
    assert float((ours - exact).abs().max()) <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 40, 5000])
def test_rows_that_are_not_finite(dtype: torch.dtype, width: int) -> None:
    rows = torch.zeros(7, width)
    rows[0, 1:] = -inf
    rows[1, :] = -inf
    rows[2, 2] = nan
    rows[3, width - 1] = inf
    rows[4, 0] = -inf
    rows[5, : width - 1] = -inf
    rows[6, :] = nan
    expected = np.array([0.0, nan, nan, nan, -inf, -inf, nan], np.float32)
    targets = torch.zeros(7, dtype=torch.int64)
    ours = cuda.log_softmax_gather(rows.to(dtype), targets)
    np.testing.assert_array_equal(ours.numpy(), expected)
    online = cuda.CudaOnlineLogSoftmax(targets)
    for first, last in ((width // 2, width), (0, width // 2)):
        online.update(rows.to(dtype)[:, first:last], first)
    np.testing.assert_array_equal(online.logprobs().numpy(), expected)


def test_rows_of_the_lowest_number_and_extreme_magnitudes() -> None:
    rows = torch.full((4, 9000), -1e4)
    rows[0, 8999] = 500.0
    rows[1, 4000] = 3e38
    rows[2, 0], rows[2, 8000] = -3e38, 17.0
    rows[3] = LOWEST
    targets = torch.tensor([8999, 4000, 8000, 7])
    ours = cuda.log_softmax_gather(rows, targets)
    np.testing.assert_allclose(ours.numpy(), [0, 0, 0, -np.log(9000)], rtol=1e-6)
    assert cuda.log_softmax_gather(rows[:1], torch.tensor([0]))[0] == -10500
    single = torch.full((2, 1), LOWEST)
    np.testing.assert_array_equal(cuda.log_softmax_gather(single, torch.tensor([0, 0])).numpy(), 0.0)
    online = cuda.CudaOnlineLogSoftmax(targets)
    online.update(rows, 0)
    np.testing.assert_allclose(online.logprobs().numpy(), [0, 0, 0, -np.log(9000)], rtol=1e-6)


def test_targets_outside_the_vocabulary_give_nan() -> None:
    logits, targets = torch.zeros(4, 10), torch.tensor([-1, 10, 2**40, 3])
    ours = cuda.log_softmax_gather(logits, targets)
    np.testing.assert_array_equal(torch.isnan(ours).numpy(), [True, True, True, False])
    online = cuda.CudaOnlineLogSoftmax(targets)
    online.update(logits, 0)
    np.testing.assert_array_equal(torch.isnan(online.logprobs()).numpy(), [True, True, True, False])


@quick
@given(
    n=st.integers(1, 5),
    cuts=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=seeds,
)
def test_tiles_in_any_order_equal_the_whole(n: int, cuts: list[int], dtype: torch.dtype, seed: int) -> None:
    edges = np.concatenate([[0], np.cumsum(cuts)])
    logits = draw(n, int(edges[-1]), dtype, seed, 10.0)
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(rng.integers(0, logits.shape[1], n))
    online = cuda.CudaOnlineLogSoftmax(targets, scale=0.5, softcap=7.0)
    middle = int(rng.integers(0, n + 1))
    for tile in rng.permutation(len(cuts)):
        first, last = int(edges[tile]), int(edges[tile + 1])
        for start, stop in ((middle, n), (0, middle)):
            if stop > start:
                online.update(logits[start:stop, first:last], first, start)
    np.testing.assert_allclose(
        online.logprobs().numpy(), truth(logits, targets, 0.5, 7.0).numpy(), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize("dtype", DTYPES)
@quick
@given(n=st.integers(1, 3), columns=sizes, near=st.booleans(), seed=seeds)
def test_kl_of_rows_equals_float64(dtype: torch.dtype, n: int, columns: int, near: bool, seed: int) -> None:
    p = draw(n, columns, dtype, seed)
    q = (p.double() + (0.02 if near else 3.0) * draw(n, columns, torch.float64, seed + 1)).to(dtype)
    logp, logq = (torch.log_softmax(x.double(), 1) for x in (p, q))
    ours = cuda.kl_rows(p, q)
    np.testing.assert_allclose(ours.forward, (logp.exp() * (logp - logq)).sum(1), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ours.reverse, (logq.exp() * (logq - logp)).sum(1), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(ours.same_top, p.float().argmax(1) == q.float().argmax(1))


def test_kl_where_tokens_are_masked_or_rows_undefined() -> None:
    coin = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]).log()
    q = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]).log() + 7
    q[4, 1] = nan
    ours = cuda.kl_rows(p, q)
    np.testing.assert_allclose(ours.forward, [coin, np.log(2), 0, nan, nan], atol=1e-6)
    assert ours.reverse[1] == inf
    np.testing.assert_array_equal(ours.same_top, [False, True, True, False, False])
    low = torch.full((1, 700), LOWEST)
    assert cuda.kl_rows(low, low).forward[0] == 0


@quick
@given(counts=st.lists(st.integers(0, 90), min_size=1, max_size=20), seed=seeds)
def test_sums_by_text_are_float64(counts: list[int], seed: int) -> None:
    text = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    logp = (torch.randn(len(text), generator=torch.Generator().manual_seed(seed)) * 1e4).float()
    expected = np.bincount(text, weights=logp.double(), minlength=len(counts))
    ours = cuda.sum_by_text(logp, text, len(counts))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-13, atol=1e-8)


@quick
@given(rows=st.integers(1, 40), columns=st.integers(1, 700), seed=seeds)
def test_centring_equals_numpy(rows: int, columns: int, seed: int) -> None:
    x = (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 300
        - 2000
    )
    wanted = x - x.mean(1, keepdim=True) - x.mean(0, keepdim=True) + x.mean()
    ours = cuda.double_centre(x)
    assert float((ours - wanted).abs().max()) <= 1e-12 * float(x.abs().max())


class NoCode:
    """An extension built for other GPUs than the one that is there."""

    def device_count(self) -> int:
        return 1

    def has_code(self, device: int) -> bool:
        return False


def test_a_gpu_without_code_and_a_build_without_cuda_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.device("cpu", 0)
    assert cuda.usable(where)
    assert cuda.why_not(where) == ""
    assert "does not see the device" in cuda.why_not(torch.device("cpu", 3))
    cuda._has_code.cache_clear()
    monkeypatch.setattr(cuda, "_extension", NoCode)
    assert not cuda.usable(where)
    assert "without machine code for this GPU" in cuda.why_not(where)
    monkeypatch.setattr(cuda, "_extension", lambda: None)
    assert "built without CUDA" in cuda.why_not(where)


def everything(module: ModuleType) -> list[np.ndarray]:
    """One result of each kernel, on inputs that take more than one warp and more than one turn of each loop."""
    logits, other = draw(3, 5000, torch.float32, 1, shift=1), draw(3, 5000, torch.float32, 2)
    targets, text = torch.tensor([3, 4999, 0]), torch.arange(3).repeat_interleave(70)
    online = cuda.CudaOnlineLogSoftmax(targets)
    online.update(logits, 0)
    both = cuda.kl_rows(logits, other)
    results = [
        cuda.log_softmax_gather(logits, targets),
        online.logprobs(),
        both.forward,
        both.reverse,
        both.same_top,
        cuda.sum_by_text(logits[:, :70].reshape(-1).contiguous(), text, 3),
        cuda.double_centre(other[:, :600].double().contiguous()),
    ]
    assert module is cuda._extension()
    return [x.numpy() for x in results]


def test_the_order_of_threads_changes_no_bit(
    emulated_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing barrier would show: whoever comes first differs from order to order."""
    first = everything(emulated_cuda)
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("KLTUI_EMULATED_ORDER", seed)
        for ours, before in zip(everything(emulated_cuda), first, strict=True):
            np.testing.assert_array_equal(ours, before)


def barriers() -> list[str]:
    """FILE:LINE of the barrier behind which a block reads what its threads have written: the first of each pair.

    The second keeps writes of the next use from what is still being read. Threads that run in turns, from one barrier to the
    next, never come so far ahead.
    """
    found = []
    for path in sorted(CUDA.iterdir()):
        lines = path.read_text(encoding="utf-8").splitlines()
        places = [k for k, line in enumerate(lines, 1) if line.strip() == "__syncthreads();"]
        assert len(places) in (0, 2), f"{path.name}: another number of barriers than a pair"
        found += [f"{path.name}:{k}" for k in places[:1]]
    return found


@pytest.mark.parametrize("barrier", barriers())
def test_a_missing_barrier_is_caught(
    barrier: str, emulated_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = everything(emulated_cuda)
    monkeypatch.setenv("KLTUI_EMULATED_WITHOUT", barrier)

    def differs(seed: str) -> bool:
        monkeypatch.setenv("KLTUI_EMULATED_ORDER", seed)
        found = everything(emulated_cuda)
        return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(found, right, strict=True))

    assert any(differs(seed) for seed in ("1", "2", "3"))
