"""GAS: critics search around a Decision Transformer's action when it acts.

Li et al., "GAS: Generative Auto-bidding with Post-training Search", WWW Companion 2025 (arXiv:2412.17018), section 3. The
base model's bid multiplier is scaled by ``N - 1`` factors drawn evenly from [0.9, 1.1] (eq. 5); ``M`` critics, transformers
over past observations and actions (eq. 9), are learnt as in IQL: ``L_V = E[|tau - 1(u < 0)| u^2]`` with
``u = Q'(s, a) - V(s)`` (eq. 7) and ``L_Q = E[(r + gamma V(s') - Q(s, a))^2]`` (eq. 8); each critic's values of the
candidates are put on [0, 1] and added up (soft vote, eq. 13 and 14), and the candidate with the most is done. Table 3's
ablations are choices, too: the mean of the candidates, one at random, the one with the greatest foretold immediate reward,
the base action alone, and (``history`` off) critics without history.

Goals are by default asked anew at every step (``"advantage"``): where the whole day's return is asked for, the base model takes
back what the search won before.

Departures: actions here are logs of multipliers, so factors are added as logs. The action meets the critic in its head
rather than as its last token, so all candidates share one pass. A critic's value is added to a ridge regression's forecast of
the return to go, from which it starts. The critics share minibatches with each other and with the base model, but not
weights or seeds.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import COUNT, FLAG, OPEN_SHARE, POSITIVE_SHARE, SHARE, check_fields, checked_config, one_of
from adarena.agents.offline import decision_transformer
from adarena.agents.offline.data import Data, Spec, Windows
from adarena.agents.offline.decision_transformer import (
    NUMERIC_RULES,
    STATIC_RULES,
    SequencePolicy,
    check_sizes,
    encoder_of,
    first_context,
    learning_rate,
    sample_contexts,
    spread,
    static,
)
from adarena.agents.offline.gave import expectile_loss
from adarena.agents.offline.learner import Trained, applied, descend, follow, from_unit, init_trained
from adarena.agents.offline.returns import Goals, Meter
from adarena.agents.offline.transformer import Context, SequenceEncoder, remember

Choice = Literal["full", "random", "mean", "greedy", "base"]
"""How one of the candidates is chosen."""

CHOICES: tuple[str, ...] = get_args(Choice)
"""Every name in `Choice`."""


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        context, width, layers, heads, past_actions, conditioning, meter, batch: Of the base model, as in
            `adarena.agents.offline.decision_transformer.Config`. Static.
        critics: ``M``. Static.
        critic_width: Width of a critic's transformer. Static.
        critic_layers: Its blocks. Static.
        history: Whether critics see the past (off: "without QT"). Static.
        candidates: ``N``, the base action among them. Static.
        choice: ``"full"`` (the critics' vote), ``"random"``, ``"mean"``, ``"greedy"`` or ``"base"``. Static.
        learning_rate, warmup_steps, decay_steps, target: As there.
        search: How far factors on the multiplier go from 1 to either side.
        action_multiplier: What the highest action multiplies the bid by; `AutoBid`'s ``max_multiplier``.
        expectile: ``tau``.
        discount: ``gamma``.
        target_rate: Share of the way that target critics move in a step.
    """

    context: int = static(12)
    width: int = static(64)
    layers: int = static(2)
    heads: int = static(2)
    past_actions: bool = static(False)
    conditioning: str = static("advantage")
    meter: Meter | None = static(None)
    batch: int = static(64)
    critics: int = static(3)
    critic_width: int = static(32)
    critic_layers: int = static(1)
    history: bool = static(True)
    candidates: int = static(5)
    choice: str = static("full")
    learning_rate: float = 1e-3
    warmup_steps: float = 100.0
    decay_steps: float = float("inf")
    target: float = 1.0
    search: float = 0.1
    action_multiplier: float = 8.0
    expectile: float = 0.7
    discount: float = 1.0
    target_rate: float = 0.01

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        counts = dict.fromkeys(("critics", "critic_width", "critic_layers", "candidates"), COUNT)
        static_rules = {**STATIC_RULES, **counts, "history": FLAG, "choice": one_of(CHOICES)}
        check_fields(self, static_rules, {**NUMERIC_RULES, **_RULES})
        check_sizes(self)
        if self.critic_width % self.heads:
            raise ValueError(f"critic_width must be a multiple of heads ({self.heads}), got {self.critic_width}")


_RULES = {
    "search": OPEN_SHARE,
    "action_multiplier": (lambda x: 1.0 < x < float("inf"), "a finite number above 1"),
    "expectile": OPEN_SHARE,
    "discount": SHARE,
    "target_rate": POSITIVE_SHARE,
}


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "gas", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        base: State of the Decision Transformer.
        critics: Parameters of ``M`` times `Critic`, leaves ``[M, ...]``, and Adam.
        targets: Parameters of the target critics.
    """

    base: decision_transformer.State
    critics: Trained
    targets: Any


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        mse: Of the base model's actions, as in `adarena.agents.offline.decision_transformer.Metrics`.
        q_loss: Mean squared error of eq. 8, in variances of returns.
        v_loss: Mean of eq. 7.
        q: Mean value of logged actions, in standard deviations of returns.
        reward_mse: Mean squared error of foretold immediate rewards.
    """

    mse: jax.Array
    q_loss: jax.Array
    v_loss: jax.Array
    q: jax.Array
    reward_mse: jax.Array


class Critic(nn.Module):
    """A transformer over the past that says what actions are worth.

    Attributes:
        encoder: Reads observations and past actions, no goals.
        history: Whether it sees more than the step itself.
    """

    encoder: SequenceEncoder
    history: bool

    def setup(self) -> None:
        """Declares the heads."""
        self.hidden = nn.Dense(2 * self.encoder.width)
        self.worth = nn.Dense(2, kernel_init=nn.initializers.normal(0.02))
        self.level = nn.Dense(1, kernel_init=nn.initializers.normal(0.02))

    def __call__(self, context: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``(q, v, reward)`` of the actions in the context, ``[..., K]`` each, beside the forecast."""
        state = self.read(context)
        q, reward = self.judge(state, context.action)
        return q, self.level(state)[..., 0], reward

    def read(self, context: Context) -> jax.Array:
        """What is known at each step, ``[..., K, width]``."""
        if self.history:
            return self.encoder(context)
        time = context.time[..., None] + jnp.arange(context.goal.shape[-1])
        alone = Context(context.goal[..., None], context.obs[..., None, :], context.action[..., None, :], time)
        return self.encoder(alone)[..., 0, :]

    def judge(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Value and immediate reward of actions ``[..., A]``, ``[...]`` each."""
        out = self.worth(nn.swish(self.hidden(jnp.concatenate([state, action], -1))))
        return out[..., 0], out[..., 1]

    def candidates(self, context: Context, place: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Value and immediate reward of ``[N, A]`` actions at one place of one context, ``[N]`` each."""
        state = self.read(context)[place]
        return self.judge(jnp.broadcast_to(state, (len(actions), *state.shape)), actions)


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key_base, key_critics = jax.random.split(key)
    module, context = _critic(config, data.steps), first_context(config, data)
    critics = jax.vmap(lambda key: init_trained(module, key, context))(jax.random.split(key_critics, config.critics))
    return State(decision_transformer.init(_base(config), data, key_base), critics, critics.params)


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    base, base_metrics = decision_transformer.update(_base(config), data, state.base)
    key, key_batch = jax.random.split(base.common.key)
    context, windows = sample_contexts(config, base.goals, data, key_batch)
    # The same windows one step later: the value of what follows a step is read with as long a history as when acting.
    later = Context(context.goal, windows.next_obs, jnp.roll(context.action, -1, 1), context.time + 1)
    rate = learning_rate(config, state.base.common.steps)
    module = _critic(config, data.steps)

    def step(critic: Trained, target: Any) -> tuple[Trained, Any, Metrics]:
        goal_q = applied(module, target, context)[0]

        def loss(params: Any) -> tuple[jax.Array, Metrics]:
            next_v = applied(module, jax.lax.stop_gradient(params), later)[1]
            said = applied(module, params, context)
            return _losses(config, base.goals, windows, said, next_v, goal_q, base_metrics.mse)

        critic, _, metrics = descend(loss, critic, rate)
        return critic, follow(target, critic.params, config.target_rate), metrics

    critics, targets, metrics = jax.vmap(step)(state.critics, state.targets)
    base = base.replace(common=base.common.replace(key=key))  # type: ignore[attr-defined]
    return State(base, critics, targets), jax.tree.map(lambda x: x.mean(0), metrics)


def _losses(
    config: Config,
    goals: Goals,
    windows: Windows,
    said: tuple[jax.Array, jax.Array, jax.Array],
    next_v: jax.Array,
    target_q: jax.Array,
    mse: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Eq. 7 and 8 over windows, and the immediate reward's error."""
    q, v, reward = said
    forecast = goals.forecast(windows.obs, windows.time)
    earned = windows.reward / goals.unit
    ahead = next_v + goals.forecast(windows.next_obs, windows.time + 1)
    aim = earned + config.discount * jnp.where(windows.terminated, 0.0, ahead)
    q_loss = jnp.square(aim - forecast - q).mean()
    v_loss = expectile_loss(target_q - v, config.expectile).mean()
    reward_mse = jnp.square(earned - reward).mean()
    return q_loss + v_loss + reward_mse, Metrics(mse, q_loss, v_loss, (q + forecast).mean(), reward_mse)


def make_policy(config: Config, spec: Spec, state: State) -> SearchPolicy:
    """The base model and its critics as a policy; ``state`` may be stacked over seeds."""
    steps = state.base.goals.mean.shape[-2]
    return SearchPolicy(
        decision_transformer.make_policy(_base(config), spec, state.base),
        state.critics.params,
        search=spread(config.search, state.base.common),
        action_multiplier=spread(config.action_multiplier, state.base.common),
        choice=jnp.full(state.base.common.steps.shape, CHOICES.index(config.choice), jnp.int32),
        module=_critic(config, steps),
        candidates=config.candidates,
    )


def vote(values: jax.Array) -> jax.Array:
    """Soft majority vote (eq. 13 and 14): ``[M, N]`` critics' values of candidates to ``[N]``, each critic's on [0, 1]."""
    low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
    return ((values - low) / jnp.maximum(high - low, 1e-9)).sum(0)


@struct.dataclass
class SearchPolicy:
    """A Decision Transformer whose actions critics refine, as an `adarena.agents.policy.Policy`.

    A pytree: ``jax.vmap`` over one made of stacked states.

    Attributes:
        base: The Decision Transformer; its ``target`` is what is asked for.
        critics: Parameters, leaves ``[M, ...]``.
        search: How far factors go from 1, scalar.
        action_multiplier: What the highest action multiplies the bid by, scalar.
        choice: How a candidate is chosen, by its place in `CHOICES`, scalar int32: one program serves all ways.
        module: The critic. Static.
        candidates: ``N``. Static.
    """

    base: SequencePolicy
    critics: Any
    search: jax.Array
    action_multiplier: jax.Array
    choice: jax.Array
    module: Critic = struct.field(pytree_node=False)
    candidates: int = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[Context, jax.Array]:
        """No step so far."""
        return self.base.init(params)

    def act(
        self, key: jax.Array, carry: tuple[Context, jax.Array], obs: jax.Array
    ) -> tuple[tuple[Context, jax.Array], jax.Array]:
        """The action, ``[A]`` float32 inside the bounds, for one observation ``[O]``."""
        context, place, step = self.base.look(carry, obs)
        unit = self.base.choose(context, place)
        key_factors, key_choice = jax.random.split(key)
        tried = self._around(key_factors, unit)

        def judged(params: Any) -> Any:
            return self.module.apply({"params": params}, context, place, tried, method="candidates")

        values, rewards = jax.vmap(judged)(self.critics)
        chosen = {
            "full": tried[jnp.argmax(vote(values))],
            "random": jax.random.choice(key_choice, tried),
            "mean": tried.mean(0),
            "greedy": tried[jnp.argmax(rewards.mean(0))],
            "base": unit,
        }
        unit = jnp.stack([chosen[name] for name in CHOICES])[self.choice]
        return (remember(context, place, unit), step + 1), from_unit(unit, self.base.low, self.base.high)

    def _around(self, key: jax.Array, unit: jax.Array) -> jax.Array:
        """The candidates, ``[N, A]``: the action itself first, then others around it (eq. 5)."""
        shape = (self.candidates - 1, *unit.shape)
        factors = jax.random.uniform(key, shape, minval=1.0 - self.search, maxval=1.0 + self.search)
        moved = unit + jnp.log(factors) / jnp.log(self.action_multiplier)
        return jnp.concatenate([unit[None], jnp.clip(moved, -1.0, 1.0)])


def _base(config: Config) -> decision_transformer.Config:
    """The base model's part of the configuration."""
    names = (*STATIC_RULES, *NUMERIC_RULES)
    return decision_transformer.Config(**{name: getattr(config, name) for name in names})


def _critic(config: Config, steps: int) -> Critic:
    sizes = {"width": config.critic_width, "layers": config.critic_layers}
    return Critic(encoder_of(config, steps + 1, goals=False, actions=config.history, **sizes), config.history)
