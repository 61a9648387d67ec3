"""A day of the reasoning bidder with a language model as Think, for ``adarena explain``: played in Python, tick by tick."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from adarena.agents.language_policy import LanguagePolicy
from adarena.agents.offline.thoughts import Reader
from adarena.envs.autobid import AutoBid
from adarena.envs.core import episode_keys
from adarena.experiments.reasoning import Day, Done, Held, day_of, done_of, hold


def played(
    env: AutoBid, params: Any, policy: LanguagePolicy, reader: Reader, key: jax.Array
) -> tuple[Day, Held, Sequence[str]]:
    """A day, its held branches, and who thought at each tick.

    The market and Act are those of `adarena.experiments.reasoning.played`; where the language model is of no use at any tick,
    so is the day, up to rounding.

    Args:
        env: The market.
        params: Its parameters.
        policy: The bidder; the language model behind it is asked here, and its report goes on.
        reader: Reads the observation.
        key: Reset key of the day.

    Returns:
        The day, whose chances are zero where the language model thought; held branches; and ``T`` sources, as
        `adarena.agents.language_think.Thought` names them.
    """
    obs, state = _reset(env, params, key)
    seat, carry = int(state.seat.index), policy.init(params)
    seen, states, done = [obs], [], []
    ticks = zip(*episode_keys(key, env.ticks), strict=True)
    for step_key, act_key in tqdm.tqdm(ticks, "ticks thought over", env.ticks, unit="tick", disable=None):
        carry, action = policy.act(act_key, carry, obs)
        states.append(state)
        obs, state, row = _tick(env, params, step_key, state, action, carry.thinking, seat)
        seen.append(obs)
        done.append(row)
    day = _judged(env, params, reader, jnp.stack(seen), _stacked(done), state)
    return day, _held(env, params, reader, day, _stacked(states)), [thought.source for thought in carry.thoughts]


def _stacked(rows: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


@functools.partial(jax.jit, static_argnums=0)
def _reset(env: AutoBid, params: Any, key: jax.Array) -> tuple[Any, Any]:
    return env.reset(key, params)


@functools.partial(jax.jit, static_argnums=0)
def _tick(
    env: AutoBid, params: Any, key: jax.Array, state: Any, action: jax.Array, thinking: Any, seat: Any
) -> tuple[Any, Any, Done]:
    after = env.step(key, state, action, params)
    return after.obs, after.state, done_of(after, thinking, action, seat)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _judged(env: AutoBid, params: Any, reader: Reader, obs: jax.Array, done: Done, state: Any) -> Day:
    return day_of(env, params, reader, obs, done, state)


_held = functools.partial(jax.jit, static_argnums=(0, 2))(hold)
