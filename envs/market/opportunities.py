"""What the slots of a cleared tick would have cost one seat: for the hindsight bound and for bid landscapes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adarena.envs.market.auction import AuctionRules, Ranking, payment_score, rival_scores
from adarena.envs.market.clearing import Bidders, Terms, Visit, billable, least_score, predictions_of
from adarena.envs.market.mechanisms import PAYMENTS, prices_of_seat
from adarena.envs.market.response import exposure_probability


class Opportunity(NamedTuple):
    """What the slots of a tick would have cost one seat, rivals' bids given; ``[K, M]`` each, weights included.

    Attributes:
        cost: Currency units, in expectation.
        value: Units of true value, in expectation; 0 where the seat could not have taken the slot at any bid.
        least_score: Score that would have taken the slot (reserve included).
        unit_score: ``[M]`` the seat's score at one currency unit per unit of predicted value.
    """

    cost: jax.Array
    value: jax.Array
    least_score: jax.Array
    unit_score: jax.Array


def opportunities(
    rules: AuctionRules, visit: Visit, seat: jax.Array, bidders: Bidders, terms: Terms, ranking: Ranking
) -> Opportunity:
    """Prices and values of all slots for ``seat``, for the hindsight bound and for bid landscapes.

    In first price the seat is let pay just what beats the rivals, which only hindsight can. It is ranked, and charged a
    unit, by predicted rates, as the platform sees them; units are brought to money per exposed impression by true rates.
    """
    rivals = rival_scores(ranking, seat)
    exposed = exposure_probability(terms.exposure, terms.cascade)
    outside = terms.outside_price * visit.bank.outside[visit.block]
    factor = bidders.factor[seat]
    pctr = visit.bank.pctr[visit.block, seat] * factor
    pvalue = visit.bank.pvalue[visit.block, seat] * factor
    units = billable(rules, pctr, pvalue)
    predicted_pctr, predicted = predictions_of(visit, seat, factor, terms)
    predicted_units = billable(rules, predicted_pctr, predicted)
    quality = predicted_pctr if rules.charge == "impression" else predicted_units
    boost = quality**terms.kappa if rules.quality_ranking else 1.0
    reserve = least_score(rules, terms, outside)
    least = jnp.maximum(rivals, reserve)
    if rules.mechanism == "vcg":
        # With rivals below it, the seat in slot k displaces those from k on.
        shifted = jnp.concatenate([jnp.zeros_like(rivals[:1]), rivals])
        paid = payment_score(rules, shifted, exposed, reserve)
    elif rules.mechanism == "second_price":
        paid = jnp.broadcast_to(least[-1], least.shape)
    elif rules.mechanism in PAYMENTS:
        paid = prices_of_seat(PAYMENTS[rules.mechanism], rivals, least, exposed, reserve)
    else:
        paid = least
    floor = outside / predicted_units  # per billable unit, as `run_tick` has it
    per_exposure = jnp.maximum(paid / boost, floor) * units
    void = terms.void_at_reserve & (paid <= reserve)
    share = jnp.where(void, 0.0, exposed[:, None] * visit.weight)
    worth = bidders.worth[seat] * (visit.bank.worth[visit.block] if visit.basket else 1.0)
    basket = visit.bank.worth[visit.block] if visit.basket else 1.0
    unit_score = predicted * basket / predicted_units * boost
    return Opportunity(per_exposure * share, pvalue * worth * share, jnp.maximum(least, floor * boost), unit_score)
