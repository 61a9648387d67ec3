"""What a sweep consists of: experiments that can be swept, and the cells that a file or a grid names."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import itertools
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import tyro

from adarena.experiments.store import content_sha256

PLACE = ("runs", "name")
"""Fields of a configuration that say where its run lies; the sweep fills them, and they make no other cell."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REGISTERED: dict[str, Experiment] = {}


class Experiment(Protocol):
    """What a sweep can run: a module, such as `adarena.experiments.autobid`, or any object with these two."""

    PRESETS: Mapping[str, Any]
    """Name to configuration: frozen dataclasses with the fields ``runs`` and ``name``; one of them is ``"default"``."""

    def run(self, config: Any, *, resume: bool) -> Any:
        """Leaves the finished `RunFolder` ``config.runs/config.name``, going on with the one that is there."""


def register(name: str, experiment: Experiment) -> None:
    """Makes an experiment known to ``adarena sweep`` in this process, and in those that import the calling module.

    Raises:
        ValueError: The name is no plain word or another experiment's.
        TypeError: The object lacks what an `Experiment` has, or a preset is no configuration that can be swept.
    """
    from adarena.experiments.cli import EXPERIMENTS

    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits, '_' and '-' and start with one of the former, got {name!r}")
    if name in EXPERIMENTS or _REGISTERED.get(name, experiment) is not experiment:
        raise ValueError(f"name must not be another experiment's, got {name!r}")
    if not callable(getattr(experiment, "run", None)) or not getattr(experiment, "PRESETS", None):
        raise TypeError(f"experiment must have run(config, *, resume) and PRESETS, got {experiment!r}")
    for preset in experiment.PRESETS.values():
        _check_config(preset, f"a preset of {name}")
    _REGISTERED[name] = experiment


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of a sweep.

    Attributes:
        experiment: Name of its experiment.
        config: The configuration, wherever it is to lie.
        digest: SHA-256 of the configuration without `PLACE`.
    """

    experiment: str
    config: Any
    digest: str

    @property
    def name(self) -> str:
        """Name of its run folder: the experiment and the first digits of the hash."""
        return f"{self.experiment}-{self.digest[:16]}"

    def placed(self, root: Path) -> Any:
        """The configuration whose run folder is ``root/NAME``."""
        return dataclasses.replace(self.config, runs=str(root), name=self.name)


def digest_of(config: Any) -> str:
    """The hash that tells cells apart: `content_sha256` of the configuration, wherever it lies."""
    return content_sha256(config, PLACE)


def experiment_named(name: str, source: str = "") -> Experiment:
    """The experiment of this name.

    Args:
        name: A built-in experiment's name or a registered one.
        source: File (``.py``) or module that registers it; nothing for a built-in one.

    Raises:
        KeyError: There is none.
        ImportError: The source cannot be imported.
    """
    from adarena.experiments.cli import EXPERIMENTS

    if source:
        load_source(source)
    if name in EXPERIMENTS:
        return typing.cast(Experiment, importlib.import_module(f"adarena.experiments.{name}"))
    if name not in _REGISTERED:
        known = ", ".join((*EXPERIMENTS, *_REGISTERED))
        raise KeyError(
            f"no experiment is called {name!r}; known are {known}, or MODULE:NAME for one that MODULE registers"
        )
    return _REGISTERED[name]


@functools.cache
def load_source(source: str) -> ModuleType:
    """Imports a module by its name or by the path of its file, under the same name in every process.

    Modules beside the file can be imported by it, as if it were run as a script.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: There is no such module.
    """
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = "adarena_sweep_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: configurations that it defines are found by this name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def cells_of_file(path: str) -> list[Cell]:
    """The cells that a sweep file's ``cells()`` yields.

    Raises:
        ValueError: The file has no ``cells``, it yields nothing, or two cells that only folders of a path tell apart.
        TypeError: It yields something that is no configuration of a known experiment.
    """
    module = load_source(path)
    if not callable(getattr(module, "cells", None)):
        raise ValueError(f"{Path(path).name} must define cells(), which yields configurations, and does not")
    return unique(_cell(config, f"cells()[{place}]") for place, config in enumerate(module.cells()))


def cells_of_grid(name: str, source: str, preset: str, axes: Mapping[str, list[str]]) -> list[Cell]:
    """Every combination of the axes' values, all else as in the preset; the last axis varies fastest.

    Args:
        name: The experiment's.
        source: Module that registers it, if any does.
        preset: Name of the preset.
        axes: Field to values as words; the members of a tuple are joined by ``+``.

    Raises:
        ValueError: A field or preset that there is not, or a value that is not allowed.
    """
    presets = experiment_named(name, source).PRESETS
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}")
    base = presets[preset]
    kinds = typing.get_type_hints(type(base))
    values = {field: [_value(field, word, kinds, type(base)) for word in words] for field, words in axes.items()}
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
    return unique(_cell(dataclasses.replace(base, **changes), "grid", name) for changes in combinations)


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Cells in order, each once.

    Raises:
        ValueError: There are none, or two differ in nothing but folders of a path, which no hash sees.
    """
    found: dict[str, Cell] = {}
    for cell in cells:
        same = found.setdefault(cell.name, cell)
        place = dict.fromkeys(PLACE, "")
        if same is not cell and dataclasses.replace(same.config, **place) != dataclasses.replace(cell.config, **place):
            raise ValueError(
                f"two cells of {cell.experiment} differ only in folders of a path; give the files different names"
            )
    if not found:
        raise ValueError("the sweep has no cells")
    return list(found.values())


def _cell(config: Any, where: str, name: str | None = None) -> Cell:
    _check_config(config, where)
    return Cell(name or _experiment_of(config, where), config, digest_of(config))


def _check_config(config: Any, where: str) -> None:
    """Refuses what is no configuration that can be swept."""
    frozen = dataclasses.is_dataclass(config) and not isinstance(config, type)
    if not frozen or not config.__dataclass_params__.frozen:  # type: ignore[union-attr]
        raise TypeError(f"{where} must be a frozen dataclass, got {config!r}")
    missing = [field for field in PLACE if field not in {known.name for known in dataclasses.fields(config)}]
    if missing:
        raise TypeError(f"{where}, a {type(config).__name__}, must have the field {missing[0]!r}, and has not")


def _experiment_of(config: Any, where: str) -> str:
    """Name of the experiment whose configuration this is."""
    from adarena.experiments.cli import EXPERIMENTS

    for name, experiment in _REGISTERED.items():
        if any(type(preset) is type(config) for preset in experiment.PRESETS.values()):
            return name
    package, _, module = type(config).__module__.rpartition(".")
    if package == "adarena.experiments" and module in EXPERIMENTS:
        return module
    raise TypeError(
        f"{where} must be a configuration of {', '.join((*EXPERIMENTS, *_REGISTERED))} or of an experiment that the "
        f"sweep file registers, got a {type(config).__name__}"
    )


def _value(field: str, word: str, kinds: Mapping[str, Any], config_class: type) -> Any:
    """One value of one field, from a word."""
    if field not in kinds or field in PLACE:
        known = ", ".join(name.name for name in dataclasses.fields(config_class) if name.name not in PLACE)
        raise ValueError(f"grid must name fields of {config_class.__name__} ({known}), got {field!r}")
    kind = kinds[field]
    if kind in (int, float, str):  # as tyro does it, and a thousand times as fast
        with contextlib.suppress(ValueError):
            return kind(word)
    words = word.split("+") if typing.get_origin(kind) is tuple else [word.title() if kind is bool else word]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # tyro's own message shows the usage of a command there is not
            return tyro.cli(kind, args=words)
    except SystemExit as error:
        name = getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
        raise ValueError(f"grid's {field} must be of type {name}, got {word!r}") from error
