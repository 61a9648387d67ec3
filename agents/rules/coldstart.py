"""Rules by which a platform helps new ads: from doing nothing to the published shadow bidding with learning."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules.placement import BID, PACE, Limits, PlacementRule, Support
from adarena.agents.rules.rescue import OracleRescue, Rescue, UpliftTargeted
from adarena.agents.tuner import Bound


@flax.struct.dataclass
class NoSupport(PlacementRule):
    """Supports nobody: no bonus, no protected traffic, multiplier 1. Nothing to tune."""

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """No support."""
        return memory, Support()


@flax.struct.dataclass
class ConstantBoost(PlacementRule):
    """The same bonus and the same bid multiplier for every new ad.

    Attributes:
        boost: Bonus over the largest one.
        bid: Log bid multiplier over its largest.
    """

    boost: float = 0.08
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {"boost": Bound(0.005, 1.0, log=True, default=0.08), **BID}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Constant support."""
        return memory, Support(bonus=self.boost * limits.bonus, log_multiplier=self.bid * limits.log_multiplier)


@flax.struct.dataclass
class DecayingBoost(PlacementRule):
    """A bonus that shrinks as the ad grows older: ``boost x exp(-decay x age)``, age in windows.

    Attributes:
        boost: Bonus at launch over the largest one.
        decay: Rate of decay, per window.
        bid: Log bid multiplier over its largest.
    """

    boost: float = 0.15
    decay: float = 2.0
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {
        "boost": Bound(0.005, 1.0, log=True, default=0.15),
        "decay": Bound(0.0, 8.0, default=2.0),
        **BID,
    }

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Bonus by age."""
        bonus = self.boost * limits.bonus * jnp.exp(-self.decay * self.ads(obs, "age"))
        return memory, Support(bonus=bonus, log_multiplier=self.bid * limits.log_multiplier)


@flax.struct.dataclass
class ProtectedTraffic(PlacementRule):
    """Keeps a share of all traffic (5 to 15 % is usual) for new ads, divided equally among those that are there.

    Attributes:
        traffic: Share of all traffic, at most what the market allows.
        focus: How much of it goes to the least learnt: parts are proportional to ``relative posterior sd ** focus``.
        bid: Log bid multiplier over its largest.
    """

    traffic: float = 0.05
    focus: float = 0.0
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {"traffic": Bound(0.05, 0.15, default=0.05), **BID}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Protected traffic, no bonus."""
        spread = jnp.maximum(self.relative_sd(obs), 1e-6) ** self.focus
        part = jnp.where(self.ads(obs, "live") > 0.5, spread, 0.0)
        share = jnp.minimum(self.traffic, limits.share) * part / jnp.maximum(part.sum(), 1e-9)
        return memory, Support(share=share, log_multiplier=self.bid * limits.log_multiplier)


@flax.struct.dataclass
class ProtectedLeastLearnt(ProtectedTraffic):
    """`ProtectedTraffic` that favours the ads whose rates are known least; ``focus`` is tuned as well."""

    SPACE: ClassVar[dict[str, Bound]] = {**ProtectedTraffic.SPACE, "focus": Bound(0.0, 12.0, default=4.0)}


@flax.struct.dataclass
class UpperConfidence(PlacementRule):
    """UCB on eCPM: ads are ranked by target x (posterior mean + ``width`` posterior sd); the difference is the bonus.

    Attributes:
        width: Standard deviations.
        pace: How far support follows the fund, see `PACE`.
        bid: Log bid multiplier over its largest.
    """

    width: float = 1.0
    pace: float = 0.5
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {"width": Bound(0.05, 5.0, log=True, default=1.0), **PACE, **BID}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Bonus by what is not known."""
        bonus = self.width * self.own_score(obs) * self.relative_sd(obs)
        bonus = bonus * jnp.exp(self.pace * self.context(obs, "fund_pace"))
        return memory, Support(bonus=bonus, log_multiplier=self.bid * limits.log_multiplier)


@flax.struct.dataclass
class ThompsonSampling(PlacementRule):
    """Thompson sampling with the hierarchical prior: both rates are drawn from each ad's posterior, every tick anew.

    Where the drawn score is above the ad's own, the difference is its bonus (a score cannot be lowered, so draws below
    change nothing).

    Attributes:
        scale: Factor on the posterior's relative standard deviations.
        pace: How far support follows the fund, see `PACE`.
        bid: Log bid multiplier over its largest.
    """

    scale: float = 1.0
    pace: float = 0.5
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {"scale": Bound(0.1, 4.0, log=True, default=1.0), **PACE, **BID}

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """Bonus by one draw for each ad."""
        z = jax.random.normal(key, (2, self.layout.items))
        drawn = gamma_of_mean_one(z[0], self.scale * self.ads(obs, "ctr_spread"))
        drawn = drawn * gamma_of_mean_one(z[1], self.scale * self.ads(obs, "cvr_spread"))
        bonus = self.own_score(obs) * jnp.maximum(drawn - 1.0, 0.0)
        bonus = bonus * jnp.exp(self.pace * self.context(obs, "fund_pace"))
        return memory, Support(bonus=bonus, log_multiplier=self.bid * limits.log_multiplier)


def gamma_of_mean_one(z: jax.Array, relative_sd: jax.Array) -> jax.Array:
    """A gamma of mean 1 from a standard normal (Wilson and Hilferty 1931: its cube root is nearly normal)."""
    ninth = jnp.square(relative_sd) / 9.0
    return jnp.maximum(1.0 - ninth + z * jnp.sqrt(ninth), 0.0) ** 3


@flax.struct.dataclass
class AuctionUCB(PlacementRule):
    """After AuctionUCB (Soboleva et al. 2025, arXiv 2502.01867): optimism by counts, through the bid.

    An ad competes with bid x optimistic rate, where the optimism is that of UCB1, ``sqrt(log t / events)``, and not a
    posterior's: it shrinks with what has been seen of this ad alone. Here the factor is ``1 + width x sqrt(log(1 +
    exposures of all new ads) / (events0 + clicks))``. As there, the advertiser pays by its optimistic bid (up to the
    largest multiplier); what the multiplier cannot hold is bonus.

    Attributes:
        width: Factor on the optimism.
        events0: Clicks that the content is taken to be worth, so that a new ad's optimism is finite.
        limit: Most of the optimism that the advertiser pays, as log multiplier over its largest.
    """

    width: float = 0.3
    events0: float = 10.0
    limit: float = 0.5

    SPACE: ClassVar[dict[str, Bound]] = {
        "width": Bound(0.01, 5.0, log=True, default=0.3),
        "events0": Bound(1.0, 200.0, log=True, default=10.0),
        "limit": Bound(0.0, 1.0, default=0.5),
    }

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """The optimism, the advertiser's part of it first."""
        clicks = jnp.expm1(self.ads(obs, "clicks"))
        total = jnp.expm1(self.ads(obs, "exposures")).sum()
        factor = 1.0 + self.width * jnp.sqrt(jnp.log(2.0 + total) / (self.events0 + clicks))
        paid = jnp.minimum(jnp.log(factor), self.limit * limits.log_multiplier)
        return memory, Support(bonus=self.own_score(obs) * (factor - jnp.exp(paid)), log_multiplier=paid)


@flax.struct.dataclass
class ShadowBidding(PlacementRule):
    """SBL, shadow bidding with learning (Ye et al., Management Science 2023), dual descent as published.

    An ad ranks with target + shadow bonus, and is charged by its target. For each ad, with an own bonus that starts at 0,
    ``lambda <- clip(lambda + eta (alpha - predicted conversions x shown), 0, cap)``, ``alpha`` the required conversions
    over the impressions of the window; ``lambda = 0`` once as many conversions are reported as required. A tick stands
    for its impressions: alpha times its traffic and the predicted conversions of what the ad won are added up.

    Attributes:
        eta: Step, targets per conversion.
        cap: Largest bonus, targets (the value of a success over the required conversions).
    """

    eta: float = 0.5
    cap: float = 1.0

    SPACE: ClassVar[dict[str, Bound]] = {
        "eta": Bound(0.005, 5.0, log=True, default=0.5),
        "cap": Bound(0.05, 10.0, log=True, default=1.0),
    }

    def memory(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bonuses and running conversions a tick ``[L]``, and the traffic of the tick that comes next."""
        zero = jnp.zeros(self.layout.items, jnp.float32)
        return zero, zero, jnp.float32(0.0)

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """One dual step for the tick that is over, and the bonus for the coming one."""
        price, rate_before, traffic = memory
        required, window, age = self.required(obs), self.window_ticks(obs), self.ads(obs, "age")
        to_come = jnp.maximum((1.0 - age) * window, 1.0)
        rate = (self.ads(obs, "projected") - self.ads(obs, "conversions")) * required / to_come
        # The running mean's step gives back the tick's own predicted conversions.
        shown = rate_before + self.ticks_per_day * (rate - rate_before)
        price = dual_step(price, required * traffic / window, shown, self.eta, self.cap)
        running = (age > 0.0) & (self.ads(obs, "reported") < 1.0)
        price = jnp.where(running, price, 0.0)
        return (price, rate, self.context(obs, "traffic")), Support(bonus=price * self.own_score(obs))


def dual_step(
    price: jax.Array, alpha: jax.Array, shown: jax.Array, eta: jax.Array | float, cap: jax.Array | float
) -> jax.Array:
    """SBL's update: ``clip(price + eta (alpha - shown), 0, cap)``; ``[L]``, ``alpha`` and ``shown`` conversions."""
    return jnp.clip(price + eta * (alpha - shown), 0.0, cap)


COLDSTART_RULES: dict[str, type[PlacementRule]] = {
    "none": NoSupport,
    "constant_boost": ConstantBoost,
    "decaying_boost": DecayingBoost,
    "protected": ProtectedTraffic,
    "protected_least_learnt": ProtectedLeastLearnt,
    "ucb": UpperConfidence,
    "thompson": ThompsonSampling,
    "auction_ucb": AuctionUCB,
    "sbl": ShadowBidding,
    "uplift": UpliftTargeted,
    "rescue": Rescue,
}
"""Every rule of new ads' placement by the name that tables and the command line use."""

ORACLES: dict[str, type[PlacementRule]] = {"oracle": OracleRescue}
"""Policies that know the truth, for environments built with ``truth=True``: bounds, no competitors."""
