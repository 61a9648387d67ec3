"""A problem of two steps whose best actions are known, as logged episodes of a policy that draws evenly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.offline.data import Data, Spec, make_data
from adarena.agents.offline.episodes import Episodes

SPEC = Spec(3, (-2.0,), (2.0,))
COUNT = 2048
WIDTHS: dict[str, Any] = {"hidden": (32, 32), "batch": 128}


def episodes_of(obs: np.ndarray, actions: np.ndarray, rewards: np.ndarray, terminated: bool = True) -> Episodes:
    """Episodes of these arrays."""
    count, steps = rewards.shape
    ends = np.zeros((count, steps), bool)
    ends[:, -1] = terminated
    return Episodes(
        obs.astype(np.float32),
        actions.astype(np.float32),
        rewards.astype(np.float32),
        ends,
        np.full((count, steps), np.nan, np.float32),
        np.zeros(count, np.int32),
        np.arange(count),
    )


def reward_of(place: Any, wanted: Any, action: Any) -> Any:
    """The second step's reward: the place should be what is wanted, and the action its negative."""
    return 1.0 - 4.0 * (place - wanted) ** 2 - 4.0 * (action + wanted) ** 2


def chain(seed: int = 0) -> Episodes:
    """Seen: place, what is wanted, step. The first action (over 2) is the next place and pays nothing.

    So the best actions, on the scale of [-1, 1], are ``wanted`` and ``-wanted``; the best return is 1.
    """
    draw = np.random.default_rng(seed)
    wanted = draw.uniform(-0.6, 0.6, COUNT)
    unit = draw.uniform(-1.0, 1.0, (COUNT, 2))
    place = np.stack([np.zeros(COUNT), unit[:, 0], np.zeros(COUNT)], 1)
    obs = np.stack([place, np.repeat(wanted[:, None], 3, 1), np.tile([0.0, 1.0, 2.0], (COUNT, 1))], -1)
    rewards = np.stack([np.zeros(COUNT), reward_of(unit[:, 0], wanted, unit[:, 1])], 1)
    return episodes_of(obs, 2.0 * unit[..., None], rewards)


def played(policy: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a policy does for 25 wanted places: those ``[25]``, its actions on [-1, 1] ``[25, 2]``, returns ``[25]``."""
    wanted = jnp.linspace(-0.6, 0.6, 25)

    def one(wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.key(0)
        carry, first = policy.act(key, policy.init(None), jnp.stack([0.0 * wanted, wanted, 0.0 * wanted]))
        _, second = policy.act(key, carry, jnp.stack([first[0] / 2.0, wanted, 1.0 + 0.0 * wanted]))
        return jnp.stack([first[0], second[0]]) / 2.0, reward_of(first[0] / 2.0, wanted, second[0] / 2.0)

    actions, returns = jax.vmap(one)(wanted)
    return np.asarray(wanted), np.asarray(actions), np.asarray(returns)


def chain_data(seed: int = 0) -> Data:
    """`chain`, rewards in their own unit."""
    return make_data(chain(seed), SPEC, reward_scale=1.0)
