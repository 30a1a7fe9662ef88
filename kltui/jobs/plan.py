"""A job file becomes a list of checkpoints to score, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kltui.corpus.corpus import Corpus
from kltui.corpus.load import load_corpus, odd_words
from kltui.corpus.read import Fields
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.adapter_bases import with_bases
from kltui.jobs.gguf_originals import with_originals
from kltui.jobs.interpolation import MixPlan, mixes
from kltui.jobs.job_tables import ModelTable
from kltui.jobs.jobfile import JobFile
from kltui.jobs.map_defaults import map_notes, map_texts
from kltui.jobs.names import given_names
from kltui.registry.adapters import is_adapter
from kltui.registry.checkpoint import Checkpoint, Source
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.names import is_map_source
from kltui.registry.parents import parent_mistakes, parent_notes
from kltui.registry.presets import preset
from kltui.registry.revisions import expand_revisions, is_pattern, matching_revisions
from kltui.registry.tokenizer import named_source
from kltui.sanitize import safe_text
from kltui.scoring.settings import ScoringSettings
from kltui.store import CheckpointRow, Store

_UNEQUAL = 0.5  # standard deviation of the texts' lengths over their mean, above which a note is given
CANNOT_RUN = "the job cannot run as written"


@dataclass(frozen=True)
class Plan:
    """What a job will do: the workspace, the corpus, the checkpoints in order; `mixes` by name of a grid point.

    `notes` are warnings of possible mistakes, such as a parent that does not exist.
    """

    job: JobFile
    workspace: Path
    corpus: Corpus
    checkpoints: tuple[Checkpoint, ...]
    settings: ScoringSettings
    mixes: Mapping[str, MixPlan] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sources(self, index: int) -> list[Source]:
        """The sources of all files that a checkpoint needs: itself, its base, or the parts of an interpolation."""
        checkpoint = self.checkpoints[index]
        mix = self.mixes.get(checkpoint.name)
        if mix:
            return [part.source for part in mix.parts]
        return (
            [named_source(checkpoint.base), checkpoint.source]
            if is_adapter(checkpoint)
            else [checkpoint.source]
        )


def make_plan(
    job: JobFile, say: Callable[[str], None] = lambda line: None, corpus: Corpus | None = None
) -> Plan:
    """The plan of a job. `corpus` is given if it has already been read; `say` receives progress while a long one is read.

    Raises UsageError listing every entry that cannot be used.
    """
    mistakes: list[str] = []
    checkpoints: list[Checkpoint] = []
    named: set[str] = set()  # sources whose entry gives them a run
    for number, model in enumerate(job.models):
        try:
            found = checkpoints_from_entry(_listed(_entry(model), model.preset), ask_hub=not model.preset)
            checkpoints += found
            named |= {str(c.source) for c in found if model.run}
        except KltuiError as error:
            mistakes.append(f"models[{number}]: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        except OSError as error:
            mistakes.append(f"models[{number}]: {(error.filename or '')[:200]}: {error.strerror}")
    rows, given = _there(Path(job.workspace))
    stored = [row.checkpoint for row in rows]
    if corpus is None:
        corpus, wrong = _corpus_or_mistake(job, say)
        mistakes += wrong
    joined = with_originals(checkpoints, stored, named, corpus.texts if corpus else ())
    based = with_bases(joined.checkpoints, stored, Path(job.folder))
    checkpoints = based.checkpoints
    mistakes += based.mistakes
    between, wrong = _interpolated(job, checkpoints)
    checkpoints += [checkpoint for checkpoint, _ in between]
    mistakes += wrong + _collisions(checkpoints)
    mistakes += [f"parent: {mistake}" for mistake in parent_mistakes(checkpoints, stored)]
    if mistakes or corpus is None:
        raise UsageError(f"{CANNOT_RUN}\n" + "\n".join(f"  - {m}" for m in mistakes))
    parts = {checkpoint.name: plan for checkpoint, plan in between}
    notes = (
        *_unused_lengths(job),
        *(() if is_map_source(job.corpus.source) else (*odd_words(corpus.record), *_unequal(job, corpus))),
        *parent_notes(checkpoints, stored, given),
        *joined.notes,
        *based.notes,
        *_over_imports(checkpoints, rows),
        *map_notes(
            Path(job.workspace), job.corpus.source, job.scoring.model_dump(), settings_key(job.settings())
        ),
    )
    return Plan(job, Path(job.workspace), corpus, tuple(checkpoints), job.settings(), parts, notes)


def _unused_lengths(job: JobFile) -> list[str]:
    """A note if lengths of chunks are set although documents are not cut."""
    table, defaults = job.corpus, type(job.corpus).model_fields
    stated = [k for k in ("max_bytes", "min_bytes") if getattr(table, k) != defaults[k].default]
    if table.chunk or not stated:
        return []
    verb = "have" if len(stated) > 1 else "has"
    return [f"{' and '.join(stated)} {verb} no effect without chunk = true: every item is one text"]


def _unequal(job: JobFile, corpus: Corpus) -> list[str]:
    """A note if texts differ so much in length that this may dominate the KL."""
    size_N = corpus.text_bytes
    if job.corpus.kind == "pairs" or size_N.std() <= _UNEQUAL * size_N.mean():
        return []
    return [
        f"the texts have {size_N.min()} to {size_N.max()} bytes: if two models differ in loss, they differ more on longer texts,"
        " which increases their KL; chunk = true under [corpus] cuts documents into texts of similar length"
    ]


def _over_imports(checkpoints: Sequence[Checkpoint], rows: Sequence[CheckpointRow]) -> list[str]:
    """A note if checkpoints have the names of imported vectors, which they will replace."""
    imported = {row.name for row in rows if row.weights.startswith("import:")}
    names = [c.name for c in checkpoints if c.name in imported]
    if not names:
        return []
    what = "1 checkpoint has the name" if len(names) == 1 else f"{len(names)} checkpoints have the names"
    return [f"{what} of imported vectors, which will be replaced, such as {safe_text(names[0], 80)}"]


def _there(workspace: Path) -> tuple[list[CheckpointRow], list[str]]:
    """(checkpoints of the workspace, former names of some of them); ([], []) if it cannot be read."""
    try:
        store = Store.read(workspace)
    except StoreError:
        return [], []
    try:
        return store.checkpoints.all(), list(given_names(store))
    finally:
        store.close()


def settings_key(settings: ScoringSettings) -> str:
    """The settings that vectors of one corpus must share to be on one map, as `name=value` words."""
    words = f"bos={settings.bos} dtype={settings.dtype} overlong={settings.overlong}"
    return f"{words} kind=pairs template={settings.template}" if settings.template else words


def _entry(model: ModelTable) -> ModelEntry:
    """The entry that a table describes. If it names a preset, other keys of the table take precedence over the preset's."""
    fields = model.model_dump(exclude={"path", "preset"})
    if model.preset:
        said = {k: v for k, v in fields.items() if k in model.model_fields_set and v not in ("", None, ())}
        return replace(preset(model.preset).entry(), **said)
    return ModelEntry(path=Path(model.path) if model.path else None, **fields)


def _listed(entry: ModelEntry, named: str) -> ModelEntry:
    """The entry with "all" and wildcards among its revisions expanded, from those of its preset `named` or of the hub."""
    if not any(map(is_pattern, entry.revisions)):
        return entry
    if named:
        known = expand_revisions(preset(named).revisions)
    else:
        from kltui.registry.hub import revisions

        known = revisions(entry.repo)
    return replace(entry, revisions=tuple(matching_revisions(entry.revisions, known)))


def _interpolated(
    job: JobFile, checkpoints: Sequence[Checkpoint]
) -> tuple[list[tuple[Checkpoint, MixPlan]], list[str]]:
    """(grid points of every `[[interpolations]]` entry, mistakes in entries that cannot be used)."""
    made: list[tuple[Checkpoint, MixPlan]] = []
    mistakes = []
    for number, table in enumerate(job.interpolations):
        try:
            made += mixes(table, checkpoints, Path(job.workspace))
        except KltuiError as error:
            mistakes.append(f"interpolations[{number}]: {error.message} ({error.hint})")
    return made, mistakes


def read_corpus(job: JobFile, say: Callable[[str], None]) -> Corpus:
    """The job's texts; `say` receives progress while many are read. Raises KltuiError if they cannot be read or are none."""
    table = job.corpus
    if is_map_source(table.source):
        return map_texts(Path(job.workspace), table.source, table.sample, table.seed, job.settings().template)
    corpus = load_corpus(
        table.source,
        chunk=table.chunk,
        max_bytes=table.max_bytes,
        min_bytes=table.min_bytes,
        sample=table.sample,
        seed=table.seed,
        fields=Fields(table.field, table.domain, table.kind == "pairs"),
        template=table.template if table.kind == "pairs" else "",
        say=say,
    )
    if not len(corpus):
        raise UsageError(f"{table.source} contains no texts", "Check source, chunk and min_bytes.")
    return corpus


def _corpus_or_mistake(job: JobFile, say: Callable[[str], None]) -> tuple[Corpus | None, list[str]]:
    try:
        return read_corpus(job, say), []
    except KltuiError as error:
        return None, [f"corpus: {error.message}" + (f" ({error.hint})" if error.hint else "")]


def _collisions(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Mistakes for names that two different sources would share."""
    seen: dict[str, Checkpoint] = {}
    mistakes = []
    for checkpoint in checkpoints:
        other = seen.setdefault(checkpoint.name, checkpoint)
        if other is not checkpoint:
            mistakes.append(
                f"two checkpoints would have the name {checkpoint.name}: {other.source} and {checkpoint.source} "
                "(give one of them another run)"
            )
    return mistakes
