"""Several runs of ``adarena run offline`` as one table, and its figure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adarena.experiments import gather, protocol
from adarena.experiments.offline import PRESETS
from adarena.experiments.store import RunFolder
from adarena.paper_figs import fig_markets, make, style

_MEANS = {"bc": 3.0, "ppo": 4.0, "constant": 1.0, "min_pacing": 2.0, protocol.BEST_CONSTANT: 5.0}
_BUDGETS = (0.5, 1.0, 1.5)
_KINDS = {"constant": "rule", "min_pacing": "rule", protocol.BEST_CONSTANT: "oracle"}


def _run(folder: Path, name: str, factor: float, **changes: object) -> str:
    """A finished run whose scores are ``_MEANS`` times ``factor`` and the budget; the bound is 10 times both."""
    rng, cases, parts = np.random.default_rng(0), 12, []
    budget = np.resize(_BUDGETS, cases)
    for policy, mean in _MEANS.items():
        kind = _KINDS.get(policy, "learner")
        for seed in (0, 1, 2) if kind == "learner" else (-1,):
            columns = dict.fromkeys(protocol.COLUMNS, np.ones(cases, np.float32))
            columns |= {"score": factor * budget * mean * (1.0 + 0.01 * rng.standard_normal(cases))}
            columns |= dict.fromkeys(("hindsight_score", "hindsight_value"), 10.0 * factor * budget)
            case = {"case": np.arange(cases), "market": np.arange(cases) // 6, "budget_scale": budget}
            who = {"policy": policy, "kind": kind, "seed": seed}
            parts.append(pl.DataFrame(case | columns).with_columns(**{k: pl.lit(v) for k, v in who.items()}))
    config = dataclasses.replace(PRESETS["smoke"], name=name, **changes)  # type: ignore[arg-type]
    with RunFolder.create(folder, config, name) as run:
        run.write_table("scores", pl.concat(parts))
    return str(folder / name)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    return _run(tmp_path, "dense", 1.0), _run(tmp_path, "sparse", 2.0, response="sampled")


def test_one_table_has_every_market_at_every_budget(runs: tuple[str, ...], tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=runs, out=str(tmp_path / "results")))
    assert sorted(path.name for path in out.iterdir()) == ["markets.parquet", "runs.json"]
    table = pl.read_parquet(out / "markets.parquet")
    rows = {
        (row["response"], row["budget_scale"], row["policy"]): row
        for row in table.iter_rows(named=True)
        if row["traffic"] == "calibrated" and row["mechanism"] == "gsp"
    }
    assert len(rows) == len(table) == 2 * 4 * (len(_MEANS) + 1)
    for factor, response in ((1.0, "expected"), (2.0, "sampled")):
        for budget in (None, *_BUDGETS):
            size = factor * (budget or 1.0)
            ppo, bound = (rows[response, budget, name] for name in ("ppo", "hindsight"))
            assert ppo["score"] == pytest.approx(4.0 * size, rel=0.1)
            assert ppo["score_low"] <= ppo["score"] <= ppo["score_high"]
            assert ppo["difference"] == pytest.approx(2.0 * size, rel=0.1), "less the best rule in that market"
            assert bound["score"] == pytest.approx(10.0 * size, rel=0.01)


def test_what_is_no_table_of_markets_is_refused(runs: tuple[str, ...], tmp_path: Path) -> None:
    twice = gather.GatherConfig(runs=(*runs, _run(tmp_path, "again", 1.0)), out=str(tmp_path / "results"))
    with pytest.raises(
        ValueError, match="runs must each be of another market, got calibrated expected gsp again in again"
    ):
        gather.run(twice)
    assert not (tmp_path / "results").exists()


def test_the_figure_shows_the_numbers_of_the_table(runs: tuple[str, ...], tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=runs, out=str(tmp_path / "results")))
    assert make.figures_of(out) == make.MARKETS_FIGURES
    figure = fig_markets.draw(out)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["Constant", "Min-pacing", "Behaviour cloning", "PPO"], "worst first, from below"
    assert len(figure.axes) == 2
    table = pl.read_parquet(out / "markets.parquet").filter(pl.col("budget_scale").is_null())
    for ax, response in zip(figure.axes, ("expected", "sampled"), strict=True):
        part = table.filter(pl.col("response") == response)
        scores = dict(part.select("policy", "score").iter_rows())
        shown = {bar.lines[0].get_ydata()[0]: bar.lines[0].get_xdata()[0] for bar in ax.containers}
        expected = [scores[name] / scores["hindsight"] for name in ("constant", "min_pacing", "bc", "ppo")]
        assert [shown[place] / 100.0 for place in range(4)] == pytest.approx(expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("all budgets", "budget 50%", "budget 150%"),
        style.look(protocol.BEST_CONSTANT).name,
    ]


def test_a_table_of_one_budget_is_drawn_and_one_without_a_column_refused(runs: tuple[str, ...], tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=runs, out=str(tmp_path / "results")))
    table = pl.read_parquet(out / "markets.parquet")
    kept = table.filter(pl.col("budget_scale").is_null() | (pl.col("budget_scale") == 1.0))
    kept.write_parquet(out / "markets.parquet")
    assert len(fig_markets.draw(out).legends[0].get_texts()) == 2
    kept.drop("response").write_parquet(out / "markets.parquet")
    with pytest.raises(ValueError, match="response not found"):
        fig_markets.draw(out)
