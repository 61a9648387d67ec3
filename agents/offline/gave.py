"""GAVE: a Decision Transformer that is led beyond the logged actions by what it foretells of others near them.

Gao et al., "Generative Auto-Bidding with Value-Guided Explorations", SIGIR 2025 (arXiv:2504.14587), section 3. Beside each
logged bid multiplier there is another, ``beta x`` the logged one, with ``beta`` in (1/2, 3/2) given by the network. An
outcome head foretells what the logged action and the other one come to, ``r`` and ``r~``; a value head learns an upper
expectile of outcomes, ``V``. Then

- outcomes: ``L_r = E[(r - R(h, a))^2]``;
- actions: ``w = sigmoid(alpha_r (r~ - r^))`` and ``L_a = E[(1 - w) (pi - a)^2 + w (pi - a~)^2]``, ``w`` and ``a~`` held fixed;
- value: ``L_e = E[|tau - 1(u < 0)| u^2]`` with ``u = r - V``, ``tau`` = 0.99;
- exploration: ``L_v = E[(r~ - V)^2]``, ``V`` held fixed, which moves ``beta``.

Actions here are logs of multipliers, so ``beta`` is added as ``log beta`` on their scale. The score to go of the paper is the
return to go of rewards that are changes of the score (see `adarena.agents.offline.returns`).

Goals are by default asked anew at every step (``"advantage"``): where the whole day's return is asked for, what exploration
earns early is taken back later, so that the day comes to what was asked for.

Departures. The paper's outcome is the score to go after the step, ``r_{t+1}``, foretold by a transformer that reads ``r_t`` as
well; since ``r_{t+1} = r_t - (S_t - S_{t-1})``, the action with the better outcome would be the one that earns less now. Here
outcome, value and ``beta`` are read from a second, smaller transformer that reads no goals, and the outcome counts the step
itself: ``r_t = S_T - S_{t-1}``, in deviations above what the observation foretells. The action meets it in the outcome's
head instead of as its last token, so two actions cost two heads and not two passes. ``L_v`` moves ``beta`` alone: it would
otherwise teach the outcome head that whatever is explored is good.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import COUNT, OPEN_SHARE, POSITIVE, check_fields, checked_config
from adarena.agents.offline.data import Data, Spec
from adarena.agents.offline.decision_transformer import (
    NUMERIC_RULES,
    STATIC_RULES,
    Network,
    SequencePolicy,
    State,
    advanced,
    check_sizes,
    encoder_of,
    first_context,
    learning_rate,
    sample_contexts,
    sequence_policy,
    static,
)
from adarena.agents.offline.learner import applied, descend, init_common, init_trained
from adarena.agents.offline.returns import Meter, fit_goals
from adarena.agents.offline.transformer import Context, SequenceEncoder

__all__ = ["Config", "Explorer", "Metrics", "State", "expectile_loss", "init", "make_config", "make_policy", "update"]


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        context, width, layers, heads, past_actions, conditioning, meter, batch: As in
            `adarena.agents.offline.decision_transformer.Config`. Static.
        judge_width: Width of the transformer that outcomes are read from. Static.
        judge_layers: Its blocks. Static.
        learning_rate, warmup_steps, decay_steps, target: As there.
        explore: How far ``beta`` goes from 1 to either side.
        action_multiplier: What the highest action multiplies the bid by, for the scale of ``beta``; `AutoBid`'s
            ``max_multiplier``.
        expectile: ``tau``.
        sharpness: ``alpha_r``, per standard deviation of outcomes.
    """

    context: int = static(12)
    width: int = static(64)
    layers: int = static(2)
    heads: int = static(2)
    past_actions: bool = static(False)
    conditioning: str = static("advantage")
    meter: Meter | None = static(None)
    batch: int = static(64)
    judge_width: int = static(32)
    judge_layers: int = static(1)
    learning_rate: float = 1e-3
    warmup_steps: float = 100.0
    decay_steps: float = float("inf")
    target: float = 1.0
    explore: float = 0.5
    action_multiplier: float = 8.0
    expectile: float = 0.99
    sharpness: float = 100.0

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, {**STATIC_RULES, "judge_width": COUNT, "judge_layers": COUNT}, {**NUMERIC_RULES, **_RULES})
        check_sizes(self)
        if self.judge_width % self.heads:
            raise ValueError(f"judge_width must be a multiple of heads ({self.heads}), got {self.judge_width}")


_RULES = {
    "explore": OPEN_SHARE,
    "action_multiplier": (lambda x: 1.0 < x < float("inf"), "a finite number above 1"),
    "expectile": OPEN_SHARE,
    "sharpness": POSITIVE,
}


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "gave", changes)


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        mse: Mean squared distance of the model's actions from the logged ones, on the scale of [-1, 1].
        outcome_mse: Mean squared error of foretold outcomes, in variances of what observations leave open.
        value: Mean of the upper expectile.
        preferred: Mean ``w``: how often the explored action is preferred.
        log_beta: Mean log of ``beta``.
    """

    mse: jax.Array
    outcome_mse: jax.Array
    value: jax.Array
    preferred: jax.Array
    log_beta: jax.Array


class Explorer(nn.Module):
    """The model that acts, and the one that foretells outcomes.

    Attributes:
        actor: The Decision Transformer.
        judge: A transformer that reads no goals.
        actions: ``A``.
    """

    actor: Network
    judge: SequenceEncoder
    actions: int

    def setup(self) -> None:
        """Declares the heads."""
        self.outcome_hidden = nn.Dense(2 * self.judge.width)
        self.outcome_last = nn.Dense(1)
        self.value = nn.Dense(1)
        self.beta_hidden = nn.Dense(16)
        self.beta_last = nn.Dense(self.actions, kernel_init=nn.initializers.zeros_init())

    def __call__(
        self, context: Context, explore: jax.Array | float, scale: jax.Array | float
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """All that the losses need, ``[..., K]`` each.

        Args:
            context: What was asked, seen and done.
            explore: How far ``beta`` goes from 1.
            scale: Action per log of the multiplier.

        Returns:
            The action, ``[..., K, A]``; the explored one; the outcome of the logged action; the value; and what outcomes
            are read from, ``[..., K, judge width]``.
        """
        hidden = self.judge(context)
        turn = 2.0 * nn.sigmoid(self.beta_last(nn.gelu(self.beta_hidden(jax.lax.stop_gradient(hidden))))) - 1.0
        explored = jnp.clip(context.action + jnp.log1p(explore * turn) * scale, -1.0, 1.0)
        outcome = self.outcome(hidden, context.action)
        return self.actor(context), explored, outcome, self.value(hidden)[..., 0], hidden

    def outcome(self, hidden: jax.Array, action: jax.Array) -> jax.Array:
        """What actions ``[..., A]`` come to, ``[...]``."""
        inputs = jnp.concatenate([hidden, action], -1)
        return self.outcome_last(nn.swish(self.outcome_hidden(inputs)))[..., 0]

    def mode(self, context: Context) -> jax.Array:
        """What is done at each step."""
        return self.actor(context)


def expectile_loss(error: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """``|tau - 1(u < 0)| u^2`` (Newey and Powell, 1987; Kostrikov et al., ICLR 2022)."""
    return jnp.abs(expectile - (error < 0.0)) * jnp.square(error)


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_network = jax.random.split(key)
    inputs = (first_context(config, data), 0.5, 1.0)
    network = init_trained(_explorer(config, data.spec, data.steps), key_network, *inputs)
    return State(network, fit_goals(data), init_common(data, key))


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch = jax.random.split(state.common.key)
    context, windows = sample_contexts(config, state.goals, data, key_batch)
    true = state.goals.relative(windows.obs, windows.returns_to_go, windows.time)
    module, rate = _explorer(config, data.spec, data.steps), learning_rate(config, state.common.steps)
    scale = 1.0 / jnp.log(config.action_multiplier)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        fixed = jax.lax.stop_gradient
        action, explored, outcome, value, hidden = applied(module, params, context, config.explore, scale)
        other = module.apply({"params": fixed(params)}, fixed(hidden), explored, method="outcome")
        preference = fixed(jax.nn.sigmoid(config.sharpness * (other - outcome)))
        near, far = (jnp.square(action - fixed(to)).sum(-1) for to in (windows.action, explored))
        imitated = ((1.0 - preference) * near + preference * far).mean()
        foretold = jnp.square(true - outcome).mean()
        upper = expectile_loss(true - value, config.expectile).mean()
        guided = jnp.square(other - fixed(value)).mean()
        shift = (explored - windows.action).mean() / scale
        return imitated + foretold + upper + guided, Metrics(
            near.mean(), foretold, value.mean(), preference.mean(), shift
        )

    network, _, metrics = descend(loss, state.network, rate)
    return State(network, state.goals, advanced(state.common, key)), metrics


def make_policy(config: Config, spec: Spec, state: State) -> SequencePolicy:
    """The model as a policy that asks for ``config.target``; ``state`` may be stacked over seeds."""
    module = _explorer(config, spec, state.goals.mean.shape[-2])
    return sequence_policy(config, spec, module, state.network.params, state.goals, state.common)


def _explorer(config: Config, spec: Spec, steps: int) -> Explorer:
    judge = encoder_of(
        config, steps, width=config.judge_width, layers=config.judge_layers, goals=False, actions=config.past_actions
    )
    return Explorer(Network(encoder_of(config, steps), spec.actions), judge, spec.actions)
