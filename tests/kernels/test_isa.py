"""Every instruction set gives the same answers within the bound; any number of threads gives the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

from kltui.kernels import native

ANSWERS = """
import json, sys
import numpy as np
from kltui.kernels import native
rng = np.random.default_rng(0)
logits = rng.normal(0, 5, (9, 5003))
answers = {"isa": native.info()["isa"]}
forms = {"f32": logits.astype(np.float32), "f16": logits.astype(np.float16)}
forms["bf16"] = (forms["f32"].view(np.uint32) >> 16).astype(np.uint16)
targets = rng.integers(0, 5003, 9)
for name, x in forms.items():
    answers["gather " + name] = native.log_softmax_gather(x, targets).tolist()
    answers["capped " + name] = native.log_softmax_gather(x, targets, scale=0.7, softcap=9.0).tolist()
    answers["kl " + name] = native.kl_rows(x, x[::-1].copy()).forward.tolist()
    answers["head " + name] = native.NativeHead(x[:, :64].copy()).logprobs(x[:, 64:128].copy(), targets % 9).tolist()
halves = np.arange(65536, dtype=np.uint16)
rows = np.stack([halves.view(np.float16), np.full(65536, -np.inf, np.float16)], axis=1)
rows[:, 1] = 0
answers["every half"] = np.nan_to_num(native.log_softmax_gather(rows, np.zeros(65536, int)), nan=7).tolist()
x = rng.normal(-2000, 300, (11, 1037))
answers["centre"] = native.double_centre(x, rng.random(1037), floor=-2300).ravel().tolist()
below, inside = native.split_values(np.round(x.ravel()), -2100, -1900)
answers["split"] = [below, *inside.tolist()]
raw = [row.astype(np.float32).view(np.uint8) for row in x]
answers["sqdist"] = np.nan_to_num(native.banded_sqdist(raw, ["F32"] * 11, 7)).ravel().tolist()
query, key, value = (rng.normal(size=(2, 3, 77, n)).astype(np.float32) for n in (24, 24, 40))
for name, cast in (("f32", lambda x: x), ("bf16", lambda x: (x.view(np.uint32) >> 16).astype(np.uint16))):
    out = cast(np.zeros((2, 77, 3, 40), np.float32))
    native.causal_attention(cast(query), cast(key), cast(value), out, 0.2)
    out = out if name == "f32" else (out.astype(np.uint32) << 16).view(np.float32)
    answers["attention " + name] = out.ravel().tolist()
for name, cast in (("f32", lambda x: x), ("f16", lambda x: x.astype(np.float16)),
                   ("bf16", lambda x: (x.view(np.uint32) >> 16).astype(np.uint16))):
    for size in EQUAL_SIZES:
        rows = np.repeat(-np.array(EQUAL_DEPTHS, np.float32)[:, None], size, axis=1)
        rows[:, size // 2] = 0
        targets, rows = [size // 2] * len(rows), cast(rows)
        found = [native.log_softmax_gather(rows, targets)]
        if name != "f16":  # logits as products of rows of the identity: as exact as they stand
            eye = cast(np.eye(len(rows), dtype=np.float32))
            found.append(native.NativeHead(np.ascontiguousarray(rows.T)).logprobs(eye, targets))
        kl = native.kl_rows(rows, np.ascontiguousarray(rows[::-1]))
        answers[f"equal {name} {size}"] = [*map(np.ndarray.tolist, (*found, kl.forward, kl.reverse))]
json.dump(answers, sys.stdout)
"""
# Logits that are all the same but one, which is so much higher: closed forms for how exactly many equal terms are added.
EQUAL_DEPTHS = (0.25, 1.375, 3.5, 4.0, 7.5, 9.75)
EQUAL_SIZES = (63, 4_099, 50_304)
ANSWERS = ANSWERS.replace("EQUAL_DEPTHS", str(EQUAL_DEPTHS)).replace("EQUAL_SIZES", str(EQUAL_SIZES))


@cache
def answers(isa: str) -> dict[str, Any]:
    environment = {**os.environ, "KLTUI_ISA": isa, "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", ANSWERS], env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def supported() -> list[str]:
    return list(native.info()["supported"])  # type: ignore[call-overload]


@pytest.mark.parametrize("isa", ["avx2", "avx512", "amx"])
def test_instruction_sets_agree(isa: str) -> None:
    if isa not in supported():
        pytest.skip(f"this processor or build has no {isa}")
    ours, portable = answers(isa), answers("portable")
    assert (ours.pop("isa"), portable["isa"]) == (isa, "portable")
    for name, values in ours.items():
        if name.startswith("equal"):
            continue  # see below
        exact = name in ("centre", "fourth", "split")
        tolerance = 1e-11 if exact else 3e-6
        if name == "attention bf16":
            tolerance = 2**-8  # a rounding that falls the other way
        np.testing.assert_allclose(values, portable[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "amx"])
def test_many_equal_terms_are_added_without_drift(isa: str) -> None:
    """They are all rounded the same way, so the error of a sum in float32 grows with its length."""
    if isa not in supported():
        pytest.skip(f"this processor or build has no {isa}")
    depth = np.array(EQUAL_DEPTHS)
    for size in EQUAL_SIZES:
        total = 1 + (size - 1) * np.exp(-depth)  # of row k: one at 0, the others at -depth[k]
        other = total[::-1]
        terms = np.array([(depth[::-1] - depth) * (total - 1) / total, -np.log(total), np.log(other)])
        rounding = 2e-7 * np.abs(terms).sum(axis=0)
        for name in ("f32", "f16", "bf16"):
            *logprobs, ours_forward, ours_reverse = answers(isa)[f"equal {name} {size}"]
            for ours in logprobs:
                np.testing.assert_allclose(
                    ours, -np.log(total), rtol=3e-7, atol=2e-7, err_msg=f"{name} {size}"
                )
            for ours in (ours_forward, ours_reverse[::-1]):
                assert (np.abs(ours - terms.sum(axis=0)) <= rounding).all(), f"{name} {size}"


def test_an_unknown_instruction_set_is_refused() -> None:
    if not native.info()["extension"]:
        pytest.skip("the extension is not built")
    run = subprocess.run(
        [sys.executable, "-c", "from kltui.kernels import native; native.info()"],
        env={**os.environ, "KLTUI_ISA": "sse9"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "KLTUI_ISA=sse9 cannot run here; choose one of portable" in run.stderr


def test_any_number_of_threads_gives_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 5, (23, 7001)).astype(np.float32)
    targets = rng.integers(0, 7001, 23)
    hidden, weight = logits[:, :96].copy(), rng.normal(size=(7001, 96)).astype(np.float32)
    half_hidden, half_weight = (np.ascontiguousarray(x.view(np.uint16)[:, 1::2]) for x in (hidden, weight))
    x = rng.normal(size=(70, 3001))
    raw = [row.view(np.uint8) for row in rng.normal(size=(5, 70_000)).astype(np.float32)]

    def everything() -> list[np.ndarray]:
        return [
            native.log_softmax_gather(logits, targets),
            native.NativeHead(weight).logprobs(hidden, targets),
            native.NativeHead(half_weight).logprobs(half_hidden, targets),
            native.kl_rows(logits, logits[::-1].copy()).forward,
            native.double_centre(x),
            native.banded_sqdist(raw, ["F32"] * 5, 3),
        ]

    try:
        native.set_threads(1)
        one = everything()
        for count in (2, 3, 5):
            native.set_threads(count)
            for a, b in zip(one, everything(), strict=True):
                assert a.tobytes() == b.tobytes()
    finally:
        native.set_threads(None)


@pytest.mark.parametrize("words", [0, 1, 15, 16, 33, 5000])
def test_reading_once_gives_the_exclusive_or_of_all_words(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(words).integers(0, 1 << 63, words, dtype=np.uint64)
    wanted = 0
    for word in array.tolist():
        wanted ^= word
    assert native.read_once(array) == native.read_once(array.view(np.uint8)) == wanted
    monkeypatch.setattr(native, "_core", None)
    assert native.read_once(array) == wanted


def test_words_that_are_not_whole_aligned_or_contiguous_are_refused() -> None:
    held = np.zeros(64, np.uint8)
    start = -held.ctypes.data % 8
    for wrong in (held[start : start + 12], held[start + 1 : start + 17], held[start : start + 32 : 2]):
        with pytest.raises(ValueError, match="array must be"):
            native.read_once(wrong)
    assert native.read_once(held[start : start + 16]) == 0


def test_it_works_without_the_extension() -> None:
    program = (
        "import sys; sys.modules['kltui.kernels._core'] = None\n"
        "import logging; logging.basicConfig()\n"
        "from kltui.kernels import native\n"
        "import numpy as np\n"
        "assert not native.info()['extension']\n"
        "x = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32); t = [1, 2, 3, 4]\n"
        "native.log_softmax_gather(x, t); native.NativeHead(x[:, :8].copy()).logprobs(x[:, :8].copy(), [0, 1, 2, 3])\n"
        "o = native.OnlineLogSoftmax(t); o.update(x, 0); assert np.allclose(o.logprobs(), native.log_softmax_gather(x, t))\n"
        "native.kl_rows(x, x); native.double_centre(x);\n"
        "native.sum_by_text(x[0], np.arange(50), 50); native.banded_sqdist([x[0].view(np.uint8)] * 2, ['F32'] * 2, 1)\n"
        "r = native.Raster(3, 1, 'ascii'); r.polyline([[0, 0], [3, 0]]); print(r.rows()[0])\n"
        "print(native.nearest([[1, 1]], 0, 0), native.heat_map(x, 1, 1, -9, 9, 3)[0, 0])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "***\n0 1\n"
    assert run.stderr.count("kltui.kernels._core is not built") == 1
