"""Checks of `adarena.envs.coldstart`: which sizes, names and numbers a market may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from adarena.envs.coldstart_setup import CONVERSIONS
from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.boost import check_boosted
from adarena.envs.market.clearing import Terms
from adarena.envs.market.posterior import Owners
from adarena.envs.market.traffic import Bank

if TYPE_CHECKING:
    from adarena.envs.coldstart import ColdStart

TERMS = ("reserve", "exposure", "cascade")
"""Numeric fields that live in ``Params.terms`` and may be given to ``make`` by name."""

_LARGEST_BANK = 1 << 30
_POSITIVE, _SHARE, _NOT_NEGATIVE, _ANY = (1e-12, math.inf), (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
_SD = (0.0, 3.0)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("base_target", "daily_impressions", "history_trials", "revenue_rate", "cpa_tolerance"), _POSITIVE),
    **dict.fromkeys(("mature_conversions", "new_budget"), _POSITIVE),
    **dict.fromkeys(
        ("max_share", "content_quality", "evidence", "user_share", "ad_share", "exposure", "delay_distribution"), _SHARE
    ),
    **dict.fromkeys(("exploration_budget", "max_bonus", "reserve"), _NOT_NEGATIVE),
    **dict.fromkeys(
        ("category_sd", "advertiser_sd", "ctr_own_sd", "cvr_own_sd", "mature_bid_noise", "budget_noise"), _SD
    ),
    **dict.fromkeys(("target_noise", "traffic_noise"), _SD),
    **dict.fromkeys(("mature_bid_mean", "mature_lift"), _ANY),
    **dict.fromkeys(("ctr_level", "cvr_level"), (1e-9, 0.95)),
    "required_conversions": (1.0, float(CONVERSIONS)),
    "window_days": (1e-3, math.inf),
    "launch_days": _NOT_NEGATIVE,
    "max_multiplier": (1.0, 1e3),
}


def check_static(env: ColdStart) -> None:
    """Raises ValueError for a size, share or name that no market has."""
    for field, low, high in (
        ("mature", 1, 4096),
        ("launched", 1, 4096),
        ("days", 1, 365),
        ("ticks_per_day", 1, 1440),
        ("impressions", 1, 1 << 16),
        ("categories", 1, 4096),
        ("advertisers", 1, 4096),
        ("blocks", 1, 1 << 20),
        ("bank_seed", 0, (1 << 31) - 1),
    ):
        value = getattr(env, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, got {value!r}")
    if env.categories > env.advertisers:
        raise ValueError(f"categories must be at most advertisers ({env.advertisers}), got {env.categories}")
    size = env.blocks * (env.mature + env.launched) * env.impressions
    if size > _LARGEST_BANK:
        raise ValueError(f"blocks x ads x impressions must be at most {_LARGEST_BANK} (4 GiB), got {size}")
    check_boosted(AuctionRules(env.mechanism, env.slots))
    if env.reward not in ("success", "progress"):
        raise ValueError(f"reward must be one of success, progress, got {env.reward!r}")
    for field, most in (("correlation", 1.0), ("category_correlation", 1.0), ("spread", 3.0)):
        value = getattr(env, field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= most:
            raise ValueError(f"{field} must lie in [0, {most:g}], got {value!r}")
    if env.correlation + env.category_correlation > 1.0:
        total = env.correlation + env.category_correlation
        raise ValueError(f"correlation + category_correlation must be at most 1, got {total:g}")
    for field in ("delay", "twin", "record", "truth"):
        if not isinstance(getattr(env, field), bool):
            raise ValueError(f"{field} must be True or False, got {getattr(env, field)!r}")


def validate_changes(env: ColdStart, changes: dict[str, Any]) -> dict[str, Any]:
    """Numeric changes as arrays of the right dtype; the platform's own go into ``terms``.

    Raises:
        ValueError: A value is not a number, not finite, of the wrong shape, or out of range; or windows would not close by
            the end of the episode.
    """
    from adarena.envs.coldstart_setup import _NUMBERS

    checked = {name: _checked(env, name, value) for name, value in changes.items()}
    window, launches = (float(checked.get(name, _NUMBERS[name])) for name in ("window_days", "launch_days"))
    if window + launches > env.days:
        field = "window_days" if "window_days" in changes else "launch_days" if "launch_days" in changes else "days"
        raise ValueError(
            f"{field} must leave every window time to close: launch_days + window_days at most days = {env.days}, "
            f"got {launches:g} + {window:g}"
        )
    return checked


def _checked(env: ColdStart, name: str, value: Any) -> Any:
    kinds = {"bank": Bank, "terms": Terms, "owners": Owners}
    if name in kinds:
        if not isinstance(value, kinds[name]):
            raise ValueError(f"{name} must be a {kinds[name].__module__}.{kinds[name].__name__}, got {value!r}")
        _check_sizes_of(env, name, value)
        return value
    if name == "cascade":
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"cascade must be True or False, got {value!r}")
        return jnp.bool_(value)
    ads = env.mature + env.launched
    shape = {"base_target": (ads,), "exposure": (env.slots,), "delay_distribution": (env.ticks,)}.get(name, ())
    if name == "treated":
        return _mask(env, value)
    what = f"an array of shape {shape}" if shape else "a number"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        raise ValueError(f"{name} must be {what}, got {value!r}") from None
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be {what}, got {value!r} (shape {array.shape})")
    array = array.astype(np.float64)
    low, high = _RANGES[name]
    if not np.isfinite(array).all() or (array < low).any() or (array > high).any():
        raise ValueError(f"{name} must be finite and lie in [{low:g}, {high:g}], got {value!r}")
    if name == "required_conversions" and array != np.round(array):
        raise ValueError(f"required_conversions must be a whole number, got {value!r}")
    if name == "delay_distribution" and array.sum() > 1.0 + 1e-6:
        raise ValueError(f"{name} must sum to at most 1 over ticks, got {value!r} (sum {array.sum():g})")
    if name == "exposure" and (np.diff(array) > 0).any():
        raise ValueError(f"exposure must not rise from one slot to the next, got {value!r}")
    return jnp.asarray(array, jnp.float32)


def _mask(env: ColdStart, value: Any) -> Any:
    what = f"an array of {env.launched} bools, one a launched ad"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"treated must be {what}, got {value!r}") from None
    if array.shape != (env.launched,) or array.dtype.kind != "b":
        raise ValueError(f"treated must be {what}, got {value!r} (shape {array.shape}, {array.dtype})")
    return jnp.asarray(array)


def _check_sizes_of(env: ColdStart, name: str, value: Any) -> None:
    ads = env.mature + env.launched
    if name == "bank" and value.pctr.shape[1:] != (ads, env.impressions):
        wanted = ("blocks", ads, env.impressions)
        raise ValueError(f"bank must hold arrays of shape {wanted}, got pctr of shape {value.pctr.shape}")
    if name == "owners" and (value.advertiser.shape != (ads,) or value.category.shape != (env.advertisers,)):
        got = (value.advertiser.shape, value.category.shape)
        raise ValueError(f"owners must have shapes ({ads},) and ({env.advertisers},), got {got[0]} and {got[1]}")
