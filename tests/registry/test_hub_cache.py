"""The cache of what a hub sent: offline, shared with other processes and tools, on full and odd disks."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_net import BIG, REPO, Net, model

from kltui.registry import HubSource, hub, hub_client
from kltui.registry.hub_cache import RepoCache


def test_the_cache_is_the_one_other_tools_read(net: Net) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

    folder = net.fetch()
    found = try_to_load_from_cache(REPO, "model.safetensors", cache_dir=net.cache, revision="main")
    assert found == str(folder / "model.safetensors")
    assert snapshot_download(REPO, cache_dir=net.cache, local_files_only=True) == str(folder)
    assert not scan_cache_dir(net.cache).warnings


def test_files_fetched_by_other_tools_are_not_fetched_again(net: Net) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        hf_hub_download(REPO, name, cache_dir=net.cache, endpoint=net.server.url)
    before = len(net.server.downloads())
    net.fetch()
    assert len(net.server.downloads()) == before


def test_a_cache_that_can_only_be_read_serves_what_it_has(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.fetch()
    commit = net.source.commit
    (net.cache / "models--org--tiny" / "refs" / "main").unlink()

    def read_only(self: Path, *args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    for name in ("replace", "symlink_to", "write_text", "touch"):
        monkeypatch.setattr(Path, name, read_only)
    assert net.fetch().name == commit
    net.server.add(REPO, "main", model(b"newer"))
    assert "Read-only file system" in net.fails().message


def test_a_cached_file_that_was_cut_is_fetched_again(net: Net) -> None:
    folder = net.fetch()
    (folder / "model.safetensors").resolve().write_bytes(b"weig")
    assert (net.fetch() / "model.safetensors").read_bytes() == b"weights"


def test_offline_scores_from_the_cache(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = net.fetch()
    asked = len(net.server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert net.fetch() == folder and net.source.commit == folder.name
    assert net.fetch_both(HubSource(REPO, "gone", folder.name))[0] == folder
    error = net.fails("step5")
    assert "step5 is not in the cache, and offline mode is on" in error.message
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert net.fetch(offline=True) == folder and len(net.server.requests) == asked


def test_the_cached_folder_is_found_without_asking(net: Net) -> None:
    assert hub.cached_folder(HubSource(REPO), cache_dir=net.cache) is None
    folder = net.fetch()
    asked = len(net.server.requests)
    for source in (HubSource(REPO), net.source):
        assert hub.cached_folder(source, cache_dir=net.cache) == folder
    (folder / "model.safetensors").unlink()
    assert hub.cached_folder(net.source, cache_dir=net.cache) is None and len(net.server.requests) == asked


def test_offline_every_file_is_checked(net: Net) -> None:
    folder = net.fetch()
    for name, problem in [
        ("model.safetensors", "damaged"),
        ("tokenizer.json", "damaged"),
        ("config.json", "missing"),
    ]:
        blob = (folder / name).resolve()
        kept = blob.read_bytes()
        blob.write_bytes(kept[:-1] + b"!") if problem == "damaged" else blob.unlink()
        assert f"incomplete in the cache: {name} is {problem}" in net.fails(offline=True).message
        blob.write_bytes(kept)
    assert net.fetch(offline=True) == folder


def test_a_fetch_that_broke_off_is_not_taken_for_whole_offline(net: Net) -> None:
    net.server.fail("safetensors", status=403, times=9)
    net.fails()
    assert "not in the cache" in net.fails(offline=True).message
    commit = net.server.repos[REPO].revisions["main"]
    assert "the weights are missing" in net.fails(commit, offline=True).message


def test_offline_in_a_fresh_process_as_the_library_reads_its_environment(net: Net) -> None:
    net.fetch("main")
    code = (
        "from kltui.registry import HubSource, hub\n"
        f"print(hub.fetch(HubSource({REPO!r}, 'main'))[1].commit)\n"
    )
    env = dict(
        os.environ, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(net.cache), PYTHONPATH=os.pathsep.join(sys.path)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == net.source.commit, done.stderr


def test_freeing_a_revision_keeps_what_others_use(net: Net) -> None:
    net.server.add(REPO, "step1", model(b"one"))
    net.server.add(REPO, "step2", model(b"two!"))
    first, second = net.fetch("step1"), net.fetch("step2")
    assert hub.free(HubSource(REPO, "step1"), cache_dir=net.cache) == 3
    assert (
        not first.exists() and (second / "config.json").is_file() and (second / "model.safetensors").is_file()
    )
    assert "not in the cache" in net.fails("step1", offline=True).message
    assert net.fetch("step2", offline=True) == second
    assert hub.free(HubSource(REPO, "step1"), cache_dir=net.cache) == 0
    assert hub.free(HubSource("org/never"), cache_dir=net.cache) == 0
    fetched = ("config.json", "tokenizer.json", "model.safetensors")
    assert hub.free(net.source, cache_dir=net.cache) == sum(len(model(b"two!")[name]) for name in fetched)
    assert not [p for p in (net.cache / "models--org--tiny").rglob("*") if p.is_file()]
    assert (net.fetch("step1") / "model.safetensors").read_bytes() == b"one"


def test_a_blob_freed_by_another_process_meanwhile_is_fetched_again(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.server.add(REPO, "step1", model(b"one"))
    net.server.add(REPO, "step2", model(b"two"))
    net.fetch("step1")
    link = RepoCache.link
    raced: list[str] = []

    def link_after_free(self: RepoCache, commit: str, file: object) -> None:
        if not raced:  # the config's blob was found present; now the last revision that used it goes
            raced.append("once")
            hub.free(HubSource(REPO, "step1"), cache_dir=net.cache)
        link(self, commit, file)  # type: ignore[arg-type]

    monkeypatch.setattr(RepoCache, "link", link_after_free)
    folder = net.fetch("step2")
    assert raced and (folder / "config.json").read_bytes() == model()["config.json"]


def test_two_fetches_at_once_download_once(net: Net) -> None:
    net.server.add(REPO, "main", model(BIG))
    net.server.delay_s = 0.02
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(net.fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 1 and len(folders) == 4
    assert (folders[0] / "model.safetensors").read_bytes() == BIG
    assert len(net.server.downloads("model.safetensors")) == 1


def test_a_full_disk_is_seen_before_and_while_writing(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(net.cache.parent)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage._replace(free=5))
    assert "GB free" in net.fails().message and not net.server.downloads()
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)

    def full(self: object, *args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_client.HubClient, "_stream", full)
    error = net.fails()
    assert "No space left on device" in error.message and "HF_HOME" in error.hint


def test_a_file_system_without_links_gets_copies(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: object, target_is_directory: bool = False) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = net.fetch()
    assert not (folder / "model.safetensors").is_symlink() and net.fetch(offline=True) == folder
