"""Packages as an installer leaves them: modules, and metadata that names their entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


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
