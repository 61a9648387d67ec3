"""The Q-function of `adarena.agents.dual_q`: value and polynomial of each item, and the policy that follows it."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.dual_q_config import Config
from adarena.agents.networks import orthogonal
from adarena.agents.normalise import SetMoments, normalise_obs
from adarena.agents.tuner import Bound
from adarena.envs.sets import SetLayout, layout_in

_DEGREE = 3
"""Highest power of the polynomials of an action."""


class QNetwork(nn.Module):
    """Two polynomials of an item's action: log odds of its reward, and its cost.

    Attributes:
        hidden: Widths of the hidden layers.
        outputs: The coefficients of both.
    """

    hidden: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """``[..., inputs]`` to ``[..., outputs]``, both float32."""
        for width in self.hidden:
            inputs = nn.Dense(width, kernel_init=orthogonal(2.0**0.5))(inputs)
            inputs = nn.swish(nn.LayerNorm()(inputs))
        return nn.Dense(self.outputs, kernel_init=orthogonal(0.01))(inputs)


def terms(choices: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Polynomial terms of each choice up to the third degree, ``[K, P]`` float32, each with mean 0 and deviation 1.

    Of entries that are the same in all choices, and of terms that say what others say, there are none.
    """
    table = np.asarray(choices, np.float64)
    table = table[:, np.ptp(table, axis=0) > 0.0]
    columns: list[np.ndarray] = []
    for degree in range(1, _DEGREE + 1):
        for chosen in itertools.combinations_with_replacement(range(table.shape[1]), degree):
            column = table[:, list(chosen)].prod(axis=1)
            column = column - column.mean()
            known = np.stack([np.ones(len(table)), *columns], axis=1)
            if np.linalg.matrix_rank(np.column_stack([known, column])) > known.shape[1]:
                columns.append(column / column.std())
    return np.stack(columns, axis=1).astype(np.float32)


def module_of(config: Config) -> QNetwork:
    """The network whose parameters a state holds."""
    return QNetwork(config.hidden, 2 * (1 + terms(config.choices).shape[1]))


def inputs_of(moments: SetMoments, obs: jax.Array, log_price: jax.Array) -> jax.Array:
    """What the network reads of each item: context, price, features; ``[..., L, inputs]`` of ``obs [..., O]``."""
    scaled = normalise_obs(moments, obs)
    context, items, _ = layout_by(moments, obs).split(scaled)
    price = jnp.broadcast_to(log_price, context.shape[:-1])[..., None]
    shared = jnp.concatenate([context, price], -1)[..., None, :]
    return jnp.concatenate([jnp.broadcast_to(shared, (*items.shape[:-1], shared.shape[-1])), items], -1)


class Outlook(NamedTuple):
    """What is expected of an item to its end, by choice; leaves of one shape, float32.

    Attributes:
        logit: Log odds of its reward, which is 1 or 0 in all (or lies between).
        cost: Cost, in even parts of the budget.
    """

    logit: jax.Array
    cost: jax.Array

    def worth(self, log_price: jax.Array) -> jax.Array:
        """Expected reward less the price of the cost."""
        return nn.sigmoid(self.logit) - jnp.exp(log_price) * self.cost


def outlook_of(config: Config, network: Any, inputs: jax.Array, choice: jax.Array | None = None) -> Outlook:
    """The outlook of every choice ``[..., K]``, or of one each ``[...]``, for ``inputs [..., inputs]``."""
    out: Any = module_of(config).apply({"params": network}, inputs)
    basis = jnp.asarray(terms(config.choices))
    basis = jnp.concatenate([jnp.ones((len(basis), 1)), basis], axis=1)
    heads = jnp.split(out, 2, axis=-1)
    if choice is None:
        reward, cost = (head @ basis.T for head in heads)
    else:
        reward, cost = ((head * basis[choice]).sum(-1) for head in heads)
    return Outlook(reward, nn.softplus(cost))


def best_choice(config: Config, network: Any, inputs: jax.Array, log_price: jax.Array) -> jax.Array:
    """The choice ``[..., L]`` of the greatest worth at prices ``[...]``."""
    return outlook_of(config, network, inputs).worth(log_price[..., None, None]).argmax(-1)


def action_of(table: jax.Array, layout: SetLayout, rest: jax.Array, obs: jax.Array, choice: jax.Array) -> jax.Array:
    """Choices ``[..., L]`` as an action ``[..., A]``; the range of actions is [-1, 1], empty places rest."""
    there = jnp.repeat(layout.split(obs)[2], layout.actions, axis=-1)
    return jnp.where(there, table[choice].reshape(*choice.shape[:-1], -1), rest)


def layout_by(moments: SetMoments, obs: jax.Array) -> SetLayout:
    """Where things lie in observations ``[..., O]``, by the sizes of their moments; of actions it says nothing."""
    return layout_in(obs, moments.context.mean.shape[-1], moments.items.mean.shape[-1])


@struct.dataclass
class DualQPolicy:
    """The greedy policy at a price that follows the budget's use. A pytree, and a rule of two numbers to the tuner.

    Attributes:
        price: Rewards that an even part of the budget has to bring, while the budget is used as evenly as windows pass.
        pace: How far the price follows: it is ``price x exp(-pace x fund_pace)``, within the prices of training.
        network: Parameters of `QNetwork`.
        obs_moments: As in `State`.
        resting_action: What empty places do, ``[A]``.
        price_low: Lowest price of training,
        price_high: and the highest.
        choices: As in `Config`. Static.
        hidden: As in `Config`. Static.
        pace_entry: Place of ``fund_pace`` in the context. Static.
    """

    price: jax.Array
    pace: jax.Array
    network: Any
    obs_moments: SetMoments
    resting_action: jax.Array
    price_low: jax.Array
    price_high: jax.Array
    choices: tuple[tuple[float, ...], ...] = struct.field(pytree_node=False)
    hidden: tuple[int, ...] = struct.field(pytree_node=False)
    pace_entry: int = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True
    SPACE: ClassVar[dict[str, Bound]] = {
        "price": Bound(0.01, 1.0, log=True, default=0.1),
        "pace": Bound(0.0, 2.0, default=1.0),
    }

    @classmethod
    def space(cls) -> dict[str, Bound]:
        """Search space of the tuner."""
        return dict(cls.SPACE)

    def init(self, params: Any) -> tuple[()]:
        """No carry: the policy has no memory."""
        return ()

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        """The best choice of every item, ``[A]`` float32, for one observation ``[O]``."""
        low, high = jnp.log(self.price_low), jnp.log(self.price_high)
        log_price = jnp.clip(jnp.log(self.price) - self.pace * obs[self.pace_entry], low, high)
        config = Config(choices=self.choices, hidden=self.hidden)
        choice = best_choice(config, self.network, inputs_of(self.obs_moments, obs, log_price), log_price)
        table = jnp.asarray(self.choices, jnp.float32)
        layout = layout_by(self.obs_moments, obs)._replace(actions=table.shape[1])
        return carry, action_of(table, layout, self.resting_action, obs, choice)
