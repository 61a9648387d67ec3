"""The one look of every figure: names and colours of policies, sizes, reading tables, saving without time stamps."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tyro
from matplotlib import style as mpl_style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adarena.envs.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from adarena.experiments.statistics import Interval
from adarena.experiments.whole_files import json_bytes, write_whole
from adarena.paper_figs.provenance import metadata, provenance

WIDTH = 7.0
"""Inches: the text width of a two-column paper."""

DEFAULT_RESULTS = Path(__file__).parent / "results" / "autobid"
"""The committed results of the full protocol, from which figures redraw."""

FORMATS = ("pdf", "png")
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so letters are the same on every machine
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT_GREY,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # journals refuse type 3
    "svg.hashsalt": "adarena",  # else names in the file are drawn by chance
    "savefig.dpi": 200,
}


class Look(NamedTuple):
    """How a policy is shown.

    Attributes:
        name: What a reader calls it.
        colour: Hexadecimal.
        marker: Matplotlib's marker.
    """

    name: str
    colour: str
    marker: str


_LOOKS = {
    "random": Look("Random", GREY, "x"),
    "constant": Look("Constant", BLACK, "s"),
    "budget_pacer": Look("Budget pacer", SKY, "^"),
    "pid_target": Look("PID on target", GREEN, "v"),
    "pid_pacing": Look("PID on pacing", GREEN, "^"),
    "dual_descent": Look("Dual descent", SKY, "D"),
    "min_pacing": Look("Min-pacing", BLUE, "s"),
    "online_lp": Look("Online LP", BLUE, "P"),
    "landscape_shader": Look("Landscape shader", BLUE, "d"),
    "best_constant": Look("Best constant in hindsight", BLACK, "*"),
    "ppo": Look("PPO", VERMILION, "o"),
    "sb3_ppo": Look("SB3 PPO", ORANGE, "o"),
    "sb3_sac": Look("SB3 SAC", PURPLE, "o"),
    "none": Look("No support", BLACK, "x"),
    "constant_boost": Look("Constant boost", GREY, "s"),
    "decaying_boost": Look("Decaying boost", GREY, "v"),
    "protected": Look("Protected traffic", SKY, "^"),
    "protected_least_learnt": Look("Protected, least learnt", SKY, "D"),
    "ucb": Look("UCB on eCPM", GREEN, "^"),
    "thompson": Look("Thompson sampling", GREEN, "v"),
    "auction_ucb": Look("AuctionUCB", GREEN, "P"),
    "sbl": Look("SBL dual descent", BLUE, "s"),
    "uplift": Look("Uplift-targeted", BLUE, "d"),
    "rescue": Look("Rescue", PURPLE, "D"),
    "lifecycle_constant": Look("Constant controls", GREY, "s"),
    "lifecycle_thompson": Look("Thompson mix", GREEN, "v"),
    "lifecycle_target": Look("Target and pacing", SKY, "^"),
    "lifecycle_phases": Look("Phase machine", BLUE, "s"),
    "lifecycle_chained": Look("Chained rules", BLUE, "d"),
    "dual_q": Look("Q by ad, fund priced", VERMILION, "D"),
    "es": Look("Evolution strategy", ORANGE, "o"),
    "oracle": Look("Oracle (true rates)", BLACK, "*"),
    "bc": Look("Behaviour cloning", GREY, "o"),
    "td3_bc": Look("TD3+BC", GREEN, "o"),
    "cql": Look("CQL", GREEN, "X"),
    "iql": Look("IQL", GREEN, "h"),
    "decision_transformer": Look("Decision Transformer", ORANGE, "o"),
    "gave": Look("GAVE", SKY, "^"),
    "gas": Look("GAS", BLUE, "s"),
    "diffusion": Look("Diffusion planner", PURPLE, "o"),
    "reasoner": Look("Reasoning bidder", BLACK, "P"),
}
_OTHERS = (PURPLE, ORANGE, GREEN, SKY)
_MECHANISMS = {"gsp": "GSP", "first_price": "First price", "second_price": "Second price", "vcg": "VCG"}


def look(policy: str) -> Look:
    """Name, colour and marker of a policy; one that is not known keeps its name and always gets the same colour."""
    if policy in _LOOKS:
        return _LOOKS[policy]
    return Look(policy, _OTHERS[zlib.crc32(policy.encode()) % len(_OTHERS)], "X")


def mechanism_name(mechanism: str) -> str:
    """What a reader calls an auction."""
    return _MECHANISMS.get(mechanism, mechanism)


def mechanisms_of(table: pl.DataFrame) -> list[str]:
    """The auctions in a table, in the order in which every figure shows them."""
    order = list(_MECHANISMS)
    found = table["mechanism"].unique().to_list()
    return sorted(found, key=lambda m: (order.index(m) if m in order else len(order), m))


def read(results: Path, table: str, columns: Sequence[str]) -> pl.DataFrame:
    """Reads a table of a results folder.

    Args:
        results: The folder.
        table: Name of the file.
        columns: Columns that must be there.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: It is empty or lacks a column.
    """
    path = Path(results) / table
    if not path.is_file():
        raise FileNotFoundError(f"no table {table} in {results}")
    frame = pl.read_parquet(path)
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(columns)}; {', '.join(missing)} not found")
    if frame.is_empty():
        raise ValueError(f"{path} must hold at least one row, got none")
    return frame


@contextmanager
def styled() -> Iterator[None]:
    """Within it, matplotlib has this look, whatever the user's own settings are."""
    with mpl_style.context(["default", _STYLE]):
        yield


def grid(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the text's width and its axes ``[rows, columns]``, without pyplot's global state.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        height: Inches.
        **options: What ``Figure.subplots`` takes.
    """
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def errors(intervals: Sequence[Interval]) -> np.ndarray:
    """``[2, n]`` lengths of error bars below and above the estimates; NaN where an interval has no ends.

    An expanded interval of few units may leave its estimate out by rounding: such a bar gets length 0.
    """
    ends = [(one.estimate - one.low, one.high - one.estimate) for one in intervals]
    return np.maximum(np.asarray(ends, np.float64).T.reshape(2, -1), 0.0)


def save(figure: Figure, out: Path, name: str, about: dict[str, Any] | None = None) -> list[Path]:
    """Writes ``name.pdf``, ``name.png`` (200 dots an inch) and ``name.json`` (what made it) into ``out``.

    The same figure of the same results gives the same bytes.

    Args:
        figure: The figure.
        out: Folder, made if need be.
        name: File name without its ending.
        about: What `adarena.paper_figs.provenance.provenance` says; without it, no ``name.json`` is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{ending}" for ending in FORMATS]
    with styled():
        for path, ending in zip(paths, FORMATS, strict=True):
            figure.savefig(path, format=ending, metadata=metadata(about or {}, ending))
    if about:
        paths.append(out / f"{name}.json")
        write_whole(paths[-1], json_bytes(about))
    return paths


def picture(figure: Figure, ending: str) -> bytes:
    """The content of a figure's file, for a page; the same figure gives the same bytes.

    Args:
        figure: The figure.
        ending: ``"svg"`` or ``"png"``.
    """
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format=ending, metadata=metadata({}, ending))
    return content.getvalue()


def script(draw: Callable[[Path], Figure], name: str, table: str) -> None:
    """The command line of a figure's script: ``[RESULTS [OUT]]``, prints what it wrote."""

    def main(
        results: tyro.conf.Positional[Path] = DEFAULT_RESULTS, out: tyro.conf.Positional[Path] = Path(".")
    ) -> None:
        """Draws one figure.

        Args:
            results: Folder with the tables.
            out: Folder for the pictures.
        """
        for path in save(draw(results), out, name, provenance(results, name, table)):
            print(path)

    tyro.cli(main)
