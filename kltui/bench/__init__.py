"""How fast this machine scores, always beside the reference procedure and the floors, in one process."""

from __future__ import annotations


def main(topic: str | None = None, device: str = "auto", as_json: bool = False) -> int:
    """Exit code 0 after the figures of `topic`: None for end to end, "native" for the kernels alone."""
    from kltui.errors import UsageError

    if topic == "native":
        from kltui.bench.native import run as run_native

        return run_native(device, as_json)
    if topic is not None:
        raise UsageError(f"unknown benchmark {topic!r}", "kltui --bench, or kltui --bench native")
    from kltui.bench.endtoend import run

    return run(device, as_json)
