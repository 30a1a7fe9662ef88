"""A small store with rows in every table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kltui.corpus import Corpus
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store

TEXTS = Corpus(("one", "zwei", "três é", ""), domains=("a", "b", "a", ""), record={"seed": 42})

SHA_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def fill(folder: Path) -> None:
    """A workspace with rows in every table."""
    store = Store.write(folder)
    with store.atomic():
        corpus = store.corpora.add(TEXTS, "texts.json")
        ids = []
        for step in range(3):
            cid = store.checkpoints.upsert(
                Checkpoint("run", LocalSource(Path("/m")), step, seed=1, tags=("x",))
            )
            store.checkpoints.set_weights(cid, f"w{step}")
            for layer in (None, 0):
                numbers = np.array([-1.5, -2.25 - step, np.nan, -3.0 * step])
                key = {"weights": f"w{step}", "bos": "auto", "layers": "all"}
                counts = np.arange(4, dtype=np.int32)
                store.vectors.put(cid, corpus, layer, key, "bos=auto", numbers, counts, None)
            ids.append(cid)
        job = store.jobs.register("digest", "workspace = 'x'", ids, Path("log"))
        store.jobs.start(job)
        store.jobs.item_done(job, ids[0], {"tokens": 3.0}, 4)
        store.jobs.finish(job, "done", "3 done")
        (folder / "tokens").mkdir()
        (folder / "tokens" / "a").write_bytes(b"")
        store.side_files.put(ids[0], corpus, "tokens", "bos=auto", "tokens/a", SHA_OF_NOTHING)
        store.weight_distances.put({("w0", "w1"): 1.5, ("w1", "w2"): 2.5}, 7)
        store.fingerprints.put(Path("/m"), "seen", "w0")
        store.benchmark_scores.put({"run@0": {"arc": 25.5, "mmlu": 30.0}})
        store.records.put("draw", "d", {"corpus": "x"})
    store.close()
