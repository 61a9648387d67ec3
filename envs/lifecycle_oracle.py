"""An oracle for `adarena.envs.lifecycle`: it knows true rates, creatives, users' wear and the coming impressions.

In every tick it tries a grid of (multiplier, width) on the tick itself and takes the pair that brings most expected
value less cost at a price of money, within what the day's plan lets it spend; the mix is the best creative of the
moment. Which price of money (``aim``: cost per conversion over target at which one more conversion is not worth it)
and which pace are best is chosen in hindsight for each episode. It knows no luck to come and does not plan for phases
or wear, so it is no bound: it is what perfect knowledge of the present, well used, brings.
`adarena.envs.lifecycle.Lifecycle.bound` is a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from adarena.envs import lifecycle_tick as tick_of
from adarena.envs.core import Key
from adarena.envs.lifecycle_books import belief, known_by_now
from adarena.envs.lifecycle_state import State

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle
    from adarena.envs.lifecycle_setup import Params

LEVELS = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
"""Multiplier actions tried; the first is bid where nothing is worth its cost."""

WIDTHS = (-0.9, -0.6, -0.2, 0.3, 1.0)
"""Width actions tried."""

AIMS = (0.8, 1.0, 1.25, 1.6)
"""Costs of one more conversion, over target, among which hindsight chooses."""

PACES = (1.3,)
"""Most spend over the day's plan so far, among which hindsight chooses."""


def oracle_action(env: Lifecycle, state: State, params: Params, aim: jax.Array, pace: jax.Array) -> jax.Array:
    """The oracle's action in a state, ``[3 + V]`` float32.

    Args:
        env: The environment.
        state: The state, truth included.
        params: Its parameters.
        aim: Most cost of one more conversion, over target.
        pace: Most spend over the plan of the day so far.
    """
    quality = tick_of.quality_now(state, params)
    creatives = jnp.where(jnp.arange(env.creatives) == jnp.argmax(quality), 1.0, -1.0)
    here = tick_of.scene(env, state, params)
    believed = belief(env, state, params, known_by_now(env, state, params))

    def action(level: jax.Array, width: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.stack([level, jnp.float32(-1.0), width]), creatives])

    def tried(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
        controls = tick_of.controls_of(action(pair[0], pair[1]), params)
        planned = tick_of.plan(here, controls, believed, state.campaign.target, params.optimism)
        outcome = tick_of.clear(env, state, params, here, planned)
        return outcome.conversions, outcome.result.spend[0]

    levels, widths = jnp.meshgrid(jnp.asarray(LEVELS), jnp.asarray(WIDTHS), indexing="ij")
    pairs = jnp.stack([levels.ravel(), widths.ravel()], axis=1)
    value, cost = jax.lax.map(tried, pairs)
    hour = state.tick % env.ticks_per_day
    planned_share = jnp.where(jnp.arange(env.ticks_per_day) <= hour, params.bank.daily, 0.0).sum()
    allowed = pace * planned_share * state.daily_budget - state.spent[0]
    gain = value - cost / (aim * state.campaign.target)
    best = jnp.argmax(jnp.where(cost <= jnp.maximum(allowed, 0.0), gain, -jnp.inf).at[0].max(-1e9))
    return action(pairs[best, 0], pairs[best, 1])


def oracle_episode(env: Lifecycle, key: Key, params: Params, aim: jax.Array, pace: jax.Array) -> dict[str, jax.Array]:
    """Metrics of one life under the oracle with one price of money and one pace."""

    def step(state: Any, _: None) -> tuple[Any, None]:
        return env.step(key, state, oracle_action(env, state, params, aim, pace), params).state, None

    state, _ = jax.lax.scan(step, env.reset(key, params)[1], None, length=env.ticks)
    return env.metrics(state, params)


def oracle(env: Lifecycle, keys: jax.Array, params: Params) -> dict[str, jax.Array]:
    """Metrics of the oracle on each of ``[C]`` reset keys, the best price and pace of each by score; ``[C]`` each."""
    aims, paces = jnp.meshgrid(jnp.asarray(AIMS), jnp.asarray(PACES), indexing="ij")
    run = jax.jit(
        jax.vmap(
            jax.vmap(lambda key, aim, pace: oracle_episode(env, key, params, aim, pace), (None, 0, 0)), (0, None, None)
        )
    )
    found = run(keys, aims.ravel(), paces.ravel())
    best = jnp.argmax(found["score"], axis=1)
    return {name: jnp.take_along_axis(values, best[:, None], axis=1)[:, 0] for name, values in found.items()}
