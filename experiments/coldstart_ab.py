"""What A/B tests say of cold-start support, against the truth: user-side, ad-side and two-sided splits.

Ye et al. (Management Science 2023) simulated the three for their shadow bidding: the truth (all on against all off) was
+.050, the ad-side split said +.078, the user-side split -.015 (the wrong sign), the two-sided split +.056. Splits err because
arms share a market: supported ads take impressions from those that are not, and what a supported impression teaches
about an ad serves all users.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import polars as pl

from adarena.envs.coldstart import ColdStart
from adarena.envs.coldstart_state import SUCCEEDED, State
from adarena.envs.coldstart_tick import expected_conversions, window_ticks
from adarena.envs.core import Env, Key, StepResult
from adarena.experiments.coldstart_eval import Contestants, cases_of, play, score_rows

if TYPE_CHECKING:
    from adarena.experiments.coldstart import ColdStartExperiment

DESIGNS: dict[str, tuple[float, float]] = {
    "truth": (1.0, 1.0),
    "ad_side": (0.5, 1.0),
    "user_side": (1.0, 0.5),
    "two_sided": (0.5, 0.5),
}
"""Shares of new ads and of users with support. The fund is as large as their product of the whole one."""

PUBLISHED = {"truth": 0.050, "ad_side": 0.078, "user_side": -0.015, "two_sided": 0.056}
"""What the published simulation found."""

SUMS = (
    *("on_ads", "on_successes", "on_conversions", "on_expected"),
    *("off_ads", "off_successes", "off_conversions", "off_expected"),
)
"""What an analyst adds up over the ads of either arm, in every episode."""


@dataclasses.dataclass(frozen=True)
class SplitColdStart(ColdStart):
    """`ColdStart` with what the analyst of a split test reads, as the episode's ``bound``.

    Arms are cells of ads and users. Ad-side split (``ad_share`` below 1, all users): supported ads against the others.
    User-side (``user_share`` below 1, all ads): all ads by the users with support, against all ads by the others.
    Two-sided (both): supported ads by users with support, against other ads by other users. Neither: the truth, this market
    against its twin. An arm with a part of the users counts a success as the definition does, with the same part of the
    conversions required; cost per conversion is the ad's own, since a campaign has one account.
    """

    def step(self, key: Key, state: State, action: jax.Array, params: Any) -> StepResult:
        """One tick, and running sums of the ads by users with support."""
        result = super().step(key, state, action, params)
        side = result.state.side
        of_all = expected_conversions(self, state.world, side.trials[self.mature :])
        of_treated = expected_conversions(self, state.world, side.treated_trials)
        more = {"of_all": of_all, "of_treated": of_treated, "conversion": side.conversion}
        return result._replace(info={**result.info, **more})

    def bound(self, infos: dict[str, jax.Array], state: State, params: Any) -> dict[str, jax.Array]:
        """`SUMS`, float32 scalars."""
        return split_sums(self, infos, state, params)


def split_sums(env: ColdStart, infos: dict[str, jax.Array], state: State, params: Any) -> dict[str, jax.Array]:
    """`SUMS` of an episode, from its stacked ``info``, last state and parameters."""
    world, side = state.world, state.side
    tick = jnp.arange(infos["of_all"].shape[0])[:, None]
    inside = (tick >= world.launch) & (tick < world.launch + window_ticks(env, params))
    expected, treated = (jnp.where(inside, _steps(infos[name]), 0.0) for name in ("of_all", "of_treated"))
    counted = jnp.where(inside, _steps(infos["conversion"]), 0.0).sum(axis=0)
    by_treated = jnp.where(inside, _on_treated(env, infos, world.exploration), 0.0).sum(axis=0)
    spend, tolerated = side.at_close[:, 1], params.cpa_tolerance * world.target[env.mature :]
    cheap = spend <= tolerated * side.at_close[:, 0]

    def arm(conversions: jax.Array, lam: jax.Array, users: jax.Array, ads: jax.Array) -> list[jax.Array]:
        part = jnp.maximum(users, 1e-6)
        won = cheap & (conversions >= params.required_conversions * part) & ads
        scaled = (jnp.where(ads, x, 0.0).sum() / part for x in (conversions, lam))
        return [ads.sum().astype(jnp.float32), won.sum().astype(jnp.float32), *scaled]

    everybody = jnp.ones_like(world.treated)
    by_ads, by_users = params.ad_share < 1.0, params.user_share < 1.0
    share = jnp.where(by_users, params.user_share, 1.0)
    on = arm(by_treated, treated.sum(axis=0), share, world.treated)
    others = jnp.where(by_ads, ~world.treated, everybody)
    rest, lam = counted - by_treated, (expected - treated).sum(axis=0)
    off_counted, off_lam = jnp.where(by_users, rest, counted), jnp.where(by_users, lam, expected.sum(axis=0))
    off = arm(off_counted, off_lam, jnp.where(by_users, 1.0 - params.user_share, 1.0), others)
    if state.twin is not None:
        whole = ~by_ads & ~by_users
        twin = _twin_arm(env, state)
        off = [jnp.where(whole, a, b) for a, b in zip(twin, off, strict=True)]
    return dict(zip(SUMS, [*on, *off], strict=True))


def _twin_arm(env: ColdStart, state: State) -> list[jax.Array]:
    """Ads, successes, conversions and expected conversions in their windows of the market without support."""
    assert state.twin is not None
    twin = state.twin
    ads = jnp.float32(env.launched)
    return [ads, (twin.outcome == SUCCEEDED).sum() * 1.0, twin.at_close[:, 0].sum(), twin.expected_close.sum()]


def _steps(running: jax.Array) -> jax.Array:
    """What each tick added to running sums ``[T, L]``."""
    return jnp.diff(running, axis=0, prepend=jnp.zeros_like(running[:1]))


def _on_treated(env: ColdStart, infos: dict[str, jax.Array], key: Key) -> jax.Array:
    """Conversions by users with support, ``[T, L]``.

    Each conversion of a tick is theirs with the chance of their part of the tick's expected ones; a thinned Poisson process
    is one again, so both arms' counts are what two separate ones would be.
    """
    after = infos["conversion"]
    before = after - _steps(after)
    numbers = jnp.arange(64)
    # Ticks and the split of ads have used the numbers up to ``env.ticks``.
    u = jax.random.uniform(jax.random.fold_in(key, env.ticks + 1), (env.launched, len(numbers)))
    part = _steps(infos["of_treated"]) / jnp.maximum(_steps(infos["of_all"]), 1e-12)
    happened = (numbers >= before[..., None]) & (numbers < after[..., None])
    single = (happened & (u < part[..., None])).sum(axis=-1)
    beyond = jnp.maximum(after - len(numbers), 0.0) - jnp.maximum(before - len(numbers), 0.0)
    return single + part * beyond


def watched(env: Env) -> SplitColdStart:
    """The same market, with the sums of split tests."""
    return SplitColdStart(**{field.name: getattr(env, field.name) for field in dataclasses.fields(SplitColdStart)})


def split_tests(config: ColdStartExperiment, shown: Contestants) -> pl.DataFrame:
    """The truth and the three splits for some policies: columns ``policy``, ``design``, ``market``, `SUMS` and others."""
    env, params = config.market()
    budget = float(params.exploration_budget)
    settings = [
        {"ad_share": ads, "user_share": users, "exploration_budget": budget * ads * users}
        for ads, users in DESIGNS.values()
    ]
    cases = cases_of(config.market_seed, config.ab_markets, params, settings)
    played = play(env, params, shown, cases, config.chunk)
    sums = score_rows(played.metrics, shown, cases, SUMS)
    designs = pl.DataFrame({"setting": range(len(DESIGNS)), "design": list(DESIGNS)})
    return sums.join(designs, on="setting", how="left", maintain_order="left")
