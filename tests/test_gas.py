"""GAS: critics vote for the better of the candidates, also where the next reward says otherwise, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_sequences import SMALL, SPEC, STEPS, check_resumes, signed_line, trained

from adarena.agents.offline import gas
from adarena.agents.offline.data import make_data

CONFIG = gas.make_config(
    critic_width=16, target=0.0, search=0.5, action_multiplier=4.0, candidates=6, target_rate=0.05, **SMALL
)


@pytest.fixture(scope="module")
def data() -> Any:
    """An action costs half of what it pays a step later; the third entry shows the one before."""
    episodes = signed_line(512, level=0.2, noise=0.4)
    sign = episodes.observations[:, :1, 1]
    done = episodes.actions[..., 0] * sign
    before = np.concatenate([np.zeros_like(sign), done], 1)
    seen = np.stack([np.zeros_like(before), np.broadcast_to(sign, before.shape), before], -1)
    rewards = before[:, :-1] - 0.5 * done
    return make_data(dataclasses.replace(episodes, observations=seen, rewards=rewards), SPEC)


@pytest.fixture(scope="module")
def state(data: Any) -> Any:
    """A trained base model and critics."""
    return trained(gas, CONFIG, data, 600)[0]


@jax.jit
def _played(policy: Any) -> jax.Array:
    """Actions times the sign, ``[2, 8, STEPS]``."""

    def episode(sign: jax.Array, key: jax.Array) -> jax.Array:
        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            memory, before = carry
            memory, action = policy.act(key, memory, jnp.stack([0.0, sign, before]))
            return (memory, action[0] * sign), action[0] * sign

        return jax.lax.scan(step, (policy.init(None), jnp.float32(0.0)), jax.random.split(key, STEPS))[1]

    keys = jax.random.split(jax.random.key(1), 8)
    return jax.vmap(jax.vmap(episode, (None, 0)), (0, None))(jnp.asarray([-1.0, 1.0]), keys)


def test_the_vote_looks_beyond_the_next_reward(state: Any) -> None:
    policies = {choice: gas.make_policy(CONFIG.replace(choice=choice), SPEC, state) for choice in gas.CHOICES}  # type: ignore[attr-defined]
    played = {choice: np.asarray(_played(policy)) for choice, policy in policies.items()}
    for sign in range(2):
        early = {choice: actions[sign, :, 1:-1].mean() for choice, actions in played.items()}
        assert early["full"] > early["base"] + 0.1  # an action pays twice its cost while there is a next step
        assert early["full"] > max(early["mean"], early["random"]) + 0.1
        assert early["greedy"] < early["base"] - 0.1
        last = {choice: actions[sign, :, -1].mean() for choice, actions in played.items()}
        assert last["full"] < last["base"] - 0.1  # and only costs at the last
    assert played["base"].std(1).max() < 1e-6  # nothing is drawn
    assert played["random"].std(1).min() > 0.02


def test_the_soft_vote() -> None:
    values = jnp.asarray([[0.0, 10.0, 5.0], [3.0, 2.9, 2.0], [1.0, 1.9, 2.0]])
    np.testing.assert_allclose(gas.vote(values), [0.0 + 1.0 + 0.0, 1.0 + 0.9 + 0.9, 0.5 + 0.0 + 1.0], rtol=1e-5)
    np.testing.assert_allclose(gas.vote(jnp.ones((2, 3))), 0.0)  # critics that see no difference have no say


def test_a_stopped_run_goes_on(tmp_path: Any, data: Any) -> None:
    check_resumes(gas, CONFIG, data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": "best"}, "choice must be one of full, random, mean, greedy, base, got 'best'"),
        ({"critics": 0}, "critics must be a whole number of at least 1, got 0"),
        ({"search": 1.0}, "search must be a number strictly between 0 and 1, got 1.0"),
        ({"candidates": True}, "candidates must be a whole number of at least 1, got True"),
        ({"critic_width": 15}, r"critic_width must be a multiple of heads \(2\), got 15"),
        ({"target_rate": 0.0}, "target_rate must be a number above 0, at most 1, got 0.0"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gas.make_config(**changes)
