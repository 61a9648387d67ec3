"""The cold-start experiment, small: one run through every stage, what reads its folder, and its statistics by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import made_up_coldstart as made_up
import numpy as np
import polars as pl
import pytest

from adarena.agents import dual_q, ppo
from adarena.experiments import (
    cli,
    coldstart,
    coldstart_ab,
    coldstart_eval,
    coldstart_studies,
    coldstart_tables,
    gather,
)
from adarena.experiments.statistics import Bootstrap, headroom_or_nan, relative_difference
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = dataclasses.replace(
    coldstart.PRESETS["smoke"],
    rules=("none", "sbl"),
    learners=("dual_q",),
    dual_q_steps=352,
    dual_q_episodes=2,
    frontier_tune=True,
    name="tiny",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coldstart.run(dataclasses.replace(TINY, runs=str(tmp_path_factory.mktemp("runs"))))


def test_run_folder_holds_every_table(run: Path) -> None:
    folder = RunFolder.open(run)
    assert folder.status == "done"
    studies = {f"{name}{end}" for name in ("frontier", "sensitivity", "nulls", "ab") for end in ("", "_summary")}
    others = {"scores", "summary", "tuning", "learner_tuning", "curves", "revenue", "posterior"}
    assert studies | others == set(folder.tables)
    scores = folder.read_table("scores")
    assert set(scores["policy"]) == {"none", "sbl", "dual_q", "oracle", "hindsight"}
    assert scores.height == 2 * (2 + 2 + 1) + 1  # markets of two rules, two training seeds, the oracle; one bound
    summary = folder.read_table("summary")
    assert set(summary["kind"]) == {"rule", "learner", "oracle", "bound"}
    assert summary.filter(pl.col("policy") == "none")["vs_none"][0] == 0.0
    assert sorted(p.name for p in (run / "figures").iterdir() if p.suffix == ".png") == [
        *("definitions.png", "frontier.png", "posterior.png", "revenue.png", "splits.png"),
    ]


def test_no_support_equals_its_twin_and_costs_nothing(run: Path) -> None:
    none = RunFolder.open(run).read_table("scores").filter(pl.col("policy") == "none")
    for column in ("exploration_cost", "success_rate_gain"):
        assert none[column].abs().max() == 0.0, column
    for column in (
        "revenue_loss",
        "mature_value_loss",
        "welfare_gain",
    ):  # sums of the two markets may round differently
        assert none[column].abs().max() < 1e-6, column
    revenue = RunFolder.open(run).read_table("revenue").filter(pl.col("policy") == "none")
    np.testing.assert_allclose(revenue["revenue"], revenue["revenue_twin"], rtol=1e-6)
    assert revenue["revenue"].sum() > 0.0


def test_without_a_budget_all_policies_coincide(run: Path) -> None:
    nulls = RunFolder.open(run).read_table("nulls_summary")
    assert nulls.filter(pl.col("null") == "no_budget")["largest_difference"].to_list() == [0.0] * 4
    assert nulls.filter(pl.col("null") == "no_budget")["learned"].to_list() == [None] * 4
    frontier = RunFolder.open(run).read_table("frontier").filter(pl.col("exploration_budget") == 0.0)
    assert frontier.group_by("market").agg(pl.col("success_rate", "revenue").n_unique())["revenue"].to_list() == [1, 1]


def test_what_learning_adds_is_the_difference_of_differences(run: Path) -> None:
    folder = RunFolder.open(run)
    scores, nulls = folder.read_table("nulls"), folder.read_table("nulls_summary")
    rate = {key: rows["success_rate"].mean() for key, rows in scores.group_by("null", "evidence", "policy")}
    shown = nulls.filter((pl.col("evidence") == 1.0) & (pl.col("null") != "no_budget"))
    assert shown.height == 2 * 4
    for row in shown.iter_rows(named=True):
        null, name = row["null"], row["policy"]
        heard, deaf = (rate[null, x, name] - rate[null, x, "none"] for x in (1.0, 0.0))
        assert row["learned"] == pytest.approx(heard - deaf, abs=1e-9)
        assert row["learned_low"] <= row["learned"] <= row["learned_high"]
    known = nulls.filter(pl.col("null") == "perfect_priors")
    assert known["learned"].drop_nulls().abs().max() == 0.0
    money = {key: rows["revenue_twin"].sum() for key, rows in scores.group_by("null", "evidence")}
    assert money["default", 1.0] != money["default", 0.0]  # the platform bids by what it predicts


def test_sensitivity_moves_one_thing_at_a_time(run: Path) -> None:
    table = RunFolder.open(run).read_table("sensitivity")
    levels = table.group_by("factor").agg(pl.col("level").n_unique()).sort("factor")
    assert dict(levels.iter_rows()) == {"competition": 2, "content_quality": 3, "default": 1, "delay": 2}
    twin = table.filter(pl.col("policy") == "none").group_by("factor", "level").agg(pl.col("revenue_twin").sum())
    by = {(factor, level): amount for factor, level, amount in twin.iter_rows()}
    low, high = (by["competition", level] for level in coldstart_studies.COMPETITION)
    assert low < by["default", 0.0] < high  # who bids more pays more


def test_resume_goes_on_where_the_run_was(run: Path) -> None:
    before = {name: RunFolder.open(run).read_table(name) for name in ("scores", "tuning", "curves")}
    coldstart.run(dataclasses.replace(TINY, runs=str(run.parent), studies=TINY.studies, figures=True), resume=True)
    for name, table in before.items():
        assert (
            RunFolder.open(run)
            .read_table(name)
            .drop("wall_seconds", strict=False)
            .equals(table.drop("wall_seconds", strict=False))
        ), name


def test_gather_keeps_a_run(run: Path, tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=(str(run),), out=str(tmp_path / "results")))
    assert {path.stem for path in out.glob("*.parquet")} == set(RunFolder.open(run).tables)
    with pytest.raises(ValueError, match="runs must be one run where it is of coldstart, got 2"):
        gather.run(gather.GatherConfig(runs=(str(run), str(run)), out=str(tmp_path / "twice")))


def test_split_sums_add_up(run: Path) -> None:
    table = RunFolder.open(run).read_table("ab").filter(pl.col("policy") == "sbl").sort("market")
    scores = RunFolder.open(run).read_table("scores").filter(pl.col("policy") == "sbl").sort("market")
    design = {name: table.filter(pl.col("design") == name) for name in coldstart_ab.DESIGNS}
    assert (design["user_side"].select("on_ads", "off_ads").to_numpy() == TINY.launched).all()
    for name in ("ad_side", "two_sided"):
        assert (design[name]["on_ads"] + design[name]["off_ads"] == TINY.launched).all()
    # The truth's arms are the market and its twin: what the scores say of the same policy on the same markets.
    truth = design["truth"]
    gain = (truth["on_successes"] - truth["off_successes"]) / TINY.launched
    np.testing.assert_allclose(gain, scores["success_rate_gain"], atol=1e-6)
    np.testing.assert_allclose(truth["on_expected"] / TINY.launched, scores["expected_conversions"], rtol=1e-4)
    # Without support arms are two parts of one market: together they have its conversions, whoever the users are.
    users = design["user_side"]
    both = 0.5 * (users["twin_on_conversions"] + users["twin_off_conversions"])
    np.testing.assert_allclose(both, truth["twin_on_conversions"], rtol=1e-5)


def test_split_tests_need_a_twin() -> None:
    env, _ = TINY.make()
    with pytest.raises(ValueError, match="twin must be True for split tests, got False"):
        coldstart_ab.watched(env)


BAD = [
    ({"rules": ("magic",)}, "rules must be among .*got 'magic'"),
    ({"rules": ("sbl",)}, "rules must hold 'none'"),
    ({"learners": ()}, "learners must name at least one"),
    ({"learners": ("dqn",)}, "learners must be among ppo, dual_q, es, got 'dqn'"),
    ({"studies": ("gossip",)}, "studies must be among"),
    ({"seeds": (1, 1)}, "seeds must be distinct and not negative"),
    ({"markets": 0}, "markets must be a whole number of at least 1, got 0"),
    ({"chunk": 0}, "chunk must be a whole number of at least 1, got 0"),
    ({"bound_markets": 3}, r"bound_markets must be at most markets \(2\), got 3"),
    ({"frontier": (-0.1,)}, r"frontier must lie in \[0, 1\]"),
    ({"new_shares": (1.0,)}, r"new_shares must lie in \(0, 1\)"),
    ({"network": "cnn"}, "network must be one of mlp, deep_sets, attention, got 'cnn'"),
    ({"es_population": 3}, "population must be an even whole number"),
    ({"learning_rate": -1.0}, "learning_rate must be .*got -1.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_experiments_are_refused_before_anything_runs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]


COMMANDS = [
    (["run"], "run takes the name of an experiment (autobid, coldstart, lifecycle, offline, ope), got 'nothing'"),
    (["run", "warmstart"], "got 'warmstart'"),
    (["run", "coldstart", "--preset", "huge"], "preset must be one of default, smoke, paper, got 'huge'"),
    (["run", "coldstart", "--preset", "smoke", "--exploration-budget", "-1"], "exploration_budget must be"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS)
def test_bad_commands_end_with_a_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_relative_difference_by_hand() -> None:
    learner, rule = np.array([[0.30, 0.34], [0.26, 0.30]]), np.array([0.20, 0.28])
    found = relative_difference(learner, rule, np.mean)
    assert found.estimate == pytest.approx(0.30 / 0.24 - 1.0)
    assert found.low == pytest.approx(0.28 / 0.24 - 1.0)
    assert found.high == pytest.approx(0.32 / 0.24 - 1.0)
    assert np.isnan(relative_difference(rule, np.zeros(2), np.mean).estimate)
    markets = relative_difference(rule, rule / 1.25, np.mean, options=Bootstrap(resample="markets"))
    assert markets == pytest.approx((0.25, 0.25, 0.25))  # a ratio that every market agrees on


def test_headroom_or_nan() -> None:
    best = np.array([0.2, 0.3])
    assert headroom_or_nan(best + 0.05, best, best + 0.1, np.mean).estimate == pytest.approx(0.5)
    assert np.isnan(headroom_or_nan(best, best, best, np.mean).estimate)
    open_ended = headroom_or_nan(
        best, best, best + np.array([0.2, -0.1]), np.mean, options=Bootstrap(resample="markets")
    )
    assert open_ended.estimate == 0.0
    assert np.isnan(open_ended.low)


def test_summary_says_what_the_scores_say() -> None:
    scores = made_up.score_table()
    summary = {row["policy"]: row for row in coldstart_tables.summarise(scores).iter_rows(named=True)}
    rate = {
        name: float(scores.filter(pl.col("policy") == name)["success_rate"].cast(pl.Float64).mean()) for name in summary
    }  # type: ignore[arg-type]
    ppo = summary["ppo"]
    assert ppo["success_rate"] == pytest.approx(rate["ppo"])
    assert ppo["vs_none"] == pytest.approx(rate["ppo"] - rate["none"])
    assert ppo["vs_best_relative"] == pytest.approx(rate["ppo"] / rate["rescue"] - 1.0)
    assert ppo["gap_closed"] == pytest.approx((rate["ppo"] - rate["rescue"]) / (rate["oracle"] - rate["rescue"]))
    assert ppo["vs_best_relative_low"] < ppo["vs_best_relative"] < ppo["vs_best_relative_high"]
    assert summary["rescue"]["vs_best_relative_low"] == 0.0
    assert summary["hindsight"]["success_rate"] == pytest.approx(0.7)
    assert ppo["cost_share"] == pytest.approx(0.01)
    assert ppo["seeds"] == 3


def test_splits_say_what_the_sums_say() -> None:
    table = made_up.split_table(markets=40)
    summary = coldstart_tables.summarise_splits(table)
    arms = ("on", "off", "twin_on", "twin_off")
    total = table.group_by("policy", "design").agg(pl.col(f"^({'|'.join(arms)})_(ads|successes)$").sum())
    rates = {
        (row["policy"], row["design"]): [row[f"{arm}_successes"] / row[f"{arm}_ads"] for arm in arms]
        for row in total.iter_rows(named=True)
    }
    by_hand = {who: on - off - (twin_on - twin_off) for who, (on, off, twin_on, twin_off) in rates.items()}
    rows = summary.filter(pl.col("outcome") == "successes").to_dicts()
    assert len(rows) == len(by_hand) == 12
    for row in rows:
        on, off = rates[row["policy"], row["design"]][:2]
        assert row["read"] == pytest.approx(on - off)
        assert row["estimate"] == pytest.approx(by_hand[row["policy"], row["design"]])
        assert row["error"] == pytest.approx(row["estimate"] - by_hand[row["policy"], "truth"])
        assert row["estimate_low"] < row["estimate"] < row["estimate_high"]
        assert row["published"] == coldstart_ab.PUBLISHED[row["design"]]
    truth = summary.filter(pl.col("design") == "truth")
    assert truth["error"].abs().max() == truth["error_high"].abs().max() == 0.0


def test_contestants_keep_names_and_order() -> None:
    everyone = some_rules(*TINY.market())
    assert everyone.names == ("none", "sbl", "ucb", "oracle")
    assert everyone.only(("ucb", "none")).names == ("none", "ucb")
    np.testing.assert_array_equal(everyone.only(("ucb", "none")).policies.choice, [0.0, 2.0])
    assert [kind for _, kind, _ in everyone.who] == ["rule", "rule", "rule", "oracle"]


def some_rules(env: Any, params: Any) -> coldstart_eval.Contestants:
    blind, _ = TINY.make()
    rules = {name: coldstart.COLDSTART_RULES[name].build(blind) for name in ("none", "sbl", "ucb")}
    oracles = {name: kind.build(env) for name, kind in coldstart.ORACLES.items()}
    return coldstart_eval.contestants(env, rules, {}, (), oracles)


def test_only_oracles_see_the_truth() -> None:
    env, params = TINY.market()
    everyone = some_rules(env, params)
    rng = np.random.default_rng(0)
    context, items, _ = env.layout.split(jnp.asarray(rng.random(env.observation_space(params).shape), jnp.float32))
    items = items.at[:, 0].set(1.0)
    lied_to = items.at[:, -len(coldstart_eval.TRUTH) :].add(1.0)
    for row, (name, kind, _) in enumerate(everyone.who):
        policy = jax.tree.map(lambda x, row=row: x[row], everyone.policies)
        key, carry = jax.random.key(0), policy.init(params)
        one, other = (policy.act(key, carry, env.layout.join(context, x))[1] for x in (items, lied_to))
        assert (kind == "oracle") == bool((one != other).any()), name


def test_a_setting_that_would_change_nothing_is_refused() -> None:
    _, params = TINY.make()
    with pytest.raises(ValueError, match=r"settings must be of exploration_budget.*got 'content'"):
        coldstart_eval.cases_of(0, 1, params, [{}, {"content": 1.0}])


def untrained(name: str) -> Any:
    """A learner's policy for the tiny market, two seeds of it, all numbers alike."""
    algorithm: Any = {"ppo": ppo, "dual_q": dual_q}[name]
    (env, params), config = TINY.make(), TINY.learner_config(name)

    def fill(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), (2, *leaf.shape))
        return jnp.full((2, *leaf.shape), 0.3, leaf.dtype)

    shapes = jax.eval_shape(lambda key: algorithm.init(config, env, params, key), jax.random.key(0))
    return algorithm.make_policy(config, env, jax.tree.map(fill, shapes))


def test_new_ads_of_another_number() -> None:
    sizes = coldstart_studies.sizes_of(TINY, 0.5)
    assert sizes == {"mature": 9, "launched": 9}
    (env, _), (other, params) = TINY.market(), TINY.market(**sizes)
    rules = {name: coldstart.COLDSTART_RULES[name].build(TINY.make()[0]) for name in ("none", "ucb")}
    oracles = {name: kind.build(env) for name, kind in coldstart.ORACLES.items()}
    learners = {name: untrained(name) for name in ("ppo", "dual_q")}
    moved = coldstart_studies.resized(coldstart_eval.contestants(env, rules, learners, (0, 1), oracles), other)
    obs = jnp.zeros(other.observation_space(params).shape)
    for row in range(len(moved.who)):
        policy = jax.tree.map(lambda x, row=row: x[row], moved.policies)
        assert policy.act(jax.random.key(0), policy.init(params), obs)[1].shape == other.action_space(params).shape
