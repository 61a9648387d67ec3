"""What installed packages add to adarena by entry points, found by their metadata and imported when they are asked for.

A package that states in its ``pyproject.toml``::

    [project.entry-points."adarena.environments"]
    "mine/Keyword-v0" = "keyword_auction:KeywordAuction"

makes ``adarena.envs.make("mine/Keyword-v0")``, Gymnasium and the command line know the environment, without a line in
adarena. Finding names reads metadata alone; a package that cannot be imported fails where its own name is asked for, and
nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from typing import Any


class PluginError(ImportError):
    """Something that a package brings cannot be used; the message names the package, the name and why."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """One entry point.

    Attributes:
        name: The name under which the package offers something.
        package: The package and its version, ``"keyword-auction 0.1.0"``.
        value: Where it is, ``"module:attribute"``.
    """

    name: str
    package: str
    value: str

    def __str__(self) -> str:
        return f"{self.name!r} of {self.package} ({self.value})"


def _entry_points(group: str) -> Iterator[tuple[str, metadata.EntryPoint]]:
    """Name and version of a package, and an entry point of it; of a package that is there twice, the one imported.

    `importlib.metadata.entry_points` would do the same, but raises for all packages where one has damaged metadata.
    """
    seen = set()
    for package in metadata.distributions():
        try:
            entries = package.entry_points.select(group=group)
            if not entries:  # reading a name costs more than reading entry points
                continue
            known, who = package.name.lower().replace("-", "_").replace(".", "_"), f"{package.name} {package.version}"
        except Exception as error:
            logging.getLogger(__name__).warning(f"{group}: metadata of an installed package cannot be read: {error!r}")
            continue
        if known not in seen:
            seen.add(known)
            yield from ((who, entry) for entry in entries)


class Plugins:
    """The entry points of one group.

    Attributes:
        group: Name of the group, ``"adarena.environments"``.
    """

    def __init__(self, group: str, check: Callable[[str, Any], None]) -> None:
        """Nothing is read before it is asked for.

        Args:
            group: Name of the group.
            check: ``check(name, loaded)`` raises an exception whose message says what is wrong with what was loaded.
        """
        self.group = group
        self._check = check
        self._found: dict[str, list[Plugin]] | None = None
        self._loaded: dict[str, Any] = {}

    def found(self) -> dict[str, list[Plugin]]:
        """Every name on offer and who offers it; more than one is a clash. Read once a process."""
        if self._found is None:
            found: dict[str, set[Plugin]] = {}
            for package, entry in _entry_points(self.group):
                found.setdefault(entry.name, set()).add(Plugin(entry.name, package, entry.value))
            self._found = {name: sorted(found[name], key=str) for name in sorted(found)}
        return self._found

    def package(self, name: str) -> str | None:
        """The package that brings ``name``; None if none does, or more than one."""
        offers = self.found().get(name, [])
        return offers[0].package if len(offers) == 1 else None

    def attribute(self, name: str) -> str:
        """What the object that is offered as ``name`` is called in its module."""
        return self.found()[name][0].value.partition(":")[2].strip()

    def refusal(self, name: str, taken: Collection[str] = ()) -> str | None:
        """Why ``name`` is refused: adarena itself (``taken``) or a second package has it. None if it is not."""
        offers = self.found()[name]
        who = " and ".join(str(offer) for offer in offers)
        if name in taken:
            return f"{self.group}: {who} is not used: the name is adarena's own; the package must choose another"
        if len(offers) > 1:
            return f"{self.group}: neither {who} is used: both offer the same name; uninstall one"
        return None

    def names(self, taken: Collection[str] = ()) -> tuple[str, ...]:
        """Names that are on offer and not refused; nothing is imported."""
        return tuple(name for name in self.found() if self.refusal(name, taken) is None)

    def load(self, name: str) -> Any:
        """Imports what is offered as ``name``.

        Raises:
            KeyError: No package offers it.
            PluginError: Two packages do, or it cannot be imported, or is not of the right kind.
        """
        if name not in self._loaded:
            refusal = self.refusal(name)
            if refusal is not None:
                raise PluginError(refusal)
            self._loaded[name] = self._import(self.found()[name][0])
        return self._loaded[name]

    def _import(self, plugin: Plugin) -> Any:
        try:
            loaded = metadata.EntryPoint(plugin.name, plugin.value, self.group).load()
            self._check(plugin.name, loaded)
        except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
            why = f"{type(error).__name__}: {error}"
            raise PluginError(f"{self.group}: {plugin} cannot be used: {why}") from error
        return loaded

    def load_all(self, taken: Collection[str]) -> tuple[dict[str, Any], list[str]]:
        """Everything that can be used, by name, and one sentence for each thing that cannot.

        Args:
            taken: Names that adarena has itself.
        """
        loaded: dict[str, Any] = {}
        problems = [refusal for name in self.found() if (refusal := self.refusal(name, taken)) is not None]
        for name in self.names(taken):
            try:
                loaded[name] = self.load(name)
            except PluginError as error:
                problems.append(str(error))
        return loaded, problems

    def packages(self, taken: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """Name and package of everything that can be used, and one sentence for each thing that cannot; see `load_all`."""
        loaded, problems = self.load_all(taken)
        return {name: self.package(name) or "" for name in loaded}, problems
