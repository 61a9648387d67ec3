"""The learners of `adarena.experiments.offline`: modules, gradient steps that take minutes on two cores, and the settings
that a search on tuning markets tries (`adarena.experiments.offline_search`).
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np

from adarena.agents import reasoner
from adarena.agents.offline import bc, cql, decision_transformer, diffusion, gas, gave, iql, td3_bc
from adarena.agents.offline.returns import meter_of
from adarena.agents.offline.thoughts import reader_of
from adarena.envs.core import Env

ALGORITHMS: dict[str, ModuleType] = {
    "bc": bc,
    "td3_bc": td3_bc,
    "cql": cql,
    "iql": iql,
    "decision_transformer": decision_transformer,
    "gave": gave,
    "gas": gas,
    "diffusion": diffusion,
    "reasoner": reasoner,
}
"""Name to module (`adarena.agents.offline.learner.Algorithm`)."""

REASONER = "reasoner"
"""The reasoning bidder."""

GENERATIVE = ("decision_transformer", "gave", "gas", "diffusion", REASONER)
"""Those that are asked for a return when they act."""

STEPS = {
    "bc": 10_000,
    "td3_bc": 10_000,
    "cql": 4_000,
    "iql": 10_000,
    "decision_transformer": 3_000,
    "gave": 3_000,
    "gas": 3_000,
    "diffusion": 3_000,
    "reasoner": 3_000,
}
"""Gradient steps: what a learner's own time on two cores allows, not the same for all."""

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "bc": {
        "learning_rate": (3e-4, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3),
        "activation": ("relu", "swish"),
    },
    # A value travels back over 48 undiscounted steps: targets may follow ten times faster, and TD3+BC's and CQL's critics
    # may be normalised, without which TD3+BC's values grow without bound at that rate.
    "td3_bc": {
        "alpha": (2.5, 0.5, 1.0, 5.0),
        "layer_norm": (False, True),
        "target_rate": (0.005, 0.02, 0.05),
        "learning_rate": (3e-4, 1e-3),
    },
    "cql": {
        "alpha": (1.0, 0.2, 5.0),
        "layer_norm": (False, True),
        "target_rate": (0.005, 0.02, 0.05),
        "actor_rate": (1e-4, 3e-4, 1e-3),
        "entropy": (0.05, 0.01, 0.2),
    },
    "iql": {
        "expectile": (0.7, 0.8, 0.9),
        "beta": (3.0, 0.5, 1.0),
        "target_rate": (0.005, 0.02, 0.05),
        "learning_rate": (3e-4, 1e-3),
    },
    "decision_transformer": {
        "learning_rate": (1e-3, 3e-4, 5e-4, 2e-3, 3e-3, 5e-3),
        "conditioning": ("relative", "advantage", "to_go"),
    },
    # The published bidder explores half to either side. Here it also learns to keep the multiplier it sees, so that what
    # one tick explores may add to the last (table ``drift`` of the experiment's studies): less is tried, too.
    "gave": {
        "explore": (0.5, 0.02, 0.05, 0.1, 0.25),
        "sharpness": (100.0, 10.0, 30.0),
        "expectile": (0.99, 0.9),
        "learning_rate": (1e-3, 3e-4, 3e-3),
    },
    "gas": {
        "search": (0.1, 0.02, 0.05, 0.2),
        "expectile": (0.7, 0.9),
        "target_rate": (0.01, 0.05),
        "learning_rate": (1e-3, 3e-4, 3e-3),
    },
    "diffusion": {
        "guidance": (0.5, 0.0, 1.0, 2.0),
        "temperature": (0.5, 0.0, 1.0),
        "untold": (0.2, 0.1),
        "learning_rate": (1e-3, 3e-4, 3e-3),
    },
    "reasoner": {
        "graded": (1.0, 0.3),
        "anchor": (0.5, 1.0),
        "truth_weight": (1.0, 0.0),
        "learning_rate": (1e-3, 5e-4, 2e-3),
    },
}
"""What the search of a learner's settings draws from: fields of its ``Config`` and their values. First values are the
modules' own: the papers', but for what the modules' docstrings state.
"""

SURE: dict[str, tuple[dict[str, Any], ...]] = {
    "td3_bc": ({"alpha": 0.5, "layer_norm": True, "target_rate": 0.05},),
    "cql": ({"alpha": 5.0}, {"layer_norm": True, "target_rate": 0.05}),
    "iql": ({"beta": 0.5, "target_rate": 0.05},),
    "decision_transformer": ({"conditioning": "to_go", "past_actions": True},),
    "gave": ({"explore": 0.05}, {"conditioning": "to_go"}),
    "gas": ({"conditioning": "to_go"},),
    "diffusion": ({"planned": None},),
    "reasoner": ({"graded": 0.0},),
}
"""Settings that every search tries after the modules' own: changes to them that an earlier search had chosen, then what
papers do where the modules depart (returns to go as goals, past actions read, all entries planned, CQL's penalty).
"""

PLANNED = ("budget_left", "cost_over_target", "progress", "spend_last", "win_rate_last", "multiplier_last")
"""Entries of the observation that the diffusion planner plans: the campaign's own course, not the market's weather."""


def settings_of(name: str, count: int) -> list[dict[str, Any]]:
    """The settings that a search tries: the module's own first, then those of `SURE`, then draws from the space.

    Args:
        name: A learner.
        count: How many; as many for every learner. 0 for the module's own alone, which need no search.

    Returns:
        ``max(count, 1)`` distinct settings, changes to ``Config``; the same for the same arguments.

    Raises:
        ValueError: The space does not hold as many.
    """
    grid = [dict(zip(SPACES[name], values, strict=True)) for values in itertools.product(*SPACES[name].values())]
    first = grid[0]
    sure = [first, *(first | changes for changes in SURE.get(name, ()))]
    rest = [setting for setting in grid if setting not in sure]
    if count > len(sure) + len(rest):
        raise ValueError(f"settings must be at most {len(sure) + len(rest)}, all that there are of {name}, got {count}")
    order = np.random.default_rng(_DRAWS).permutation(len(rest))
    return [*sure, *(rest[place] for place in order)][: max(count, 1)]


_DRAWS = 0  # seed of the draws from a space


def configured(name: str, env: Env, params: Any, steps: int, **changes: Any) -> Any:
    """A learner's configuration for an environment and a number of gradient steps, with further changes."""
    known: dict[str, Any] = {}
    if name in GENERATIVE:
        known["decay_steps"] = float(steps)
    if name == "diffusion":
        places = {entry.name: place for place, entry in enumerate(env.OBSERVATION)}
        known["planned"] = tuple(places[entry] for entry in PLANNED if entry in places) or None
    if name == "reasoner":
        known |= {"reader": reader_of(env, params), "behaviour_steps": max(1.0, 0.5 * steps)}
    if changes.get("conditioning") == "to_go":
        known["meter"] = meter_of(env, "score")
    return ALGORITHMS[name].make_config(**(known | changes))
