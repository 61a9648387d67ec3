"""Bad configurations of a market are refused before anything runs, by field, value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest

import adarena.envs

ID = "adarena/AutoBid-v0"
SIZES: dict[str, Any] = {"advertisers": 6, "ticks": 6, "impressions": 16, "blocks": 8, "slots": 2, "categories": 2}
NAN, INF = float("nan"), float("inf")

# Change, what the message must say is allowed, and how it must show the value.
STATIC: list[tuple[dict[str, Any], str, str]] = [
    ({"advertisers": 0}, "a whole number from 1 to 4096", "0"),
    ({"advertisers": 2.5}, "a whole number from 1 to 4096", "2.5"),
    ({"advertisers": True}, "a whole number from 1 to 4096", "True"),
    ({"ticks": 1}, "a whole number from 2 to 2880", "1"),
    ({"impressions": -64}, "a whole number from 1 to 1048576", "-64"),
    ({"impressions": "64"}, "a whole number from 1 to 1048576", "'64'"),
    ({"slots": 0}, "a whole number from 1 to 64", "0"),
    ({"slots": 10**6}, "a whole number from 1 to 64", "1000000"),
    ({"categories": 0}, "a whole number from 1 to 4096", "0"),
    ({"blocks": 0}, "a whole number from 1 to 1048576", "0"),
    ({"blocks": 1 << 20, "impressions": 1 << 10}, "at most 1073741824 (4 GiB", "1048576 x 6 x 1024 = 6442450944"),
    ({"bank_seed": -1}, "a whole number from 0 to 2147483647", "-1"),
    ({"mechanism": "english"}, "first_price, second_price, gsp, vcg", "'english'"),
    ({"charge": "view"}, "impression, click, conversion", "'view'"),
    ({"objective": "profit"}, "cpa, roas, budget", "'profit'"),
    ({"response": "maybe"}, "expected, sampled", "'maybe'"),
    ({"log_part": "validation"}, "all, train, test", "'validation'"),
    (
        {"traffic": "criteo"},
        "'calibrated', 'synthetic', 'auctionnet', 'replay', 'calibration:PATH' or 'ipinyou:PATH'",
        "'criteo'",
    ),
    (
        {"traffic": "ipinyou:"},
        "'calibrated', 'synthetic', 'auctionnet', 'replay', 'calibration:PATH' or 'ipinyou:PATH'",
        "'ipinyou:'",
    ),
    ({"traffic": "synthetic:x"}, "'calibrated', 'synthetic', 'auctionnet', 'replay'", "'synthetic:x'"),
    ({"traffic": 3}, "'calibrated', 'synthetic', 'auctionnet', 'replay'", "3"),
    ({"correlation": -0.1}, "[0, 1]", "-0.1"),
    ({"correlation": NAN}, "[0, 1]", "nan"),
    ({"category_correlation": "high"}, "[0, 1]", "'high'"),
    ({"correlation": 0.7, "category_correlation": 0.6}, "at most 1", "1.3"),
    ({"spread": -1.0}, "[0, 3]", "-1.0"),
    ({"spread": INF}, "[0, 3]", "inf"),
    ({"delay": "yes"}, "True or False", "'yes'"),
    ({"quality_ranking": 1}, "True or False", "1"),
    ({"prediction_error": 0.3}, "True or False", "0.3"),
    ({"record": None}, "True or False", "None"),
]
NUMERIC: list[tuple[dict[str, Any], str, str]] = [
    ({"seat": 6}, "[-1, 5]", "6"),
    ({"seat": 1.5}, "a whole number", "1.5"),
    ({"seat": [1]}, "a number", "[1]"),
    ({"category": [0, 0, 0, 1, 1, 2]}, "[0, 1]", "[0, 0, 0, 1, 1, 2]"),
    ({"base_budget": 100.0}, "an array of shape (6,)", "100.0"),
    ({"base_budget": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]}, "[1e-12, inf]", "0.0"),
    ({"base_budget": [1.0, 1.0, 1.0, 1.0, 1.0, INF]}, "finite", "inf"),
    ({"base_target": np.full(6, -1.0)}, "[1e-12, inf]", "-1."),
    ({"base_worth": np.ones(5)}, "an array of shape (6,)", "(5,)"),
    ({"base_worth": [[1.0], [1.0, 2.0]]}, "an array of shape (6,)", "[[1.0], [1.0, 2.0]]"),
    ({"budget_scale_low": 0.0}, "[1e-12, inf]", "0.0"),
    ({"budget_scale_low": 2.0, "budget_scale_high": 1.0}, "at most budget_scale_high", "2.0 and 1.0"),
    ({"target_scale_high": NAN}, "finite", "nan"),
    ({"max_multiplier": 1.0}, "[1, 1000]", "1.0"),
    (
        {"rival_mix": [0.5, 0.5, 0.5, 0.0]},
        "sum to 1 over constant, pacer, pid_target, min_pacing",
        "[0.5, 0.5, 0.5, 0.0]",
    ),
    ({"rival_mix": [2.0, -1.0, 0.0, 0.0]}, "[0, 1]", "-1.0"),
    ({"rival_budget_noise": -0.1}, "[0, inf]", "-0.1"),
    ({"rival_start_mean": "low"}, "a number", "'low'"),
    ({"day_scale_low": 0.0}, "[1e-12, inf]", "0.0"),
    ({"day_scale_low": 4.0, "day_scale_high": 2.0}, "at most day_scale_high", "4.0 and 2.0"),
    ({"delay_distribution": np.full(6, 0.5)}, "sum to at most 1 over ticks", "(sum 3)"),
    ({"delay_distribution": [0.5, 0.5]}, "an array of shape (6,)", "[0.5, 0.5]"),
    ({"daily_impressions": -5}, "[1e-12, inf]", "-5"),
    ({"traffic_noise": NAN}, "[0, inf]", "nan"),
    ({"drift_persistence": 1.0}, "[0, 0.999]", "1.0"),
    ({"winnable": 0.0}, "[1e-06, 1]", "0.0"),
    ({"reserve": -1.0}, "[0, inf]", "-1.0"),
    ({"kappa": NAN}, "[0, inf]", "nan"),
    ({"exposure": [0.5, 0.8]}, "not rise from one slot to the next", "[0.5, 0.8]"),
    ({"exposure": [1.2, 0.8]}, "[0, 1]", "[1.2, 0.8]"),
    ({"exposure": [1.0, 0.8, 0.6]}, "an array of shape (2,)", "[1.0, 0.8, 0.6]"),
    ({"cascade": 1}, "True or False", "1"),
    ({"outside_price": INF}, "finite", "inf"),
    ({"error_noise": -0.3}, "[0, inf]", "-0.3"),
    ({"error_slope": 0.0}, "[1e-12, inf]", "0.0"),
    ({"bank": "impressions"}, "adarena.envs.market.traffic.Bank", "'impressions'"),
    ({"terms": None}, "adarena.envs.market.clearing.Terms", "None"),
]


def label(case: Any) -> str:
    return re.sub(r"\s+", " ", str(case))[:60] if isinstance(case, dict) else ""


@pytest.mark.parametrize(("changes", "allowed", "value"), STATIC + NUMERIC, ids=label)
def test_refusal_names_field_value_and_what_is_allowed(changes: dict[str, Any], allowed: str, value: str) -> None:
    with pytest.raises(ValueError, match=re.escape(next(iter(changes)))) as caught:
        adarena.envs.make(ID, **{**SIZES, **changes})
    message = str(caught.value)
    assert allowed in message, message
    assert value in message.partition("got")[2], message


def test_the_list_is_long_enough() -> None:
    assert len(STATIC) + len(NUMERIC) >= 60


@pytest.mark.parametrize("name", ["reserves", "budget", "n_agents"])
def test_unknown_field(name: str) -> None:
    with pytest.raises(
        TypeError, match=f"has no field '{name}'; static fields: advertisers, .*numeric fields: "
    ) as caught:
        adarena.envs.make(ID, **SIZES, **{name: 1.0})
    assert "base_budget" in str(caught.value)
    assert "reserve," in str(caught.value)


def test_unknown_environment() -> None:
    with pytest.raises(
        KeyError, match=r"no environment is called 'adarena/AutoBid-v9'; known are .*adarena/AutoBid-v0"
    ):
        adarena.envs.make("adarena/AutoBid-v9")


def test_bank_of_another_size() -> None:
    _, params = adarena.envs.make(ID, **SIZES)
    with pytest.raises(ValueError, match=r"bank must hold arrays of shape \('blocks', 5, 16\), got .*\(8, 6, 16\)"):
        adarena.envs.make(ID, **{**SIZES, "advertisers": 5, "bank": params.bank})
    _, again = adarena.envs.make(ID, **SIZES, bank=params.bank)
    assert again.bank is params.bank


def test_missing_files_are_named() -> None:
    with pytest.raises((ValueError, OSError), match=r"nowhere\.json"):
        adarena.envs.make(ID, **SIZES, traffic="calibration:nowhere.json")
    with pytest.raises((ValueError, OSError), match="nowhere"):
        adarena.envs.make(ID, **{**SIZES, "advertisers": 1, "categories": 1, "traffic": "ipinyou:nowhere.txt"})


def test_replay_is_for_one_bidder() -> None:
    with pytest.raises(ValueError, match=r"advertisers and categories must be 1 with traffic 'replay' .* got 6 and 2"):
        adarena.envs.make(ID, **SIZES, traffic="replay")


def test_gymnasium_refuses_the_same() -> None:
    with pytest.raises(ValueError, match=r"rival_mix must sum to 1 .* got \[1, 1, 1, 1\]"):
        gym.make(ID, **SIZES, rival_mix=[1, 1, 1, 1])


def test_good_numbers_arrive() -> None:
    """Numbers of the platform go where the market reads them, and keep their type."""
    _, params = adarena.envs.make(
        ID, **SIZES, reserve=0.25, exposure=[1, 0.5], cascade=False, seat=3, base_budget=[5] * 6, kappa=2
    )
    assert params.terms.reserve == 0.25
    assert params.terms.kappa == 2.0
    np.testing.assert_array_equal(params.terms.exposure, [1.0, 0.5])
    assert not params.terms.cascade
    assert params.seat.dtype == jnp.int32
    assert params.base_budget.dtype == params.terms.reserve.dtype == jnp.float32
