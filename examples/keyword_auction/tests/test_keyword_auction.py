"""The tests that a package with an environment needs: the conformance suite, and one number worked out by hand."""

import jax
import jax.numpy as jnp
import pytest
from keyword_auction import EvenSpend, KeywordAuction

from adarena.envs.testing import check_env


def test_the_environment_keeps_to_the_contract() -> None:
    check_env(KeywordAuction(hours=6, searches=8), env_id="mine/Keyword-v0", exogenous=("time_left",))


def test_no_more_than_the_cap_is_spent() -> None:
    env, params = KeywordAuction(), KeywordAuction().default_params()
    _, state = env.reset(jax.random.key(0), params)
    for hour in range(env.hours):
        result = env.step(jax.random.key(hour), state, jnp.ones(1), params)
        assert float(result.info["cost"]) <= float(state.left) + 1e-5
        state = result.state
    assert float(env.metrics(state, params)["cap_used"]) == pytest.approx(1.0, abs=0.05)
    assert bool(result.terminated)


def test_the_rule_raises_bids_where_the_cap_is_left_over() -> None:
    rule = EvenSpend.build(KeywordAuction())
    actions = [float(rule.act(None, (), jnp.array([0.5, left, 0.0]))[1][0]) for left in (0.2, 0.5, 0.8)]
    assert actions == pytest.approx([-0.3, 0.0, 0.3])
