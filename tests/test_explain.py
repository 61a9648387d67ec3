"""``adarena explain`` and the calibration of forecasts: a log whose numbers add up, branches that hold, honest tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from chat_stand_in import GOOD, StandIn, refuses, says
from small_reasoner import SIZES, SMALL, made_up

import adarena.envs
from adarena.agents import reasoner
from adarena.agents.checkpoint import CheckpointError
from adarena.agents.language_config import Config, make_config
from adarena.agents.language_think import LanguageWarning
from adarena.agents.offline import loop, thoughts
from adarena.agents.offline.data import make_data, spec_of
from adarena.experiments import calibration_tables, cli, explain, explain_table, reasoner_run, reasoning
from adarena.experiments.calibration_tables import calibration, climatology, reliability, scores
from adarena.experiments.offline import Bench, OfflineExperiment
from adarena.experiments.protocol import draw_cases
from adarena.experiments.rollout import rollout
from adarena.experiments.store import RunFolder, RunFolderError
from adarena.experiments.tables import console
from adarena.paper_figs import fig_explain, fig_reasoning, make

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Tiny(NamedTuple):
    """A small market, a bidder that nobody trained, and one of its days."""

    env: Any
    params: Any
    policy: Any
    reader: Any
    key: jax.Array
    day: Any
    held: Any
    ticks: pl.DataFrame


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    env, params = adarena.envs.make("adarena/AutoBid-v0", traffic="synthetic", **SIZES)
    # A fifth of the usual budget: it does not last.
    params = dataclasses.replace(
        params, seat=jnp.int32(1), budget_scale_low=jnp.float32(0.2), budget_scale_high=jnp.float32(0.2)
    )
    spec, reader = spec_of(env, params), thoughts.reader_of(env, params)
    config = reasoner.make_config(reader=reader, **SMALL)
    state = jax.jit(reasoner.init, static_argnums=())(
        config, make_data(made_up(spec, env.ticks), spec), jax.random.key(1)
    )
    # Words that nobody learnt hardly differ; ten times as loud, they do.
    state = state.replace(think=state.think.replace(params=jax.tree.map(lambda x: 10.0 * x, state.think.params)))
    policy, key = reasoner.make_policy(config, spec, state), jax.random.key(3)
    day, held = reasoning.played(env, params, policy, reader, key)
    return Tiny(env, params, policy, reader, key, day, held, explain_table.table_of(env, day, held))


def test_the_log_adds_up_to_the_account_and_to_a_rollout(tiny: Tiny) -> None:
    known = rollout(tiny.env, tiny.params, tiny.policy, tiny.key[None], record=("multiplier",), bound=False)
    np.testing.assert_allclose(tiny.ticks["multiplier"], known.series["multiplier"][0], rtol=1e-6)
    last = tiny.ticks.row(-1, named=True)
    for column, metric in (("spend_so_far", "cost"), ("value_so_far", "value"), ("score", "score")):
        assert last[column] == pytest.approx(float(known.metrics[metric][0]), rel=1e-5)
    assert tiny.ticks["spend"].sum() == pytest.approx(last["spend_so_far"])
    assert last["cost_over_target"] == pytest.approx(float(known.metrics["cost_over_target"][0]), rel=1e-5)
    after = np.asarray(tiny.day.obs)[1:, [entry.name for entry in tiny.env.OBSERVATION].index("budget_left")]
    np.testing.assert_allclose(tiny.ticks["budget_left"], after, atol=1e-5)
    assert last["spend_so_far"] > 0.0


def test_words_are_those_of_the_chain_and_truth_is_what_thoughts_say(tiny: Tiny) -> None:
    left = np.append(1.0, tiny.ticks["budget_left"].to_numpy()).astype(np.float32)
    last = tiny.ticks.row(-1, named=True)
    cost = jnp.log(jnp.float32(last["cost_over_target"]))
    words = thoughts.outcome(jnp.asarray(left), cost, jnp.asarray(True), jnp.arange(tiny.env.ticks))
    for place, slot in enumerate(explain_table.FORECASTS):
        assert tiny.ticks[f"true_{slot.name.replace(' ', '_')}"].to_list() == [slot.words[w] for w in words[:, place]]
    for tick, row in enumerate(tiny.ticks.iter_rows(named=True)):
        said = thoughts.spell(tiny.day.done.chain[tick])
        assert {slot.name: row[explain_table.column("thought", slot.name)] for slot in thoughts.SLOTS} == said
    chances = np.asarray(tiny.day.done.chances[0])
    first = thoughts.SLOTS[0]
    word = first.words.index(tiny.ticks["thought_pace"][0])
    assert tiny.ticks["chance_pace"][0] == pytest.approx(chances[: len(first.words)].max())
    assert tiny.ticks["chance_pace"][0] == pytest.approx(chances[word])


@pytest.mark.parametrize("tick", [0, 3, 7])
def test_a_held_branch_is_the_day_of_whoever_holds(tiny: Tiny, tick: int) -> None:
    actions = np.asarray(tiny.day.done.action)
    held = actions[tick - 1] if tick else 0.0
    plan = jnp.asarray(np.where(np.arange(len(actions)) < tick, actions, held), jnp.float32)

    @jax.jit
    def hold(params: Any, plan: jax.Array) -> Any:
        def step(state: Any, action: jax.Array) -> Any:
            after = tiny.env.step(tiny.key, state, action[None], params)
            return after.state, after.obs

        state, obs = jax.lax.scan(step, tiny.env.reset(tiny.key, params)[1], plan)
        return tiny.env.metrics(state, params), obs

    metrics, obs = hold(tiny.params, plan)
    row = tiny.ticks.row(tick, named=True)
    assert row["held_multiplier"] == pytest.approx(float(np.exp(held * tiny.reader.log_range)), rel=1e-5)
    assert row["held_score"] == pytest.approx(float(metrics["score"]), rel=1e-5)
    assert row["held_cost_over_target"] == pytest.approx(float(metrics["cost_over_target"]), rel=1e-5)
    left = np.append(1.0, np.asarray(reasoning.read(tiny.reader, obs)["budget_left"]))
    np.testing.assert_allclose(tiny.held.left[tick], left, atol=1e-5)
    spent = left <= thoughts.EMPTY
    assert row["held_gone_hour"] == (np.argmax(spent) * 3.0 if spent.any() else None)


def test_the_hour_at_which_a_budget_is_spent() -> None:
    left = np.asarray([[1.0, 0.5, 0.02, 0.0, 0.0], [1.0, 0.9, 0.8, 0.7, 0.03]])
    np.testing.assert_array_equal(reasoning.end_hour(left), [12.0, np.nan])


def test_every_column_has_a_unit_and_the_log_tells_wrong_words(tiny: Tiny) -> None:
    assert list(explain_table.units(tiny.env)) == tiny.ticks.columns
    lines = [line.plain for line in explain.log_of(tiny.env, tiny.ticks)]
    labels = [line[6:16].strip() for line in lines]
    assert labels.count("saw") == labels.count("if held") - 1 == tiny.env.ticks
    wrong = sum((tiny.ticks[f"thought_{n}"] != tiny.ticks[f"true_{n}"]).sum() for n in _names())
    assert sum(line.count("[it was: ") for line in lines) == wrong > 0


def _names() -> list[str]:
    return [slot.name.replace(" ", "_") for slot in thoughts.SLOTS]


def test_figure_shows_spend_and_strips(tiny: Tiny, tmp_path: Path) -> None:
    tiny.ticks.write_parquet(tmp_path / fig_explain.TABLE)
    spend, end, cost, multiplier, words = fig_explain.draw(tmp_path).axes[:5]
    curve = next(line for line in spend.lines if line.get_label() == "what happened")
    np.testing.assert_allclose(curve.get_ydata()[1:], 100.0 * (1.0 - tiny.ticks["budget_left"].to_numpy()))
    assert all(ax.get_ylabel() for ax in (spend, end, cost, multiplier, words))
    runs = sum(1 + (tiny.ticks[f"thought_{n}"].rle_id().max()) for n in _names())
    assert len(words.collections) == runs
    tiny.ticks.drop("hour").write_parquet(tmp_path / fig_explain.TABLE)
    with pytest.raises(ValueError, match="hour not found"):
        fig_explain.draw(tmp_path)


# ---- calibration


def _forecasts(days: int = 400, ticks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Chances ``[days, ticks, 3]`` and outcomes drawn from them: a perfect forecaster's."""
    draw = np.random.default_rng(0)
    chances = draw.dirichlet((0.7, 0.7, 0.7), (days, ticks))
    came = (chances.cumsum(-1) < draw.uniform(size=(days, ticks, 1))).sum(-1)
    return chances, np.minimum(came, 2)


def test_a_perfect_forecaster_is_calibrated_and_skilful() -> None:
    chances, came = _forecasts()
    table = reliability("budget", chances, came)
    assert table["count"].sum() == chances.size
    inside = (table["frequency_low"] <= table["chance"]) & (table["chance"] <= table["frequency_high"])
    assert inside.sum() >= 9
    np.testing.assert_allclose(table["frequency"], table["chance"], atol=0.08)
    base = np.full((3, 3), 1.0 / 3.0)
    found = {row["score"]: row for row in scores("budget", chances, came, base).iter_rows(named=True)}
    assert found["brier"]["climatology"] == pytest.approx(2.0 / 3.0)
    assert found["log"]["climatology"] == pytest.approx(np.log(3.0))
    # A calibrated forecaster's expected scores follow from its chances alone.
    assert found["brier"]["forecast"] == pytest.approx((1.0 - np.square(chances).sum(-1)).mean(), abs=0.03)
    assert found["log"]["forecast"] == pytest.approx(-(chances * np.log(chances)).sum(-1).mean(), abs=0.04)
    assert all(0.0 < row["skill_low"] < row["skill"] < row["skill_high"] for row in found.values())


def test_a_wrong_forecaster_is_found_out() -> None:
    chances, came = _forecasts()
    wrong = np.roll(chances, 1, -1)
    table = reliability("budget", wrong, came)
    sure = table.filter(pl.col("low") >= 0.9).row(0, named=True)
    assert sure["chance"] > 0.9
    assert sure["frequency_high"] < 0.3
    found = scores("budget", wrong, came, np.full((3, 3), 1.0 / 3.0))
    assert (found["skill_high"] < 0.0).all()
    # Climatology has no skill against itself.
    base = np.full((3, 3), 1.0 / 3.0)
    assert scores("budget", np.broadcast_to(base, chances.shape), came, base)["skill"].to_list() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("chances", "came", "message"),
    [
        (np.ones((2, 3)), np.zeros((2, 3), int), r"chances must be \[C, T, W\] and came \[C, T\]"),
        (np.ones((2, 3, 2)), np.zeros((2, 3), int), "add up to 1"),
        (np.full((2, 3, 2), 0.5), np.full((2, 3), 2), "came must name words 0 to 1, got 2 to 2"),
    ],
)
def test_forecasts_that_are_none_are_refused(chances: np.ndarray, came: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reliability("budget", chances, came)


def test_played_forecasts_are_held_against_what_came_true(tiny: Tiny, tmp_path: Path) -> None:
    data = make_data(made_up(spec_of(tiny.env, tiny.params), tiny.env.ticks), spec_of(tiny.env, tiny.params))
    base = climatology(tiny.reader, data, chunk=8)
    time = jnp.broadcast_to(jnp.arange(data.steps), (data.count, data.steps))
    chain = np.asarray(thoughts.annotate(tiny.reader, data, jnp.arange(data.count), time))
    for place, slot in ((4, "budget"), (5, "final cost")):
        assert base[slot].shape == (tiny.env.ticks, 6)
        counts = [(chain[:, 2, place] == word).sum() + 1 for word in range(6)]
        np.testing.assert_allclose(base[slot][2], np.asarray(counts) / (data.count + 6))
    cases = draw_cases(1, 1, [0, 1, 2], (0.2,))
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tiny.policy)
    found = calibration(tiny.env, tiny.params, both, tiny.reader, cases, base, chunk=2)
    assert found.scores["slot"].to_list() == ["budget"] * 2 + ["final cost"] * 2
    assert (found.scores["days"] == 3).all()
    count = found.reliability.group_by("slot").agg(pl.col("count").sum())
    assert count["count"].to_list() == [3 * 2 * tiny.env.ticks * 6] * 2
    found.reliability.write_parquet(tmp_path / fig_reasoning.TABLE)
    names = ["own thoughts", "none", "shuffled"]
    numbers = {"score": [1.0, 0.9, 0.8], "difference": [0.0, -0.1, -0.2], "difference_low": [0.0, -0.2, -0.3]}
    controls = pl.DataFrame({"control": names, **numbers, "difference_high": [0.0, 0.0, -0.1]})
    assert len(fig_reasoning.draw(tmp_path).axes) == 4
    controls.write_parquet(tmp_path / fig_reasoning.CONTROLS)
    panel = fig_reasoning.draw(tmp_path).axes[-1]
    assert [label.get_text() for label in panel.get_yticklabels()] == names
    assert calibration_tables.BINS == 10


# ---- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a reasoning bidder of two training seeds, one gradient step each."""
    config = OfflineExperiment(
        algorithms=("bc",), impressions=4, seeds=(5, 7), markets=1, seat_step=24, budgets=(0.5, 1.0), name="run",
        runs=str(tmp_path_factory.mktemp("runs")),
    )  # fmt: skip
    with RunFolder.create(config.runs, config, config.name) as folder:
        bench = Bench.make(config, folder, console(), False)
        spec = spec_of(bench.env, bench.params)
        learner = reasoner.make_config(reader=thoughts.reader_of(bench.env, bench.params), **SMALL)
        data = make_data(made_up(spec, 48, 4), spec)
        steps: dict[str, Any] = {"total_steps": 1, "log_steps": 1, "progress": False}
        loop.train(reasoner, learner, data, seeds=config.seeds, checkpoint=folder.checkpoints / "reasoner", **steps)
        rows = {"policy": ["reasoner", "reasoner"], "target": [0.0, 2.0], "chosen": [False, True]}
        folder.write_table("asked", pl.DataFrame(rows))
    return folder.path


def test_a_run_is_explained(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    restored = reasoner_run.restore(RunFolder.open(finished), 7)
    assert float(restored.policy.base.target) == 2.0
    cli.main(["explain", str(finished), "--episode", "3", "--seed", "7"])
    out = finished / "explain" / "episode-3"
    assert {path.name for path in out.iterdir()} >= {
        "log.txt",
        "ticks.parquet",
        "about.json",
        "explain.pdf",
        "explain.png",
    }
    printed, text = capsys.readouterr().out, (out / "log.txt").read_text()
    assert "seat 24, budget scale 1), reasoner of training seed 7" in text
    assert "\x1b" not in printed
    assert all(line in printed for line in text.splitlines()), "what is printed is what is written, line by line"
    cli.main(["gather", str(out), "--out", str(finished.parent / "gathered")])
    assert make.figures_of(finished.parent / "gathered") == make.EXPLAIN_FIGURES
    ticks = pl.read_parquet(out / "ticks.parquet")
    key, params = reasoner_run.case_of(restored, 3)
    known = rollout(restored.env, params, restored.policy, key[None], bound=False)
    assert ticks["spend"].sum() == pytest.approx(float(known.metrics["cost"][0]), rel=1e-4)
    assert set(json.loads((out / "about.json").read_text())["columns"]) == set(ticks.columns)


def test_a_day_that_a_language_model_thinks(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")

    def script(requests: list[Any]) -> Any:
        return refuses(503) if len(requests) % 4 == 0 else says(GOOD)

    out = finished / "explain" / "episode-3-language"
    with StandIn() as server:
        server.script = script
        words = ["explain", str(finished), "--episode", "3", "--seed", "7", "--language.model", "m"]
        words += ["--language.base-url", server.url, "--language.retries", "0", "--language.every", "2"]
        with pytest.warns(LanguageWarning, match="HTTP 503"):
            cli.main(words)
    ticks = pl.read_parquet(out / "ticks.parquet")
    expected = ["language model", "learned: not asked"] * 3 + ["learned: HTTP 503", "learned: not asked"]
    assert ticks["source"].to_list() == expected * 6
    told = ticks.filter(pl.col("source") == "language model")
    for slot in thoughts.SLOTS:
        assert set(told[explain_table.column("thought", slot.name)]) == {GOOD[slot.name]}
        assert told[explain_table.column("chance", slot.name)].is_null().all()
    learned = ticks.filter(pl.col("source") != "language model")
    assert learned[explain_table.column("chance", "pace")].is_between(0.0, 1.0).all()
    report = json.loads((out / "language.json").read_text())
    assert (report["questions"], report["answered"], report["fell_back"]) == (24, 18, {"HTTP 503": 6})
    text = (out / "log.txt").read_text()
    assert text.count("(language model)") == 18
    assert "reasoner of training seed 7, m as Think" in text
    assert (
        "24 questions, 18 answered, 0 from the cache, 6 left to the learned Think (HTTP 503 6)"
        in capsys.readouterr().out
    )
    assert (out / "explain.pdf").is_file()


def test_without_a_key_the_day_is_the_learned_one(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = explain.ExplainConfig(str(finished), 3, 7, language=make_config(model="m"))
    with pytest.warns(LanguageWarning, match="no key"):
        ticks = pl.read_parquet(
            explain.run(dataclasses.replace(asked, out=str(finished / "keyless"))) / "ticks.parquet"
        )
    plain = pl.read_parquet(explain.run(explain.ExplainConfig(str(finished), 3, 7)) / "ticks.parquet")
    assert set(ticks["source"]) == {"learned: no key"}
    np.testing.assert_allclose(ticks["spend"], plain["spend"], rtol=1e-3, atol=1e-4)
    assert ticks["thought_change"].equals(plain["thought_change"])
    with pytest.raises(ValueError, match="model must be the name of a model"):
        explain.run(explain.ExplainConfig(str(finished), language=Config(every=2)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode", "4"], "episode must be an evaluation case of the run, 0 to 3, got 4"),
        (["--episode", "-1"], "episode must be an evaluation case of the run, 0 to 3, got -1"),
        (["--seed", "6"], "seed must be one of the run's training seeds 5, 7, got 6"),
    ],
)
def test_wrong_days_are_refused(
    finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["explain", str(finished), *words])
    assert message in capsys.readouterr().err


def test_wrong_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        explain.run(explain.ExplainConfig(str(tmp_path / "nothing")))
    with RunFolder.create(tmp_path, explain.ExplainConfig("x"), "other") as other:
        pass
    with pytest.raises(
        RunFolderError, match="other must be a run of adarena run offline, got a folder of ExplainConfig"
    ):
        explain.run(explain.ExplainConfig(str(other.path)))
    config = OfflineExperiment(runs=str(tmp_path), name="without")
    with RunFolder.create(tmp_path, config, config.name) as without:
        pass
    with pytest.raises(RunFolderError, match="without has no trained reasoner"):
        explain.run(explain.ExplainConfig(str(without.path)))
    (without.checkpoints / "reasoner").mkdir()
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        explain.run(explain.ExplainConfig(str(without.path)))
