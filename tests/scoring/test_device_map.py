"""Models that do not fit: laid over devices by accelerate, here over memory and disk, with the same numbers."""

import socket

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, TEXTS, VARIED, build_model, write_model, write_run

from kltui.errors import KltuiError
from kltui.scoring import device_map, head, loading, prepacked_linear, weight_reload
from kltui.scoring.engine import Engine
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.pair import exact_kl
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

needs_accelerate = pytest.mark.skipif(
    device_map.find_spec("accelerate") is None, reason="accelerate is not installed"
)


@pytest.fixture
def memory(monkeypatch):
    """Sets how many bytes of weights fit in memory; the rest goes to disk.

    The machine's memory is as small, also for a model that lies whole: of one so large for it no weights are packed.
    """
    monkeypatch.setattr(prepacked_linear, "_memory_bytes", lambda: 0.0)

    def set_to(size):
        monkeypatch.setattr(device_map, "max_memory", lambda _: {"cpu": int(size)})

    return set_to


@pytest.fixture
def loads(monkeypatch):
    """Every model that is loaded, in order."""
    seen, real = [], loading.load_model

    def load(*arguments):
        seen.append(real(*arguments).model)
        return loading.Loaded(seen[-1], seen[-1].config, "sdpa", seen[-1].dtype, device_map.note(seen[-1]))

    monkeypatch.setattr(loading, "load_model", load)
    return seen


def score(folder, texts=TEXTS, quantization="none", **settings):
    settings = {"device": "cpu", "layers": "all", "tokens": True, **settings}
    return Scorer(texts, "c", ScoringSettings(**settings)).score(folder, quantization, "w", lambda _: None)


def size_of(family):
    return sum(p.nbytes for p in build_model(family).parameters())


def differences(a, b):
    """Largest difference of log-likelihoods, of all vectors, and of single tokens."""
    assert [v.layer for v in a.vectors] == [v.layer for v in b.vectors]
    vectors = [np.nanmax(np.abs(x.loglik_N - y.loglik_N)) for x, y in zip(a.vectors, b.vectors, strict=True)]
    tokens = [np.abs(x - y).max(initial=0) for x, y in zip(a.token_logprobs, b.token_logprobs, strict=True)]
    return max(vectors), max(tokens)


@needs_accelerate
@pytest.mark.parametrize(
    ("family", "share"),
    [
        ("gpt_neox", 0.3), ("llama", 0.7), ("llama_tied", 0.9), ("mixtral", 0.3), ("mixtral", 0.7), ("llama_tied", 0.3),
        *(
            pytest.param(family, share, marks=pytest.mark.full)
            for family, share in (("gpt_neox", 0.7), ("gpt_neox", 0.9), ("llama", 0.3), ("llama", 0.9), ("llama_tied", 0.7), ("mixtral", 0.9))
        ),
    ],
)  # fmt: skip
def test_a_model_larger_than_memory_scores_the_same(tmp_path, memory, loads, family, share):
    folder = write_model(tmp_path / "m", family)
    whole = score(folder)
    memory(share * size_of(family))
    spread_out = score(folder, device_map="auto")
    model = loads[-1]
    assert (
        device_map.is_spread(model) and device_map.is_offloaded(model) and not device_map.is_spread(loads[0])
    )
    assert max(differences(whole, spread_out)) < 1e-5
    assert len(spread_out.vectors) == 2 + model.config.num_hidden_layers
    assert spread_out.key == whole.key
    assert any("spread over" in note and "disk" in note for note in spread_out.notes)


@needs_accelerate
@pytest.mark.parametrize("layout", ["balanced", "sequential"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama_tied"])
def test_every_layout_and_dtype(tmp_path, memory, loads, family, layout):
    folder = write_model(tmp_path / "m", family)
    memory(0.4 * size_of(family))
    for dtype in ("float32", "float16", "bfloat16"):
        whole, apart = score(folder, dtype=dtype), score(folder, dtype=dtype, device_map=layout)
        assert device_map.is_offloaded(loads[-1]) and max(differences(whole, apart)) < 1e-5
        assert apart.key == whole.key
        assert ("float32 between" in apart.key["products"]) == (dtype == "bfloat16")


def spread_llama(tmp_path, memory, dtype):
    """A model whose head and last layers lie on disk."""
    folder = write_model(tmp_path / "m", "llama")
    memory(0.4 * size_of("llama"))
    layout = device_map.DeviceLayout("auto", tmp_path)
    config = loading.load_config(folder)
    return loading.load_model(folder, config, dtype, "none", torch.device("cpu"), False, layout)


@needs_accelerate
def test_a_spread_model_in_bfloat16_is_its_own_again(tmp_path, memory):
    """What is put beneath accelerate's hooks is taken out, and no weight from the disk is kept in memory."""
    loaded = spread_llama(tmp_path, memory, "bfloat16")
    ids = torch.arange(40)[None] * 7 % 300
    on_disk = [p.is_meta for p in loaded.model.parameters()]
    with torch.inference_mode():
        own = loaded.model(ids).logits
        engine = Engine(loaded, ScoringSettings(), torch.device("cpu"), "none")
        assert engine.products.endswith("plain linear layers, float32 between them")
        assert not torch.equal(loaded.model(ids).logits, own)
        assert any(on_disk) and on_disk == [p.is_meta for p in loaded.model.parameters()]
        prepacked_linear.unpack(loaded.model)
        assert torch.equal(loaded.model(ids).logits, own)


@needs_accelerate
@pytest.mark.parametrize("kind", [head.Head, head.TiledHead, head.FusedHead])
def test_a_head_on_disk_is_read_once_for_all_rows(tmp_path, memory, monkeypatch, kind):
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 1)
    module = spread_llama(tmp_path, memory, "float32").model.lm_head
    weight = build_model("llama").lm_head.weight.detach()
    made = kind(module, LogitRule(), len(weight))
    read, real = [], module._hf_hook.pre_forward
    monkeypatch.setattr(module._hf_hook, "pre_forward", lambda *a: read.append(1) or real(*a))
    hidden_nD, targets_n = torch.randn(9, weight.shape[1]), torch.arange(9)
    truth_n = (hidden_nD.double() @ weight.double().T).log_softmax(-1)[range(9), range(9)]
    with torch.inference_mode():
        assert (made(hidden_nD, targets_n) - truth_n).abs().max() < 1e-5
    assert len(read) == 1 and module.weight.is_meta


@needs_accelerate
@pytest.mark.parametrize("families", [VARIED, pytest.param(tuple(FAMILIES), marks=pytest.mark.full)], ids=len)
def test_every_family_scores_from_disk(tmp_path, memory, loads, families):
    for family in families:
        folder = write_model(tmp_path / family, family)
        memory(0.5 * size_of(family))
        difference = max(differences(score(folder, TEXTS[:3]), score(folder, TEXTS[:3], device_map="auto")))
        assert difference < 1e-5 and device_map.is_offloaded(loads[-1]), family


@needs_accelerate
@pytest.mark.parametrize(("share", "built"), [(2.0, 1), (0.6, 3)])
def test_a_run_is_refilled_only_where_it_lies_whole(tmp_path, memory, loads, share, built):
    folders = write_run(tmp_path, "gpt_neox", steps=(0, 1, 2))
    memory(share * size_of("gpt_neox"))
    scorer = Scorer(TEXTS, "c", ScoringSettings(device="cpu", device_map="auto"))
    found = [scorer.score(f, "none", "w", lambda _: None).vectors[0].loglik_N for f in folders]
    assert len(loads) == built and device_map.is_offloaded(loads[0]) == (share < 1)
    alone = [score(f).vectors[0].loglik_N for f in folders]
    assert np.nanmax(np.abs(np.subtract(found, alone))) < 1e-5


@pytest.mark.parametrize("offloaded", [1, 3])
def test_no_mould_is_made_around_weights_that_are_elsewhere(tmp_path, offloaded):
    folder = write_model(tmp_path / "m", "llama")
    model = build_model("llama")
    for layer in model.model.layers[:offloaded]:
        layer.input_layernorm.to("meta")
    described = weight_reload.config_text(model.config)
    loaded = loading.Loaded(model, model.config, "sdpa", torch.float32, ())
    assert weight_reload.make_template(loaded, folder, described) is None


@needs_accelerate
def test_exact_kl_of_two_models_from_disk(tmp_path, memory):
    folders = [write_model(tmp_path / str(seed), "mixtral", seed=seed) for seed in (1, 2)]
    whole = exact_kl(*folders, TEXTS, "c", ScoringSettings(device="cpu"))
    memory(0.5 * size_of("mixtral"))
    cache = tmp_path / "cache"
    apart = exact_kl(*folders, TEXTS, "c", ScoringSettings(device="cpu", device_map="auto"), cache_dir=cache)
    assert np.abs(whole.forward_nats_N - apart.forward_nats_N).max() < 1e-4
    assert not list(cache.glob("offload-*"))


def test_scratch_goes_with_its_job_and_a_killed_ones_is_removed(tmp_path):
    host = socket.gethostname()
    dead, other = tmp_path / f"offload-{host}-{2**22 + 1}_x", tmp_path / f"offload-{host}-b-{2**22 + 1}_x"
    for folder in (dead, other):
        folder.mkdir()
        (folder / "weight").touch()
    with device_map.spreading("auto", tmp_path) as first, device_map.spreading("auto", tmp_path) as second:
        assert first.scratch != second.scratch and first.scratch.is_dir() and second.scratch.is_dir()
        assert not dead.exists() and other.exists()
    assert list(tmp_path.iterdir()) == [other]
    with device_map.spreading("none", tmp_path) as layout:
        assert layout.scratch is None and layout.options("none", torch.device("cpu")) == {}


def test_scratch_of_a_process_that_another_container_runs_stays(tmp_path):
    """It has this host's name, and a number that nobody has here."""
    theirs = tmp_path / f"offload-{socket.gethostname()}-{2**22 + 1}_x"
    theirs.mkdir()
    with device_map._locked(theirs), device_map.spreading("auto", tmp_path):
        assert theirs.exists()
    with device_map.spreading("auto", tmp_path):
        assert not theirs.exists()


@pytest.mark.parametrize(
    ("layout", "device", "said"),
    [
        ("automatic", "auto", "unknown device_map"),
        ("auto", "cuda:1", "over all GPUs"),
        ("auto", "mps", "all GPUs"),
    ],
)
def test_what_cannot_be_spread_is_refused(layout, device, said):
    with pytest.raises(KltuiError, match=said) as caught:
        device_map.check(layout, device)
    assert caught.value.hint


def test_without_accelerate_the_command_is_named(monkeypatch):
    monkeypatch.setattr(device_map, "find_spec", lambda _: None)
    with pytest.raises(KltuiError, match="needs accelerate") as caught:
        Scorer(TEXTS, "c", ScoringSettings(device="cpu", device_map="auto"))
    assert ".[large]" in caught.value.hint
    Scorer(TEXTS, "c", ScoringSettings(device="cpu"))


@needs_accelerate
def test_quantised_weights_cannot_lie_on_disk(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "m", "llama")
    with pytest.raises(KltuiError, match="cannot be used with device_map") as caught:
        score(folder, quantization="bnb-8bit", device_map="auto")
    assert 'device_map = "none"' in caught.value.hint
    error = ValueError("Some modules are dispatched on the CPU or the disk. Make sure ...")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", _raising(error))
    with pytest.raises(KltuiError, match="does not fit on the GPUs") as caught:
        score(folder, quantization="bnb-8bit")
    assert "fewer bits" in caught.value.hint


@needs_accelerate
@pytest.mark.parametrize("layout", ["none", "auto"])
def test_a_model_too_large_for_its_device_names_the_way_out_where_there_is_one(tmp_path, monkeypatch, layout):
    folder = write_model(tmp_path / "m", "llama")
    error = torch.OutOfMemoryError("CUDA out of memory")
    with monkeypatch.context() as patched:
        patched.setattr("transformers.AutoModelForCausalLM.from_pretrained", _raising(error))
        with pytest.raises(KltuiError, match="does not fit in memory") as loading_it:
            score(folder, device_map=layout)
    monkeypatch.setattr("kltui.scoring.engine.Engine.submit", _raising(error))
    with pytest.raises(KltuiError, match="a single text does not fit") as scoring_it:
        score(folder, device_map=layout)
    for caught in (loading_it, scoring_it):
        advised = 'device_map = "auto" in [engine]' in caught.value.hint
        assert advised == (layout == "none") and "smaller dtype" in caught.value.hint


@needs_accelerate
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_that_no_gpu_has_room_for_stays_in_memory(tmp_path, memory, dtype):
    folder, gpu = write_model(tmp_path / "m", "llama"), torch.device("cuda")
    memory(10**9)
    layout = device_map.DeviceLayout("auto", tmp_path)
    loaded = loading.load_model(folder, loading.load_config(folder), dtype, "none", gpu, False, layout)
    assert {p.device.type for p in loaded.model.parameters()} == {"cpu"}
    assert device_map.engine_device(loaded.model, gpu).type == "cpu"
    computed = torch.bfloat16 if dtype == "bfloat16" else torch.float32  # CPUs never compute in fp16
    assert {p.dtype for p in loaded.model.parameters()} == {loaded.dtype} == {computed}
    assert "main memory on the CPU" in " ".join(loaded.notes)


def _raising(error):
    def fail(*_, **__):
        raise error

    return fail


needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.gpu
@needs_two_gpus
@needs_accelerate
@pytest.mark.parametrize("layout", ["auto", "balanced", "sequential"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "llama_tied", "opt", "gemma2"])
def test_two_gpus_score_as_one(tmp_path, monkeypatch, loads, family, layout):
    folder = write_model(tmp_path / "m", family)
    whole = score(folder, device="cuda")
    half = int(0.7 * size_of(family))
    monkeypatch.setattr(device_map, "max_memory", lambda _: {0: half, 1: 10**9})
    both = score(folder, device="cuda", device_map=layout)
    assert len({p.device for p in loads[-1].parameters()}) == 2
    assert max(differences(whole, both)) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@needs_accelerate
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "llama_tied", "opt"])
def test_one_gpu_memory_and_disk_score_as_one(tmp_path, monkeypatch, loads, family):
    folder = write_model(tmp_path / "m", family)
    whole = score(folder, device="cuda")
    part = int(0.6 * size_of(family))
    monkeypatch.setattr(device_map, "max_memory", lambda _: {0: part, "cpu": part // 3})
    apart = score(folder, device="cuda", device_map="auto")
    assert device_map.is_offloaded(loads[-1]) and max(differences(whole, apart)) < 1e-4
