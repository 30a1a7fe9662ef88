"""A hub on loopback: the part of the Hugging Face Hub's HTTP interface that fetching a model uses, with faults.

    with FakeHub() as hub:
        hub.add("org/tiny", "step1", {"config.json": b"{}", "model.safetensors": b"..."})
        hub.add("datasets/org/texts", "main", {"data/0.jsonl": b"..."})
        hub.fail("model.safetensors", status=503, times=2)
        ...  # HF_ENDPOINT=hub.url

Nothing here imports the project or any Hugging Face library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose address contains `part`."""

    part: str
    times: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1  # close the connection after this many bytes of the body
    body: bytes | None = None  # answer with other contents
    endless: bool = False  # after the body zeros follow, as long as anyone listens
    location: str = ""  # answer with a redirect to there
    method: str = ""


@dataclass
class Repo:
    revisions: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


class FakeHub:
    """The server, its repositories, its faults and a log of requests ("METHOD /path")."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.extra_headers: dict[str, dict[str, str]] = {}  # file name -> headers of its HEAD
        self.knows_ranges = True
        self.delay_s = 0.0  # before every answer
        self.endless_bytes = 0  # sent after the end of what was asked for
        self.page = b'{"error": "as asked"}'  # body of the answers that `fail` asks for
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes the port: further connections are refused. Once is enough, twice does no harm."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def add(self, repo: str, revision: str, files: dict[str, bytes]) -> str:
        """Adds a commit that `revision` means from now on, and returns its hash."""
        described = json.dumps(
            [repo, revision, {n: hashlib.sha256(d).hexdigest() for n, d in sorted(files.items())}]
        )
        commit = hashlib.sha1(described.encode()).hexdigest()
        target = self.repos.setdefault(repo, Repo())
        target.revisions[revision] = commit
        target.commits[commit] = dict(files)
        return commit

    def add_folder(self, repo: str, revision: str, folder: Path) -> str:
        """Adds the files directly in `folder` as a commit."""
        return self.add(repo, revision, {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})

    def fail(self, part: str, *, status: int, times: int = 1, **headers: str) -> None:
        """The next `times` requests to an address with `part` get `status`; headers as Retry_After="0"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(part, times, status=status, headers=named))

    def cut(self, part: str, *, after: int, times: int = 1) -> None:
        """The next `times` downloads of an address with `part` break off after `after` bytes."""
        self.faults.append(Fault(part, times, cut_after=after, method="GET"))

    def serve_instead(self, part: str, body: bytes, *, times: int = 1_000_000) -> None:
        """Downloads of an address with `part` bring `body`, while the listing goes on stating the old contents."""
        self.faults.append(Fault(part, times, body=body, method="GET"))

    def go_on_for_ever(self, part: str, *, status: int = 200) -> None:
        """Answers for an address with `part` never end; a file's begins with the file."""
        self.faults.append(Fault(part, 1_000_000, status=status, endless=True, method="GET"))

    def redirect(self, part: str, location: str) -> None:
        """Every request to an address with `part` is sent on to `location`."""
        self.faults.append(Fault(part, 1_000_000, location=location))

    def counts(self) -> Counter[str]:
        """How often each "METHOD /path" was asked."""
        return Counter(self.requests)

    def downloads(self, name: str = "") -> list[str]:
        """Paths downloaded by GET that end in `name`, in order."""
        return [
            r[4:] for r in self.requests if r.startswith("GET ") and "/resolve/" in r and r.endswith(name)
        ]

    def _take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.part in path and fault.method in ("", method):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def log_message(self, format: str, *args: object) -> None:
        return None

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        self.hub.headers.append({k.lower(): v for k, v in self.headers.items()})
        time.sleep(self.hub.delay_s)
        fault = self.hub._take_fault(method, path)
        if fault and fault.location:
            return self._send(302, b"", {"Location": fault.location})
        if fault and fault.endless:
            return self._send_endless(fault.status, path)
        if fault and fault.status:
            return self._send(fault.status, self.hub.page, fault.headers)
        if path.startswith("/api/models/"):
            return self._info(path.removeprefix("/api/models/"))
        if path.startswith("/api/datasets/"):
            rest = path.removeprefix("/api/")
            return self._tree(*rest.split("/tree/")) if "/tree/" in rest else self._info(rest)
        if "/resolve/" in path:
            return self._file(path, fault)
        return self._send(404, b"{}")

    def _repo(self, name: str) -> Repo | None:
        """The repository, or None after an answer that refuses it."""
        repo = self.hub.repos.get(name)
        token = self.headers.get("authorization")
        if repo is None or (repo.private and not token):
            self._refuse(404 if token else 401, "RepoNotFound")
            return None
        return repo

    def _info(self, rest: str) -> None:
        name, _, revision = rest.partition("/revision/")
        repo = self._repo(name.removesuffix("/refs"))
        if repo is None:
            return None
        if name.endswith("/refs"):
            branches = [
                {"name": revision, "ref": f"refs/heads/{revision}", "targetCommit": commit}
                for revision, commit in repo.revisions.items()
            ]
            body = json.dumps({"branches": branches, "tags": [], "converts": []})
            return self._send(200, body.encode(), {"Content-Type": "application/json"})
        commit = repo.revisions.get(revision or "main", revision)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        siblings = [_sibling(file, data) for file, data in repo.commits[commit].items()]
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})
        return self._send(200, body.encode(), {"Content-Type": "application/json"})

    def _tree(self, name: str, revision: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return None
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        found = [
            {"type": "file", "path": file, "size": len(data), "oid": _digest(file, data)}
            for file, data in repo.commits[commit].items()
        ]
        return self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str, fault: Fault | None) -> None:
        name, _, rest = path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        repo = self._repo(name)
        if repo is None:
            return None
        if repo.gated:
            return self._refuse(403 if self.headers.get("authorization") else 401, "GatedRepo")
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        data = repo.commits[commit].get(file)
        if data is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{_digest(file, data)}"',
            "X-Linked-Size": str(len(data)),
        }
        headers |= {"Accept-Ranges": "bytes"} | self.hub.extra_headers.get(file, {})
        body = fault.body if fault and fault.body is not None else data
        return self._send_range(body, headers, fault.cut_after if fault else -1)

    def _send_range(self, body: bytes, headers: dict[str, str], cut_after: int) -> None:
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if not self.hub.knows_ranges:
            start = 0
        if start > 0 and start >= len(body):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self._send(206 if start else 200, body[start:], headers, cut_after)

    def _send_endless(self, status: int, path: str) -> None:
        """A body of unknown length: the file where one is asked for, then zeros until the other side hangs up."""
        name, _, rest = path[1:].partition("/resolve/")
        repo, (commit, _, file) = self.hub.repos.get(name), rest.partition("/")
        self.send_response(status)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(repo.commits[commit][file] if repo and commit in repo.commits else b"")
            while True:
                self.hub.endless_bytes += self.wfile.write(bytes(1 << 16))

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": "no"} | (headers or {})
        )

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_after: int = -1
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/octet-stream"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if 0 <= cut_after < len(body):
            self.wfile.write(body[:cut_after])
            self.close_connection = True
        else:
            with contextlib.suppress(BrokenPipeError):  # some tests hang up before the answer
                self.wfile.write(body)


def _digest(name: str, data: bytes) -> str:
    if name.endswith(LFS_SUFFIXES):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(name: str, data: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _digest(name, data)}
    if name.endswith(LFS_SUFFIXES):
        sibling["blobId"] = hashlib.sha1(b"pointer" + data).hexdigest()
        sibling["lfs"] = {"sha256": _digest(name, data), "size": len(data), "pointerSize": 130}
    return sibling
