"""One item, private values: first-price equilibrium, revenue equivalence, Myerson's reserve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import integrate, stats

from adarena.experiments.theory.equilibrium import clear_single, first_price_bids
from adarena.experiments.theory.row import Row, sample_row

SETTINGS = ((2, 0.0), (3, 0.0), (5, 0.0), (10, 0.0), (2, 0.2), (3, 0.3), (2, 0.5), (5, 0.5))
"""Bidders and reserve of the equilibria."""

AT = (0.6, 0.8, 1.0)
"""Values at which bids are looked at; above every reserve."""

SOLVER = 1.5e-3
"""How far the found bids may lie off, beside their standard error: straight lines between 41 points, values that hardly
ever win and so learn little."""

GAIN = 1e-3
"""Profit that another bid may bring: bids ``SOLVER`` off the best cost no more."""

BATCHES = 40
"""Parts of the samples, each left out once: how far the best reserve then moves gives its standard error."""


def single_item_rows(samples: int, seed: int) -> list[Row]:
    """Truths of a single item.

    Args:
        samples: Auctions simulated for each setting.
        seed: Of all values drawn.
    """
    rows = []
    for number, (bidders, reserve) in enumerate(SETTINGS):
        rows += _equilibrium_rows(bidders, reserve, _uniform(samples, bidders, (seed, 1, number)), seed)
    for number, bidders in enumerate((2, 3, 5, 10)):
        rows += _truthful_rows(bidders, _uniform(max(samples // 10, 400), bidders, (seed, 4, number)))
    for number, bidders in enumerate((2, 3, 5)):
        values = _uniform(2 * samples, bidders, (seed, 2, number))
        rows += _reserve_rows(f"{bidders} bidders, uniform", values, 0.5, uniform_revenue(bidders, 0.5))
    for number, bidders in enumerate((2, 5)):
        values = np.random.default_rng((seed, 3, number)).exponential(size=(bidders, 2 * samples)).astype(np.float32)
        rows += _reserve_rows(f"{bidders} bidders, exponential", values, 1.0, exponential_revenue(bidders, 1.0))
    return rows


def uniform_bid(value: float, bidders: int, reserve: float) -> float:
    """Equilibrium bid of the first-price auction with values uniform on [0, 1]; ``value`` at or above ``reserve``."""
    return value * (bidders - 1) / bidders + reserve**bidders / (bidders * value ** (bidders - 1))


def uniform_revenue(bidders: int, reserve: float) -> float:
    """Expected revenue of first- and second-price auctions with values uniform on [0, 1]."""
    return (bidders - 1) / (bidders + 1) + reserve**bidders * (1 - 2 * bidders * reserve / (bidders + 1))


def uniform_welfare(bidders: int, reserve: float) -> float:
    """Expected value of the winner, 0 where nobody wins, with values uniform on [0, 1]."""
    return bidders / (bidders + 1) * (1 - reserve ** (bidders + 1))


def exponential_revenue(bidders: int, reserve: float) -> float:
    """Expected revenue of the second-price auction with exponential values of mean 1.

    By Myerson the mean of the winner's virtual value, which is the value less 1.
    """
    law = stats.expon()
    best = integrate.quad(lambda v: (v - 1) * bidders * law.cdf(v) ** (bidders - 1) * law.pdf(v), reserve, np.inf)
    return float(best[0])


def _uniform(samples: int, bidders: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).random((bidders, samples), dtype=np.float32)


def _setting(bidders: int, reserve: float) -> str:
    return f"{bidders} bidders" + (f", reserve {reserve:g}" if reserve else "")


def _equilibrium_rows(bidders: int, reserve: float, values: np.ndarray, seed: int) -> list[Row]:
    """Bids found by self-play, then what they do in the market, on ``values [N, M]``."""
    found = first_price_bids(bidders, reserve, seed=seed)
    setting = _setting(bidders, reserve)
    truth = "First-price equilibrium"
    rows = [
        sample_row(f"{truth}: bid", f"{setting}, value {v:g}", uniform_bid(v, bidders, reserve), found.at(v), SOLVER)
        for v in AT
    ]
    apart = float(np.ptp([found.at(v) for v in AT], axis=1).max())
    rows.append(Row(f"{truth}: bids apart", f"{setting}, {len(found.bids)} starts", 0.0, apart, 0.0, 0.02))
    gain = best_departure("first_price", found.__call__, values[:, : max(values.shape[1] // 10, 400)], reserve)
    rows.append(sample_row(f"{truth}: gain from another bid, at most", setting, 0.0, gain, GAIN))
    # Beyond float32's own rounding bids at the reserve must not fall below it.
    bids = found(values).astype(np.float32)
    winner, first = clear_single("first_price", bids, reserve)
    won = np.where(winner >= 0, np.take_along_axis(values, np.maximum(winner, 0)[None], axis=0)[0], 0.0)
    second = clear_single("second_price", values, reserve)[1]
    revenue, welfare = uniform_revenue(bidders, reserve), uniform_welfare(bidders, reserve)
    surplus = (welfare - revenue) / bidders
    rows += [
        sample_row(f"{truth}: revenue", setting, revenue, first, SOLVER),
        sample_row(f"{truth}: welfare", setting, welfare, won, 1e-6),
        sample_row(f"{truth}: surplus of each", setting, surplus, (won - first) / bidders, SOLVER / bidders),
        sample_row("Second price, truthful: revenue", setting, revenue, second, 1e-6),
        sample_row("Revenue equivalence: first less second price", setting, 0.0, first - second, SOLVER),
    ]
    return rows


def best_departure(
    mechanism: str, bid: Callable[[np.ndarray], np.ndarray], values: np.ndarray, reserve: float, steps: int = 65
) -> np.ndarray:
    """What the best departure from a common bid function brings, by clearing auctions with every other bid in turn.

    The value and the bid that gain most are looked for on one half of the auctions; the gain is what they bring on the
    other half, so it is not raised by the search.

    Args:
        mechanism: As in `AuctionRules`.
        bid: Takes values to bids; the rivals'.
        values: ``[N, M]`` of which those of the first bidder are not used: it has eight values from the reserve to 1.
        reserve: Least bid that takes part.
        steps: Bids tried, evenly spaced from the reserve to 1.

    Returns:
        ``[M / 2]`` profit of the departure less that of the bid departed from; zeros where none gained anything.
    """
    rivals = bid(values[1:]).astype(np.float32)
    types = np.linspace(reserve, 1.0, 9)[1:]
    offers = np.concatenate([bid(types), np.linspace(reserve, 1.0, steps)]).astype(np.float32)
    shape = len(offers), values.shape[1]
    bids = np.concatenate([np.broadcast_to(x, (len(x), *shape)) for x in (offers[None, :, None], rivals[:, None])])
    winner, payment = clear_single(mechanism, bids.reshape(len(values), -1), reserve)
    won = (winner == 0).reshape(shape)
    paid = np.where(won, payment.reshape(shape), 0.0)
    half = shape[1] // 2
    profit = types[:, None] * won[:, :half].mean(axis=1) - paid[:, :half].mean(axis=1)  # [types, offers]
    gain = profit - np.diagonal(profit)[:, None]
    seat, other = np.unravel_index(np.argmax(gain), gain.shape)
    fresh = types[seat] * won[:, half:] - paid[:, half:]
    return np.asarray(fresh[other] - fresh[seat])


def _truthful_rows(bidders: int, values: np.ndarray) -> list[Row]:
    """What it brings not to bid the truth, on ``values [N, M]``: in first price most at value 1, in second price nothing."""

    def truth(values: np.ndarray) -> np.ndarray:
        return values

    setting = f"{bidders} bidders"
    most = (bidders - 1) ** (bidders - 1) / bidders**bidders  # (1 - b) b ** (n - 1) at b = (n - 1) / n
    first, second = (best_departure(mechanism, truth, values, 0.0) for mechanism in ("first_price", "second_price"))
    return [
        sample_row("First price, truthful: gain from another bid, at most", setting, most, first, GAIN),
        sample_row("Second price, truthful: gain from another bid, at most", setting, 0.0, second, GAIN),
    ]


def _reserve_rows(setting: str, values: np.ndarray, best: float, revenue: float) -> list[Row]:
    """Myerson's reserve, searched for on half of ``values [N, 2 M]``; its revenue on the other half."""
    searched, fresh = np.split(values, 2, axis=1)
    found = best_reserve(lambda reserve: clear_single("second_price", searched, reserve)[1], float(searched.max()))
    row = sample_row("Myerson's reserve, found by search", setting, best, found, RESERVE_GRID)
    earned = clear_single("second_price", fresh, row.simulated)[1]
    return [row, sample_row("Myerson's reserve: revenue there", setting, revenue, earned, 1e-4)]


RESERVE_GRID = 2e-3
"""How far the polynomial through the revenue may move its top."""


def best_reserve(payments: Callable[[float], np.ndarray], highest: float) -> np.ndarray:
    """The reserve that brings most on a sample: coarse search, then a polynomial around the best.

    Args:
        payments: Takes a reserve to the payments ``[M]`` of the same auctions (common random numbers).
        highest: No reserve above it is tried.

    Returns:
        ``[B]`` the jackknife's pseudo-values over ``B`` parts of the sample: their mean is the best reserve, free of most
        of the bias that a maximum over noise has, and their standard error is its standard error.
    """
    coarse = np.linspace(0.0, highest, 41)
    centre = coarse[np.argmax([payments(reserve).mean() for reserve in coarse])]
    near = centre + 0.3 * min(1.0, highest) * np.linspace(-1.0, 1.0, 13)
    near = near[near >= 0.0]
    paid = np.asarray([[part.mean() for part in np.array_split(payments(reserve), BATCHES)] for reserve in near])
    without = (paid.sum(axis=1, keepdims=True) - paid) / (BATCHES - 1)
    top = _top(near, paid.mean(axis=1))
    return np.asarray([BATCHES * top - (BATCHES - 1) * _top(near, part) for part in without.T])


def _top(reserves: np.ndarray, revenue: np.ndarray) -> float:
    """Where a polynomial through ``revenue [R]`` is highest between the first and the last of ``reserves [R]``."""
    fitted = np.polynomial.Chebyshev.fit(reserves, revenue, 6)
    flat = np.asarray(fitted.deriv().roots())
    inside = flat.real[(abs(flat.imag) < 1e-9) & (flat.real > reserves[0]) & (flat.real < reserves[-1])]
    places = np.concatenate([inside, reserves[[0, -1]]])
    return float(places[np.argmax(fitted(places))])
