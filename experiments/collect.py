"""``adarena collect RUN ...``: the tables of several runs as one small results folder, for figures and the README."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import tyro
from rich.console import Console

from adarena.experiments import protocol
from adarena.experiments.store import RunFolder

_TABLES = ("scores", "summary", "curves", "day", "tuning")
_CURVE = ("mechanism", "seed", "step", "episode_return", "entropy", "explained_variance")


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Which runs to gather.

    Attributes:
        runs: Run folders of ``adarena run autobid``, one or more mechanisms each.
        out: Folder of the tables.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str = "paper_figs/results/autobid"


def run(config: CollectConfig) -> Path:
    """Gathers the tables of finished runs.

    Raises:
        ValueError: No run, or two runs of one mechanism.
        RunFolderError: A folder is no run, or is damaged, or is not finished.
    """
    if not config.runs:
        raise ValueError("runs must name at least one run folder, got none")
    folders = [RunFolder.open(Path(path)) for path in config.runs]
    seen: list[str] = []
    for folder in folders:
        for mechanism in folder.read_table("summary")["mechanism"].unique().to_list():
            if mechanism in seen:
                raise ValueError(f"runs must have a mechanism once, got {mechanism!r} again in {folder.path.name}")
            seen.append(mechanism)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in _TABLES:
        table = pl.concat([folder.read_table(name) for folder in folders], how="diagonal_relaxed")
        if name == "curves":
            table = table.select(column for column in _CURVE if column in table.columns)
        if name == "summary":  # from the scores, so that a table and its summary can never differ
            table = protocol.summarise_all(pl.read_parquet(out / "scores.parquet"))
        table.write_parquet(out / f"{name}.parquet", compression="zstd")
    about = [
        {"name": f.path.name, "config": f.config, "manifest": {k: f.manifest[k] for k in _KEPT if k in f.manifest}}
        for f in folders
    ]
    (out / "runs.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    Console().print(f"Tables of {len(folders)} runs are in {config.out}")
    return out


_KEPT = ("config_sha256", "seeds", "wall_seconds", "packages", "python", "cpu_count", "xla_flags", "git", "command")
