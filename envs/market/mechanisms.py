"""Auctions whose prices a user states: the register behind `adarena.envs.market.auction.register_mechanism`, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs.plugins import Plugins

Payment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""``payment(score [K + 1, M], exposure [K], reserve [M]) -> price [K, M]``; see `adarena.envs.market.auction.payment_score`."""

PAYMENTS: dict[str, Payment] = {}
"""Registered mechanisms by name. The name alone keys compiled programs, so that one never changes its meaning."""

_SLOTS, _IMPRESSIONS = (1, 3), 64  # of the auctions on which a mechanism is tried


def check(name: str, payment: Payment) -> None:
    """Tries a mechanism on drawn auctions; see `adarena.envs.market.auction.register_mechanism` for what it may do."""
    if not name.isidentifier():
        raise ValueError(f"name of a mechanism must be an identifier, got {name!r}")
    if not callable(payment):
        raise TypeError(f"payment must be a function of score, exposure and reserve, got {payment!r}")
    for slots in _SLOTS:
        _try(name, payment, slots)


PLUGINS = Plugins("adarena.mechanisms", check)
"""Mechanisms that installed packages bring: the object of an entry point is the function that prices slots."""


def register(name: str, payment: Payment, *, taken: Collection[str]) -> None:
    """Adds a mechanism after trying it; users call `adarena.envs.market.auction.register_mechanism`."""
    if name in taken or PAYMENTS.get(name, payment) is not payment:
        raise ValueError(f"mechanism name {name!r} is taken; choose another")
    check(name, payment)
    PAYMENTS[name] = payment


def known(name: str) -> bool:
    """Whether a mechanism of that name is registered; one that an installed package brings is, when it is asked for.

    Raises:
        adarena.envs.plugins.PluginError: A package brings it, and it cannot be used.
    """
    if name not in PAYMENTS and name in PLUGINS.found():
        PAYMENTS[name] = PLUGINS.load(name)
    return name in PAYMENTS


def _try(name: str, payment: Payment, slots: int) -> None:
    """Prices of drawn auctions, some with empty slots: of the right shape, between nothing and the holder's own score."""
    rng = np.random.default_rng(slots)
    score = -np.sort(-rng.exponential(size=(slots + 1, _IMPRESSIONS)).astype(np.float32), axis=0)
    reserve = (0.5 * rng.random(_IMPRESSIONS)).astype(np.float32)
    score = np.where(score >= reserve, score, np.float32(0.0))
    exposure = np.sort(rng.random(slots))[::-1].astype(np.float32)

    @jax.jit
    def price(score: jax.Array, reserve: jax.Array) -> jax.Array:
        found = payment(score, jnp.asarray(exposure), reserve)
        if getattr(found, "shape", None) != (slots, len(reserve)) or found.dtype != jnp.float32:
            what = f"{getattr(found, 'dtype', type(found).__name__)} of shape {getattr(found, 'shape', None)}"
            raise ValueError(f"payment of {name!r} must give float32 prices [{slots}, {len(reserve)}], got {what}")
        return found

    def broken(where: np.ndarray, what: str) -> None:
        if where.any():
            slot, impression = (int(x[0]) for x in np.nonzero(where))
            scores = ", ".join(f"{x:.4g}" for x in score[:, impression])
            raise ValueError(
                f"payment of {name!r} {what}: slot {slot} costs {paid[slot, impression]:.4g} where scores are {scores} and "
                f"the reserve is {reserve[impression]:.4g}"
            )

    paid = np.asarray(price(score, reserve))
    held = score[:-1] > 0.0
    broken(held & ~(np.isfinite(paid) & (paid >= 0.0)), "must give prices that are finite and not negative")
    broken(held & (paid > score[:-1] * 1.00001), "must not charge a holder more than its own score")
    alone = np.asarray(price(score[:, ::-1], reserve[::-1]))[:, ::-1]
    broken(held & ~np.isclose(alone, paid, rtol=1e-4), "must price each impression by that impression alone")
    for slot in range(slots):
        above = score[slot - 1] if slot else 2.0 * score[0]
        raised = score.copy()
        raised[slot] = np.where(held[slot], 0.5 * (score[slot] + above), score[slot])
        own = np.zeros_like(held)
        own[slot] = held[slot] & ~np.isclose(np.asarray(price(raised, reserve))[slot], paid[slot], rtol=1e-4)
        broken(own, "must not let the price of a slot depend on its holder's own score")


def prices_of_seat(
    payment: Payment, rivals: jax.Array, least: jax.Array, exposure: jax.Array, reserve: jax.Array
) -> jax.Array:
    """What each slot would cost one seat that takes it with the least score that does; ``[K, M]``.

    Args:
        payment: The mechanism.
        rivals: ``[K, M]`` best scores of the others, falling.
        least: ``[K, M]`` least score that takes each slot.
        exposure: ``[K]``.
        reserve: ``[M]``.
    """
    slots = len(rivals)
    seated = [jnp.concatenate([rivals[:k], least[k : k + 1], rivals[k:]]) for k in range(slots)]
    return jnp.stack([payment(seated[k], exposure, reserve)[k] for k in range(slots)])
