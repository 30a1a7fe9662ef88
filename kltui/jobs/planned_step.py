"""One line of a dry run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One checkpoint of a plan: kept (already stored) or to be scored; bytes of its weights (None: not on this machine).

    `problem` is the reason why it will fail. `server` is the response of its server, and `answers` whether it responded.
    `tokens` is the number of tokens to score, estimated from some of the texts of a large corpus; None if it is unknown.
    """

    name: str
    source: str
    status: str
    weight_bytes: int | None
    problem: str = ""
    server: str = ""
    answers: bool | None = None
    tokens: int | None = None
