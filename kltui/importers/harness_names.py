"""Which model the files of lm-evaluation-harness are of: a folder of them may be of many revisions and variants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kltui.analysis.point import Point
from kltui.importers.imported import lineage
from kltui.importers.naming import released
from kltui.registry.layout import read_json_object
from kltui.registry.names import COMMIT
from kltui.registry.revisions import parse_step

_DATE = re.compile(r"_(\d{4}-\d{2}-\d{2}[^_]*)\.jsonl?$")


def date_of(path: Path) -> str:
    """The date in the name of a file of samples or results, by which they belong together; "" if it has none."""
    found = _DATE.search(path.name)
    return found[1] if found else ""


def model_of(path: Path) -> Point:
    """The point of the model that a file of samples or results is of.

    Its name is that of the folder ("__" stands for "/"). The harness names the folder by the model alone: a revision and a
    quantisation are in the results of the same date.
    """
    name = path.resolve().parent.name.replace("__", "/")
    results = path if path.suffix == ".json" else path.with_name(f"results_{date_of(path)}.json")
    config = read_json_object(results).get("config")
    stated = config if isinstance(config, dict) else {}
    arguments = _arguments(stated.get("model_args"))
    quantization = _quantization(arguments)
    revision = str(arguments.get("revision") or stated.get("model_revision") or "main")
    step = parse_step(revision)
    if step is not None:
        return lineage(name, step, quantization=quantization)
    label = "" if revision in ("main", "None") or COMMIT.fullmatch(revision) else f"-{revision}"
    return released(name + label.replace("/", "-"), quantization)


def _arguments(stated: object) -> dict[str, Any]:
    """The arguments of the model, which are written `key=value,...` or as an object."""
    if isinstance(stated, dict):
        return stated
    parts = str(stated or "").split(",")
    return {key.strip(): value.strip() for key, equals, value in (p.partition("=") for p in parts) if equals}


def _quantization(arguments: dict[str, Any]) -> str:
    asked = {key for key, value in arguments.items() if str(value).lower() == "true"}
    if "load_in_8bit" in asked:
        return "bnb-8bit"
    if "load_in_4bit" not in asked:
        return "none"
    return "bnb-nf4" if arguments.get("bnb_4bit_quant_type") == "nf4" else "bnb-fp4"
