"""A whole market's day: spend, wins, price and multiplier of every advertiser in every tick, not of the seat alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import polars as pl

from adarena.envs.core import Key
from adarena.envs.rivals import KINDS

SERIES = ("spend", "value", "exposure", "multipliers")
"""Entries of ``info``, ``[N]`` a tick, that a rollout must record for `market_table`."""

SEAT = "seat"
"""The ``kind`` of the advertiser whose multiplier the policy sets."""


def market_table(
    policy: str, env: Any, params: Any, key: Key, case: Mapping[str, Any], series: Mapping[str, np.ndarray]
) -> pl.DataFrame:
    """One row a tick and advertiser of one day of `adarena.envs.autobid.AutoBid`.

    Columns: ``policy``; ``tick``, ``advertiser`` (int32); ``kind`` (`SEAT`, or the rival's control law); ``spend``
    (currency units), ``value``, ``exposure`` (wins, impressions shown) of the tick; ``multiplier`` of its bid; ``budget``
    of the day (currency units); float32.

    Args:
        policy: Who plays the seat.
        env: The environment.
        params: Its parameters.
        key: Reset key of the day.
        case: Fields of ``params`` that the case replaces.
        series: `SERIES` and ``info.seat`` of the day's rollout, ``[T, N]`` and ``[T]``.
    """
    _, start = jax.jit(env.reset)(key, dataclasses.replace(params, **case))
    ticks, count = series["spend"].shape
    seat = int(series["info.seat"][0])
    kinds = [SEAT if i == seat else KINDS[kind] for i, kind in enumerate(np.asarray(start.kind).tolist())]
    budget = np.asarray(start.budget, np.float32)
    flat = {name: np.asarray(series[name], np.float32).reshape(-1) for name in SERIES}
    return pl.DataFrame(
        {
            "policy": [policy] * (ticks * count),
            "tick": np.repeat(np.arange(ticks, dtype=np.int32), count),
            "advertiser": np.tile(np.arange(count, dtype=np.int32), ticks),
            "kind": kinds * ticks,
            "spend": flat["spend"],
            "value": flat["value"],
            "exposure": flat["exposure"],
            "multiplier": flat["multipliers"],
            "budget": np.tile(budget, ticks),
        }
    )
