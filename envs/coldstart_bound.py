"""The most launched ads that could have succeeded in a recorded episode, with truth, luck and prices known.

To succeed, an ad has to come to the expectation at which its last required conversion arrives (fixed at reset) within its
window; divided by its true conversions per exposure, that is a number of matched exposures. Each slot of each impression in
the window offers some, at the charge that would put the ad there over the best mature ads that could pay in the run. The
ad's own score is taken with its largest multiplier, at its true value or what the run predicted, whichever is more.

The cheapest exposures are taken first, each impression once, the last one in part; then the ads that need least of the
fund, the last one in part, which makes the count an upper bound for any policy that takes the mature ads' bids and
budgets as given. It ignores that launched ads compete with each other, budgets of ads, and cost per conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adarena.envs.coldstart_state import State
from adarena.envs.coldstart_tick import window_ticks
from adarena.envs.market.response import exposure_probability

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart
    from adarena.envs.coldstart_setup import Params

_BISECTIONS = 40


def most_successes(env: ColdStart, infos: dict[str, jax.Array], state: State, params: Params) -> dict[str, jax.Array]:
    """Bounds of an episode; float32 scalars.

    Args:
        env: The environment, with ``record``.
        infos: Stacked ``info`` of the episode, arrays ``[T, ...]``.
        state: Its last state.
        params: Its parameters.

    Returns:
        ``bound_successes``: most successes under the exploration budget (a fraction for the last ad); ``bound_rate``: over
        launched ads; ``bound_free_rate``: share of ads that need none of the fund; ``bound_unlimited_rate``: share that
        could succeed with a fund without limit.
    """
    cost = jax.lax.map(lambda ad: _least_charge(env, infos, state, params, ad), jnp.arange(env.launched))
    if not env.launched:
        raise ValueError("launched must be at least 1, got 0")
    order = jnp.sort(cost)
    fund = state.world.fund
    before = jnp.cumsum(jnp.where(jnp.isinf(order), 0.0, order)) - jnp.where(jnp.isinf(order), 0.0, order)
    part = jnp.where(order > 0.0, jnp.clip((fund - before) / jnp.maximum(order, 1e-9), 0.0, 1.0), 1.0)
    most = jnp.where(jnp.isinf(order), 0.0, part).sum()
    return {
        "bound_successes": most,
        "bound_rate": most / env.launched,
        "bound_free_rate": (cost <= 0.0).mean(),
        "bound_unlimited_rate": jnp.isfinite(cost).mean(),
    }


def _least_charge(
    env: ColdStart, infos: dict[str, jax.Array], state: State, params: Params, ad: jax.Array
) -> jax.Array:
    """Least charge to the fund at which the ad could have come to its last required conversion; infinite if none does."""
    world = state.world
    value = infos["true_value"][0, ad]
    last = world.conversions[ad, jnp.round(params.required_conversions).astype(jnp.int32) - 1]
    needed = last / jnp.maximum(value, 1e-12)
    tick = jnp.arange(infos["weight"].shape[0])
    inside = (tick >= world.launch[ad]) & (tick < world.launch[ad] + window_ticks(env, params))
    match = infos["match"][:, ad]  # [T, M]
    believed = jnp.maximum(infos["predicted"].max(axis=0)[ad], value)
    own = world.target[env.mature + ad] * params.max_multiplier * believed * match
    seen = exposure_probability(params.terms.exposure, params.terms.cascade)[None, :, None]
    share = jnp.where(inside[:, None, None], seen * infos["weight"][:, None, :], 0.0)  # [T, K, M]
    charge = jnp.maximum(infos["rivals"] - own[:, None, :], 0.0) * share
    trials = share * match[:, None, :]
    supported = world.treated[ad] & (world.fund > 0.0)
    free = jnp.where(charge <= 0.0, trials, 0.0).max(axis=1).sum()
    return jnp.where(free >= needed, 0.0, jnp.where(supported, _cheapest(charge, trials, needed), jnp.inf))


def _cheapest(charge: jax.Array, trials: jax.Array, needed: jax.Array) -> jax.Array:
    """Least total charge for ``needed`` trials, one slot an impression; ``[T, K, M]`` each. Infinite if there are too few."""

    def take(price: jax.Array) -> tuple[jax.Array, jax.Array]:
        gain = price * trials - charge
        best = gain.max(axis=1, keepdims=True)
        chosen = (gain == best) & (trials > 0.0) & (best >= 0.0)
        chosen = chosen & (jnp.cumsum(chosen, axis=1) == 1)
        return jnp.where(chosen, charge, 0.0).sum(), jnp.where(chosen, trials, 0.0).sum()

    def halve(ends: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = take(middle)[1] >= needed
        return (jnp.where(enough, low, middle), jnp.where(enough, middle, high)), None

    top = 2.0 * jnp.where(trials > 0.0, charge / jnp.maximum(trials, 1e-12), 0.0).max() + 1e-9
    # The dearest slots that bring most: at a price this high, an impression's first slot is taken wherever it is better.
    top = top * 1e3
    (low, high), _ = jax.lax.scan(halve, (jnp.zeros_like(top), top), None, length=_BISECTIONS)
    (less, got), (more, enough) = take(low), take(high)
    part = jnp.clip((needed - got) / jnp.maximum(enough - got, 1e-9), 0.0, 1.0)
    return jnp.where(enough >= needed, less + part * (more - less), jnp.inf)
