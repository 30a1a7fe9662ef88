"""Job files, names and texts that are wrong on purpose: refused in words, never a traceback, nothing outside is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_kit import write_job

from kltui.cli import main

HUGE = "1" + "0" * 23


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('workspace="\\u0000"', "workspace: control characters"),
        ('workspace="~nobody-of-that-name/x"', "cannot be a path"),
        ('models.0.path="\\u0000"', "models[0].path: control characters"),
        (f'models.0.path="{"y" * 5000}"', "File name too long"),
        ('models.0.path="/dev/null"', "models[0]"),
        ('corpus.source="a\\u0000b"', "corpus.source: control characters"),
        (f"corpus.sample={HUGE}", "more than the 2 texts"),
        (f"models.0.seed={HUGE}", "models[0].seed: should be less"),
        ('models.0.run="a\\u001b[31mb"', "models[0].run: control characters"),
        ('models.0.tags=["\\u0000"]', "models[0].tags[0]: control characters"),
        ("engine.workers=nan", "engine.workers: "),
        ("scoring.batch_tokens=inf", "scoring.batch_tokens: "),
        ('models=[{repo="../../etc"}]', "is not a hub repository"),
        ('models=[{repo="a/../../b"}]', "is not a hub repository"),
        ('models=[{repo="/etc/passwd"}]', "is not a hub repository"),
        ('models=[{repo="a/b",revisions=["../../x"]}]', "is not a hub revision"),
        ('models=[{repo="a/b",revisions=["refs/../../x"]}]', "is not a hub revision"),
        ('models=[{repo="a/b",revisions=["step{0..99999999999..1}"]}]', "more than 100000 entries"),
        ("models=[[[]]]", "models[0]: "),
        ("a.b.c=" + "[" * 5000, "a: unknown key"),
    ],
)
def test_values_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    job = write_job(tmp_path, checkpoints=1, texts=2)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--batch", str(job), "--set", override]) == 2
    err = capsys.readouterr().err
    assert said in err and "\x1b" not in err and "\0" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"a=" + b"[" * 5000 + b"]" * 5000, "is not valid TOML"),
        (b"", "3 mistakes"),
        (b"\0", "is not valid TOML"),
        (b"workspace='x'\n" * 2, "is not valid TOML"),
    ],
    ids=["no text", "nested", "empty", "NUL", "twice"],
)
def test_files_that_are_no_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, said: str
) -> None:
    job = tmp_path / "job.toml"
    job.write_bytes(raw)
    assert main(["--batch", str(job)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("workspace", ["afile", "afile/below", "x" * 300])
def test_workspaces_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workspace: str
) -> None:
    job = write_job(tmp_path, checkpoints=1, texts=2)
    (tmp_path / "afile").write_text("not a folder")
    assert main(["--batch", str(job), "--set", f'workspace="{workspace}"']) == 3
    assert "A workspace must be a folder" in capsys.readouterr().err
    assert (tmp_path / "afile").read_text() == "not a folder"


@pytest.mark.parametrize(
    "raw", [b"[1, 2]", b"{}", b'[["a"]]', b"[" * 100_000, b'["a"', b"[]", b'["a", null]', b"\xff"]
)
def test_texts_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes) -> None:
    job = write_job(tmp_path, checkpoints=1)
    (tmp_path / "texts.json").write_bytes(raw)
    assert main(["--batch", str(job)]) == 2
    assert "corpus: " in capsys.readouterr().err
