"""The error for damaged stored data. It does not import SQLite, which what is already read does not need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from kltui.errors import StoreError

RESTORE = (
    "kltui --check WORKSPACE lists everything that is damaged and what to do: restore it from a copy, or remove the damaged"
    " parts (--check --mend) and score them again."
)

P = ParamSpec("P")
R = TypeVar("R")


class DamageError(StoreError):
    """Raised for a store whose bytes were altered: no number from it can be trusted."""


def decoded(read: Callable[P, R]) -> Callable[P, R]:
    """Decorator for functions that parse stored values: raises DamageError if a value is invalid."""

    @functools.wraps(read)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(*args, **kwargs)
        except (ValueError, TypeError, KeyError) as error:
            raise DamageError(
                f"the workspace is damaged: a stored value is invalid ({error})", RESTORE
            ) from error

    return checked
