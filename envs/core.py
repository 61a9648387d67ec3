"""The functional environment: a frozen ``Env``, a pytree of ``Params``, a pytree of ``State``, pure ``reset`` and ``step``.

The signature is gymnax 1.0's::

    obs, state = env.reset(key, params)
    obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)

Sizes that shape arrays are frozen fields of the ``Env`` (it is hashable and can be a static argument of ``jax.jit``);
every number that may vary is a leaf of ``Params``, so one compiled program sweeps it under ``jax.vmap``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

Key = jax.Array
"""A typed JAX key (``jax.random.key``), scalar."""

# An episode's reset key is the case's key itself. Keys of steps and actions come from it by a constant that no
# environment is likely to fold in for streams of its own (it would then meet its own draws again).
_STREAMS = 0x5EED57E9


def episode_keys(key: Key, steps: int) -> tuple[jax.Array, jax.Array]:
    """``[T]`` keys of an episode's steps and ``[T]`` keys of its actions, by its reset key: the same wherever it is played."""
    keys = jax.random.split(jax.random.fold_in(key, _STREAMS), (2, steps))
    return keys[0], keys[1]


class Entry(NamedTuple):
    """One entry of an observation vector, in the order in which it stands there.

    Attributes:
        name: Name by which rules read it.
        unit: Unit, for example ``"share"``, ``"log ratio"``, ``"ticks"``.
        low: Smallest value it takes.
        high: Largest value it takes.
        meaning: One sentence.
    """

    name: str
    unit: str
    low: float
    high: float
    meaning: str


class StepResult(NamedTuple):
    """What ``Env.step`` returns.

    Attributes:
        obs: Float32 vector ``[len(OBSERVATION)]``.
        state: Next state.
        reward: Float32 scalar.
        terminated: Bool scalar: the task itself is over.
        truncated: Bool scalar: the episode was cut by a limit of time; the value of ``obs`` still counts.
        info: Dictionary of arrays of fixed shape.
    """

    obs: jax.Array
    state: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: dict[str, jax.Array]


class Env:
    """Base class of every environment. Subclasses are frozen dataclasses.

    A subclass declares ``OBSERVATION`` and implements ``default_params``, ``reset``, ``step``, ``observation_space``,
    ``action_space`` and ``max_steps``. Nothing inside resets automatically; see `AutoReset`.
    """

    OBSERVATION: ClassVar[tuple[Entry, ...]] = ()
    NESTED: ClassVar[dict[str, str]] = {}
    """Numeric fields that lie one level down in the parameters: name of the field -> name of what holds it."""

    def default_params(self) -> Any:
        """Numbers of the environment, a pytree that `adarena.envs.pytree.dataclass` (or flax's) made."""
        raise NotImplementedError

    def reset(self, key: Key, params: Any) -> tuple[jax.Array, Any]:
        """Starts an episode; returns ``(obs, state)``."""
        raise NotImplementedError

    def step(self, key: Key, state: Any, action: jax.Array, params: Any) -> StepResult:
        """Advances one tick."""
        raise NotImplementedError

    def observation_space(self, params: Any) -> gymnasium.Space:
        """A flat float32 ``Box``."""
        raise NotImplementedError

    def action_space(self, params: Any) -> gymnasium.Space:
        """A flat float32 ``Box`` where possible."""
        raise NotImplementedError

    def max_steps(self, params: Any) -> int:
        """Upper bound on the steps of an episode."""
        raise NotImplementedError

    def render(self, state: Any, params: Any) -> Any:
        """An ``[H, W, 3]`` uint8 picture of the episode so far, for ``render_mode="rgb_array"``; optional."""
        raise NotImplementedError(f"{type(self).__name__} draws no picture: it implements no render(state, params)")


@dataclasses.dataclass(frozen=True)
class Wrapper(Env):
    """An environment that changes something of another one; what a subclass does not define is the inner one's.

    Attributes:
        env: The environment underneath.
    """

    env: Env

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        """The inner environment's entries."""
        return self.env.OBSERVATION

    def default_params(self) -> Any:
        """The inner environment's parameters."""
        return self.env.default_params()

    def reset(self, key: Key, params: Any) -> tuple[jax.Array, Any]:
        """Starts an episode."""
        return self.env.reset(key, params)

    def step(self, key: Key, state: Any, action: jax.Array, params: Any) -> StepResult:
        """Advances one tick."""
        return self.env.step(key, state, action, params)

    def observation_space(self, params: Any) -> gymnasium.Space:
        """The inner environment's space."""
        return self.env.observation_space(params)

    def action_space(self, params: Any) -> gymnasium.Space:
        """The inner environment's space."""
        return self.env.action_space(params)

    def max_steps(self, params: Any) -> int:
        """The inner environment's bound."""
        return self.env.max_steps(params)


@dataclasses.dataclass(frozen=True)
class AutoReset(Wrapper):
    """Starts a new episode in the step that ends one, and keeps what the old one showed last.

    ``step`` adds ``info["final_obs"]``: the observation of the state that the action led to, before any reset (equal to
    ``obs`` where the episode goes on). The key of a step is split: one half for the step, the other for the reset.
    """

    def step(self, key: Key, state: Any, action: jax.Array, params: Any) -> StepResult:
        """Advances one tick and resets where the episode ended."""
        key_step, key_reset = jax.random.split(key)
        obs, state, reward, terminated, truncated, info = self.env.step(key_step, state, action, params)
        done = terminated | truncated
        first_obs, first_state = self.env.reset(key_reset, params)
        next_state = jax.tree.map(lambda new, old: jnp.where(done, new, old), first_state, state)
        next_obs = jnp.where(done, first_obs, obs)
        return StepResult(next_obs, next_state, reward, terminated, truncated, {**info, "final_obs": obs})


def box_of(entries: tuple[Entry, ...]) -> gymnasium.spaces.Box:
    """The flat float32 ``Box`` with the bounds that the entries of an observation state."""
    import numpy as np

    low = np.asarray([entry.low for entry in entries], np.float32)
    high = np.asarray([entry.high for entry in entries], np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)
