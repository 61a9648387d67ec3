"""Rules that practitioners bid by, in JAX, each with the search space in which the common tuner tunes it."""

from adarena.agents.policy import register_policy
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
]
