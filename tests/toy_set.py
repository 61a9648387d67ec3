"""A small environment of a variable number of alike items, with a known best policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.envs.core import Entry, Env, StepResult, box_of
from adarena.envs.sets import SetLayout


@struct.dataclass
class SetParams:
    """``share``: chance that a place is taken in a tick. ``penalty``: weight of the squared misses."""

    share: jax.Array
    penalty: jax.Array


@struct.dataclass
class SetState:
    """``targets``: ``[L]`` float32. ``mask``: ``[L]`` bool. ``score``, ``missed``: scalars so far. ``tick``: scalar int32."""

    targets: jax.Array
    mask: jax.Array
    score: jax.Array
    missed: jax.Array
    tick: jax.Array


@dataclasses.dataclass(frozen=True)
class SetEnv(Env):
    """Every tick some places are taken; an item shows its target, and has two actions in [-2, 2].

    The first should be the item's own target, the second the mean target of all items that are there, which none shows. A
    tick pays 1 - penalty * the mean squared miss of both (0 where no item is there), so a perfect episode is worth at most
    ``length``. ``dirt`` is what features of empty places hold.
    """

    items: int = 6
    length: int = 8
    dirt: float = 0.0
    neutral_action: tuple[float, ...] | None = None

    @property
    def layout(self) -> SetLayout:
        return SetLayout(context=1, items=self.items, features=3, actions=2)

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        names = [("live", 0.0, 1.0), ("target", -100.0, 100.0), ("noise", -100.0, 100.0)]
        items = [Entry(f"i{i}.{n}", "none", a, b, "An item's.") for i in range(self.items) for n, a, b in names]
        return (Entry("time", "share", 0.0, 1.0, "Share of the ticks done."), *items)

    def default_params(self) -> SetParams:
        return SetParams(jnp.asarray(0.5), jnp.asarray(1.0))

    def _draw(self, key: jax.Array, params: SetParams) -> tuple[jax.Array, jax.Array]:
        key_targets, key_mask = jax.random.split(key)
        targets = jax.random.uniform(key_targets, (self.items,), minval=-1.5, maxval=1.5)
        return targets, jax.random.uniform(key_mask, (self.items,)) < params.share

    def _obs(self, key: jax.Array, state: SetState) -> jax.Array:
        noise = jax.random.normal(key, (self.items,))
        shown = jnp.where(state.mask[:, None], jnp.stack([state.targets, noise], -1), self.dirt)
        items = jnp.concatenate([state.mask[:, None].astype(jnp.float32), shown], -1)
        return self.layout.join((state.tick / self.length)[None].astype(jnp.float32), items)

    def reset(self, key: jax.Array, params: SetParams) -> tuple[jax.Array, SetState]:
        key_draw, key_obs = jax.random.split(key)
        state = SetState(*self._draw(key_draw, params), jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        return self._obs(key_obs, state), state

    def step(self, key: jax.Array, state: SetState, action: jax.Array, params: SetParams) -> StepResult:
        key_draw, key_obs = jax.random.split(key)
        count = jnp.maximum(state.mask.sum(), 1)
        pair = action.reshape(self.items, 2)
        mean = jnp.where(state.mask, state.targets, 0.0).sum() / count
        miss = jnp.square(pair[:, 0] - state.targets) + jnp.square(pair[:, 1] - mean)
        missed = jnp.where(state.mask, miss, 0.0).sum() / count
        reward = jnp.where(state.mask.any(), 1.0 - params.penalty * missed, 0.0)
        targets, mask = self._draw(key_draw, params)
        state = SetState(targets, mask, state.score + reward, state.missed + missed, state.tick + 1)
        return StepResult(self._obs(key_obs, state), state, reward, state.tick >= self.length, jnp.zeros((), bool), {})

    def metrics(self, state: SetState, params: SetParams) -> dict[str, jax.Array]:
        return {"score": state.score, "missed": state.missed}

    def observation_space(self, params: Any) -> gymnasium.spaces.Box:
        return box_of(self.OBSERVATION)

    def action_space(self, params: Any) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-2.0, 2.0, (2 * self.items,), np.float32)

    def max_steps(self, params: Any) -> int:
        return self.length
