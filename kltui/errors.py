"""Errors that a user can act on, and the exit code each one means."""

from __future__ import annotations


class KltuiError(Exception):
    """What was seen and where (`message`), and what to do about it (`hint`).

    One place, `kltui.cli.main`, prints these and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[KltuiError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(KltuiError):
    """A command, job file or argument that cannot be meant as written."""

    exit_code = 2


class StoreError(KltuiError):
    """A workspace that is in use, damaged, or newer than this kltui."""

    exit_code = 3


class TryAgainError(KltuiError):
    """A failure that time may mend: a busy hub, a lost network."""

    exit_code = 75
