"""Several slots: the generalised second-price auction, its lowest envy-free equilibrium, and VCG."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from adarena.envs.market.auction import AuctionRules
from adarena.experiments.theory.equilibrium import balanced_bids, clear
from adarena.experiments.theory.row import Row

EXAMPLE_VALUES = (10.0, 8.0, 5.0, 2.0)
EXAMPLE_EXPOSURE = (1.0, 0.8, 0.6)
EXAMPLE_VCG = (3.8, 2.2, 1.2)
EXAMPLE_BIDS = (3.8, 2.75, 2.0)
"""Of the second to fourth advertiser, in the lowest envy-free equilibrium."""

ROUNDING = 1e-5
"""Float32, on payments of order 1."""


class Instances(NamedTuple):
    """Position auctions.

    Attributes:
        values: ``[N, M]`` float32 values of an exposure.
        exposure: ``[K, M]`` float32, falling along the slots.
        reserve: ``[M]`` float32.
    """

    values: np.ndarray
    exposure: np.ndarray
    reserve: np.ndarray


def random_instances(count: int, slots: int, advertisers: int, reserve: float, seed: int) -> Instances:
    """Draws values uniform on [0, 1] and slots each 40-90 % as exposed as the one above; reserves up to ``reserve``."""
    generator = np.random.default_rng((seed, slots, advertisers))
    falls = np.vstack([np.ones(count), generator.uniform(0.4, 0.9, (slots - 1, count))])
    drawn = generator.random((advertisers, count)), np.cumprod(falls, axis=0), reserve * generator.random(count)
    return Instances(*(part.astype(np.float32) for part in drawn))


def payments(mechanism: str, bids: np.ndarray, instances: Instances) -> np.ndarray:
    """Expected payments ``[K, M]`` float64 of the holders of the slots when ``bids [N, M]`` are made."""
    return _play(mechanism, bids, instances)[1]


def largest_gain(mechanism: str, instances: Instances, steps: int = 41, bids: np.ndarray | None = None) -> np.ndarray:
    """What the best unilateral departure from ``bids`` brings, over all advertisers and a grid of other bids.

    Args:
        mechanism: As in `AuctionRules`.
        instances: The auctions.
        steps: Bids tried, from 0 to 1.2 times the highest value, the same for all.
        bids: ``[N, M]`` of everybody; None for the truth.

    Returns:
        ``[M]`` float64 largest gain; 0 or less where none pays.
    """
    values = instances.values
    kept = values if bids is None else bids.astype(np.float32)
    tried = np.linspace(0.0, 1.2 * values.max(), steps, dtype=np.float32)
    # Departures lie side by side with what is kept as instances of one batch: [M, 1 + steps], flattened.
    wide = Instances(*(np.repeat(part, steps + 1, axis=-1) for part in instances))
    gains = []
    for seat in range(len(values)):
        offers = np.repeat(kept[:, :, None], steps + 1, axis=2)
        offers[seat, :, 1:] = tried
        utility = _utility(mechanism, offers.reshape(len(values), -1), wide, seat).reshape(-1, steps + 1)
        gains.append((utility[:, 1:] - utility[:, :1]).max(axis=1))
    return np.max(gains, axis=0)


def position_rows(samples: int, seed: int) -> list[Row]:
    """Truths of several slots.

    Args:
        samples: What the number of random instances grows with: a 400th of it, from 50 to 500, and fewer for VCG.
        seed: Of the random instances.
    """
    rows = _example_rows(seed)
    for slots in (2, 3, 4, 5):
        rows += _equivalence_rows(min(max(samples // 400, 50), 500), slots, seed)
    for slots, reserve in ((1, 0.0), (3, 0.0), (3, 0.5), (5, 0.3)):
        count = min(max(samples // 1000, 20), 200)
        gain = _gain("vcg", random_instances(count, slots, slots + 3, reserve, seed))
        setting = f"{slots} slots, {slots + 3} advertisers, reserves to {reserve:g}, largest of {count}"
        rows.append(Row("VCG: gain from not bidding the truth", setting, 0.0, gain, 0.0, ROUNDING))
    return rows


def _play(mechanism: str, bids: np.ndarray, instances: Instances) -> tuple[np.ndarray, np.ndarray]:
    rules = AuctionRules(mechanism, slots=len(instances.exposure))
    cleared = clear(rules, *(jnp.asarray(x, jnp.float32) for x in (bids, instances.exposure, instances.reserve)))
    return np.asarray(cleared.winner), np.asarray(cleared.payment, np.float64)


def _utility(mechanism: str, bids: np.ndarray, instances: Instances, seat: int) -> np.ndarray:
    """``[M]`` float64 value of the exposure that advertiser ``seat`` gets, less its payment."""
    winner, payment = _play(mechanism, bids, instances)
    earned = instances.exposure.astype(np.float64) * instances.values[seat].astype(np.float64) - payment
    return np.asarray(np.where(winner == seat, earned, 0.0).sum(axis=0))


def _example_rows(seed: int) -> list[Row]:
    column = [np.asarray(part, np.float32)[:, None] for part in (EXAMPLE_VALUES, EXAMPLE_EXPOSURE)]
    example = Instances(column[0], column[1], np.zeros(1, np.float32))
    bids = balanced_bids(example.values, example.exposure, seed=seed).bids
    vcg, gsp, truthful = (
        payments(mechanism, offers, example)[:, 0]
        for mechanism, offers in (("vcg", example.values), ("gsp", bids), ("gsp", example.values))
    )
    name = "three-slot example"
    rows = [
        Row("VCG payment", f"{name}, slot {slot + 1}", analytic, float(vcg[slot]), 0.0, ROUNDING)
        for slot, analytic in enumerate(EXAMPLE_VCG)
    ]
    rows += [
        Row(
            "GSP, lowest envy-free equilibrium: bid",
            f"{name}, advertiser {seat + 2}",
            analytic,
            float(bids[seat + 1, 0]),
        )
        for seat, analytic in enumerate(EXAMPLE_BIDS)
    ]
    rows += [
        Row("VCG revenue", name, 7.2, float(vcg.sum()), 0.0, ROUNDING),
        Row("GSP, lowest envy-free equilibrium: revenue", name, 7.2, float(gsp.sum())),
        Row("GSP revenue, truthful bids", name, 13.2, float(truthful.sum()), 0.0, ROUNDING),
    ]
    others = [
        balanced_bids(example.values, example.exposure, start=start, seed=seed).bids for start in (0.05, 0.5, 1.0)
    ]
    apart = float(np.ptp([bids, *others], axis=0).max())
    # Advertiser 1 would rather have the third slot at 2 than the first at 8: .6 x (10 - 2) against 10 - 8.
    return [
        *rows,
        Row("GSP, lowest envy-free equilibrium: bids apart", f"{name}, 4 starts", 0.0, apart),
        Row("GSP, truthful bids: gain from another bid, at most", name, 2.8, _gain("gsp", example), 0.0, ROUNDING),
        Row("GSP, lowest envy-free equilibrium: gain from another bid", name, 0.0, _gain("gsp", example, bids)),
        Row("VCG: gain from not bidding the truth", name, 0.0, _gain("vcg", example), 0.0, ROUNDING),
    ]


def _gain(mechanism: str, instances: Instances, bids: np.ndarray | None = None) -> float:
    """The most that any advertiser gains by another bid in any instance; 0 where nobody does."""
    return max(float(largest_gain(mechanism, instances, bids=bids).max()), 0.0)


def _equivalence_rows(count: int, slots: int, seed: int) -> list[Row]:
    """Equilibria of random instances against VCG, and what it would bring to take another slot at its price."""
    instances = random_instances(count, slots, slots + 2, 0.0, seed)
    bids = balanced_bids(instances.values, instances.exposure, seed=seed).bids
    winner, paid = _play("gsp", bids, instances)
    vcg = payments("vcg", instances.values, instances)
    setting = f"{slots} slots, {slots + 2} advertisers, largest of {count}"
    apart = float(np.abs(paid.sum(axis=0) / vcg.sum(axis=0) - 1.0).max())
    few = Instances(*(part[..., :50] for part in instances))
    gain = _gain("gsp", few, bids[:, :50])
    return [
        Row("GSP, lowest envy-free equilibrium: gain from another bid", setting.replace(str(count), "50"), 0.0, gain),
        Row("GSP, lowest envy-free equilibrium: revenue over VCG's less 1, largest", setting, 0.0, apart),
        Row(
            "GSP, lowest envy-free equilibrium: largest envy",
            setting,
            0.0,
            _envy(instances, winner, paid),
            0.0,
            ROUNDING,
        ),
    ]


def _envy(instances: Instances, winner: np.ndarray, paid: np.ndarray) -> float:
    """The most that any advertiser would gain by having another's slot at that slot's price."""
    offered = instances.exposure[:, None] * instances.values[None] - paid[:, None]  # [K, N, M]
    held = winner[:, None] == np.arange(len(instances.values))[None, :, None]
    own = np.where(held, offered, 0.0).sum(axis=0)
    return float(np.maximum(offered.max(axis=0) - own, 0.0).max())
