"""How fast this machine scores, always beside the reference procedure and the floors, in one process."""

from __future__ import annotations


def main(topic: str | None = None, device: str = "auto", as_json: bool = False) -> int:
    """Exit code 0 after the figures of `topic`: None for end to end, "native" for the kernels alone, "analysis" for the report."""
    from kltui.errors import UsageError

    if topic == "native":
        from kltui.bench.native import run as run_native

        return run_native(device, as_json)
    if topic == "analysis":
        from kltui.bench.analysis import run as run_analysis

        return run_analysis(as_json)
    if topic is not None:
        raise UsageError(
            f"no benchmark called {topic!r}",
            "There are: kltui --bench, kltui --bench native, kltui --bench analysis.",
        )
    from kltui.bench.endtoend import run

    return run(device, as_json)
