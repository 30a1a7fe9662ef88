"""Names of what `kltui --bench` measures: models, parts, other programs. It does not import torch, because --help lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kltui.errors import UsageError

MODELS = ("70m", "160m", "410m", "6.9b")
LARGEST = MODELS[-1]  # only on a GPU
MODEL_PARTS = {
    "final": "scoring of texts, compared with the papers' loop and a careful loop",
    "layers": "layer vectors, compared with the papers' method",
    "sweep": "a job over a run's checkpoints, compared with only scoring them",
}
NATIVE_PARTS = {
    "gather": "log-softmax and gather",
    "head": "head with log-likelihood",
    "attention": "causal attention",
    "maps": "KL, centring, quantile, standard errors",
    "weights": "weight distances",
    "raster": "points of a plot",
}


class Rival(NamedTuple):
    """Another program that scores texts: its name, the modules that it needs, and how to install them."""

    title: str
    modules: tuple[str, ...]
    install: str


RIVALS = {
    "lm_eval": Rival("lm-evaluation-harness", ("lm_eval", "transformers"), "pip install 'lm_eval[hf]'"),
    "llama_cpp": Rival("llama.cpp", ("llama_cpp", "gguf"), "pip install llama-cpp-python 'gguf>=0.19'"),
}


class BenchRequest(NamedTuple):
    """What to measure. `model` is "" for all models; `parts` has at least one name."""

    topic: str
    model: str
    parts: tuple[str, ...]
    against: tuple[str, ...]


def read_asked(target: str | None, parts: Sequence[str], against: Sequence[str]) -> BenchRequest:
    """The request in the arguments. Raises UsageError that lists the valid names for an unknown one."""
    model = (target or "").removeprefix("pythia-")
    topic = model if model in ("native", "analysis") else "scoring"
    if topic == "scoring" and model and model not in MODELS:
        raise UsageError(
            f"no benchmark called {target!r}",
            f"There are: kltui --bench [{'|'.join(MODELS)}], kltui --bench native, kltui --bench analysis.",
        )
    for name in against:
        if name not in RIVALS:
            raise UsageError(f"kltui is not measured against {name!r}", f"There are: {', '.join(RIVALS)}.")
    if against and topic != "scoring":
        raise UsageError(
            f"--against has no effect with --bench {topic}", "Use it with models: kltui --bench 70m."
        )
    found = _parts(topic, parts)
    if model == LARGEST and parts and found != ("final",):
        raise UsageError(
            f"pythia-{LARGEST} is timed in half precision alone", "Of its parts there is one: --part final."
        )
    return BenchRequest(topic, "" if topic != "scoring" else model, found, tuple(against))


def _parts(topic: str, asked: Sequence[str]) -> tuple[str, ...]:
    """The requested parts in the order of `topic`, all if none are requested. Raises UsageError for an unknown one."""
    known = {"scoring": MODEL_PARTS, "native": NATIVE_PARTS, "analysis": dict[str, str]()}[topic]
    for name in asked:
        if name not in known:
            raise UsageError(f"no part called {name!r} in --bench{_title(topic)}", list_parts())
    return tuple(name for name in known if not asked or name in asked)


def _title(topic: str) -> str:
    return "" if topic == "scoring" else f" {topic}"


def list_parts() -> str:
    """All parts, in one line."""
    return f"Parts of a model: {_names(MODEL_PARTS)}; of native: {_names(NATIVE_PARTS)}."


def help_of_parts() -> str:
    """The help text for --part."""
    reported = [f"{name} ({what})" for name, what in {**MODEL_PARTS, **NATIVE_PARTS}.items()]
    at = len(MODEL_PARTS)
    return f"with --bench: only this part; may be repeated; parts of a model: {', '.join(reported[:at])}; of native: {', '.join(reported[at:])}"


def help_of_rivals() -> str:
    """The help text for --against."""
    reported = [f"{name} ({rival.title}: {rival.install})" for name, rival in RIVALS.items()]
    return f"with --bench: also measure this program, if installed, on the same model and texts; may be repeated; {', '.join(reported)}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
