"""Are a reasoning bidder's forecasts calibrated? Of what it gives a chance of 30 %, 30 % should come true.

A forecast is the chance of each word of a slot, at each tick of each evaluation day, given the words thought before it. It
is compared with what came true (`adarena.agents.offline.thoughts.outcome`) and with climatology, the base rates of the
log's days at the same tick. Scores are proper: the Brier score (Brier, 1950), summed over words, and the log score in nats;
skill is 1 - score / score of climatology. Days, not ticks, are resampled: a day's ticks end alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from adarena.agents.offline.data import Data
from adarena.agents.offline.thoughts import SIZES, SLOTS, Reader, Slot, annotate
from adarena.agents.reasoner_policy import ReasoningPolicy
from adarena.envs.autobid import AutoBid
from adarena.experiments.protocol import Cases, named
from adarena.experiments.reasoning import played_all
from adarena.experiments.sharding import in_chunks
from adarena.experiments.statistics import Bootstrap, relative_difference, stratified_bootstrap

BINS = 10
"""Bins of the chance, evenly wide."""

_FORECASTS = {place: slot for place, slot in enumerate(SLOTS) if slot.kind == "forecast"}
_STARTS = tuple(sum(SIZES[:place]) for place in range(len(SIZES)))
_OPTIONS = Bootstrap(resample="markets")  # every day is a market of its own
_LEAST = 1e-6  # chance below which the log score does not look


class Calibration(NamedTuple):
    """Two tables.

    Attributes:
        reliability: One row a slot and bin that is not empty: ``slot``, ``low`` and ``high`` (the bin), ``chance`` (the mean
            in it), ``count`` (days x ticks x words), ``frequency`` (share that came true) with ``frequency_low`` and
            ``frequency_high``, 95 %; NaN where too few days reach the bin.
        scores: One row a slot and score (``"brier"``, ``"log"``): ``forecast`` and ``climatology`` (lower is better),
            ``skill`` with ``skill_low`` and ``skill_high``, 95 %.
    """

    reliability: pl.DataFrame
    scores: pl.DataFrame


def reliability(slot: str, chances: np.ndarray, came: np.ndarray, *, bins: int = BINS) -> pl.DataFrame:
    """How often what was given a chance came true.

    Args:
        slot: How the table calls the forecast.
        chances: ``[C, T, W]`` chances of the words, of ``C`` days that are independent of each other.
        came: ``[C, T]`` number of the word that came true.
        bins: Number of bins.

    Returns:
        As in `Calibration`.

    Raises:
        ValueError: Shapes do not fit, chances are none, or ``came`` names no word.
    """
    chances, came = _checked(chances, came)
    true = np.eye(chances.shape[-1])[came]
    place = np.minimum((chances * bins).astype(int), bins - 1)
    rows = []
    for number in range(bins):
        inside = place == number
        if not inside.any():
            continue
        hits = np.stack([(true * inside).sum((1, 2)), inside.sum((1, 2))], -1)  # [C, 2]
        found = stratified_bootstrap(hits[None], _ratio, options=_OPTIONS)
        row = {"slot": slot, "low": number / bins, "high": (number + 1) / bins, "chance": chances[inside].mean()}
        rows.append(row | {"count": int(inside.sum())} | named("frequency", found))
    return pl.DataFrame(rows)


def _ratio(hits: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """Share that came true of ``[resamples, 1, days, 2]``; NaN where there is nothing."""
    total = hits.sum((1, 2))
    return np.where(total[:, 1] > 0.0, total[:, 0], np.nan) / np.maximum(total[:, 1], 1.0)


def scores(slot: str, chances: np.ndarray, came: np.ndarray, base: np.ndarray) -> pl.DataFrame:
    """Brier and log score, against climatology.

    Args:
        slot: As in `reliability`.
        chances: As there.
        came: As there.
        base: ``[T, W]`` base rates of the words at each tick.

    Returns:
        As in `Calibration`.

    Raises:
        ValueError: As in `reliability`.
    """
    chances, came = _checked(chances, came)
    base, _ = _checked(np.broadcast_to(np.asarray(base, np.float64), chances.shape), came)
    rows = []
    for name, score in (("brier", _brier), ("log", _log)):
        ours, theirs = (score(said, came).mean(1) for said in (chances, base))
        gap = relative_difference(ours, theirs, np.mean, options=_OPTIONS)
        row = {"slot": slot, "score": name, "forecast": ours.mean(), "climatology": theirs.mean()}
        skill = {"skill": -gap.estimate, "skill_low": -gap.high, "skill_high": -gap.low}
        rows.append(row | skill | {"days": len(came), "ticks": came.shape[1]})
    return pl.DataFrame(rows)


def _brier(chances: np.ndarray, came: np.ndarray) -> np.ndarray:
    return np.square(chances - np.eye(chances.shape[-1])[came]).sum(-1)


def _log(chances: np.ndarray, came: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(np.take_along_axis(chances, came[..., None], -1)[..., 0], _LEAST))


def _checked(chances: np.ndarray, came: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chances, came = np.asarray(chances, np.float64), np.asarray(came)
    if chances.ndim != 3 or came.shape != chances.shape[:2] or not came.size:
        raise ValueError(f"chances must be [C, T, W] and came [C, T], got {chances.shape} and {came.shape}")
    if (chances < 0.0).any() or not np.allclose(chances.sum(-1), 1.0, atol=1e-3):
        raise ValueError("chances must be at least 0 and add up to 1 over words, got others")
    if came.min() < 0 or came.max() >= chances.shape[-1]:
        raise ValueError(f"came must name words 0 to {chances.shape[-1] - 1}, got {came.min()} to {came.max()}")
    return chances, came


def climatology(reader: Reader, data: Data, chunk: int = 256) -> dict[str, np.ndarray]:
    """Base rates of a log: each slot of forecast's ``[T, words]``, float64, one day of each word added.

    Args:
        reader: Reads the observation.
        data: The log.
        chunk: Days that are read at a time.
    """
    time = jnp.arange(data.steps)
    read = jax.jit(lambda data, days: annotate(reader, data, days, jnp.broadcast_to(time, (chunk, data.steps))))
    starts = range(0, data.count, chunk)
    days = [np.asarray(read(data, (start + jnp.arange(chunk)) % data.count))[: data.count - start] for start in starts]
    chain = np.concatenate(days)  # [E, T, L]
    found = {}
    for place, slot in _FORECASTS.items():
        counts = 1.0 + np.eye(len(slot.words))[chain[..., place]].sum(0)
        found[slot.name] = counts / counts.sum(-1, keepdims=True)
    return found


def calibration(
    env: AutoBid,
    params: Any,
    policies: ReasoningPolicy,
    reader: Reader,
    cases: Cases,
    base: dict[str, np.ndarray],
    *,
    chunk: int = 64,
) -> Calibration:
    """Plays the cases and holds the forecasts against what came true.

    Args:
        env: The market.
        params: Its parameters.
        policies: The bidder, stacked over ``S`` training seeds.
        reader: Reads the observation.
        cases: Evaluation cases; each is a day, which all seeds play.
        base: As `climatology` gives them.
        chunk: Days at a time.
    """
    fields = {name: jnp.asarray(values) for name, values in cases.fields.items()}

    def run(at: np.ndarray) -> Any:
        chances, truth = played_all(
            env, params, policies, reader, cases.keys[at], {k: v[at] for k, v in fields.items()}
        )
        return {}, {"chances": chances, "truth": truth}, False

    _, series = in_chunks(run, len(cases.keys), chunk, "forecasts", 1)
    tables = [_of_slot(place, slot, series, base[slot.name]) for place, slot in _FORECASTS.items()]
    return Calibration(*(pl.concat(parts) for parts in zip(*tables, strict=True)))


def _of_slot(
    place: int, slot: Slot, series: dict[str, np.ndarray], base: np.ndarray
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both tables of one slot; the seeds of a case are drawn together, as ticks of one day."""
    words = slice(_STARTS[place], _STARTS[place] + SIZES[place])
    chances, came = series["chances"][..., words], series["truth"][..., place]  # [C, S, T, W], [C, S, T]
    days, seeds = chances.shape[:2]
    chances, came = chances.reshape(days, -1, len(slot.words)), came.reshape(days, -1)
    return reliability(slot.name, chances, came), scores(slot.name, chances, came, np.tile(base, (seeds, 1)))
