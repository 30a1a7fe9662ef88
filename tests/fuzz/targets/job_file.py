"""Job files and `--set`: what is accepted says the same when it is written back, the rest is refused with its key."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from random import Random

import scratch
import tomli_w

from kltui.jobs.jobfile import JobFile, load_job, parse_job
from kltui.jobs.plan import _entry
from kltui.registry.entry import checkpoints_from_entry

LIBRARIES = ("tomllib",)
SET = b"#set "
WORDS = (
    b"workspace = ", b"[corpus]\n", b"[[models]]\n", b"[scoring]\n", b"[engine]\n", b"[[interpolations]]\n", b"source = ", b"sample = ",
    b"path = ", b"repo = ", b"revisions = ", b"quantization = ", b'"bnb-8bit"', b"run = ", b"seed = ", b"parent = ", b"tags = ",
    b"layers = ", b'"all"', b"dtype = ", b'"float16"', b"tokens = true\n", b"batch_tokens = ", b"device = ", b'"cuda:1"', b"kind = ",
    b'"ray"', b"workers = ", b"address = ", b"grid = [", b"base = ", b"others = ", b"nan", b"inf", b"1e400", b"9" * 40, b"-0",
    b"1979-05-27T07:32:00Z", b"'''", b'"""', b"\\u0000", b"\\U0010ffff", b"\\ud800", b"{0..99999}", b"{0,0}", b"{a,b}", b"..", b"~x/",
    SET + b"scoring.layers=", SET + b"models.0.run=", b"{ a = 1 }", b"a.b.c = 1\n",
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Reads it as a job file; a line that begins with `#set ` is an override of the command line."""
    overrides = [
        line.removeprefix(SET).decode(errors="replace") for line in data.split(b"\n") if line.startswith(SET)
    ]
    path = scratch.put("job.toml", data)
    job = scratch.answer(lambda: load_job(path, overrides))
    if job is None:
        return
    again = parse_job(tomllib.loads(job.to_toml()), "again")
    assert again == job and again.digest() == job.digest()
    _check_models(job)


def _check_models(job: JobFile) -> None:
    """Checkpoints of the hub have names of their own, as many as their revisions; folders are not looked into."""
    for model in job.models:
        if not model.path and model.repo:
            found = scratch.answer(lambda model=model: checkpoints_from_entry(_entry(model)))  # type: ignore[misc]
            assert found is None or len({c.name for c in found}) == len(found)


_VALUES = (0, -1, 1, 2**40, 2**70, 1.5, float("nan"), float("inf"), True, "", "x", "all", "demo", "\0", "a\nb", "~root/x", "x" * 5000,
           "{0..9}", "{0,0}{0,0}{0,0}", "step{1..3}", [], ["none"], ["a", "b"], [0, 1], [[1]], {}, {"a": 1}, [{}], [0.5, float("nan")])  # fmt: skip


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same job with a value replaced, left out or put under another key; where it is no TOML, a line changed."""
    lines = data.split(b"\n")
    sets = [line for line in lines if line.startswith(SET)]
    try:
        whole = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        whole = {}
    if not whole or random.random() < 0.4:
        which = random.randrange(len(lines))
        lines[which] = change(lines[which], len(lines[which]) + 24)
        return b"\n".join(lines)
    _change_value(whole, random)
    try:
        return tomli_w.dumps(whole).encode(errors="replace") + b"\n" + b"\n".join(sets)
    except (TypeError, ValueError):
        return data


def _change_value(whole: dict[str, object], random: Random) -> None:
    node = whole
    while random.random() < 0.7:
        below = [v for v in node.values() if isinstance(v, dict)]
        below += [
            v for values in node.values() if isinstance(values, list) for v in values if isinstance(v, dict)
        ]
        if not below:
            break
        node = random.choice(below)
    key = random.choice(list(node)) if node and random.random() < 0.8 else random.choice(_KEYS)
    if random.random() < 0.2:
        node.pop(key, None)
    else:
        node[key] = random.choice(_VALUES)


_KEYS = ("workspace", "corpus", "models", "interpolations", "scoring", "engine", "path", "repo", "revisions", "quantization", "sample",
         "layers", "dtype", "grid", "base", "others", "address", "device_map", "typo")  # fmt: skip


def seeds() -> dict[str, bytes]:
    """A small job, one with everything in it, and ones with mistakes."""
    small = b'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n'
    hub = b'workspace = "ws"\n[corpus]\nsource = "demo"\n[[models]]\nrepo = "a/b"\n'
    return {
        "small": small,
        "set": small + b"#set scoring.dtype=float16\n#set models.0.run=other\n#set corpus.sample=3\n",
        "set_odd": small + b"#set models.7.run=x\n#set workspace.a=1\n#set =\n#set scoring.layers=[0,2]\n",
        "full": small.replace(
            b'"run"',
            b'"run"\nrun = "tiny"\nseed = 1\nsize = "t"\ntype = "gpt_neox"\nparent = "p"\ntags = ["a"]',
        )
        + b'[scoring]\ndevice = "cuda:1"\ndtype = "bfloat16"\nbos = "never"\noverlong = "window"\nlayers = "all"\ntokens = true\n'
        b'batch_tokens = 100\nallow_bin = true\n[engine]\nkind = "ray"\nworkers = 2\naddress = "auto"\n',
        "hub": hub
        + b'revisions = ["step{0,1,2,4,8}", "step{1000..9000..1000}"]\nquantization = ["none", "bnb-fp4"]\n',
        "hub_same": hub + b'revisions = "{0,0}"\n',
        "hub_same_many": hub + b'revisions = "' + b"{0,0}" * 48 + b'"\n',
        "interpolations": small
        + b'[[interpolations]]\nbase = "run@0"\nothers = ["run@1", "x"]\ngrid = [0.0, 0.5, 1]\n',
        "mistakes": b'workspce = 1\n[corpus]\nsample = 0\n[[models]]\n[[models]]\npath = "a"\nrepo = "b"\n',
        "no_toml": b"workspace = ws\n",
        "no_text": b'workspace = "\xff"\n',
        "deep": b"a = " + b"[" * 3000,
        "odd_path": small.replace(b"run", b"~nobody-here/x"),
        "nul": small.replace(b"texts", b"a\\u0000b"),
    }
