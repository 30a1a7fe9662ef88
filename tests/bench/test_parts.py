"""`kltui --bench` measures the parts and programs asked for and no others, and compares values before times."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kltui.bench import against, endtoend, native, shapes
from kltui.bench.agreement import Beside, largest
from kltui.bench.gguf_neox import write_neox
from kltui.bench.parts import MODEL_PARTS, MODELS, NATIVE_PARTS, read_asked
from kltui.bench.timing import Ratio
from kltui.cli import main
from kltui.errors import UsageError

TINY = shapes.ModelShape("tiny", 32, 2, 4, 8)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "VOCABULARY", 300)
    monkeypatch.setattr(endtoend, "multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(endtoend, "gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture
def tiny_70m(monkeypatch: pytest.MonkeyPatch) -> None:
    """70m has two narrow layers."""
    monkeypatch.setattr(shapes, "SHAPES", (shapes.ModelShape("70m", 32, 2, 4, 8),))


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endtoend, "bench_sweep", lambda *_: pytest.fail("a sweep was not asked for"))


def refuse(*_: object) -> Any:
    raise AssertionError("this part was not asked for")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON report of `kltui --bench ARGUMENTS`."""
    assert main(["--bench", *arguments, "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("tiny_70m", "no_sweep")
def test_a_model_s_layers_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for loop in ("by_careful_loop", "by_reference"):
        monkeypatch.setattr(endtoend, loop, refuse)
    report = bench(capsys, "70m", "--part", "layers")
    assert [(c["model"], c["what"]) for c in report["cases"]] == [("70m", "layers")]
    assert report["parts"] == ["layers"] and report["sweeps"] == report["beside"] == []


@pytest.mark.usefixtures("tiny_70m", "no_sweep")
def test_final_values_alone_and_a_missing_program_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endtoend, "by_reference_lens", refuse)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    report = bench(capsys, "pythia-70m", "--part", "final", "--against", "lm_eval")
    assert [c["what"] for c in report["cases"]] == ["final"]
    (beside,) = report["beside"]
    assert beside["name"] == "careful loop" and beside["agrees"]
    assert beside["largest_difference_nat"] < beside["tolerance_nat"] == 2e-3
    why = "lm-evaluation-harness is left out: lm_eval is not installed: pip install 'lm_eval[hf]'"
    assert report["missing"] == {"lm_eval": why}


def test_a_sweep_alone_and_a_missing_program_before_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(endtoend, "bench_shape", refuse)
    monkeypatch.setattr(endtoend, "bench_sweep", lambda *_: endtoend.Sweep("70m", "f", 1, 1, 1, *[1.0] * 5))
    assert main(["--bench", "70m", "--part", "sweep", "--against", "llama_cpp", "--device", "cpu"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("llama.cpp is left out: llama_cpp is not installed: pip install llama-cpp-python")
    assert any(line.startswith("sweep  70m") for line in rest)


def test_a_program_that_cannot_be_imported_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libllama.so: cannot open shared object file")

    monkeypatch.setattr(against.importlib, "import_module", broken)
    assert "cannot be used (libllama.so: cannot open" in against.lacking("llama_cpp")


def test_native_parts_are_measured_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("_gathers", "_heads", "_attention", "_kl_rows", "_distances", "weight_ratios")
    for name in others:
        monkeypatch.setattr(native, name, refuse)
    monkeypatch.setattr(native, "_raster", lambda: Ratio("raster", 1.0, 1.0, 1.0, "a", "b"))
    assert [r["operation"] for r in bench(capsys, "native", "--part", "raster")["ratios"]] == ["raster"]


def test_a_gpu_has_kernels_for_some_parts() -> None:
    with pytest.raises(UsageError, match="no kernels of raster on a GPU"):
        next(native.cuda_ratios("cuda", ["raster"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["70m", "--part", "lens"], ("no part called 'lens'", *MODEL_PARTS)),
        (["native", "--part", "layers"], ("in --bench native", *NATIVE_PARTS)),
        (["analysis", "--part", "tree"], ("in --bench analysis",)),
        (["71m"], ("no benchmark called '71m'", *MODELS)),
        (["70m", "--against", "vllm"], ("not measured against 'vllm'", "lm_eval, llama_cpp")),
        (["native", "--against", "lm_eval"], ("--against has no effect with --bench native",)),
        (["6.9b", "--part", "sweep"], ("half precision alone", "--part final")),
    ],
)
def test_a_name_that_there_is_not_lists_those_that_there_are(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: tuple[str, ...]
) -> None:
    assert main(["--bench", *arguments]) == 2
    reported = capsys.readouterr().err
    assert all(word in reported for word in said)


def test_help_lists_parts_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    reported = capsys.readouterr().out
    assert all(name in reported for name in (*MODELS, *MODEL_PARTS, *NATIVE_PARTS, "lm_eval", "llama_cpp"))


def test_without_parts_all_are_measured() -> None:
    assert read_asked(None, [], []).parts == tuple(MODEL_PARTS)
    assert read_asked("native", [], []).parts == tuple(NATIVE_PARTS)
    assert read_asked("6.9b", [], []).model == "6.9b"


def test_the_largest_shape_is_left_out_on_a_processor() -> None:
    assert endtoend.lacking(shapes.LARGE, CPU) == "it is timed only on a GPU"


def test_values_that_differ_are_told_and_change_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    careful = endtoend.by_careful_loop
    monkeypatch.setattr(endtoend, "by_careful_loop", lambda *given, **named: careful(*given, **named) + 0.01)
    assert endtoend.run("cpu", False, [TINY], ["final"]) == 1
    assert "they DIFFER, so the times cannot be compared" in capsys.readouterr().out


def test_values_that_are_none_never_agree() -> None:
    worst = largest([np.zeros((1, 2)), np.zeros((1, 1))], [np.ones((1, 2)), np.full((1, 1), math.nan)])
    assert math.isnan(worst) and not Beside("a", "", "m", "float32", 3, worst, 1.0, 1.0, 1.0).agrees
    assert largest([np.zeros((1, 2))], [np.array([[0.5, -2.0]])]) == 2.0


class Harness:
    """lm-evaluation-harness' model, as far as it is used: texts are tokenised and scored behind the prefix."""

    def __init__(self, pretrained: Any, tokenizer: Any, prefix_token_id: int, **_: Any) -> None:
        self.model, self.tokenizer, self.prefix = pretrained, tokenizer, prefix_token_id

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool) -> list[float]:
        rows = [np.array([self.prefix, *self.tokenizer(r.arguments[0])["input_ids"]]) for r in requests]
        return list(endtoend.by_reference(self.model, rows, CPU)[0])


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_the_harness_scores_the_same_model_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "lm_eval", __version__="0.4.13")
    install(monkeypatch, "lm_eval.api")
    install(monkeypatch, "lm_eval.api.instance", Instance=SimpleNamespace)
    install(monkeypatch, "lm_eval.models")
    install(monkeypatch, "lm_eval.models.huggingface", HFLM=Harness)
    assert against.lacking("lm_eval") == ""
    (beside,) = endtoend.bench_shape(TINY, CPU, [], ["lm_eval"]).beside
    assert (beside.name, beside.version, beside.dtype, beside.texts) == ("lm_eval", "0.4.13", "float32", 8)
    assert beside.agrees and 0 < beside.largest_difference_nat < 5e-3


def test_a_program_with_another_interface_is_told_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "SHAPES", (shapes.ModelShape("70m", 32, 2, 4, 8),))
    install(monkeypatch, "lm_eval", __version__="0.9")
    install(monkeypatch, "lm_eval.api")
    install(monkeypatch, "lm_eval.api.instance", Instance=SimpleNamespace)
    install(monkeypatch, "lm_eval.models")
    install(monkeypatch, "lm_eval.models.huggingface", HFLM=lambda: None)
    asked = ["--bench", "70m", "--part", "sweep", "--against", "lm_eval", "--device", "cpu"]
    assert main(asked) == 1
    reported = capsys.readouterr().err
    assert "lm-evaluation-harness 0.9 did not score a random model: TypeError" in reported
    assert "Leave out --against lm_eval" in reported


class Llama:
    """llama.cpp's bindings, as far as they are used, with a model in memory in place of the file."""

    model: Any = None

    def __init__(self, path: str, **_: Any) -> None:
        assert Path(path).read_bytes()[:4] == b"GGUF"

    def reset(self) -> None:
        self.scores = np.full((1024, 300), np.nan, np.float32)

    def eval(self, tokens: list[int]) -> None:
        self.scores[: len(tokens)] = Llama.model(torch.tensor([tokens])).logits[0]

    def close(self) -> None:
        Llama.model = None


def test_llama_cpp_scores_the_same_model_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    install(monkeypatch, "llama_cpp", __version__="0.3.36", Llama=Llama)
    Llama.model = shapes.build_model(TINY)
    (beside,) = endtoend.bench_shape(TINY, CPU, [], ["llama_cpp"]).beside
    assert beside.agrees and 0 < beside.largest_difference_nat < 5e-3
    assert Llama.model is None


def test_the_gguf_file_holds_the_model_in_llama_cpp_s_layout(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = shapes.build_model(TINY)
    write_neox(tmp_path / "m.gguf", model)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    assert len(tensors) == len(dict(model.named_parameters()))
    key, width = model.gpt_neox.layers[1].attention.query_key_value, 8  # 4 heads of 8
    stored = tensors["blk.1.attn_qkv.weight"]
    for head in range(4):
        for part in range(3):  # query, key, value
            at, there = (head * 3 + part) * width, part * 32 + head * width
            assert np.array_equal(stored[there : there + width], key.weight[at : at + width].numpy())
    head = model.get_output_embeddings().weight.numpy()
    assert np.array_equal(tensors["output.weight"], head)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["gptneox.rope.dimension_count"] == 2 and facts["gptneox.vocab_size"] == 300
