"""A path in the wrong place is recognised, and the message says which command takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from opened_paths import write_paths

import kltui
from kltui.cli import main
from kltui.errors import NoWorkspaceError, UsageError
from kltui.jobs.jobfile import load_job, parse_job
from kltui.jobs.path_hint import path_hint
from kltui.jobs.place import entry_of
from kltui.jobs.plan import make_plan
from kltui.missing_path import missing_path
from kltui.registry.names import check_repo
from kltui.store import Store

JOB = 'workspace = "ws"\n[corpus]\nsource = "texts.jsonl"\n[[models]]\npath = "run"\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, texts, job files of three formats, a workspace with a job of its own, and a folder with nothing of use."""
    made = write_paths(tmp_path_factory.mktemp("place"))
    (made / "job.toml").write_text(JOB)
    (made / "new.toml").write_text(JOB.replace('"ws"', '"not-yet"'))
    (made / "job.yaml").write_text("# scored on the cluster\nworkspace: ws\ncorpus:\n  source: texts.jsonl\n")
    (made / "job.json").write_text('{"workspace": "ws"}')
    (made / "ws" / "jobs").mkdir()
    (made / "ws" / "jobs" / "job-1.toml").write_text(JOB)
    return made


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("ws", ("kltui ws opens it", "kltui --report ws", "ws/jobs/job-1.toml")),
        ("ws/kltui.sqlite", ("ws is a workspace",)),
        ("run", ("contains models: kltui run offers", 'path = "run" under [[models]]')),
        ("run/step10", ("contains models", 'path = "run/step10"')),
        ("texts.jsonl", ("contains texts: kltui texts.jsonl", 'source = "texts.jsonl" under [corpus]')),
        ("job.toml", ("is a job file: kltui --batch job.toml", "kltui --report ws prints")),
        (".", ("Job files in it: job.toml, new.toml",)),
        ("text.jsonl", ("Did you mean texts.jsonl?",)),
        ("jbo.toml", ("Did you mean job.toml?",)),
        ("pythia-70m", ('preset = "pythia-70m" under [[models]]',)),
        ("OWNER/NAME", ('repo = "OWNER/NAME"', "kltui --place OWNER/NAME WORKSPACE")),
        (
            "https://huggingface.co/OWNER/NAME/tree/step10",
            ('repo = "OWNER/NAME", revisions = ["step10"]', "--place OWNER/NAME@step10"),
        ),
        ("OWNER/pythia-1.4b@step10", ('repo = "OWNER/pythia-1.4b", revisions = ["step10"]',)),
        ("jobs/job.toml", ("There is no folder jobs.",)),
        ("data/texts.jsonl", ("There is no folder data.",)),
        ("a/b/c", ("There is no folder a/b.",)),
        ("hf://datasets/OWNER/NAME", ('source = "hf://datasets/OWNER/NAME" under [corpus]',)),
    ],
)
def test_what_is_there_and_what_takes_it(named: str, said: tuple[str, ...]) -> None:
    hint = path_hint(named)
    for words in said:
        assert words in hint, hint


@pytest.mark.parametrize("named", ["notes", "entirely-different", "x" * 5000, "a\0b"])
def test_nothing_is_said_of_what_is_not_known(named: str) -> None:
    assert path_hint(named) == ""


def test_a_job_s_results_are_named_only_if_they_are_there() -> None:
    assert "kltui --report" not in path_hint("new.toml")


def test_names_with_spaces_and_escapes_can_be_typed_and_shown(tmp_path: Path) -> None:
    Store.write(tmp_path / "my \x1b[31m ws").close()
    hint = path_hint(str(tmp_path / "my \x1b[31m ws"))
    assert "\x1b" not in hint and f"kltui '{tmp_path}/my " in hint


@pytest.mark.parametrize(
    ("named", "message", "hint"),
    [
        ("ws", "ws is a folder, not a job file", "kltui ws opens it"),
        ("run", "run is a folder, not a job file", "contains models"),
        ("notes", "notes is a folder, not a job file", "kltui --batch --help"),
        ("job.yaml", "it looks like YAML", "Write it as TOML"),
        ("job.json", "it looks like JSON", "Write it as TOML"),
        ("texts.jsonl", "texts.jsonl is not a job file", "contains texts"),
        ("ws/kltui.sqlite", "is not UTF-8 text", "ws is a workspace"),
        ("jbo.toml", "no job file jbo.toml", "Did you mean job.toml?"),
        ("none.toml", "no job file none.toml", "kltui --batch --help"),
    ],
)
def test_what_is_no_job_file_says_what_it_is(named: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_job(Path(named))
    assert message in refused.value.message and hint in refused.value.hint


@pytest.mark.parametrize(
    "command", [["--report"], ["--check"], ["--check", "--mend"], ["--export", "out"], ["--draw", "5"]]
)
@pytest.mark.parametrize(
    ("named", "said"),
    [("job.toml", "is a job file"), ("run", "contains models"), ("wss", "Did you mean ws?")],
)
def test_what_is_no_workspace_says_what_it_is(
    command: list[str], named: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert main([*command, named]) == 3
    error = capsys.readouterr().err
    assert f"no kltui workspace in {named}" in error and said in error
    assert sorted(place.rglob("*")) == before, "a command that reads has written"


@pytest.mark.parametrize("command", ["--export", "--place"])
def test_arguments_in_the_wrong_order_are_recognised(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "ws", "other"]) == 3
    assert f"The workspace comes last: kltui {command} other ws" in capsys.readouterr().err


def test_the_address_of_a_page_on_the_hub_is_its_repository() -> None:
    page = "https://huggingface.co/OWNER/NAME"
    assert entry_of(page) == {"repo": "OWNER/NAME"}
    assert entry_of(f"{page}/tree/step10") == {"repo": "OWNER/NAME", "revisions": ["step10"]}
    assert entry_of("http://host/v1") == {"endpoint": "http://host/v1"}
    with pytest.raises(UsageError) as refused:
        check_repo(f"{page}/tree/step10")
    assert 'repo = "OWNER/NAME" and revisions = ["step10"]' in refused.value.hint


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"dtype": "float16"}, "dtype: unknown key, did you mean 'scoring.dtype'?"),
        ({"engine": {"dtype": "auto"}}, "engine.dtype: unknown key, did you mean 'scoring.dtype'?"),
        ({"scoring": {"dtpye": "auto"}}, "scoring.dtpye: unknown key, did you mean 'dtype'?"),
        ({"seed": 1}, "seed: unknown key, did you mean 'corpus.seed' or 'models.seed'?"),
        (
            {"scoring": {"workspace": "ws"}},
            "scoring.workspace: unknown key here: it belongs at the top of the file",
        ),
        ({"scoring": {"zzz": 1}}, "scoring.zzz: unknown key (known here: device, dtype,"),
        ({"model": [{"path": "run"}]}, "model: unknown key, did you mean 'models'?"),
        ({"models": []}, "models: empty: give at least one"),
        ({"models": None}, "models: each must be a separate table"),
    ],
)
def test_a_key_in_another_table_is_named_with_its_own(extra: dict[str, object], said: str) -> None:
    job = {"workspace": "ws", "corpus": {"source": "demo"}, "models": [{"path": "run"}], **extra}
    with pytest.raises(UsageError) as refused:
        parse_job(job, "job.toml")
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("named", "is_what", "said"),
    [
        ("run", "", ("contains models: kltui run offers",)),
        (
            "run/step10",
            "",
            ("kltui.score('run/step10', texts) scores this model alone", 'path = "run/step10"'),
        ),
        ("texts.jsonl", ", which is a file", ("contains texts",)),
        ("job.toml", ", which is a file", ("kltui.open('ws') opens its workspace", "kltui --batch job.toml")),
        ("ws/kltui.sqlite", ", which is a file", ("kltui.open('ws') opens its workspace",)),
        ("ws/jobs", "", ("The workspace around it is opened by kltui.open('{here}/ws')",)),
        ("notes", ", which is an empty folder", ("To create a workspace, score something",)),
        ("nowhere", ", which does not exist", ("To create a workspace, score something",)),
        ("w", ", which does not exist", ("Did you mean ws?",)),
        ("OWNER/NAME", ", which does not exist", ('repo = "OWNER/NAME"',)),
    ],
)
def test_python_and_the_command_line_say_what_is_no_workspace(
    named: str, is_what: str, said: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoWorkspaceError) as raised:
        kltui.open(named)
    assert raised.value.message == f"no kltui workspace in {named}{is_what}"
    for words in said:
        assert words.format(here=place) in raised.value.hint
    assert main(["--report", named]) == 3
    error = capsys.readouterr().err
    assert f"no kltui workspace in {named}{is_what}\n" in error and "kltui.open" not in error


def test_python_opens_a_workspace_in_the_home_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    with kltui.open("~/ws") as ws:
        assert ws.path == place / "ws"
    with pytest.raises(NoWorkspaceError, match="is an address"):
        kltui.open("https://huggingface.co/OWNER/NAME")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('path = "rnu"', "Did you mean {here}/run?"),
        ('path = "rnu/step10"', "Did you mean {here}/run/step10?"),
        ('path = "run/step1"', "Did you mean {here}/run/step10?"),
        ('path = "run/step*"', "Patterns are not replaced here"),
        ('path = "$SCRATCH/run"', "$SCRATCH is not replaced in a job file"),
        ('path = "${SCRATCH}/run"', "${{SCRATCH}} is not replaced in a job file"),
        ('path = "OWNER/NAME-70m"', 'write repo = "OWNER/NAME-70m" instead'),
        ('path = "gone/model.gguf"', "does not exist"),
    ],
)
def test_a_path_of_a_job_that_does_not_exist_is_explained(
    entry: str, said: str, place: Path, tmp_path: Path
) -> None:
    (place / "odd.toml").write_text(
        JOB.replace('path = "run"', entry).replace('"ws"', f'"{tmp_path / "ws"}"')
    )
    with pytest.raises(UsageError) as raised:
        make_plan(load_job(place / "odd.toml"))
    assert said.format(here=place) in raised.value.message
    (place / "odd.toml").unlink()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("texst.jsonl", "Did you mean {here}/texts.jsonl?"),
        ("$DATA/texts.jsonl", "$DATA is not replaced in a job file"),
    ],
)
def test_a_corpus_that_does_not_exist_is_explained(
    source: str, said: str, place: Path, tmp_path: Path
) -> None:
    (place / "odd.toml").write_text(
        JOB.replace("texts.jsonl", source).replace('"ws"', f'"{tmp_path / "ws"}"')
    )
    with pytest.raises(UsageError) as raised:
        make_plan(load_job(place / "odd.toml"))
    assert said.format(here=place) in raised.value.message and ".parquet" in raised.value.message
    (place / "odd.toml").unlink()


def test_a_missing_key_says_what_it_is_for() -> None:
    with pytest.raises(UsageError) as raised:
        parse_job({}, "job.toml")
    said = raised.value.message
    assert "workspace: missing: the folder for the results" in said
    assert (
        "corpus: missing: write [corpus] with source" in said and "models: missing: write [[models]]" in said
    )


def test_a_link_that_leads_nowhere_is_not_suggested_for_itself(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(NoWorkspaceError) as raised:
        kltui.open("link")
    assert raised.value.message == "no kltui workspace in link, which is a link that leads nowhere"
    assert "Did you mean" not in raised.value.hint
    assert missing_path(tmp_path / "link", patterns=False) == ""
