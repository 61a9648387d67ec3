"""Checks of `adarena.envs.lifecycle`: which sizes, names and numbers a campaign may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from adarena.envs.lifecycle_setup import NUMBERS
from adarena.envs.market.auction import MECHANISMS
from adarena.envs.market.clearing import Terms
from adarena.envs.market.traffic import Bank

if TYPE_CHECKING:
    from adarena.envs.lifecycle import Lifecycle

TERMS = ("reserve", "exposure", "cascade", "outside_price")
"""Numeric fields that live in ``Params.terms`` and may be given to ``make`` by name."""

_LARGEST_BANK = 1 << 28
_POSITIVE, _SHARE, _NOT_NEGATIVE, _ANY = (1e-12, math.inf), (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
_SPREAD = (0.0, 3.0)
_DAYS = (0.125, 366.0)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rival_budget", "rival_target", "target_low", "target_high", "launch_conversions"), _POSITIVE),
    **dict.fromkeys(("failed_budget", "stable_budget", "breakout_budget", "pool", "daily_impressions"), _POSITIVE),
    **dict.fromkeys(("frequency_half_life", "creative_half_life", "memory_half_life"), _POSITIVE),
    **dict.fromkeys(("understanding_exposures", "required_conversions", "breakout_growth"), _POSITIVE),
    **dict.fromkeys(("cpa_tolerance", "stable_tolerance", "pacing_high"), _POSITIVE),
    **dict.fromkeys(("understanding_days", "window_days", "stable_days", "breakout_days"), _DAYS),
    **dict.fromkeys(("budget_noise", "ctr_spread", "cvr_spread", "creative_spread", "lookalike_spread"), _SPREAD),
    **dict.fromkeys(("traffic_noise", "rival_start_noise", "rival_pattern", "rival_drift"), _SPREAD),
    **dict.fromkeys(("optimism", "lookalike", "fatigue_rate", "reserve", "outside_price", "pacing_low"), _NOT_NEGATIVE),
    **dict.fromkeys(("max_exploration", "content_quality", "fatigue_floor", "exposure", "audience"), _SHARE),
    **dict.fromkeys(("delay_distribution", "mean_ctr", "mean_cvr"), _SHARE),
    "mean_ctr": (1e-6, 0.5),
    "mean_cvr": (1e-6, 0.5),
    "match": _NOT_NEGATIVE,
    "min_width": (1e-3, 1.0),
    "mix_sharpness": (1e-3, 100.0),
    "max_multiplier": (1.0 + 1e-6, 1e3),
    "rival_persistence": (0.0, 0.999),
}
_ORDERED = (("target_low", "target_high"), ("pacing_low", "pacing_high"))
_SIZES = (
    ("rivals", 1, 1023),
    ("creatives", 1, 64),
    ("days", 2, 366),
    ("ticks_per_day", 2, 96),
    ("impressions", 1, 1 << 16),
    ("slots", 1, 64),
    ("rings", 1, 256),
    ("blocks", 1, 1 << 16),
    ("arrivals", 1, 1 << 16),
    ("bank_seed", 0, (1 << 31) - 1),
)


def check_sizes(env: Lifecycle) -> None:
    """Raises ValueError for a size or name that no campaign has."""
    for field, low, high in _SIZES:
        value = getattr(env, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, got {value!r}")
    numbers = env.blocks * (env.rivals + 1) * env.impressions
    if numbers > _LARGEST_BANK:
        raise ValueError(
            f"blocks x (rivals + 1) x impressions must be at most {_LARGEST_BANK} (1 GiB for each array of the bank), "
            f"got {env.blocks} x {env.rivals + 1} x {env.impressions} = {numbers}"
        )
    if env.mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {', '.join(MECHANISMS)}, got {env.mechanism!r}")
    for field in ("delay", "record"):
        if not isinstance(getattr(env, field), bool):
            raise ValueError(f"{field} must be True or False, got {getattr(env, field)!r}")


def validate_changes(env: Lifecycle, changes: dict[str, Any]) -> dict[str, Any]:
    """Numeric changes as arrays of the right dtype; the platform's own go into ``terms``.

    Raises:
        ValueError: A value is not a number, not finite, of the wrong shape, or out of range; or the lower end of a range
            lies above the upper one, defaults included.
    """
    scene = (env.blocks, env.impressions)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("match", "audience"), scene)
    shapes |= dict.fromkeys(("rival_budget", "rival_target"), (env.rivals,))
    shapes |= {"exposure": (env.slots,), "delay_distribution": (env.ticks,)}
    checked = {name: _checked(env, name, value, shapes.get(name, ())) for name, value in changes.items()}
    for low, high in _ORDERED:
        if not {low, high} & set(changes):
            continue
        ends = [float(checked.get(name, NUMBERS[name])) for name in (low, high)]
        if ends[0] > ends[1]:
            raise ValueError(f"{low} must be at most {high}, got {ends[0]:g} and {ends[1]:g}")
    return checked


def _checked(env: Lifecycle, name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if name in ("bank", "terms"):
        wanted = Terms if name == "terms" else Bank
        if not isinstance(value, wanted):
            raise ValueError(f"{name} must be a {wanted.__module__}.{wanted.__name__}, got {value!r}")
        whole = (env.blocks, env.rivals + 1, env.impressions)
        if isinstance(value, Bank) and value.pctr.shape != whole:
            raise ValueError(f"bank must hold arrays of shape {whole}, got pctr of shape {value.pctr.shape}")
        return value
    if name == "cascade":
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {value!r}")
        return jnp.bool_(value)
    what = f"an array of shape {shape}" if shape else "a number"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        raise ValueError(f"{name} must be {what}, got {value!r}") from None
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be {what}, got {value!r} (shape {array.shape})")
    array = array.astype(np.float64)
    low, high = _RANGES.get(name, _ANY)
    if not np.isfinite(array).all() or (array < low).any() or (array > high).any():
        raise ValueError(f"{name} must be finite and lie in [{low:g}, {high:g}], got {value!r}")
    if name.endswith("_days"):
        _check_days(env, name, float(array))
    if name == "delay_distribution" and array.sum() > 1.0 + 1e-6:
        raise ValueError(f"{name} must sum to at most 1 over ticks, got {value!r} (sum {array.sum():g})")
    if name == "exposure" and (np.diff(array) > 0).any():
        raise ValueError(f"exposure must not rise from one slot to the next, got {value!r}")
    return jnp.asarray(array, jnp.float32)


def _check_days(env: Lifecycle, name: str, days: float) -> None:
    """Tests of whole days need whole days; and nothing can last longer than the campaign."""
    if name in ("stable_days", "breakout_days") and days != round(days):
        raise ValueError(f"{name} must be a whole number of days, got {days:g}")
    if days > env.days:
        raise ValueError(f"{name} must be at most {env.days} (days of the campaign), got {days:g}")
