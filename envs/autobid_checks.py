"""Checks of `adarena.envs.autobid`: which sizes, names and numbers a market may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from adarena.envs.market.clearing import Terms
from adarena.envs.market.normal_values import NormalBank
from adarena.envs.market.traffic import Bank
from adarena.envs.rivals import KINDS

if TYPE_CHECKING:
    from adarena.envs.autobid import AutoBid

TERMS = (
    *("reserve", "kappa", "exposure", "cascade", "void_at_reserve"),
    *("outside_price", "error_bias", "error_noise", "error_slope"),
)
"""Numeric fields that live in ``Params.terms`` and may be given to ``make`` by name."""

LOG_PARTS = ("all", "train", "test")
"""Parts of a log: ``"test"`` is the last third of its days (of its rows, dealt at random, where it has one day only)."""

_SPANS = tuple((f"{name}_low", f"{name}_high") for name in ("budget_scale", "target_scale", "day_scale"))
_NOT_AUCTIONNET = ("traffic_noise", "drift_pattern", "drift_noise", "drift_persistence", "outside_price")
_LARGEST_BANK = 1 << 30
_POSITIVE, _SHARE, _NOT_NEGATIVE, _ANY = (1e-12, math.inf), (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("base_budget", "base_target", "base_worth", "daily_impressions", "winnable"), _POSITIVE),
    **dict.fromkeys((end for ends in _SPANS for end in ends), _POSITIVE),
    **dict.fromkeys(("rival_budget_noise", "rival_target_noise", "rival_start_noise", "traffic_noise"), _NOT_NEGATIVE),
    **dict.fromkeys(
        ("drift_pattern", "drift_noise", "reserve", "kappa", "outside_price", "error_noise"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("exposure", "rival_mix", "delay_distribution"), _SHARE),
    **dict.fromkeys(("rival_start_mean", "error_bias"), _ANY),
    "error_slope": _POSITIVE,
    "drift_persistence": (0.0, 0.999),
    "max_multiplier": (1.0 + 1e-6, 1e3),
    "winnable": (1e-6, 1.0),
}


def check_choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError where ``value`` is not one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")


def check_sizes(env: AutoBid) -> None:
    """Raises ValueError for a size or share that no market has."""
    for field, low, high in (
        ("advertisers", 1, 4096),
        ("ticks", 2, 2880),
        ("impressions", 1, 1 << 20),
        ("categories", 1, 4096),
        ("tick_blocks", 1, 1024),
        ("blocks", 1, 1 << 20),
        ("bank_seed", 0, (1 << 31) - 1),
    ):
        value = getattr(env, field)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{field} must be a whole number from {low} to {high}, got {value!r}")
    entries = env.blocks * env.advertisers * env.impressions
    if entries > _LARGEST_BANK and not is_replay(env):
        raise ValueError(
            f"blocks x advertisers x impressions must be at most {_LARGEST_BANK} (4 GiB for each array of the bank), "
            f"got {env.blocks} x {env.advertisers} x {env.impressions} = {entries}"
        )
    for field in ("correlation", "category_correlation"):
        value = getattr(env, field)
        if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
            raise ValueError(f"{field} must lie in [0, 1], got {value!r}")
    if env.correlation + env.category_correlation > 1.0:
        total = env.correlation + env.category_correlation
        raise ValueError(f"correlation + category_correlation must be at most 1, got {total:g}")
    if not isinstance(env.spread, (int, float)) or not 0.0 <= env.spread <= 3.0:
        raise ValueError(f"spread must lie in [0, 3] (sd of log value), got {env.spread!r}")
    for field in ("quality_ranking", "delay", "prediction_error", "record", "fresh_draws"):
        if not isinstance(getattr(env, field), bool):
            raise ValueError(f"{field} must be True or False, got {getattr(env, field)!r}")
    source, colon, path = env.traffic.partition(":") if isinstance(env.traffic, str) else ("", "", "")
    plain = source in ("calibrated", "synthetic", "replay", "auctionnet") and not colon
    if not plain and not (source in ("calibration", "ipinyou") and path):
        raise ValueError(
            "traffic must be 'calibrated', 'synthetic', 'auctionnet', 'replay', 'calibration:PATH' or 'ipinyou:PATH', "
            f"got {env.traffic!r}"
        )
    _check_auctionnet(env)
    if is_replay(env) and (env.advertisers, env.categories) != (1, 1):
        raise ValueError(
            f"advertisers and categories must be 1 with traffic {env.traffic!r} (one bidder against logged prices), "
            f"got {env.advertisers} and {env.categories}"
        )


def _check_auctionnet(env: AutoBid) -> None:
    """Raises ValueError where the static fields do not go with AuctionNet's generator, or ask for it without."""
    if env.traffic != "auctionnet":
        for name, thinned in (("tick_blocks", 1), ("fresh_draws", False)):
            if getattr(env, name) != thinned:
                raise ValueError(f"{name} must be {thinned} unless traffic is 'auctionnet', got {getattr(env, name)!r}")
        return
    for field, usual in (("charge", "impression"), ("quality_ranking", False), ("prediction_error", False)):
        if getattr(env, field) != usual:
            raise ValueError(f"{field} must be {usual!r} where traffic is 'auctionnet', got {getattr(env, field)!r}")
    if env.objective == "roas":
        raise ValueError("objective must be 'cpa' or 'budget' where traffic is 'auctionnet', got 'roas'")


def is_replay(env: AutoBid) -> bool:
    """Whether the environment replays a log."""
    return env.traffic.partition(":")[0] in ("ipinyou", "replay")


def validate_changes(env: AutoBid, changes: dict[str, Any]) -> dict[str, Any]:
    """Numeric changes as arrays of the right dtype; the platform's own go into ``terms``.

    Raises:
        ValueError: A value is not a number, not finite, of the wrong shape, or out of range.
    """
    shapes = dict.fromkeys(("base_budget", "base_target", "base_worth", "category"), (env.advertisers,))
    shapes |= {"exposure": (env.slots,), "rival_mix": (len(KINDS),), "delay_distribution": (env.ticks,)}
    unused = sorted(set(_NOT_AUCTIONNET) & set(changes)) if env.traffic == "auctionnet" else []
    if unused:
        raise ValueError(f"{unused[0]} has no meaning where traffic is 'auctionnet', got {changes[unused[0]]!r}")
    for low, high in _SPANS:
        if {low, high} <= set(changes) and changes[low] > changes[high]:
            raise ValueError(f"{low} must be at most {high}, got {changes[low]!r} and {changes[high]!r}")
    return {name: _checked(env, name, value, shapes.get(name, ())) for name, value in changes.items()}


def _checked(env: AutoBid, name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if name in ("bank", "terms"):
        normal = env.traffic == "auctionnet"
        wanted = Terms if name == "terms" else NormalBank if normal else Bank
        if not isinstance(value, wanted):
            raise ValueError(f"{name} must be a {wanted.__module__}.{wanted.__name__}, got {value!r}")
        if isinstance(value, NormalBank):
            stored = value.scale.shape if value.normals is None else value.normals.shape[1:]
            wanted_sizes = (env.advertisers,) if env.fresh_draws else (env.advertisers, env.impressions)
            if stored != wanted_sizes:
                raise ValueError(f"bank must hold normals of shape (blocks, *{wanted_sizes}), got (blocks, *{stored})")
        if isinstance(value, Bank) and value.pctr.shape[1:] != (env.advertisers, env.impressions):
            wanted_shape = ("blocks", env.advertisers, env.impressions)
            raise ValueError(f"bank must hold arrays of shape {wanted_shape}, got pctr of shape {value.pctr.shape}")
        return value
    if name in ("cascade", "void_at_reserve"):
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
    integer = {"seat": (-1, env.advertisers - 1), "category": (0, env.categories - 1)}.get(name)
    low, high = integer or _RANGES.get(name, _ANY)
    if not np.isfinite(array).all() or (array < low).any() or (array > high).any():
        raise ValueError(f"{name} must be finite and lie in [{low:g}, {high:g}], got {value!r}")
    if integer and (array != np.round(array)).any():
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if name == "delay_distribution" and array.sum() > 1.0 + 1e-6:
        raise ValueError(f"{name} must sum to at most 1 over ticks, got {value!r} (sum {array.sum():g})")
    if name == "exposure" and (np.diff(array) > 0).any():
        raise ValueError(f"exposure must not rise from one slot to the next, got {value!r}")
    if name == "rival_mix" and not np.isclose(array.sum(), 1.0, atol=1e-6):
        raise ValueError(f"rival_mix must sum to 1 over {', '.join(KINDS)}, got {value!r}")
    return jnp.asarray(array, jnp.int32 if integer else jnp.float32)
