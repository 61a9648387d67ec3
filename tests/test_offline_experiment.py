"""``adarena run offline``: what it makes of scores, what it refuses, and a run from log to tables."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from offline_chain import chain_data

from adarena.agents.normalise import normalise
from adarena.agents.offline import bc
from adarena.agents.offline.returns import Meter
from adarena.agents.offline.thoughts import READ, Reader
from adarena.experiments import offline, offline_search, offline_studies, offline_tables, protocol, times
from adarena.experiments.offline import PRESETS, OfflineExperiment
from adarena.experiments.offline_bench import Bench
from adarena.experiments.offline_learners import ALGORITHMS, SPACES, settings_of
from adarena.experiments.offline_studies import without_entries
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _scores(means: dict[str, float], *, seeds: int = 3, kind: str = "learner", noise: float = 0.01) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    cases = 12
    parts = []
    for name, mean in means.items():
        for seed in range(seeds if kind == "learner" else 1):
            score = (mean + noise * rng.standard_normal(cases)).astype(np.float32)
            frame = pl.DataFrame({"case": np.arange(cases), "market": np.arange(cases) // 6, "score": score})
            who = {"policy": name, "kind": kind, "seed": seed if kind == "learner" else -1}
            parts.append(
                frame.with_columns(**{key: pl.lit(value) for key, value in who.items()}, value=pl.col("score"))
            )
    return pl.concat(parts)


def test_orderings_hold_are_reversed_or_are_not_told_apart() -> None:
    learners = _scores({"bc": 1.0, "decision_transformer": 2.0, "gas": 1.5, "gave": 1.5, "ppo": 3.0, "iql": 1.2})
    scores = pl.concat([learners, _scores({"constant": 0.5, "min_pacing": 1.9}, kind="rule")])
    choices = _scores({"full": 2.0, "random": 1.0, "mean": 1.0})
    found = offline_tables.orderings(scores, choices, None)
    verdict = {(row["better"], row["worse"]): (row["holds"], row["reversed"]) for row in found.iter_rows(named=True)}
    assert verdict["decision_transformer", "bc"] == (True, False)
    assert verdict["gas", "decision_transformer"] == (False, True)
    assert verdict["gave", "gas"] == (False, False)
    assert verdict["full", "random"] == (True, False)
    assert ("mean", "greedy") not in verdict, "a pair of which one is not there has no row"
    # The best generative bidder against the best offline learner, the best rule and PPO.
    assert verdict["decision_transformer", "iql"] == (True, False)
    assert verdict["decision_transformer", "min_pacing"] == (True, False)
    assert verdict["decision_transformer", "ppo"] == (False, True)
    assert ("reasoner", "bc") not in verdict
    both = offline_tables.orderings(pl.concat([scores, _scores({"reasoner": 1.8})]))
    mine = {row["worse"]: row["holds"] for row in both.iter_rows(named=True) if row["better"] == "reasoner"}
    assert mine == {"bc": True, "iql": True, "min_pacing": False, "ppo": False, "decision_transformer": False}
    alone = offline_tables.orderings(pl.concat([scores, _scores({"reasoner": 2.5})]))
    assert len(alone.filter((pl.col("better") == "reasoner") & (pl.col("worse") == "bc"))) == 1


def test_disagreement_is_replayed_less_live_with_both_orders() -> None:
    names = {"bc": 1.0, "gas": 2.0}
    live = pl.concat([_scores(names, noise=0.3), _scores({"constant": 3.0}, kind="rule")])
    replayed = live.with_columns(
        pl.when(pl.col("policy") == "bc").then(pl.col("score") + 1.5).otherwise(pl.col("score")).alias("score")
    )
    table = {row["policy"]: row for row in offline_tables.disagreement(live, replayed).iter_rows(named=True)}
    assert table["bc"]["bias"] == pytest.approx(1.5, abs=1e-5)
    # The same policies and luck: noise that both share is no reason for doubt.
    assert table["bc"]["bias_high"] - table["bc"]["bias_low"] < 1e-4
    assert table["constant"]["bias"] == 0.0
    assert [table[name]["live_rank"] for name in ("constant", "gas", "bc")] == [1, 2, 3]
    assert [table[name]["replayed_rank"] for name in ("constant", "bc", "gas")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tier": "best"}, "tier must be among random, medium, expert, mixed, rules, got 'best'"),
        ({"response": "sparse"}, "response must be one of expected, sampled, got 'sparse'"),
        ({"algorithms": ("bc", "dqn")}, "algorithms must be distinct, of bc, .* got"),
        ({"algorithms": ()}, "algorithms must be distinct, of bc, .* got"),
        ({"log_steps": 0}, "log_steps must be a whole number of at least 1, got 0"),
        ({"asked_markets": 0}, "asked_markets must be a whole number of at least 1, got 0"),
        ({"asked": (11.0,)}, r"asked must name numbers in \[-10, 10\], at least one, got"),
        ({"gradient_steps": 0.0}, r"gradient_steps must lie in \(0, 100\], got 0.0"),
        ({"settings": -1}, "settings must be a whole number of at least 0, got -1"),
        ({"settings": 17}, "settings must be at most 16, all that there are of bc, got 17"),
        (
            {"settings": 8, "tune_episodes": 15},
            "tune_episodes must be at least 16, settings times what is asked for, got 15",
        ),
        ({"search_steps": 1.5}, r"search_steps must lie in \(0, 1\], got 1.5"),
        ({"studies": ("drifts",)}, "studies must be of choices, no_history, to_go, .*, got 'drifts'"),
        ({"traffic": "replay"}, "traffic must not be the replay of a log, got 'replay'"),
        ({"budgets": ()}, "budgets must name at least one"),
        ({"seeds": (1, 1)}, "seeds must be distinct"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["smoke"], **changes)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_learner_tries_as_many_distinct_settings_its_own_first(name: str) -> None:
    needed = {"reader": Reader(tuple(range(len(READ))), 1.0)} if name == "reasoner" else {}
    own = ALGORITHMS[name].make_config(**needed)
    for count in (1, 8, 16):
        settings = settings_of(name, count)
        assert len({json.dumps(setting, sort_keys=True) for setting in settings}) == len(settings) == count
        assert settings == settings_of(name, 16)[:count], "a larger search tries what a smaller one does"
        assert {field: getattr(own, field) for field in SPACES[name]} == settings[0]
        for setting in settings:
            back = json.loads(json.dumps(setting))
            assert back == setting
            meter = {"meter": Meter("entry", (0,))} if setting.get("conditioning") == "to_go" else {}
            ALGORITHMS[name].make_config(**back, **meter, **needed)
    assert settings_of(name, 0) == settings[:1]


def test_settings_found_by_earlier_searches_are_among_those_tried() -> None:
    earlier = {
        "td3_bc": {"layer_norm": True, "target_rate": 0.05, "alpha": 0.5},
        "iql": {"target_rate": 0.05, "beta": 0.5},
        "gave": {"explore": 0.05},
    }
    for name, changes in earlier.items():
        assert settings_of(name, 2)[1] == settings_of(name, 0)[0] | changes


def test_the_first_of_the_best_finite_settings_is_chosen() -> None:
    rows = pl.DataFrame({"score": [None, 1.0, 3.0, 3.0]}, schema={"score": pl.Float64})
    assert offline_search.chosen(rows)["chosen"].to_list() == [False, False, True, False]
    nothing = pl.DataFrame({"score": [None, None]}, schema={"score": pl.Float64})
    assert not offline_search.chosen(nothing)["chosen"].any()


class _Scripted:
    """A bench whose settings bring what a script says, by label and by what is asked for; it trains and plays nothing."""

    def __init__(self, folder: RunFolder, config: OfflineExperiment, script: dict[str, list[float]]) -> None:
        self.folder, self.config, self.script, self.env = folder, config, script, None
        self.params = None
        self.trained: list[tuple[str, tuple[int, ...], int]] = []

    def fit(
        self, label: str, *_: object, seeds: tuple[int, ...], steps: int, about: tuple[str, str]
    ) -> tuple[str, None]:
        assert about == (label.removeprefix("search_")[:-2], "search")
        self.trained.append((label, seeds, steps))
        if not self.script.get(label):
            raise KeyboardInterrupt
        return label, None

    def tuning_keys(self, stream: int, count: int) -> tuple[int, int]:
        return stream, count

    def tried(self, label: str, *rest: Any) -> tuple[None, float]:
        target, keys = rest[-2:]
        asked = self.config.asked
        assert keys == (offline_search.SEARCH, 144 if target is None else 72)
        return None, self.script[label][0 if target is None else asked.index(target)]


def test_a_search_keeps_every_score_goes_on_where_it_was_and_returns_the_best(tmp_path: Path) -> None:
    config, nan = PRESETS["smoke"], float("nan")
    with RunFolder.create(tmp_path, config, "run") as folder:
        script = {"search_bc_0": [2.0], "search_bc_1": [3.0], "search_gave_0": [nan, 1.0]}
        stopped: Any = _Scripted(folder, config, script)
        assert offline_search.search(stopped, "bc", None) == settings_of("bc", 2)[1]  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            offline_search.search(stopped, "gave", None)  # type: ignore[arg-type]
        resumed: Any = _Scripted(folder, config, {"search_gave_1": [0.5, 0.75]})
        assert offline_search.search(resumed, "bc", None) == settings_of("bc", 2)[1]  # type: ignore[arg-type]
        assert offline_search.search(resumed, "gave", None) == settings_of("gave", 2)[0]  # type: ignore[arg-type]
        assert resumed.trained == [("search_gave_1", (2,), 30)], "half of 60 steps, a seed that no compared learner has"
        rows = folder.read_table("search").select("policy", "score", "gradient_steps", "episodes", "chosen").rows()
        assert rows == [
            ("bc", 2.0, 100, 144, False),
            ("bc", 3.0, 100, 144, True),
            ("gave", 1.0, 30, 144, True),
            ("gave", 0.75, 30, 144, False),
        ]
        lost: Any = _Scripted(folder, config, {"search_iql_0": [nan], "search_iql_1": [float("inf")]})
        with pytest.raises(ValueError, match="no setting of iql had a finite score on tuning markets, out of 2"):
            offline_search.search(lost, "iql", None)  # type: ignore[arg-type]
        none: Any = _Scripted(folder, dataclasses.replace(config, settings=0), {})
        assert offline_search.search(none, "cql", None) == settings_of("cql", 1)[0]  # type: ignore[arg-type]
        assert not none.trained


def test_times_add_up_over_stages_and_resumptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(times.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(times.time, "process_time", lambda: now["cpu"])
    with RunFolder.create(tmp_path, PRESETS["smoke"], "run") as folder:
        for policy, stage, seconds in (("bc", "search", 8.0), ("bc", "training", 4.0), ("iql", "training", 6.0)):
            write = times.clock(folder, policy, stage, 2, 100)
            for _ in range(2):
                now = {"wall": now["wall"] + seconds / 2, "cpu": now["cpu"] + seconds}
                write()
    resumed = RunFolder.open(tmp_path / "run")
    times.clock(resumed, "iql", "training", 2, 100)  # had been finished: no chunk is made
    write = times.clock(resumed, "bc", "training", 2, 100)
    now["wall"] += 1.0
    write()
    table = {(row["policy"], row["stage"]): row for row in resumed.read_table("times").iter_rows(named=True)}
    assert {key: row["wall_seconds"] for key, row in table.items()} == {
        ("bc", "search"): 8.0,
        ("bc", "training"): 5.0,
        ("iql", "training"): 6.0,
    }
    assert table["bc", "training"]["cpu_seconds"] == 8.0
    assert table["bc", "training"]["seconds_a_seed"] == 2.5


def test_hidden_entries_change_nothing_that_a_policy_does() -> None:
    data = chain_data()
    hidden = without_entries(data, [1])
    assert not np.asarray(hidden.observations[..., 1]).any()
    np.testing.assert_array_equal(hidden.observations[..., 0], data.observations[..., 0])
    state = bc.init(bc.make_config(hidden=(8,)), hidden, jax.random.key(0))
    policy = bc.make_policy(bc.make_config(hidden=(8,)), hidden.spec, state)
    obs = jnp.asarray([0.2, -3.0, 1.0])
    first = policy.act(jax.random.key(0), (), obs)[1]
    np.testing.assert_array_equal(policy.act(jax.random.key(0), (), obs.at[1].set(50.0))[1], first)
    assert policy.act(jax.random.key(0), (), obs.at[0].set(0.7))[1] != first
    assert float(normalise(data.obs_moments, obs)[1]) != 0.0


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_run_from_log_to_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineExperiment, "episodes_a_setting", lambda self: 4)  # not the hundreds that a rule needs
    config = OfflineExperiment(
        log_steps=768,
        log_seed=3,
        tier="random",
        impressions=8,
        algorithms=("bc", "decision_transformer"),
        gradient_steps=0.002,
        settings=1,
        seeds=(0, 1),
        asked=(0.0, 2.0),
        asked_markets=4,
        train_steps=3072,
        rules=("constant",),
        tune_episodes=288,
        markets=1,
        seat_step=48,
        budgets=(0.5, 1.5),
        studies=(),
        runs=str(tmp_path),
        name="run",
        figures=False,
    )
    with monkeypatch.context() as stopping:
        stopping.setattr(protocol, "evaluate_constants", _killed)
        with pytest.raises(KeyboardInterrupt):
            offline.run(config)
    stopped = RunFolder.open(tmp_path / "run")
    assert set(stopped.read_table("scores")["policy"]) == {"bc", "decision_transformer", "ppo", "constant"}
    with monkeypatch.context() as resuming:  # what was played or tuned is not done again
        for name in ("evaluate_learner", "tune_rules"):
            resuming.setattr(protocol, name, _killed)
        resuming.setattr(Bench, "tried", _killed)
        folder = RunFolder.open(offline.run(config, resume=True))
    scores, asked = folder.read_table("scores"), folder.read_table("asked")
    assert set(scores["policy"]) == {"bc", "decision_transformer", "ppo", "constant", "best_constant"}
    cases = 1 * 2  # seats, budgets
    assert len(scores.filter(pl.col("policy") == "bc")) == cases * len(config.seeds)
    assert np.isfinite(scores["score"].to_numpy()).all()
    assert asked["target"].to_list() == [0.0, 2.0]
    assert asked["chosen"].sum() == 1
    chosen = asked.filter(pl.col("chosen"))["score"][0]
    assert chosen == asked["score"].max()
    assert {"summary", "orderings", "disagreement", "curves", "tuning", "search", "times"} <= set(folder.tables)
    search, spent = folder.read_table("search"), folder.read_table("times")
    for name in config.algorithms:
        rows = search.filter(pl.col("policy") == name)
        assert [json.loads(setting) for setting in rows["setting"]] == settings_of(name, 1)
        assert rows["chosen"].to_list() == [True]
        assert np.isfinite(rows["score"].to_numpy()).all()
    assert sorted(spent.select("policy", "stage", "seeds").rows()) == sorted(
        (name, stage, count) for name in config.algorithms for stage, count in (("search", 1), ("training", 2))
    )
    assert (spent["wall_seconds"] > 0.0).all()
    text = capsys.readouterr().out
    assert "a log of 768 steps" in text
    assert "Tables, checkpoints and figures are in" in text
    before = {name: folder.read_table(name) for name in folder.tables}
    with monkeypatch.context() as resuming:
        resuming.setattr(Bench, "compare", _killed)
        again = RunFolder.open(offline.run(config, resume=True))
    assert all(again.read_table(name).equals(table) for name, table in before.items())


def test_studies_are_those_wanted_whose_learner_is_there_and_whose_last_table_is_not() -> None:
    config = PRESETS["smoke"]
    assert offline_studies.missing(config, ()) == ["choices", "to_go", "reasoning"]
    assert offline_studies.missing(config, ("choices", "controls")) == ["to_go", "reasoning"]
    assert offline_studies.missing(config, ("choices", "forecasts", "to_go")) == []
    assert offline_studies.missing(dataclasses.replace(config, algorithms=("bc",)), ()) == ["to_go"]


def test_the_first_of_the_best_numbers_asked_for_is_chosen() -> None:
    found = offline_tables.asked_frame("gave", (0.0, 1.0, 2.0, 3.0), (float("nan"), 2.0, 3.0, 3.0))
    assert found["chosen"].to_list() == [False, False, True, False]
    assert found["target"].to_list() == [0.0, 1.0, 2.0, 3.0]
