"""A reasoning bidder's day as a table, a row a tick, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from adarena.agents.offline.thoughts import LENGTH, SIZES, SLOTS
from adarena.envs.autobid import AutoBid
from adarena.experiments.reasoning import Day, Held, end_hour

FORECASTS = tuple(slot for slot in SLOTS if slot.kind == "forecast")
"""The slots of forecast, in the order of `adarena.agents.offline.thoughts.outcome`."""

LEARNED = "learned"
"""How sources begin where the learned Think thought."""


def column(kind: str, slot: str) -> str:
    """Name of a slot's column: ``kind`` is ``"thought"``, ``"chance"``, ``"true"`` or ``"held"``."""
    return f"{kind}_{slot.replace(' ', '_')}"


def units(env: AutoBid) -> dict[str, str]:
    """Unit, and meaning where the name does not say it, of every column of `table_of`."""
    value = value_unit(env)
    seen = {f"seen_{entry.name}": f"{entry.unit}: {entry.meaning}" for entry in env.OBSERVATION}
    slots: dict[str, str] = {}
    for slot in SLOTS:
        slots[column("thought", slot.name)] = f"word: {slot.kind}, {slot.meaning}"
        slots[column("chance", slot.name)] = (
            "probability of that word when it was thought, given the words before it; null where a language model thought"
        )
        slots[column("true", slot.name)] = "word that was true, or came true"
    for slot in FORECASTS:
        slots[column("held", slot.name)] = "word that would have come true, had the last multiplier been held"
    return {
        **{"tick": "1", "hour": "hour of the day at which the tick begins", "time": "HH:MM"},
        "source": "who thought: learned (and why, where a language model was to), language model, or its cache",
        **seen,
        **slots,
        **{"action": "1, in [-1, 1]", "multiplier": "1", "spend": "currency units", "value": value},
        **{
            "exposure": "ads",
            "score": f"{value}: score of the day so far, tick included",
            "spend_so_far": "currency units, tick included",
        },
        **{"value_so_far": f"{value}, tick included", "budget_left": "share of the budget, after the tick"},
        "cost_over_target": "cost per value over target so far, tick included; null while nothing is won or without target",
        **{"budget": "currency units a day", "target": f"currency units per unit of value ({value}); null for none"},
        "gone_hour": "hour of the day at which the budget was spent; null where it lasted",
        "held_multiplier": "1: the last tick's, held from this tick to the end of the day",
        "held_gone_hour": "hour of the day at which the budget would then have been spent; null where it would have lasted",
        "held_budget_left": "share of the budget that would then have been left at the end",
        "held_cost_over_target": "cost per value over target that the day would then have ended with",
        **{"held_value": f"{value} that the day would then have ended with", "held_score": f"{value}: its score"},
    }


def value_unit(env: AutoBid) -> str:
    """What value is counted in."""
    return "currency units of revenue" if env.objective == "roas" else "conversions"


def table_of(env: AutoBid, day: Day, held: Held, sources: Sequence[str] | None = None) -> pl.DataFrame:
    """One row a tick; columns and their units as in `units`.

    Args:
        env: The market.
        day: One day, as `adarena.experiments.reasoning.played` gives it.
        held: Its held branches.
        sources: Who thought at each tick, as `adarena.experiments.language_day.played` says; the learned Think if not given.
    """
    ticks = env.ticks
    sources = [LEARNED] * ticks if sources is None else list(sources)
    hour = np.arange(ticks) * 24.0 / ticks
    obs = np.asarray(day.obs[:-1])
    data: dict[str, Any] = {"tick": np.arange(ticks), "hour": hour, "time": [clock(x) for x in hour]}
    data["source"] = sources
    data |= {f"seen_{entry.name}": obs[:, place] for place, entry in enumerate(env.OBSERVATION)}
    data |= (
        _thoughts(day, held, [source.startswith(LEARNED) for source in sources])
        | _account(day)
        | _branches(held, bool(np.isfinite(day.metrics["target"])))
    )
    data["gone_hour"] = np.full(ticks, end_hour(1.0 - np.append(0.0, data["spend_so_far"]) / data["budget"][0]))
    return pl.DataFrame(data).select(*units(env)).fill_nan(None)


def clock(hour: float) -> str:
    """An hour of the day as HH:MM."""
    whole, minute = divmod(round(60.0 * hour), 60)
    return f"{whole:02d}:{minute:02d}"


def _thoughts(day: Day, held: Held, learned: Sequence[bool]) -> dict[str, Any]:
    said, true, might = (np.asarray(x) for x in (day.done.chain, day.truth, held.outcome))
    starts = np.concatenate([[0], np.cumsum(SIZES)])[:LENGTH]
    chances = np.take_along_axis(np.asarray(day.done.chances), said + starts, -1)
    chances = np.where(np.asarray(learned)[:, None], chances, np.nan)  # a language model gives none
    data: dict[str, Any] = {}
    for place, slot in enumerate(SLOTS):
        data[column("thought", slot.name)] = [slot.words[word] for word in said[:, place]]
        data[column("chance", slot.name)] = chances[:, place]
        data[column("true", slot.name)] = [slot.words[word] for word in true[:, place]]
    for place, slot in enumerate(FORECASTS):
        data[column("held", slot.name)] = [slot.words[word] for word in might[:, place]]
    return data


def _account(day: Day) -> dict[str, Any]:
    names = ("action", "multiplier", "spend", "value", "exposure", "score")
    data: dict[str, Any] = {name: np.asarray(getattr(day.done, name), np.float64) for name in names}
    spent, won = np.cumsum(data["spend"]), np.cumsum(data["value"])
    budget, target = float(day.metrics["budget"]), float(day.metrics["target"])
    known = (won > 0.0) & np.isfinite(target)
    over = np.where(known, spent / np.where(known, target * won, 1.0), np.nan)
    each = np.ones(len(spent))
    return data | {
        "spend_so_far": spent,
        "value_so_far": won,
        "budget_left": 1.0 - spent / budget,
        "cost_over_target": over,
        "budget": budget * each,
        "target": (target if np.isfinite(target) else np.nan) * each,
    }


def _branches(held: Held, has_target: bool) -> dict[str, Any]:
    ended = {name: np.asarray(x, np.float64) for name, x in held.metrics.items()}
    known = (ended["value"] > 0.0) & has_target
    return {
        "held_multiplier": np.asarray(held.multiplier, np.float64),
        "held_gone_hour": end_hour(held.left),
        "held_budget_left": np.asarray(held.left, np.float64)[:, -1],
        "held_cost_over_target": np.where(known, ended["cost_over_target"], np.nan),
        "held_value": ended["value"],
        "held_score": ended["score"],
    }
