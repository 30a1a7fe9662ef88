"""Adapters as checkpoints: their values against new PeftModels in float64, their bases, keys and distances, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import merged_float64, scored_fresh, text_ids, write_adapter
from command import start
from fake_gpu import FakeGpu
from tiny_models import TEXTS, write_model

import kltui
from kltui.cli import main
from kltui.errors import KltuiError
from kltui.jobs import worker
from kltui.jobs.jobfile import load_job
from kltui.jobs.messages import Task
from kltui.jobs.plan import make_plan
from kltui.registry import adapters
from kltui.registry.reading import Reading, hash_files
from kltui.scoring import loading
from kltui.scoring.adapters import read_adapter
from kltui.scoring.prefetch import Prefetch
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

pytest.importorskip("peft")

ON = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, **ON},
    "dora": {"use_dora": True, **ON},
    "saved": {"modules_to_save": ["lm_head", "embed_tokens"], **ON},
    "ranks": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 32}, **ON},
    "head": {"target_modules": ["lm_head", "q_proj", "embed_tokens"]},
    "resized": {"rows": 400, **ON},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
    "ia3": {
        "kind": "IA3Config", "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a run of three adapters, and one adapter of every kind."""
    root = tmp_path_factory.mktemp("adapters")
    base = write_model(root / "base", "llama", seed=3)
    for step in (10, 20, 30):
        write_adapter(base, root / "lora" / f"checkpoint-{step}", seed=step, **ON)
    for name, config in KINDS.items():
        write_adapter(base, root / name, seed=5, **config)
    (root / "texts.json").write_text(json.dumps(TEXTS))
    return root


def adapted(base: Path, folder: Path) -> adapters.Adapted:
    return adapters.Adapted(hash_files(base), hash_files(folder))


def scored(scorer: Scorer, base: Path, folder: Path) -> Any:
    both = adapted(base, folder)
    with adapters.AdaptedReading(both) as reading:
        return scorer.score(base, "none", both.weights, lambda progress: None, reading)


def write_job(folder: Path, models: str, scoring: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    path = folder / "job.toml"
    path.write_text(
        f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n{models}\n[scoring]\ndevice = "cpu"\n{scoring}\n'
    )
    return path


def test_every_kind_and_every_step_is_what_a_new_peft_model_gives_in_float64(made: Path) -> None:
    """The steps of a run are swapped into one base; the kinds between them each load their own."""
    scorer = Scorer(TEXTS, "0" * 64, ScoringSettings(device="cpu", layers=(1, 3), tokens=True))
    ids, seen = text_ids(made / "base", TEXTS), {}
    for name in ("lora/checkpoint-10", "lora/checkpoint-20", *KINDS, "lora/checkpoint-30"):
        model = scorer._adapted.peft_model if scorer._adapted else None
        result = scored(scorer, made / "base", made / name)
        truth_N = scored_fresh(made / "base", made / name, ids, KINDS.get(name, {}).get("rows"))
        found_N = result.vectors[0].loglik_N
        wrong = np.nanmax(np.abs(found_N - np.array(truth_N)))
        assert wrong < 1e-4, (name, wrong)
        last_layer_N = next(v.loglik_N for v in result.vectors if v.layer == 3)
        np.testing.assert_allclose(last_layer_N, found_N, atol=1e-4, equal_nan=True)
        kept = [0.0 if np.isnan(v) else v for v in found_N]
        np.testing.assert_allclose([t.sum() for t in result.token_logprobs], kept, atol=1e-4)
        assert scorer._adapted is not None
        assert (scorer._adapted.peft_model is model) == (name == "lora/checkpoint-20")
        seen[name] = result.key
        for word in ("base", "adapter", "adapter_config", "peft"):
            assert result.key[word]
    assert len({key["base"] for key in seen.values()}) == 1
    assert (
        len({key["adapter"] for key in seen.values()})
        == len({key["weights"] for key in seen.values()})
        == len(seen)
    )


def test_a_base_is_loaded_once_for_itself_and_all_adapters_of_factors(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored itself, then under runs of several settings; one that writes over its embeddings has the next one load it anew."""
    folders: list[Path] = []
    load = loading.load_model

    def counted(folder: Path, *args: Any) -> Any:
        folders.append(folder)
        return load(folder, *args)

    monkeypatch.setattr(loading, "load_model", counted)
    scorer = Scorer(TEXTS, "0" * 64, ScoringSettings(device="cpu"))
    base, ids, loads = made / "base", text_ids(made / "base", TEXTS), {}
    with Reading(hash_files(base)) as reading:
        scorer.score(base, "none", reading.hashed.weights, lambda progress: None, reading)
    names = ("lora/checkpoint-10", "rslora", "dora", "lora/checkpoint-30", "resized", "lora/checkpoint-10")
    for name in names:
        found_N = scored(scorer, base, made / name).vectors[0].loglik_N
        truth_N = scored_fresh(base, made / name, ids, KINDS.get(name, {}).get("rows"))
        np.testing.assert_allclose(np.nan_to_num(found_N), truth_N, atol=1e-4)
        loads[name] = len(folders)
    assert list(loads.values()) == [2, 1, 1, 1, 1] and len(folders) == 2


def test_the_next_adapter_is_read_while_the_last_one_is_scored(made: Path) -> None:
    """With a stand-in for the GPU: the same numbers, out of what was read ahead."""
    scorer = Scorer(TEXTS, "0" * 64, ScoringSettings(device="cpu"))
    scorer._prefetch = Prefetch(FakeGpu())
    base, ids = made / "base", text_ids(made / "base", TEXTS)
    folders = [made / "lora" / f"checkpoint-{step}" for step in (10, 20, 30)]
    early = []
    for folder, following in zip(folders, (*folders[1:], None), strict=True):
        result = scored(scorer, base, folder)
        found_N = np.nan_to_num(result.vectors[0].loglik_N)
        np.testing.assert_allclose(found_N, scored_fresh(base, folder, ids), atol=1e-4)
        early.append(result.stats["weights_read_ahead"])
        if following is not None:
            both = adapted(base, following)
            worker._expect(scorer, False, Task(0, both.base, "none", adapted=both))
    scorer.close()
    assert early == [0.0, 1.0, 1.0]


def killed_behind(job: Path, name: str) -> list[str]:
    """Starts the job, ends its whole group with SIGKILL once it has acknowledged `name`; all that it acknowledged."""
    process = start("--batch", str(job), "--json", cwd=job.parent, env=os.environ, session=True)
    assert process.stdout is not None
    acknowledged: list[str] = []
    for line in process.stdout:
        event = json.loads(line) if line.startswith("{") else {}
        acknowledged += [event["name"]] if event.get("event") == "checkpoint" else []
        if name in acknowledged:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return acknowledged


def ends_of(job: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """{checkpoint: how it ended} of the job run through."""
    capsys.readouterr()
    assert main(["--batch", str(job), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return {e["name"]: e["status"] for e in events if e["event"] == "checkpoint"}


def test_a_job_of_adapters_through_a_kill_adds_their_base_once_and_makes_it_their_parent(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, f'[[models]]\npath = "{made}/lora"\n[[models]]\npath = "{made}/dora"')
    assert main(["--batch", str(job), "--dry-run"]) == 0
    assert "base is added as the base of lora@10" in capsys.readouterr().out
    acknowledged, ends = killed_behind(job, "lora@10"), ends_of(job, capsys)
    assert set(ends) == {"base", "lora@10", "lora@20", "lora@30", "dora"}
    assert all(ends[name] == "kept" for name in acknowledged) and ends["dora"] == "done"
    ws = kltui.open(tmp_path / "ws")
    parents = {row.name: row.checkpoint.parent for row in ws.checkpoints()}
    assert parents == {"base": "", "lora@10": "base", "lora@20": "base", "lora@30": "base", "dora": "base"}
    row = next(r for r in ws.map().scale() if r.setting == "fine-tuning")
    assert set(row.pairs) == {("base", "lora@30"), ("base", "dora")}
    near = ws.weight_distances(compute=True)
    plain, *steps = [merged_float64(made / "base", f) for f in (None, *sorted((made / "lora").iterdir())[:2])]
    apart = [sum(float(np.sum((y[n] - x[n]) ** 2)) for n in x) for x, y in ((plain, steps[0]), tuple(steps))]
    assert ws.adapter_distances()["base", "lora@10"] == pytest.approx(apart[0], rel=1e-6)
    assert near["lora@10", "lora@20"] == pytest.approx(apart[1], rel=1e-6)
    assert set(ends_of(job, capsys).values()) == {"kept"}


@pytest.mark.parametrize("place", ["{made}/base", "mine", "absent"])
def test_the_base_is_what_the_entry_or_the_adapter_says(made: Path, tmp_path: Path, place: str) -> None:
    folder = shutil.copytree(made / "dora", tmp_path / "dora")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "models/b" if place == "absent" else "gone/away/from/here"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if place == "absent":
        shutil.copytree(made / "base", tmp_path / "models" / "b")
    line = "" if place == "absent" else f'base = "{place.format(made=made)}"'
    mine = f'[[models]]\npath = "{made}/base"\nrun = "mine"\n' if place == "mine" else ""
    plan = make_plan(load_job(write_job(tmp_path, f'{mine}[[models]]\npath = "dora"\n{line}')))
    names = {"mine": "mine", "absent": "b"}
    assert [c.name for c in plan.checkpoints] == [names.get(place, "base"), "dora"]
    assert plan.checkpoints[1].parent == plan.checkpoints[0].name and plan.checkpoints[1].type == "llama"


def _spoilt(made: Path, tmp_path: Path, **changes: Any) -> Path:
    folder = shutil.copytree(made / "rslora", tmp_path / "spoilt")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "learned tokens"),
        ({"peft_type": "XLORA"}, "mixes several adapters"),
        ({"task_type": "SEQ_CLS"}, "not for a causal language model"),
        ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "repeats the base's layers"),
        ({"peft_type": None}, "names no peft_type"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(
    made: Path, tmp_path: Path, changes: Any, words: str
) -> None:
    with pytest.raises(KltuiError, match=words):
        adapters.check_adapter(_spoilt(made, tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": ["q_proj"]}, "do not exist in its base"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "up_proj"]}, "lacks 6 of its tensors"),
        ({"r": 2}, "does not fit its base"),
        ({"target_modules": ["no_such"]}, "peft cannot apply the adapter"),
        ({"peft_type": "NO_SUCH"}, "peft cannot apply the adapter"),
    ],
)
def test_an_adapter_whose_tensors_do_not_all_load_fails(
    made: Path, tmp_path: Path, changes: Any, words: str
) -> None:
    scorer = Scorer(TEXTS[:2], "0" * 64, ScoringSettings(device="cpu"))
    with pytest.raises(KltuiError, match=words):
        scored(scorer, made / "base", _spoilt(made, tmp_path, **changes))


def test_an_adapter_pickled_or_damaged_or_without_peft(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = _spoilt(made, tmp_path)
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    with pytest.raises(KltuiError, match="bytes of"):
        read_adapter(adapted(made / "base", folder), allow_bin=False)
    weights.unlink()
    with pytest.raises(KltuiError, match="only a pickled adapter") as caught:
        read_adapter(adapted(made / "base", folder), allow_bin=False)
    assert "allow_bin = true" in caught.value.hint
    assert (
        read_adapter(adapted(made / "base", folder), allow_bin=True).state.keys()
        == load_file(made / "rslora" / "adapter_model.safetensors").keys()
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a)
    )
    job = write_job(tmp_path / "job", f'[[models]]\npath = "{made}/rslora"')
    assert main(["--batch", str(job), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "adapters need peft" in said and "pip install '.[adapters]'" in said


def test_what_is_hashed_is_what_is_read_of_an_adapter_too(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "rslora", tmp_path / "moved")
    both = adapted(made / "base", folder)
    shutil.copy(made / "lora/checkpoint-10/adapter_model.safetensors", folder)
    with pytest.raises(KltuiError, match="changed after they were hashed"):
        adapters.AdaptedReading(both)
