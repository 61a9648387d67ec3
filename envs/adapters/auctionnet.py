"""Loads bidding strategies that were written for AuctionNet, as they are.

Such a file holds a class with ``bidding(timeStepIndex, pValues, ...)`` on a base class that it imports from
``bidding_train_env`` or ``simul_bidding_env``. Neither needs to be installed: while code of a file runs, and only then, a
finder that Python asks last provides both, so whatever is installed goes first and nothing stays behind in
``sys.modules`` or on ``sys.path``. `adarena.envs.adapters.auctionnet_host` plays what is loaded here::

    strategies = load_strategies("my_strategy.py:MyStrategy")
    policy = StrategyPolicy(strategies["MyStrategy"])

A file is Python code and runs with your rights: load only what you trust.

Source of the interface: alimama-tech/AuctionNet @ c20de63.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOTS: Final = ("bidding_train_env", "simul_bidding_env")
"""Packages of AuctionNet from which strategies import their base class."""

_BASE: Final = "base_bidding_strategy"


class StrategyError(ValueError):
    """A strategy cannot be loaded, or did what AuctionNet's interface does not allow."""


class BaseBiddingStrategy:
    """Base class of AuctionNet's strategies, under the import paths that their files use.

    Attributes:
        budget: Budget of the episode, currency units.
        name: Name of the strategy.
        cpa: Target cost per conversion, currency units.
        category: Index of the advertiser's category.
        remaining_budget: What is left of the budget; the host sets it before each tick.
    """

    def __init__(
        self, budget: float = 100, name: str = "BaseStrategy", cpa: float = 2, category: int = 1, **others: Any
    ) -> None:
        self.budget = budget
        self.remaining_budget = budget
        self.name = name
        self.cpa = cpa
        self.category = category

    def reset(self) -> None:
        """Starts an episode; the host has set ``budget``, ``cpa`` and ``category``."""
        self.remaining_budget = self.budget

    def bidding(
        self,
        timeStepIndex: int,
        pValues: np.ndarray,
        pValueSigmas: np.ndarray,
        historyPValueInfo: list[np.ndarray],
        historyBid: list[np.ndarray],
        historyAuctionResult: list[np.ndarray],
        historyImpressionResult: list[np.ndarray],
        historyLeastWinningCost: list[np.ndarray],
    ) -> np.ndarray:
        """Bids on the ``n`` impressions of a tick. Every list holds one array for each finished tick, ``m`` impressions.

        Args:
            timeStepIndex: Index of the tick, from 0.
            pValues: ``[n]`` float64, predicted conversions per exposed impression.
            pValueSigmas: ``[n]`` float64, standard deviations of the predictions.
            historyPValueInfo: ``[m, 2]``: prediction and its standard deviation.
            historyBid: ``[m]``: bids, currency units.
            historyAuctionResult: ``[m, 3]``: won (0 or 1), slot (1 ...; 0 if none), price if exposed.
            historyImpressionResult: ``[m, 2]``: exposed, converted.
            historyLeastWinningCost: ``[m]``: least bid that would have won the last slot.

        Returns:
            ``[n]`` bids, currency units per exposed impression.
        """
        raise NotImplementedError(f"{type(self).__name__} must define bidding(...)")


class _Shims(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Provides AuctionNet's packages where nothing else does. ``strategy`` also finds files beside the one loaded."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parts = name.split(".")
        if parts[0] not in ROOTS or parts[1:] not in ([], ["strategy"], ["strategy", _BASE]):
            return None
        if len(parts) > 1 and not _is_shim(sys.modules.get(parts[0])):
            return None  # a real installation that lacks this module says so itself
        spec = importlib.machinery.ModuleSpec(name, self, is_package=len(parts) < 3)
        if len(parts) == 2:
            spec.submodule_search_locations = [str(self.directory)]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__.count(".") == 2 or module.__name__.endswith(".strategy"):
            module.BaseBiddingStrategy = BaseBiddingStrategy  # type: ignore[attr-defined]


def _is_shim(module: types.ModuleType | None) -> bool:
    return isinstance(getattr(module, "__loader__", None), _Shims)


class _Scope:
    """What files of one directory may import while their code runs: each other, AuctionNet's paths, and what is installed.

    Attributes:
        directory: The directory.
        roots: Where they look for modules first.
        modules: What they have imported so far of it and of the shims; in ``sys.modules`` only while the scope is entered.
        names: Modules and packages that ``roots`` held when a file was loaded last.
        package: Name of the package that the files are members of.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # In a checkout of AuctionNet its own packages lie above the file; they go before the shims.
        inside = [parent.parent for parent in (directory, *directory.parents) if parent.name in ROOTS]
        self.roots = [directory, *inside]
        self.modules: dict[str, types.ModuleType] = {}
        self.names: set[str] = set()
        self.package = f"adarena_strategies_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Makes the imports work, and takes back all of it at the end."""
        finder, paths = _Shims(self.directory), [str(root) for root in self.roots]
        hidden = {name: sys.modules.pop(name) for name in self._clashes()}
        sys.modules.update(self.modules)
        before = set(sys.modules)
        sys.path[:0] = paths
        sys.meta_path.append(finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for path in paths:
                with contextlib.suppress(ValueError):  # the strategy's own code may have changed the list
                    sys.path.remove(path)
            new = {name: sys.modules[name] for name in set(sys.modules) - before}
            self.modules |= {name: module for name, module in new.items() if self._owns(name)}
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)

    def load(self, file: Path) -> types.ModuleType:
        """Runs a file of the directory, once.

        Raises:
            StrategyError: Its code cannot be read or raises.
        """
        name = f"{self.package}.{file.stem}"
        if name in self.modules:
            return self.modules[name]
        importlib.invalidate_caches()
        files = {entry.stem for root in self.roots for entry in root.glob("*.py")}
        folders = {entry.parent.name for root in self.roots for entry in root.glob("*/__init__.py")}
        self.names = (files | folders) - sys.stdlib_module_names
        package = types.ModuleType(self.package)
        package.__path__ = [str(self.directory)]
        self.modules.setdefault(self.package, package)
        with self.entered():
            try:
                return importlib.import_module(name)
            except Exception as error:
                hint = ""
                if isinstance(error, ModuleNotFoundError) and str(error.name).startswith(ROOTS):
                    hint = f"; of AuctionNet only {{{','.join(ROOTS)}}}.strategy.{_BASE} is provided: put the rest beside it"
                raise StrategyError(f"{file} cannot be loaded: {type(error).__name__}: {error}{hint}") from error

    def _clashes(self) -> list[str]:
        """Modules from elsewhere that have a name of ours: they would be taken for it, or lost at the end."""
        tops = {name for name in self.names if name in sys.modules}
        below = [name for name in sys.modules if name.partition(".")[0] in tops] if tops else []
        return [*below, *(name for name in self.modules if name in sys.modules and name not in below)]

    def _owns(self, name: str) -> bool:
        """Whether a new module came from here and not from what is installed."""
        top = sys.modules.get(name.partition(".")[0])
        if name.partition(".")[0] == self.package or _is_shim(top):
            return True
        file = getattr(top, "__file__", None)
        places = [Path(file)] if file else [Path(entry) / "_" for entry in getattr(top, "__path__", [])]
        roots = {str(root) for root in self.roots}
        for place in places:
            holder = place.parent.parent if place.name == "__init__.py" or not file else place.parent
            if str(holder) in roots:
                return True
        return False


_SCOPES: dict[Path, _Scope] = {}
_SCOPE_OF: weakref.WeakKeyDictionary[type, _Scope] = weakref.WeakKeyDictionary()


def imports_of(strategy: Any) -> contextlib.AbstractContextManager[None]:
    """A context in which the imports of a loaded class work; for what imports late, as unpickling does.

    Args:
        strategy: A strategy, or its class. One that `load_strategies` did not load needs no such context.
    """
    cls = strategy if isinstance(strategy, type) else type(strategy)
    scope = _SCOPE_OF.get(cls)
    return contextlib.nullcontext() if scope is None else scope.entered()


def load_strategies(source: str | Path) -> dict[str, type]:
    """Loads strategy classes, unmodified.

    Files are loaded once a process: a second call gives the same classes.

    Args:
        source: ``"FILE.py:ClassName"`` for one class; ``"FILE.py"`` for every strategy class that the file defines; or a
            directory, for those of all its files but the ones whose names begin with an underscore.

    Returns:
        Name to class, in order of files and definitions. The name is the class's; where several files of a directory
        define that name, ``"file.ClassName"``.

    Raises:
        StrategyError: No such file or class, the code cannot be loaded, or there is no method ``bidding``.
    """
    text = str(source)
    place, _, wanted = text.rpartition(":") if not Path(text).exists() else (text, "", "")
    if not place or (wanted and not wanted.isidentifier()):
        place, wanted = text, ""
    path = Path(place)
    if not path.exists():
        raise StrategyError(f"{text}: no such file or directory; expected FILE.py, FILE.py:ClassName or a directory")
    path = path.resolve()
    if path.is_dir():
        if wanted:
            raise StrategyError(f"{text}: a class is named in a file, FILE.py:ClassName; {place} is a directory")
        return _from_directory(path)
    if path.suffix != ".py":
        raise StrategyError(f"{text}: strategies are Python files (.py), got {path.name}")
    return {wanted: _named(path, wanted)} if wanted else _from_file(path)


def _from_directory(directory: Path) -> dict[str, type]:
    files = [file for file in sorted(directory.glob("*.py")) if not file.name.startswith("_")]
    found = [(file.stem, name, cls) for file in files for name, cls in _classes(file).items()]
    if not found:
        raise StrategyError(f"{directory}: none of its {len(files)} Python files defines a class with a method bidding")
    names = [name for _, name, _ in found]
    return {name if names.count(name) == 1 else f"{stem}.{name}": cls for stem, name, cls in found}


def _from_file(file: Path) -> dict[str, type]:
    classes = _classes(file)
    if not classes:
        raise StrategyError(f"{file} defines no class with a method bidding(timeStepIndex, pValues, ...)")
    return classes


def _classes(file: Path) -> dict[str, type]:
    """The strategy classes that a file itself defines; abstract ones, second names and ``_names`` are not meant."""
    module = _scope(file.parent).load(file)
    return {
        name: _noted(cls, file)
        for name, cls in vars(module).items()
        if _is_strategy(cls) and cls.__module__ == module.__name__ and not name.startswith("_")
        if not inspect.isabstract(cls) and name != BaseBiddingStrategy.__name__ and cls.__name__ == name
    }


def _named(file: Path, name: str) -> type:
    module = _scope(file.parent).load(file)
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        known = ", ".join(_classes(file)) or "none"
        raise StrategyError(f"{file} has no class {name}; its strategy classes are: {known}")
    if not _is_strategy(cls):
        raise StrategyError(f"{file}: {name} is no strategy, it has no method bidding(timeStepIndex, pValues, ...)")
    return _noted(cls, file)


def _is_strategy(cls: Any) -> bool:
    method = getattr(cls, "bidding", None)
    return isinstance(cls, type) and callable(method) and method is not BaseBiddingStrategy.bidding


def _scope(directory: Path) -> _Scope:
    return _SCOPES.setdefault(directory, _Scope(directory))


def _noted(cls: type, file: Path) -> type:
    _SCOPE_OF[cls] = _scope(file.parent)
    return cls
