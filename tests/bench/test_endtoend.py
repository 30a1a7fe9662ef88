"""The end-to-end benchmark on a tiny shape: its two sides agree, and its table and JSON hold what they say."""

import contextlib
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kltui import bench
from kltui.bench import endtoend, shapes, sweep
from kltui.bench.loops import sorted_batches
from kltui.errors import UsageError
from kltui.scoring.attention import NativeAttention
from kltui.scoring.batching import cut_pieces, fill_batch, plan_batches

TINY = shapes.ModelShape("tiny", 32, 2, 4, 8)


def make_small(patch):
    patch.setattr(shapes, "VOCABULARY", 1000)
    patch.setitem(sweep.TEXTS, "cpu", 4)
    patch.setattr(sweep, "CHECKPOINTS", 2)
    patch.setattr(endtoend, "multiplies_bfloat16", lambda device: True)
    # what is left of other tests is no matter here, and to look through all of it takes a fifth of a second every time
    patch.setattr(endtoend, "gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def ran():
    """(the JSON report of one whole run, its cases, its sweep)."""
    made, printed, patch = {}, io.StringIO(), pytest.MonkeyPatch()

    def kept(name):
        work = getattr(endtoend, name)

        def run(*given):
            made[name] = work(*given)
            return made[name]

        patch.setattr(endtoend, name, run)

    with patch.context() as patch, contextlib.redirect_stdout(printed):
        make_small(patch)
        kept("bench_shape")
        kept("_swept")
        assert endtoend.run("cpu", True, [TINY]) == 0
    return json.loads(printed.getvalue()), made["bench_shape"], made["_swept"]


def test_json_holds_every_case_and_both_sides_agree(ran):
    report = ran[0]
    assert [(c["what"], c["dtype"]) for c in report["cases"]] == [
        ("final", "float32"),
        ("final", "bfloat16"),
        ("layers", "float32"),
    ]
    for case in report["cases"]:
        assert case["ratio"] == pytest.approx(case["reference_seconds"] / case["seconds"])
        assert case["tokens"] == sum(len(row) - 1 for row in shapes.neighbours(8))
        # the reference sums in float32, which is off by about 1e-7 of a text's nats
        assert (case["careful_seconds"] is None) == (case["what"] == "layers")
        assert case["reference_dtype"] == "float32"
        assert case["largest_difference_nat"] < (1.0 if case["dtype"] == "bfloat16" else 5e-3)
    assert all(case["floor_seconds"] > 0 for case in report["cases"])
    assert [(b["name"], b["dtype"], b["agrees"]) for b in report["beside"]] == [
        ("careful loop", "float32", True),
        ("careful loop", "bfloat16", True),
    ]
    assert report["parts"] == ["final", "layers", "sweep"] and report["missing"] == {}
    (swept,) = report["sweeps"]
    assert swept["over_scoring"] == pytest.approx(swept["seconds"] / swept["alone_seconds"])
    assert swept["checkpoints"] == 1 and swept["texts"] == 4


def test_a_processor_without_products_of_bfloat16_is_not_asked_for_them(monkeypatch):
    monkeypatch.setattr(endtoend, "multiplies_bfloat16", lambda device: False)
    found = endtoend.bench_shape(TINY, torch.device("cpu"))
    assert [(c.what, c.dtype) for c in found.cases] == [("final", "float32"), ("layers", "float32")]


def test_the_loops_run_on_a_model_that_no_engine_has_touched(monkeypatch):
    touched = []

    def watch(loop):
        def watched(model, ids, device):
            touched.append(isinstance(ALL_ATTENTION_FUNCTIONS["sdpa"], NativeAttention))
            touched.append(any("forward" in module.__dict__ for module in model.modules()))
            return loop(model, ids, device)

        return watched

    for name in ("by_reference", "by_careful_loop"):
        monkeypatch.setattr(endtoend, name, watch(getattr(endtoend, name)))
    endtoend.bench_shape(TINY, torch.device("cpu"))
    assert touched and not any(touched)


def test_without_a_float32_side_no_difference_is_claimed(capsys, monkeypatch):
    monkeypatch.setattr(endtoend, "_dtypes", lambda shape, device: [torch.bfloat16])
    found = endtoend.bench_shape(TINY, torch.device("cpu"), ["final"])
    (case,) = found.cases
    assert case.reference_dtype == case.dtype == "bfloat16"
    assert endtoend._as_dict(case)["largest_difference_nat"] is None
    assert endtoend._table_row(case).endswith(" -")


@pytest.mark.parametrize(("free", "fits"), [(7 << 30, True), (6 << 30, False)])
def test_a_gpu_with_too_little_memory_leaves_a_shape_out(monkeypatch, free, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    why = endtoend.lacking(TINY, torch.device("cuda"))
    assert why == ("" if fits else "it needs 6.0 GiB, 6.0 GiB are free")
    matrices = [p.numel() for p in shapes.build_model(TINY).parameters() if p.ndim == 2]
    assert TINY.parameters == sum(matrices)


def test_what_is_left_out_is_told_and_the_rest_goes_on(capsys, monkeypatch):
    def full(shape, device, parts, against):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(endtoend, "bench_shape", full)
    monkeypatch.setattr(
        endtoend, "_swept", lambda shape, device: sweep.Sweep("tiny", "f", 1, 1, 1, *[1.0] * 5)
    )
    assert endtoend.run("cpu", True, [TINY]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cases"] == [] and report["skipped"] == {
        "tiny": "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
    }
    assert endtoend.run("cpu", False, [TINY]) == 0
    assert "tiny   left out: OutOfMemoryError: CUDA out of memory" in capsys.readouterr().out


def test_on_a_gpu_the_longest_block_is_seen_once_untimed(monkeypatch):
    """No trial of tiles and no loading of kernels falls into what is timed."""
    seen = []
    side = endtoend.BenchSide(
        "reference", "float32", lambda block: np.full((1, len(block)), seen.append(block) or 0.0)
    )
    monkeypatch.setattr(endtoend, "_measured", lambda score, block, device: (1.0, 0.0, score(block)))
    ids = shapes.neighbours(8)
    (timed,) = endtoend._timed_in_turn([side], ids, torch.device("cuda"))
    assert len(timed.values) == 4
    assert len(seen) == 5 and len(seen[0]) == 2
    assert all(a is b for a, b in zip(seen[0], seen[4], strict=True))


def test_table_names_machine_and_models(ran, capsys, monkeypatch):
    _, found, swept = ran
    monkeypatch.setattr(endtoend, "bench_shape", lambda shape, device, parts, against: found)
    monkeypatch.setattr(endtoend, "_swept", lambda shape, device: swept)
    assert endtoend.run("cpu", False, [TINY]) == 0
    table = capsys.readouterr().out
    assert "tiny" in table and "threads" in table and "bfloat16" in table
    assert "sweep  tiny, float32: 1 checkpoints of 4 texts" in table
    assert (
        "tiny   float32   careful loop: values differ from kltui's by at most" in table
        and "they agree" in table
    )


def test_the_careful_loop_equals_a_float64_loop_text_by_text():
    model, ids = shapes.build_model(TINY), shapes.random_texts(9)
    with torch.inference_mode():
        careful = endtoend.by_careful_loop(model, ids, torch.device("cpu"))
        exact = endtoend.by_reference(model.double(), ids, torch.device("cpu"))
    assert careful.shape == (1, 9) and np.abs(careful - exact).max() < 2e-4


@pytest.mark.parametrize("tokens", [1, 300, 10_000])
def test_sorted_batches_hold_every_text_once_within_their_tokens(tokens):
    lengths = [len(row) - 1 for row in shapes.random_texts(20)]
    batches = sorted_batches(lengths, tokens)
    assert sorted(text for batch in batches for text in batch) == list(range(20))
    assert [lengths[text] for batch in batches for text in batch] == sorted(lengths, reverse=True)
    assert all(len(b) == 1 or len(b) * lengths[b[0]] <= tokens for b in batches)


def test_the_reference_lens_and_kltui_agree_on_every_layer():
    model, ids = shapes.build_model(TINY), shapes.random_texts(3)
    with torch.inference_mode():
        theirs = endtoend.by_reference_lens(model, ids, torch.device("cpu"))
        engine = endtoend.make_engine(model, torch.device("cpu"), "all")
        ours = endtoend.by_kltui(engine, ids)
    assert ours.shape == theirs.shape == (4, 3)
    assert np.abs(ours - theirs).max() < 5e-3
    assert np.ptp(ours, axis=0).min() > 1e-3


def test_lengths_are_those_of_kilobyte_texts():
    lengths = [len(row) for row in shapes.random_texts(2000)]
    assert 240 < np.mean(lengths) < 260 and min(lengths) >= 60


def test_blocks_are_filled_as_those_of_a_whole_corpus():
    ids = shapes.neighbours(24)
    assert len(ids) == 24 and [len(row) for row in ids] == sorted(len(row) for row in ids)
    everything = [len(row) for row in shapes.random_texts(200)]
    assert abs(np.mean([len(row) for row in ids]) - np.mean(everything)) < 10
    for block in range(4):
        some = ids[6 * block : 6 * block + 6]
        pieces = cut_pieces([len(row) for row in some], 1, None, "error")
        cells = sum(fill_batch(rows, some).ids_BT.size for rows in plan_batches(pieces, 1536))
        assert cells < 1.03 * sum(len(row) - 1 for row in some)


def test_the_floor_counts_every_product_once():
    model = shapes.build_model(TINY)
    engine = endtoend.make_engine(model, torch.device("cpu"), "none")
    linear = endtoend._linear_shapes(engine)
    assert sum(linear.values()) == 2 * 4 + 1 and linear[(1000, 32)] == 1
    lens = endtoend._linear_shapes(endtoend.make_engine(model, torch.device("cpu"), "all"))
    assert sum(lens.values()) == 2 * 4 + 3 and lens[(1000, 32)] == 3  # embedding, one layer, the end
    assert math.isfinite(endtoend.gemm_floor(engine, shapes.random_texts(4), torch.device("cpu")))


def test_unknown_topics_are_refused():
    with pytest.raises(UsageError, match="no benchmark called 'gpu'"):
        bench.main("gpu")
