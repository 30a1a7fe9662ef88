"""One table of what a run on a GPU gave, each figure beside its target. Usage: python tests/gpu/table.py OUT"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Times the papers' loop and a careful transformers loop in the same dtype, by the model's shape.
END_TO_END = {"70m": (25.0, 2.0), "410m": (15.0, 1.5), "6.9b": (1.2, 1.05)}
OVER_PRODUCTS = 2.0
SWEEP = 1.10
NATS = 0.15
Row = tuple[str, str, str, str]


def rows(out: Path) -> Iterator[Row]:
    """(what, figure, target, "met", "missed" or "") for everything that the run has left in the folder."""
    for name, code, seconds in (line.split() for line in _lines(out / "parts.txt")):
        yield name, f"exit {code} after {seconds} s", "exit 0", _met(code == "0")
    for ratio in _json(out / "native.json").get("ratios", []):
        yield from native_rows(ratio)
    report = _json(out / "endtoend.json")
    for case in report.get("cases", []):
        yield from case_rows(case)
    for model, why in report.get("skipped", {}).items():
        yield f"{model}", f"left out: {why}", "", ""
    for sweep in report.get("sweeps", []):
        yield (
            f"sweep {sweep['model']}",
            f"{sweep['over_scoring']:.2f} x scoring",
            *_maximum(sweep["over_scoring"], SWEEP),
        )


def native_rows(ratio: dict[str, Any]) -> Iterator[Row]:
    """The kernels: the gather over copying as many bytes, the head over its product alone."""
    name, over = str(ratio["operation"]), float(ratio["over_floor"])
    if name.startswith("gather"):
        yield name, f"{1 / over:.2f} of the copy's bandwidth", ">= 0.90", _met(1 / over >= 0.9)
    else:
        yield name, f"{over:.2f} x {ratio['floor']}", *_maximum(over, 1.15)
    yield f"{name}, reference", f"{ratio['times_faster']:.1f} x faster", "", ""


def case_rows(case: dict[str, Any]) -> Iterator[Row]:
    """End to end: over both loops and over the bare products, and how far half precision is from float32."""
    name = f"{case['model']} {case['what']} {case['dtype']}"
    loop, careful = END_TO_END.get(case["model"], (0.0, 0.0)) if case["dtype"] == "float16" else (0.0, 0.0)
    yield f"{name}, papers' loop", f"{case['ratio']:.2f} x faster", *_minimum(case["ratio"], loop)
    if case["over_careful"] is not None:
        yield (
            f"{name}, careful loop",
            f"{case['over_careful']:.2f} x faster",
            *_minimum(case["over_careful"], careful),
        )
    yield f"{name}, products", f"{case['over_floor']:.2f} x", *_maximum(case["over_floor"], OVER_PRODUCTS)
    if case["what"] == "final" and case["largest_difference_nat"] is not None:
        nats = float(case["largest_difference_nat"])
        yield f"{name}, largest difference", f"{nats:.3f} nat a text", *_maximum(nats, NATS)


def _minimum(value: float, target: float) -> tuple[str, str]:
    return (f">= {target:g}", _met(value >= target)) if target else ("", "")


def _maximum(value: float, target: float) -> tuple[str, str]:
    return f"<= {target:g}", _met(value <= target)


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _json(path: Path) -> dict[str, Any]:
    """The file's object, or none where its part did not come to an end."""
    text = path.read_text().strip() if path.exists() else ""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main(out: Path) -> None:
    """Prints the table and writes it to OUT/table.md."""
    card = "; ".join(_lines(out / "card.txt")) or "no card named"
    lines = [card, "", "| what | figure | target | |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(out)]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
