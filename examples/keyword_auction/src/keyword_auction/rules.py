"""Two rules: one for the keyword auction, one for adarena's own market."""

from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules import Rule
from adarena.agents.tuner import Bound
from adarena.envs import Env


@flax.struct.dataclass
class EvenSpend:
    """Spends the cap evenly over the day: bids more where more is left of the cap than of the day.

    Leaves are what the tuner tunes, so that a population of candidates is one pytree.
    """

    start: float = 0.0  # action when all goes to plan
    gain: float = 1.0  # change of the action for each share of the cap that is left over
    places: tuple[int, ...] = flax.struct.field(pytree_node=False, default=(0, 1))

    jittable: ClassVar[bool] = True

    @classmethod
    def build(cls, env: Env) -> Self:
        names = [entry.name for entry in env.OBSERVATION]
        for name in ("time_left", "cap_left"):
            if name not in names:
                raise KeyError(f"EvenSpend reads the observation entry {name!r}, which this environment lacks")
        return cls(places=(names.index("time_left"), names.index("cap_left")))

    @classmethod
    def space(cls) -> dict[str, Bound]:
        return {"start": Bound(-1.0, 1.0, default=0.0), "gain": Bound(0.1, 10.0, log=True, default=1.0)}

    def init(self, params: Any) -> tuple[()]:
        return ()  # no memory

    def act(self, key: jax.Array, carry: tuple[()], obs: jax.Array) -> tuple[tuple[()], jax.Array]:
        time_left, cap_left = obs[self.places[0]], obs[self.places[1]]
        return carry, jnp.clip(self.start + self.gain * (cap_left - time_left), -1.0, 1.0)[None]


@flax.struct.dataclass
class SharePacer(Rule):
    """For AutoBid: the opening multiplier, raised where more is left of the budget than of the day's traffic."""

    gain: float = 1.0

    SPACE: ClassVar[dict[str, Bound]] = {"gain": Bound(0.1, 10.0, log=True, default=1.0)}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        ahead = self.read(obs, "budget_left") - self.read(obs, "traffic_left")
        return memory, self.opening(obs) + self.gain * ahead
