"""AuctionNet's state of a bidder: sixteen numbers from the history lists that its strategies get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

STATE16: Final = (
    *("time_left", "budget_left", "bid_mean", "bid_mean_last3"),
    *("least_winning_cost_mean", "p_value_mean", "conversion_mean", "won_mean"),
    *("least_winning_cost_mean_last3", "p_value_mean_last3", "conversion_mean_last3", "won_mean_last3"),
    *("current_p_value_mean", "current_impressions", "last3_impressions", "total_impressions"),
)
"""Names of the entries, in order (alimama-tech/AuctionNet @ c20de63). The target, the amount of the budget and the category
are not among them. ``time_left`` is (T - t) / T; a mean over ticks is the mean of the ticks' means; ``last3`` means the three
ticks before this one, or as many as there are; a mean of nothing is 0."""


def state16(
    tick: int,
    p_values: np.ndarray,
    remaining_budget: float,
    budget: float,
    history_p_value_info: Sequence[np.ndarray],
    history_bid: Sequence[np.ndarray],
    history_auction_result: Sequence[np.ndarray],
    history_impression_result: Sequence[np.ndarray],
    history_least_winning_cost: Sequence[np.ndarray],
    *,
    ticks: int = 48,
    opening: bool = False,
) -> np.ndarray:
    """The state at the start of a tick.

    Args:
        tick: Index of the tick, from 0.
        p_values: ``[n]``, predictions for its impressions.
        remaining_budget: Currency units left.
        budget: Currency units at the start.
        history_p_value_info, history_bid, history_auction_result, history_impression_result, history_least_winning_cost:
            One array a finished tick, as in `adarena.envs.adapters.auctionnet.BaseBiddingStrategy.bidding`.
        ticks: Ticks of the whole episode.
        opening: Whether the ``last3`` means are of the first three ticks, as some code for AuctionNet has them when it bids
            (though not when it trains).

    Returns:
        ``[16]`` float64, entries as in `STATE16`.

    Raises:
        ValueError: ``tick`` is not in [0, ticks), or a history does not hold one array for each finished tick.
    """
    parts = {
        "history_bid": history_bid,
        "history_least_winning_cost": history_least_winning_cost,
        "history_p_value_info": [info[:, 0] for info in history_p_value_info],
        "history_impression_result": [result[:, 1] for result in history_impression_result],
        "history_auction_result": [result[:, 0] for result in history_auction_result],
    }
    _check(tick, ticks, parts)
    last = slice(0, 3) if opening else slice(max(tick - 3, 0), tick)
    means = [[_mean(values) for values in part] for part in parts.values()]
    bid, cost, value, conversion, won = (_mean(part) for part in means)
    bid3, *others3 = (_mean(part[last]) for part in means)
    counts = [len(values) for values in history_bid]
    left = remaining_budget / budget if budget > 0 else 0.0
    now = _mean(p_values), len(p_values), sum(counts[max(tick - 3, 0) :]), sum(counts)
    return np.array([(ticks - tick) / ticks, left, bid, bid3, cost, value, conversion, won, *others3, *now], np.float64)


def _check(tick: int, ticks: int, parts: Mapping[str, Sequence[np.ndarray]]) -> None:
    if not 0 <= tick < ticks:
        raise ValueError(f"tick must be from 0 to ticks - 1 = {ticks - 1}, got {tick!r}")
    for name, part in parts.items():
        if len(part) != tick:
            raise ValueError(f"{name} must hold one array for each of the {tick} finished ticks, got {len(part)}")


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
