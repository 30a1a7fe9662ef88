"""The database schema as numbered migrations: `PRAGMA user_version` counts those applied."""

from __future__ import annotations

import functools
import sqlite3

from kltui.errors import StoreError
from kltui.sanitize import safe_text
from kltui.store.checksums import seal_all

APPLICATION_ID = 0x6B6C7475  # "kltu"

_V1 = """
CREATE TABLE corpus (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    n INTEGER NOT NULL,
    source TEXT NOT NULL,
    record TEXT NOT NULL,
    created REAL NOT NULL,
    text_bytes BLOB NOT NULL
) STRICT;

CREATE TABLE text (
    corpus_id INTEGER NOT NULL REFERENCES corpus(id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    domain TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (corpus_id, idx)
) STRICT;

CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL,
    step INTEGER,
    kind TEXT NOT NULL CHECK (kind IN ('local', 'hub', 'import')),
    location TEXT NOT NULL,
    revision TEXT NOT NULL,
    commit_hash TEXT NOT NULL,
    quantization TEXT NOT NULL,
    seed INTEGER,
    size TEXT NOT NULL,
    type TEXT NOT NULL,
    parent TEXT NOT NULL,
    tags TEXT NOT NULL,
    weights TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    toml TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'paused', 'done', 'failed', 'stopped')),
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    pid INTEGER,
    host TEXT NOT NULL DEFAULT '',
    log TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE job_item (
    job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoint(id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed')),
    stage TEXT NOT NULL DEFAULT '',
    texts_done INTEGER NOT NULL DEFAULT 0,
    texts_total INTEGER NOT NULL DEFAULT 0,
    tokens_done INTEGER NOT NULL DEFAULT 0,
    tokens_total INTEGER NOT NULL DEFAULT 0,
    started REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    hint TEXT NOT NULL DEFAULT '',
    stats TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (job_id, checkpoint_id)
) STRICT;

CREATE TABLE vector (
    id INTEGER PRIMARY KEY,
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoint(id) ON DELETE CASCADE,
    corpus_id INTEGER NOT NULL REFERENCES corpus(id),
    layer INTEGER NOT NULL,
    key_hash TEXT NOT NULL,
    key TEXT NOT NULL,
    weights TEXT NOT NULL,
    settings TEXT NOT NULL,
    job_id INTEGER,
    created REAL NOT NULL,
    mean_loglik REAL,
    n_unscored INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    loglik BLOB NOT NULL,
    n_scored BLOB NOT NULL,
    UNIQUE (checkpoint_id, corpus_id, layer, key_hash)
) STRICT;
CREATE INDEX vector_by_corpus ON vector (corpus_id, settings, layer);

CREATE TABLE side_file (
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoint(id) ON DELETE CASCADE,
    corpus_id INTEGER NOT NULL REFERENCES corpus(id),
    kind TEXT NOT NULL,
    settings TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (checkpoint_id, corpus_id, kind, settings)
) STRICT;

CREATE TABLE weight_distance (
    a_weights TEXT NOT NULL,
    b_weights TEXT NOT NULL,
    sqdist REAL NOT NULL,
    n_params INTEGER NOT NULL,
    PRIMARY KEY (a_weights, b_weights)
) STRICT;

CREATE TABLE fingerprint (
    path TEXT PRIMARY KEY,
    signature TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;

CREATE TABLE writer (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot TEXT NOT NULL,
    started REAL NOT NULL,
    heartbeat REAL NOT NULL
) STRICT;
"""

# Benchmark scores by checkpoint or run; records: named JSON objects of several kinds ("map", "draw"). With the index, the
# list of checkpoints is read without the pages that contain the vectors' values.
_V2 = """
CREATE TABLE benchmark_score (
    name TEXT NOT NULL,
    task TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (name, task)
) STRICT;

CREATE TABLE record (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    created REAL NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE INDEX vector_by_checkpoint ON vector (checkpoint_id, layer, weights, mean_loglik);
"""

# Every row has a checksum. The ledger has the number of rows of every table and their combined checksum, which reveals lost
# rows. Checksums of vectors have a separate table, because reading a column behind the values would read the values too.
# The wide index has all columns of a vector except its values.
_V3 = """
ALTER TABLE checkpoint ADD COLUMN tokenizer TEXT NOT NULL DEFAULT '';

ALTER TABLE corpus ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE text ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoint ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_item ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE side_file ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE weight_distance ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fingerprint ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE benchmark_score ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE record ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;

CREATE TABLE vector_checksum (
    vector_id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE ledger (
    name TEXT PRIMARY KEY,
    n INTEGER NOT NULL,
    total INTEGER NOT NULL
) STRICT;

DROP INDEX vector_by_checkpoint;
CREATE INDEX vector_facts ON vector (
    checkpoint_id, layer, weights, mean_loglik, corpus_id, settings, key_hash, key, job_id, created, n_unscored, crc
);
"""

MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3)
CHECKED_SINCE = 3  # from this schema on every row has a checksum

# Tables that SQLite adds when a user runs ANALYZE.
_STATISTICS = {"sqlite_stat1", "sqlite_stat4"}


def migrate(db: sqlite3.Connection) -> None:
    """Migrates `db` to the newest schema, each migration in its own transaction. Raises StoreError."""
    while (version := check_version(db)) < len(MIGRATIONS):
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{MIGRATIONS[version]}")
            # Existing rows have no checksums yet.
            if version + 1 == CHECKED_SINCE:
                seal_all(db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            # Another process that started at the same moment may have done it.
            if check_version(db) == version:
                raise


@functools.cache
def _expected(version: int) -> frozenset[tuple[str, str, str]]:
    """(type, name, SQL) of every table and index of that version of the schema."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript("".join(MIGRATIONS[:version]))
    found = _objects(made)
    made.close()
    return found


def _objects(db: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    rows = db.execute("SELECT type, name, COALESCE(sql, '') FROM sqlite_master").fetchall()
    # In a damaged database, text may be bytes or NULL.
    return frozenset((str(kind), str(name), " ".join(str(sql).split())) for kind, name, sql in rows)


def check_schema(db: sqlite3.Connection, version: int) -> None:
    """Raises StoreError unless the database has exactly the tables and indexes of that version of the schema.

    A foreign view, trigger or generated column could run SQL whenever a table is read.
    """
    found, expected = _objects(db), _expected(version)
    # The error names first what could run code.
    rank = {"trigger": 0, "view": 1, "table": 2, "index": 3}
    odd = [entry for entry in found - expected if entry[1] not in _STATISTICS]
    odd.sort(key=lambda entry: (rank.get(entry[0], 4), entry))
    missing = sorted(expected - found)
    if not odd and not missing:
        return
    if odd and odd[0][:2] not in {entry[:2] for entry in missing}:
        what = (
            f"contains the {safe_text(odd[0][0], 20)} {safe_text(odd[0][1], 80)}, which kltui did not create"
        )
    else:
        what = f"does not contain the {missing[0][0]} {missing[0][1]} as kltui created it"
    raise StoreError(
        f"the workspace's database {what}",
        "It was altered by another program or is damaged: use an older copy, and add nothing to kltui.sqlite.",
    )


def show_as_newest(db: sqlite3.Connection) -> None:
    """Makes an older schema look like the newest to this connection: later tables are empty, later columns have defaults."""
    (confined,) = db.execute("PRAGMA query_only").fetchone()
    db.execute("PRAGMA query_only = OFF")
    newest = sqlite3.connect(":memory:", isolation_level=None)
    newest.executescript("".join(MIGRATIONS))
    for (table,) in newest.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = newest.execute("SELECT name, dflt_value FROM pragma_table_info(?)", (table,)).fetchall()
        here = {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        later = [f"{default or 'NULL'} AS {name}" for name, default in columns if name not in here]
        if not later:
            continue
        # A temporary view hides the table of the same name, for this connection only.
        of = f"rowid, *, {', '.join(later)} FROM main.{table}" if here else f"{', '.join(later)} WHERE 0"
        db.execute(f"CREATE TEMP VIEW {table} AS SELECT {of}")
    newest.close()
    db.execute(f"PRAGMA query_only = {confined}")


def check_version(db: sqlite3.Connection) -> int:
    """The number of applied migrations. Raises StoreError for a file that is not kltui's, or of a newer schema."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and (application or version):
        raise StoreError(
            "this SQLite file was not made by kltui",
            "Use another folder, or move the file kltui.sqlite away.",
        )
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the workspace has schema {version}, this version of kltui supports schemas up to {len(MIGRATIONS)}",
            "It was written by a newer kltui: install that version, with pip install . in its folder.",
        )
    return int(version)
