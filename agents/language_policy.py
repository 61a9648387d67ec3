"""A reasoning bidder whose thoughts are a language model's, as far as it has any; the learned Think's elsewhere.

Act is as it was trained: it is told a chain and does not know who thought it. Between questions (``every`` above 1) the
learned Think serves: a chain speaks of its own tick, and its change is one from that tick's multiplier, so a chain that was
kept would be carried out once more at each tick.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.language_prompt import TICKS
from adarena.agents.language_think import LanguageThink, Thought
from adarena.agents.offline.thoughts import WIDTH
from adarena.agents.reasoner_policy import MODES, ReasoningPolicy, Thinking

NOT_ASKED = "learned: not asked"
"""Source of a thought between questions."""

_reason = jax.jit(ReasoningPolicy.reason)
_follow = jax.jit(ReasoningPolicy.follow)


class Day(NamedTuple):
    """What is carried from tick to tick.

    Attributes:
        thinking: The bidder's own carry. Its ``chances`` are zero where a language model thought, which gives none.
        recent: The last observations, ``[O]`` each, the newest last.
        thoughts: Chain ``[L]`` int32 and source of each tick so far, for an explanation of the day.
    """

    thinking: Thinking
    recent: tuple[np.ndarray, ...]
    thoughts: tuple[Thought, ...]


class LanguagePolicy:
    """An `adarena.agents.policy.Policy` that runs in Python, tick by tick.

    Args:
        policy: A trained bidder of one seed (``jax.tree.map(lambda x: x[i], policy)`` takes one of several) which is told
            its own thoughts.
        think: Asks the language model; shared by all days, as are its report and its ceiling.

    Raises:
        ValueError: ``policy`` is stacked over seeds, or would not hear what a language model thinks.
    """

    jittable: ClassVar[bool] = False

    def __init__(self, policy: ReasoningPolicy, think: LanguageThink) -> None:
        if policy.mode.ndim:
            shape = policy.mode.shape
            raise ValueError(
                f"policy must be of one seed (jax.tree.map(lambda x: x[i], policy)), got seeds of shape {shape}"
            )
        if not policy.thoughts or int(policy.mode) != MODES.index("own"):
            mode = MODES[int(policy.mode)]
            raise ValueError(f"policy must act on its own thoughts, got thoughts={policy.thoughts}, mode {mode!r}")
        self.policy, self.think = policy, think

    def init(self, params: Any) -> Day:
        """Nothing seen, nothing thought."""
        return Day(self.policy.init(params), (), ())

    def act(self, key: jax.Array, carry: Day, obs: Any) -> tuple[Day, jax.Array]:
        """The action, ``[A]`` float32 inside the bounds, for one observation ``[O]`` in the environment's units."""
        thinking, seen = carry.thinking, jnp.asarray(obs, jnp.float32)
        recent = (*carry.recent, np.asarray(obs, np.float32).copy())[-TICKS:]
        asks = len(carry.thoughts) % self.think.config.every == 0
        thought = self.think.think(recent) if asks else Thought(None, NOT_ASKED)
        if thought.chain is None:
            chain, chances = _reason(self.policy, thinking, seen)
            thought = Thought(np.asarray(chain), thought.source)
        else:
            chain, chances = jnp.asarray(thought.chain), jnp.zeros(WIDTH)
        thinking, action = _follow(self.policy, thinking, seen, chain, chances)
        return Day(thinking, recent, (*carry.thoughts, thought)), action
