"""Fetching from a hub on loopback: every outcome, good and bad, and what is left on disk afterwards."""

import json
import shutil
import time

import hub_server
import pytest
from hub_net import BIG, REPO, Net, model

from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.registry import HubSource, hub, hub_client
from kltui.registry.digest import fingerprint
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.retry import RetryPolicy, asked_wait_s


def test_a_revision_is_resolved_and_only_what_is_needed_is_fetched(net: Net) -> None:
    folder = net.fetch()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    commit = net.server.repos[REPO].revisions["main"]
    assert net.source == HubSource(REPO, "main", commit) and folder.name == commit
    assert all(commit in path for path in net.server.downloads()) and len(net.server.downloads()) == 3
    assert net.server.downloads()[-1].endswith("model.safetensors")
    assert any("asking the hub" in line for line in net.said)


def test_twelve_revisions_by_pattern_share_what_is_equal(net: Net) -> None:
    for step in range(0, 12000, 1000):
        net.server.add(REPO, f"step{step}", model(f"weights {step}".encode()))
    entry = ModelEntry(repo=REPO, revisions=("step{0..11000..1000}",))
    checkpoints = checkpoints_from_entry(entry)
    folders = [net.fetch_both(c.source)[0] for c in checkpoints if isinstance(c.source, HubSource)]
    assert [c.step for c in checkpoints] == list(range(0, 12000, 1000))
    assert [(f / "model.safetensors").read_bytes() for f in folders] == [
        f"weights {c.step}".encode() for c in checkpoints
    ]
    assert len({fingerprint(f) for f in folders}) == 12
    assert len(net.server.downloads("model.safetensors")) == 12
    assert len(net.server.downloads("config.json")) == len(net.server.downloads("tokenizer.json")) == 1


def test_a_pinned_commit_that_is_whole_needs_no_hub(net: Net) -> None:
    net.fetch()
    asked = len(net.server.requests)
    folder, source = net.fetch_both(net.source)
    assert source == net.source and len(net.server.requests) == asked
    (folder / "model.safetensors").unlink()
    net.fetch_both(net.source)
    assert (folder / "model.safetensors").is_file()


def test_a_moved_branch_is_followed_but_a_pin_is_kept(net: Net) -> None:
    net.fetch()
    old = net.source
    net.server.add(REPO, "main", model(b"newer"))
    assert (net.fetch() / "model.safetensors").read_bytes() == b"newer"
    assert (net.fetch_both(old)[0] / "model.safetensors").read_bytes() == b"weights"


def test_an_interrupted_download_goes_on_where_it_stopped(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=300_000)
    net.server.cut("model.safetensors", after=200_000)
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG
    ranges = [
        h.get("range")
        for r, h in zip(net.server.requests, net.server.headers, strict=True)
        if "safetensors" in r
    ]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert len(net.slept) == 2 and any("trying again" in line for line in net.said)


def test_a_line_that_breaks_again_and_again_comes_to_the_end(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=100_000, times=10)  # more breaks than there are tries
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG
    assert len(net.slept) == 10


def test_a_line_that_breaks_at_once_is_given_up(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.knows_ranges = False  # so that each try begins from the first byte
    net.server.cut("model.safetensors", after=100_000, times=99)
    error = net.fails()
    assert isinstance(error, TryAgainError) and len(net.slept) == 3


def test_what_has_arrived_counts_as_room(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=900_000)
    net.fails(retry=RetryPolicy(attempts=1))
    usage = shutil.disk_usage(net.cache.parent)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage._replace(free=len(BIG) - 900_000 + 10))
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG


def test_a_later_process_goes_on_where_a_killed_one_stopped(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=400_000, times=9)
    error = net.fails(retry=RetryPolicy(attempts=1))
    assert isinstance(error, TryAgainError) and "main, model.safetensors" in error.message
    net.server.faults.clear()
    net.fetch()
    assert net.server.headers[-1]["range"] == "bytes=400000-"
    assert not list(net.cache.rglob("*.incomplete"))


def test_a_damaged_partial_file_is_noticed_and_fetched_anew(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=400_000, times=9)
    net.fails(retry=RetryPolicy(attempts=1))
    net.server.faults.clear()
    (partial,) = net.cache.rglob("*.incomplete")
    partial.write_bytes(b"?" * 400_000)
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG
    assert any("damaged" in line for line in net.said)


def test_a_partial_file_longer_than_the_file_starts_over(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=10, times=9)
    net.fails(retry=RetryPolicy(attempts=1))
    net.server.faults.clear()
    (partial,) = net.cache.rglob("*.incomplete")
    partial.write_bytes(b"?" * (len(BIG) + 1))
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG
    assert not any("again" in line for line in net.said[-3:])


def test_a_server_that_cannot_resume_sends_all_again(net: Net) -> None:
    net.server.knows_ranges = False
    net.server.add(REPO, "main", model(BIG))
    net.server.cut("model.safetensors", after=300_000)
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG
    assert len(net.server.downloads("model.safetensors")) == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (BIG[:-5], "model.safetensors is truncated: 1,023,995 of 1,024,000 bytes"),
        (BIG[::-1], "model.safetensors is damaged"),
    ],
    ids=["truncated", "damaged"],
)
def test_a_file_that_is_not_what_the_listing_says(net: Net, body: bytes, problem: str) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.serve_instead("model.safetensors", body)
    error = net.fails()
    assert problem in error.message and "2 times" in error.message and error.exit_code == 1
    assert not isinstance(error, TryAgainError)
    net.server.faults.clear()
    assert (net.fetch() / "model.safetensors").read_bytes() == BIG


def test_a_body_that_goes_on_stops_at_its_stated_size(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.go_on_for_ever("model.safetensors")
    folder = net.fetch()
    assert (folder / "model.safetensors").read_bytes() == BIG, "what came first is what is listed"
    net.server.faults.clear()
    net.server.add(REPO, "main", model(b"other weights"))
    net.server.serve_instead("model.safetensors", b"x" * 50_000_000)
    assert "model.safetensors is damaged" in net.fails().message
    assert sum(p.stat().st_size for p in net.cache.rglob("*") if p.is_file() and not p.is_symlink()) < 2e6
    assert net.server.endless_bytes < 100e6


@pytest.mark.parametrize("status", [200, 403])
def test_an_answer_that_goes_on_is_no_listing(net: Net, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(hub_client, "ANSWER_MAX_BYTES", 2 << 20)
    net.server.go_on_for_ever("/api/models", status=status)
    error = net.fails()
    assert "more than 2 MiB" in error.message and "HF_ENDPOINT" in error.hint


def test_a_redirect_in_a_circle_ends(net: Net) -> None:
    for part in ("/api/models", "model.safetensors"):
        net.server.redirect(part, f"{net.server.url}/{part.strip('/')}")
        assert "TooManyRedirects" in net.fails().message
        net.server.faults.clear()


@pytest.mark.parametrize("size", [-1, 2.5, "12", None, True, 10**30])
def test_a_size_that_none_can_have(net: Net, monkeypatch: pytest.MonkeyPatch, size: object) -> None:
    def lying(name: str, data: bytes) -> dict[str, object]:
        return {**described(name, data), "size": size}

    described = hub_server._sibling
    monkeypatch.setattr(hub_server, "_sibling", lying)
    message = net.fails().message
    assert "lacks commit, sizes or hashes" in message or "GB free" in message


def test_a_small_file_is_checked_by_its_git_hash(net: Net) -> None:
    net.server.serve_instead("tokenizer.json", b'{"t": 2}')
    assert "tokenizer.json is damaged" in net.fails().message


@pytest.mark.parametrize(
    ("part", "status"), [("/api/models", 503), ("/resolve/", 500), ("safetensors", 429), ("config", 408)]
)
def test_a_busy_hub_is_waited_for(net: Net, part: str, status: int) -> None:
    net.server.fail(part, status=status, times=2)
    net.fetch()
    assert len(net.slept) == 2 and all(0.5 <= wait <= 2 for wait in net.slept)
    assert sum(str(status) in line for line in net.said) == 2


def test_retry_after_is_honoured(net: Net) -> None:
    net.server.fail("/api/models", status=429, Retry_After="7")
    net.server.fail("/resolve/", status=503, Retry_After="3")
    net.fetch()
    assert 7 <= net.slept[0] < 9 and 3 <= net.slept[1] < 5


def test_a_hub_that_stays_busy_ends_in_try_again(net: Net) -> None:
    net.server.fail("/api/models", status=503, times=99)
    error = net.fails()
    assert isinstance(error, TryAgainError) and error.exit_code == 75
    assert "not available (503), 4 tries" in error.message and len(net.slept) == 3


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(net: Net) -> None:
    net.server.fail("/api/models", status=429, times=99, Retry_After="3600")
    error = net.fails()
    assert isinstance(error, TryAgainError) and "3600 s" in error.hint and net.slept == []


def test_a_hub_that_is_away(net: Net) -> None:
    net.server.stop()
    error = net.fails()
    assert isinstance(error, TryAgainError) and "cannot be reached (ConnectError)" in error.message


def test_a_hub_that_does_not_answer_in_time(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "TIMEOUT_S", 0.1)
    net.server.delay_s = 0.5
    error = net.fails(retry=RetryPolicy(attempts=2, sleep=net.slept.append))
    assert isinstance(error, TryAgainError) and "ReadTimeout" in error.message


@pytest.mark.parametrize("token", ["", "hf_SECRETsecret"])
def test_a_gated_repository(net: Net, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    net.server.repos[REPO].gated = True
    error = net.fails()
    assert "org/tiny is gated" in error.message and "HF_TOKEN" in error.hint and net.slept == []
    assert ("the token in use has no access" if token else "no token is set") in error.message
    assert len(net.server.requests) == 2 and not isinstance(error, TryAgainError)
    assert any(h.get("authorization") == f"Bearer {token}" for h in net.server.headers) == bool(token)


def test_an_unknown_revision(net: Net) -> None:
    error = net.fails("step7")
    assert "org/tiny has no revision step7 (404)" in error.message and net.slept == []
    assert len(net.server.requests) == 1


def test_an_unknown_repository(net: Net) -> None:
    for status in (401, 404):
        if status == 404:
            net.server.repos["org/other"] = net.server.repos[REPO]
        with pytest.raises(KltuiError, match="The hub has no repository org/none, or it is private"):
            net.fetch_both(HubSource("org/none"))
    assert net.slept == []


def test_a_private_repository_opens_to_a_token(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.server.repos[REPO].private = True
    assert "private (401)" in net.fails().message
    monkeypatch.setenv("HF_TOKEN", "hf_SECRETsecret")
    net.fetch()


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (403, {}, "forbids access to org/tiny (403)"),
        (
            401,
            {"X_Error_Message": "Invalid credentials in Authorization header"},
            "rejects the token in use (401)",
        ),
        (
            403,
            {"X_Error_Message": "Access to this resource is disabled."},
            "has been disabled on the hub (403)",
        ),
        (418, {}, "with status 418"),
        (400, {}, "with status 400"),
    ],
)
def test_other_refusals_are_named_and_not_repeated(
    net: Net, monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SECRETsecret")
    net.server.fail("/api/models", status=status, times=9, **headers)
    assert message in net.fails().message and len(net.server.requests) == 1


def test_a_page_that_is_no_hub(net: Net) -> None:
    net.server.fail("/api/models", status=200, times=9)
    assert "lacks commit, sizes or hashes" in net.fails().message
    net.server.page = b"<html>log in</html>"
    error = net.fails()
    assert "lacks commit" in error.message and "HF_ENDPOINT" in error.hint
    net.server.page = b'{"id": "org/tiny", "sha": "../../x", "siblings": []}'
    assert "lacks commit" in net.fails().message


def test_secrets_are_in_no_message_log_or_traceback(
    net: Net,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import traceback

    monkeypatch.setenv("HF_TOKEN", "hf_SECRETsecret")
    caplog.set_level("DEBUG")
    shown = ""
    for part, status in [("/api/models", 503), ("safetensors", 500), ("config", 403), ("/api/models", 401)]:
        net.server.faults.clear()
        shutil.rmtree(net.cache, ignore_errors=True)
        net.server.fail(part, status=status, times=99, X_Error_Message="hf_SECRETsecret")
        error = net.fails()
        shown += "".join(traceback.format_exception(error)) + error.hint
    captured = capsys.readouterr()
    logged = "".join(
        r.getMessage() for r in caplog.records if not r.name.startswith(("httpcore", "httpx", "hpack"))
    )
    assert "SECRET" not in shown + logged + captured.out + captured.err + "".join(net.said)


def test_sharded_weights_come_by_their_index(net: Net) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    shards = {
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "stray.safetensors": b"3",
    }
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()} | shards
    net.server.add(REPO, "main", files)
    names = sorted(p.name for p in net.fetch().iterdir())
    assert names == ["config.json", *sorted(shards)[:2], "model.safetensors.index.json"]
    del net.server.repos[REPO].commits[net.server.repos[REPO].revisions["main"]][
        "model-00002-of-00002.safetensors"
    ]
    shutil.rmtree(net.cache)
    assert "lacks 1 of its weight files: model-00002-of-00002" in net.fails().message


def test_an_index_that_points_outside_is_refused(net: Net) -> None:
    index = {"weight_map": {"a": "../../../etc/passwd"}}
    net.server.add(
        REPO, "main", {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    )
    assert "not a file of its folder" in net.fails().message


def test_pickled_weights_only_with_permission(net: Net) -> None:
    net.server.add(REPO, "main", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    error = net.fails()
    assert "only pickled weights (pytorch_model.bin)" in error.message and "allow_bin = true" in error.hint
    assert not net.server.downloads(".bin")
    assert (net.fetch(allow_bin=True) / "pytorch_model.bin").read_bytes() == b"pickle"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": b"1"}, "has no config.json"),
        ({"config.json": b"{}"}, "has no weights"),
        ({"tiny-Q4_K_M.gguf": b"1"}, "has no config.json; it contains GGUF"),
        (
            {"config.json": b"{}", "consolidated.00.pth": b"1"},
            "it contains consolidated weights in Meta's or Mistral's",
        ),
        ({"config.json": b"{}", "onnx/model.onnx": b"1"}, "it contains ONNX"),
    ],
    ids=["weights alone", "config alone", "GGUF", "consolidated", "ONNX"],
)
def test_what_is_no_model(net: Net, files: dict[str, bytes], message: str) -> None:
    net.server.add(REPO, "main", files)
    assert message in net.fails().message


def test_names_that_could_leave_the_cache_are_refused_unasked(net: Net) -> None:
    for source in (HubSource("../../tmp/x"), HubSource(REPO, "../../refs"), HubSource(REPO, "a b")):
        with pytest.raises(UsageError):
            net.fetch_both(source)
        with pytest.raises(UsageError):
            hub.free(source, cache_dir=net.cache)
    assert net.server.requests == []


def test_a_failed_parallel_transfer_falls_back_to_streaming(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "XET_MIN_BYTES", 1)
    monkeypatch.setattr(hub_client, "has_xet", lambda: True)
    net.server.extra_headers["model.safetensors"] = {
        "X-Xet-Hash": "a" * 64,
        "X-Xet-Refresh-Route": "/api/none",
    }
    assert (net.fetch() / "model.safetensors").read_bytes() == b"weights"
    assert any(r.startswith("HEAD") for r in net.server.requests)


def test_progress_says_what_is_fetched(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SAY_EVERY_S", 0.0)
    net.server.add(REPO, "main", model(BIG))
    net.fetch()
    lines = [line for line in net.said if line.startswith("model.safetensors")]
    assert lines[-1] == "model.safetensors (3 of 3): 1 of 1 MB" and len(lines) >= 10


def test_what_a_server_may_ask_for() -> None:
    assert asked_wait_s({"retry-after": "12"}) == 12
    assert asked_wait_s({"retry-after": "soon"}) is None and asked_wait_s({}) is None
    assert (
        asked_wait_s({"ratelimit": '"api";r=0;t=55'}) == 55
        and asked_wait_s({"ratelimit": '"api";r=9;t=55'}) is None
    )
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    asked = asked_wait_s({"retry-after": date})
    assert asked is not None and 57 <= asked <= 61
    assert asked_wait_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_waits_grow_with_jitter_up_to_a_cap() -> None:
    policy = RetryPolicy(base_s=1, cap_s=30)
    for attempt, top in enumerate([1, 2, 4, 8, 16, 30, 30]):
        waits = [policy.wait_s(attempt, None) for _ in range(200)]
        assert top / 2 <= min(waits) < 0.6 * top and 0.9 * top < max(waits) <= top
