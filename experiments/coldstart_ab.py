"""What A/B tests say of cold-start support, against the truth: user-side, ad-side and two-sided splits.

Ye et al. (Management Science 2023) simulated the three for their shadow bidding: the truth (all on against all off) was
+.050, the ad-side split said +.078, the user-side split -.015 (the wrong sign), the two-sided split +.056. Splits err because
arms share a market: supported ads take impressions from those that are not, and what a supported impression teaches
about an ad serves all users.

Arms of a few ads differ by chance, whatever is done to them. The same arms in the twin, without support, differ by the same
chance and by nothing else, since arms are drawn at random: taking that difference off leaves what the split says in
expectation, with far less noise. No analyst has a twin, so what one would read is kept beside it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import polars as pl

from adarena.envs.coldstart import ColdStart
from adarena.envs.coldstart_setup import CONVERSIONS
from adarena.envs.coldstart_state import Side, State, World
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

SUMS = tuple(
    f"{arm}_{what}"
    for arm in ("on", "off", "twin_on", "twin_off")
    for what in ("ads", "successes", "conversions", "expected")
)
"""What is added up over the ads of each arm, in every episode: with support, without, and of the same two in the twin."""


@dataclasses.dataclass(frozen=True)
class SplitColdStart(ColdStart):
    """`ColdStart` with what the analyst of a split test reads, as the episode's ``bound``.

    Arms are cells of ads and users. Ad-side split (``ad_share`` below 1, all users): supported ads against the others.
    User-side (``user_share`` below 1, all ads): all ads by the users with support, against all ads by the others.
    Two-sided (both): supported ads by users with support, against other ads by other users. Neither: the truth, this market
    against its twin. An arm with a part of the users counts a success as the definition does, with the same part of the
    conversions required; cost per conversion is the ad's own, since a campaign has one account.
    """

    def __post_init__(self) -> None:
        """As `ColdStart`; and the truth needs a twin."""
        super().__post_init__()
        if not self.twin:
            raise ValueError("twin must be True for split tests, got False")

    def step(self, key: Key, state: State, action: jax.Array, params: Any) -> StepResult:
        """One tick, and running sums of the ads by users with support."""
        result = super().step(key, state, action, params)
        more: dict[str, jax.Array] = {}
        for name, side in (("own", result.state.side), ("twin", result.state.twin)):
            of_all = expected_conversions(self, state.world, side.trials[self.mature :])
            of_treated = expected_conversions(self, state.world, side.treated_trials)
            more |= {f"{name}_all": of_all, f"{name}_treated": of_treated, f"{name}_conversion": side.conversion}
        return result._replace(info={**result.info, **more})

    def bound(self, infos: dict[str, jax.Array], state: State, params: Any) -> dict[str, jax.Array]:
        """`SUMS`, float32 scalars."""
        return split_sums(self, infos, state, params)


def split_sums(env: ColdStart, infos: dict[str, jax.Array], state: State, params: Any) -> dict[str, jax.Array]:
    """`SUMS` of an episode, from its stacked ``info``, last state and parameters."""
    assert state.twin is not None
    running = {name: tuple(infos[f"{name}_{x}"] for x in ("all", "treated", "conversion")) for name in ("own", "twin")}
    on, off = _arms(env, running["own"], state.world, state.side, params)
    twin_on, twin_off = _arms(env, running["twin"], state.world, state.twin, params)
    # Where nothing is split, the arm without support is the twin.
    whole = (params.ad_share >= 1.0) & (params.user_share >= 1.0)
    off, twin_off = ([jnp.where(whole, t, x) for t, x in zip(twin_on, arm, strict=True)] for arm in (off, twin_off))
    return dict(zip(SUMS, [*on, *off, *twin_on, *twin_off], strict=True))


def _arms(
    env: ColdStart, running: tuple[jax.Array, ...], world: World, side: Side, params: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Ads, successes, conversions and expected conversions of the arms with and without support, in one market.

    ``running``: expected conversions by all users, by users with support, and conversions, so far, ``[T, L]`` each.
    """
    of_all, of_treated, conversion = running
    tick = jnp.arange(of_all.shape[0])[:, None]
    inside = (tick >= world.launch) & (tick < world.launch + window_ticks(env, params))

    def in_all(by_tick: jax.Array) -> jax.Array:
        return jnp.where(inside, by_tick, 0.0).sum(axis=0)

    counted, expected, treated = (in_all(_steps(x)) for x in (conversion, of_all, of_treated))
    by_treated = in_all(_on_treated(env, conversion, _steps(of_treated), _steps(of_all), world.exploration))
    tolerated = params.cpa_tolerance * world.target[env.mature :] * side.at_close[:, 0]
    cheap = side.at_close[:, 1] <= tolerated

    def arm(conversions: jax.Array, lam: jax.Array, users: jax.Array, ads: jax.Array) -> list[jax.Array]:
        part = jnp.maximum(users, 1e-6)
        won = cheap & (conversions >= params.required_conversions * part) & ads
        scaled = (jnp.where(ads, x, 0.0).sum() / part for x in (conversions, lam))
        return [ads.sum().astype(jnp.float32), won.sum().astype(jnp.float32), *scaled]

    by_ads, by_users = params.ad_share < 1.0, params.user_share < 1.0
    on = arm(by_treated, treated, params.user_share, world.treated)
    others = jnp.where(by_ads, ~world.treated, jnp.ones_like(world.treated))
    rest, lam = (jnp.where(by_users, x - y, x) for x, y in ((counted, by_treated), (expected, treated)))
    return on, arm(rest, lam, jnp.where(by_users, 1.0 - params.user_share, 1.0), others)


def _steps(running: jax.Array) -> jax.Array:
    """What each tick added to running sums ``[T, L]``."""
    return jnp.diff(running, axis=0, prepend=jnp.zeros_like(running[:1]))


def _on_treated(env: ColdStart, after: jax.Array, theirs: jax.Array, whole: jax.Array, key: Key) -> jax.Array:
    """Conversions by users with support, ``[T, L]``.

    Each conversion of a tick is theirs with the chance of their part of the tick's expected ones; a thinned Poisson process
    is one again, so both arms' counts are what two separate ones would be.

    Args:
        env: The environment.
        after: Conversions by the end of each tick.
        theirs: Expected conversions of each tick by users with support.
        whole: The same by all users.
        key: Key of the stream of exploration.
    """
    before = after - _steps(after)
    numbers = jnp.arange(CONVERSIONS)
    # Ticks and the split of ads have used the numbers up to ``env.ticks``.
    u = jax.random.uniform(jax.random.fold_in(key, env.ticks + 1), (env.launched, CONVERSIONS))
    part = theirs / jnp.maximum(whole, 1e-12)
    happened = (numbers >= before[..., None]) & (numbers < after[..., None])
    single = (happened & (u < part[..., None])).sum(axis=-1)
    beyond = jnp.maximum(after - CONVERSIONS, 0.0) - jnp.maximum(before - CONVERSIONS, 0.0)
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
