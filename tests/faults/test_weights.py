"""Weights that are damaged, missing, hostile or not numbers: each fails alone, in words of its own, in one job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import Cli
from fault_kit import ends
from tiny_models import write_model

import kltui

TEXTS = ["one two three", "four five six seven"]


def copy(model: Path, name: str) -> Path:
    return Path(shutil.copytree(model, model.parent / name))


def rewrite(
    folder: Path, file: str, value: float | None = None, shape: tuple[int, ...] | None = None
) -> None:
    """Puts `value` into, or gives another `shape` to, the first matrix of a safetensors file."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / file)
    name = next(n for n, t in tensors.items() if t.ndim == 2)
    if value is not None:
        tensors[name][:] = value
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, folder / file, {"format": "pt"})


def build(root: Path) -> dict[str, str]:
    """Folders below `root`, sound and broken: name -> what the error of that one says ("" for the sound ones)."""
    import torch
    from safetensors.torch import load_file
    from tiny_models import build_model, build_tokenizer

    whole = write_model(root / "whole", "gpt_neox", seed=1)
    sharded = root / "sharded"
    build_model("gpt_neox", seed=1).save_pretrained(sharded, max_shard_size="60KB")
    build_tokenizer().save_pretrained(sharded)
    shards = sorted(p.name for p in sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    rewrite(copy(whole, "nan"), "model.safetensors", value=float("nan"))
    rewrite(copy(whole, "inf"), "model.safetensors", value=float("inf"))
    rewrite(copy(whole, "mismatched"), "model.safetensors", shape=(3, 5))
    cut = copy(whole, "truncated") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    (copy(sharded, "shard_missing") / shards[1]).unlink()
    cut = copy(sharded, "shard_cut") / shards[1]
    cut.write_bytes(cut.read_bytes()[:-1000])
    pickled = copy(whole, "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    remote = copy(whole, "remote")
    config = json.loads((remote / "config.json").read_text())
    config |= {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.M"},
    }
    (remote / "config.json").write_text(json.dumps(config))
    (remote / "code.py").write_text(f"open({str(root / 'was-run')!r}, 'w')\n")
    return {
        "whole": "", "sharded": "", "nan": "NaN or infinite log-probability", "inf": "NaN or infinite log-probability",
        "mismatched": "shape", "truncated": "damaged", "shard_missing": shards[1], "shard_cut": "damaged",
        "pickled": "pickle", "remote": "",
    }  # fmt: skip


@pytest.mark.slow
def test_ten_checkpoints_of_which_two_are_sound(cli: Cli, tmp_path: Path) -> None:
    said = build(tmp_path)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    models = "".join(f'[[models]]\npath = "{name}"\n' for name in said)
    job = tmp_path / "job.toml"
    job.write_text(f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n{models}')
    done = cli("--batch", str(job), "--json", timeout=280)
    assert done.returncode == 1, done.stderr
    reported = ends(done.stdout)
    assert {n for n, e in reported.items() if e["status"] == "done"} == {"whole", "sharded"}, reported
    for name, words in said.items():
        assert words in (reported[name]["error"] or ""), reported[name]
    assert "allow_bin" in reported["pickled"]["hint"]
    assert "code" in reported["remote"]["error"] and not (tmp_path / "was-run").exists()
    with kltui.open(tmp_path / "ws") as ws:
        m = ws.map()
        assert m.names == ["sharded", "whole"] and (m.loglik_KN[0] == m.loglik_KN[1]).all()
