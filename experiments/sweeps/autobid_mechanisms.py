"""How much training the learner needs in each auction: PPO in AutoBid, three mechanisms by three lengths of training.

    adarena sweep experiments/sweeps/autobid_mechanisms.py --jobs 2

Nine cells; each tunes the same rules with the same search budget, trains three seeds, and compares both on the same markets,
so that scores of one mechanism can be subtracted from each other. Afterwards ``runs/sweeps/autobid_mechanisms`` holds a run
folder a cell, and ``cells.parquet`` with a row a cell: its folder, its state, ``config.mechanisms`` and ``config.train_steps``.
The score of each cell over its best rule is the row ``ppo`` of its table ``summary``:

    import polars as pl
    cells = pl.read_parquet("runs/sweeps/autobid_mechanisms/cells.parquet")
    for cell, steps in cells.select("cell", "config.train_steps").iter_rows():
        summary = pl.read_parquet(f"runs/sweeps/autobid_mechanisms/{cell}/summary.parquet")
        print(steps, summary.filter(policy="ppo").select("mechanism", "difference", "difference_low", "difference_high"))

The same without a file: ``adarena sweep autobid --grid mechanisms=gsp,first_price,vcg train_steps=100000,200000,400000
seeds=0+1+2 figures=false``.
"""

from __future__ import annotations

from collections.abc import Iterator

from adarena.experiments.autobid import AutoBidExperiment


def cells() -> Iterator[AutoBidExperiment]:
    """The configurations, the shortest trainings first."""
    for train_steps in (100_000, 200_000, 400_000):
        for mechanism in ("gsp", "first_price", "vcg"):
            yield AutoBidExperiment(mechanisms=(mechanism,), train_steps=train_steps, seeds=(0, 1, 2), figures=False)
