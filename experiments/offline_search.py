"""Settings of learners from logs, chosen on tuning markets: one budget for every learner, as rules are tuned alike.

Every learner tries as many settings (`adarena.experiments.offline_learners.settings_of`), each trained with the same one
seed for the same share of the learner's own gradient steps, on the same log, and each plays the same tuning markets; a
learner's settings together play as many episodes as a rule's search may. Learners differ in gradient steps and in what a
step costs, as they do in training. Settings train one after another: numbers of a configuration are arguments of the
program, so those that differ in numbers alone share its compilation, and all start from the same weights and meet the same
minibatches, which seeds side by side in one program could not.

A generative bidder's setting divides its episodes among what bidders may be asked for, on the same markets each, and
scores what the best of them brings, since what to ask for is chosen after training (on other markets, in further episodes:
``asked_markets`` for each thing asked and training seed, which learners that are asked nothing do not have).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from tqdm import tqdm

from adarena.agents.offline.data import Data
from adarena.experiments.offline_learners import GENERATIVE, configured, settings_of

if TYPE_CHECKING:
    from adarena.experiments.offline_bench import Bench

SEARCH = 0x5E7
"""Stream of the markets on which settings are tried: beside those of rules and of what is asked for, below
`adarena.experiments.protocol.TUNING`."""

_SCHEMA: dict[str, Any] = {"policy": pl.String, "setting": pl.String, "score": pl.Float64}
_SCHEMA |= {"gradient_steps": pl.Int64, "episodes": pl.Int64, "chosen": pl.Boolean}


def search(bench: Bench, name: str, data: Data) -> dict[str, Any]:
    """The settings of a learner that bring most on tuning markets; the module's own where none are to be tried.

    Keeps ``search`` in the run's folder, a row a setting as soon as it has played: ``policy``, ``setting`` (JSON),
    ``score`` (mean over episodes; null where it is not finite), ``gradient_steps``, ``episodes`` and ``chosen`` (the best
    so far). A resumed run tries what is missing.

    Args:
        bench: What the run works with.
        name: The learner.
        data: What to learn from.

    Raises:
        ValueError: No setting's score is finite.
    """
    config = bench.config
    settings = settings_of(name, config.settings)
    if config.settings == 0:
        return settings[0]
    steps = config.steps_tried(name)
    known = bench.folder.read_table("search") if "search" in bench.folder.tables else pl.DataFrame(schema=_SCHEMA)
    mine, others = known.filter(pl.col("policy") == name), known.filter(pl.col("policy") != name)
    left = range(len(mine), len(settings))
    for place in tqdm(left, desc=f"settings of {name}", unit="setting", disable=None):
        setting, label = settings[place], f"search_{name}_{place}"
        score = _score(bench, label, name, configured(name, bench.env, bench.params, steps, **setting), data, steps)
        row = (name, json.dumps(setting, sort_keys=True), score, steps, config.episodes_a_setting(), False)
        mine = chosen(pl.concat([mine, pl.DataFrame([row], schema=_SCHEMA, orient="row")]))
        bench.folder.write_table("search", pl.concat([others, mine]))
    if mine["score"].null_count() == len(mine):
        raise ValueError(f"no setting of {name} had a finite score on tuning markets, out of {len(mine)}")
    best: dict[str, Any] = json.loads(mine.filter("chosen")["setting"].item())
    return best


def _score(bench: Bench, label: str, name: str, config: Any, data: Data, steps: int) -> float | None:
    """What a setting brings on tuning markets after so many gradient steps; ``None`` where that is not finite."""
    seeds = (bench.config.search_seed(),)
    states, _ = bench.fit(label, name, data, config, seeds=seeds, steps=steps, about=(name, "search"))
    targets: Sequence[float | None] = bench.config.asked if name in GENERATIVE else (None,)
    keys = bench.tuning_keys(SEARCH, bench.config.episodes_a_setting() // len(targets))
    scores = [bench.tried(label, name, config, data, states, target, keys)[1] for target in targets]
    return max((score for score in scores if math.isfinite(score)), default=None)


def chosen(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of one learner with ``chosen`` where the score is highest, at the first of equals; nowhere if all are null."""
    best = rows["score"].arg_max()
    return rows.with_columns(pl.Series("chosen", [place == best for place in range(len(rows))], pl.Boolean))
