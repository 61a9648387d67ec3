"""Controls of the reasoning bidder of `adarena.experiments.offline`: do its thoughts matter, are its forecasts calibrated?

The same bidder is told other things than it thinks (`adarena.agents.reasoner_policy.MODES`): nothing, thoughts from other
states at the same tick, the opposite of its own. And two are trained anew with the same settings, the same information and
as many parameters: one that is never told its thoughts, and one whose chains are never graded, or are where the search of
settings chose that they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import polars as pl

from adarena.agents.offline.data import Data
from adarena.agents.offline.thoughts import reader_of
from adarena.agents.reasoner_policy import MODES, ReasoningPolicy, shuffled, told
from adarena.experiments import calibration_tables, offline_tables, protocol
from adarena.experiments.offline_learners import configured
from adarena.experiments.statistics import Bootstrap, paired_difference, stratified_bootstrap

if TYPE_CHECKING:
    from adarena.experiments.offline_bench import Bench

OWN = MODES[0]
"""The bidder on its own thoughts."""

TRAINED: dict[str, dict[str, float]] = {
    "trained without thoughts": {"thoughts": 0.0},
    "trained without grading": {"graded": 0.0},
    "trained with grading": {"graded": 1.0},
}
"""Controls that are trained anew: name to what is changed; with grading only where the search chose to do without."""

_BANK = 0xBA  # stream of the states whose thoughts are shuffled


def study(bench: Bench, policy: ReasoningPolicy, setting: dict[str, Any], data: Data) -> None:
    """Plays the controls and writes ``control_scores`` (a row a control, seed and case), ``controls``, ``reliability`` and
    ``forecasts``.

    Args:
        bench: What the run works with.
        policy: The trained bidder, stacked over seeds.
        setting: What was chosen for it.
        data: The log.
    """
    config, seeds = bench.config, bench.config.seeds
    steps = config.steps("reasoner")
    own = configured("reasoner", bench.env, bench.params, steps, **setting)
    key = jax.random.fold_in(jax.random.key(config.market_seed), _BANK)
    players = {mode: told(policy, mode) for mode in MODES if mode != "shuffled"}
    players["shuffled"] = shuffled(policy, own, data, key)
    for name, changes in trained_anew(own).items():
        anew = configured("reasoner", bench.env, bench.params, steps, **(setting | changes))
        players[name], _ = bench.learn(name.replace(" ", "_"), "reasoner", data, anew)
    for name, who in players.items():
        if name not in offline_tables.kept(bench.folder, "control_scores"):
            rows = protocol.evaluate_learner(name, bench.env, bench.params, who, seeds, bench.cases)
            offline_tables.keep(bench.folder, "control_scores", rows)
    bench.folder.write_table("controls", controls(bench.folder.read_table("control_scores")))
    reader, env = reader_of(bench.env, bench.params), bench.env
    base = calibration_tables.climatology(reader, data)
    stacked = protocol.over_seeds(policy, len(seeds))
    found = calibration_tables.calibration(env, bench.params, stacked, reader, bench.cases, base)  # type: ignore[arg-type]
    bench.folder.write_table("reliability", found.reliability)
    bench.folder.write_table("forecasts", found.scores)


def trained_anew(own: Any) -> dict[str, dict[str, float]]:
    """Those of `TRAINED` that are another bidder than the one with this configuration.

    Args:
        own: A configuration of `adarena.agents.reasoner`.
    """
    differ = {
        name: changes
        for name, changes in TRAINED.items()
        if any(getattr(own, field) != value for field, value in changes.items())
    }
    if float(own.graded) > 0.0:  # how much is no control
        differ.pop("trained with grading", None)
    return differ


def controls(scores: pl.DataFrame) -> pl.DataFrame:
    """What each control costs.

    Args:
        scores: As `study` writes ``control_scores``.

    Returns:
        One row a control, the bidder on its own thoughts first: ``control``; ``score`` (IQM) and ``difference``, the
        control's score less the bidder's, paired, with 95 % intervals over training seeds (``_low``, ``_high``).
    """
    options = Bootstrap(resample="seeds")
    own, rows = protocol.matrix(scores, OWN), []
    for name in scores["policy"].unique(maintain_order=True):
        score = protocol.matrix(scores, name)
        # Told otherwise it is the same policy, seed by seed; trained anew it is another.
        same = name not in TRAINED
        gap = (
            stratified_bootstrap(score - own, options=options)
            if same
            else paired_difference(score, own, options=options)
        )
        level = stratified_bootstrap(score, options=options)
        rows.append({"control": name} | protocol.named("score", level) | protocol.named("difference", gap))
    return pl.DataFrame(rows, infer_schema_length=None)
