"""Learning curves for TensorBoard (``tensorboard --logdir runs``), by tensorboardX: ``pip install 'adarena[tensorboard]'``."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path

import polars as pl

_NAMES = ("mechanism", "policy", "seed")


def available() -> bool:
    """Whether tensorboardX is installed."""
    return importlib.util.find_spec("tensorboardX") is not None


def write(curves: pl.DataFrame, folder: Path) -> None:
    """Writes learning curves, replacing those that are there.

    Each mechanism, policy and seed is a run of its own in TensorBoard, ``folder/MECHANISM/POLICY/seed SEED`` (those of the
    three that the table has), and each other column of numbers a scalar. Numbers that are not finite are left out.

    Args:
        curves: A row a seed and step; ``step`` in environment or gradient steps.
        folder: Where to write; nothing else may lie there.

    Raises:
        ImportError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError("logs for TensorBoard need tensorboardX: pip install 'adarena[tensorboard]'") from error
    if folder.exists():
        shutil.rmtree(folder)
    names = [name for name in _NAMES if name in curves.columns]
    scalars = [name for name in curves.columns if name not in (*_NAMES, "step") and curves[name].dtype.is_numeric()]
    for values, rows in curves.group_by(names, maintain_order=True) if names else [((), curves)]:
        parts = [f"seed {value}" if name == "seed" else str(value) for name, value in zip(names, values, strict=True)]
        with SummaryWriter(str(folder.joinpath(*parts))) as writer:
            for row in rows.iter_rows(named=True):
                for scalar in scalars:
                    if row[scalar] is not None and math.isfinite(row[scalar]):
                        writer.add_scalar(scalar, row[scalar], row["step"])
