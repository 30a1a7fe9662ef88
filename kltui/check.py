"""`kltui --check`: every row and file of a workspace checked against its checksum, and what to do about damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kltui.errors import KltuiError
from kltui.json_schema import JSON_SCHEMA
from kltui.sanitize import safe_text
from kltui.store.check import Counts, Damage, check_store
from kltui.store.mend import mend

DAMAGED = 3


def check(folder: Path, *, as_json: bool = False, mending: bool = False) -> int:
    """Prints on stdout what is damaged in a workspace; returns 0 if nothing is, otherwise 3.

    `mending`: first removes damaged data. Raises StoreError if there is no workspace or, with `mending`, if
    another process writes to it.
    """
    done = mend(folder) if mending else []
    counts = Counts()
    found = [*check_store(folder, counts), *_inbox(folder, counts)]
    if as_json:
        print(json.dumps(_as_json(found, counts, done), indent=2))  # noqa: T201
    else:
        print("\n".join([*done, *_lines(found, counts)]))  # noqa: T201
    return DAMAGED if found else 0


def _as_json(found: list[Damage], counts: Counts, done: list[str]) -> dict[str, object]:
    return {
        "schema": JSON_SCHEMA,
        "sound": not found,
        "damaged": [asdict(damage) for damage in found],
        "read": asdict(counts),
        "mended": done,
    }


def _lines(found: list[Damage], counts: Counts) -> Iterator[str]:
    for damage in found:
        yield f"damaged: {damage.where}: {damage.name}: {damage.seen}"
        yield f"  {damage.advice}"
    state = f"{len(found)} damaged" if found else "sound"
    yield (
        f"{state}: read {counts.rows} rows, including {counts.texts} texts and {counts.vectors} vectors,"
        f" and {counts.files} other files"
    )
    if counts.schema and not counts.rows:
        yield (
            f"note: schema {counts.schema} has no checksums of rows; the next job, import or draw in the workspace"
            " adds them"
        )


def _inbox(folder: Path, counts: Counts) -> Iterator[Damage]:
    """Damaged result files of shards that have not been collected yet; counts all of them."""
    from kltui.jobs.shard import INBOX
    from kltui.jobs.shard_result import check

    for path in sorted((folder / INBOX).glob("*.safetensors")):
        counts.files += 1
        try:
            check(path)
        except KltuiError as error:
            seen = safe_text(error.message, 200)
            yield Damage(
                INBOX, safe_text(path.name, 80), seen, "delete it and run its shard of the job again"
            )
