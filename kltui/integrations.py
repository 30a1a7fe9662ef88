"""Scoring during training: `from kltui.integrations import ScoreCheckpoints` for transformers' Trainer.

Importing this module starts nothing. Scoring runs in a separate process, at low priority, by default on the CPU.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from transformers.trainer_callback import TrainerCallback

from kltui.jobs.launch import NICE
from kltui.jobs.process import python_command
from kltui.watch.run import WITH_PARENT

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

# {field of a watch's event: name under which it is logged}
LOGGED = {
    "bits_per_byte": "kltui/bits_per_byte", "bits_per_byte_se": "kltui/bits_per_byte_se",
    "kl_consecutive": "kltui/kl_consecutive", "kl_consecutive_se": "kltui/kl_consecutive_se", "step": "kltui/step",
}  # fmt: skip


class ScoreCheckpoints(TrainerCallback):
    """Scores each checkpoint that the Trainer saves, and logs the results through the Trainer's own logger.

        trainer = Trainer(model, args, train_dataset=data, processing_class=tokenizer)
        trainer.add_callback(ScoreCheckpoints(trainer, "texts.jsonl", sample=500))

    It logs, to whichever tracker is in use, `kltui/bits_per_byte` and `kltui/kl_consecutive` (KL in
    bits/byte to the previous checkpoint), each with `_se`, its standard error over the texts, and `kltui/step`, the step
    of the checkpoint. They arrive some time after the save: training waits only at its end, for the last ones (`wait`).

    `corpus` is the `source` of a job file, or its whole `[corpus]` table; `scoring` and `watch` are the tables of these names
    (by default on the CPU). Relative paths start at the current folder. `workspace` is by default a folder next to the checkpoints; `kltui WORKSPACE` shows it
    during training. `tokenizer` is needed if checkpoints are saved without one. Raises UsageError for an invalid job.
    """

    def __init__(
        self,
        trainer: Trainer,
        corpus: str | Path | Mapping[str, object],
        *,
        sample: int | None = None,
        workspace: str | Path | None = None,
        run: str = "",
        tokenizer: str | Path = "",
        scoring: Mapping[str, object] | None = None,
        watch: Mapping[str, object] | None = None,
        wait: bool = True,
    ) -> None:
        self._trainer, self._wait = trainer, wait
        folder = Path(str(trainer.args.output_dir)).absolute()
        self.workspace = Path(workspace).absolute() if workspace else folder / "kltui"
        source: dict[str, object] = dict(corpus) if isinstance(corpus, Mapping) else {"source": str(corpus)}
        if sample is not None:
            source["sample"] = sample
        model = {"path": str(folder), "run": run, "tokenizer": str(tokenizer)}
        self._job: dict[str, object] = {
            "workspace": str(self.workspace), "corpus": source, "models": [{k: v for k, v in model.items() if v}],
            "scoring": {"device": "cpu", **(scoring or {})}, "watch": dict(watch or {}), "folder": str(Path.cwd()),
        }  # fmt: skip
        _check(self._job)
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._logged: set[str] = set()
        self._saved: set[int] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Starts the watch, only in the first process of a distributed training."""
        alive = self._process is not None and self._process.poll() is None
        if state.is_world_process_zero and not alive:
            self._process = self._started("--watch")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Records that a checkpoint is expected."""
        self._saved.add(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Logs new results."""
        self._log_figures()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Ends the watch, scores the remaining checkpoints (unless `wait` is False), and logs the last results."""
        if self._process is None:
            return
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                # The watch finishes its current checkpoint. Not SIGINT: a process that a shell starts in the background
                # ignores it, and so does its watch until it has installed its own handler.
                self._process.send_signal(signal.SIGUSR1)
        self._join(self._process)
        self._process = None
        self._log_figures()
        lacking = self._saved - {self._step(name) for name in self._logged}
        # A checkpoint that was deleted, or saved in another folder, will never be scored.
        lacking = {step for step in lacking if (self._folder / f"checkpoint-{step}").is_dir()}
        if self._wait and lacking:
            # Vectors that are stored are not computed again. This watch ends when the last checkpoint is scored or has failed.
            self._join(self._started("--watch", "--until-step", str(max(lacking))))
            self._log_figures()

    def _join(self, process: subprocess.Popen[str]) -> None:
        """Waits until a watch has ended and all of its events are read; logs a warning if it failed."""
        code = process.wait()
        self._reader.join()
        if code not in (0, 128 + signal.SIGUSR1, -signal.SIGUSR1):
            messages = self.workspace / "watch.log"
            log.warning("kltui's watch ended with exit code %d; its messages are in %s", code, messages)

    def _job_file(self) -> Path:
        """The path of the watch's job file, written into the workspace."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        path = self.workspace / "watch.toml"
        path.write_text(tomli_w.dumps(self._job), encoding="utf-8")
        return path

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a watch in a separate process, and a thread that reads its events; returns the process."""
        path = str(self._job_file())
        command = python_command("kltui.cli", "main", arguments[0], path, *arguments[1:], "--json")
        # Its messages go to a file in the workspace, because training has its own log.
        with (self.workspace / "watch.log").open("ab") as log_file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log_file, text=True,
                start_new_session=True, env=_environment(),
            )  # fmt: skip
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        self._reader = threading.Thread(target=self._read, args=(process,), name="kltui-watch", daemon=True)
        self._reader.start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with suppress(ValueError):
                    self._events.put(json.loads(line))

    def _log_figures(self) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if event.get("event") == "figures" and event["name"] not in self._logged:
                self._logged.add(event["name"])
                found = {new: event[old] for old, new in LOGGED.items() if event.get(old) is not None}
                self._trainer.log(found)
            elif event.get("event") == "alert":
                log.warning("kltui: %s", event.get("message"))
            elif event.get("event") == "checkpoint" and event.get("status") == "failed":
                log.warning("kltui could not score %s: %s", event.get("name"), event.get("error"))

    @staticmethod
    def _step(name: str) -> int:
        return int(name.rpartition("@")[2]) if "@" in name else -1


def _check(job: Mapping[str, object]) -> None:
    """Raises UsageError for a job with mistakes, before training begins."""
    from kltui.jobs.jobfile import parse_job

    parse_job(dict(job), "ScoreCheckpoints")


def _environment() -> dict[str, str]:
    """The environment of the watch: it ends when this process ends, and is no part of a distributed training."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in ours} | {WITH_PARENT: "1"}
