"""The trained reasoning bidder as a policy, and what its controls change: other thoughts, none, or wrong ones."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.offline.data import Data, Spec
from adarena.agents.offline.decision_transformer import SequencePolicy, contexts_at, sequence_policy, spread
from adarena.agents.offline.learner import Common, from_unit
from adarena.agents.offline.returns import Goals
from adarena.agents.offline.think import Think, no_thoughts
from adarena.agents.offline.thoughts import LENGTH, WIDTH, encode, opposite
from adarena.agents.offline.transformer import Context, remember

MODES = ("own", "none", "shuffled", "wrong", "wrong diagnosis", "wrong forecast", "wrong plan")
"""What Act is told: what was thought; nothing; what was thought in another state at the same tick; the opposite of what was
thought, or of one kind of it."""


class Thinking(NamedTuple):
    """What a reasoning bidder carries from tick to tick.

    Attributes:
        context: The last ticks.
        step: Ticks so far, scalar int32.
        chain: Thoughts that the last action was told, ``[L]`` int32.
        chances: Chances of each slot's words when they were thought, ``[WIDTH]`` float32.
    """

    context: Context
    step: jax.Array
    chain: jax.Array
    chances: jax.Array


@struct.dataclass
class ReasoningPolicy:
    """A bidder that thinks, then acts, as an `adarena.agents.policy.Policy`.

    A pytree: ``jax.vmap`` over one made of stacked states.

    Attributes:
        base: Act, its memory and what is asked for.
        think: Think's parameters.
        mode: What Act is told, by its place in `MODES`, scalar int32: one program serves all controls.
        bank: ``[N, T, L]`` chains thought in other states, by tick, for ``"shuffled"``; see `shuffled`.
        thoughts: 1 where Act was trained on thoughts, else 0, scalar.
        thinker: Think. Static.
    """

    base: SequencePolicy
    think: Any
    mode: jax.Array
    bank: jax.Array
    thoughts: jax.Array
    thinker: Think = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> Thinking:
        """Nothing seen, nothing thought."""
        return Thinking(*self.base.init(params), jnp.zeros(LENGTH, jnp.int32), jnp.zeros(WIDTH))

    def act(self, key: jax.Array, carry: Thinking, obs: jax.Array) -> tuple[Thinking, jax.Array]:
        """The action, ``[A]`` float32 inside the bounds, for one observation ``[O]``."""
        chain, chances = self.reason(carry, obs)
        return self.follow(carry, obs, self._told(key, chain, carry.step), chances)

    def reason(self, carry: Thinking, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The chain of middle words for an observation ``[O]``, ``[L]`` int32, and its words' chances, ``[WIDTH]``."""
        context, place, _ = self.base.look((carry.context, carry.step), obs)
        state: Any = self.thinker.apply({"params": self.think}, context, method="read")
        said: Any = self.thinker.apply({"params": self.think}, state[place], None, method="say")
        return said

    def follow(
        self, carry: Thinking, obs: jax.Array, chain: jax.Array, chances: jax.Array
    ) -> tuple[Thinking, jax.Array]:
        """Acts on a chain ``[L]``, whoever thought it; ``chances`` are kept beside it."""
        context, place, step = self.base.look((carry.context, carry.step), obs)
        told = encode(chain) * self.thoughts * (self.mode != MODES.index("none"))
        chosen: Any = self.base.module.apply({"params": self.base.network}, context, _at(place, context, told))
        unit = chosen[place]
        carry = Thinking(remember(context, place, unit), step + 1, chain, chances)
        return carry, from_unit(unit, self.base.low, self.base.high)

    def _told(self, key: jax.Array, chain: jax.Array, step: jax.Array) -> jax.Array:
        """The chain of the mode."""
        other = self.bank[jax.random.randint(key, (), 0, self.bank.shape[0]), step]
        wrong = [opposite(chain, kinds) for kinds in (_ALL, _ALL[:1], _ALL[1:2], _ALL[2:])]
        return jnp.stack([chain, chain, other, *wrong])[self.mode]


_ALL: Any = ("diagnosis", "forecast", "plan")


def _at(place: jax.Array, context: Context, told: jax.Array) -> jax.Array:
    """Thoughts of a context's steps of which only one thinks."""
    return no_thoughts(context.goal.shape).at[place].set(told)


def reasoning_policy(
    config: Any, spec: Spec, thinker: Think, actor: nn.Module, *, think: Any, act: Any, goals: Goals, common: Common
) -> ReasoningPolicy:
    """The policy of parameters that may be stacked over seeds, which acts on its own thoughts."""
    steps = goals.mean.shape[-2]
    return ReasoningPolicy(
        sequence_policy(config, spec, actor, act, goals, common),
        think,
        mode=jnp.zeros(common.steps.shape, jnp.int32),
        bank=jnp.zeros((*common.steps.shape, 1, steps, LENGTH), jnp.int32),
        thoughts=spread(config.thoughts, common),
        thinker=thinker,
    )


def told(policy: ReasoningPolicy, mode: str) -> ReasoningPolicy:
    """The same bidder, told something else than it thinks.

    Raises:
        ValueError: No such mode, or ``"shuffled"``, which needs other states' thoughts: use `shuffled`.
    """
    allowed = tuple(name for name in MODES if name != "shuffled")
    if mode not in allowed:
        raise ValueError(f"mode must be one of {', '.join(allowed)} (shuffled thoughts: see shuffled()), got {mode!r}")
    return policy.replace(mode=jnp.full_like(policy.mode, MODES.index(mode)))  # type: ignore[attr-defined, no-any-return]


def shuffled(policy: ReasoningPolicy, config: Any, data: Data, key: jax.Array, count: int = 64) -> ReasoningPolicy:
    """The same bidder, told what it would think in other states: logged ones at the same tick, drawn anew each time.

    Args:
        policy: Of one seed, or stacked over seeds.
        config: Its configuration.
        data: The log.
        key: Draws the episodes.
        count: Episodes whose states are thought about.
    """
    episode = jax.random.randint(key, (count,), 0, data.count)

    def thought(policy: ReasoningPolicy) -> jax.Array:
        def at(time: jax.Array) -> jax.Array:
            last = jnp.full(count, jnp.maximum(time, config.context - 1))
            context, _ = contexts_at(config, policy.base.goals, data, episode, last)
            asked = context._replace(goal=jnp.full_like(context.goal, policy.base.target))
            state: Any = policy.thinker.apply({"params": policy.think}, asked, method="read")
            here = state[:, jnp.minimum(time, config.context - 1)]
            said: Any = policy.thinker.apply({"params": policy.think}, here, None, method="say")
            return said[0]

        return jax.lax.map(at, jnp.arange(data.steps)).swapaxes(0, 1)

    over = jax.vmap(thought) if policy.mode.ndim else thought
    mode = jnp.full_like(policy.mode, MODES.index("shuffled"))
    return policy.replace(bank=jax.jit(over)(policy), mode=mode)  # type: ignore[attr-defined, no-any-return]
