"""The behaviour policies of logged data: PPO trained, its state half-way kept, rules tuned; all kept in a run folder.

Datasets of one configuration of learners and rules share them: they are trained and tuned once.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from adarena.agents import checkpoint, ppo
from adarena.agents.behaviour import Behaviour, Uniform, noisy, ppo_behaviour
from adarena.agents.ppo_policy import PPOPolicy
from adarena.agents.rules import RULES
from adarena.envs.core import Env
from adarena.experiments import protocol
from adarena.experiments.autobid import AutoBidExperiment
from adarena.experiments.store import RunFolder, RunFolderError

TIERS = {
    "random": ("random",),
    "medium": ("medium",),
    "expert": ("expert",),
    "mixed": ("random", "medium", "expert"),
    "rules": (),
}
"""Tier to the names of its behaviour policies; those of ``"rules"`` are the rules of the configuration."""


@dataclasses.dataclass(frozen=True)
class BehaviourConfig:
    """All that decides the behaviour policies.

    Attributes:
        experiment: The market, the learner and the rules; one mechanism, one training seed.
        budgets: Smallest and largest budget over the advertiser's usual one.
        medium_share: Share of the training after which the learner is ``medium``.
        noise: Standard deviation of the noise around a rule's action, before truncation; in units of the action.
    """

    experiment: AutoBidExperiment
    budgets: tuple[float, float]
    medium_share: float
    noise: float

    @property
    def changes(self) -> dict[str, Any]:
        """What the environment's defaults are changed by."""
        low, high = self.budgets
        return {
            "traffic": self.experiment.traffic,
            "impressions": self.experiment.impressions,
            "mechanism": self.experiment.mechanisms[0],
            "objective": self.experiment.objective,
            "response": self.experiment.response,
            "budget_scale_low": low,
            "budget_scale_high": high,
        }


def behaviours(
    config: BehaviourConfig, tier: str, env: Env, params: Any, root: Path, console: Console
) -> dict[str, Behaviour]:
    """The behaviour policies of a tier, by name; trained and tuned if they are not there yet.

    Args:
        config: What decides them.
        tier: One of `TIERS`.
        env: The environment.
        params: Its parameters.
        root: Folder in which the run folder of the policies lies.
        console: Where to say what happens.

    Raises:
        RunFolderError: The folder of the policies is damaged.
    """
    space: Any = env.action_space(params)
    low, high = (jax.device_put(np.asarray(end, np.float32)) for end in (space.low, space.high))
    if tier == "random":
        return {"random": Uniform(low, high)}
    with RunFolder.create(root, config, resume=True, seeds=SEED_LAYOUT) as folder:
        if tier == "rules":
            return {
                name: noisy(rule, config.noise, low, high)
                for name, rule in _tuned(config, env, params, folder, console).items()
            }
        found: dict[str, Behaviour] = {"random": Uniform(low, high)}
        names = TIERS[tier]
        found["medium"] = ppo_behaviour(_trained(config, "medium", env, params, folder, console))
        if "expert" in names:
            found["expert"] = ppo_behaviour(_trained(config, "expert", env, params, folder, console))
    return {name: found[name] for name in names}


SEED_LAYOUT = {
    "training": "jax.random.key(seed)",
    "tuning markets": "fold_in(key(seed), 1)",
    "logged markets": "fold_in(fold_in(key(seed), 0x106ED), episode)",
    "streams of an episode": "fold_in(reset key, n) for traffic, values, response, rivals = 0, 1, 2, 3",
}
"""Where the random numbers come from."""


def _trained(
    config: BehaviourConfig, stage: str, env: Env, params: Any, folder: RunFolder, console: Console
) -> PPOPolicy:
    """PPO at a stage of its training: ``"medium"`` (which comes first) or ``"expert"``."""
    experiment = config.experiment
    learner, seed = experiment.ppo_config(), experiment.seeds[0]
    update = learner.num_envs * learner.rollout_length
    last = -(-experiment.train_steps // update)
    updates = last if stage == "expert" else max(1, round(config.medium_share * last))
    like = jax.eval_shape(lambda: ppo.init(learner, env, params, jax.random.key(0)))
    kept = folder.checkpoints / stage
    if checkpoint.steps(kept):
        return checkpoint.restore(kept, ppo.make_policy(learner, env, like))[0]
    running = folder.checkpoints / "ppo"
    if (checkpoint.steps(running) or [0])[-1] > updates:
        raise RunFolderError(f"checkpoints/{stage} is missing from {folder.path.name}; remove the folder to train anew")
    console.print(f"Training PPO: {updates * update:,} steps to its state '{stage}'")
    states, curve = ppo.train(
        learner,
        env,
        params,
        seeds=[seed],
        total_steps=updates * update,
        chunk_updates=32,
        checkpoint=running,
        resume=True,
        progress=sys.stderr.isatty(),
    )
    policy = ppo.make_policy(learner, env, jax.tree.map(lambda x: x[0], states))
    folder.write_table("curve", curve)
    checkpoint.save(kept, updates, policy)
    return policy


def tuning_sizes(episodes: int) -> dict[str, Any]:
    """How a rule's search spends its episodes, as in ``adarena run autobid``."""
    return {"population": 16, "episodes": max(4, min(64, episodes // 64))}


def _tuned(config: BehaviourConfig, env: Env, params: Any, folder: RunFolder, console: Console) -> dict[str, Any]:
    """The rules, tuned."""
    experiment = config.experiment
    if "tuning" not in folder.tables:
        console.print(f"Tuning {len(experiment.rules)} rules, {experiment.tune_episodes} episodes each")
        tuned = protocol.tune_rules(
            env,
            params,
            experiment.rules,
            budget=experiment.tune_episodes,
            market_seed=experiment.market_seed,
            **tuning_sizes(experiment.tune_episodes),
        )
        folder.write_table("tuning", tuned.table)
    return protocol.rebuilt_rules(folder.read_table("tuning"), env, RULES)
