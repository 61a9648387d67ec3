"""The vocabulary of a bidder that says what it thinks, and what a logged day says of each thought's truth.

A chain is one word from each slot of `SLOTS`, in order: diagnosis of the campaign and the market, forecast of the day,
plan for the multiplier. As in LBM (Kuaishou, WWW 2026, arXiv:2603.05134) a chain is short and ends in what to do; unlike
there the words are fixed, so that each can be checked:

- **diagnosis** follows from the observation alone, by the slot's ``edges``: it is right or wrong;
- **forecast** is compared with how the day ended;
- **plan** is compared with what the multiplier did.

`annotate` writes the chains that a log would have thought in hindsight. Quantities are logs of ratios unless said, so an
edge of 0.05 is 5 %.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.normalise import Moments
from adarena.agents.offline.data import Data
from adarena.envs.core import Env

Kind = Literal["diagnosis", "forecast", "plan"]
"""What a slot is about."""

_PLAN_HOURS = 2.0  # over which a plan's change of the multiplier is averaged
_SAME = 0.14  # how far the multiplier may stray while a plan to hold it is still kept
_DAY = 24.0  # hours

EMPTY = 0.02
"""Share of the budget at which it counts as spent: the next charge may not fit."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One place of a chain and the words that may stand there, in order of the quantity that they describe.

    Attributes:
        name: Of the slot.
        kind: What it is about.
        words: Its vocabulary.
        edges: Where one word ends and the next begins, in the quantity's unit.
        meaning: The quantity.
        unknown: Whether one more word, ``unknown``, stands at the end.
    """

    name: str
    kind: Kind
    words: tuple[str, ...]
    edges: tuple[float, ...]
    meaning: str
    unknown: bool = False

    def __post_init__(self) -> None:
        """Raises:
        ValueError: Words and edges do not fit, or edges do not rise.
        """
        if len(self.words) - self.unknown != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(
                f"edges must rise and be one less than words that they part, got {self.edges} in {self.name}"
            )

    @property
    def ordered(self) -> int:
        """How many words stand in order."""
        return len(self.edges) + 1

    def word(self, quantity: jax.Array) -> jax.Array:
        """Number of the word that describes each quantity, int32 of the same shape."""
        return jnp.searchsorted(jnp.asarray(self.edges), quantity, side="left").astype(jnp.int32)


_CHANGES = ("far down", "down", "slightly down", "hold", "slightly up", "up", "far up")

SLOTS: tuple[Slot, ...] = (
    Slot(
        "pace", "diagnosis", ("behind", "on", "ahead"), (-0.1, 0.1), "share of traffic left over share of budget left"
    ),
    Slot("cost", "diagnosis", ("under", "at", "over", "unknown"), (-0.05, 0.05), "cost per value over target", True),
    Slot("market", "diagnosis", ("softer", "steady", "harder"), (-0.1, 0.1), "prices of the last tick over the day's"),
    Slot(
        "traffic", "diagnosis", ("quiet", "usual", "busy"), (-0.25, 0.25), "the next four ticks' traffic over the mean"
    ),
    Slot(
        "budget",
        "forecast",
        ("gone within 2 h", "gone within 6 h", "gone today", "just lasts", "some left", "much left"),
        (2.0, 6.0, _DAY, _DAY + 0.1, _DAY + 0.3),
        "hours until the budget is spent; where it lasts, 24 and the share left at the end of the day",
    ),
    Slot(
        "final cost",
        "forecast",
        ("far under", "under", "at", "over", "far over", "unknown"),
        (-0.22, -0.05, 0.05, 0.18),
        "cost per value over target at the end of the day",
        True,
    ),
    Slot(
        "change",
        "plan",
        _CHANGES,
        (-0.34, -0.14, -0.05, 0.05, 0.14, 0.34),
        "mean multiplier of the next two hours over that of the last three ticks",
    ),
    Slot("until", "plan", ("30 min", "2 h", "6 h", "later"), (0.51, 2.01, 6.01), "hours for which the plan is kept"),
)
"""Every slot, in the order in which they are thought."""

LENGTH = len(SLOTS)
"""``L``, words in a chain."""

SIZES = tuple(len(slot.words) for slot in SLOTS)
"""Size of each slot's vocabulary."""

WIDTH = sum(SIZES)
"""Length of a chain as `encode` writes it."""

READ = (
    *("pacing", "cost_over_target", "progress", "has_target", "market_last", "market_all"),
    *("traffic_coming", "budget_left", "multiplier_three"),
)
"""Entries of the observation (`adarena.envs.observation.entries`) that thoughts are about."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Where an environment's observation says what thoughts are about. Hashable.

    Attributes:
        places: Places of `READ` in the observation.
        log_range: Log of the multiplier that action 1 stands for.
    """

    places: tuple[int, ...]
    log_range: float

    def __post_init__(self) -> None:
        """Raises:
        ValueError: Not as many places as entries, or a multiplier that cannot be raised.
        """
        if len(self.places) != len(READ) or min(self.places) < 0:
            raise ValueError(f"places must be {len(READ)} numbers of at least 0, got {self.places!r}")
        if not 0.0 < self.log_range < float("inf"):
            raise ValueError(f"log_range must be a finite number above 0, got {self.log_range!r}")

    def __call__(self, moments: Moments, obs: jax.Array) -> dict[str, jax.Array]:
        """What observations ``[..., O]`` that ``moments`` normalised say, in `READ`'s units, ``[...]`` each."""
        scale = jnp.sqrt(moments.variance)
        return {
            name: obs[..., place] * scale[place] + moments.mean[place]
            for name, place in zip(READ, self.places, strict=True)
        }


def reader_of(env: Env, params: Any) -> Reader:
    """The reader of an environment such as `adarena.envs.autobid.AutoBid`.

    Raises:
        KeyError: Its observation lacks an entry that thoughts are about.
    """
    places = {entry.name: place for place, entry in enumerate(env.OBSERVATION)}
    missing = [name for name in READ if name not in places]
    if missing:
        raise KeyError(f"thoughts are about the observation entry {missing[0]!r}, which {type(env).__name__} lacks")
    return Reader(tuple(places[name] for name in READ), float(np.log(params.max_multiplier)))


def diagnose(seen: Mapping[str, jax.Array]) -> jax.Array:
    """Words of the slots of diagnosis, ``[..., 4]`` int32, for what a `Reader` read, ``[...]`` each."""
    pace, cost, market, traffic = SLOTS[:4]
    known = (seen["progress"] > 0.0) & (seen["has_target"] > 0.5)
    return jnp.stack(
        [
            pace.word(-seen["pacing"]),
            jnp.where(known, cost.word(seen["cost_over_target"]), cost.ordered),
            market.word(seen["market_last"] - seen["market_all"]),
            traffic.word(seen["traffic_coming"]),
        ],
        -1,
    )


def outcome(left: jax.Array, cost: jax.Array, known: jax.Array, time: jax.Array) -> jax.Array:
    """Words of the slots of forecast that came true.

    Args:
        left: ``[T + 1]`` share of the budget left before each tick and at the end.
        cost: Log of cost per value over target at the end, scalar.
        known: Whether anything was won and a target binds, scalar bool.
        time: Ticks at which to say so, ``[K]`` int32.

    Returns:
        ``[K, 2]`` int32.
    """
    budget, final = SLOTS[4:6]
    ticks = left.shape[0] - 1
    spent = left <= EMPTY
    hours = (jnp.argmax(spent) - time) * (_DAY / ticks)
    quantity = jnp.where(spent.any(), jnp.clip(hours, 0.0, _DAY), _DAY + jnp.maximum(left[-1], EMPTY))
    word = jnp.where(known, final.word(cost), final.ordered)
    return jnp.stack([budget.word(quantity), jnp.broadcast_to(word, time.shape)], -1)


def course(log_multiplier: jax.Array, before: jax.Array, time: jax.Array) -> jax.Array:
    """Words of the slots of plan that describe what the multiplier did.

    Args:
        log_multiplier: ``[T]``, of the whole day.
        before: ``[K]``, mean over the ticks before ``time``.
        time: Ticks, ``[K]`` int32.

    Returns:
        ``[K, 2]`` int32.
    """
    change, until = SLOTS[6:8]
    ticks = log_multiplier.shape[0]
    ahead = jnp.arange(ticks) - time[:, None]
    moved = log_multiplier - before[:, None]  # [K, T]
    soon = (ahead >= 0) & (ahead < max(1, round(_PLAN_HOURS * ticks / _DAY)))
    word = change.word((moved * soon).sum(-1) / soon.sum(-1))
    side = jnp.sign(word - len(_CHANGES) // 2)[:, None]
    kept = jnp.where(side == 0, jnp.abs(moved) <= _SAME, side * moved > 0.0)
    broken = (ahead >= 0) & ~kept
    end = jnp.where(broken.any(-1), jnp.argmax(broken, -1), ticks)
    hours = jnp.maximum(end - time, 1) * (_DAY / ticks)
    return jnp.stack([word, until.word(hours)], -1)


def truth(seen: Mapping[str, jax.Array], log_multiplier: jax.Array, time: jax.Array) -> jax.Array:
    """What one day shows to have been true.

    Args:
        seen: What a `Reader` read before each tick and at the end, ``[T + 1]`` each.
        log_multiplier: ``[T]``, of the whole day.
        time: Ticks at which to say so, ``[K]`` int32.

    Returns:
        Chains, ``[K, L]`` int32.
    """
    known = (seen["progress"][-1] > 0.0) & (seen["has_target"][-1] > 0.5)
    parts = [
        diagnose(seen)[time],
        outcome(seen["budget_left"], seen["cost_over_target"][-1], known, time),
        course(log_multiplier, seen["multiplier_three"][time], time),
    ]
    return jnp.concatenate(parts, -1)


def annotate(reader: Reader, data: Data, episode: jax.Array, time: jax.Array) -> jax.Array:
    """What a log would have thought in hindsight: chains of episodes ``[B]`` at ticks ``[B, K]``, ``[B, K, L]`` int32."""

    def of(episode: jax.Array, time: jax.Array) -> jax.Array:
        seen = reader(data.obs_moments, data.observations[episode])
        return truth(seen, data.actions[episode, :, 0] * reader.log_range, time)

    return jax.vmap(of)(episode, time)


def encode(chain: jax.Array) -> jax.Array:
    """Chains ``[..., L]`` as a network reads them: a one for each word that was thought, ``[..., WIDTH]`` float32."""
    return jnp.concatenate([jax.nn.one_hot(chain[..., n], size) for n, size in enumerate(SIZES)], -1)


def closeness(chain: jax.Array, truth: jax.Array, kinds: tuple[Kind, ...] = ("diagnosis", "forecast")) -> jax.Array:
    """How near chains ``[..., L]`` are to what was true, ``[...]`` in [0, 1].

    The mean over slots of ``kinds`` of 1 - distance over the greatest distance; ``unknown`` is near to itself alone.
    """
    parts = []
    for n, slot in enumerate(SLOTS):
        if slot.kind in kinds:
            said, was = chain[..., n], truth[..., n]
            apart = jnp.abs(said - was) / (slot.ordered - 1)
            strange = (said >= slot.ordered) | (was >= slot.ordered)
            parts.append(jnp.where(said == was, 1.0, jnp.where(strange, 0.0, 1.0 - apart)))
    return jnp.stack(parts, -1).mean(-1)


def opposite(chain: jax.Array, kinds: tuple[Kind, ...] = ("diagnosis", "forecast", "plan")) -> jax.Array:
    """Chains ``[..., L]`` with the words of ``kinds`` forced wrong: the word farthest from the one that was thought.

    Of the middle word and of ``unknown`` it is the last in order; a plan to hold becomes one to go far up.
    """
    words = []
    for n, slot in enumerate(SLOTS):
        word, last = chain[..., n], slot.ordered - 1
        far = jnp.where(word > last, last, jnp.where(2 * word > last, 0, last))
        words.append(far if slot.kind in kinds else word)
    return jnp.stack(words, -1)


def spell(chain: Any) -> dict[str, str]:
    """One chain ``[L]`` in words, by slot."""
    return {slot.name: slot.words[int(word)] for slot, word in zip(SLOTS, np.asarray(chain), strict=True)}


def sentence(chain: Any) -> str:
    """One chain ``[L]`` as a person would read it."""
    said = spell(chain)
    diagnosis = "; ".join(f"{name} {said[name]}" for name in ("pace", "cost", "market", "traffic"))
    forecast = f"budget {said['budget']}, final cost {said['final cost']}"
    plan = "hold the multiplier" if said["change"] == "hold" else f"multiplier {said['change']}"
    return f"{diagnosis} | {forecast} | {plan} for {said['until']}"


def parse(said: Mapping[str, Any]) -> np.ndarray:
    """A chain ``[L]`` int32 from words by slot, as `spell` writes them.

    Raises:
        ValueError: A slot is missing, or has a word that is not in its vocabulary; the message names both.
    """
    chain = []
    for slot in SLOTS:
        word = said.get(slot.name)
        if word not in slot.words:
            raise ValueError(f"{slot.name} must be one of {', '.join(map(repr, slot.words))}, got {word!r}")
        chain.append(slot.words.index(word))
    return np.asarray(chain, np.int32)
