"""The state of an episode of `adarena.envs.autobid`."""

from __future__ import annotations

from typing import Any

import jax

from adarena.envs import pytree, rivals
from adarena.envs.auctionnet_view import Seen
from adarena.envs.core import Key
from adarena.envs.market.ledger import Accounts
from adarena.envs.observation import History, Seat


@pytree.dataclass
class State:
    """State of an episode. ``N`` advertisers, ``T`` ticks, ``C`` categories.

    Attributes:
        tick: Int32, ticks cleared.
        seat: The controlled advertiser.
        day_scale: Size of the day over the usual one.
        traffic: Key of the stream that chooses impressions.
        response: Key of the stream of users' luck.
        volume: ``[T]`` real impressions of each tick.
        drift: ``[C, T]`` factor on each category's pCTR; with traffic ``"auctionnet"`` the values'
            `adarena.envs.market.normal_values.Moments`.
        budget: ``[N]`` currency units.
        target: ``[N]`` currency units per unit of value.
        kind: ``[N]`` int32 kind of each rival, index into `adarena.envs.rivals.KINDS`.
        control: Memory of the rivals' control laws, arrays ``[N]``.
        accounts: Books, arrays ``[N]``.
        last_spend: ``[N]`` currency units paid in the last tick.
        exhausted: ``[N]`` bool: whether the advertiser has met a charge that it could not pay.
        pending: ``[T, N]`` value that will be reported in the next ``1 ... T`` ticks; None without delays.
        history: What the seat has seen.
        seen: The rest of what AuctionNet's observation needs, ``[T]`` each; None where another one is shown.
        score: Score so far, of the value reported.
    """

    tick: jax.Array
    seat: Seat
    day_scale: jax.Array
    traffic: Key
    response: Key
    volume: jax.Array
    drift: Any
    budget: jax.Array
    target: jax.Array
    kind: jax.Array
    control: rivals.Control
    accounts: Accounts
    last_spend: jax.Array
    exhausted: jax.Array
    pending: jax.Array | None
    history: History
    seen: Seen | None
    score: jax.Array
