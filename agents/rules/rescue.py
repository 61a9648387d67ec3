"""Rules that weigh an ad's chance to succeed against what support would cost: uplift-targeted support, and rescue."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from adarena.agents.rules.placement import BID, PACE, Limits, PlacementRule, Support
from adarena.agents.tuner import Bound

LEVELS = 17
"""Bonuses among which `Rescue` chooses, from 0 to the largest, evenly spaced in their square roots: small ones matter."""


@flax.struct.dataclass
class UpliftTargeted(PlacementRule):
    """One bonus, only for the ads that it may carry over the threshold: projected conversions in a band below it.

    Attributes:
        boost: Bonus over the largest one.
        low: Least projected conversions over required.
        high: Most.
        floor: Least log of predicted conversions per exposure over the mean of all ads.
        pace: How far support follows the fund, see `PACE`.
        bid: Log bid multiplier over its largest.
    """

    boost: float = 0.15
    low: float = 0.3
    high: float = 1.2
    floor: float = -0.5
    pace: float = 0.5
    bid: float = 0.0

    SPACE: ClassVar[dict[str, Bound]] = {
        "boost": Bound(0.005, 1.0, log=True, default=0.15),
        "low": Bound(0.0, 1.0, default=0.3),
        "high": Bound(0.5, 3.0, default=1.2),
        "floor": Bound(-1.5, 0.5, default=-0.5),
        **PACE,
        **BID,
    }

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """The bonus, for those in the band."""
        projected = self.ads(obs, "projected")
        # What has been projected for a young ad is nothing yet: its prediction alone decides.
        inside = ((projected >= self.low) | (self.ads(obs, "age") < 1.0 / 6.0)) & (projected <= self.high)
        chosen = inside & (self.ads(obs, "value") >= self.floor)
        bonus = self.boost * limits.bonus * jnp.exp(self.pace * self.context(obs, "fund_pace"))
        return memory, Support(bonus=jnp.where(chosen, bonus, 0.0), log_multiplier=self.bid * limits.log_multiplier)


class Outlook(NamedTuple):
    """What a rule expects of each ad; ``[L]`` float32.

    Attributes:
        value: Conversions per exposure of match 1.
        relative_sd: Standard deviation of ``value`` over it.
        conversions: Conversions so far, reported or not.
        pending: Those of them that are not reported: their number is not known for sure.
    """

    value: jax.Array
    relative_sd: jax.Array
    conversions: jax.Array
    pending: jax.Array


@flax.struct.dataclass
class Rescue(PlacementRule):
    """Spends the fund where a success is cheapest, planning each ad to the end of its window.

    For each of `LEVELS` bonuses the rule predicts what the ad would win until its window closes, if it kept the bonus:
    matched exposures per impression rise with score + bonus as a normal distribution function of its log (``centre``,
    ``slope``, ``height``, in running mean prices), and the fund is charged for each exposure the part of the bonus that
    was needed to win it. Conversions that way are negative binomial (a Poisson number, its rate known by the posterior);
    the chance that they reach what is still required is taken from a normal distribution of the same mean and variance.
    The ad gets the bonus with the largest ``chance - worth of the charge``: ads that would succeed anyway, or that would
    cost too much, get none, since no bonus is then worth its charge. A charge of the fund over all launched ads is
    worth ``dearness`` successes, and less while the fund is spent too slowly.

    Attributes:
        dearness: Successes that an even part of the fund (fund over places) has to bring.
        optimism: Posterior standard deviations by which an ad's value is taken to be higher than predicted.
        margin: Conversions to aim for beyond the required ones.
        centre: Log of the score, in running mean prices, at which half of the most exposures are won.
        slope: Spread of the log score from the few to the many exposures won.
        height: Matched exposures per impression that the largest score would win.
        pace: How far the worth of the fund follows its use, see `PACE`.
        bid: Log bid multiplier over its largest.
        guard: By how much it falls with log cost over target (where that is above the tolerance).
    """

    dearness: float = 0.2
    optimism: float = 0.3
    margin: float = 0.5
    centre: float = -1.0
    slope: float = 0.9
    height: float = 0.42
    pace: float = 0.5
    bid: float = 0.0
    guard: float = 0.5

    SPACE: ClassVar[dict[str, Bound]] = {
        "dearness": Bound(0.01, 3.0, log=True, default=0.2),
        "optimism": Bound(0.0, 1.5, default=0.3),
        "margin": Bound(-2.0, 4.0, default=0.5),
        "centre": Bound(-1.5, 0.5, default=-1.0),
        **PACE,
        **BID,
        "guard": Bound(0.0, 2.0, default=0.5),
    }

    def control(self, key: jax.Array, memory: Any, obs: jax.Array, limits: Limits) -> tuple[Any, Support]:
        """The best bonus of each ad."""
        outlook = self.outlook(obs, limits)
        log_multiplier = self.log_multiplier(obs, limits)
        own = self.own_score(obs) * jnp.exp(log_multiplier)
        left = jnp.maximum((1.0 - self.ads(obs, "age")) * self.window_ticks(obs), 1.0) * limits.volume
        bonus = jnp.square(jnp.linspace(0.0, 1.0, LEVELS)) * limits.bonus
        won = self.win_curve(own[:, None] + bonus)  # [L, levels]
        chance = self.chance(outlook, won * left[:, None], obs)
        # A bonus b wins what needs any bonus x up to b, for x each: b w(b) less the integral of w from 0 to b.
        steps = 0.5 * (won[:, 1:] + won[:, :-1]) * (bonus[1:] - bonus[:-1])
        charge = bonus * won - jnp.pad(jnp.cumsum(steps, axis=1), ((0, 0), (1, 0)))
        part = limits.fund * jnp.exp(-self.context(obs, "price")) / self.layout.items
        dearness = self.dearness * jnp.exp(-self.pace * self.context(obs, "fund_pace"))
        worth = chance - dearness * charge * left[:, None] / jnp.maximum(part, 1e-9)
        return memory, Support(bonus=bonus[jnp.argmax(worth, axis=1)], log_multiplier=log_multiplier)

    def outlook(self, obs: jax.Array, limits: Limits) -> Outlook:
        """What the platform predicts."""
        required = self.required(obs)
        conversions = self.ads(obs, "conversions") * required
        spread = self.relative_sd(obs)
        value = limits.level * jnp.exp(self.ads(obs, "value")) * (1.0 + self.optimism * spread)
        pending = jnp.maximum(conversions - self.ads(obs, "reported") * required, 0.0)
        return Outlook(value, spread, conversions, pending)

    def log_multiplier(self, obs: jax.Array, limits: Limits) -> jax.Array:
        """Log bid multiplier: less for ads whose conversions cost too much, ``[L]``."""
        over = jnp.log(jnp.maximum(self.ads(obs, "cost_over_target"), 1e-3) / limits.tolerance)
        wanted = self.bid * limits.log_multiplier - self.guard * jnp.maximum(over, 0.0)
        return jnp.clip(wanted, -limits.log_multiplier, limits.log_multiplier)

    def win_curve(self, score: jax.Array) -> jax.Array:
        """Matched exposures per impression at a score of match 1 (bonus included), in running mean prices."""
        z = (jnp.log(jnp.maximum(score, 1e-6)) - self.centre) / self.slope
        return self.height * jax.scipy.stats.norm.cdf(z)

    def chance(self, outlook: Outlook, trials: jax.Array, obs: jax.Array) -> jax.Array:
        """Chance that an ad reaches what is required by ``trials [L, levels]`` more matched exposures."""
        needed = (self.required(obs) + self.margin - outlook.conversions)[:, None]
        return chance_of(
            needed, outlook.value[:, None] * trials, outlook.relative_sd[:, None], outlook.pending[:, None]
        )


def chance_of(needed: jax.Array, mean: jax.Array, relative_sd: jax.Array, pending: jax.Array | float) -> jax.Array:
    """Chance of at least ``needed`` conversions.

    Args:
        needed: Conversions still needed.
        mean: Expected number.
        relative_sd: Relative standard deviation of that expectation: it makes a Poisson number a negative binomial.
        pending: Conversions that are counted already, but not known for sure (as a Poisson number of that mean).
    """
    variance = mean + jnp.square(mean * relative_sd) + pending
    return jax.scipy.stats.norm.cdf((mean - needed + 0.5) / jnp.sqrt(jnp.maximum(variance, 1e-6)))


@flax.struct.dataclass
class OracleRescue(Rescue):
    """`Rescue` with true rates instead of predictions, which bounds what knowing them could bring this rule.

    For environments that show truth (``ColdStart(truth=True)``). The bid is corrected as well: an ad bids as if its
    prediction were true, as far as the largest multiplier allows.
    """

    def outlook(self, obs: jax.Array, limits: Limits) -> Outlook:
        """True rates: nothing but luck is left open."""
        required = self.required(obs)
        pending = self.ads(obs, "true_pending") * required
        value = limits.level * jnp.exp(self.ads(obs, "true_value"))
        conversions = self.ads(obs, "reported") * required + pending
        return Outlook(value, jnp.zeros_like(value), conversions, pending)

    def log_multiplier(self, obs: jax.Array, limits: Limits) -> jax.Array:
        """As `Rescue`, and the truth over the prediction."""
        wanted = super().log_multiplier(obs, limits) + self.ads(obs, "true_value") - self.ads(obs, "value")
        return jnp.clip(wanted, -limits.log_multiplier, limits.log_multiplier)
