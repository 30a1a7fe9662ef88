"""Hints that fit their cause, each with the error that provokes it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import build_config, build_model, write_model

from kltui.errors import KltuiError
from kltui.scoring import load_errors, loading, tokens
from kltui.scoring.engine import Engine
from kltui.scoring.load_errors import not_finite_error
from kltui.scoring.loading import Loaded
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")


def load(folder):
    return loading.load_model(folder, loading.load_config(folder), "float32", "none", CPU, False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m") / "llama", "llama_tied")


@pytest.fixture
def not_installed(monkeypatch):
    """Packages that are here as little as the test wants, for kltui and for transformers."""
    import importlib.util

    real = importlib.util.find_spec

    def find_spec(name, *more):
        return (
            None
            if name.partition(".")[0] in ("sentencepiece", "tiktoken", "mistral_common")
            else real(name, *more)
        )

    monkeypatch.setattr(load_errors, "find_spec", find_spec)


@pytest.mark.parametrize(
    ("error", "package", "command"),
    [
        (ImportError("Loading a GPTQ quantized model requires optimum (`pip install optimum`)"), "optimum", "optimum"),
        (
            ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U bitsandbytes>=0.46.1`"),
            "bitsandbytes",
            "'.[quant]'",
        ),
        (ModuleNotFoundError("No module named 'torchao'", name="torchao"), "torchao", "torchao"),
        (ImportError("requires AQLM: `pip install aqlm[gpu,cpu]`"), "aqlm", "'aqlm[gpu,cpu]'"),
        (
            ImportError("Please install it with `pip install compressed-tensors>=0.15.0`."),
            "compressed-tensors",
            "'compressed-tensors>=0.15.0'",
        ),
        (ImportError("(`pip install 'auto-round>=0.5'`)"), "auto-round", "'auto-round>=0.5'"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named(llama, monkeypatch, error, package, command):
    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fails)
    with pytest.raises(KltuiError) as caught:
        load(llama)
    assert f"needs {package}, not installed here" in caught.value.message
    assert caught.value.hint == f"pip install {command}"


def with_config(folder, target, **more):
    """A copy of a model folder, by links, whose config.json says more."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != "config.json":
            (target / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | more
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "higgs", "spqr"])
def test_weights_stored_quantised_name_their_method(llama, tmp_path, method):
    more = {"bits": 4, "group_size": 32} if method in ("gptq", "awq") else {}
    folder = with_config(llama, tmp_path / method, quantization_config={"quant_method": method, **more})
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 48, dtype=torch.int32)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KltuiError) as caught:
        load(folder)
    said = str(caught.value)
    assert f"is quantised by {method}" in said and "files are complete" not in said
    assert ("runs only on a GPU" in said) == (method in ("higgs", "spqr")) or "not installed here" in said


SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"


@pytest.mark.parametrize(
    ("name", "content", "package"),
    [
        ("tokenizer.model", SENTENCEPIECE, "sentencepiece"),
        ("spiece.model", SENTENCEPIECE, "sentencepiece"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
        ("qwen.tiktoken", b"IQ== 0\n", "tiktoken"),
        ("tekken.json", b"{}", "mistral-common"),
    ],
)
@pytest.mark.usefixtures("not_installed")
def test_a_missing_tokenizer_library_is_the_one_that_the_file_needs(
    tmp_path, monkeypatch, name, content, package
):
    def fails(*_args, **_options):
        raise ValueError(
            "`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`."
        )

    build_config("llama").save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fails)
    with pytest.raises(KltuiError) as caught:
        tokens.load_tokenizer(tmp_path, "auto")
    assert f"needs {package}, not installed here" in caught.value.message and name in caught.value.message
    assert caught.value.hint.startswith(f"pip install {package}, or put its tokenizer.json")


@pytest.mark.parametrize(
    ("rename", "prefix", "cause"),
    [
        (lambda n: f"_orig_mod.{n}", "_orig_mod.", "torch.compile"),
        (lambda n: f"module.{n}", "module.", "DistributedDataParallel"),
        (lambda n: f"module._orig_mod.{n}", "module._orig_mod.", "torch.compile"),
        (lambda n: f"base_model.model.{n}", "base_model.model.", "PEFT"),
        (lambda n: f"student.{n}", "student.", "a wrapper"),
        (lambda n: n.replace("model.", "model._orig_mod.", 1), "_orig_mod.", "torch.compile"),
        (
            lambda n: n.replace("layers.", "layers._fsdp_wrapped_module."),
            "_fsdp_wrapped_module.",
            "FSDP",
        ),
    ],
)
def test_a_wrappers_prefix_is_told_by_name_and_the_way_out_is_right(llama, tmp_path, rename, prefix, cause):
    weights = load_file(llama / "model.safetensors")
    folder = with_config(llama, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    save_file(
        {rename(name): tensor for name, tensor in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(KltuiError) as caught:
        load(folder)
    assert repr(prefix) in caught.value.message and cause in caught.value.message
    assert f".replace({prefix!r}, '')" in caught.value.hint
    mended = {
        name.replace(prefix, ""): tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    assert mended.keys() == weights.keys()


def test_another_model_is_not_taken_for_a_prefix(llama, tmp_path):
    folder = with_config(llama, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    save_file({"module.some.weight": torch.ones(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(KltuiError, match="lack 30 of the model's tensors"):
        load(folder)


def test_widths_that_a_4_bit_kernel_refuses_are_named(monkeypatch):
    model = build_model("llama", hidden_size=40, intermediate_size=128, head_dim=8)
    loaded = Loaded(model, model.config, "sdpa", torch.float32, ())

    def refuses(*_):
        raise AssertionError("blocksize")

    monkeypatch.setattr("kltui.scoring.engine.make_head", refuses)
    for quantization, hint in (
        ("bnb-fp4", "packs 64 weights of a row together, and layers of this model are 32, 40 wide"),
        ("bnb-8bit", "does not run with this model's shapes on this device"),
        ("none", "check that it runs in transformers"),
    ):
        with pytest.raises(KltuiError) as caught, torch.inference_mode():
            Engine(loaded, ScoringSettings(), CPU, quantization)
        assert hint in caught.value.hint


def test_what_to_do_about_no_number_goes_by_the_dtype() -> None:
    assert 'try dtype = "bfloat16"' in not_finite_error(3, "float16").hint
    assert (
        "try dtype" not in not_finite_error(3, "float32").hint
        and "diverged" in not_finite_error(3, "bfloat16").hint
    )
