"""The main job, small: one run through every stage, then what reads its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adarena.agents.rules import RULES
from adarena.experiments import auctionnet, autobid, cli, evaluate, gather, protocol, results
from adarena.experiments.report.day import days_of
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = dataclasses.replace(
    autobid.PRESETS["smoke"],
    impressions=8,
    train_steps=1536,
    num_envs=16,
    budgets=(0.5, 1.5),
    seat_step=24,
    markets=1,
    name="tiny",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(TINY, runs=str(tmp_path_factory.mktemp("runs")))
    return autobid.run(config)


def test_run_folder_holds_every_table(run: Path) -> None:
    folder = RunFolder.open(run)
    assert folder.status == "done"
    scores = folder.read_table("scores")
    cases = 2 * 2
    assert scores.height == cases * (2 + 2 + 1)  # two rules, two training seeds, the best constant
    assert set(scores["policy"]) == {"constant", "min_pacing", "ppo", "best_constant"}
    assert np.isfinite(scores["score"].to_numpy()).all()
    assert (scores["cost"] <= scores["budget"] * (1 + 1e-5)).all()
    assert (scores["hindsight_score"] >= scores["hindsight_value"] - 1e-4).all()
    summary = folder.read_table("summary")
    assert set(summary["kind"]) == {"rule", "learner", "oracle", "bound"}
    assert summary.filter(pl.col("kind") == "rule")["headroom"].max() == pytest.approx(0.0, abs=1e-9)
    curves = folder.read_table("curves")
    assert curves["step"].max() == TINY.train_steps
    assert any((run / "figures").iterdir())


def test_the_market_of_the_day_holds_every_advertiser_and_can_be_played_again(run: Path) -> None:
    folder = RunFolder.open(run)
    market, one = folder.read_table("market"), folder.read_table("day").sort("policy", "tick")
    assert market.height == 2 * 48 * 48  # two policies, ticks, advertisers
    seat = market.filter(pl.col("kind") == "seat").sort("policy", "tick")
    for name in ("spend", "value", "multiplier", "budget"):
        np.testing.assert_allclose(seat[name].to_numpy(), one[name].to_numpy(), rtol=1e-6, err_msg=name)
    sums = market.group_by("policy", "tick").agg(pl.col("spend", "exposure").sum()).sort("policy", "tick")
    price = sums["spend"].to_numpy() / np.maximum(sums["exposure"].to_numpy(), 1e-9)
    np.testing.assert_allclose(price, one["price"].to_numpy(), rtol=1e-4)
    spent = market.group_by("policy", "advertiser").agg(pl.col("spend").sum(), pl.col("budget").first())
    assert (spent["spend"] <= spent["budget"] * (1 + 1e-5)).all()
    # A folder that was written before markets were kept.
    old = results.read(run)
    old.tables.pop("market")
    (again,) = days_of([old])
    rule = one.filter(pl.col("policy") != "ppo")
    played = again.table.filter(pl.col("kind") == "seat").sort("tick")
    assert played["policy"].unique().to_list() == rule["policy"].unique().to_list()
    np.testing.assert_allclose(played["spend"].to_numpy(), rule["spend"].to_numpy(), rtol=1e-4, atol=1e-3)


def test_a_policy_is_scored_on_paired_cases(run: Path) -> None:
    scores = RunFolder.open(run).read_table("scores")
    keys = ["case", "market", "seat", "budget_scale", "target", "budget"]
    one = scores.filter(pl.col("policy") == "constant").select(keys)
    for seed in (0, 1):
        other = scores.filter((pl.col("policy") == "ppo") & (pl.col("seed") == seed)).select(keys)
        assert one.equals(other)


def test_best_constant_is_no_worse_than_any_constant(run: Path) -> None:
    trained = evaluate.experiment_of(RunFolder.open(run))
    env, params = trained.make("gsp", "test")
    best = RunFolder.open(run).read_table("scores").filter(pl.col("policy") == "best_constant").sort("case")
    limit = float(np.log(params.max_multiplier))
    built = RULES["constant"].build(env)
    levels = {str(share): built.replace(start=share * limit, start_richness=0.0) for share in (-0.5, 0.0, 0.25)}
    rules = protocol.evaluate_rules(env, params, levels, trained.cases(params))
    for name in levels:
        assert (best["score"].to_numpy() >= protocol.matrix(rules, name)[0] - 1e-4).all()
    assert len({*best["score"].to_numpy() / protocol.matrix(rules, "0.0")[0]}) > 1


def test_resume_of_a_finished_run_changes_no_score(run: Path) -> None:
    before = RunFolder.open(run).read_table("scores")
    config = evaluate.experiment_of(RunFolder.open(run))
    assert config.name == "tiny"
    autobid.run(dataclasses.replace(config, runs=str(run.parent)), resume=True)
    assert RunFolder.open(run).read_table("scores").equals(before)


def test_evaluate_rebuilds_the_policies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = evaluate.EvaluateConfig(run=str(run), market_seed=TINY.market_seed, markets=1)
    again = evaluate.run(config)
    before = RunFolder.open(run).read_table("scores")
    for name in ("min_pacing", "ppo"):
        np.testing.assert_allclose(
            protocol.matrix(again, name), protocol.matrix(before, name), rtol=1e-4, err_msg=f"{name} changed"
        )
    assert "conversions" in capsys.readouterr().out


def test_gather_keeps_runs(run: Path, tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=(str(run),), out=str(tmp_path / "results")))
    assert pl.read_parquet(out / "scores.parquet").height == RunFolder.open(run).read_table("scores").height
    with pytest.raises(ValueError, match="runs must have a mechanism once, got 'gsp' again"):
        gather.run(gather.GatherConfig(runs=(str(run), str(run)), out=str(tmp_path / "twice")))


BAD = [
    ({"mechanisms": ("dutch",)}, "mechanisms must be among .*got 'dutch'"),
    ({"mechanisms": ()}, "mechanisms must name at least one"),
    ({"rules": ("magic",)}, "rules must be among .*got 'magic'"),
    ({"seeds": ()}, "seeds must name at least one"),
    ({"seeds": (1, 1)}, "seeds must be distinct and not negative"),
    ({"train_steps": 0}, "train_steps must be a whole number of at least 1, got 0"),
    ({"markets": -1}, "markets must be a whole number of at least 1, got -1"),
    ({"budgets": (0.0,)}, r"budgets must lie in \(0, 100\), got"),
    ({"learning_rate": -1.0}, "learning_rate must be .*got -1.0"),
    ({"num_envs": 10, "minibatches": 4}, "num_envs must be a multiple of minibatches"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_experiments_are_refused_before_anything_runs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]


COMMANDS = [
    (["fly"], "no command is called 'fly'"),
    (["run"], "run takes the name of an experiment"),
    (["run", "autobid", "--preset", "huge"], "preset must be one of default, smoke, paper, auctionnet, got 'huge'"),
    (["run", "autobid", "--preset"], "--preset takes a value"),
    (["run", "autobid", "--mechanisms", "dutch"], "mechanisms must be among"),
    (["evaluate", "no-such-run"], "no-such-run"),
    (["figures", "--results", "no-such-folder"], "results must be a folder"),
    (["envs", "all"], "envs takes no arguments"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS)
def test_bad_commands_end_with_a_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_and_envs(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    assert "adarena run autobid" in capsys.readouterr().out
    cli.main(["envs"])
    assert "adarena/AutoBid-v0" in capsys.readouterr().out


def test_the_learner_of_a_run_plays_in_auctionnets_market(run: Path) -> None:
    config = auctionnet.AuctionNetConfig(policy=(f"run:{run}", "constant"), markets=1, seats=2, tune_episodes=0)
    market = {"impressions": 32, "tick_blocks": 2, "blocks": 4, "daily_impressions": 2000.0}
    scores = auctionnet.run(config, **market)
    learner = scores.filter(pl.col("policy") == f"ppo ({run.name})")
    assert set(learner["seed"]) == {0, 1}
    assert learner.height == 2 * 2
    assert np.isfinite(learner["score"].to_numpy()).all()
    with pytest.raises(ValueError, match=f"policy run:{run} must have learned from the"):
        auctionnet.run(config, **market, categories=3)
