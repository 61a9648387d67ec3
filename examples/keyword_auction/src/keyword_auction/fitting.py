"""Policies made for one market: the rule tuned, PPO trained."""

from adarena.agents import ppo
from adarena.agents.tuner import tune
from adarena.experiments.protocol import over_seeds
from adarena.experiments.rollout import rollout_seeds
from keyword_auction.rules import EvenSpend


def tuned_rule(env, params):
    """The rule with its parameters chosen on 1,536 days; returns `adarena.agents.tuner.tune`'s result."""

    def score(candidates, keys, cases):  # [P] mean returns of P candidates on the same days
        return rollout_seeds(env, params, candidates, keys, cases).metrics["return"].mean(axis=1)

    sizes = {"budget": 1536, "population": 16, "episodes": 32, "finalists": 4}
    return tune(EvenSpend.build(env), EvenSpend.space(), score, seed=0, **sizes)


def trained_ppo(env, params, seeds, total_steps, **run):
    """PPO's policies, one a seed, and the learning curve; ``run`` is of `adarena.agents.ppo.train`."""
    sizes = {"num_envs": 16, "rollout_length": 48, "minibatches": 4, "hidden": (32, 32)}
    rates = {"learning_rate": 3e-3, "decay_steps": float(total_steps), "entropy": 0.0, "initial_log_std": 0.0}
    config = ppo.make_config(**sizes, **rates)
    states, curve = ppo.train(config, env, params, seeds=seeds, total_steps=total_steps, progress=False, **run)
    return over_seeds(ppo.make_policy(config, env, states), len(seeds)), curve
