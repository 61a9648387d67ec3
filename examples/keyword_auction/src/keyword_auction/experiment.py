"""An experiment that ``adarena sweep`` runs: the tuned rule and PPO under one daily cap."""

import dataclasses
import sys

import jax
import numpy as np
import polars as pl

from adarena import envs
from adarena.experiments.rollout import rollout_seeds
from adarena.experiments.store import RunFolder
from adarena.experiments.sweep_plan import register
from keyword_auction.fitting import trained_ppo, tuned_rule


@dataclasses.dataclass(frozen=True)
class KeywordExperiment:
    """One cell; its fields are what a sweep can vary."""

    cap: float = 40.0  # currency units a day
    total_steps: int = 100_000  # environment steps of PPO, a seed
    seeds: tuple[int, ...] = (0, 1, 2)  # training seeds
    days: int = 256  # on which both are compared
    runs: str = "runs"  # where the run folder lies, and
    name: str = ""  # its name: a sweep fills these two


PRESETS = {"default": KeywordExperiment()}


def days_of(count):
    """Reset keys of the days on which policies are compared, which none has learnt from."""
    return jax.random.split(jax.random.fold_in(jax.random.key(2025), 2), count)


def run(config, *, resume=False):
    """Runs one cell; returns its folder. With ``resume``, training goes on from its checkpoints."""
    env, params = envs.make("mine/Keyword-v0", cap=config.cap)
    with RunFolder.create(config.runs, config, config.name or None, resume=resume) as folder:
        rule = tuned_rule(env, params).policy
        kept = {"checkpoint": folder.checkpoints / "ppo", "resume": resume}
        learner, _ = trained_ppo(env, params, config.seeds, config.total_steps, **kept)
        days, tables = days_of(config.days), []
        for name, policy, seeds in (
            ("even_spend", jax.tree.map(lambda x: np.asarray(x)[None], rule), [-1]),  # a rule has no training seed
            ("ppo", learner, config.seeds),
        ):
            value = rollout_seeds(env, params, policy, days).metrics["return"]  # [seeds, days]
            case = np.tile(np.arange(config.days), len(seeds))
            columns = {"seed": np.repeat(seeds, config.days), "case": case, "score": value.reshape(-1)}
            tables.append(pl.DataFrame(columns).select(pl.lit(name).alias("policy"), pl.all()))
        folder.write_table("scores", pl.concat(tables))
    return folder


register("keyword", sys.modules[__name__])
