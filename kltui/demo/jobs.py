"""The demo's two job files: one for every checkpoint, one for the last checkpoints of some runs with all layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kltui.atomic_files import replacing
from kltui.demo.prepared import CORPUS_FILE, FOLDER
from kltui.demo.suite import PlannedRun, Suite, adapter_run, checkpoint_folder, llama_run
from kltui.jobs.job_tables import CorpusTable, EngineTable, ModelTable, ScoringTable
from kltui.jobs.jobfile import JobFile

JOB = "job.toml"
LAYERS_JOB = "job-layers.toml"


def write_jobs(
    workspace: Path,
    suite: Suite,
    *,
    eight_bit: bool,
    workers: int,
    gguf: bool = False,
    adapters: bool = False,
) -> list[Path]:
    """Writes the job files into `workspace` and returns their paths in the order in which they are to run.

    The job with layers runs first: the other one then finds these checkpoints scored.
    """
    sizes = {run.size: run for run in reversed(suite.runs) if not run.parent}
    shown = [*reversed(sizes.values()), *(run for run in suite.runs if run.parent)]
    ends = [_model(suite, run, last=True) for run in shown]
    everything = [_model(suite, run) for run in suite.runs]
    if eight_bit:
        quantized = {"quantization": ("bnb-8bit",)}
        everything += [m.model_copy(update=quantized) for m in ends[: len(sizes)]]
    if adapters:
        everything.append(_adapters(adapter_run(suite)))
    if gguf:
        everything += _gguf_models(llama_run(suite))
    return [
        _written(workspace / LAYERS_JOB, ends, ScoringTable(layers="all"), workers),
        _written(workspace / JOB, everything, ScoringTable(), workers),
    ]


def _adapters(run: PlannedRun) -> ModelTable:
    """The entry of a LoRA run; its adapter files name their base model."""
    folder = checkpoint_folder(Path(), run, run.last_step).parent
    return ModelTable(
        path=folder.as_posix(), run=run.name, seed=run.seed, size=run.size.name, type="gpt_neox"
    )


def _gguf_models(run: PlannedRun) -> list[ModelTable]:
    """The entries of the Llama and of its GGUF file, which is in the run's folder."""
    end = checkpoint_folder(Path(), run, run.last_step)
    model = ModelTable(path=end.as_posix(), run=run.name, seed=run.seed, size=run.size.name, type="llama")
    file = ModelTable(path=end.parent.as_posix(), files=("*.gguf",), parent=f"{run.name}@{run.last_step}")
    return [model, file]


def written_jobs(workspace: Path) -> list[Path]:
    """The job files that an earlier start wrote, in order; [] if one is missing."""
    paths = [workspace / LAYERS_JOB, workspace / JOB]
    return paths if all(path.is_file() for path in paths) else []


def _model(suite: Suite, run: PlannedRun, *, last: bool = False) -> ModelTable:
    """The entry of a run: all of its folder, or with `last` its last checkpoint only."""
    root = Path()
    end = checkpoint_folder(root, run, run.last_step)
    parent = f"{run.parent}@{suite.run(run.parent).last_step}" if run.parent else ""
    path = end if last else end.parent
    return ModelTable(
        path=path.as_posix(), run=run.name, seed=run.seed, size=run.size.name, type="gpt_neox", parent=parent
    )


def _written(path: Path, models: Sequence[ModelTable], scoring: ScoringTable, workers: int) -> Path:
    job = JobFile(
        workspace=".",
        corpus=CorpusTable(source=f"{FOLDER}/{CORPUS_FILE}"),
        models=tuple(models),
        scoring=scoring,
        engine=EngineTable(workers=workers),
    )
    with replacing(path) as file:
        file.write(job.to_toml().encode())
    return path
