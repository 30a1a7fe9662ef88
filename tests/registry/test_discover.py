"""Checkpoints found in folders, and entries of a job file turned into checkpoints."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import make_model

from kltui.errors import KltuiError, UsageError
from kltui.registry import HubSource, LocalSource
from kltui.registry.discover import discover, discover_runs
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.layout import weight_names


def test_a_run_folder_is_sorted_by_step_not_by_name(tmp_path: Path) -> None:
    for name in ("checkpoint-1000", "step90", "step-200", "step_7", "15", "iter_0000300"):
        make_model(tmp_path / "tiny" / name)
    make_model(tmp_path / "tiny" / "best")
    (tmp_path / "tiny" / "logs").mkdir()
    found = discover(tmp_path / "tiny")
    assert [f.step for f in found] == [7, 15, 90, 200, 300, 1000]
    assert [f.path.name for f in found] == [
        "step_7",
        "15",
        "step90",
        "step-200",
        "iter_0000300",
        "checkpoint-1000",
    ]
    assert {f.type for f in found} == {"gpt_neox"}


def test_a_single_model_folder(tmp_path: Path) -> None:
    (found,) = discover(make_model(tmp_path / "pythia-14m"))
    assert (found.step, found.type, found.source) == (None, "gpt_neox", LocalSource(tmp_path / "pythia-14m"))


@pytest.mark.parametrize(
    ("state", "steps"),
    [
        (None, [1, 2]),
        ({"global_step": 2}, [1, 2]),
        ({"global_step": 3}, [1, 2, 3]),
        ({"global_step": "x"}, [1, 2]),
        ([], [1, 2]),
    ],
)
def test_the_final_model_of_a_run_joins_where_its_step_is_new(
    tmp_path: Path, state: object, steps: list[int]
) -> None:
    run = make_model(tmp_path / "run")
    for step in (1, 2):
        make_model(run / f"checkpoint-{step}")
    if state is not None:
        (run / "trainer_state.json").write_text(json.dumps(state))
    found = discover(run)
    assert [f.step for f in found] == steps
    assert found[-1].path == (run if 3 in steps else run / "checkpoint-2")


def test_a_half_written_checkpoint_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path / "step1")
    make_model(tmp_path / "step2")
    (tmp_path / "step2" / "model.safetensors").unlink()
    assert [f.step for f in discover(tmp_path)] == [1]
    assert "step2 has config.json but no weights: left out" in caplog.text


def test_what_was_seen_is_said_where_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    make_model(tmp_path / "suite" / "small" / "step5")
    make_model(tmp_path / "suite" / "alone")
    cases = [
        (tmp_path / "none", "The folder", "contains adapter/, notes.txt, suite/"),
        (tmp_path / "notes.txt", "is a file", "run folder"),
        (tmp_path / "adapter", "it contains an adapter", "merge it into its base model"),
        (tmp_path, "seen: adapter/, notes.txt, suite/", "checkpoint-500"),
        (tmp_path / "suite", "neither a model nor a run, but contains some: alone, small", "[[models]]"),
    ]
    for path, message, hint in cases:
        with pytest.raises(KltuiError) as error:
            discover(path)
        assert message in error.value.message and hint in error.value.hint


def test_two_folders_of_one_step_are_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "step5")
    make_model(tmp_path / "checkpoint-5")
    with pytest.raises(KltuiError, match="both step 5"):
        discover(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(KltuiError, match="cannot be read"):
        discover(tmp_path / "closed")


def test_an_entry_of_a_run_folder(tmp_path: Path) -> None:
    for step in (10, 9):
        make_model(tmp_path / "tiny" / f"step{step}")
    entry = ModelEntry(
        path=tmp_path / "tiny",
        seed=3,
        size="2M",
        parent="base",
        tags=("a",),
        quantization=("none", "bnb-8bit"),
    )
    found = checkpoints_from_entry(entry)
    assert [c.name for c in found] == ["tiny@9", "tiny@9+bnb-8bit", "tiny@10", "tiny@10+bnb-8bit"]
    first = found[0]
    assert (first.seed, first.size, first.type, first.parent, first.tags) == (
        3,
        "2M",
        "gpt_neox",
        "base",
        ("a",),
    )
    assert first.source == LocalSource(tmp_path / "tiny" / "step9")
    assert {c.type for c in checkpoints_from_entry(ModelEntry(path=tmp_path / "tiny", type="mine"))} == {
        "mine"
    }
    assert checkpoints_from_entry(ModelEntry(path=tmp_path / "tiny"))[0].size == ""


def test_names_of_lone_folders(tmp_path: Path) -> None:
    for folder, name in [
        ("pythia-14m", "pythia-14m"),
        ("tiny/step500", "tiny@500"),
        ("a-step5", "a-step5@5"),
    ]:
        (checkpoint,) = checkpoints_from_entry(ModelEntry(path=make_model(tmp_path / folder)))
        assert checkpoint.name == name
    (named,) = checkpoints_from_entry(ModelEntry(path=tmp_path / "tiny" / "step500", run="mine"))
    assert named.name == "mine@500"


def test_an_entry_of_a_hub_repository() -> None:
    entry = ModelEntry(repo="EleutherAI/pythia-410m", revisions=("step{1000..3000..1000}", "step{0,1}"))
    found = checkpoints_from_entry(entry)
    assert [c.name for c in found] == [f"pythia-410m@{s}" for s in (0, 1, 1000, 2000, 3000)]
    assert found[2].source == HubSource("EleutherAI/pythia-410m", "step1000")
    (main,) = checkpoints_from_entry(ModelEntry(repo="gpt2"))
    assert (main.name, main.source) == ("gpt2", HubSource("gpt2", "main"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ModelEntry(), "needs path, repo or endpoint"),
        (ModelEntry(path=Path("/x"), repo="a/b"), "needs path, repo or endpoint"),
        (ModelEntry(repo="a/b", quantization=()), "is empty"),
        (ModelEntry(path=Path("/x"), revisions=("main",)), "revisions are given for the folder"),
        (ModelEntry(repo="a/b", revisions=("step5", "ckpt_5")), "would both have the name b@5"),
        (ModelEntry(repo="a/b", revisions=("s1-step5", "s1/step-5")), "would both have the name b-s1@5"),
        (ModelEntry(repo="../b"), "not a hub repository"),
        (ModelEntry(repo="a/b/c"), "not a hub repository"),
        (ModelEntry(repo="a/\x1b[2J"), "not a hub repository"),
        (ModelEntry(repo="a/b", revisions=("../../../etc",)), "not a hub revision"),
        (ModelEntry(repo="a/b", revisions=("/etc",)), "not a hub revision"),
    ],
)
def test_entries_that_cannot_be_meant(entry: ModelEntry, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        checkpoints_from_entry(entry)
    assert "\x1b" not in str(error.value)


def put(folder: Path, *names: str) -> Path:
    """A folder with these files, and folders where a name ends in a slash."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(b"x")
    return folder


FOREIGN = [
    (("adapter_config.json",), "an adapter (PEFT)", "merge it"),
    (("config.json", "model-Q4_K_M.gguf"), "GGUF", "from which they were made"),
    (("params.json", "consolidated.00.pth"), "Meta's or Mistral's own layout", "convert_llama_weights_to_hf.py"),
    (("params.json", "consolidated.safetensors"), "Meta's or Mistral's own layout", "convert_"),
    (("config.json", "global_step500/mp_rank_00_model_states.pt", "zero_to_fp32.py"), "DeepSpeed", "zero_to_fp32.py"),
    (("config.json", "pytorch_model_fsdp_0/__0_0.distcp"), "FSDP", "accelerate merge-weights"),
    (("__0_0.distcp", ".metadata"), "FSDP", "accelerate merge-weights"),
    (("mp_rank_00/model_optim_rng.pt",), "Megatron", "Megatron's own tools"),
    (("config.json", "tf_model.h5"), "TensorFlow", "safetensors"),
    (("config.json", "flax_model.msgpack"), "Flax", "safetensors"),
    (("config.json", "onnx/"), "ONNX", "exported from"),
    (("model.nemo",), "NeMo", "NeMo's own tools"),
    (("last.ckpt",), "Lightning", "save_pretrained"),
    (("config.json", "model.pth"), "raw PyTorch", "save_pretrained"),
    (("config.json", "weights.safetensors"), "safetensors under another name", "rename it"),
    (("config.json",), "has config.json but no weights", "model.safetensors"),
    (("model.safetensors",), "has no config.json beside its weights", "config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "what", "way_out"), FOREIGN)
def test_other_formats_are_named_also_where_a_run_holds_nothing_else(
    tmp_path: Path, names: tuple[str, ...], what: str, way_out: str
) -> None:
    alone = put(tmp_path / "alone", *names)
    for step in (100, 200):
        put(tmp_path / "run" / f"checkpoint-{step}", *names)
    with pytest.raises(KltuiError) as caught:
        discover(tmp_path / "run")
    assert f"checkpoint-100 {'has' if what.startswith('has') else 'contains'}" in caught.value.message
    assert what in caught.value.message and "1 more" in caught.value.message and way_out in caught.value.hint
    with pytest.raises(KltuiError) as caught:
        discover(alone)
    assert what in caught.value.message or what.startswith("has ")


def test_what_is_left_out_of_a_run_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_model(tmp_path / "checkpoint-1")
    put(tmp_path / "checkpoint-2", "config.json", "pytorch_model_fsdp_0/")
    assert [f.step for f in discover(tmp_path)] == [1]
    assert "checkpoint-2 contains FSDP shards" in caplog.text and "merge-weights" in caplog.text


def test_copies_and_half_written_checkpoints_are_no_steps(tmp_path: Path) -> None:
    for name in (
        "tmp-checkpoint-200",
        "checkpoint-200-old",
        "checkpoint-200.bak",
        "step5_backup",
        ".step7",
        "step9~",
    ):
        make_model(tmp_path / "run" / name)
    with pytest.raises(KltuiError, match="neither a model nor a run, but contains some"):
        discover(tmp_path / "run")
    make_model(tmp_path / "run" / "checkpoint-200")
    assert [(f.step, f.path.name) for f in discover(tmp_path / "run")] == [(200, "checkpoint-200")]


def test_a_single_file_is_named_by_its_format(tmp_path: Path) -> None:
    put(tmp_path, "tiny-Q8_0.gguf", "notes.txt")
    for name, what, hint in (
        ("tiny-Q8_0.gguf", "GGUF", "from which they were made"),
        ("notes.txt", "is a file", "run folder"),
    ):
        with pytest.raises(KltuiError, match=what) as caught:
            discover(tmp_path / name)
        assert hint in caught.value.hint


def test_pickles_that_may_not_be_opened_are_named(tmp_path: Path) -> None:
    """And not said to be absent."""
    make_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    assert weight_names(tmp_path / "m") == ["pytorch_model.bin"]
    with pytest.raises(KltuiError) as caught:
        weight_names(tmp_path / "m", allow_bin=False)
    assert "contains only pickled weights (pytorch_model.bin)" in caught.value.message
    assert "allow_bin = true" in caught.value.hint


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".gguf"])
def test_a_path_that_the_system_refuses_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    """A name that is too long is refused to every user, as a folder of somebody else's is to others."""
    path = tmp_path / name
    tries: list[Callable[[], object]] = [
        lambda: discover(path),
        lambda: discover_runs(path),
        lambda: checkpoints_from_entry(ModelEntry(path=path)),
        lambda: checkpoints_from_entry(ModelEntry(path=path, files=("*",))),
        lambda: checkpoints_from_entry(ModelEntry(repo="a/b", tokenizer=str(path / "tokenizer.json"))),
    ]
    for look in tries:
        with pytest.raises(
            KltuiError, match=r"cannot be read: File name too long|no tokenizer in|`files` was given"
        ):
            look()


def test_models_of_a_run_without_a_step_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("step1000", "step2000", "step1000-old", "final", "step3k"):
        make_model(tmp_path / name)
    (tmp_path / "latest").symlink_to("step2000")
    assert [f.step for f in discover(tmp_path)] == [1000, 2000]
    assert "final, step3k left out, because the name states no step" in caplog.text
    caplog.clear()
    discover(tmp_path)
    assert caplog.text == ""
