"""Log-probabilities of a prompt's tokens from a server, by the dialects of OpenAI's completions API that return them.

There are two. `prompt_logprobs` is vLLM's: every token's log-probability is returned under its id. `echo` with `logprobs` is
that of the old completions API: the prompt is returned token by token, with one generated token if the server insists on it.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal

from kltui.errors import KltuiError
from kltui.registry.checkpoint import ServedSource
from kltui.registry.retry import RetryPolicy, TransientError, asked_wait_s
from kltui.sanitize import safe_text

TIMEOUT_S = 600.0  # enough for a long prompt in a full queue
ANSWER_MAX_BYTES = 256 << 20
TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
# A server that restarts may take minutes to load its model.
PATIENCE = RetryPolicy(attempts=24, cap_s=30.0)
LOWEST = -9999.0  # what vLLM writes for minus infinity, which JSON does not have
# Errors of a TLS connection that was cut, as when a server restarts.
_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_AS_ID = re.compile(r"token_id:(\d+)")
_TINY = {"temperature": 1.0, "top_p": 1.0, "stream": False}

Dialect = Literal["prompt_logprobs", "echo, 0 generated", "echo, 1 generated"]
DIALECTS: tuple[Dialect, ...] = ("prompt_logprobs", "echo, 0 generated", "echo, 1 generated")
Say = Callable[[str], None]


class UnusableAnswerError(KltuiError):
    """Raised for an answer without the log-probability of every token that was sent."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server's description of itself: its model's name, root and owner, its version, dtype and context length; "" if unknown."""

    model: str
    root: str = ""
    owner: str = ""
    version: str = ""
    dtype: str = ""
    context: int | None = None

    def identity(self) -> dict[str, str]:
        """The identity of the weights, which are not visible: all server information that does not change with a restart."""
        said = {
            "model": self.model,
            "root": self.root,
            "owner": self.owner,
            "version": self.version,
            "dtype": self.dtype,
        }
        return {name: value for name, value in said.items() if value}


class ServedClient:
    """One served model; thread-safe.

    `spellings` returns a token's text and its entry in the vocabulary, to check that returned tokens are those that were
    sent. Requests time out after `timeout_s` seconds.
    """

    def __init__(
        self,
        source: ServedSource,
        spellings: Callable[[int], tuple[str, str]] = lambda token: ("", ""),
        retry: RetryPolicy = PATIENCE,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.source, self._spellings, self._retry, self._timeout_s = source, spellings, retry, timeout_s
        self.where = safe_text(str(source), 200)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if source.api_key_env:
            self._headers["Authorization"] = f"Bearer {_key(source.api_key_env, self.where)}"
        # A redirect would carry the key to another server.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def facts(self, say: Say = lambda line: None) -> ServerFacts:
        """The server's description. Raises TryAgainError if it does not respond, KltuiError if it does not serve the model."""
        listed = self._asked("models", None, say)
        entries = listed.get("data")
        models = [m for m in entries if isinstance(m, dict)] if isinstance(entries, list) else []
        found = next((m for m in models if m.get("id") == self.source.model), None)
        if models and found is None:
            names = ", ".join(str(m.get("id")) for m in models[:6])
            raise KltuiError(
                f"{safe_text(self.source.endpoint)} does not serve the model {safe_text(self.source.model, 100)}",
                f"It serves {safe_text(names, 300)}.",
            )
        found = found or {}
        length = found.get("max_model_len") or (found.get("meta") or {}).get("n_ctx")
        return ServerFacts(
            self.source.model, str(found.get("root") or ""), str(found.get("owned_by") or ""), self._version(),
            str(found.get("dtype") or ""), length if isinstance(length, int) and length > 1 else None,
        )  # fmt: skip

    def _version(self) -> str:
        """The server's version, or "" (vLLM has /version next to /v1)."""
        try:
            answer = self._request("../version", None)
        except (TransientError, KltuiError):
            return ""
        return str(answer.get("version") or "")

    def probe(self, prompts: Sequence[Sequence[int]], say: Say = lambda line: None) -> Dialect:
        """The first API dialect in which the server returns the log-probability of every token of all `prompts`.

        Raises KltuiError with the problem of each dialect if there is none.
        """
        wrong: list[str] = []
        for dialect in DIALECTS:
            try:
                for ids in prompts:
                    self.logprobs(ids, dialect, say)
                return dialect
            except KltuiError as error:
                if not isinstance(error, UnusableAnswerError):
                    raise
                wrong.append(f"{dialect}: {error.message}")
        raise KltuiError(
            f"{self.where} does not return log-probabilities of prompt tokens ({'; '.join(wrong)})",
            'vLLM does with prompt_logprobs; many servers do not. GGUF files can be scored directly: path = "model.gguf".',
        )

    def logprobs(self, ids: Sequence[int], dialect: Dialect, say: Say = lambda line: None) -> list[float]:
        """Log-probabilities in nats of ids[1:], each given all before it.

        Raises UnusableAnswerError unless every id is returned in its place with a finite number, TryAgainError if the server
        does not respond.
        """
        body: dict[str, object] = {"model": self.source.model, "prompt": list(ids), **_TINY}
        if dialect == "prompt_logprobs":
            answer = self._asked("completions", {**body, "max_tokens": 1, "prompt_logprobs": 0}, say)
            return _by_id(_choice(answer), ids)
        extra = int(dialect == "echo, 1 generated")
        options = {"max_tokens": extra, "echo": True, "logprobs": 1, "return_tokens_as_token_ids": True}
        answer = self._asked("completions", {**body, **options}, say)
        return self._echoed(_choice(answer), ids, _generated(answer, ids, extra))

    def _echoed(self, choice: Mapping[str, Any], ids: Sequence[int], extra: int) -> list[float]:
        found = choice.get("logprobs")
        tokens, values = (
            found.get(k) if isinstance(found, dict) else None for k in ("tokens", "token_logprobs")
        )
        if not isinstance(tokens, list) or not isinstance(values, list):
            raise UnusableAnswerError("the response has no log-probabilities of the prompt")
        if not len(tokens) == len(values) == len(ids) + extra:
            raise UnusableAnswerError(f"{len(values)} tokens were returned for {len(ids)} that were sent")
        for place, (token, sent) in enumerate(zip(tokens, ids, strict=False)):
            if not self._is_that(str(token), sent):
                raise UnusableAnswerError(
                    f"token {place} came back as {safe_text(repr(token), 60)}, which was not sent"
                )
        return [_number(value, place) for place, value in enumerate(values[: len(ids)])][1:]

    def _is_that(self, token: str, sent: int) -> bool:
        """Whether a returned token is the one that was sent, by its id if it is stated, otherwise by its text.

        Some servers return the vocabulary's entry, such as `Ġthe`. Parts of a character have no text of their own, and
        tokenizers represent spaces in different ways.
        """
        if found := _AS_ID.fullmatch(token):
            return int(found[1]) == sent
        text, entry = self._spellings(sent)
        if entry and token == entry:
            return True
        if "\ufffd" in text or "\ufffd" in token or token.startswith("bytes:"):
            return True
        return not text.strip() or not token.strip() or text.strip() == token.replace("▁", " ").strip()

    def _asked(self, path: str, body: Mapping[str, object] | None, say: Say) -> dict[str, Any]:
        return self._retry.run(lambda: self._request(path, body), self.where, say)

    def _request(self, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        """The JSON object in the server's answer. Raises TransientError if a retry may succeed, otherwise KltuiError."""
        base = self.source.endpoint.rstrip("/")
        url = f"{base.removesuffix('/v1')}{path[2:]}" if path.startswith("../") else f"{base}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                text = answer.read(ANSWER_MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException) as error:
            raise self._unreached(error) from None
        if len(text) > ANSWER_MAX_BYTES:
            raise UnusableAnswerError(f"an answer has more than {ANSWER_MAX_BYTES >> 20} MiB")
        try:
            found = json.loads(text)
        except ValueError:
            if text.lstrip()[:1] == b"<":
                raise KltuiError(
                    f"{self.where} responds with a web page",
                    "endpoint must be the address that ends in /v1; it may also be a log-in page or a proxy.",
                ) from None
            raise TransientError("it gave an answer that is not JSON") from None
        if not isinstance(found, dict):
            raise UnusableAnswerError("an answer is not a JSON object")
        return found

    def _unreached(self, error: OSError | HTTPException) -> Exception:
        """The error for a failed connection: TransientError if the server may be down, KltuiError for a wrong address or certificate."""
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, Exception) else error
        said = safe_text(str(reason or error), 160)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return KltuiError(
                f"{self.where}: its certificate is not trusted ({safe_text(cause.verify_message, 120)})",
                "Check the server; for your own certificate authority, set SSL_CERT_FILE to its file.",
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CLOSED):
            return KltuiError(
                f"{self.where} does not speak TLS as https asks for ({said})",
                "If it uses plain http, endpoint must begin with http://.",
            )
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_HOST:
            host = safe_text(urllib.parse.urlsplit(self.source.endpoint).hostname or "", 100)
            return KltuiError(
                f"{self.where}: unknown host {host} ({said})", "Check the spelling of endpoint."
            )
        return TransientError(f"it cannot be reached ({said})")

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            said = safe_text(error.read(2000).decode(errors="replace"), 300)
        # llama-cpp-python answers so to a prompt of token ids, which it does not support.
        if error.code in TRANSIENT_STATUS and not (error.code == 500 and "validation error" in said):
            return TransientError(f"it answers {error.code}", asked_wait_s(_lower(error.headers)))
        if error.code in (401, 403):
            named = (
                f"the key in {self.source.api_key_env}"
                if self.source.api_key_env
                else "a request without a key"
            )
            return KltuiError(
                f"{self.where} refuses {named} ({error.code})",
                "Set api_key_env to the environment variable that contains its key.",
            )
        if error.code == 404:
            return KltuiError(
                f"{self.where}: there is nothing at {safe_text(error.url or '', 200)} (404)",
                "endpoint must be the address that ends in /v1, and model its name on the server.",
            )
        return UnusableAnswerError(f"it refuses the request ({error.code}: {said})")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def _key(name: str, where: str) -> str:
    """The key in the environment variable `name`. Raises KltuiError, which never shows it."""
    key = os.environ.get(name, "").strip()  # a line end is easily included when it is read from a file
    if not key:
        raise KltuiError(
            f"the environment variable {name} is not set; it should contain the key for {where}",
            f"export {name}=... in the shell that starts kltui; kltui never stores it.",
        )
    if not (key.isascii() and key.isprintable()):
        raise KltuiError(
            f"the environment variable {name} contains characters that are invalid in a key for {where}",
            "It contains a line end or a character that is not ASCII: set it again.",
        )
    return key


def _lower(headers: Any) -> dict[str, str]:
    return {str(k).lower(): str(v) for k, v in headers.items()}


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if answer.get("error"):
        raise UnusableAnswerError(f"it answers with an error: {safe_text(str(answer['error']), 200)}")
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise UnusableAnswerError("the answer has no single completion")
    return choices[0]


def _generated(answer: Mapping[str, Any], ids: Sequence[int], asked: int) -> int:
    """Number of generated tokens. Raises UnusableAnswerError if the server counted other tokens than were sent, or generated many."""
    usage = answer.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    counted, made = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if counted is not None and counted != len(ids):
        raise UnusableAnswerError(
            f"it counted {safe_text(str(counted), 20)} tokens for {len(ids)} that were sent"
        )
    if not isinstance(made, int):
        return asked
    if (
        made > 1
    ):  # some servers treat max_tokens = 0 as no limit, and would generate until their context is full
        raise UnusableAnswerError(f"it generated {made} tokens instead of {asked}")
    return made


def _by_id(choice: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
    """Log-probabilities of ids[1:] from vLLM's list of {id: {"logprob": ...}}, which has None for the first token."""
    listed = choice.get("prompt_logprobs")
    if not isinstance(listed, list):
        raise UnusableAnswerError("the response has no prompt_logprobs")
    if len(listed) != len(ids):
        raise UnusableAnswerError(f"{len(listed)} tokens were returned for {len(ids)} that were sent")
    values = []
    for place, (found, sent) in enumerate(zip(listed, ids, strict=True)):
        if place == 0:
            continue
        entry = found.get(str(sent)) if isinstance(found, dict) else None
        if not isinstance(entry, dict):
            raise UnusableAnswerError(f"token {place} was returned without the id that was sent, {sent}")
        values.append(_number(entry.get("logprob"), place))
    return values


def _number(value: object, place: int) -> float:
    """A token's log-probability; 0 for the first, which has none. Raises UnusableAnswerError unless it is finite and at most 0."""
    if place == 0:
        return 0.0
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or float(value) <= LOWEST or float(value) > 1e-3:  # type: ignore[arg-type]
        raise UnusableAnswerError(f"token {place} has the log-probability {safe_text(str(value), 40)}")
    return float(value)  # type: ignore[arg-type]
