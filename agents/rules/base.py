"""What every rule shares: it reads the observation by name and answers with a log multiplier."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.tuner import Bound
from adarena.envs.core import Env
from adarena.envs.rivals import LIMIT, Signals

START_SPACE = {"start": Bound(-2.0, 1.0, default=0.0), "start_richness": Bound(0.0, 1.0, default=0.0)}
"""Every rule may open by context: log multiplier = ``start + start_richness * richness``, where ``richness`` (an entry of
the observation) is the log of the budget over what multiplier 1 would spend if it won everything."""


@flax.struct.dataclass
class Rule:
    """A policy of a few numbers. Leaves are its parameters, so a population of candidates is one stacked pytree.

    Attributes:
        start: Log multiplier at the start of the day for an advertiser of richness 0.
        start_richness: How much richer advertisers open higher.
        index: Place of each observation entry, by name.
    """

    start: float = 0.0
    start_richness: float = 0.0
    index: tuple[tuple[str, int], ...] = flax.struct.field(pytree_node=False, default=())

    jittable: ClassVar[bool] = True
    SPACE: ClassVar[dict[str, Bound]] = {}
    """What the tuner may change; `START_SPACE` is added to it by `space`."""

    @classmethod
    def build(cls, env: Env) -> Self:
        """The rule with its default numbers, for an environment whose observation has the entries that it reads."""
        index = tuple((entry.name, place) for place, entry in enumerate(env.OBSERVATION))
        defaults = {name: bound.default for name, bound in cls.space().items() if bound.default is not None}
        return cls(index=index, **defaults)

    @classmethod
    def space(cls) -> dict[str, Bound]:
        """Search space of the tuner."""
        return {**START_SPACE, **cls.SPACE}

    def init(self, params: Any) -> Any:
        """Memory at the start of an episode: the log of the largest multiplier, and the rule's own."""
        return jnp.log(params.max_multiplier), self.memory()

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Next memory and the action ``[1]``, the log multiplier over the log of the largest one."""
        limit, memory = carry
        memory, log_multiplier = self.control(key, memory, obs)
        return (limit, memory), jnp.clip(log_multiplier / limit, -1.0, 1.0)[None].astype(jnp.float32)

    def memory(self) -> Any:
        """The rule's own memory at the start; nothing by default."""
        return ()

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Next memory and the log multiplier of the coming tick."""
        raise NotImplementedError

    def read(self, obs: jax.Array, name: str) -> jax.Array:
        """One entry of the observation.

        Raises:
            KeyError: The environment shows no such entry.
        """
        places = dict(self.index)
        if name not in places:
            raise KeyError(f"{type(self).__name__} reads the observation entry {name!r}, which this environment lacks")
        return obs[places[name]]

    def opening(self, obs: jax.Array) -> jax.Array:
        """Log multiplier with which the day is opened."""
        return jnp.clip(self.start + self.start_richness * self.read(obs, "richness"), -LIMIT, LIMIT)

    def signals(self, obs: jax.Array) -> Signals:
        """The signals of `adarena.envs.rivals`, from the observation."""
        return Signals(
            started=(self.read(obs, "time_left") < 1.0).astype(jnp.float32),
            budget_left=self.read(obs, "budget_left"),
            traffic_left=self.read(obs, "traffic_left"),
            spend_last=self.read(obs, "spend_last"),
            traffic_last=self.read(obs, "traffic_last"),
            cost_over_target=jnp.exp(self.read(obs, "cost_over_target")),
        )
