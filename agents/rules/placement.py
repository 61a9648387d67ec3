"""What every rule of new ads' placement shares: it reads a set of ads by name and answers with support for each.

For environments with a ``layout`` (`adarena.envs.sets.SetLayout`) whose items are ads, such as
`adarena.envs.coldstart.ColdStart`. Every rule treats all ads alike, so relabelling ads relabels its support.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.tuner import Bound
from adarena.envs.core import Env
from adarena.envs.sets import SetLayout

BID = {"bid": Bound(-1.0, 1.0, default=0.0)}
"""Rules may bid more or less for ads than their advertisers ask, at the advertisers' cost: log multiplier over its largest."""

PACE = {"pace": Bound(0.0, 2.0, default=0.5)}
"""Rules may raise support while the fund is spent more slowly than windows pass: bonus times ``exp(pace x fund_pace)``."""


class Limits(NamedTuple):
    """What a rule knows of the market beside observations; scalars.

    Attributes:
        bonus: Largest bonus, running mean prices of an exposure.
        share: Most of all traffic that may be protected.
        log_multiplier: Log of the largest bid multiplier.
        tolerance: Largest cost per conversion over target.
        volume: Real impressions of a mean tick.
        level: Conversions per exposure of match 1, mean of all ads.
        fund: Exploration budget of the episode, forecast prices of an exposure.
    """

    bonus: jax.Array
    share: jax.Array
    log_multiplier: jax.Array
    tolerance: jax.Array
    volume: jax.Array
    level: jax.Array
    fund: jax.Array


class Support(NamedTuple):
    """What a rule gives each ad in a tick; ``[L]`` or a scalar for all.

    Attributes:
        bonus: Added to the score of an exposure of match 1, running mean prices of an exposure.
        share: Share of all traffic that is protected for the ad.
        log_multiplier: Log of the factor on the ad's bid.
    """

    bonus: jax.Array | float = 0.0
    share: jax.Array | float = 0.0
    log_multiplier: jax.Array | float = 0.0


@flax.struct.dataclass
class PlacementRule:
    """A policy of a few numbers. Leaves are its parameters, so a population of candidates is one stacked pytree.

    Attributes:
        layout: Where ads lie in observation and action.
        context_names: Names of the observation's context, in order.
        feature_names: Names of an ad's features, in order.
        ticks_per_day: Ticks in a day.
        days: Days of an episode.
    """

    layout: SetLayout = flax.struct.field(pytree_node=False, default=SetLayout(0, 0, 0, 3))
    context_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    feature_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    ticks_per_day: int = flax.struct.field(pytree_node=False, default=1)
    days: int = flax.struct.field(pytree_node=False, default=1)

    jittable: ClassVar[bool] = True
    SPACE: ClassVar[dict[str, Bound]] = {}
    """What the tuner may change."""

    @classmethod
    def build(cls, env: Env) -> Self:
        """The rule with its default numbers, for an environment that shows a set of ads.

        Raises:
            TypeError: The environment has no ``layout`` with three numbers of action for each item.
        """
        layout = getattr(env, "layout", None)
        if not isinstance(layout, SetLayout) or layout.actions != 3:
            raise TypeError(f"env must have a layout of items with three actions each, got {type(env).__name__}")
        names = tuple(entry.name for entry in env.OBSERVATION)
        first = names[layout.context : layout.context + layout.features]
        numbers = {name: bound.default for name, bound in cls.space().items() if bound.default is not None}
        return cls(
            layout=layout,
            context_names=names[: layout.context],
            feature_names=tuple(name.partition(".")[2] for name in first),
            ticks_per_day=env.ticks_per_day,  # type: ignore[attr-defined]
            days=env.days,  # type: ignore[attr-defined]
            **numbers,
        )

    @classmethod
    def space(cls) -> dict[str, Bound]:
        """Search space of the tuner; empty where there is nothing to tune."""
        return dict(cls.SPACE)

    def init(self, params: Any) -> Any:
        """Memory at the start of an episode: the market's limits, and the rule's own."""
        shown = jnp.cumprod(params.terms.exposure).sum()
        limits = Limits(
            bonus=params.max_bonus,
            share=params.max_share,
            log_multiplier=jnp.log(params.max_multiplier),
            tolerance=params.cpa_tolerance,
            volume=params.daily_impressions / self.ticks_per_day,
            level=params.ctr_level * params.cvr_level,
            fund=params.exploration_budget * params.daily_impressions * self.days * shown,
        )
        return limits, self.memory()

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """Next memory and the action ``[3 L]``; ads that are not there get the neutral action."""
        limits, memory = carry
        memory, support = self.control(key, memory, obs, limits)
        live = self.layout.split(obs)[2]
        ranges = (limits.bonus, limits.share, limits.log_multiplier)
        columns = []
        for amount, most, neutral in zip(support, ranges, (-1.0, -1.0, 0.0), strict=True):
            part = jnp.broadcast_to(amount, live.shape) / jnp.maximum(most, 1e-9)
            # Bonus and share go as the square of their part of the action's range.
            part = jnp.clip(part if neutral == 0.0 else 2.0 * jnp.sqrt(jnp.maximum(part, 0.0)) - 1.0, -1.0, 1.0)
            columns.append(jnp.where(live, part, neutral))
        return (limits, memory), jnp.stack(columns, axis=-1).reshape(-1).astype(jnp.float32)

    def memory(self) -> Any:
        """The rule's own memory at the start; nothing by default."""
        return ()

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Next memory and the support of the coming tick."""
        raise NotImplementedError

    def context(self, obs: jax.Array, name: str) -> jax.Array:
        """One entry of the context.

        Raises:
            KeyError: The environment shows no such entry.
        """
        return obs[self._place(self.context_names, name)]

    def ads(self, obs: jax.Array, name: str) -> jax.Array:
        """One feature of every ad, ``[L]``; 0 for ads that are not there.

        Raises:
            KeyError: The environment shows no such feature.
        """
        return self.layout.split(obs)[1][:, self._place(self.feature_names, name)]

    def own_score(self, obs: jax.Array) -> jax.Array:
        """Score of an exposure of match 1, running mean prices of an exposure, ``[L]``."""
        return jnp.exp(self.ads(obs, "score"))

    def required(self, obs: jax.Array) -> jax.Array:
        """Conversions that a success takes; scalar."""
        return jnp.exp(self.context(obs, "log_required"))

    def window_ticks(self, obs: jax.Array) -> jax.Array:
        """Ticks of a window; scalar."""
        return jnp.round(7.0 * self.context(obs, "window") * self.ticks_per_day)

    def relative_sd(self, obs: jax.Array) -> jax.Array:
        """Posterior standard deviation of conversions per exposure over its mean, ``[L]``."""
        ctr, cvr = jnp.square(self.ads(obs, "ctr_spread")), jnp.square(self.ads(obs, "cvr_spread"))
        return jnp.sqrt(ctr + cvr + ctr * cvr)

    def _place(self, names: tuple[str, ...], name: str) -> int:
        if name not in names:
            raise KeyError(f"{type(self).__name__} reads the observation entry {name!r}, which this environment lacks")
        return names.index(name)
