"""Days of a reasoning bidder tick by tick: seen, thought, done, and what came of it.

Besides what happened there is what would have happened "if nothing changes": from every tick on, a branch of the simulator
in which the last tick's multiplier is held to the end of the day.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.normalise import init_moments
from adarena.agents.offline.thoughts import EMPTY, Reader, outcome, truth
from adarena.agents.reasoner_policy import ReasoningPolicy, Thinking
from adarena.envs.autobid import AutoBid
from adarena.envs.core import episode_keys


class Done(NamedTuple):
    """What a reasoning bidder thought and did, ``T`` ticks; float32 unless said.

    Attributes:
        chain: ``[T, L]`` int32, what was thought.
        chances: ``[T, WIDTH]`` chances of each slot's words when they were thought.
        action: ``[T]`` in [-1, 1].
        multiplier: ``[T]``.
        spend: ``[T]`` currency units.
        value: ``[T]`` conversions (currency units where revenue counts).
        exposure: ``[T]`` own exposed ads.
        score: ``[T]``, of the day so far, tick included.
    """

    chain: jax.Array
    chances: jax.Array
    action: jax.Array
    multiplier: jax.Array
    spend: jax.Array
    value: jax.Array
    exposure: jax.Array
    score: jax.Array


class Day(NamedTuple):
    """One day of a reasoning bidder.

    Attributes:
        obs: ``[T + 1, O]`` float32, what was seen before each tick and at the end.
        done: What was thought and done.
        truth: ``[T, L]`` int32, what was true and came true (`adarena.agents.offline.thoughts.truth`).
        metrics: Name to scalar: the account at the end (``env.metrics``).
    """

    obs: jax.Array
    done: Done
    truth: jax.Array
    metrics: dict[str, jax.Array]


def play(env: AutoBid, params: Any, policy: ReasoningPolicy, reader: Reader, key: jax.Array) -> tuple[Day, Any]:
    """Plays one day; the bits of the market are those of `adarena.experiments.rollout.rollout` for this reset key.

    Returns:
        The day, and the environment's states before each tick, leaves ``[T, ...]``.
    """
    seat = env.reset(key, params)[1].seat.index

    def tick(carry: Any, keys: Any) -> tuple[Any, Any]:
        obs, state, memory = carry
        memory, action = policy.act(keys[1], memory, obs)
        after = env.step(keys[0], state, action, params)
        return (after.obs, after.state, memory), (obs, state, done_of(after, memory, action, seat))

    start = (*env.reset(key, params), policy.init(params))
    (last, state, _), (obs, states, done) = jax.lax.scan(tick, start, episode_keys(key, env.ticks))
    return day_of(env, params, reader, jnp.concatenate([obs, last[None]]), done, state), states


def done_of(after: Any, thinking: Thinking, action: jax.Array, seat: jax.Array) -> Done:
    """What a tick came to.

    Args:
        after: As ``env.step`` gives it.
        thinking: What the bidder carries after it acted.
        action: ``[1]``, its action.
        seat: Its index.
    """
    spend, value, exposure = (after.info[name][seat] for name in ("spend", "value", "exposure"))
    multiplier, score = after.info["multiplier"], after.info["score"]
    return Done(thinking.chain, thinking.chances, action[0], multiplier, spend, value, exposure, score)


def day_of(env: AutoBid, params: Any, reader: Reader, obs: jax.Array, done: Done, state: Any) -> Day:
    """A day that was played: what was seen ``[T + 1, O]``, what was done, and the state at its end."""
    judged = truth(read(reader, obs), done.action * reader.log_range, jnp.arange(env.ticks))
    return Day(obs, done, judged, env.metrics(state, params))


def read(reader: Reader, obs: jax.Array) -> dict[str, jax.Array]:
    """What a reader finds in observations ``[..., O]`` as the environment gives them."""
    return reader(init_moments(obs.shape[-1:]), obs)


class Held(NamedTuple):
    """The days that would have followed from each tick, had the last tick's multiplier been held to the end.

    Attributes:
        multiplier: ``[T]``, what is held; 1 from the first tick on.
        left: ``[T, T + 1]`` share of the budget left before each tick and at the end, of each branch.
        outcome: ``[T, 2]`` int32, words of the slots of forecast that would have come true.
        metrics: Name to ``[T]``: the account at the end.
    """

    multiplier: jax.Array
    left: jax.Array
    outcome: jax.Array
    metrics: dict[str, jax.Array]


def hold(env: AutoBid, params: Any, reader: Reader, day: Day, states: Any) -> Held:
    """Branches the simulator at each tick of a day and holds the last tick's multiplier from there.

    Args:
        env: The market.
        params: Its parameters.
        reader: Reads its observation.
        day: As `play` gives it.
        states: As `play` gives them.
    """
    kept = jnp.concatenate([jnp.zeros(1), day.done.action[:-1]])

    def branch(state: Any, obs: jax.Array, action: jax.Array, time: jax.Array) -> Any:
        def tick(carry: Any, _: None) -> tuple[Any, None]:
            after = env.step(jax.random.key(0), carry[1], action[None], params)  # an episode's luck is fixed at reset
            going = carry[1].tick < env.ticks
            return jax.tree.map(lambda new, old: jnp.where(going, new, old), (after.obs, after.state), carry), None

        (obs, state), _ = jax.lax.scan(tick, (obs, state), length=env.ticks)
        spent = jnp.concatenate([jnp.zeros(1), jnp.cumsum(state.history.cost)])
        left = jnp.clip(1.0 - spent / state.seat.budget, 0.0, 1.0)
        seen = read(reader, obs)
        known = (seen["progress"] > 0.0) & (seen["has_target"] > 0.5)
        words = outcome(left, seen["cost_over_target"], known, time[None])[0]
        return left, words, env.metrics(state, params)

    left, words, metrics = jax.vmap(branch)(states, day.obs[:-1], kept, jnp.arange(env.ticks))
    return Held(jnp.exp(kept * reader.log_range), left, words, metrics)


def end_hour(left: Any) -> np.ndarray:
    """Hour of the day at which a budget is spent, ``[...]``, of shares left ``[..., T + 1]``; NaN where it lasts."""
    left = np.asarray(left)
    spent = left <= EMPTY
    return np.where(spent.any(-1), np.argmax(spent, -1) * 24.0 / (left.shape[-1] - 1), np.nan)


@functools.partial(jax.jit, static_argnums=(0, 3))
def played(env: AutoBid, params: Any, policy: ReasoningPolicy, reader: Reader, key: jax.Array) -> tuple[Day, Held]:
    """A day and its held branches, in one program."""
    day, states = play(env, params, policy, reader, key)
    return day, hold(env, params, reader, day, states)


@functools.partial(jax.jit, static_argnums=(0, 3))
def played_all(
    env: AutoBid,
    params: Any,
    policies: ReasoningPolicy,
    reader: Reader,
    keys: jax.Array,
    fields: Mapping[str, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Chances ``[C, S, T, WIDTH]`` and truth ``[C, S, T, L]`` of the days of ``S`` bidders on ``C`` cases."""

    def one(policy: ReasoningPolicy, key: jax.Array, case: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        day, _ = play(env, dataclasses.replace(params, **case), policy, reader, key)
        return day.done.chances, day.truth

    each = jax.vmap(jax.vmap(one, (0, None, None)), (None, 0, 0))
    return each(policies, keys, fields)
