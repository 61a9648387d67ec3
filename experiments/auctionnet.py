"""``adarena evaluate --protocol auctionnet``: policies of any origin in AuctionNet's market, by one frozen protocol.

The market is the preset ``auctionnet``: 500,000 impressions a day, each of them simulated, 48 bidders. Every seat takes its
turn in every market; its budget goes round 50, 75, 100, 125, 150 % of the usual one from market to market, so that over ten
markets each seat has each budget twice. All policies meet the same cases (common random numbers). Rules are tuned first, on
training markets.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import tyro
from rich.table import Table

from adarena import envs
from adarena.agents.policy import PLUGINS, make_policy
from adarena.agents.rules import RULES, known_rules
from adarena.experiments import protocol, tables
from adarena.experiments.rollout import rollout, rollout_seeds
from adarena.experiments.statistics import Bootstrap, Interval, paired_difference, stratified_bootstrap

BUDGETS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Budgets over the usual one."""

COLUMNS = {
    "value": "conversions",
    "cost_over_target": "CPA / target",
    "over_target": "exceed rate",
    "budget_used": "budget used",
    "score": "score",
}
"""What is reported of a case (a name of the environment's metrics) and how tables call it."""

_THINNED = {"impressions": 64, "tick_blocks": 1, "blocks": 512}  # what rules are tuned on: the same market, fewer draws


@dataclasses.dataclass(frozen=True)
class AuctionNetConfig:
    """Which policies, and how much of the protocol; the defaults are the protocol.

    Attributes:
        policy: Repeatable. A rule's name, or that of a policy that an installed package brings;
            ``auctionnet:FILE.py:Class``, ``auctionnet:FILE.py`` or ``auctionnet:FOLDER`` (strategies written for
            AuctionNet); ``torchscript:FILE`` (a policy saved by torch.jit); ``run:FOLDER`` (the learner of ``adarena run
            autobid``, trained in GSP if it was in that, else in the run's first mechanism). All rules if none is named.
        protocol: ``"auctionnet"``, the only one yet.
        markets: Seeds of markets; 10 or more for the protocol.
        seats: Seats that take their turn, spread evenly; 48 for the protocol.
        market_seed: Seed of all markets.
        tune_episodes: Episodes that tuning a rule may take; 0 leaves its defaults.
        fresh_draws: Whether every value is drawn anew instead of from a bank.
        out: Parquet file for the scores of all cases; none if empty.
    """

    policy: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    protocol: str = "auctionnet"
    markets: int = 10
    seats: int = 48
    market_seed: int = 0
    tune_episodes: int = 512
    fresh_draws: bool = False
    out: str = ""

    def __post_init__(self) -> None:
        """Refuses what the protocol does not know."""
        if self.protocol != "auctionnet":
            raise ValueError(f"protocol must be 'auctionnet', got {self.protocol!r}")
        for field, low, high in (("markets", 1, 10_000), ("seats", 1, 48), ("tune_episodes", 0, 1_000_000)):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"{field} must lie in [{low}, {high}], got {getattr(self, field)}")
        if 0 < self.tune_episodes < 256:
            raise ValueError(f"tune_episodes must be 0 or at least 256, got {self.tune_episodes}")


def run(config: AuctionNetConfig, **changes: Any) -> pl.DataFrame:
    """Plays every policy on every case, prints the table.

    Args:
        config: What to play.
        **changes: Changes of the preset (smaller markets in tests).

    Returns:
        One row a policy, training seed and case: ``policy``, ``seed``, ``market``, ``seat``, ``budget_scale``, `COLUMNS`.

    Raises:
        ValueError: A policy is of no known kind or has the name of another.
    """
    console = tables.console()
    preset: dict[str, Any] = {**envs.PRESETS["auctionnet"], "fresh_draws": config.fresh_draws, **changes}
    env, params = envs.make("adarena/AutoBid-v0", **preset)
    contenders = _contenders(config, env, preset)
    cases = draw_cases(config, env.advertisers)  # type: ignore[attr-defined]
    console.print(
        f"AuctionNet's market: {len(contenders)} policies on {len(cases.keys)} cases ({config.markets} markets, "
        f"{config.seats} seats)"
        + ("" if config.markets >= 10 and config.seats == 48 else "; the protocol has 10 and 48")
    )
    frames = []
    for name, policy, seeds in contenders:
        rest: dict[str, Any] = {"bound": False, "chunk": 1, "label": name}
        if seeds:
            metrics = rollout_seeds(env, params, policy, cases.keys, cases.fields, **rest).metrics
        else:
            metrics = {
                k: v[None] for k, v in rollout(env, params, policy, cases.keys, cases.fields, **rest).metrics.items()
            }
        for seed in range(max(seeds, 1)):
            columns = {column: np.asarray(metrics[column][seed], np.float64) for column in COLUMNS}
            who = [pl.lit(name).alias("policy"), pl.lit(seed if seeds else -1).alias("seed")]
            frames.append(cases.table.with_columns(*who, **{k: pl.Series(v) for k, v in columns.items()}))
        if config.out:  # policy by policy, so that a run that is stopped has lost only its last one
            Path(config.out).parent.mkdir(parents=True, exist_ok=True)
            pl.concat(frames).write_parquet(config.out)
    scores = pl.concat(frames)
    console.print(_table(summarise(scores)))
    if config.out:
        console.print(f"Scores are in {config.out}")
    return scores


def draw_cases(config: AuctionNetConfig, advertisers: int) -> protocol.Cases:
    """Every seat in every market, budgets going round."""
    seats = np.unique(np.linspace(0, advertisers - 1, min(config.seats, advertisers)).round().astype(int))
    grid = [(m, s, BUDGETS[(m + s) % len(BUDGETS)]) for m in range(config.markets) for s in seats]
    market, seat, budget = (np.asarray(column) for column in zip(*grid, strict=True))
    root = jax.random.fold_in(jax.random.key(config.market_seed), protocol.EVALUATION)
    keys = jax.vmap(lambda m: jax.random.fold_in(root, m))(jnp.asarray(market))
    scale = budget.astype(np.float32)
    fields = {"seat": seat.astype(np.int32), "budget_scale_low": scale, "budget_scale_high": scale}
    columns = {"case": np.arange(len(grid)), "market": market, "seat": seat, "budget_scale": budget}
    return protocol.Cases(keys, fields, pl.DataFrame(columns))


def _contenders(config: AuctionNetConfig, env: Any, preset: dict[str, Any]) -> list[tuple[str, Any, int]]:
    """Name, policy, number of training seeds (0 for what is not trained), rules tuned."""
    found: list[tuple[str, Any, int]] = []
    rules: list[str] = []
    for text in config.policy or tuple(RULES):
        kind, _, path = text.partition(":")
        if text in known_rules([text]):
            rules.append(text)
        elif text in PLUGINS.found():
            found.append((text, make_policy(text, env), 0))
        elif kind == "auctionnet" and path:
            found += _strategies(path)
        elif kind == "torchscript" and path:
            from adarena.agents.torchscript import torchscript_policy

            found.append((Path(path).stem, torchscript_policy(path, ticks=env.ticks), 0))
        elif kind == "run" and path:
            found.append(_learner(path, env))
        else:
            raise ValueError(
                f"policy must be a rule ({', '.join(RULES)}), one that an installed package brings "
                f"({', '.join(PLUGINS.names()) or 'none'}), auctionnet:FILE.py:Class, torchscript:FILE or run:FOLDER, "
                f"got {text!r}"
            )
    names = [*rules, *(name for name, _, _ in found)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"policy names must differ, got {name!r} twice")
    return [(name, rule, 0) for name, rule in _tuned(config, rules, preset).items()] + found


def _strategies(path: str) -> list[tuple[str, Any, int]]:
    from adarena.envs.adapters.auctionnet import load_strategies
    from adarena.envs.adapters.auctionnet_host import StrategyPolicy

    return [(name, StrategyPolicy(cls, name), 0) for name, cls in load_strategies(path).items()]


def _learner(path: str, env: Any) -> tuple[str, Any, int]:
    from adarena.experiments.evaluate import experiment_of, trained_policy
    from adarena.experiments.store import RunFolder

    folder = RunFolder.open(Path(path))
    trained = experiment_of(folder)
    mechanisms = trained.markets_of()
    mechanism = "gsp" if "gsp" in mechanisms else mechanisms[0]
    seen = trained.make(mechanism, "train")[0].OBSERVATION
    if seen != env.OBSERVATION:
        raise ValueError(
            f"policy run:{path} must have learned from the {len(env.OBSERVATION)} entries that the market shows, "
            f"got a learner of {len(seen)}"
        )
    policy = trained_policy(folder, trained, mechanism)
    return f"ppo ({folder.path.name})", protocol.over_seeds(policy, len(trained.seeds)), len(trained.seeds)


def _tuned(config: AuctionNetConfig, names: list[str], preset: dict[str, Any]) -> dict[str, Any]:
    """The rules, tuned on training markets of the same kind, thinned."""
    if not names:
        return {}
    env, params = envs.make("adarena/AutoBid-v0", **preset | _THINNED)
    if config.tune_episodes == 0:
        return {name: RULES[name].build(env) for name in names}
    episodes = max(4, config.tune_episodes // 64)
    rest: dict[str, Any] = {"market_seed": config.market_seed, "population": 16, "episodes": episodes}
    return protocol.tune_rules(env, params, names, budget=config.tune_episodes, **rest).rules


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """One row a policy, best first: the mean of each of `COLUMNS` with its 95 % interval over markets (training seeds too,
    where there are several), and the paired difference of the score to the best policy.
    """
    best = scores.group_by("policy").agg(pl.col("score").mean()).sort("score")["policy"][-1]
    rows = []
    for name in scores["policy"].unique(maintain_order=True):
        mine = scores.filter(pl.col("policy") == name).sort("seed", "case")
        market = mine.filter(pl.col("seed") == mine["seed"][0])["market"].to_numpy()
        row: dict[str, Any] = {"policy": name}
        options: dict[str, Any] = {"markets": market, "options": Bootstrap(resample="markets")}
        many = len(np.unique(market)) > 1
        for column in COLUMNS:
            values = _by_case(mine, column)
            found = (
                stratified_bootstrap(values, np.mean, **options) if many else Interval(values.mean(), np.nan, np.nan)
            )
            row |= {column: found.estimate, f"{column}_low": found.low, f"{column}_high": found.high}
        other = _by_case(scores.filter(pl.col("policy") == best).sort("seed", "case"), "score")
        values = _by_case(mine, "score")
        gap = paired_difference(values, other, np.mean, **options) if many else None
        plain = float((values - other).mean())
        row |= {
            "difference": gap.estimate if gap else plain,
            "difference_low": gap.low if gap else np.nan,
            "difference_high": gap.high if gap else np.nan,
        }
        rows.append(row)
    return pl.DataFrame(rows).sort("score", descending=True)


def _by_case(rows: pl.DataFrame, column: str) -> np.ndarray:
    """Mean over training seeds, ``[cases]``."""
    return rows[column].to_numpy().reshape(rows["seed"].n_unique(), -1).mean(axis=0)


def _table(summary: pl.DataFrame) -> Table:
    table = Table(title="AuctionNet protocol: means over all cases, 95 % interval over markets")
    table.add_column("policy", no_wrap=True)
    for title in (*COLUMNS.values(), "score against the best"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in summary.iter_rows(named=True):
        shares = ("over_target", "budget_used")
        cells = [tables.with_interval(row, column, percent=column in shares) for column in COLUMNS]
        table.add_row(row["policy"], *cells, tables.with_interval(row, "difference", sign=True))
    return table
