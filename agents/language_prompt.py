"""What a language model is told of a campaign, and how its answer is read: `adarena.agents.language_think` asks.

The vocabulary is that of `adarena.agents.offline.thoughts`, written out from its slots. Numbers are rounded as a person
would read them, so equal days give equal texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adarena.agents.offline.thoughts import SLOTS, Slot, parse
from adarena.envs.core import Entry

TICKS = 4
"""How many of the last ticks are told."""

READ = (
    *("time_left", "traffic_left", "traffic_coming", "log_budget", "log_target", "has_target", "budget_left", "pacing"),
    *("cost_over_target", "progress", "spend_last", "win_rate_last", "price_last", "market_last", "market_all"),
    "multiplier_last",
)
"""Entries of the observation (`adarena.envs.observation.entries`) that are told."""

Message = dict[str, str]
"""One message of a conversation: its ``role`` and its ``content``."""

_HOURS = ("budget", "until")  # slots whose quantity is in hours; that of all others is the log of a ratio
_QUOTED = 2000  # characters of an answer that could not be used, or of what was wrong with it, that are told
_FENCED = re.compile(r"```[A-Za-z]*\s*(.*?)```", re.DOTALL)

_TASK = """\
You advise a bidder that buys advertising impressions in repeated auctions for one campaign during one day. Tick by tick it
bids a multiplier times the predicted value of each impression, so a higher multiplier wins more and pays more. The campaign
wants as much value as its budget buys, at a cost per unit of value that is at its target or below by the end of the day. You
are given what the campaign measured in its last ticks. Say what its state is, how the day will end, and what to do with the
multiplier.

Answer with one json object and nothing else. It has exactly the keys below; the value of each is one of its words, as
written. In brackets: the quantity that the words describe, and after each word the values up to which it holds; of ratios
these say how far they are above (+) or below (-) one.
"""


def places(entries: Sequence[Entry]) -> dict[str, int]:
    """Places of `READ` in an observation of these entries.

    Raises:
        KeyError: An entry is missing.
    """
    found = {entry.name: place for place, entry in enumerate(entries)}
    missing = [name for name in READ if name not in found]
    if missing:
        raise KeyError(f"a language model is told the observation entry {missing[0]!r}, which the environment lacks")
    return {name: found[name] for name in READ}


def question(where: Mapping[str, int], observations: Sequence[np.ndarray]) -> list[Message]:
    """The messages that ask for a chain.

    Args:
        where: `places`.
        observations: ``[O]`` each, in the environment's units, the newest last; the last `TICKS` are told.
    """
    seen = [{name: float(obs[place]) for name, place in where.items()} for obs in observations[-TICKS:]]
    told = "\n\n".join([_campaign(seen[-1]), *map(_moment, seen)])
    return [{"role": "system", "content": _rules()}, {"role": "user", "content": told}]


def asked_again(messages: Sequence[Message], answer: str, error: str) -> list[Message]:
    """The messages that ask a second time, after an answer that could not be used."""
    said: list[Message] = [{"role": "assistant", "content": answer[:_QUOTED]}] if answer.strip() else []
    wrong = f"That answer could not be used: {error[:_QUOTED]}. Answer again, with the json object alone."
    return [*messages, *said, {"role": "user", "content": wrong}]


def read_answer(answer: str) -> np.ndarray:
    """The chain ``[L]`` int32 in a model's answer: a JSON object of a word for each slot, in a code fence or not.

    Raises:
        ValueError: It is no such thing; the message says what is wrong.
    """
    fenced = _FENCED.search(answer)
    try:
        said: Any = json.loads(fenced.group(1) if fenced else answer)
    except RecursionError:
        raise ValueError("the answer is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"the answer is no JSON: {error}" if answer.strip() else "the answer is empty") from None
    if not isinstance(said, dict):
        raise ValueError(f"the answer must be a JSON object, got {type(said).__name__}")
    return parse(said)


def _rules() -> str:
    shape = json.dumps({slot.name: slot.words[len(slot.edges) // 2] for slot in SLOTS})
    return (
        f"{_TASK}\n"
        + "\n".join(map(_slot, SLOTS))
        + f"\n\nThe shape of an answer (its words are only an example): {shape}"
    )


def _slot(slot: Slot) -> str:
    """One slot's line: its words and the quantity's values up to which each holds."""
    edges = [f"up to {_edge(slot, edge)}" for edge in slot.edges] + ["above"]
    words = [f'"{word}" ({edge})' for word, edge in zip(slot.words, edges, strict=False)]
    rest = [f'"{word}"' for word in slot.words[slot.ordered :]]
    return f'"{slot.name}" ({slot.kind}) [{slot.meaning}]: ' + ", ".join(words + rest)


def _edge(slot: Slot, edge: float) -> str:
    return f"{edge:g} h" if slot.name in _HOURS else f"{100 * math.expm1(edge):+.1f} %"


def _campaign(now: Mapping[str, float]) -> str:
    budget = f"The campaign's budget for the day is {_money(now['log_budget'])}"
    if now["has_target"] < 0.5:
        return f"{budget}; no target cost binds."
    return f"{budget}; its target cost is {_money(now['log_target'])} per unit of value."


def _moment(seen: Mapping[str, float]) -> str:
    """What was measured before one tick."""
    minutes = round(24 * 60 * (1.0 - seen["time_left"]))
    coming = _over(seen["traffic_coming"], "the day's mean")
    lines = [
        f"At {minutes // 60:02d}:{minutes % 60:02d}, with {_share(seen['time_left'])} of the day to come:",
        f"- {_share(seen['budget_left'])} of the budget and {_share(seen['traffic_left'])} of the day's traffic are left; the "
        f"share of traffic left is {_over(-seen['pacing'], 'the share of budget left')}",
        f"- traffic of the next four ticks is forecast to be {coming}",
    ]
    if seen["time_left"] >= 1.0:
        return "\n".join([*lines, "- nothing has been bought or measured yet"])
    known = seen["has_target"] > 0.5 and seen["progress"] > 0.0
    cost = _over(seen["cost_over_target"], "the target") if known else "unknown"
    market = _over(seen["market_last"] - seen["market_all"], "the day's so far")
    won = f"- in the last tick it bid multiplier {math.exp(seen['multiplier_last']):.2f}, won "
    won += f"{_share(seen['win_rate_last'])} of the impressions and spent {_share(seen['spend_last'])} of the budget"
    if seen["has_target"] > 0.5 and seen["win_rate_last"] > 0.0:
        won += f", at a cost per value {_over(seen['price_last'], 'the target')}"
    return "\n".join(
        [
            *lines,
            won,
            f"- market prices of the last tick were {market}",
            f"- so far its cost per unit of value is {cost}, and its value is {_share(seen['progress'])} of what the "
            "whole budget buys at the target",
        ]
    )


def _money(log_amount: float) -> str:
    amount = math.exp(log_amount)
    return f"{amount:,.{0 if amount >= 100.0 else 2}f} currency units"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _over(log_ratio: float, what: str) -> str:
    """How far above or below something a log of a ratio is, in words."""
    percent = round(100 * math.expm1(log_ratio), 1)
    if percent == 0.0:
        return f"equal to {what}"
    return f"{abs(percent):.1f} % {'above' if percent > 0 else 'below'} {what}"
