"""The figure of a campaign's life from made-up tables: drawn, the same bytes twice, the numbers of the table, refusals."""

from __future__ import annotations

from pathlib import Path

import made_up_lifecycle as made_up
import numpy as np
import polars as pl
import pytest

from adarena.agents.rules import LIFECYCLE_RULES
from adarena.envs.lifecycle_phases import PHASES
from adarena.paper_figs import fig_lifecycle, make, style
from adarena.paper_figs.provenance import provenance


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.write_tables(tmp_path_factory.mktemp("results"))


def test_a_folder_of_lives_gives_the_same_bytes(results: Path, tmp_path: Path) -> None:
    assert make.figures_of(results) == make.LIFECYCLE_FIGURES
    first = make.draw_all(results, tmp_path / "a")
    assert sorted(p.name for p in first) == ["lifecycle.json", "lifecycle.pdf", "lifecycle.png"]
    about = provenance(results, fig_lifecycle.NAME, fig_lifecycle.TABLE)
    again = style.save(fig_lifecycle.draw(results), tmp_path / "b", fig_lifecycle.NAME, about)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in first]


def test_days_are_sums_and_means_of_ticks() -> None:
    rows = made_up.life_table().filter(pl.col("policy") == "ppo")
    days = fig_lifecycle.daily(rows)
    assert days["day"].to_list() == list(range(made_up.DAYS))
    fourth = rows.filter((pl.col("day") >= 4.0) & (pl.col("day") < 5.0))
    assert fourth.height == made_up.TICKS
    assert days["spend"][4] == pytest.approx(fourth["spend"].sum())
    assert days["conversions"][4] == fourth["conversions"].sum()
    assert days["multiplier"][4] == pytest.approx(np.exp(np.log(fourth["multiplier"]).mean()))
    by_hand = (fourth["share_2"] * fourth["exposure"]).sum() / fourth["exposure"].sum()
    assert days["share_2"][4] == pytest.approx(by_hand)
    shares = days.select(f"share_{k}" for k in range(made_up.CREATIVES)).to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


def test_cost_over_target_by_hand() -> None:
    rows = made_up.life_table().filter(pl.col("policy") == "ppo")
    days = fig_lifecycle.daily(rows)
    spend, won = rows["spend"].to_numpy(), rows["conversions"].to_numpy()
    assert days["cost_over_target"][-1] == pytest.approx(spend.sum() / (95.0 * won.sum()))
    for day in (0, 2, 3, 29):  # the first three days have fewer before them
        part = slice(max(day - 2, 0) * made_up.TICKS, (day + 1) * made_up.TICKS)
        assert days["cost_over_target_days"][day] == pytest.approx(spend[part].sum() / (95.0 * won[part].sum())), day
    nothing = fig_lifecycle.daily(rows.with_columns(conversions=pl.lit(0.0)))
    assert nothing["cost_over_target"].is_nan().all()


def test_phases_lie_where_the_ticks_say() -> None:
    rows = made_up.life_table().filter(pl.col("policy") == "ppo")
    found = fig_lifecycle.phases_of(rows)
    assert [name for name, _, _ in found] == list(PHASES)
    assert [begins for _, begins, _ in found] == [0.0, 0.25, 2.5, 11.0]
    assert [ends for _, _, ends in found] == [0.25, 2.5, 11.0, 30.0]
    short = fig_lifecycle.phases_of(rows.filter(pl.col("tick") < 10))
    assert short == [("understanding", 0.0, 0.25), ("cold_start", 0.25, 1.25)]


def test_the_figure_shows_the_days(results: Path) -> None:
    figure = fig_lifecycle.draw(results)
    axes = np.asarray(figure.axes).reshape(6, 2)
    assert [ax.get_title(loc="left") for ax in axes[0]] == ["Chained rules", "PPO"]
    for column, policy in enumerate(("lifecycle_chained", "ppo")):
        days = fig_lifecycle.daily(made_up.life_table().filter(pl.col("policy") == policy))
        bars = axes[0, column].containers[0]
        np.testing.assert_allclose([bar.get_height() for bar in bars], days["spend"])
        lines = {line.get_label(): line for line in axes[2, column].lines}
        np.testing.assert_allclose(lines["cost, last three days"].get_ydata(), days["cost_over_target_days"])
        width = {line.get_label(): line for line in axes[4, column].lines}["audience width"]
        np.testing.assert_allclose(width.get_ydata(), 100.0 * days["width"])
    assert all(ax.get_ylabel() for ax in axes[:, 0])
    colours = {line.get_label(): line.get_color() for line in axes[5, 0].lines}
    others = {line.get_label(): line.get_color() for line in axes[5, 1].lines}
    named = [name for name in colours if name.startswith("creative")]
    assert len(named) == 4
    assert all(colours[name] == others[name] for name in named)  # a creative keeps its colour under all policies


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    table = made_up.life_table()
    table.drop("width").write_parquet(tmp_path / fig_lifecycle.TABLE)
    with pytest.raises(ValueError, match="width not found"):
        fig_lifecycle.draw(tmp_path)
    pl.concat([table, table.with_columns(case=pl.lit(4))]).write_parquet(tmp_path / fig_lifecycle.TABLE)
    with pytest.raises(ValueError, match="must hold one life for each policy"):
        fig_lifecycle.draw(tmp_path)


def test_every_rule_has_a_look_of_its_own() -> None:
    looks = [style.look(name) for name in (*LIFECYCLE_RULES, "ppo", "oracle")]
    assert len({look.name for look in looks}) == len(looks)
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
