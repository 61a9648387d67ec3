"""GAVE: explored actions go beyond the logged ones, the way that pays, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_sequences import SMALL, SPEC, check_resumes, line_data, play, trained

from adarena.agents.offline import gave

CONFIG = gave.make_config(judge_width=16, target=0.0, action_multiplier=4.0, **SMALL)


@pytest.fixture(scope="module")
def data() -> Any:
    """Actions around the middle of their range, where none is preferred."""
    return line_data(count=1024, level=0.1, noise=0.2)


@pytest.fixture(scope="module")
def learnt(data: Any) -> Any:
    """A trained model's state and curve."""
    return trained(gave, CONFIG, data, 600)


def test_actions_go_beyond_the_data_the_way_that_pays(learnt: Any) -> None:
    policy = gave.make_policy(CONFIG, SPEC, learnt[0])
    # Imitation that is asked for what is usual plays 0. Beta, in (1/2, 3/2), adds at most log(beta) / log(4) to that.
    for sign, beta in ((-1.0, 0.5), (1.0, 1.5)):
        actions = np.asarray(play(policy, jnp.float32(sign), jax.random.key(0))[1])
        assert actions.mean() == pytest.approx(np.log(beta) / np.log(4.0), abs=0.12)


def test_what_is_explored_is_preferred_for_what_it_comes_to(learnt: Any) -> None:
    last = learnt[1][-1]
    assert last["preferred"][0] > 0.8
    assert last["value"][0] > 0.5  # an upper expectile of outcomes that have mean 0
    assert last["outcome_mse"][0] < 0.95


def test_expectiles() -> None:
    draws = jnp.asarray([0.0, 1.0])
    levels = np.linspace(0.0, 1.0, 101)
    for expectile in (0.5, 0.9):
        losses = [float(gave.expectile_loss(draws - level, expectile).mean()) for level in levels]
        assert levels[int(np.argmin(losses))] == pytest.approx(expectile, abs=0.011)


def test_a_stopped_run_goes_on(tmp_path: Any, data: Any) -> None:
    check_resumes(gave, CONFIG, data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explore": 1.0}, "explore must be a number strictly between 0 and 1, got 1.0"),
        ({"expectile": 0.0}, "expectile must be a number strictly between 0 and 1, got 0.0"),
        ({"action_multiplier": 1.0}, "action_multiplier must be a finite number above 1, got 1.0"),
        ({"sharpness": 0.0}, "sharpness must be a finite number above 0, got 0.0"),
        ({"judge_width": 15}, r"judge_width must be a multiple of heads \(2\), got 15"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gave.make_config(**changes)
