"""What the tables of ``adarena bench`` share: how medians, ranges and cores are written."""

from __future__ import annotations

import numpy as np
import polars as pl
from rich.table import Table


def new_table(title: str, *columns: str, caption: str, left: int = 1) -> Table:
    """A table without rows; its first ``left`` columns are words, the others numbers."""
    table = Table(title=title, caption=caption, caption_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place >= left else "left")
    return table


def median(values: pl.Series, digits: int = 0) -> str:
    """The median, with commas."""
    return f"{np.median(values.to_numpy()):,.{digits}f}"


def most(values: pl.Series) -> str:
    """The largest, to a tenth."""
    return f"{values.to_numpy().max():.1f}"


def ratio(values: pl.Series) -> str:
    """``median (least-most)``."""
    low, middle, high = np.quantile(values.to_numpy(), (0.0, 0.5, 1.0))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def spread(rows: pl.DataFrame) -> str:
    """Least and most steps per second, over the median."""
    speed = rows["steps_per_second"].to_numpy()
    return f"{speed.min() / np.median(speed):.2f}-{speed.max() / np.median(speed):.2f}"


def cores(rows: pl.DataFrame) -> str:
    """CPU seconds over wall seconds."""
    return f"{rows['cpu_seconds'].to_numpy().sum() / rows['wall_seconds'].to_numpy().sum():.2f}"
