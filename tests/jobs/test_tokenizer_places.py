"""Where a checkpoint's tokenizer is looked for, and that what is hashed, kept and scored goes by it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import Cli
from hub_server import FakeHub
from model_folders import make_model
from safetensors.numpy import load_file, save_file
from tiny_models import build_tokenizer, true_logliks, write_run

from kltui.errors import KltuiError, UsageError
from kltui.jobs.dry_run import _steps
from kltui.jobs.interpolation import MixPlan, write_mix
from kltui.jobs.job_tables import ModelTable
from kltui.jobs.jobfile import load_job, parse_job
from kltui.jobs.messages import Task
from kltui.jobs.plan import make_plan
from kltui.jobs.prepare import NotReady, Preparer, Ready
from kltui.jobs.worker import score_task
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.registry.digest import fingerprint
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.tokenizer import own_tokenizer, tokenizer_folder
from kltui.store import Store


def bare_model(folder: Path) -> Path:
    """A model's folder without a tokenizer."""
    (make_model(folder) / "tokenizer.json").unlink()
    return folder


def tokenizer_in(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text)
    return folder


def prepared(checkpoint: Checkpoint, held: str = "") -> Ready | NotReady:
    preparer = Preparer([(0, checkpoint)], lambda *_: "", held={0: held} if held else {})
    found = preparer.take(30.0)
    preparer.stop()
    assert found is not None
    return found


def ready(folder: Path, named: Path | str = "") -> Ready:
    found = prepared(Checkpoint("m", LocalSource(folder), tokenizer=str(named)))
    assert isinstance(found, Ready), found
    return found


def test_its_own_first_then_its_run_s_then_the_entry_s(tmp_path: Path) -> None:
    model = bare_model(tmp_path / "run" / "checkpoint-100")
    named = tokenizer_in(tmp_path / "named", "[1]")
    assert own_tokenizer(model) is None and tokenizer_folder(model, str(named)) == named
    by_name = ready(model, named)
    assert by_name.hashed.tokenizer == named and by_name.weights == fingerprint(model, named)
    tokenizer_in(tmp_path / "run")
    by_run = ready(model, named)
    assert by_run.hashed.tokenizer == tmp_path / "run" and by_run.weights == fingerprint(
        model, tmp_path / "run"
    )
    tokenizer_in(model)
    own = ready(model, named)
    assert own.hashed.tokenizer is None and own.weights == fingerprint(model)
    assert len({by_name.weights, by_run.weights, own.weights}) == 3


def test_the_folder_around_a_model_that_is_no_step_is_no_run(tmp_path: Path) -> None:
    tokenizer_in(tmp_path)
    found = prepared(Checkpoint("m", LocalSource(bare_model(tmp_path / "alone"))))
    assert isinstance(found, NotReady) and not found.retry
    assert "there is no tokenizer in" in found.error and 'tokenizer = "FOLDER"' in found.hint


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"]
)
def test_settings_alone_are_no_tokenizer_anywhere(tmp_path: Path, name: str) -> None:
    model = bare_model(tmp_path / "run" / "step5")
    for folder in (model, model.parent):
        (folder / name).write_text("{}")
    assert isinstance(prepared(Checkpoint("m", LocalSource(model))), NotReady)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "vocab.json",
        "vocab.txt",
        "a.tiktoken",
        "tekken.json",
        "bpe.codes",
    ],
)
def test_every_kind_of_vocabulary_is_one(tmp_path: Path, name: str) -> None:
    model = bare_model(tmp_path / "m")
    (model / name).write_bytes(b"x")
    assert ready(model).tokenizer is None


def test_a_class_that_needs_no_vocabulary_is_enough(tmp_path: Path) -> None:
    model = bare_model(tmp_path / "m")
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert ready(model).tokenizer is None


@pytest.mark.parametrize("where", ["run", "named"])
def test_another_tokenizer_outside_means_other_weights(tmp_path: Path, where: str) -> None:
    model, outside = bare_model(tmp_path / "run" / "step1"), tokenizer_in(tmp_path / where)
    named = outside if where == "named" else ""
    first = ready(model, named)
    assert ready(model, named).weights == first.weights
    (outside / "trainer_state.json").write_text("{}")
    assert ready(model, named).hashed == first.hashed
    tokenizer_in(outside, "[1]")
    second = ready(model, named)
    assert second.weights != first.weights and second.signature != first.signature


def test_an_entry_s_tokenizer_that_is_not_used_is_told_unless_it_is_the_same(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    assert ready(model, tokenizer_in(tmp_path / "same")).notes == ()
    other = tokenizer_in(tmp_path / "other", "[1]")
    (note,) = ready(model, other).notes
    assert f"and not the entry's, {other}" in note
    assert ready(model, other).weights == ready(model).weights


def test_a_model_between_others_has_the_base_s_tokenizer_wherever_that_lies(tmp_path: Path) -> None:
    tokenizer_in(tmp_path / "run")
    parts = []
    for step in (1, 2):
        model = bare_model(tmp_path / "run" / f"step{step}")
        save_file({"w": np.full(4, step, np.float32)}, model / "model.safetensors")
        parts.append(Checkpoint("run", LocalSource(model), step))
    between = Checkpoint("mix", LocalSource(tmp_path / "mixed"))

    def mixed() -> Ready:
        preparer = Preparer([(0, between)], lambda *_: "", mixes={"mix": MixPlan(tuple(parts), 0.5, 0.0)})
        found = preparer.take(30.0)
        preparer.stop()
        assert isinstance(found, Ready), found
        return found

    first = mixed()
    assert first.mix is not None
    write_mix(tmp_path / "mixed", first.mix)
    assert (tmp_path / "mixed" / "tokenizer.json").read_text() == "{}"
    assert load_file(tmp_path / "mixed" / "model.safetensors")["w"].tolist() == [1.5] * 4
    tokenizer_in(tmp_path / "run", "[1]")
    assert mixed().weights != first.weights


def test_the_store_remembers_it(tmp_path: Path) -> None:
    with contextlib.closing(Store.write(tmp_path / "ws")) as store, store.atomic():
        store.checkpoints.upsert(Checkpoint("m", LocalSource(tmp_path), tokenizer="org/tok"))
        (row,) = store.checkpoints.all()
        assert row.checkpoint.tokenizer == "org/tok"
        store.checkpoints.upsert(Checkpoint("m", LocalSource(tmp_path)))
        (row,) = store.checkpoints.all()
        assert row.checkpoint.tokenizer == ""


def test_a_plan_says_which_checkpoints_have_none(tmp_path: Path) -> None:
    bare_model(tmp_path / "alone")
    make_model(tmp_path / "whole")
    bare_model(tmp_path / "run" / "step1")
    tokenizer_in(tmp_path / "run")
    (tmp_path / "texts.json").write_text('["one text", "another text", "the last of them"]')
    text = 'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[scoring]\ndevice = "cpu"\n'
    text += "".join(f'[[models]]\npath = "{name}"\n' for name in ("alone", "whole", "run"))
    (tmp_path / "job.toml").write_text(text)
    steps = {s.name: s.problem for s in _steps(make_plan(load_job(tmp_path / "job.toml")), is_part=False)}
    assert "there is no tokenizer in" in steps.pop("alone")
    assert steps == {"whole": "", "run@1": ""}


def test_what_was_noted_of_the_files_is_told_with_a_failure_too(tmp_path: Path) -> None:
    class Refusing:
        def score(self, *_: object) -> None:
            raise KltuiError("the tokenizer does not know this corpus", "is it the model's own?")

    found = ready(make_model(tmp_path / "m"), tokenizer_in(tmp_path / "other", "[1]"))
    task = Task(0, found.hashed, "none", notes=found.notes)
    with pytest.raises(KltuiError) as caught:
        score_task(Refusing(), task, False, lambda _: None)  # type: ignore[arg-type]
    assert "Is it the model's own? The tokenizer next to" in caught.value.hint
    assert f"and not the entry's, {tmp_path / 'other'}" in caught.value.hint


# -- job files ----------------------------------------------------------------------------------


def test_a_job_file_names_a_folder_beside_it_or_a_repository(tmp_path: Path) -> None:
    tokenizer_in(tmp_path / "own" / "tok")
    text = 'workspace = "ws"\n[corpus]\nsource = "demo"\n'
    names = ("own/tok", "./own/tok", "EleutherAI/pythia-70m", "EleutherAI/pythia-70m@step1", "")
    text += "".join(f'[[models]]\npath = "m{i}"\ntokenizer = "{name}"\n' for i, name in enumerate(names))
    (tmp_path / "job.toml").write_text(text)
    job = load_job(tmp_path / "job.toml")
    folder = str(tmp_path / "own" / "tok")
    assert [m.tokenizer for m in job.models] == [folder, folder, *names[2:]]
    assert parse_job(json.loads(json.dumps(job.model_dump(mode="json"))), "again") == job
    assert 'tokenizer = "EleutherAI/pythia-70m"' in job.to_toml()
    plain = job.model_copy(update={"models": (ModelTable(path="m"),)})
    named = job.model_copy(update={"models": (ModelTable(path="m", tokenizer="a/b"),)})
    assert plain.digest() != named.digest()


@pytest.mark.parametrize("named", ["x" * 300, "~nobodyhere/x", "./none", "a" * 150 + "/" + "b" * 150])
def test_a_tokenizer_that_cannot_be_a_name_is_a_mistake_in_words(tmp_path: Path, named: str) -> None:
    make_model(tmp_path / "m")
    (tmp_path / "texts.json").write_text('["one text", "another text"]')
    text = (
        f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "m"\ntokenizer = "{named}"\n'
    )
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(UsageError):
        make_plan(load_job(tmp_path / "job.toml"))


@pytest.mark.parametrize("named", ["/nowhere", "a b", "../up", "x/y/z", "a/b@..", ""])
def test_a_tokenizer_that_cannot_be_meant_is_a_mistake_of_the_job(tmp_path: Path, named: str) -> None:
    entry = ModelEntry(path=make_model(tmp_path / "m"), tokenizer=named)
    if not named:
        assert checkpoints_from_entry(entry)[0].tokenizer == ""
        return
    with pytest.raises(UsageError, match="tokenizer"):
        checkpoints_from_entry(entry)


# -- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model = {"config.json": b"{}", "model.safetensors": b"weights"}
    with FakeHub() as server:
        server.add("org/model", "main", {**model, "tokenizer.json": b"{}"})
        server.add("org/model", "step1", model)
        server.add(
            "org/tok", "main", {"tokenizer.json": b"[1]", "README.md": b"", "model.safetensors": b"large"}
        )
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def of_hub(named: str = "", revision: str = "step1") -> Checkpoint:
    return Checkpoint("m", HubSource("org/model", revision), tokenizer=named)


def test_a_revision_s_tokenizer_is_not_taken_from_another_revision_unasked(hub: FakeHub) -> None:
    found = prepared(of_hub())
    assert isinstance(found, NotReady) and "there is no tokenizer in org/model@step1" in found.error
    of_main = prepared(of_hub("org/model@main"))
    assert isinstance(of_main, Ready) and of_main.tokenizer is not None
    assert (of_main.tokenizer.folder / "tokenizer.json").read_bytes() == b"{}"


def test_a_repository_gives_its_tokenizer_and_no_weights(hub: FakeHub) -> None:
    found = prepared(of_hub("org/tok"))
    assert isinstance(found, Ready) and found.hashed.tokenizer is not None
    assert [p.name for p in found.hashed.tokenizer.iterdir()] == ["tokenizer.json"]
    assert found.weights.startswith(f"org/model@{found.commit}+tokenizer:")
    local = prepared(Checkpoint("m", LocalSource(found.folder), tokenizer="org/tok"))
    assert isinstance(local, Ready) and local.weights == fingerprint(found.folder, found.hashed.tokenizer)


def test_what_is_held_is_kept_until_the_named_tokenizer_changes(hub: FakeHub, tmp_path: Path) -> None:
    first = prepared(of_hub("org/tok"))
    assert isinstance(first, Ready)
    hub.requests.clear()
    assert prepared(of_hub("org/tok"), held=first.weights).weights == first.weights  # type: ignore[union-attr]
    assert not any("model.safetensors" in path for path in hub.downloads())
    other = tokenizer_in(tmp_path / "other", "[2]")
    changed = prepared(of_hub(str(other)), held=first.weights)
    assert isinstance(changed, Ready) and changed.weights != first.weights
    assert isinstance(prepared(of_hub(), held=first.weights), NotReady)
    own = prepared(of_hub(revision="main"))
    assert isinstance(own, Ready) and "+" not in own.weights
    named = prepared(of_hub(str(other), "main"), held=own.weights)
    assert isinstance(named, Ready) and named.weights == own.weights


def test_offline_the_cache_serves_a_named_tokenizer(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = prepared(of_hub("org/tok"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = prepared(of_hub("org/tok"))
    assert isinstance(online, Ready) and isinstance(offline, Ready) and online.weights == offline.weights
    missing = prepared(of_hub("org/never"))
    assert isinstance(missing, NotReady) and "not in the cache" in missing.error


# -- from the outside ---------------------------------------------------------------------------


def test_a_trainer_s_run_is_scored_with_its_tokenizer_and_again_when_that_changes(
    cli: Cli, tmp_path: Path
) -> None:
    """Checkpoints without tokenizer files, as a Trainer without `processing_class` leaves them."""
    folders = write_run(tmp_path / "run", steps=(1, 2))
    texts = [f"text {i}: the quick brown fox" for i in range(6)]
    truth = {f"run@{s}": true_logliks(f, texts)[0] for s, f in zip((1, 2), folders, strict=True)}
    for folder in folders:
        for file in folder.glob("*token*"):
            file.replace(tmp_path / "run" / file.name)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    job = tmp_path / "job.toml"
    job.write_text('workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n')

    def statuses() -> list[object]:
        done = cli("--batch", str(job), "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return [e["status"] for e in events if e["event"] == "checkpoint"]

    assert statuses() == ["done", "done"]
    assert statuses() == ["kept", "kept"]
    import kltui

    with kltui.open(tmp_path / "ws") as ws:
        m = ws.map()
    for name, row in zip(m.names, m.loglik_KN, strict=True):
        assert np.max(np.abs(row - truth[name])) < 1e-4
    build_tokenizer(prepend_bos=True).save_pretrained(tmp_path / "run")
    assert statuses() == ["done", "done"]
    for file in (tmp_path / "run").glob("*token*"):
        file.unlink()
    assert statuses() == ["failed", "failed"]
