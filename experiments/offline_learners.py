"""The learners of `adarena.experiments.offline`: modules, sizes, and gradient steps that take minutes on two cores."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from adarena.agents.offline import bc, cql, decision_transformer, diffusion, gas, gave, iql, td3_bc
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
}
"""Name to module (`adarena.agents.offline.learner.Algorithm`)."""

GENERATIVE = ("decision_transformer", "gave", "gas", "diffusion")
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
}
"""Gradient steps: what a learner's own time on two cores allows, not the same for all."""

CHOSEN: dict[str, dict[str, Any]] = {
    "td3_bc": {"layer_norm": True, "target_rate": 0.05, "alpha": 0.5},
    "iql": {"target_rate": 0.05, "beta": 0.5},
    "gave": {"explore": 0.05},
}
"""Settings other than the papers', chosen on tuning markets of the default experiment.

A value travels back over 48 undiscounted steps, so targets follow ten times faster; TD3+BC's values then grow without bound
unless its critics are normalised. GAVE explores a twentieth to either side instead of a half.
"""

PLANNED = ("budget_left", "cost_over_target", "progress", "spend_last", "win_rate_last", "multiplier_last")
"""Entries of the observation that the diffusion planner plans: the campaign's own course, not the market's weather."""


def configured(name: str, env: Env, steps: int, **changes: Any) -> Any:
    """A learner's configuration for an environment and a number of gradient steps, with further changes."""
    known: dict[str, Any] = dict(CHOSEN.get(name, {}))
    if name in GENERATIVE:
        known["decay_steps"] = float(steps)
    if name == "diffusion":
        places = {entry.name: place for place, entry in enumerate(env.OBSERVATION)}
        known["planned"] = tuple(places[entry] for entry in PLANNED if entry in places) or None
    return ALGORITHMS[name].make_config(**(known | changes))
