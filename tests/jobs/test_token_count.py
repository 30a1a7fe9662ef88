"""A dry run counts tokens as scoring does, says which texts and tokenizers will fail, and what it could not count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import write_adapter
from folder_changes import change_config
from tiny_models import CONTEXT, write_model
from tokenizers import Tokenizer

from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.jobs import dry_run as dry_run_module
from kltui.jobs import token_probe
from kltui.jobs.device_probe import Answer
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.jobs.token_probe import TokenProbe, read_texts
from kltui.scoring.device import DeviceInUse
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.token_count import counted
from kltui.store import Store

TEXTS = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 3)}dogs" for i in range(9)]
DryRun = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `plain`, `begins` (which puts a token before each text) and `adapter` on `plain`."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "plain", "gpt_neox")
    write_model(folder / "begins", "llama", prepend_bos=True)
    write_adapter(folder / "plain", folder / "adapter", seed=1)
    return folder


def write_job(folder: Path, *entries: str, texts: list[str] = TEXTS, more: str = "") -> Path:
    (folder / "texts.json").write_text(json.dumps(texts))
    tables = "".join(f"[[models]]\n{entry}\n" for entry in entries)
    path = folder / "job.toml"
    path.write_text(f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n{tables}{more}')
    return path


class OnCPU:
    """Stands for the process that asks torch for its device."""

    def __init__(self, asked: str) -> None: ...

    def answer(self) -> Answer:
        return Answer(DeviceInUse("cpu", "a processor", 1 << 33, "", "2.0", ""))

    def stop(self) -> None: ...


@pytest.fixture
def dry_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> DryRun:
    monkeypatch.setattr(dry_run_module, "DeviceProbe", OnCPU)

    def run(job: Path, *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        capsys.readouterr()
        assert main(["--batch", str(job), "--dry-run", "--json", *more]) == 0
        *steps, total = map(json.loads, capsys.readouterr().out.splitlines())
        return steps, total

    return run


def lengths(folder: Path, texts: list[str]) -> list[int]:
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [len(core.encode(text, add_special_tokens=False).ids) for text in texts]


def test_tokens_are_those_that_are_scored_and_time_is_that_of_similar_checkpoints(
    models: Path, tmp_path: Path, dry_run: DryRun
) -> None:
    job = write_job(tmp_path, *(f'path = "{models / name}"' for name in ("plain", "begins", "adapter")))
    steps, total = dry_run(job)
    bare = lengths(models / "plain", TEXTS)
    want = {"plain": sum(bare) - len(TEXTS), "begins": sum(lengths(models / "begins", TEXTS))}
    want["adapter"] = want["plain"]
    assert {s["name"]: s["tokens"] for s in steps} == want
    assert (total["tokens"], total["not_counted"], total["warnings"]) == (sum(want.values()), 0, [])
    assert total["notes"][0] == (
        f"tokens  {want['plain']} each for plain and 1 more; longest text {max(bare)}, context {CONTEXT}"
    )
    assert total["notes"][-1].startswith("time    unknown")
    assert not (tmp_path / "ws").exists()

    assert main(["--batch", str(job)]) == 0
    store = Store.read(tmp_path / "ws")
    assert {item.name: item.tokens_done for item in store.jobs.items(store.jobs.all()[0].id)} == want
    store.close()
    assert dry_run(job)[1]["notes"] == []  # all is stored
    # twice the texts, so that the same checkpoints are scored again
    write_job(tmp_path, f'path = "{models / "plain"}"', texts=[t + c for t in TEXTS for c in "!?"])
    assert ", at the speed of plain in job 1 (" in dry_run(job)[1]["notes"][-1]
    assert dry_run(job, "--set", "scoring.dtype=bfloat16")[1]["notes"][-1].startswith("time    unknown")


def test_texts_beyond_the_context_are_said_before_they_fail(
    models: Path, tmp_path: Path, dry_run: DryRun
) -> None:
    bare = lengths(models / "plain", TEXTS)
    write_model(tmp_path / "short", "gpt_neox", max_position_embeddings=sorted(bare)[-4])
    job = write_job(tmp_path, 'path = "short"')
    n = sum(b > sorted(bare)[-4] for b in bare)
    steps, total = dry_run(job)
    (problem,) = [s["problem"] for s in steps]
    assert problem.startswith(
        f"{n} of 9 texts have more tokens than the model's context of {sorted(bare)[-4]};"
    )
    assert f"the longest has {max(bare)} " in problem and "chunk = true" in problem
    assert total["warnings"] == [f"short will fail: {problem}"]
    assert main(["--batch", str(job)]) == 1  # it is as said
    steps, total = dry_run(job, "--set", "scoring.overlong=window")
    assert steps[0]["problem"] == "" and steps[0]["tokens"] == sum(bare) - len(TEXTS)
    assert total["warnings"] == [
        f"short: {n} of 9 texts are longer than the context of {sorted(bare)[-4]} tokens and will be scored in windows"
    ]


def test_a_layer_beyond_the_depth_is_said_before_it_fails(
    models: Path, tmp_path: Path, dry_run: DryRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """For each depth: a layer of one model may be beyond another's."""
    write_model(tmp_path / "deep", "gpt_neox", num_hidden_layers=5)
    job = write_job(
        tmp_path, f'path = "{models / "plain"}"', 'path = "deep"', more="[scoring]\nlayers = [0, 5]\n"
    )
    steps, total = dry_run(job)
    wrong = "layers = [0, 5] contains layer 5, but this model has layers 0 (embeddings) to 3"
    assert [s["problem"] for s in steps] == [f"{wrong} (choose layers in that range)", ""]
    assert f"plain will fail: {wrong} (choose layers in that range)" in total["warnings"]
    capsys.readouterr()
    assert main(["--batch", str(job)]) == 1  # it is as said
    assert wrong in capsys.readouterr().err
    for layers in ('"all"', '"none"', "[0, 3]"):
        steps, _ = dry_run(job, "--set", f"scoring.layers={layers}")
        assert not any(s["problem"] for s in steps), layers


def test_a_tokenizer_that_cannot_be_used_is_said_with_the_run_s_own_words(
    models: Path, tmp_path: Path, dry_run: DryRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "few", "gpt_neox")
    change_config(tmp_path / "few", vocab_size=40)
    write_model(tmp_path / "torn", "gpt_neox")
    (tmp_path / "torn" / "tokenizer.json").write_text('{"model": ')
    write_model(tmp_path / "whole", "gpt_neox")
    job = write_job(tmp_path, *(f'path = "{name}"' for name in ("few", "torn", "whole")))
    problems = {s["name"]: s["problem"] for s in dry_run(job)[0]}
    assert problems["whole"] == "" and "but the model has 40 entries" in problems["few"]
    assert str(tmp_path / "torn") in problems["torn"]
    assert main(["--batch", str(job), "--json"]) == 1
    ends = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    errors = {e["name"]: e["error"] for e in ends if e["event"] == "checkpoint" and e["status"] == "failed"}
    assert set(errors) == {"few", "torn"}
    assert all(problems[name].startswith(error) for name, error in errors.items())


def test_an_entry_s_tokenizer_that_will_not_be_used_is_said(
    models: Path, tmp_path: Path, dry_run: DryRun
) -> None:
    for name in ("same", "other"):
        shutil.copytree(models / "plain", tmp_path / name)
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    entry = f'path = "{models / "plain"}"\ntokenizer = '
    assert dry_run(write_job(tmp_path, f'{entry}"same"'))[1]["warnings"] == []
    (warning,) = dry_run(write_job(tmp_path, f'{entry}"other"'))[1]["warnings"]
    assert warning.startswith("plain: the tokenizer next to its weights or in its run is used")
    assert f"and not the entry's, {tmp_path / 'other'}, which is only for checkpoints without one" in warning


def test_what_is_not_here_is_said_as_not_counted(
    models: Path, tmp_path: Path, dry_run: DryRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = write_job(
        tmp_path, f'path = "{models / "plain"}"', 'repo = "OWNER/NAME"\nrevisions = ["step{0,1,2}"]'
    )
    steps, total = dry_run(job)
    assert [s["tokens"] is None for s in steps] == [False, True, True, True]
    assert total["not_counted"] == 3
    assert "tokens  not counted for NAME@0 and 2 more: their files are not on this machine" in total["notes"]
    monkeypatch.setattr(token_probe, "TOKENIZERS", 0)
    assert any("plain: only" in note for note in dry_run(job)[1]["notes"])


def test_a_process_that_ends_early_is_no_failure_of_the_plan(
    models: Path, tmp_path: Path, dry_run: DryRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        token_probe, "python_command", lambda *_: ["sh", "-c", "echo torch is broken >&2; exit 3"]
    )
    steps, total = dry_run(write_job(tmp_path, f'path = "{models / "plain"}"'))
    assert steps[0]["tokens"] is None and total["warnings"] == []
    assert total["notes"] == ["tokens  not counted for plain: torch is broken"]


def test_pairs_count_responses_and_are_as_long_as_both(models: Path) -> None:
    """With `unconditional`, a response is scored twice; the prompt adds to the length only."""
    prompts = [[("user", f"Why is {i} odd?")] for i in range(len(TEXTS))]
    settings = ScoringSettings(template="none", unconditional=True)
    place = {"folder": str(models / "plain"), "tokenizer": str(models / "plain"), "adapter": False}
    found = counted(place, TEXTS, prompts, 4, settings)
    bare = lengths(models / "plain", TEXTS)
    asked = lengths(models / "plain", [prompt[0][1] for prompt in prompts])
    # alone, the first token of a response has no context; after a prompt every token has
    assert found["tokens"] == sum(bare[:4]) + sum(bare[:4]) - 4
    assert found["longest"] == max(a + b for a, b in zip(asked, bare, strict=True))


def test_a_large_corpus_is_read_in_part_and_scaled_by_bytes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_probe, "COUNTED", 20)
    monkeypatch.setattr(token_probe, "LONGEST", 3)
    rng = np.random.default_rng(0)
    texts = ["ab " * int(n) for n in rng.integers(5, 30, 400)]
    texts[123] = "ab " * 90
    corpus = Corpus(tuple(texts))
    rows, n_counted = read_texts(corpus)
    assert n_counted == 20 and len(set(rows.tolist())) == len(rows) and 123 in rows
    assert np.diff(rows[:20]).min() >= 20  # even
    plan = make_plan(load_job(write_job(tmp_path, f'path = "{models / "plain"}"', texts=texts)))
    (count,) = TokenProbe(plan, [0]).answer()[0].values()
    bare = lengths(models / "plain", texts)
    assert count.longest == max(bare) and count.n_read == len(rows)
    # the tokens of these texts are proportional to their bytes, but for the first of each text
    assert count.tokens == pytest.approx(sum(bare) - len(texts), rel=0.02)


def test_what_a_model_is_read_as_is_said_beforehand_and_a_refusal_too(
    models: Path, tmp_path: Path, dry_run: DryRun
) -> None:
    """Notes and refusals that need no weights: custom code, encoders that are not used, models without a likelihood."""
    from image_text_models import write_model as write_image_text
    from transformers import BlipConfig

    code = shutil.copytree(models / "plain", tmp_path / "code")
    change_config(code, auto_map={"AutoModelForCausalLM": "modeling_mine.Model"})
    write_image_text(tmp_path / "seeing", "llava", seed=1)
    blip = shutil.copytree(models / "plain", tmp_path / "blip")
    BlipConfig().save_pretrained(blip)
    job = write_job(tmp_path, *(f'path = "{name}"' for name in ("code", "seeing", "blip")))
    steps, total = dry_run(job)
    said = (
        "config.json names custom Python code, which kltui never runs: scored as transformers' own gpt_neox"
    )
    assert f"code: {said}" in total["warnings"]
    assert "seeing: scored on text alone; its image encoder is not used" in total["warnings"]
    assert [bool(s["problem"]) for s in steps] == [False, False, True]
    assert "blip reads no text without pixel_values" in steps[2]["problem"]
    assert main(["--batch", str(job)]) == 1  # it is as said
