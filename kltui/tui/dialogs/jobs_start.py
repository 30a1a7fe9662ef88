"""Dialogs that add models, show the new job file, and start the job in a process of its own."""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError, TryAgainError
from kltui.registry.names import is_map_source
from kltui.sanitize import expanded, safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.place_form import place_model
from kltui.tui.job_files import job_files

if TYPE_CHECKING:
    from kltui.jobs.jobfile import JobFile
    from kltui.registry.discover import LocalFound
    from kltui.registry.presets import Preset
    from kltui.store.rows import CheckpointRow, JobRow
    from kltui.tui.session import WorkspaceSession

Entry = dict[str, Any]


def job_of(
    workspace: Path,
    entries: Sequence[Entry],
    corpus: Entry,
    scoring: Entry | None = None,
    engine: Entry | None = None,
) -> JobFile:
    """The job that scores `entries` ([[models]] tables) over `corpus`. Raises UsageError naming every mistake."""
    from kltui.jobs.jobfile import parse_job

    data: Entry = {"workspace": str(workspace.resolve()), "corpus": corpus, "models": list(entries)}
    # the job file is saved in the workspace, but its relative paths start here
    data["folder"] = str(Path.cwd())
    if scoring:
        data["scoring"] = scoring
    if engine:
        data["engine"] = engine
    return parse_job(data, "the new job")


def entries_of(rows: Iterable[CheckpointRow]) -> list[Entry]:
    """[[models]] tables for exactly these checkpoints: one each, but one for all hub revisions of a run."""
    from kltui.registry.checkpoint import HubSource, ServedSource
    from kltui.registry.gguf_file import is_gguf_variant

    entries: dict[tuple[Any, ...], Entry] = {}
    for row in rows:
        c = row.checkpoint
        entry: Entry = {"run": c.run}
        if not is_gguf_variant(c.quantization):  # the quantisation of a GGUF file is read from the file
            entry["quantization"] = [c.quantization]
        words = ("size", "type", "parent", "tokenizer", "base")
        entry.update({k: getattr(c, k) for k in words if getattr(c, k)})
        if c.seed is not None:
            entry["seed"] = c.seed
        if c.tags:
            entry["tags"] = list(c.tags)
        if isinstance(c.source, HubSource):
            if c.source.file:
                entry["files"] = [c.source.file]
            key = (c.source.repo, tuple(sorted((k, str(v)) for k, v in entry.items())))
            entries.setdefault(key, entry | {"repo": c.source.repo, "revisions": []})
            entries[key]["revisions"].append(c.source.revision)
        elif isinstance(c.source, ServedSource):
            entry.pop("quantization", None)
            entries[(row.name,)] = entry | asdict(c.source)
        else:
            entries[(row.name,)] = entry | {"path": str(c.source.path)}
    return list(entries.values())


def usual_tables(jobs: Sequence[JobRow]) -> tuple[Entry, Entry]:
    """The [corpus] and [scoring] tables of the job with the most finished checkpoints (the newest of equals).

    A new job takes them, because vectors with another corpus or dtype would not join the map. Empty without a job.
    """
    for job in sorted(jobs, key=lambda j: -j.done):
        try:
            data = tomllib.loads(job.job_toml)
        except tomllib.TOMLDecodeError:
            continue
        corpus = data.get("corpus")
        if isinstance(corpus, dict) and Path(str(corpus.get("source", ""))).parent.name != "draws":
            return data["corpus"], data.get("scoring", {})
    return {}, {}


def tables_for(app: WorkspaceSession) -> tuple[Entry, Entry]:
    """The [corpus] and [scoring] tables of a new job: those of `usual_tables`, or the texts named on the command line."""
    corpus, scoring = usual_tables(app.snapshot.jobs)
    return ({"source": str(app.texts)} if app.texts is not None else corpus), scoring


# -- starting -----------------------------------------------------------------------------------


def start_file(app: WorkspaceSession, named: str = "") -> None:
    """Asks for a job file, suggesting `named` or the newest of the workspace, and starts it."""
    known = [] if named else job_files(app.reader.path)
    suggested = named or (str(known[0]) if known else "job.toml")
    prompt = prompts.Prompt(
        "Start which job file?", suggested, lambda text: _job_file_complaint(Path(text)), paths=True
    )
    app.push_screen(prompt, lambda text: _start(app, expanded(text)) if text else None)


def _job_file_complaint(path: Path) -> str:
    from kltui.jobs.jobfile import load_job

    try:
        load_job(expanded(path))
    except KltuiError as error:
        return str(error)
    return ""


def start_job(app: WorkspaceSession, rows: Sequence[CheckpointRow]) -> None:
    """Shows a job for these checkpoints with the tables of `tables_for`; without checkpoints, asks for a job file."""
    if not rows or app.reader.path is None:
        start_file(app)
        return
    corpus, scoring = tables_for(app)
    _with_corpus(app, entries_of(rows), corpus, scoring)


def _with_corpus(app: WorkspaceSession, entries: Sequence[Entry], corpus: Entry, scoring: Entry) -> None:
    if corpus:
        offer(app, entries, corpus, scoring)
        return

    def answered(source: str | None) -> None:
        if source:
            as_it_is = source == "demo" or source.startswith("hf://") or is_map_source(source)
            chosen = source if as_it_is else str(expanded(source).resolve())
            offer(app, entries, {"source": chosen}, scoring)

    hints = (
        "A .txt, .jsonl, .csv, .parquet (or packed: .gz, .zst), a .json list, a folder, a pattern such as data/*.jsonl, "
        "hf://datasets/OWNER/NAME/*.parquet, or: demo, map (this map's)",
    )
    known = "demo" if app.map_cache.is_empty else "map"
    prompt = prompts.Prompt("Score which texts?", known, _source_complaint, hints=hints, paths=True)
    app.push_screen(prompt, answered)


def _source_complaint(source: str) -> str:
    from kltui.corpus.hub_datasets import parse_address
    from kltui.corpus.sources import HUB, source_files

    try:
        if source.startswith(HUB):
            parse_address(source)
        elif source != "demo" and not is_map_source(source):
            source_files(expanded(source))
    except KltuiError as error:
        return safe_text(error.message, 200)
    return ""


def offer(
    app: WorkspaceSession,
    entries: Sequence[Entry],
    corpus: Entry,
    scoring: Entry,
    engine: Entry | None = None,
) -> None:
    """Shows the job file. Keys: s writes and starts it, t also watches its runs, w only writes it, e edits settings."""
    assert app.reader.path is not None
    try:
        job = job_of(app.reader.path, entries, corpus, scoring, engine)
    except KltuiError as error:
        app.complain(error)
        return
    text = job.to_toml()

    def answered(key: str | None) -> None:
        if key is None:
            return
        if key == "e":
            _change(app, entries, {"corpus": corpus, "scoring": scoring, "engine": engine or {}})
            return
        path = write_job(app.reader.path or Path(), text)
        if key in ("s", "t"):
            _start(app, path, watch=key == "t")
        else:
            app.say(f"written: {path}")

    reader = prompts.TextDialog(
        "This job",
        prompts.reading(text, app.look("text")),
        keys=(
            ("s", "write and start"),
            ("t", "write and watch: also score new checkpoints"),
            ("e", "change its settings"),
            ("w", "write only"),
        ),
    )
    app.push_screen(reader, answered)


def _change(app: WorkspaceSession, entries: Sequence[Entry], tables: dict[str, Entry]) -> None:
    from kltui.tui.dialogs.job_form import ask_settings

    def check(new: dict[str, Entry]) -> str:
        source = _source_complaint(str(new["corpus"].get("source", "")))
        job_of(app.reader.path or Path(), entries, new["corpus"], new["scoring"], new["engine"])
        return source

    def done(new: dict[str, Entry]) -> None:
        offer(app, entries, new["corpus"], new["scoring"], new["engine"])

    ask_settings(app, tables, check, done)


def write_job(workspace: Path, text: str) -> Path:
    """Writes a job file under WORKSPACE/jobs and returns its path."""
    folder = workspace / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = next(
        p for n in range(1, 1000) if not (p := folder / f"{stamp}{'' if n == 1 else f'-{n}'}.toml").exists()
    )
    path.write_text(text, encoding="utf-8")
    return path


def _start(app: WorkspaceSession, path: Path, *, watch: bool = False) -> None:
    from kltui.jobs.jobfile import load_job
    from kltui.jobs.launch import start_detached

    async def start() -> None:
        try:
            workspace = Path(load_job(path).workspace)
            pid = await asyncio.to_thread(start_detached, path, watch=watch)
        except KltuiError as error:
            app.complain(error)
            return
        if app.reader.path is None:
            app.open_workspace(workspace)
        app.show_screen("jobs")
        app.say(f"started as process {pid}; it continues when you quit", "good")
        app.watch_closely()

    app.run_worker(start(), group="start")


def resume(app: WorkspaceSession, job: JobRow) -> None:
    """Runs a job again; checkpoints whose vectors are stored are skipped."""
    from kltui.jobs import launch

    path = app.reader.path
    assert path is not None

    async def again() -> None:
        try:
            await asyncio.to_thread(launch.resume, job, path)
        except KltuiError as error:
            app.complain(error)
            return
        again = "runs again to score new and missing checkpoints" if job.status == "done" else "continues"
        app.say(f"job {job.id} {again}", "good")
        app.watch_closely()

    app.run_worker(again(), group="start")


# -- adding -------------------------------------------------------------------------------------


def add_models(app: WorkspaceSession) -> None:
    """Asks for the kind of source, then for the folder, repository, preset or file."""
    if app.reader.path is None:
        app.say("open a workspace first: kltui WORKSPACE", "warning")
        return
    options = [
        ("folder", "a model, or a run: checkpoint-500, step1000 ... inside"),
        ("hub repository", "any causal language model, with revision patterns"),
        ("preset", "published runs: Pythia sizes and seeds, OLMo 2, SmolLM ..."),
        ("released vectors", "modelmap's releases, lm-evaluation-harness samples"),
        ("job file", "an existing job file"),
        ("on this map", "place one of your models among these"),
    ]
    asks = (_ask_folder, _ask_repo, _ask_preset, _ask_vectors, start_file, place_model)
    app.push_screen(
        prompts.ChoiceDialog("Add checkpoints from", options), lambda i: None if i is None else asks[i](app)
    )


def _ask_vectors(app: WorkspaceSession) -> None:
    from kltui.tui.dialogs.import_form import import_vectors

    import_vectors(app)


def _ask_folder(app: WorkspaceSession) -> None:
    from kltui.registry.discover import discover_runs

    def check(text: str) -> str:
        try:
            discover_runs(expanded(text).resolve())
        except KltuiError as error:
            return error.in_one_line
        return ""

    def answered(text: str | None) -> None:
        if text:
            _confirm_found(app, expanded(text).resolve())

    app.push_screen(
        prompts.Prompt(
            "Folder",
            "",
            check,
            hints=("A model folder, a run folder, or a folder of these.",),
            paths=True,
        ),
        answered,
    )


def add_path(app: WorkspaceSession, path: Path) -> None:
    """Starts the dialogs for a job on the checkpoints of a folder, or on a GGUF file."""
    from kltui.registry.gguf_entry import names_ggufs

    if names_ggufs(path, ()):
        _with_corpus(app, [{"path": str(path)}], *tables_for(app))
    else:
        _confirm_found(app, path)


def _confirm_found(app: WorkspaceSession, path: Path) -> None:
    from kltui.registry.discover import discover_runs

    runs = discover_runs(path)

    def add(*entries: Entry) -> None:
        corpus, scoring = tables_for(app)
        _with_corpus(app, entries, corpus, scoring)

    def answered(key: str | None) -> None:
        if key == "y":
            add(*({"path": str(folder)} for folder in runs))
        elif key == "e":
            from kltui.tui.dialogs.lineage_form import ask_entry

            (folder,) = runs
            ask_entry(app, {"path": str(folder)}, folder.name, add)

    title, text = _one_run(*next(iter(runs.items()))) if len(runs) == 1 else _several_runs(runs)
    change = (("e", "set run, seed, size ... first"),) if len(runs) == 1 else ()
    keys = (("y", "add"), *change, ("n", "no"))
    app.push_screen(prompts.TextDialog(title, prompts.reading(text, app.look("text")), keys=keys), answered)


def _one_run(folder: Path, found: Sequence[LocalFound]) -> tuple[str, str]:
    """(the question whether to add a run, a list of its checkpoints)."""
    lines = [f"{'' if f.step is None else f.step:>10}  {f.type:<12}  {f.path}" for f in found]
    these = "this checkpoint" if len(found) == 1 else f"these {len(found)} checkpoints"
    heading = f"{'step':>10}  {'type':<12}  folder"
    return f"Add {these} as run {safe_text(folder.name, 40)}?", "\n".join([heading, *lines])


def _several_runs(runs: Mapping[Path, Sequence[LocalFound]]) -> tuple[str, str]:
    """(the question whether to add the runs of a folder, a list of the runs with their numbers of checkpoints)."""
    lines = [f"{len(found):>11}  {found[-1].type:<12}  {folder}" for folder, found in runs.items()]
    n = sum(map(len, runs.values()))
    heading = f"{'checkpoints':>11}  {'type':<12}  folder"
    return f"Add these {len(runs)} runs with {n} checkpoints?", "\n".join([heading, *lines])


def _ask_repo(app: WorkspaceSession, repo: str = "", complaint: str = "") -> None:
    def check(text: str) -> str:
        from kltui.registry.names import check_repo

        try:
            check_repo(text.strip())
        except KltuiError as error:
            return error.in_one_line
        return ""

    hint = ("For example EleutherAI/pythia-410m. kltui looks up its revisions if the hub can be reached.",)
    prompt = prompts.Prompt("Repository", repo, check, hints=hint, complaint=complaint)

    def answered(text: str | None) -> None:
        if text:
            app.run_worker(_with_revisions(app, text.strip()), group="hub", exclusive=True)

    app.push_screen(prompt, answered)


async def _with_revisions(app: WorkspaceSession, repo: str) -> None:
    from kltui.registry.hub import revisions

    app.busy_with(f"looking up the revisions of {repo} …")
    names: list[str] = []
    try:
        names = await asyncio.to_thread(revisions, repo)
        shown = revisions_in_short(names)
    except TryAgainError as error:
        shown = f"Its revisions are unknown: {error.in_one_line}"
    except KltuiError as error:
        _ask_repo(app, repo, error.in_one_line)
        return
    finally:
        app.busy_with("")

    def answered(text: str | None) -> None:
        if text is not None:
            corpus, scoring = tables_for(app)
            entry = {"repo": repo, "revisions": meant_revisions(text, names) or ["main"]}
            _with_corpus(app, [entry], corpus, scoring)

    hints = (
        safe_text(shown, 300),
        "Patterns, separated by spaces: main  step{0,1,2,4}  step{1000..143000..1000}  step*",
    )
    prompt = prompts.Prompt(
        "Revisions", "main", lambda text: revisions_complaint(text, repo, names), hints=hints
    )
    app.push_screen(prompt, answered)


def revisions_in_short(names: Sequence[str]) -> str:
    """The number of revisions and their names; of more than 8, only the first 5 and the last 2.

    >>> revisions_in_short(["main"]), revisions_in_short([f"step{i}" for i in range(9)])
    ('1 revision: main', '9 revisions: step0, step1, step2, step3, step4 … step7, step8')
    """
    count = f"{len(names)} revision{'s' * (len(names) != 1)}"
    if len(names) <= 8:
        return f"{count}: {', '.join(names)}"
    return f"{count}: {', '.join(names[:5])} … {', '.join(names[-2:])}"


def meant_revisions(text: str, names: Sequence[str]) -> list[str]:
    """The patterns in `text`, those with * or ? replaced by the `names` that match.

    >>> meant_revisions("main step*", ["main", "step0", "step1"]), meant_revisions("step{0..9}", [])
    (['main', 'step0', 'step1'], ['step{0..9}'])
    """
    patterns = []
    for pattern in text.split():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        patterns += matching if matching and set("*?") & set(pattern) else [pattern]
    return list(dict.fromkeys(patterns))


def revisions_complaint(text: str, repo: str, names: Sequence[str]) -> str:
    """What is wrong with patterns of revisions, or ""; `names` are the repository's revisions, [] if unknown."""
    from kltui.registry.names import COMMIT
    from kltui.registry.revisions import expand_revisions

    patterns = meant_revisions(text, names)
    if wild := [p for p in patterns if set("*?") & set(p)]:
        return f"no known revision matches {wild[0]}" + (f". {revisions_in_short(names)}" if names else "")
    try:
        wanted = expand_revisions(patterns)
    except KltuiError as error:
        return error.in_one_line
    known = set(names)
    missing = [name for name in wanted if known and name not in known and not COMMIT.fullmatch(name)]
    if not missing:
        return ""
    more = f" and {len(missing) - 1} more of these" if len(missing) > 1 else ""
    return f"{repo} has no revision {missing[0]}{more}. {revisions_in_short(names)}"


def _ask_preset(app: WorkspaceSession) -> None:
    from kltui.registry.presets import PRESETS

    presets = list(PRESETS.values())
    words = prompts.aligned([(p.repo, p.note) for p in presets], app.look)
    options = [(p.name, text) for p, text in zip(presets, words, strict=True)]

    def chosen(index: int | None) -> None:
        if index is not None:
            corpus, scoring = tables_for(app)
            _with_corpus(app, [_preset_entry(presets[index])], corpus, scoring)

    app.push_screen(prompts.ChoiceDialog("Add which runs?", options), chosen)


def _preset_entry(preset: Preset) -> Entry:
    entry: Entry = {"repo": preset.repo, "revisions": list(preset.revisions), "run": preset.name}
    entry |= {"size": preset.size, "type": preset.type}
    return entry if preset.seed is None else entry | {"seed": preset.seed}
