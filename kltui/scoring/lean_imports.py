"""Imports of torch and transformers without what scoring on a CPU never uses: the compiler, distribution, scipy.

Together they take a third of the seconds that a process needs to import both. transformers imports torch's compiler only to mark
functions for it, and finds no torch.distributed in builds without it, which it is made for. What is left out comes, whole, as
soon as anything of it is asked for that cannot be answered without. For processes that do nothing but score: names of other
libraries, most of them not public, are in this file alone, and where one is missing nothing is left out.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_TRACING = "torch._dynamo._trace_wrapped_higher_order_op"


def install() -> None:
    """Has torch and transformers, neither of which may be imported yet, imported so in this process."""
    if "torch" not in sys.modules and not any(isinstance(f, _LeanFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, _LeanFinder())


# -- what stands for a module until more of it is wanted -----------------------------------------------------------------


class _StandIn(ModuleType):
    """Answers for a module what can be answered without it, and has it loaded for anything else."""

    def __init__(self, name: str, answers: Mapping[str, object]) -> None:
        super().__init__(name)
        self.__dict__.update(answers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


def _load(name: str) -> ModuleType:
    """The module of the compiler itself; nothing stands for any part of it from now on."""
    for one in (_COMPILER, _TRACING):
        _ANSWERS.pop(one, None)
        if isinstance(sys.modules.get(one), _StandIn):
            del sys.modules[one]
    return importlib.import_module(name)


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """The function as it is, or, of a decorator that was called with options, a decorator that leaves it so."""
    return _unmarked if function is None else function


def _tracing_mode() -> Any:
    """The mode that transformers makes masks in by vmap."""
    return _load(_TRACING).TransformGetItemToIndex()


_ANSWERS: dict[str, dict[str, object]] = {
    _COMPILER: dict.fromkeys(("disable", "allow_in_graph", "assume_constant_result"), _unmarked),
    _TRACING: {"TransformGetItemToIndex": _tracing_mode},
}

# -- finding them --------------------------------------------------------------------------------------------------------


class _LeanFinder(MetaPathFinder):
    def __init__(self) -> None:
        self._changes: dict[str, Callable[[ModuleType], None]] = {
            "torch.distributed": _without_distribution,
            "transformers.utils": _without_scipy,
            "transformers.utils.import_utils": _read_once,
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A stand-in, a module of the compiler after the compiler, or a module that is changed once it is there."""
        if name in _ANSWERS:
            answers = _ANSWERS[name]
            return ModuleSpec(name, _Ready(lambda: _StandIn(name, answers)), is_package=name == _COMPILER)
        if _COMPILER in _ANSWERS and name.startswith(f"{_COMPILER}."):
            _load(_COMPILER)
            return ModuleSpec(name, _Ready(lambda: importlib.import_module(name)))
        change = self._changes.pop(name, None)
        spec = importlib.util.find_spec(name) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        spec.loader = _Changed(spec.loader, change)
        return spec


class _Ready(Loader):
    """Loads a module that is made, or is there already."""

    def __init__(self, make: Callable[[], ModuleType]) -> None:
        self._make = make

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._make()

    def exec_module(self, module: ModuleType) -> None: ...


class _Changed(Loader):
    """Loads a module as another loader does, then changes it."""

    def __init__(self, whole: Loader, change: Callable[[ModuleType], None]) -> None:
        self._whole, self._change = whole, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._whole.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._whole.exec_module(module)
        self._change(module)


# -- the changes ---------------------------------------------------------------------------------------------------------


def _without_distribution(distributed: ModuleType) -> None:
    """A torch that says it was built without distribution."""
    vars(distributed)["is_available"] = lambda: False


def _without_scipy(utils: ModuleType) -> None:
    """A transformers that finds no scipy, which only losses of object detection want."""
    vars(utils)["is_scipy_available"] = lambda: False


def _read_once(import_utils: ModuleType) -> None:
    """A transformers that reads the files of each of its models once, and not again for every package around them."""
    name = "create_import_structure_from_path"
    if name in vars(import_utils):
        vars(import_utils)[name] = functools.cache(vars(import_utils)[name])
