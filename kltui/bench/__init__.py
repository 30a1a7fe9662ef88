"""How fast this machine scores, always beside the reference procedure and the floors, in one process."""

from __future__ import annotations

from collections.abc import Sequence


def main(
    target: str | None = None,
    device: str = "auto",
    as_json: bool = False,
    parts: Sequence[str] = (),
    against: Sequence[str] = (),
) -> int:
    """Exit code 0 after the figures of `target`, 1 where values differ by more than is allowed.

    None: all models end to end, "70m": that one, "native": the kernels alone, "analysis": the report. `parts` are those
    of bench.parts, all where none are named; `against` other programs, beside which models are measured.
    """
    from kltui.bench.parts import read_asked

    asked = read_asked(target, parts, against)
    if asked.topic == "native":
        from kltui.bench.native import run as run_native

        return run_native(device, as_json, asked.parts)
    if asked.topic == "analysis":
        from kltui.bench.analysis import run as run_analysis

        return run_analysis(as_json)
    from kltui.bench.endtoend import run
    from kltui.bench.shapes import by_name

    return run(device, as_json, by_name(asked.model), asked.parts, asked.against)
