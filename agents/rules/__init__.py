"""Rules that practitioners bid by, in JAX, each with the search space in which the common tuner tunes it."""

from collections.abc import Iterable
from typing import Any

from adarena.agents.policy import PLUGINS, register_policy
from adarena.agents.rules.base import Rule
from adarena.agents.rules.coldstart import COLDSTART_RULES, ORACLES
from adarena.agents.rules.feedback import BudgetPacer, DualDescent, MinPacing, PIDPacing, PIDTarget
from adarena.agents.rules.landscape import LandscapeShader, OnlineLP
from adarena.agents.rules.lifecycle import LIFECYCLE_RULES
from adarena.agents.rules.lifecycle_base import LifecycleRule
from adarena.agents.rules.placement import PlacementRule
from adarena.agents.rules.simple import Constant, Random

RULES: dict[str, type[Rule]] = {
    "random": Random,
    "constant": Constant,
    "budget_pacer": BudgetPacer,
    "pid_target": PIDTarget,
    "pid_pacing": PIDPacing,
    "dual_descent": DualDescent,
    "min_pacing": MinPacing,
    "online_lp": OnlineLP,
    "landscape_shader": LandscapeShader,
}
"""Every rule by the name that tables and the command line use."""

for _name, _rule in RULES.items():
    register_policy(_name, _rule.build)
for _name, _placement in {**COLDSTART_RULES, **ORACLES}.items():
    register_policy(_name, _placement.build)
for _name, _lifecycle in LIFECYCLE_RULES.items():
    register_policy(_name, _lifecycle.build)


def is_rule(candidate: Any) -> bool:
    """Whether it is a class that the tuner can tune: ``build(env)`` and ``space()`` are there."""
    return isinstance(candidate, type) and all(callable(getattr(candidate, name, None)) for name in ("build", "space"))


def register_rule(name: str, rule: type[Rule]) -> None:
    """Makes a rule known to the experiments and the command line by ``name``, as `RULES` are.

    Args:
        name: What tables and ``--policy`` call it.
        rule: A class with ``build(env)``, ``space()``, ``init`` and ``act``: a subclass of `Rule`, or one like it.

    Raises:
        TypeError: ``rule`` is no such class.
        ValueError: The name is empty or taken by another class.
    """
    if not is_rule(rule):
        raise TypeError(f"rule must be a class with build(env) and space(), such as a subclass of Rule, got {rule!r}")
    register_policy(name, rule.build)
    RULES[name] = rule


def known_rules(names: Iterable[str]) -> tuple[str, ...]:
    """Names of all rules; of those in ``names`` that installed packages bring, their rules are registered first.

    Raises:
        adarena.envs.plugins.PluginError: One cannot be used.
    """
    for name in names:
        if name not in RULES and name in PLUGINS.found() and is_rule(PLUGINS.load(name)):
            register_rule(name, PLUGINS.load(name))
    return tuple(RULES)


__all__ = [
    "COLDSTART_RULES",
    "LIFECYCLE_RULES",
    "ORACLES",
    "RULES",
    "BudgetPacer",
    "Constant",
    "DualDescent",
    "LandscapeShader",
    "LifecycleRule",
    "MinPacing",
    "OnlineLP",
    "PIDPacing",
    "PIDTarget",
    "PlacementRule",
    "Random",
    "Rule",
    "is_rule",
    "known_rules",
    "register_rule",
]
