"""Rules that plan on the bid landscape: what each multiplier would have won, and paid, in the last ticks."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules.base import Rule
from adarena.agents.tuner import Bound
from adarena.envs import rivals
from adarena.envs.observation import LANDSCAPE, planned_multiplier
from adarena.envs.rivals import Control

_FINE = 49  # multipliers considered between the grid's ends


class Landscape(NamedTuple):
    """Averages of the landscape over the day so far; ``[J]`` each, ``seen`` the weight behind them."""

    value: jax.Array
    cost: jax.Array
    seen: jax.Array


@flax.struct.dataclass
class LandscapeRule(Rule):
    """A rule that keeps a running average of the bid landscape.

    Attributes:
        forget: Weight of the latest ticks in the average.
    """

    forget: float = 0.2

    def _latest(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = jnp.stack([self.read(obs, f"landscape_value_{g:g}") for g in LANDSCAPE])
        cost = jnp.stack([self.read(obs, f"landscape_cost_{g:g}") for g in LANDSCAPE])
        return value, cost

    def _average(self, old: Landscape, obs: jax.Array) -> Landscape:
        value, cost = self._latest(obs)
        started = (self.read(obs, "time_left") < 1.0).astype(jnp.float32)
        weight = started * jnp.where(old.seen > 0.0, self.forget, 1.0)
        return Landscape(
            old.value + weight * (value - old.value), old.cost + weight * (cost - old.cost), old.seen + started
        )

    def _fine(self, landscape: Landscape) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log multipliers, values and costs on a fine grid, ``[49]`` each, by linear interpolation in the log."""
        grid = jnp.log(jnp.asarray(LANDSCAPE))
        fine = jnp.linspace(grid[0], grid[-1], _FINE)
        return fine, jnp.interp(fine, grid, landscape.value), jnp.interp(fine, grid, landscape.cost)


def _empty() -> Landscape:
    zero = jnp.zeros(len(LANDSCAPE), jnp.float32)
    return Landscape(zero, zero, jnp.float32(0.0))


@flax.struct.dataclass
class OnlineLP(LandscapeRule):
    """Online linear programme: the largest multiplier whose projected day keeps budget and target.

    Projects the average landscape onto the traffic to come (by the forecast), and takes the largest multiplier at which the
    money left lasts and the whole day's cost per value stays within ``aim`` times the target.

    Attributes:
        margin: Factor on the money left.
        aim: Factor on the target.
    """

    margin: float = 1.0
    aim: float = 1.0

    SPACE = {  # noqa: RUF012
        "forget": Bound(0.03, 1.0, log=True, default=0.2),
        "margin": Bound(0.7, 1.5, default=1.0),
        "aim": Bound(0.8, 1.5, default=1.0),
    }

    def memory(self) -> Landscape:
        """An empty landscape."""
        return _empty()

    def control(self, key: jax.Array, memory: Landscape, obs: jax.Array) -> tuple[Landscape, jax.Array]:
        """Averages, projects, chooses."""
        del key
        memory = self._average(memory, obs)
        best = planned_multiplier(
            memory.value,
            memory.cost,
            ahead=self.read(obs, "traffic_left") * jnp.exp(-self.read(obs, "richness")),
            spent=1.0 - self.read(obs, "budget_left"),
            won=self.read(obs, "progress"),
            has_target=self.read(obs, "has_target") > 0.0,
            margin=self.margin,
            aim=self.aim,
        )
        return memory, jnp.where(memory.seen > 0.0, best, self.opening(obs))


class _Shading(NamedTuple):
    landscape: Landscape
    control: Control


@flax.struct.dataclass
class LandscapeShader(LandscapeRule):
    """Bid shading for first price: bid what maximises ``weight x value - cost`` on the landscape.

    ``weight`` (in units of the target) is what a unit of value may cost at the margin; min-pacing moves it so that budget
    and target hold. In a second-price auction the best bid is the weight itself; in first price it is shaded by the
    landscape's slope.

    Attributes:
        budget_gain: Step of the budget's weight.
        target_gain: Step of the target's weight.
        aim: Factor on the target.
    """

    budget_gain: float = 0.3
    target_gain: float = 0.2
    aim: float = 1.0

    SPACE = {  # noqa: RUF012
        "forget": Bound(0.03, 1.0, log=True, default=0.2),
        "budget_gain": Bound(0.01, 1.0, log=True, default=0.3),
        "target_gain": Bound(0.01, 1.0, log=True, default=0.2),
        "aim": Bound(0.8, 1.4, default=1.0),
    }

    def memory(self) -> _Shading:
        """An empty landscape and a controller at rest."""
        return _Shading(_empty(), rivals.begin(jnp.float32(0.0)))

    def control(self, key: jax.Array, memory: _Shading, obs: jax.Array) -> tuple[_Shading, jax.Array]:
        """Moves the weight, then shades."""
        del key
        signals = self.signals(obs)
        signals = signals._replace(cost_over_target=signals.cost_over_target / self.aim)
        opened = rivals.begin(self.opening(obs))
        held = jax.tree.map(lambda old, new: jnp.where(signals.started > 0.0, old, new), memory.control, opened)
        moved, weight = rivals.min_pacing(held, signals, self.budget_gain, self.target_gain)
        landscape = self._average(memory.landscape, obs)
        fine, value, cost = self._fine(landscape)
        gain = jnp.exp(weight) * value - cost
        best = fine[jnp.argmax(gain)]
        return _Shading(landscape, moved), jnp.where(landscape.seen > 0.0, best, weight)
