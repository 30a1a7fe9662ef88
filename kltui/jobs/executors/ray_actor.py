"""The worker on a machine of a Ray cluster: the same as a local one, with actor calls instead of the pipe."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from kltui.jobs.messages import Died, Failed, Message, Said, Setup, Task, TaskScored
from kltui.jobs.worker import serve


@dataclass(frozen=True, slots=True)
class _Line:
    """The connection between the worker's thread and the actor."""

    inbox: SimpleQueue[Any]
    outbox: SimpleQueue[Message]

    def recv(self) -> Any:
        return self.inbox.get()

    def poll(self) -> bool:
        return False  # an actor gets its next task when it is done with the one before

    def send(self, message: Message, /) -> None:
        self.outbox.put(message)


class RayActor:
    """An actor that scores one task at a time in a thread, so that it can report progress at the same time."""

    def __init__(self, setup: Setup) -> None:
        # Ray sets one thread for an actor without CPUs; torch reads this when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(setup.threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self._line = _Line(SimpleQueue(), SimpleQueue())
        self._line.inbox.put(setup)
        threading.Thread(target=self._work, name="score", daemon=True).start()

    def host(self) -> str:
        """The host name of the actor's machine; an answer shows that the actor has started."""
        return socket.gethostname()

    def score(self, task: Task) -> Iterator[Message]:
        """Messages of one task, the last of them Scored, Failed or Died."""
        self._line.inbox.put(task)
        message: Message | None = None
        while not isinstance(message, TaskScored | Failed | Died):
            message = self._line.outbox.get()
            # The thread does not know the index of its task.
            yield Died(task.index, message.status) if isinstance(message, Died) else message

    def _work(self) -> None:
        try:
            serve(self._line, log=lambda text: self._line.outbox.put(Said(text)))
        except SystemExit as leaving:
            self._line.outbox.put(Died(None, leaving.code if isinstance(leaving.code, int) else 1))
        except BaseException:
            self._line.outbox.put(Died(None, 1))
            raise
