"""Results of lm-evaluation-harness (`results_DATE.json`): one model's scores on its tasks, in percent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kltui.importers.harness_names import model_of
from kltui.importers.imported import Imported, ImportFormatError
from kltui.importers.modelmap import read_json
from kltui.sanitize import safe_text

_EXPECTED = "expected results_DATE.json as lm_eval writes it with --output_path"
_METRIC = re.compile(r"(?P<metric>[^,]+),(?P<filter>[^,]+)")
# Metrics that are not shares: perplexities, bits, counts, sums, differences, and errors.
_OTHER = re.compile(
    r"perplexity|bits_per_byte|likelihood|length|count|stderr|ter$|chrf|bleu|rouge\w*_(?:max|diff)|brier",
    re.IGNORECASE,
)


def is_results(data: object) -> bool:
    """Whether a JSON value is a file of results: tasks, each with "metric,filter" keys."""
    tasks = data.get("results") if isinstance(data, dict) else None
    return isinstance(tasks, dict) and any(
        isinstance(found, dict) and any(_METRIC.fullmatch(str(key)) for key in found)
        for found in tasks.values()
    )


def read_results(paths: Sequence[Path]) -> Imported:
    """Scores of every model among `paths`, in percent, by `task`, or by `task metric` if a task has several metrics.

    The model is that of `model_of`, as for samples. If several files have results of
    one task, the newest counts, by the date in their names. Raises ImportFormatError if a file contains no results.
    """
    scores: dict[str, dict[str, float]] = {}
    left: list[str] = []
    for path in sorted(paths, key=lambda p: p.name):
        data = read_json(path, dict)
        if not is_results(data):
            raise ImportFormatError(f"{safe_text(str(path))} contains no results of tasks", _EXPECTED)
        of_model = scores.setdefault(model_of(path).name, {})
        for task, found in data["results"].items():
            shares = _shares(found, _worse(data, task)) if isinstance(found, dict) else {}
            if not shares:
                left.append(str(task))
            for metric, share in shares.items():
                of_model[str(task) if len(shares) == 1 else f"{task} {metric}"] = 100 * share
    notes: tuple[str, ...] = ()
    if left:
        notes = (
            f"results of {len(left)} tasks are not between 0 and 1 and were skipped, such as {safe_text(left[0], 80)}",
        )
    return Imported(scores={name: tasks for name, tasks in scores.items() if tasks}, notes=notes)


def _worse(data: dict[str, object], task: str) -> set[str]:
    """The metrics of a task of which lower values are better, as far as the file states it."""
    stated = data.get("higher_is_better")
    of_task = stated.get(task) if isinstance(stated, dict) else None
    return (
        {str(metric) for metric, better in of_task.items() if better is False}
        if isinstance(of_task, dict)
        else set()
    )


def _shares(found: dict[str, object], worse: set[str]) -> dict[str, float]:
    """{metric: value} of the metrics between 0 and 1, without those in `worse`; a filter other than "none" is appended to the
    metric's name.
    """
    shares = {}
    for key, value in found.items():
        named = _METRIC.fullmatch(str(key))
        if (
            named is None
            or _OTHER.search(named["metric"])
            or named["metric"] in worse
            or isinstance(value, bool)
        ):
            continue
        if isinstance(value, int | float) and 0 <= value <= 1:
            metric = named["metric"] if named["filter"] == "none" else f"{named['metric']} {named['filter']}"
            shares[metric] = float(value)
    return shares
