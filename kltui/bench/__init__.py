"""`kltui --bench`: the speed of this machine, compared with the papers' procedure and with the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence


def main(
    target: str | None = None,
    device: str = "auto",
    as_json: bool = False,
    parts: Sequence[str] = (),
    against: Sequence[str] = (),
) -> int:
    """Prints the measurements of `target`; returns the exit code, 1 if compared values differ by more than the tolerance.

    `target` None: all models end to end; "70m": that model; "native": only the kernels; "analysis": the report. `parts` are
    names of `bench.parts` (default: all); `against` are other programs to compare with. Raises UsageError for unknown names.
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
