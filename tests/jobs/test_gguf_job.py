"""GGUF files in jobs: names, parents and tokenizers, kill -9 in between, a repository on the hub, and what is shown."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import start
from gguf_files import write_gguf
from hub_server import FakeHub
from safetensors.numpy import load_file
from tiny_models import build_tokenizer, true_logliks, write_model

import kltui
from kltui.cli import main
from kltui.errors import UsageError
from kltui.jobs.dry_run import _steps
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.prepare import NotReady, Preparer, Ready

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gguf.md"
TEXTS = [f"a text of number {i}: the quick brown fox jumps over {'lazy ' * (i % 5)}dogs" for i in range(12)]
WIDER = {"intermediate_size": 64}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `mine`, and `quants` with it in three kinds, Q4_0 in two parts."""
    folder = tmp_path_factory.mktemp("gguf")
    model = write_model(folder / "mine", "llama", **WIDER)
    (folder / "quants").mkdir()
    write_gguf(folder / "quants" / "mine-Q8_0.gguf", model, "Q8_0", dequantised=folder / "truth-q8_0")
    write_gguf(
        folder / "quants" / "mine-Q4_0.gguf", model, "Q4_0", dequantised=folder / "truth-q4_0", parts=2
    )
    write_gguf(folder / "quants" / "mine-F16.gguf", model, "F16")
    return folder


def write_job(folder: Path, made: Path, models: str) -> Path:
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    path = folder / "job.toml"
    path.write_text('workspace = "ws"\n[corpus]\nsource = "texts.json"\n' + models.replace("MADE", str(made)))
    return path


def plan_of(folder: Path, made: Path, models: str) -> Plan:
    return make_plan(load_job(write_job(folder, made, models)))


def ready(plan: Plan, index: int) -> Ready | NotReady:
    preparer = Preparer([(index, plan.checkpoints[index])], lambda *_: "")
    found = preparer.take(60.0)
    preparer.stop()
    assert found is not None
    return found


def killed_after_one(job: Path) -> str:
    """Starts the job, ends its whole group with SIGKILL once a checkpoint is done; that one's name."""
    process = start("--batch", str(job), "--json", cwd=job.parent, env=os.environ, session=True)
    assert process.stdout is not None
    ends = (e for e in map(json.loads, process.stdout) if e["event"] == "checkpoint")
    event = next(ends, {"status": "no checkpoint was scored"})
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert event["status"] == "done", event
    return str(event["name"])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints; it ends well."""
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def exported_before_any_exact_kl(capsys: pytest.CaptureFixture[str], ws: Path) -> None:
    """The export has a table of the variants, whose exact figures are empty until they have been asked for."""
    printed(capsys, "--export", str(ws.parent / "out"), str(ws))
    with (ws.parent / "out" / "quantisation.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"mine+gguf-q4_0", "mine+gguf-q8_0"}
    for row in rows.values():
        assert row["model"] == "mine" and row["exact_nats_per_token"] == ""
        assert 4.5 < float(row["bits_per_weight"]) < 8.7 and float(row["kl_bits_per_byte"]) > 0


def test_the_page_s_job_through_a_kill(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job file of docs/gguf.md, ended by kill -9 and run again, against float64 loops; then what is shown of it."""
    for name in ("mine", "quants"):
        (tmp_path / name).symlink_to(made / name)
    found = re.search(r"```toml\n(workspace.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    (tmp_path / "job.toml").write_text(found[1])
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    first = killed_after_one(tmp_path / "job.toml")
    done = printed(capsys, "--batch", str(tmp_path / "job.toml"), "--json")
    events = [json.loads(line) for line in done.splitlines()]
    status = {e["name"]: e["status"] for e in events if e["event"] == "checkpoint"}
    names = ["mine", "mine+gguf-q4_0", "mine+gguf-q8_0"]
    assert status == {name: "kept" if name == first else "done" for name in names}

    with kltui.open(tmp_path / "ws") as ws:
        shown = ws.map()
        for name, truth in zip(names, ("mine", "truth-q4_0", "truth-q8_0"), strict=True):
            wanted = true_logliks(made / truth, TEXTS)[0]
            np.testing.assert_allclose(shown.loglik_KN[shown.row(name)], wanted, rtol=0, atol=1e-4)
        moved = ws.gguf_distances(compute=True)
        assert ws.weight_problems == []
        rows = {r.name: r for r in ws.checkpoints()}
    plain = load_file(made / "mine" / "model.safetensors")
    for kind in ("q4_0", "q8_0"):
        left = load_file(made / f"truth-{kind}" / "model.safetensors")
        wanted_sum = sum(float(((left[n].astype(np.float64) - w) ** 2).sum()) for n, w in plain.items())
        assert moved["mine", f"mine+gguf-{kind}"] == pytest.approx(wanted_sum, rel=1e-6)
        assert rows[f"mine+gguf-{kind}"].checkpoint.parent == "mine"
    exported_before_any_exact_kl(capsys, tmp_path / "ws")
    reported = json.loads(
        printed(capsys, "--report", "--section", "quantisation", "--json", str(tmp_path / "ws"))
    )
    variants = {v["quantization"]: v for v in reported["sections"]["quantisation"]["variants"]}
    # 32 numbers of a matrix in 18 or 34 bytes, and the norms as they are
    assert (
        4.5 < variants["gguf-q4_0"]["bits_per_weight"] < 4.7
        and 8.5 < variants["gguf-q8_0"]["bits_per_weight"] < 8.7
    )
    assert 0 < variants["gguf-q8_0"]["kl_bits_per_byte"] < variants["gguf-q4_0"]["kl_bits_per_byte"]
    for v in (
        variants.values()
    ):  # worked out for this section: what test_exact_kl_to_the_original holds to its truth
        assert 0 < v["exact_nats_per_token"] < v["exact_99_nats"] and 0.2 < v["top1_agreement"] < 1
    assert variants["gguf-q4_0"]["weight_sqdist"] == moved["mine", "mine+gguf-q4_0"]


def test_parents(made: Path, tmp_path: Path) -> None:
    """The folder beside is scored with the files; one that is named gives them run, step and tokenizer."""
    plan = plan_of(tmp_path, made, '[[models]]\npath = "MADE/quants"\n')
    names = [c.name for c in plan.checkpoints]
    assert names == ["mine", "mine+gguf-f16", "mine+gguf-q4_0", "mine+gguf-q8_0"]
    assert {c.tokenizer for c in plan.checkpoints[1:]} == {str(made / "mine")}
    named = '[[models]]\npath = "MADE/mine"\nrun = "orig"\nsize = "s"\nseed = 3\n[[models]]\npath = "MADE/quants"\nfiles = ["*f16*"]\n'
    plan = plan_of(tmp_path, made, named)
    variant = plan.checkpoints[1]
    assert [c.name for c in plan.checkpoints] == ["orig", "orig+gguf-f16"]
    assert (variant.parent, variant.size, variant.seed, variant.type) == ("orig", "s", 3, "llama")
    plan = plan_of(tmp_path, made, named + 'run = "other"\nparent = "orig"\n')
    assert plan.checkpoints[1].name == "other+gguf-f16" and plan.checkpoints[1].parent == "orig"
    found = ready(plan, 1)
    assert isinstance(found, Ready) and found.hashed.tokenizer == made / "mine"


def test_what_is_hashed_is_what_counts(made: Path, tmp_path: Path) -> None:
    """The parts, the tokenizer's files and the configuration beside them, each."""
    for name in ("mine", "quants"):
        os.system(f"cp -r {made / name} {tmp_path / name}")
    weights = set()
    for change in (
        None,
        "mine/config.json",
        "mine/tokenizer_config.json",
        "quants/mine-Q4_0-00002-of-00002.gguf",
    ):
        if change:
            path = tmp_path / change
            path.write_bytes(path.read_bytes() + b"\n")
        found = ready(plan_of(tmp_path, tmp_path, '[[models]]\npath = "MADE/quants"\nfiles = "*Q4*"\n'), 1)
        assert isinstance(found, Ready), found
        weights.add(found.weights)
    assert len(weights) == 4


def test_a_tokenizer_with_other_ids_than_the_parent_s_is_told_of(made: Path, tmp_path: Path) -> None:
    build_tokenizer(vocab=300).save_pretrained(tmp_path / "other")
    entry = '[[models]]\npath = "MADE/quants"\nfiles = "*F16*"\ntokenizer = "other"\n'
    (note,) = plan_of(tmp_path, made, entry).notes
    assert note.startswith("mine+gguf-f16: its tokenizer gives 12 of 12 texts other ids than that of mine")


def test_a_tokenizer_without_a_tokenizer_json_is_not_called_different(made: Path, tmp_path: Path) -> None:
    build_tokenizer(vocab=300).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").unlink()
    (tmp_path / "other" / "tokenizer.model").write_bytes(b"a SentencePiece model")
    entry = '[[models]]\npath = "MADE/quants"\nfiles = "*F16*"\ntokenizer = "other"\n'
    assert not plan_of(tmp_path, made, entry).notes


def test_a_dry_run_says_what_is_missing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kltui.scoring import gguf

    plan = plan_of(tmp_path, made, '[[models]]\npath = "MADE/quants"\n')
    steps = {s.name: s for s in _steps(plan, is_part=False)}
    assert not any(s.problem for s in steps.values())
    parts = sorted((made / "quants").glob("*Q4_0*"))
    assert steps["mine+gguf-q4_0"].weight_bytes == sum(p.stat().st_size for p in parts)
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    problems = {s.name: s.problem for s in _steps(plan, is_part=False)}
    assert "pip install '.[gguf]'" in problems["mine+gguf-q4_0"] and not problems["mine"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ('path = "MADE/quants"\nfiles = ["*Q2_K*"]', "no GGUF file in .* matches '\\*Q2_K\\*'"),
        ('path = "MADE/quants"\nquantization = ["bnb-8bit"]', "quantization cannot be used with GGUF files"),
        ('path = "MADE/quants/mine-Q3_K.gguf"', "The folder .*mine-Q3_K.gguf"),
        ('path = "MADE/quants/mine-F16.gguf"\nfiles = ["*"]', "`files` selects from a folder"),
        ('path = "cut"', "m-00002-of-00002.gguf is missing"),
    ],
)
def test_wrong_entries(made: Path, tmp_path: Path, models: str, words: str) -> None:
    (tmp_path / "cut").mkdir()
    part = made / "quants" / "mine-Q4_0-00001-of-00002.gguf"
    (tmp_path / "cut" / "m-00001-of-00002.gguf").write_bytes(part.read_bytes())
    with pytest.raises(UsageError, match=words):
        plan_of(tmp_path, made, f"[[models]]\n{models}\n")


@pytest.fixture
def hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    quants = {p.name: p.read_bytes() for p in (made / "quants").iterdir()}
    large = quants["mine-F16.gguf"] + bytes(1 << 22)  # what follows the tensors is not read for the header
    with FakeHub() as server:
        files = {
            "README.md": b"x",
            "small/mine-Q8_0.gguf": quants.pop("mine-Q8_0.gguf"),
            "mine-F16.gguf": large,
        }
        server.add("org/mine-GGUF", "main", quants | files)
        server.add_folder("org/mine", "main", made / "mine")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


HUB = '[[models]]\nrepo = "org/mine"\n[[models]]\nrepo = "org/mine-GGUF"\nfiles = ["*q4_0*", "*Q8_0*"]\nparent = "mine"\n'


def test_a_repository_with_files(
    hub: FakeHub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, made, HUB)
    assert [c.name for c in plan.checkpoints] == ["mine", "mine+gguf-q4_0", "mine+gguf-q8_0"]
    assert str(plan.checkpoints[2].source) == "org/mine-GGUF@main/small/mine-Q8_0.gguf"
    assert plan.checkpoints[1].tokenizer == "org/mine@main"
    first, other = ready(plan, 1), ready(plan, 2)
    assert isinstance(first, Ready) and isinstance(other, Ready)
    assert first.folder.name == "mine-Q4_0-00001-of-00002.gguf" and first.folder.is_file()
    assert first.folder.with_name("mine-Q4_0-00002-of-00002.gguf").is_file()
    assert first.weights.startswith(f"org/mine-GGUF:{first.folder.name}@{first.commit}+tokenizer:")
    assert first.weights.partition("@")[0] != other.weights.partition("@")[0]
    fetched = {r.rpartition("/")[2] for r in hub.downloads()}
    assert "mine-F16.gguf" not in fetched and "model.safetensors" not in fetched
    (tmp_path / "cache" / "models--org--mine" / "refs" / "main").touch()
    hub.stop()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = plan_of(tmp_path, made, HUB)
    assert [c.name for c in again.checkpoints] == [c.name for c in plan.checkpoints]
    assert ready(again, 1) == first


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ('["*Q2_K*"]', "no GGUF file in org/mine-GGUF@main matches"),
        ('["*broken*"]', "is not .*GGUF|begins with b'oops'"),
        ('["*half*"]', "lacks half-00002-of-00002.gguf, one of 2 parts"),
    ],
)
def test_a_repository_s_faults(hub: FakeHub, made: Path, tmp_path: Path, files: str, words: str) -> None:
    commit = hub.repos["org/mine-GGUF"].revisions["main"]
    whole = hub.repos["org/mine-GGUF"].commits[commit]
    part = whole["mine-Q4_0-00001-of-00002.gguf"]
    hub.add("org/mine-GGUF", "main", whole | {"broken.gguf": b"oops" * 20, "half-00001-of-00002.gguf": part})
    with pytest.raises(UsageError, match=words):
        plan_of(tmp_path, made, f'[[models]]\nrepo = "org/mine-GGUF"\nfiles = {files}\n')


def test_only_the_header_of_a_large_file_is_streamed(hub: FakeHub, made: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, made, '[[models]]\nrepo = "org/mine-GGUF"\nfiles = "*F16*"\n')
    assert [c.name for c in plan.checkpoints] == ["mine+gguf-f16"]
    assert not list((tmp_path / "cache").rglob("*.gguf"))
