"""Every whole job file that the documents show can be planned, where the folders that it names are there."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from documents import blocks
from model_folders import make_model

from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan

STEPS = (500, 1000, 2000)
ASKS_THE_HUB = ("hf://", 'repo = "OWNER', "stage1-*", "EleutherAI/pythia-14m")


def whole() -> list[tuple[str, str]]:
    """(page, text) of job files that name a workspace, texts and models, and nothing that a hub is asked about."""
    found = []
    for page, text in blocks("toml"):
        is_whole = {"workspace", "corpus", "models"} <= tomllib.loads(text).keys()
        if is_whole and not any(words in text for words in ASKS_THE_HUB):
            found.append((page, text))
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts and models that the documents name; weights are a few bytes."""
    monkeypatch.chdir(tmp_path)
    texts = [f"A text that some model may have seen, number {i}. " * 8 for i in range(4)]
    Path("texts.json").write_text(json.dumps(texts))
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for run in ("runs/mine", "runs/mine-1", "runs/mine-2"):
        for step in STEPS:
            make_model(Path(run, f"step{step}"), weights=f"{run} {step}".encode())
    for name in ("runs/base", "models/mine", "mine"):
        make_model(Path(name))
    make_adapter(Path("runs/lora/checkpoint-100"))
    make_adapter(Path("runs/dora/checkpoint-200"))
    for folder in ("models/mine-gguf", "quants"):
        for kind, number, block_bytes in (("Q8_0", 7, 34), ("Q4_0", 2, 18)):
            make_gguf(Path(folder, f"mine-{kind}.gguf"), kind, number, block_bytes)
    return tmp_path


def make_adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


def make_gguf(path: Path, kind: str, file_type: int, block_bytes: int) -> None:
    """A file whose only tensor has two rows of one block."""
    gguf = pytest.importorskip("gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    rows = np.zeros((2, block_bytes), np.uint8)
    writer.add_tensor("token_embd.weight", rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("page", "text"), whole(), ids=lambda text: text.split("\n")[0])
def test_it_can_be_planned(page: str, text: str, here: Path) -> None:
    data = tomllib.loads(text)
    sample = data["corpus"].get("sample")
    # As many texts as a page speaks of are not here.
    (here / "job.toml").write_text(text.replace(f"sample = {sample}", "sample = 2") if sample else text)
    plan = make_plan(load_job(here / "job.toml"))
    assert plan.checkpoints and len(plan.corpus) == (2 if sample else 4)
