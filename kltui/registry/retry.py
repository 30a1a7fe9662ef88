"""Retries after failures that may be temporary: how long to wait, and when to give up."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from kltui.errors import TryAgainError

T = TypeVar("T")

_RATE_LIMIT = re.compile(r"\br=0\b.*?\bt=([0-9]{1,9})")


class TransientError(Exception):
    """A failure that may be temporary: the reason, and the waiting time in seconds requested by the server (None: unspecified)."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter; a server that requests a wait longer than `longest_wait_s` ends the tries."""

    attempts: int = 6
    base_s: float = 1.0
    cap_s: float = 30.0
    longest_wait_s: float = 330.0  # the hub counts its limits over five minutes
    sleep: Callable[[float], None] = time.sleep

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds to wait after failed attempt 0, 1, ...: never less than requested by the server."""
        if retry_after_s is not None:
            return retry_after_s + random.uniform(0, 0.1 * retry_after_s + 0.25 * self.base_s)
        return random.uniform(0.5, 1.0) * min(self.cap_s, self.base_s * 2.0**attempt)

    def run(
        self,
        action: Callable[[], T],
        what: str,
        say: Callable[[str], None],
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """Result of `action`, retried after each TransientError; finally raises TryAgainError, which names `what`.

        The count restarts whenever `progress`, in bytes, has increased, so that a long download over an unreliable
        connection completes.
        """
        attempt, furthest, tries = 0, progress(), 0
        while True:
            try:
                return action()
            except TransientError as error:
                failed = error
            tries += 1
            if (reached := progress()) > furthest:
                attempt, furthest = 0, reached
            wait_s = self.wait_s(attempt, failed.retry_after_s)
            if attempt + 1 == self.attempts or wait_s > self.longest_wait_s:
                break
            say(f"{failed.reason}: trying again in {wait_s:.0f} s ({attempt + 2} of {self.attempts})")
            self.sleep(wait_s)
            attempt += 1
        asked = "" if failed.retry_after_s is None else f" It asks to wait {failed.retry_after_s:.0f} s."
        raise TryAgainError(
            f"{what}: {failed.reason}, {tries} tries",
            "Run the same command again later: finished results are stored." + asked,
        )


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait according to a Retry-After (a number or a date) or an exhausted RateLimit header; None without one."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    limit = _RATE_LIMIT.search(headers.get("ratelimit", ""))
    return float(limit[1]) if limit else None
