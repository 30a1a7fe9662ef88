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

# Figures of a watch's events, by the names that they are logged under.
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
    (by default on the CPU). `workspace` is by default a folder next to the checkpoints; `kltui WORKSPACE` shows it
    during training. `tokenizer` is needed if checkpoints are saved without one.
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
        source: dict[str, object] = (
            dict(corpus) if isinstance(corpus, Mapping) else {"source": _source(corpus)}
        )
        if sample is not None:
            source["sample"] = sample
        model = {"path": str(folder), "run": run, "tokenizer": str(tokenizer)}
        self._job: dict[str, object] = {
            "workspace": str(self.workspace), "corpus": source, "models": [{k: v for k, v in model.items() if v}],
            "scoring": {"device": "cpu", **(scoring or {})}, "watch": dict(watch or {}),
        }  # fmt: skip
        _check(self._job)
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
                # The checkpoint in hand is finished. Not INT: what a shell starts in the background ignores it, and so does
                # its watch until that is under way.
                self._process.send_signal(signal.SIGUSR1)
        self._join(self._process)
        self._process = None
        if self._wait and self._saved - {self._step(name) for name in self._logged}:
            # What is stored is kept; it ends once the last checkpoint is scored.
            self._join(self._started("--watch", "--until-step", str(max(self._saved))))
        self._log_figures()

    def _join(self, process: subprocess.Popen[str]) -> None:
        """Waits for the end of a watch and of its events."""
        process.wait()
        self._reader.join()

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        """The watch in a process of its own; its events come by a thread."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        path = self.workspace / "watch.toml"
        path.write_text(tomli_w.dumps(self._job), encoding="utf-8")
        command = python_command("kltui.cli", "main", arguments[0], str(path), *arguments[1:], "--json")
        # Its words belong beside the workspace: training has a log of its own.
        with (self.workspace / "watch.log").open("ab") as words:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, text=True,
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


def _source(corpus: str | Path) -> str:
    text = str(corpus)
    return text if text == "demo" or text.startswith("hf://") else str(Path(text).absolute())


def _check(job: Mapping[str, object]) -> None:
    """Raises UsageError for a job with mistakes, now and not when training has begun."""
    from kltui.jobs.jobfile import parse_job

    parse_job(dict(job), "ScoreCheckpoints")


def _environment() -> dict[str, str]:
    """This process's own, without what would make the watch one of the training's distributed processes; it ends with this one."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in ours} | {WITH_PARENT: "1"}
