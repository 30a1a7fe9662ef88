"""Export of a workspace as plain files: vectors as .npz, tables as CSV, the report as JSON, and other formats on request.

CSV is UTF-8 with a header and "\\n" line ends. Numbers have every digit of their float64. A field is empty, never 0, if the
value is undefined (NaN) or does not apply (the step of a model without steps). More than 2 million pairs are written as
kl.parquet, or kl.npz without pyarrow, instead of CSV; more than 200 million are left out. Text that begins with = + - or @
gets an apostrophe before it, so that spreadsheets do not evaluate it. Control characters in names are replaced by U+FFFD,
in the .npz and in the tables.
"""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from kltui.analysis.lineage import gguf_pairs
from kltui.analysis.loss import losses
from kltui.atomic_files import replacing_together
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError
from kltui.registry.names import NUMBERED_BY_STEP
from kltui.sanitize import csv_text, safe_text
from kltui.store.pair_values import CONDITIONAL
from kltui.store.saved_maps import Preparation
from kltui.view import formats, pair_files
from kltui.view.report import check_choice, checked, report_on, write_json
from kltui.view.sections.context import Context, ReportChoice, silent
from kltui.view.sections.variant_figures import variants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kltui.analysis.map import Map
    from kltui.store import VectorRow
    from kltui.workspace import Workspace

Row = Sequence[object]
CHECKPOINT_COLUMNS = (
    "name",
    "run",
    "step",
    "quantization",
    "seed",
    "size",
    "type",
    "parent",
    "tags",
    "source",
    "status",
    "layers",
    "mean_loglik_nats",
    "bits_per_byte",
    "bits_per_byte_se",
    "error",
    "colour",
)


def export(
    ws: Workspace,
    folder: Path,
    preprocess: str = "none",
    notify: Callable[[str], None] = silent,
    *,
    choice: ReportChoice | None = None,
    also: Sequence[str] = (),
) -> list[Path]:
    """Writes the export into `folder`, which is created if missing, and returns the paths; all files are written, or none.

    loglik.npz, kl.csv, consecutive.csv, diffusion.csv and coordinates.csv are of the final vectors after `preprocess` (or
    after `choice`, which takes precedence). checkpoints.csv has every registered checkpoint with its raw vector, tree.nwk the
    tree of neighbour joining of three or more models, layers.npz the raw layer vectors, if any. Missing weight distances are
    computed if the files are available. `also` names further formats: "parquet", "modelmap". Raises KltuiError if nothing
    is scored, or, before anything is computed, if `folder` cannot be written.
    """
    _check_folder(folder)
    ctx = Context(ws, choice or ReportChoice(Preparation(checked(preprocess))), notify)
    check_choice(ctx)
    # raises an error before anything is written if nothing is scored or the preprocessing is impossible
    for sentence in (*ctx.left_out_words, *ctx.repeats_words):
        notify(sentence)
    writers: dict[str, Callable[[Path], None]] = {"loglik.npz": lambda path: _write_npz(ctx, path)}
    if any(row.layers for row in ctx.rows) and any(point.layer is not None for point in ctx.layered.points):
        writers["layers.npz"] = lambda path: _write_layers(ctx, path)
    for name, (columns, rows) in _tables(ctx).items():
        writers[name] = lambda path, c=columns, r=rows: _write_csv(path, c, r(ctx))  # type: ignore[misc]
    if pair_files.are_many(ctx.map):
        del writers["kl.csv"]
        form = "" if pair_files.are_too_many(ctx.map) else pair_files.form()
        notify(pair_files.form_words(ctx.map, form) if form else pair_files.none_words(ctx.map))
        if form:
            writers[form] = lambda path: pair_files.write(ctx.map, path, partial(ctx.tell, "KL of all pairs"))
    if (tree := _newick(ctx)) is not None:
        writers["tree.nwk"] = lambda path: _write_text(path, tree)
    writers["report.json"] = lambda path: _write_json(ctx, path)
    return _written(folder, writers | _others(ctx, also), notify)


def _newick(ctx: Context) -> str | None:
    """The tree of neighbour joining in Newick format; None if the map has too few models."""
    from kltui.analysis.tree import newick

    try:
        found = ctx.forest
    except KltuiError:
        return None
    return newick(found.trees.joined, [safe_text(name) for name in found.leaves.names])


def _others(ctx: Context, also: Sequence[str]) -> dict[str, Callable[[Path], None]]:
    """{file: writer} for the further formats `also`. Raises KltuiError if pyarrow is missing."""
    writers: dict[str, Callable[[Path], None]] = {}
    if "parquet" in also:
        formats.check_parquet()
        writers["loglik.parquet"] = lambda path: formats.write_parquet_vectors(path, ctx.map)
        for name, (columns, rows) in _tables(ctx).items():
            if name == "kl.csv" and pair_files.are_many(ctx.map):
                continue  # already written as Parquet
            writers[f"{Path(name).stem}.parquet"] = lambda path, c=columns, r=rows: (
                formats.write_parquet_table(  # type: ignore[misc]
                    path, c, r(ctx)
                )
            )
    if "modelmap" in also:
        writers["logp.npz"] = lambda path: _write_modelmap(ctx, path)
    return writers


def _write_modelmap(ctx: Context, path: Path) -> None:
    with path.open("wb") as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        # in the format of numpy.savez, which takes names as keywords and therefore rejects some
        for name, loglik_N in formats.modelmap_arrays(ctx.map).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, loglik_N, allow_pickle=False)
        archive.comment = NUMBERED_BY_STEP
    with path.open("rb+") as written:
        _fsynced(written.fileno())


def _check_folder(folder: Path) -> None:
    """Raises KltuiError if no file can be made in `folder`; leaves nothing behind."""
    try:
        with replacing_together(folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> KltuiError:
    return KltuiError(
        f"cannot write to {safe_text(str(folder))}: {error.strerror}",
        "Choose a folder that you may write to.",
    )


def _written(
    folder: Path, writers: dict[str, Callable[[Path], None]], notify: Callable[[str], None]
) -> list[Path]:
    """Writes every file to a temporary folder, then moves all into `folder`; old files of pairs in another format are removed."""
    gone = [name for name in pair_files.FORMS if name not in writers]
    for name in writers:
        if (folder / name).is_dir():
            raise KltuiError(
                f"cannot write {safe_text(str(folder / name))}: {name} is a folder",
                "Remove it, or choose another folder.",
            )
    writing = False
    try:
        with replacing_together(folder, gone) as aside:
            writing = True
            for name, write in writers.items():
                notify(f"writing {name}")
                write(aside / name)
    except OSError as error:
        if not writing:
            raise _unwritable(folder, error) from error
        raise KltuiError(
            f"export to {folder} failed: {error.strerror}", "Free some space there, or choose another folder."
        ) from error
    return [folder / name for name in writers]


def _write_npz(ctx: Context, path: Path) -> None:
    shown = ctx.map
    unknown = np.broadcast_to(np.int32(-1), shown.loglik_KN.shape)
    _write_vectors(
        path,
        ctx,
        shown,
        text_sha256=_text_digests(ctx),
        preprocess=np.array(_mode(shown.record.get("preprocess")), dtype=np.str_),
        n_scored=unknown if shown.n_scored_KN is None else shown.n_scored_KN,
    )


def _write_vectors(path: Path, ctx: Context, shown: Map, *, layers: bool = False, **more: Any) -> None:
    """Writes the vectors of a map: `loglik` (K x N float64, nats), `names`, `text_bytes`, and the `keys` and `settings` of each."""
    record = shown.record
    rows = ctx.ws.vectors(
        names=None if layers else shown.names,
        layers=layers,
        corpus=str(record["corpus"]),
        settings=str(record["settings"]),
    )
    keys, settings = _keys([rows[name] for name in shown.names], record.get("values"))
    with path.open("wb") as file:
        np.savez(
            file,
            loglik=shown.loglik_KN,
            names=np.array([safe_text(name) for name in shown.names], dtype=np.str_),
            text_bytes=shown.text_bytes_N,
            keys=keys,
            settings=settings,
            **more,
        )
        _fsynced(file.fileno())


def _keys(rows: Sequence[VectorRow], values: object = None) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """(keys as JSON objects, settings) of K vectors, from which an import knows how they were scored.

    `values`: for pairs, which log-likelihoods the map uses, unless those of responses to their prompts.
    """
    if values:
        keys = [json.dumps({**r.key_fields, "values": values}, sort_keys=True) for r in rows]
        return np.array(keys, np.str_), np.array([f"{r.settings} values={values}" for r in rows], np.str_)
    return np.array([r.key for r in rows], np.str_), np.array([r.settings for r in rows], np.str_)


def _write_layers(ctx: Context, path: Path) -> None:
    """Writes the raw layer vectors, `loglik` (M x N float64, nats), with `names` run@step#k."""
    layered = ctx.layered
    found = layered.select([k for k, point in enumerate(layered.points) if point.layer is not None])
    _write_vectors(path, ctx, found, layers=True)


def _mode(applied: object) -> str:
    """The preprocessing mode of a map's vectors."""
    return str(applied.get("mode", "none")) if isinstance(applied, dict) else "none"


def _text_digests(ctx: Context) -> NDArray[np.bytes_]:
    """SHA-256 of every text in use as 64 hexadecimal digits, by which an import identifies the corpus."""
    sha256, kept = str(ctx.map.record["corpus"]), ctx.map.text_index
    texts, prompts = ctx.ws.texts(sha256), ctx.ws.prompts(sha256)
    used = Corpus(tuple(texts[i] for i in kept), prompts=tuple(prompts[i] for i in kept) if prompts else ())
    return np.array([digest.hex() for digest in used.digests], dtype="S64")


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([csv_field(value) for value in row] for row in rows)
        _flushed(file)


def _write_json(ctx: Context, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        write_json(report_on(ctx), file)
        _flushed(file)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        _flushed(file)


def _flushed(file: TextIO) -> None:
    file.flush()
    _fsynced(file.fileno())


def _fsynced(descriptor: int) -> None:
    os.fsync(descriptor)


def csv_field(value: object) -> str:
    """A CSV field: floats with all their digits, "" for undefined or absent values."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        number = float(value)
        return repr(number) if math.isfinite(number) else ""
    return csv_text(value) if isinstance(value, str) else str(value)


def _checkpoint_rows(ctx: Context) -> Iterator[Row]:
    loss_of = {x.name: x for x in losses(ctx.raw)}
    colours = ctx.ws.type_colours()
    as_scored = ctx.ws.values == CONDITIONAL
    mean_of = dict(zip(ctx.raw.names, ctx.raw.mean_loglik.tolist(), strict=True))
    for row in ctx.rows:
        c, loss = row.checkpoint, loss_of.get(row.name)
        yield (
            row.name,
            c.run,
            c.step,
            c.quantization,
            c.seed,
            c.size,
            c.type,
            c.parent,
            " ".join(c.tags),
            str(c.source),
            row.status,
            row.layers,
            row.mean_loglik if as_scored else mean_of.get(row.name),
            loss.bits_per_byte if loss else None,
            loss.se if loss else None,
            row.error,
            colours.get(c.type, ""),
        )


def _kl_rows(ctx: Context) -> Iterator[Row]:
    """The rows of kl.csv: every pair of final vectors once, in the map's order."""
    names, kl, se = ctx.map.names, ctx.map.kl(), ctx.map.kl_se()
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            yield a, names[j], kl[i, j], se[i, j]


def _consecutive_rows(ctx: Context) -> Iterator[Row]:
    for run, pairs in ctx.consecutive.items():
        for c in pairs:
            yield run, c.step_from, c.step_to, c.kl, c.se


def _diffusion_rows(ctx: Context) -> Iterator[Row]:
    for e in ctx.exponents:
        yield e.run, e.start, e.c_q, e.r2_q, e.c_w, e.r2_w


def _weight_rows(ctx: Context) -> Iterator[Row]:
    """Squared weight distances within runs, earlier step first, then those of adapters to their bases, without step_from."""
    known = {row.name: row.checkpoint for row in ctx.rows}
    for (a, b), sqdist in ctx.weight_sqdist.items():
        start, end = known[a].step, known[b].step
        if start is not None and end is not None and start < end:
            yield known[a].run, start, end, sqdist
    for (_, adapter), sqdist in ctx.ws.adapter_distances().items():
        if adapter in known:
            yield known[adapter].run, None, known[adapter].step, sqdist


def _coordinate_rows(ctx: Context) -> Iterator[Row]:
    """Coordinates of every vector by each possible method: x, y, z by PCA and MDS, x, y by t-SNE.

    t-SNE in three dimensions is a separate embedding, with the method "tsne-3d".
    """
    by_method: dict[str, NDArray[np.float64]] = dict(ctx.pictures.items())
    if ctx.tsne_in_space is not None:
        by_method["tsne-3d"] = ctx.tsne_in_space.xyz_Kd
    for method, xyz in (*by_method.items(), *ctx.released_pictures.items()):
        for name, place in zip(ctx.map.names, xyz, strict=True):
            if np.isfinite(place).all():
                yield name, method, *place, *([None] * (3 - len(place)))


def _variant_rows(ctx: Context) -> Iterator[Row]:
    """Every quantised variant with its model, and with their exact KL if it has been computed."""
    for v in variants(ctx):
        exact = v.exact.forward if v.exact else None
        yield (
            v.model, v.name, v.quantization, v.kl.value, v.kl.se,
            exact.nats_per_token if exact else None, exact.nats_per_token_se if exact else None,
            exact.high_nats if exact else None, v.exact.top1_agreement if v.exact else None,
            v.bits_per_weight, v.weight_sqdist,
        )  # fmt: skip


def _tables(ctx: Context) -> dict[str, Table]:
    """The tables of an export by file name; that of variants only if the map has GGUF files."""
    return _TABLES | (_OF_VARIANTS if gguf_pairs(ctx.map.points) else {})


Table = tuple[Sequence[str], Callable[[Context], Iterable[Row]]]
VARIANT_COLUMNS = (
    "model",
    "variant",
    "quantization",
    "kl_bits_per_byte",
    "se",
    "exact_nats_per_token",
    "exact_nats_per_token_se",
    "exact_99_nats",
    "top1_agreement",
    "bits_per_weight",
    "weight_sqdist",
)
_OF_VARIANTS: dict[str, Table] = {"quantisation.csv": (VARIANT_COLUMNS, _variant_rows)}
_TABLES: dict[str, Table] = {
    "checkpoints.csv": (CHECKPOINT_COLUMNS, _checkpoint_rows),
    "kl.csv": (("a", "b", "kl_bits_per_byte", "se"), _kl_rows),
    "consecutive.csv": (("run", "step_from", "step_to", "kl_bits_per_byte", "se"), _consecutive_rows),
    "diffusion.csv": (("run", "start", "c_q", "r2_q", "c_w", "r2_w"), _diffusion_rows),
    "weights.csv": (("run", "step_from", "step_to", "sqdist"), _weight_rows),
    "coordinates.csv": (("name", "method", "x", "y", "z"), _coordinate_rows),
}
