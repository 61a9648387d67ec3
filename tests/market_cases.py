"""Ticks to test the market on, and the fast market run on a batch of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from reference import Case, reference_tick

from adarena.envs.market.auction import AuctionRules, tie_priority
from adarena.envs.market.clearing import Bidders, Terms, Visit
from adarena.envs.market.response import ResponseDraws
from adarena.envs.market.tick import TickResult, run_tick
from adarena.envs.market.traffic import Bank

ADVERTISERS, IMPRESSIONS = 5, 12


def priority(advertisers: int = ADVERTISERS, impressions: int = IMPRESSIONS) -> np.ndarray:
    """Order of equal scores in block 0 of a bank, ``[N, M]``."""
    return np.asarray(tie_priority(jnp.arange(impressions), advertisers))


def dyadic_case(rng: np.random.Generator, slots: int) -> Case:
    """A tick on a grid of powers of two, on which sums in float32 are exact and ties are common."""
    n, m = ADVERTISERS, IMPRESSIONS
    pctr = rng.choice([1 / 8, 1 / 4], (n, m))
    return Case(
        pctr=pctr,
        pvalue=pctr * rng.choice([1 / 4, 1 / 2], (n, m)),
        error=np.ones((n, m)),
        basket=np.ones(m),
        outside=rng.choice([0.0, 0.0, 1 / 16], m),
        weight=rng.choice([0.0, 1.0, 1.0, 2.0], m),
        priority=priority(),
        scale=rng.integers(1, 17, n) / 4.0,
        factor=rng.choice([1.0, 2.0], n),
        worth=rng.choice([1.0, 2.0], n),
        remaining=np.full(n, np.inf),
        exposure=np.asarray([1.0, 1 / 2, 1 / 2])[:slots],
        cascade=bool(rng.integers(2)),
        reserve=float(rng.choice([0.0, 1 / 32, 1 / 8])),
        kappa=float(rng.integers(2)),
    )


def random_case(rng: np.random.Generator, slots: int) -> Case:
    """A tick of random numbers, prediction errors, baskets of different worth."""
    n, m = ADVERTISERS, IMPRESSIONS
    pctr = rng.uniform(0.02, 0.3, (n, m))
    return Case(
        pctr=pctr,
        pvalue=pctr * rng.uniform(0.1, 0.5, (n, m)),
        error=np.exp(0.3 * rng.standard_normal((n, m))),
        basket=rng.uniform(0.5, 2.0, m),
        outside=rng.uniform(0.0, 0.1, m),
        weight=rng.uniform(0.5, 3.0, m),
        priority=priority(),
        scale=rng.uniform(0.5, 4.0, n),
        factor=rng.uniform(0.5, 1.5, n),
        worth=rng.uniform(0.5, 2.0, n),
        remaining=np.full(n, np.inf),
        exposure=np.sort(rng.uniform(0.2, 1.0, slots))[::-1],
        cascade=bool(rng.integers(2)),
        reserve=float(rng.uniform(0.0, 0.1)),
        kappa=float(rng.uniform(0.0, 1.5)),
    )


def with_budgets(rng: np.random.Generator, rules: AuctionRules, case: Case, exact: bool) -> Case:
    """The tick with budgets that end in the middle of it, at its last charge, before it, or never."""
    spend = reference_tick(rules, case).spend
    share = rng.choice([0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 2.0], len(spend))
    if not exact:  # a budget of exactly the spend would be a matter of rounding
        share = np.where(share == 1.0, 0.9, share)
    remaining = np.where(share > 1.0, 1e6, share * spend)
    if exact:
        remaining = np.floor(remaining * 256) / 256  # still exact in float32
    return dataclasses.replace(case, remaining=remaining)


def adversarial_cases(rng: np.random.Generator, rules: AuctionRules) -> list[Case]:
    """Ties, broke and lonely bidders, reserves above everything, exits together and one after another."""
    slots = rules.slots
    plain = dyadic_case(rng, slots)
    same = dataclasses.replace(
        plain,
        pctr=np.full_like(plain.pctr, 1 / 4),
        pvalue=np.full_like(plain.pvalue, 1 / 16),
        factor=np.ones(ADVERTISERS),
        scale=np.full(ADVERTISERS, 4.0),
        outside=np.zeros(IMPRESSIONS),
        reserve=0.0,
    )
    alone = np.zeros(ADVERTISERS)
    alone[2] = 1e6
    flat = dataclasses.replace(same, exposure=np.ones(slots), weight=np.ones(IMPRESSIONS))
    each = reference_tick(rules, flat).charge[0, 0]  # all slots cost the same here
    falling = dataclasses.replace(flat, scale=np.asarray([8.0, 6.0, 4.0, 2.0, 1.0]))
    step = reference_tick(rules, falling).charge[0, 0]
    cases = [
        same,  # everybody tied
        with_budgets(rng, rules, same, exact=True),
        dataclasses.replace(plain, remaining=np.zeros(ADVERTISERS)),
        dataclasses.replace(plain, remaining=alone),  # one bidder, more slots than bidders
        dataclasses.replace(plain, reserve=1e3),  # all below the reserve
        dataclasses.replace(plain, outside=np.full(IMPRESSIONS, 1e3)),
        dataclasses.replace(plain, weight=np.zeros(IMPRESSIONS)),  # nothing but padding
        # All run out on the impressions where they have won twice, several on the same one.
        dataclasses.replace(flat, remaining=np.full(ADVERTISERS, 2.0 * each)),
        dataclasses.replace(flat, remaining=np.full(ADVERTISERS, 2.5 * each)),
        # The highest leaves, then the next, and so on: a cascade of exits.
        dataclasses.replace(falling, remaining=np.asarray([1.0, 1.5, 1.0, 0.5, 0.25]) * step),
        dataclasses.replace(falling, remaining=np.asarray([0.25, 0.25, 0.25, 0.25, 1e6]) * step),  # nobody can pay once
    ]
    return [*cases, *(with_budgets(rng, rules, dyadic_case(rng, slots), exact=True) for _ in range(9))]


def stacked(cases: Sequence[Case]) -> dict[str, jax.Array]:
    """Arrays ``[B, ...]`` of a batch."""
    names = [field.name for field in dataclasses.fields(Case) if field.name != "luck"]
    batch = {name: np.stack([np.asarray(getattr(case, name)) for case in cases]) for name in names}
    arrays = {name: jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for name, x in batch.items()}
    if cases[0].luck is not None:
        arrays["luck"] = jnp.asarray(np.stack([np.asarray(case.luck) for case in cases]), jnp.float32)
    return arrays


def market(case: dict[str, jax.Array]) -> tuple[Visit, Bidders, Terms, ResponseDraws | None]:
    """A case as the market takes it. The error comes in as the noise that makes it."""
    n = case["pctr"].shape[0]
    bank = Bank(
        pctr=case["pctr"][None],
        pvalue=case["pvalue"][None],
        noise=jnp.log(case["error"])[None],
        level=jnp.ones(n),
        worth=case["basket"][None],
        outside=case["outside"][None],
        weight=case["weight"][None],
        first=jnp.zeros(1, jnp.int32),
        last=jnp.ones(1, jnp.int32),
        daily=jnp.ones(1),
        ctr_factor=jnp.ones(1),
    )
    terms = Terms(
        reserve=case["reserve"],
        kappa=case["kappa"],
        exposure=case["exposure"],
        cascade=case["cascade"],
        outside_price=jnp.float32(1.0),
        error_bias=jnp.float32(0.0),
        error_noise=jnp.float32(1.0),
        error_slope=jnp.float32(1.0),
    )
    bidders = Bidders(case["scale"], case["factor"], case["worth"], case["remaining"])
    draws = ResponseDraws(case["luck"], jax.random.key(0)[None], jax.random.key(1)[None]) if "luck" in case else None
    return Visit(bank, jnp.int32(0), case["weight"], True), bidders, terms, draws


def fast_tick(rules: AuctionRules, case: dict[str, jax.Array]) -> TickResult:
    """The market's own tick on one case, given as arrays."""
    return run_tick(rules, *market(case))


def run_cases(rules: AuctionRules, cases: Sequence[Case], *, optimised: bool = True) -> TickResult:
    """The market's tick on a batch of cases, compiled once. Less optimised programs compile twice as fast."""
    arrays = stacked(cases)
    lowered = jax.jit(jax.vmap(lambda case: fast_tick(rules, case))).lower(arrays)
    options = {} if optimised else {"xla_backend_optimization_level": 0}
    return jax.tree.map(np.asarray, lowered.compile(compiler_options=options)(arrays))
