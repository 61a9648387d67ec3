"""Figures of cold start from made-up tables: drawn, the same bytes twice, the numbers of the tables, clear refusals."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import made_up_coldstart as made_up
import numpy as np
import polars as pl
import pytest

from adarena.experiments.coldstart_ab import DESIGNS
from adarena.paper_figs import fig_definitions, fig_frontier, fig_posterior, fig_revenue, fig_splits, make
from adarena.paper_figs.provenance import provenance


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.write_tables(tmp_path_factory.mktemp("results"))


def test_a_folder_says_whose_figures_it_holds(results: Path, tmp_path: Path) -> None:
    assert make.figures_of(results) == make.COLDSTART_FIGURES
    assert make.figures_of(tmp_path) == make.FIGURES


@pytest.mark.parametrize("name", ["coldstart", "lifecycle"])
def test_committed_tables_have_the_columns_that_figures_read(name: str) -> None:
    folder = make.style.DEFAULT_RESULTS.parent / name
    if not folder.is_dir():
        pytest.skip(f"{folder.name}: the committed results are not installed with the package")
    figures = make.figures_of(folder)
    assert figures != make.FIGURES
    for figure in figures:
        assert len(make.style.read(folder, figure.TABLE, figure.COLUMNS)) > 0, figure.NAME


def test_the_same_tables_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    first = make.draw_all(results, tmp_path / "a")
    assert sorted(p.name for p in first) == sorted(
        f"{m.NAME}.{e}" for m in make.COLDSTART_FIGURES for e in ("pdf", "png", "json")
    )
    again = fig_splits.draw(results)
    about = provenance(results, fig_splits.NAME, fig_splits.TABLE)
    paths = make.style.save(again, tmp_path / "b", fig_splits.NAME, about)
    assert [p.read_bytes() for p in paths] == [(tmp_path / "a" / p.name).read_bytes() for p in paths]


@pytest.mark.parametrize("module", make.COLDSTART_FIGURES, ids=lambda m: m.NAME)
def test_bad_tables_are_refused(module: ModuleType, results: Path, tmp_path: Path) -> None:
    lost = module.COLUMNS[-1]
    pl.read_parquet(results / module.TABLE).drop(lost).write_parquet(tmp_path / module.TABLE)
    with pytest.raises(ValueError, match=f"{lost} not found"):
        module.draw(tmp_path)


def test_frontier_shows_every_policy_at_every_budget(results: Path) -> None:
    left = fig_frontier.draw(results).axes[0]
    curves = {c.get_label(): c.lines[0] for c in left.containers}
    assert len(curves) == len(made_up.LIFT)
    table = made_up.frontier_table().filter(pl.col("policy") == "ppo")
    means = (
        table.group_by("exploration_budget")
        .agg(pl.col("success_rate").cast(pl.Float64).mean())
        .sort("exploration_budget")
    )
    np.testing.assert_allclose(curves["PPO"].get_ydata(), 100.0 * means["success_rate"], rtol=1e-6)


def test_intervals_by_definition() -> None:
    found = fig_definitions.intervals_of(made_up.score_table().filter(pl.col("kind") != "bound"), "success_50_7")
    assert set(found) == set(made_up.LIFT)
    assert all(one.low <= one.estimate <= one.high for one in found.values())
    assert found["sbl"].low < found["sbl"].high  # markets are resampled
    assert found["ppo"].low < found["ppo"].high  # training seeds are


def test_change_of_revenue() -> None:
    table = made_up.revenue_table()
    change = fig_revenue.change_of(table.filter(pl.col("policy") == "ppo"))
    assert len(change) == 14
    assert change[0].high < 0.0 < change[-1].low
    assert {one.estimate for one in fig_revenue.change_of(table.filter(pl.col("policy") == "none"))} == {0.0}


def test_one_ad_only(tmp_path: Path) -> None:
    table = made_up.posterior_table()
    pl.concat([table, table.with_columns(ad=pl.lit(4, pl.Int64))]).write_parquet(tmp_path / "posterior.parquet")
    with pytest.raises(ValueError, match="must hold one ad, got 2"):
        fig_posterior.draw(tmp_path)


def test_splits_show_estimates_in_order(results: Path) -> None:
    figure = fig_splits.draw(results)
    bars = next(c for c in figure.axes[0].containers if c.get_label() == "this market")
    assert len(bars.lines[0].get_ydata()) == len(DESIGNS)
