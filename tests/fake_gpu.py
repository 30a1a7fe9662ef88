"""A stand-in for the GPU that weights are read ahead for."""

from __future__ import annotations

import threading

import torch


class Event:
    """An event of a GPU that is done as soon as it is asked."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log, self._name = log, name

    def synchronize(self) -> None:
        self._log.append(f"waits for {self._name}")


class FakeGpu:
    """A GPU in the host's memory that notes what is asked of it."""

    peers = 1

    def __init__(self, spare: int = 1 << 40) -> None:
        self.log: list[str] = []
        self.spare = spare

    def enter_thread(self) -> None:
        assert threading.current_thread() is not threading.main_thread()

    def locked(self, n_bytes: int) -> torch.Tensor:
        self.log.append("locks")
        return torch.full((n_bytes,), 255, dtype=torch.uint8)

    def spare_bytes(self) -> int:
        return self.spare

    def send(self, host: torch.Tensor) -> tuple[torch.Tensor, Event]:
        self.log.append("sends")
        return host.clone(), Event(self.log, "the second set")

    def use(self, there: torch.Tensor, event: Event) -> None:
        self.log.append("uses")

    def mark(self) -> Event:
        self.log.append("marks")
        return Event(self.log, "the copies")
