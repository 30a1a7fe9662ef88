"""Imports torch and transformers without parts that scoring on a CPU does not use: torch's compiler, meta kernels, scipy, ...

These take most of the time of importing both. transformers imports torch's compiler only to mark functions for it, and supports
builds of torch without torch.distributed. The compiler and the meta kernels are imported completely as soon as anything else in
them is needed. This is only for processes that do nothing but score. Names inside other libraries, most of them not public, are
used in this file alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_TRACING = "torch._dynamo._trace_wrapped_higher_order_op"
_META = "torch._meta_registrations"  # shapes of results, computed in Python: for the compiler, rarely for a model's layout


def install() -> None:
    """Makes later imports of torch and transformers in this process lean; does nothing if torch is imported already."""
    if "torch" not in sys.modules and not any(isinstance(f, _LeanFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, _LeanFinder())


# -- stand-ins for modules that are not imported yet -------------------------------------------------------------------


class _StandIn(ModuleType):
    """Holds a few of a module's names; the first use of any other name imports the module itself."""

    def __init__(self, name: str, answers: Mapping[str, object]) -> None:
        super().__init__(name)
        self.__dict__.update(answers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


def _load(name: str) -> ModuleType:
    """Imports and returns the module `name`; all stand-ins are removed and none is made from now on."""
    put_off = [one for one in _ANSWERS if isinstance(sys.modules.get(one), _StandIn)]
    _ANSWERS.clear()
    for one in put_off:
        del sys.modules[one]
    if _META in put_off:
        importlib.import_module(_META)  # only to register its functions: nothing uses it by name
    return importlib.import_module(name)


def completes(error: Exception) -> bool:
    """Whether `error` may come from the missing meta kernels. If so, they are now imported: the caller tries again."""
    lacked = isinstance(error, NotImplementedError) or re.search(r"\bmeta\b", str(error), re.IGNORECASE)
    if not lacked or not isinstance(sys.modules.get(_META), _StandIn):
        return False
    _load(_META)
    return True


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without options, that returns the function unchanged."""
    return _unmarked if function is None else function


def _tracing_mode() -> Any:
    """The mode in which transformers computes attention masks with vmap."""
    return _load(_TRACING).TransformGetItemToIndex()


_ANSWERS: dict[str, dict[str, object]] = {
    _COMPILER: dict.fromkeys(("disable", "allow_in_graph", "assume_constant_result"), _unmarked),
    _TRACING: {"TransformGetItemToIndex": _tracing_mode},
    _META: {},
}

# -- finding them --------------------------------------------------------------------------------------------------------


class _LeanFinder(MetaPathFinder):
    def __init__(self) -> None:
        self._changes: dict[str, Callable[[ModuleType], None]] = {
            "torch": _without_meta_kernels,
            "torch.distributed": _without_distribution,
            "transformers.utils": _without_scipy,
            "transformers.utils.import_utils": _names_by_need,
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a stand-in, of a submodule of the compiler (imports all of it), or of a module to change; None for others."""
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
    """Loads the module that `make` returns, without running anything in it."""

    def __init__(self, make: Callable[[], ModuleType]) -> None:
        self._make = make

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._make()

    def exec_module(self, module: ModuleType) -> None: ...


class _Changed(Loader):
    """Loads a module with the loader `whole`, then applies `change` to it."""

    def __init__(self, whole: Loader, change: Callable[[ModuleType], None]) -> None:
        self._whole, self._change = whole, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._whole.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._whole.exec_module(module)
        self._change(module)


# -- the changes ---------------------------------------------------------------------------------------------------------


def _without_meta_kernels(torch: ModuleType) -> None:
    """Gives torch the metaclass of its random generators, which it otherwise gets from the modules left out."""
    prepare = getattr(torch._C, "_set_generator_metaclass", None)
    if prepare is None or _META not in _ANSWERS:
        return
    try:
        prepare(importlib.import_module("torch._opaque_base").OpaqueBaseMeta)
    except (ImportError, AttributeError):  # another version of torch keeps it elsewhere
        _load(_META)


def _without_distribution(distributed: ModuleType) -> None:
    """Makes torch report that it was built without torch.distributed."""
    vars(distributed)["is_available"] = lambda: False


def _without_scipy(utils: ModuleType) -> None:
    """Makes transformers report that scipy is not installed; only losses of object detection use it."""
    vars(utils)["is_scipy_available"] = lambda: False


def _names_by_need(import_utils: ModuleType) -> None:
    """Makes transformers read which names its models' files define only once a name is used that is not its own.

    Otherwise it reads the files of hundreds of models when it is imported, and again for every package around them.
    """
    names: dict[str, Any] = vars(import_utils)
    wanted = ("create_import_structure_from_path", "define_import_structure", "_LazyModule")
    if not all(name in names for name in wanted) or not hasattr(names[wanted[2]], "__getattr__"):
        return
    read, define, lazy = (names[name] for name in wanted)
    models = Path(str(import_utils.__file__)).parents[1] / "models"
    whole: dict[str, ModuleType] = {}
    reading_all: list[str] = []

    @functools.cache
    def once(folder: Path) -> Any:
        return read(str(folder))

    def some(path: str | Path) -> Any:
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        return {"auto": once(models / "auto")} if folder == models and not reading_all else once(folder)

    def all_of(package: str) -> ModuleType:
        """The package as transformers itself makes it, with the names in the files of all models."""
        if package not in whole:
            there, prefix = sys.modules[package], "models" if package == "transformers" else None
            reading_all.append(package)
            whole[package] = lazy(
                package, there.__file__, define(str(models), prefix=prefix), module_spec=there.__spec__
            )
            reading_all.clear()
        return whole[package]

    usual = lazy.__getattr__

    def by_need(self: Any, name: str) -> Any:
        package = self.__name__
        if (
            name.startswith("__")
            or package not in ("transformers", "transformers.models")
            or name in self.__all__
        ):
            return usual(self, name)
        if importlib.util.find_spec(f"{package}.{name}") is None:
            return usual(all_of(package), name)
        return importlib.import_module(f"{package}.{name}")

    lazy.__getattr__ = by_need
    names["create_import_structure_from_path"] = some
