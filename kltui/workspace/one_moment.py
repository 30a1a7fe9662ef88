"""Decorators of methods that read several things of a workspace which belong together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class _HasMoment(Protocol):
    def at_one_moment(self, *, brief: bool = True) -> AbstractContextManager[None]: ...


Given = ParamSpec("Given")
Result = TypeVar("Result")
Owner = TypeVar("Owner", bound=_HasMoment)
Method = Callable[Concatenate[Owner, Given], Result]


def at_one_moment(method: Method[Owner, Given, Result]) -> Method[Owner, Given, Result]:
    """The method, with all that it reads being of one moment; see `Store.at_one_moment`."""

    @wraps(method)
    def read(self: Owner, /, *given: Given.args, **named: Given.kwargs) -> Result:
        with self.at_one_moment():
            return method(self, *given, **named)

    return read


def at_one_moment_if_wal(method: Method[Owner, Given, Result]) -> Method[Owner, Given, Result]:
    """The same for a method that may read many vectors, so that no writer waits for it; see `Store.at_one_moment`."""

    @wraps(method)
    def read(self: Owner, /, *given: Given.args, **named: Given.kwargs) -> Result:
        with self.at_one_moment(brief=False):
            return method(self, *given, **named)

    return read
