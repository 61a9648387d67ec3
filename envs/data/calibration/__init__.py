"""Published facts on real auctions, and calibrations fitted to logs: one small table that a market can load."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np

HOURS: Final = 24
_TOLERANCE: Final = 1e-6


class CalibrationError(ValueError):
    """A calibration, or the file that holds one, is not valid."""


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibrated market is drawn from.

    Attributes:
        daily_share: Share of the day's impressions in each of equal parts of the day (48 half hours by default), sums
            to 1.
        hourly_ctr: CTR of each hour of the day relative to the day's mean; 24 factors with mean 1.
        visibility_names: Names of slot visibilities.
        visibility_share: Share of impressions of each, sums to 1.
        visibility_ctr: Clicks per impression of each.
        price_probabilities: Probabilities, from 0 to 1, strictly increasing.
        price_quantiles: Market prices of won auctions at them, CNY per impression, not decreasing.
        winnable: Probability that an auction can be won at the bids of the log; a log of won auctions cannot show it.
        mean_ctr: Clicks per impression.
        mean_cvr: Conversions per click.
        sources: Where each field comes from, by name of the field.

    Raises:
        CalibrationError: A field is not valid; the message names it, its value and what is allowed.
    """

    daily_share: tuple[float, ...]
    hourly_ctr: tuple[float, ...]
    visibility_names: tuple[str, ...]
    visibility_share: tuple[float, ...]
    visibility_ctr: tuple[float, ...]
    price_probabilities: tuple[float, ...]
    price_quantiles: tuple[float, ...]
    winnable: float
    mean_ctr: float
    mean_cvr: float
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        _validate(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and dataclasses.asdict(self) == dataclasses.asdict(other)

    def __hash__(self) -> int:
        return hash((self.daily_share, self.hourly_ctr, self.price_quantiles, self.visibility_ctr, self.winnable))

    @classmethod
    def default(cls) -> Calibration:
        """The published facts that ship with the package (``default.json``, whose ``sources`` name each origin)."""
        text = importlib.resources.files(__name__).joinpath("default.json").read_text(encoding="utf-8")
        return cls._from_text(text, "the packaged default.json")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads a calibration from JSON.

        Raises:
            CalibrationError: No such file, no JSON, or a field that is missing, unknown or not valid.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{path}: cannot be read as a calibration ({error})") from error
        return cls._from_text(text, str(path))

    @classmethod
    def _from_text(cls, text: str, where: str) -> Calibration:
        try:
            loaded = json.loads(text)
        except json.JSONDecodeError as error:
            raise CalibrationError(f"{where}: not JSON, line {error.lineno}: {error.msg}") from error
        if not isinstance(loaded, dict):
            raise CalibrationError(
                f"{where}: expected a JSON object with the fields of a calibration, got {type(loaded).__name__}"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in loaded:
                raise CalibrationError(f"{where}: field {name!r} is missing; required are {', '.join(names)}")
        for name in loaded:
            if name not in names:
                raise CalibrationError(f"{where}: field {name!r} is unknown; allowed are {', '.join(names)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in loaded.items()
        }
        try:
            return cls(**values)
        except CalibrationError as error:
            raise CalibrationError(f"{where}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Writes JSON that `load` reads back bit by bit."""
        Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    def price_at(self, u: Any) -> Any:
        """The market price at probability ``u``: a piecewise-linear inverse distribution function.

        Args:
            u: Probabilities in [0, 1], any shape, NumPy or JAX (also under ``jax.jit``).

        Returns:
            Prices of that shape, CNY per impression: a JAX array for a JAX array, otherwise float64 NumPy.
        """
        if isinstance(u, jax.Array):
            return jnp.interp(u, jnp.asarray(self.price_probabilities), jnp.asarray(self.price_quantiles))
        return np.interp(u, self.price_probabilities, self.price_quantiles)

    @property
    def mean_price(self) -> float:
        """Mean of the price distribution, CNY per impression."""
        return float(np.trapezoid(self.price_quantiles, self.price_probabilities))

    def daily(self, ticks: int) -> np.ndarray:
        """Share of the day's impressions in each tick, ``[ticks]`` float32; sums to 1."""
        return (_resampled(self.daily_share, ticks) / math.fsum(self.daily_share)).astype(np.float32)

    def ctr_factor(self, ticks: int) -> np.ndarray:
        """CTR of each tick relative to the day's mean over the clock, ``[ticks]`` float32 with mean 1."""
        return (_resampled(self.hourly_ctr, ticks) * (ticks / HOURS)).astype(np.float32)


def _resampled(amounts: Sequence[float], ticks: int) -> np.ndarray:
    """Amounts of equal parts of a day, spread evenly within each, summed over ``ticks`` equal parts. Float64."""
    if isinstance(ticks, bool) or not isinstance(ticks, int | np.integer) or ticks < 1:
        raise ValueError(f"ticks must be a whole number from 1 up, got {ticks!r}")
    total = np.concatenate([[0.0], np.cumsum(amounts)])
    edges = np.linspace(0.0, len(amounts), int(ticks) + 1)
    return np.diff(np.interp(edges, np.arange(len(amounts) + 1), total))


def _validate(calibration: Calibration) -> None:
    share = _numbers(calibration, "daily_share", 0.0, 1.0)
    _sums_to_one("daily_share", share)
    hourly = _numbers(calibration, "hourly_ctr", 0.0, float(HOURS))
    if len(hourly) != HOURS:
        raise CalibrationError(f"hourly_ctr must have {HOURS} factors, one an hour, got {len(hourly)}")
    if abs(math.fsum(hourly) / HOURS - 1.0) > _TOLERANCE:
        raise CalibrationError(f"hourly_ctr must have mean 1, got {math.fsum(hourly) / HOURS:.6g}")
    _validate_visibility(calibration)
    _validate_prices(calibration)
    for name in ("winnable", "mean_ctr", "mean_cvr"):
        _number(name, getattr(calibration, name), 0.0, 1.0)
        if getattr(calibration, name) == 0.0 and name != "mean_cvr":
            raise CalibrationError(f"{name} must lie above 0 and up to 1, got 0")
    sources = calibration.sources
    if not isinstance(sources, Mapping) or not all(isinstance(item, str) for pair in sources.items() for item in pair):
        raise CalibrationError(f"sources must map names of fields to texts, got {sources!r:.60}")
    fields = {field.name for field in dataclasses.fields(calibration)} - {"sources"}
    unknown = sorted(set(sources) - fields)
    if unknown:
        raise CalibrationError(
            f"sources names {unknown[0]!r}, which is no field; fields are {', '.join(sorted(fields))}"
        )


def _validate_visibility(calibration: Calibration) -> None:
    names = calibration.visibility_names
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise CalibrationError(f"visibility_names must be a list of names, got {names!r}")
    if len(set(names)) != len(names):
        raise CalibrationError(f"visibility_names must not repeat a name, got {names!r}")
    for field in ("visibility_share", "visibility_ctr"):
        if len(_numbers(calibration, field, 0.0, 1.0)) != len(names):
            count = len(getattr(calibration, field))
            raise CalibrationError(
                f"{field} must have one number for each of the {len(names)} visibility_names, got {count}"
            )
    _sums_to_one("visibility_share", calibration.visibility_share)


def _validate_prices(calibration: Calibration) -> None:
    probabilities = _numbers(calibration, "price_probabilities", 0.0, 1.0)
    quantiles = _numbers(calibration, "price_quantiles", 0.0, 10.0)
    if len(probabilities) < 2 or probabilities[0] != 0.0 or probabilities[-1] != 1.0:
        raise CalibrationError(f"price_probabilities must run from 0 to 1, got {_ends(probabilities)}")
    if np.any(np.diff(probabilities) <= 0):
        at = int(np.argmax(np.diff(probabilities) <= 0)) + 1
        raise CalibrationError(f"price_probabilities must increase strictly, got {probabilities[at]!r} in place {at}")
    if len(quantiles) != len(probabilities):
        raise CalibrationError(
            f"price_quantiles must have one price for each of the {len(probabilities)} price_probabilities, "
            f"got {len(quantiles)}"
        )
    if np.any(np.diff(quantiles) < 0):
        at = int(np.argmax(np.diff(quantiles) < 0)) + 1
        raise CalibrationError(f"price_quantiles must not decrease, got {quantiles[at]!r} in place {at}")
    if quantiles[-1] <= 0.0:
        raise CalibrationError("price_quantiles must end above 0 CNY per impression")


def _numbers(calibration: Calibration, name: str, low: float, high: float) -> tuple[float, ...]:
    values = getattr(calibration, name)
    if not isinstance(values, tuple) or not values:
        raise CalibrationError(f"{name} must be a list of numbers, got {values!r:.60}")
    for place, value in enumerate(values):
        _number(f"{name}[{place}]", value, low, high)
    return cast("tuple[float, ...]", values)


def _number(name: str, value: object, low: float, high: float) -> None:
    allowed = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not allowed:
        raise CalibrationError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def _sums_to_one(name: str, values: Sequence[float]) -> None:
    if abs(math.fsum(values) - 1.0) > _TOLERANCE:
        raise CalibrationError(f"{name} must sum to 1, got {math.fsum(values):.6g}")


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]!r} to {values[-1]!r}" if values else "nothing"


def auctionnet_facts() -> dict[str, Any]:
    """AuctionNet's published numbers: ``daily`` (48 shares), ``cpa`` and ``budget`` (48 advertisers, currency units)."""
    text = importlib.resources.files(__name__).joinpath("auctionnet.json").read_text(encoding="utf-8")
    return cast(dict[str, Any], json.loads(text))
