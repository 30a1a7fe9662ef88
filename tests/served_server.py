"""A model behind a completions API on loopback, in the dialects of vLLM and of llama.cpp's Python server, with faults.

    with ServedModel(folder, "vllm") as server:
        server.fail(503, times=2)
        ...  # endpoint = server.url

`python served_server.py FOLDER DIALECT PORT` serves in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Logprobs = Callable[[list[int]], list[float]]


class ServedModel:
    """The server, its faults, and a log of requests. `dialect` is vllm, echo0, echo1 or none of them."""

    def __init__(
        self, folder: Path, dialect: str = "vllm", *, port: int = 0, name: str = "org/model"
    ) -> None:
        self.dialect, self.name, self.folder = dialect, name, folder
        self.context: int | None = None
        self.version = "0.9"
        self.key = ""
        self.refusal: dict[str, Any] = {"error": "as asked"}
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.alter: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.prompts: list[list[int]] = []
        self.headers: list[dict[str, str]] = []
        self.open = self.most_open = 0
        self.delay_s = 0.0
        self._model, self._tokenizer = _loaded(folder)
        self._known: dict[tuple[int, ...], list[float]] = {}
        self._lock, self._counts = threading.Lock(), threading.Lock()
        self._port = port
        self.start()

    def start(self) -> None:
        """Opens the port, the same one as before."""
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the port: requests are refused until `start`."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fail(self, status: int, *, times: int = 1, **headers: str) -> None:
        """The next completions are refused with `status`, or break off for 0; headers as Retry_After="0"."""
        self.faults += [(status, {k.replace("_", "-"): v for k, v in headers.items()})] * times

    def complete(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ids, extra = asked["prompt"], asked["max_tokens"]
        self.prompts.append(ids)
        if self.context and len(ids) + extra > self.context:
            return 400, {"error": "too long"}
        with self._lock:
            values = self._logprobs(ids)
        new = [0] * extra
        choice: dict[str, Any] = {"index": 0, "text": "x" * extra, "logprobs": None}
        usage = {"prompt_tokens": len(ids), "completion_tokens": extra}
        if self.dialect == "vllm" and "prompt_logprobs" in asked:
            found = [{str(i): {"logprob": v, "rank": 1}} for i, v in zip(ids[1:], values, strict=True)]
            choice["prompt_logprobs"] = [None, *found]
        elif self.dialect.startswith("echo"):
            if self.dialect == "echo1" and extra == 0:
                return 400, {"error": "max_tokens must be at least 1"}
            if asked.get("echo") and asked.get("logprobs"):
                choice["logprobs"] = {
                    "tokens": [self._tokenizer.decode([i]) for i in (*ids, *new)],
                    "token_logprobs": [None, *values, *(-1.0 for _ in new)],
                }
        return 200, self.alter({"model": self.name, "choices": [choice], "usage": usage})

    def _logprobs(self, ids: list[int]) -> list[float]:
        if tuple(ids) not in self._known:
            self._known[tuple(ids)] = self._computed(ids)
        return list(self._known[tuple(ids)])

    def _computed(self, ids: list[int]) -> list[float]:
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([ids])).logits[0].float()
            chosen = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])
        return chosen[:, 0].double().tolist()


def _loaded(folder: Path) -> tuple[Any, Any]:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


class _Handler(BaseHTTPRequestHandler):
    served: ServedModel
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return None

    def do_GET(self) -> None:
        s = self.served
        if self.path == "/v1/models":
            entry: dict[str, Any] = {
                "id": s.name,
                "object": "model",
                "created": time.time(),
                "owned_by": "test",
                "root": str(s.folder.name),
            }
            if s.context:
                entry["max_model_len"] = s.context
            return self._send(200, {"object": "list", "data": [entry]})
        if self.path == "/version" and s.dialect == "vllm":
            return self._send(200, {"version": s.version})
        return self._send(404, {"error": "not found"})

    def do_POST(self) -> None:
        s = self.served
        body = self.rfile.read(int(self.headers["Content-Length"]))
        s.headers.append({k.lower(): v for k, v in self.headers.items()})
        if s.key and self.headers.get("Authorization") != f"Bearer {s.key}":
            self._send(401, {"error": "no key"})
            return
        with s._counts:
            s.open += 1
            s.most_open = max(s.most_open, s.open)
            fault = s.faults.pop(0) if s.faults else None
        answer: tuple[int, dict[str, Any]] | None = None
        try:
            time.sleep(s.delay_s)
            if fault is None:
                answer = s.complete(json.loads(body))
        finally:
            with s._counts:  # before the answer is sent: the next request may follow at once
                s.open -= 1
        if answer is not None:
            self._send(*answer)
        elif fault is not None and fault[0]:
            self._send(fault[0], s.refusal, fault[1])
        else:
            self.close_connection = True
            self.connection.close()

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        with contextlib.suppress(OSError):  # the other side may have given up
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


if __name__ == "__main__":
    server = ServedModel(Path(sys.argv[1]), sys.argv[2], port=int(sys.argv[3]))
    print(server.url, flush=True)
    threading.Event().wait()
