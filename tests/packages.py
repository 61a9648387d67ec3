"""Packages as an installer leaves them: modules, and metadata that names their entry points; and scripts as modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def install(
    site: Path,
    package: str,
    version: str,
    entries: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
) -> None:
    """Puts a package into the folder ``site``: group to name to object, and module to source."""
    name = package.replace("-", "_")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in names.items())])
        for group, names in entries.items()
    )
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    for module, source in (modules or {}).items():
        (site / f"{module}.py").write_text(source)


def script(path: Path) -> Any:
    """A script that belongs to no package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
