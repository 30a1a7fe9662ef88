"""Errors that a user can act on, each with its exit code."""

from __future__ import annotations


class KltuiError(Exception):
    """An error with a `message` (what is wrong, and where) and a `hint` (what to do about it, or "").

    `kltui.cli.main` prints both and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_one_line(self) -> str:
        """The message and the hint as sentences of one line."""
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[KltuiError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(KltuiError):
    """An invalid command, job file or argument."""

    exit_code = 2


class StoreError(KltuiError):
    """A workspace that is in use, damaged, or newer than this kltui."""

    exit_code = 3


class NoWorkspaceError(StoreError):
    """Raised where there is no workspace yet."""


class TryAgainError(KltuiError):
    """A failure that may be temporary, such as a busy hub or a lost network connection."""

    exit_code = 75
