"""The doctor's one screen: everything on it, and an exit code that says whether something is wrong."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from fault_kit import Lives, run_cli, write_job

from kltui import doctor
from kltui.scoring import kernel_choice
from kltui.scoring.device import processor_name

TOPICS = {"kltui", "packages", "native core", "cores", "GPUs", "sqlite", "terminal", "hub"}
TOPICS |= {"file system", "store", "scored", "disk"}


def test_a_healthy_workspace_takes_one_screen_and_exits_zero(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=2)
    assert lives.run("--batch", str(job), "--json").code == 0
    reported = run_cli("--doctor", "ws", "--json", cwd=tmp_path, HF_HUB_OFFLINE="1")
    findings = {f["topic"]: f for f in json.loads(reported.stdout)["findings"]}
    assert findings.keys() >= TOPICS
    if findings["native core"]["state"] == "ok":
        assert reported.returncode == 0
        assert "isa " in findings["native core"]["found"]
    assert findings["store"]["found"].startswith("sound, schema")
    assert findings["scored"]["found"] == "2 checkpoints, 1 corpus"
    screen = run_cli(
        "--doctor", "ws", cwd=tmp_path, HF_HUB_OFFLINE="1", COLUMNS="80", LINES="24",
        XDG_CACHE_HOME=str(tmp_path),  # no kernels were timed
    )  # fmt: skip
    lines = screen.stdout.splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80, screen.stdout


def test_the_kernels_that_were_found_fastest_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_choice, "user_folder", lambda: tmp_path)
    assert not list(doctor._kernels())
    held = {"head float32 9 x 9": {"taken": "native", "milliseconds": {"native": 1.0}}}
    of = {f"{processor_name()}; avx2": held, "another; avx2": held}
    (tmp_path / kernel_choice.FILE_NAME).write_text(json.dumps({"kernels": of}))
    (finding,) = doctor._kernels()
    assert (
        "fastest here: head native (1 shape); stored in" in finding.found
        and "the same bits" in finding.advice
    )


def test_no_workspace_is_wrong_and_named(tmp_path: Path) -> None:
    reported = run_cli("--doctor", "nowhere", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert reported.returncode == 1 and "no kltui workspace in nowhere" in " ".join(reported.stdout.split())


def test_where_keys_would_be_changed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kltui.tui.keymap.keys_path", lambda: tmp_path / "keys.json")
    (finding,) = doctor._keys()
    assert f"none at {tmp_path / 'keys.json'}" in finding.found


def test_names_of_actions_are_listed_once_for_all_wrong_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys.json").write_text('{"exprot": ["E"], "palette": "p", "zoom_in": [3]}')
    monkeypatch.setattr("kltui.tui.keymap.keys_path", lambda: tmp_path / "keys.json")
    found = list(doctor._keys())
    assert [f.state for f in found] == ["wrong"] * 3
    assert [f.advice.startswith("Names of actions: ") for f in found] == [False, False, True]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "http://127.0.0.1:{port} "])
def test_a_hub_that_speaks_no_http_and_an_address_that_is_none_are_notes(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", endpoint.format(port=server.getsockname()[1]))
        found = doctor._hub()
    assert found.state == "note" and "cannot be reached" in found.found


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [("", "https://huggingface.co"), ("http://127.0.0.1:9/hub/", "http://127.0.0.1:9/hub")],
)
def test_the_hub_is_asked_where_its_library_asks_it(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, asked: str
) -> None:
    """An empty HF_ENDPOINT means the hub itself, and a slash at its end nothing."""
    addresses: list[str] = []

    def urlopen(address: str, timeout: float) -> None:
        addresses.append(address)
        raise OSError("not asked in a test")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(doctor.urllib.request, "urlopen", urlopen)
    doctor._hub()
    assert addresses == [f"{asked}/api/models?limit=1"]
