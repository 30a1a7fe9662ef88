"""One module a target: `one_input` holds the property, `seeds` where the search starts from.

A target may also have `mutate(data, random, change)`, which changes an input within its form (`change(piece, most)` is
the fuzzer's own change of some bytes), `WORDS` that are worth trying, `LIBRARIES` to be covered beside kltui, and a `MAX_INPUT`
of its own.
"""

from __future__ import annotations

NAMES = (
    "pickles",
    "npz",
    "jsonl",
    "header",
    "inbox",
    "job_file",
    "store_image",
    "terminal_input",
)
