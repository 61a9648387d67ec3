"""Controls of the reasoning bidder: who is played, who is trained anew, and what the tables compare."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from small_reasoner import SIZES, SMALL, made_up

import adarena.envs
from adarena.agents import reasoner
from adarena.agents.offline import thoughts
from adarena.agents.offline.data import make_data, spec_of
from adarena.agents.reasoner_policy import MODES
from adarena.experiments import calibration_tables, explain, offline_reasoning, protocol
from adarena.experiments.protocol import draw_cases
from adarena.experiments.store import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compilation")

OWN, SEEDS = "own", (0, 1)


def made_scores(levels: dict[str, float]) -> pl.DataFrame:
    """Scores of two seeds on four cases: a policy's level, and a little more for the second seed and for each case."""
    rows = [
        {"policy": name, "seed": seed, "case": case, "score": level + 0.1 * seed + case}
        for name, level in levels.items()
        for seed in SEEDS
        for case in range(4)
    ]
    return pl.DataFrame(rows)


def test_controls_are_paired_with_the_bidder_itself() -> None:
    table = offline_reasoning.controls(made_scores({OWN: 5.0, "none": 4.0, "trained without thoughts": 5.5}))
    rows = {row["control"]: row for row in table.iter_rows(named=True)}
    assert list(rows) == [OWN, "none", "trained without thoughts"]
    assert rows[OWN]["difference"] == 0.0
    # The same seeds and cases: what differs is the level alone, and nothing is left to doubt.
    assert [rows["none"][f"difference{end}"] for end in ("", "_low", "_high")] == pytest.approx([-1.0] * 3)
    # Trained anew, seeds are not the same: they are drawn one by one.
    anew = rows["trained without thoughts"]
    assert anew["difference"] == pytest.approx(0.5)
    assert anew["difference_low"] < 0.45 < 0.55 < anew["difference_high"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"graded": 1.0}, ["trained without thoughts", "trained without grading"]),
        ({"graded": 0.3}, ["trained without thoughts", "trained without grading"]),
        ({"graded": 0.0}, ["trained without thoughts", "trained with grading"]),
        ({"graded": 0.0, "thoughts": 0.0}, ["trained with grading"]),
    ],
)
def test_only_other_bidders_are_trained_anew(changes: dict[str, float], expected: list[str]) -> None:
    own = SimpleNamespace(**({"thoughts": 1.0} | changes))
    assert list(offline_reasoning.trained_anew(own)) == expected


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_study_plays_every_control_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, params = adarena.envs.make("adarena/AutoBid-v0", traffic="synthetic", **SIZES)
    spec, reader = spec_of(env, params), thoughts.reader_of(env, params)
    data = make_data(made_up(spec, env.ticks), spec)

    def small(name: str, env: Any, params: Any, steps: int, **changes: Any) -> Any:
        return reasoner.make_config(**(SMALL | {"reader": reader} | changes))

    def policy_of(config: Any) -> Any:
        keys = jax.random.split(jax.random.key(1))
        return reasoner.make_policy(config, spec, jax.jit(jax.vmap(lambda key: reasoner.init(config, data, key)))(keys))

    asked: list[tuple[str, float, float]] = []

    def learn(label: str, name: str, data: Any, config: Any) -> tuple[Any, None]:
        asked.append((label, float(config.thoughts), float(config.graded)))
        return policy_of(config), None

    monkeypatch.setattr(offline_reasoning, "configured", small)
    config = SimpleNamespace(seeds=SEEDS, market_seed=3, steps=lambda name: 1)
    cases = draw_cases(1, 1, [0, 1], (0.5,))
    setting = {"graded": 0.0}
    with RunFolder.create(tmp_path, explain.ExplainConfig("x"), "run") as folder:
        bench: Any = SimpleNamespace(config=config, folder=folder, env=env, params=params, cases=cases, learn=learn)
        mine = policy_of(small("reasoner", env, params, 1, **setting))
        with monkeypatch.context() as stopping:
            stopping.setattr(calibration_tables, "calibration", _killed)
            with pytest.raises(KeyboardInterrupt):
                offline_reasoning.study(bench, mine, setting, data)
        asked.clear()
        with monkeypatch.context() as resuming:  # controls that were played are not played again
            resuming.setattr(protocol, "evaluate_learner", _killed)
            offline_reasoning.study(bench, mine, setting, data)
    assert asked == [("trained_without_thoughts", 0.0, 0.0), ("trained_with_grading", 1.0, 1.0)]
    table = folder.read_table("controls")
    names = [*MODES, "trained without thoughts", "trained with grading"]
    assert sorted(table["control"]) == sorted(names)
    assert table["control"][0] == OWN == MODES[0]
    scores = folder.read_table("control_scores")
    assert scores.group_by("policy").len()["len"].to_list() == [2 * len(cases.keys)] * len(names)
    assert jnp.isfinite(jnp.asarray(scores["score"].to_numpy())).all()
    assert set(folder.tables) >= {"reliability", "forecasts"}
    np.testing.assert_array_equal(folder.read_table("forecasts")["days"], [2] * 4)
