"""``adarena gather RUN ...``: the tables of several runs as one small results folder, for figures and the README."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import tyro
from rich.console import Console

from adarena.experiments import offline_tables, protocol
from adarena.experiments.store import RunFolder

_TABLES = ("scores", "summary", "curves", "day", "tuning", "market")
_CURVE = ("mechanism", "policy", "seed", "step", "episode_return", "entropy", "explained_variance", "objective")
_ALONE = {
    "ColdStartExperiment": "coldstart",
    "LifecycleExperiment": "lifecycle",
    "OfflineExperiment": "offline",
    "OpeExperiment": "ope",
    "ExplainConfig": "explain",
}
"""Experiments whose tables are taken as they are, one run at a time."""


@dataclasses.dataclass(frozen=True)
class GatherConfig:
    """Which runs to gather.

    Attributes:
        runs: Run folders of ``adarena run autobid``, one or more mechanisms each; or one of another experiment; or several
            of ``adarena run offline``, a market each, of which one table is made.
        out: Folder of the tables; ``paper_figs/results/EXPERIMENT`` when empty.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str = ""


def run(config: GatherConfig) -> Path:
    """Gathers the tables of finished runs.

    Raises:
        ValueError: No run, two runs of one mechanism or market, or more than one where they cannot be put together.
        RunFolderError: A folder is no run, or is damaged, or is not finished.
    """
    if not config.runs:
        raise ValueError("runs must name at least one run folder, got none")
    folders = [RunFolder.open(Path(path)) for path in config.runs]
    alone = [_ALONE[name] for folder in folders if (name := folder.config["class"]) in _ALONE]
    compared = len(folders) > 1 and alone == ["offline"] * len(folders)
    if alone and len(folders) > 1 and not compared:
        raise ValueError(f"runs must be one run where it is of {alone[0]}, got {len(folders)}")
    kind = "offline_markets" if compared else alone[0] if alone else "autobid"
    out = Path(config.out or f"paper_figs/results/{kind}")
    if compared:
        _write(out, {"markets": offline_tables.markets(folders)})
    elif alone:
        _write(out, {name: folders[0].read_table(name) for name in folders[0].tables})
    else:
        _write(out, _autobid_tables(folders))
    about = [
        {"name": f.path.name, "config": f.config, "manifest": {k: f.manifest[k] for k in _KEPT if k in f.manifest}}
        for f in folders
    ]
    (out / "runs.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    Console().print(f"Tables of {len(folders)} runs are in {out}")
    return out


def _write(out: Path, named: dict[str, pl.DataFrame]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, table in named.items():
        if name == "curves":
            table = table.select(column for column in _CURVE if column in table.columns)
        table.write_parquet(out / f"{name}.parquet", compression="zstd")


def _autobid_tables(folders: list[RunFolder]) -> dict[str, pl.DataFrame]:
    """Tables of all mechanisms; the summary anew from the scores, so that a table and its summary can never differ."""
    seen: list[str] = []
    for folder in folders:
        for mechanism in folder.read_table("summary")["mechanism"].unique().to_list():
            if mechanism in seen:
                raise ValueError(f"runs must have a mechanism once, got {mechanism!r} again in {folder.path.name}")
            seen.append(mechanism)
    # Runs made before `market` was kept lack it; a table of some mechanisms alone would mislead.
    names = [name for name in _TABLES if name != "market" or all(name in f.tables for f in folders)]
    found = {n: pl.concat([f.read_table(n) for f in folders], how="diagonal_relaxed") for n in names}
    return found | {"summary": protocol.summarise_all(found["scores"])}


_KEPT = ("config_sha256", "seeds", "wall_seconds", "packages", "python", "cpu_count", "xla_flags", "git", "command")
