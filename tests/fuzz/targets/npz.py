"""Arrays of an .npz: what is taken in are its numbers, and exported again under the same names it is the same again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from random import Random

import numpy as np
import scratch

from kltui.importers.imported import Imported
from kltui.importers.read import read

LIBRARIES = ("zipfile",)
WORDS = (
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"'descr': '<f8'", b"'|O'",
    b"'<f4'", b"'<U20'", b"'>i2'", b"'|S3'", b"'fortran_order': True", b"'shape': (2, 3), ", b"(1000000000000,)", b"()",
    b"loglik.npy", b"names.npy", b"n_scored.npy", b"text_bytes.npy",
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Reads it as vectors."""
    path = scratch.put("loglik.npz", data)
    scratch.answer(lambda: read(path))
    found = scratch.answer(lambda: read(path, "steps"))
    if found is None or not found.vectors:
        return
    names = [v.point.name for v in found.vectors]
    for v in found.vectors:
        assert v.loglik.dtype == np.float64 and v.loglik.shape == (found.n_texts,)
        assert not np.isinf(v.loglik).any()
        assert v.n_scored is None or v.n_scored.shape == v.loglik.shape
    if any("%" in name for name in names):  # encoded once more, for another model might have the encoded name
        return
    again = read(scratch.put("again.npz", _exported(found)))
    assert [v.point for v in again.vectors] == [v.point for v in found.vectors]
    for v, w in zip(found.vectors, again.vectors, strict=True):
        np.testing.assert_array_equal(v.loglik, w.loglik)


def _exported(found: Imported) -> bytes:
    """The same vectors as kltui exports them."""
    out = io.BytesIO()
    names = np.array([v.point.name for v in found.vectors])
    np.savez(out, loglik=np.stack([v.loglik for v in found.vectors]), names=names)
    return out.getvalue()


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same archive with a member left out, repeated, renamed or changed, its checksums right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = [(info.filename, file.read(info)) for info in file.infolist()]
    except Exception:  # as damaged archives do: any
        return change(data, len(data) + 64)
    if not members:
        return change(data, len(data) + 64)
    which, kind = random.randrange(len(members)), random.randrange(6)
    name, body = members[which]
    if kind == 0:
        del members[which]
    elif kind == 1:
        members.append(random.choice(members))
    elif kind == 2:
        members[which] = random.choice(members)[0], body
    elif kind == 3:
        members[which] = change(name.encode(), len(name) + 12).decode(errors="replace"), body
    else:
        members[which] = name, change(body, len(body) + 32)
    return _zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _zipped(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    names = set()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, body in members:
            name = name.partition("\0")[0]
            while name in names:
                name += "_"
            names.add(name)
            file.writestr(zipfile.ZipInfo(name), body, how)
    return out.getvalue()


def _saved(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def seeds() -> dict[str, bytes]:
    """Both layouts, empty and odd ones, and claims that no machine can hold."""
    x = np.linspace(-900.0, -300.0, 12).reshape(3, 4)
    x[1, 1] = np.nan
    names = np.array(["410m@1000", "m+bnb-8bit", "other@0"])
    counts = np.full(x.shape, 7, np.int32)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    large = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return {
        "matrix": _saved(loglik=x, names=names, n_scored=counts, text_bytes=np.full(4, 900)),
        "float32": _saved(loglik=x.astype("f4"), names=names),
        "layers": _saved(loglik=x, names=np.array(["m@1#0", "m@1#1", "m@1"])),
        "twice": _saved(loglik=x, names=np.array(["m@1", "m@1", "m@2"])),
        "by_name": _saved(**{"410m/1000": x[0], "m+bnb-8bit/5": x[1], "other": x[2]}),
        "one_name": _saved(loglik=x[:1], names=np.array("m")),
        "no_texts": _saved(loglik=x[:, :0], names=names),
        "nothing": _saved(),
        "infinite": _saved(loglik=x * np.inf, names=names),
        "large_counts": _saved(loglik=x, names=names, n_scored=np.full(x.shape, 2**40)),
        "counts_no_numbers": _saved(loglik=x, names=names, n_scored=counts.astype("U3")),
        "large_claim": _zipped([("loglik.npy", large), ("names.npy", large)]),
        "bytes_names": _saved(loglik=x, names=np.array([b"a", b"b", b"\xff"])),
        "names_of_numbers": _saved(loglik=x, names=np.arange(3)),
    }
