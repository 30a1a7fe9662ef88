"""Adapters whose base is on the hub, adapters that are on the hub themselves, and those that are not for their base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from adapter_folders import merged_float64, scored_fresh, text_ids, write_adapter
from hub_server import FakeHub
from pair_in_process import InThisProcess
from tiny_models import TEXTS, write_model

import kltui
from kltui.cli import main
from kltui.jobs.executors import local
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan

pytest.importorskip("peft")

ON = {"target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and two adapters for it; one says that the base is tag v1 of org/base."""
    root = tmp_path_factory.mktemp("elsewhere")
    base = write_model(root / "base", "llama", seed=3)
    for step in (10, 20):
        folder = write_adapter(base, root / "lora" / f"checkpoint-{step}", seed=step, **ON)
        config = json.loads((folder / "adapter_config.json").read_text())
        config |= {"base_model_name_or_path": "org/base", "revision": "v1"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the base as tag v1 of org/base, where main is a model with other weights."""
    with FakeHub() as server:
        server.add_folder("org/base", "v1", made / "base")
        server.add_folder("org/base", "main", write_model(tmp_path / "newer", "llama", seed=4))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        yield server


def write_job(folder: Path, models: str, texts: list[str] = TEXTS) -> Path:
    (folder / "texts.json").write_text(json.dumps(texts))
    path = folder / "job.toml"
    path.write_text(
        f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n{models}\n[scoring]\ndevice = "cpu"\n'
    )
    return path


@pytest.mark.slow
def test_a_base_on_the_hub_is_the_one_of_its_revision_scored_once(
    made: Path,
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run's own configuration names it, or the entry does; one adapter under two names is noticed."""
    other = shutil.copytree(made / "lora" / "checkpoint-20", tmp_path / "other")
    settings = other / "adapter_config.json"
    settings.write_text(settings.read_text().replace("org/base", "gone/away"))
    models = f'[[models]]\npath = "{made}/lora"\n[[models]]\npath = "other"\nbase = "org/base@v1"\n'
    models += f'[[models]]\npath = "{made}/lora/checkpoint-10"\nrun = "again"\n'
    job = write_job(tmp_path, models)
    assert main(["--batch", str(job)]) == 0, capsys.readouterr().err
    assert "lora@10 and again@10 have the same weights" in " ".join(capsys.readouterr().err.split())
    assert hub.downloads("model.safetensors") == [
        "/org/base/resolve/" + hub.repos["org/base"].revisions["v1"] + "/model.safetensors"
    ]
    with kltui.open(tmp_path / "ws") as ws:
        parents = {row.name: row.checkpoint.parent for row in ws.checkpoints()}
        assert parents == {
            "base": "",
            "lora@10": "base",
            "lora@20": "base",
            "other": "base",
            "again@10": "base",
        }
        loglik = dict(zip(ws.map().names, np.nan_to_num(ws.map().loglik_KN), strict=True))
        names = [("lora@10", "lora", "checkpoint-10"), ("other", "lora", "checkpoint-20")]
        for name, *folder in names:
            truth_N = scored_fresh(made / "base", made.joinpath(*folder), text_ids(made / "base", TEXTS))
            np.testing.assert_allclose(loglik[name], truth_N, atol=1e-4)
    capsys.readouterr()
    assert main(["--batch", str(job), "--json"]) == 0
    ends = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {e["status"] for e in ends if e["event"] == "checkpoint"} == {"kept"}
    _check_exact(made, tmp_path / "ws", monkeypatch)


def _check_exact(made: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact KL of an adapter to its base, and to the next one, is that of merged weights in a float64 loop."""
    monkeypatch.setattr(local, "LocalExecutor", InThisProcess)
    truths = {
        name: logp(made / "base", folder, text_ids(made / "base", TEXTS))
        for name, folder in (
            ("base", None),
            ("lora@10", made / "lora" / "checkpoint-10"),
            ("lora@20", made / "lora" / "checkpoint-20"),
        )
    }
    with kltui.open(workspace) as ws:
        for a, b in (("lora@10", "base"), ("lora@10", "lora@20")):
            found = ws.exact_kl(a, b)
            p, q = truths[a], truths[b]
            assert found is not None and found.n_tokens == len(p)
            assert found.forward.nats_per_token == pytest.approx(
                (np.exp(p) * (p - q)).sum(1).mean(), rel=1e-4
            )
            assert found.reverse.nats_per_token == pytest.approx(
                (np.exp(q) * (q - p)).sum(1).mean(), rel=1e-4
            )
            assert found.top1_agreement == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
        assert ws.exact_kl("lora@20", "other").forward.bits_per_byte == 0.0


def logp(base: Path, folder: Path | None, ids: list[list[int]]) -> np.ndarray:
    """log p of every entry at each target position, (T, V), by the base with the adapter merged in, in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    if folder is not None:
        merged = merged_float64(base, folder)
        model.load_state_dict({n: torch.from_numpy(v) for n, v in merged.items()}, strict=False)
    with torch.inference_mode():
        rows = [model(torch.tensor([row])).logits[0, :-1].log_softmax(-1) for row in ids if len(row) > 1]
    return torch.cat(rows).numpy()


def test_a_copy_of_a_job_finds_a_base_that_an_adapter_names_by_the_job_s_folder(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job is resumed from its workspace, where another model of that name lies, or watched, from anywhere."""
    here = tmp_path / "here"
    shutil.copytree(made / "base", here / "models" / "base")
    settings = shutil.copytree(made / "lora", here / "lora") / "checkpoint-10" / "adapter_config.json"
    config = json.loads(settings.read_text()) | {"base_model_name_or_path": "models/base", "revision": None}
    for step in (10, 20):
        (here / "lora" / f"checkpoint-{step}" / "adapter_config.json").write_text(json.dumps(config))
    job = write_job(here, '[[models]]\npath = "lora"\n[watch]\ncommand = ["./alert.sh", "./alert.txt"]')
    shutil.copytree(made / "base", here / "ws" / "jobs" / "models" / "base")
    copy = here / "ws" / "jobs" / "job-1.toml"
    first = load_job(job)
    copy.write_text(first.to_toml())
    monkeypatch.chdir(tmp_path)
    again = load_job(copy)
    assert again == first and again.digest() == first.digest() and again.folder == str(here)
    assert again.watch.command == (str(here / "alert.sh"), "./alert.txt")
    job.write_text(job.read_text().replace("[watch]", f'[[models]]\npath = "{here}/models/base"\n[watch]'))
    assert [c.name for c in make_plan(load_job(job)).checkpoints] == ["base", "lora@10", "lora@20"]
    for read in (first, again):
        bases = {c.name: c.base or str(c.source) for c in make_plan(read).checkpoints}
        assert set(bases) == {"base", "lora@10", "lora@20"}
        assert set(bases.values()) == {str(here / "models" / "base")}


def files_of(folder: Path, under: str = "") -> dict[str, bytes]:
    return {f"{under}{p.name}": p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["branches", "folders"])
def test_adapters_on_the_hub_are_a_run_with_the_base_that_they_name(
    made: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """In branches or in folders of one branch; what they are for comes from the hub, too, at its revision."""
    extra = {"README.md": b"an adapter", "config.json": b"{}", "optimizer.pt": b"no tensors"}
    if place == "branches":
        for step in (10, 20):
            hub.add("org/lora", f"step{step}", files_of(made / "lora" / f"checkpoint-{step}") | extra)
        models = '[[models]]\nrepo = "org/lora"\nrevisions = "all"'
    else:
        files = dict(extra)
        for step in (10, 20):
            under = f"checkpoint-{step}/"
            files |= files_of(made / "lora" / f"checkpoint-{step}", under) | {
                f"{under}optimizer.pt": b"no tensors"
            }
        hub.add("org/lora", "main", files)
        models = '[[models]]\nrepo = "org/lora"'
    job = write_job(tmp_path, models)
    assert main(["--batch", str(job), "--dry-run"]) == 0
    assert "base is added as the base of lora@10" in " ".join(capsys.readouterr().out.split())
    assert not hub.downloads("model.safetensors")  # nor of an adapter: it ends so, too
    assert main(["--batch", str(job), "--json"]) == 0, capsys.readouterr().err
    assert not hub.downloads("optimizer.pt") and len(hub.downloads("adapter_model.safetensors")) == 2
    with kltui.open(tmp_path / "ws") as ws:
        rows = {row.name: row.checkpoint for row in ws.checkpoints()}
        assert {name: c.parent for name, c in rows.items()} == {
            "base": "",
            "lora@10": "base",
            "lora@20": "base",
        }
        assert rows["lora@10"].base.startswith("org/base@")
        commits = set(hub.repos["org/lora"].revisions.values())
        assert {rows[f"lora@{s}"].source.commit for s in (10, 20)} == commits  # type: ignore[union-attr]
        loglik = dict(zip(ws.map().names, np.nan_to_num(ws.map().loglik_KN), strict=True))
        for step in (10, 20):
            folder = made / "lora" / f"checkpoint-{step}"
            truth_N = scored_fresh(made / "base", folder, text_ids(made / "base", TEXTS))
            np.testing.assert_allclose(loglik[f"lora@{step}"], truth_N, atol=1e-4)
    assert main(["--export", str(tmp_path / "out"), str(tmp_path / "ws")]) == 0
    assert (tmp_path / "out" / "weights.csv").read_text().count(
        "\nlora,"
    ) == 3  # two to the base, one between steps
    _check_kept(job, hub, capsys)


def _check_kept(job: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Run again nothing is scored or fetched, though the base has been freed; offline a part of it is found."""
    shutil.rmtree(next(Path(job.parent / "hf" / "hub").glob("models--org--base")))
    hub.requests.clear()
    capsys.readouterr()
    assert main(["--batch", str(job), "--json"]) == 0
    ends = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {e["status"] for e in ends if e["event"] == "checkpoint"} == {"kept"}
    assert not hub.downloads()


def test_a_repository_of_adapters_is_refused_where_it_cannot_be_scored(
    made: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base that only its author has, one with a prompt's tokens, a pickle, and a base for a whole model."""
    whole = files_of(made / "lora" / "checkpoint-10")
    config = json.loads(whole["adapter_config.json"])

    def with_config(**changes: object) -> dict[str, bytes]:
        return whole | {"adapter_config.json": json.dumps(config | changes).encode()}

    hub.add("org/own", "main", with_config(base_model_name_or_path="/scratch/mine/base"))
    hub.add("org/prompt", "main", with_config(peft_type="PROMPT_TUNING"))
    models = "".join(f'[[models]]\nrepo = "org/{name}"\n' for name in ("own", "prompt"))
    assert main(["--batch", str(write_job(tmp_path, models)), "--dry-run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "names the base /scratch/mine/base" in said and "PROMPT_TUNING adds learned tokens" in said
    pickled = {n.replace(".safetensors", ".bin"): d for n, d in whole.items()}
    hub.add("org/pickled", "main", pickled)
    hub.add_folder("org/whole", "main", made / "base")
    models = '[[models]]\nrepo = "org/pickled"\n[[models]]\nrepo = "org/whole"\nbase = "org/base@v1"\n'
    assert main(["--batch", str(write_job(tmp_path, models))]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has only a pickled adapter (adapter_model.bin)" in said
    assert "org/whole@main contains no adapter (PEFT)" in said


def test_two_bases_of_one_name_are_told_apart(made: Path, tmp_path: Path) -> None:
    """An adapter is scored on the base that it names, not on another model that is called so, in the job or the workspace."""
    for where in ("a", "b"):
        shutil.copytree(made / "base", tmp_path / where / "base")
    models = '[[models]]\npath = "a/base"\n'
    models += f'[[models]]\npath = "{made}/lora/checkpoint-10"\nbase = "b/base"\nrun = "x"\n'
    models += f'[[models]]\npath = "{made}/lora/checkpoint-20"\nbase = "b/base"\nrun = "x"\n'
    found = make_plan(load_job(write_job(tmp_path, models))).checkpoints
    assert [(c.name, c.parent) for c in found] == [
        ("base", ""), ("b-base", ""), ("x@10", "b-base"), ("x@20", "b-base"),
    ]  # fmt: skip
    assert {c.base for c in found[2:]} == {str(tmp_path / "b" / "base")}
