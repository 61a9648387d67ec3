"""The lifecycle experiment, small: a run's stages after search and training, what reads its folder, statistics by hand.

The tuner, the learner and the oracle have tests of their own; here they are replaced by what they begin with, so that one
program is compiled.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import made_up_lifecycle as made_up
import numpy as np
import polars as pl
import pytest

from adarena.agents import ppo
from adarena.agents.policy import registered_policies
from adarena.agents.rules import LIFECYCLE_RULES, LifecycleRule
from adarena.agents.tuner import plan_of
from adarena.envs.lifecycle_phases import PHASES
from adarena.experiments import cli, gather, lifecycle, lifecycle_tables, protocol
from adarena.experiments.statistics import iqm
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = dataclasses.replace(
    lifecycle.PRESETS["smoke"],
    rivals=3,
    days=4,
    rules=("lifecycle_constant", "lifecycle_phases"),
    hidden=(8,),
    num_envs=2,
    minibatches=1,
    lives=3,
    name="tiny",
)


def untuned(env: Any, params: Any, names: Any, **rest: Any) -> protocol.TunedRules:
    assert rest["budget"] == TINY.tune_episodes
    assert rest["known"] is LIFECYCLE_RULES
    plan_of(rest["budget"], population=rest["population"], episodes=rest["episodes"], finalists=4)
    rows = {"policy": list(names), "parameters": ['{"width": 0.8}', '{"try_level": 0.5}']}
    return protocol.TunedRules({}, pl.DataFrame(rows))


def untrained(algorithm: Any, settings: Any, env: Any, params: Any, *, seeds: Any, **rest: Any) -> tuple[Any, Any]:
    """States of the right shapes with made-up numbers: their first would take a compilation."""
    assert algorithm is ppo
    assert rest["total_steps"] == TINY.train_steps
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> jax.Array:
        shape = (len(seeds), *leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), shape)
        return jnp.asarray(rng.uniform(0.1, 0.5, shape), leaf.dtype)

    states = jax.tree.map(fill, jax.eval_shape(lambda key: ppo.init(settings, env, params, key), jax.random.key(0)))
    ends = {name: jnp.full_like(states.action_low, end) for name, end in (("action_low", -1.0), ("action_high", 1.0))}
    curves = {"seed": list(seeds), "step": [96] * len(seeds), "episode_return": [1.0] * len(seeds)}
    return states.replace(**ends), pl.DataFrame(curves)


def all_knowing(env: Any, keys: jax.Array, params: Any) -> dict[str, Any]:
    assert not env.record
    return {name: np.full(len(keys), 1000.0, np.float32) for name in lifecycle_tables.METRICS}


def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "tune_rules", untuned)
    monkeypatch.setattr(lifecycle, "train_seeds", untrained)
    monkeypatch.setattr(lifecycle, "oracle", all_knowing)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        replaced(monkeypatch)
        return lifecycle.run(dataclasses.replace(TINY, runs=str(tmp_path_factory.mktemp("runs"))))


def test_run_folder_holds_every_table(run: Path) -> None:
    folder = RunFolder.open(run)
    assert folder.status == "done"
    assert {"tuning", "curves", "scores", "life", "summary"} == set(folder.tables)
    scores = folder.read_table("scores")
    assert set(scores["policy"]) == {*TINY.rules, "ppo", "oracle"}
    assert scores.height == TINY.lives * (2 + 2 + 1)  # two rules, two training seeds, the oracle
    assert sorted(p.name for p in (run / "figures").iterdir()) == ["lifecycle.json", "lifecycle.pdf", "lifecycle.png"]


def test_all_meet_the_same_lives(run: Path) -> None:
    scores = RunFolder.open(run).read_table("scores").filter(pl.col("kind") != "oracle")
    per_life = scores.group_by("case").agg(pl.col("target").n_unique(), pl.col("score").n_unique().alias("scores"))
    assert per_life["target"].to_list() == [1] * TINY.lives
    assert per_life["scores"].max() > 1  # and do different things in them
    assert scores["target"].n_unique() == TINY.lives


def test_the_life_shown_is_one_of_those_scored(run: Path) -> None:
    folder = RunFolder.open(run)
    scores, life = folder.read_table("scores"), folder.read_table("life")
    assert set(life["policy"]) == {protocol.best_rule(scores), "ppo"}
    assert life.height == 2 * TINY.days * TINY.ticks_per_day
    case = life["case"][0]
    assert case == lifecycle_tables.typical(scores, "ppo")
    for name in set(life["policy"]):
        rows = life.filter(pl.col("policy") == name)
        score = scores.filter((pl.col("policy") == name) & (pl.col("case") == case)).sort("seed").row(0, named=True)
        assert rows["conversions"].sum() == score["value"]
        assert rows["spend"].sum() == pytest.approx(score["cost"], rel=1e-5)
        assert rows["target"][0] == pytest.approx(score["target"])
        last = rows.sort("tick").row(-1, named=True)
        assert [last[f"passed_{p}"] for p in PHASES] == [score[f"success_{p}"] for p in PHASES]
        shares = rows.select(f"share_{k}" for k in range(TINY.creatives)).to_numpy()
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)


def test_resume_evaluates_nothing_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch)
    before = {name: RunFolder.open(run).read_table(name) for name in RunFolder.open(run).tables}
    for name in ("tune_rules", "draw_grid"):
        monkeypatch.setattr(protocol, name, None)  # calling it would fail
    lifecycle.run(dataclasses.replace(TINY, runs=str(run.parent)), resume=True)
    for name, table in before.items():
        assert RunFolder.open(run).read_table(name).equals(table), name


def test_gather_keeps_a_run(run: Path, tmp_path: Path) -> None:
    out = gather.run(gather.GatherConfig(runs=(str(run),), out=str(tmp_path / "results")))
    assert {path.stem for path in out.glob("*.parquet")} == set(RunFolder.open(run).tables)
    with pytest.raises(ValueError, match="runs must be one run where it is of lifecycle, got 2"):
        gather.run(gather.GatherConfig(runs=(str(run), str(run)), out=str(tmp_path / "twice")))


def test_summary_says_what_the_scores_say() -> None:
    scores = made_up.score_table()
    summary = {row["policy"]: row for row in lifecycle_tables.summarise(scores).iter_rows(named=True)}
    assert list(summary)[:3] == ["hindsight", "oracle", "ppo"]
    score = {name: protocol.matrix(scores, name) for name in made_up.QUALITY}
    best = score["lifecycle_chained"][0]
    row = summary["ppo"]
    assert row["score"] == pytest.approx(iqm(score["ppo"]))
    assert row["difference"] == pytest.approx(iqm(score["ppo"] - best))
    closed = (iqm(score["ppo"]) - iqm(best)) / (iqm(score["oracle"][0]) - iqm(best))
    assert row["headroom"] == pytest.approx(closed)
    assert row["headroom_low"] < row["headroom"] < row["headroom_high"]
    assert row["headroom_bound"] < row["headroom"]  # the bound is higher than the oracle
    assert row["seeds"] == 3
    for phase in PHASES:
        rows = protocol.matrix(scores, "ppo", f"success_{phase}")
        assert row[f"success_{phase}"] == pytest.approx(rows.mean())
    rule = summary["lifecycle_chained"]
    assert rule["difference"] == rule["difference_low"] == rule["headroom"] == 0.0
    assert summary["oracle"]["headroom"] == pytest.approx(1.0)
    first, second = lifecycle_tables.comparison(lifecycle_tables.summarise(scores))
    assert (first.row_count, second.row_count) == (len(made_up.QUALITY) + 1, len(made_up.QUALITY))


def test_the_life_shown_by_hand() -> None:
    rows = {"policy": ["ppo"] * 4, "seed": [0] * 4, "case": [0, 1, 2, 3], "score": [9.0, 5.0, 7.0, 6.0]}
    rows |= {f"success_{name}": [0.0, 1.0, 1.0, 1.0] for name in PHASES}
    other = pl.DataFrame(rows | {"seed": [1] * 4, "success_stable": [1.0] * 4})
    assert lifecycle_tables.typical(pl.concat([pl.DataFrame(rows), other]), "ppo") == 3


def test_rules_are_known_by_the_package() -> None:
    assert set(LIFECYCLE_RULES) <= set(registered_policies())
    assert all(issubclass(rule, LifecycleRule) for rule in LIFECYCLE_RULES.values())


BAD = [
    ({"rules": ("magic",)}, "rules must be among .*got 'magic'"),
    ({"rules": ()}, "rules must name at least one"),
    ({"seeds": (1, 1)}, "seeds must be distinct and not negative"),
    ({"seeds": ()}, "seeds must name at least one"),
    ({"lives": 1}, "lives must be a whole number of at least 2, got 1"),
    ({"chunk": 0}, "chunk must be a whole number of at least 1, got 0"),
    ({"tune_episodes": 20}, "budget must be at least 43 episodes .*got 20"),
    ({"initial_action": (0.0, 0.0)}, "initial_action must be 5 numbers"),
    ({"initial_action": (0.0, 0.0, 0.0, 0.0, 2.0)}, "initial_action must be 5 numbers"),
    ({"learning_rate": -1.0}, "learning_rate must be .*got -1.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_experiments_are_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


COMMANDS = [
    (["run", "lifecycle", "--preset", "huge"], "preset must be one of default, smoke, got 'huge'"),
    (["run", "lifecycle", "--preset", "smoke", "--lives", "0"], "lives must be a whole number of at least 2"),
    (["run", "lifecycle", "--preset", "smoke", "--days", "0"], "days must be"),
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
