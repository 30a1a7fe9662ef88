-- A workspace as written under schema 2. Made once; never to be changed.
PRAGMA application_id = 1802269813;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE benchmark_score (
    name TEXT NOT NULL,
    task TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (name, task)
) STRICT;
INSERT INTO "benchmark_score" VALUES('tiny','arc',12.5);
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
INSERT INTO "checkpoint" VALUES(1,'tiny@3','tiny',3,'local','/models/tiny','','','none',1,'','','','["x", "y"]','w1');
INSERT INTO "checkpoint" VALUES(2,'tiny@5','tiny',5,'local','/models/tiny','','','none',1,'','','','["x", "y"]','w2');
CREATE TABLE corpus (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    n INTEGER NOT NULL,
    source TEXT NOT NULL,
    record TEXT NOT NULL,
    created REAL NOT NULL,
    text_bytes BLOB NOT NULL
) STRICT;
INSERT INTO "corpus" VALUES(1,'72c4f53bc715ba8cdc84468dcd1951298330678f3564d6158855373410e4a783',4,'texts.json','{"seed": 42}',1.79547713501983022691e+09,X'0300000000000000050000000000000008000000000000000000000000000000');
CREATE TABLE fingerprint (
    path TEXT PRIMARY KEY,
    signature TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;
INSERT INTO "fingerprint" VALUES('/models/tiny','seen','w1');
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
INSERT INTO "job" VALUES(1,'digest','workspace = ''x''
','queued',1.79547713502414393428e+09,NULL,NULL,NULL,'','','');
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
INSERT INTO "job_item" VALUES(1,1,0,'queued','',0,0,0,0,NULL,NULL,0,'','','{}');
INSERT INTO "job_item" VALUES(1,2,1,'queued','',0,0,0,0,NULL,NULL,0,'','','{}');
CREATE TABLE record (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    created REAL NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
INSERT INTO "record" VALUES('map','before',1795477135.5,'{"a": "y"}');
CREATE TABLE side_file (
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoint(id) ON DELETE CASCADE,
    corpus_id INTEGER NOT NULL REFERENCES corpus(id),
    kind TEXT NOT NULL,
    settings TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (checkpoint_id, corpus_id, kind, settings)
) STRICT;
CREATE TABLE text (
    corpus_id INTEGER NOT NULL REFERENCES corpus(id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    domain TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (corpus_id, idx)
) STRICT;
INSERT INTO "text" VALUES(1,0,'a',X'6F6E65');
INSERT INTO "text" VALUES(1,1,'b',X'7A77656900');
INSERT INTO "text" VALUES(1,2,'a',X'7472C3AA7320C3A9');
INSERT INTO "text" VALUES(1,3,'',X'');
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
INSERT INTO "vector" VALUES(1,1,1,-1,'cf134edc0f8962b7831f8ed321f1bc4050053e92a09635850f6e3767103654c0','{"bos": "auto", "weights": "w1"}','w1','bos=auto',NULL,1.79547713502032518385e+09,-2.41666666671666679382e+10,1,1612346826,X'000000000000F8BF000000000000F87F59F3F8C21F6EA5810000003556E130C2',X'00000000010000000200000003000000');
INSERT INTO "vector" VALUES(2,1,1,0,'cf134edc0f8962b7831f8ed321f1bc4050053e92a09635850f6e3767103654c0','{"bos": "auto", "weights": "w1"}','w1','bos=auto',NULL,1.79547713502152705197e+09,-2.41666666671666679382e+10,1,1612346826,X'000000000000F8BF000000000000F87F59F3F8C21F6EA5810000003556E130C2',X'00000000010000000200000003000000');
INSERT INTO "vector" VALUES(3,2,1,-1,'83a0df3bb5c3f1686763bf8d51fb7a1e8a89b3c3d94cffcba1ee5a0f851cff3f','{"bos": "auto", "weights": "w2"}','w2','bos=auto',NULL,1.79547713502343440059e+09,-2.41666666671666679382e+10,1,1612346826,X'000000000000F8BF000000000000F87F59F3F8C21F6EA5810000003556E130C2',X'00000000010000000200000003000000');
CREATE TABLE weight_distance (
    a_weights TEXT NOT NULL,
    b_weights TEXT NOT NULL,
    sqdist REAL NOT NULL,
    n_params INTEGER NOT NULL,
    PRIMARY KEY (a_weights, b_weights)
) STRICT;
INSERT INTO "weight_distance" VALUES('w1','w2',1.25,7);
CREATE TABLE writer (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot TEXT NOT NULL,
    started REAL NOT NULL,
    heartbeat REAL NOT NULL
) STRICT;
CREATE INDEX vector_by_corpus ON vector (corpus_id, settings, layer);
CREATE INDEX vector_by_checkpoint ON vector (checkpoint_id, layer, weights, mean_loglik);
COMMIT;
