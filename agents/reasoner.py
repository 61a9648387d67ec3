"""A bidder that reasons: it thinks a short chain of words, then acts on it; chains are learnt from logs and graded.

After LBM (Kuaishou, WWW 2026, arXiv:2603.05134), with small networks in place of language models. Words and their truth are
in `adarena.agents.offline.thoughts`. Training has two phases in one loop:

1. *Behaviour.* Think learns the chains that a log would have thought in hindsight, by cross-entropy; Act learns the logged
   actions given these chains; critics learn what actions are worth: the return that the rest of the day brought after
   them, over what the observation foretells; and a value what the state is worth.
2. *Grading* (as their GQPO), from ``behaviour_steps`` on: at each state Think draws ``chains`` chains and Act its action
   on each; the logged chain stands beside them. A chain's grade is its advantage under the critics, in standard deviations,
   and ``truth_weight`` times its `closeness` to what was true and what came true. The best chain is learnt if its advantage is
   above zero; what the log would have thought goes on being learnt with weight ``anchor``, which keeps the words' meaning.

Departures from LBM: truth is part of the grade. Critics are fitted to whole returns, without bootstrapping, so that nothing has
to travel back over 48 undiscounted ticks. They judge the action that comes of a chain and not its plan, which is found in
hindsight and may know what came after it. Act is trained on the log throughout, so that chains must improve, not it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE_OR_INFINITE,
    WIDTHS,
    check_fields,
    checked_config,
)
from adarena.agents.offline.data import Data, Spec, Windows
from adarena.agents.offline.decision_transformer import (
    NUMERIC_RULES,
    STATIC_RULES,
    advanced,
    check_sizes,
    contexts_at,
    draw_windows,
    encoder_of,
    first_context,
    learning_rate,
    static,
)
from adarena.agents.offline.learner import Common, Trained, applied, descend, init_common, init_trained
from adarena.agents.offline.networks import Critics, Value
from adarena.agents.offline.returns import Goals, Meter, fit_goals
from adarena.agents.offline.think import Act, Think, no_thoughts
from adarena.agents.offline.thoughts import LENGTH, SLOTS, Reader, annotate, closeness, encode
from adarena.agents.offline.transformer import Context
from adarena.agents.reasoner_policy import ReasoningPolicy, reasoning_policy


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        reader: Reads what thoughts are about off an observation (`adarena.agents.offline.thoughts.reader_of`). Static.
        context, width, layers, heads, past_actions, conditioning, meter, batch: Of both transformers, as in
            `adarena.agents.offline.decision_transformer.Config`. Static.
        chains: Chains drawn at a state to be graded. Static.
        critic_hidden: Widths of the critics' hidden layers. Static.
        learning_rate, warmup_steps, decay_steps, target: As there.
        thoughts: 1: Act is told what was thought; 0: it is not, the same network with the same parameters on zeros, and
            Think is trained for nothing.
        behaviour_steps: Gradient steps before chains are graded; infinite for never.
        graded: Weight of the best chains from then on; 0 for behaviour alone.
        anchor: Weight of the log's chains from then on.
        truth_weight: Weight of truth in a grade, beside an advantage in standard deviations.
    """

    reader: Reader | None = static(None)
    context: int = static(12)
    width: int = static(64)
    layers: int = static(2)
    heads: int = static(2)
    past_actions: bool = static(False)
    conditioning: str = static("relative")
    meter: Meter | None = static(None)
    batch: int = static(64)
    chains: int = static(3)
    critic_hidden: tuple[int, ...] = static((128, 128))
    learning_rate: float = 1e-3
    warmup_steps: float = 100.0
    decay_steps: float = float("inf")
    target: float = 1.0
    thoughts: float = 1.0
    behaviour_steps: float = 1500.0
    graded: float = 1.0
    anchor: float = 0.5
    truth_weight: float = 1.0

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        own = {
            "reader": (lambda x: isinstance(x, Reader), "a Reader (adarena.agents.offline.thoughts.reader_of)"),
            "chains": COUNT,
            "critic_hidden": WIDTHS,
        }
        numbers = {
            "thoughts": (lambda x: x in (0.0, 1.0), "0 or 1"),
            "behaviour_steps": POSITIVE_OR_INFINITE,
            "graded": NOT_NEGATIVE,
            "anchor": NOT_NEGATIVE,
            "truth_weight": NOT_NEGATIVE,
        }
        check_fields(self, {**own, **STATIC_RULES}, {**NUMERIC_RULES, **numbers})
        check_sizes(self)


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults; ``reader`` must be given.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "reasoner", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        think: Parameters of `adarena.agents.offline.think.Think`, and Adam.
        act: Parameters of `adarena.agents.offline.think.Act`, and Adam.
        critics: Parameters of two critics of actions, and Adam.
        value: Parameters of the value of a state, and Adam.
        goals: What returns are compared with.
        common: Moments, key and steps.
    """

    think: Trained
    act: Trained
    critics: Trained
    value: Trained
    goals: Goals
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        mse: Mean squared error of logged actions given the log's chains, on the scale of [-1, 1], summed over entries.
        diagnosis, forecast, plan: Mean negative log-chance (nats a word) of the log's words.
        q_loss: Mean squared error of the critics, in variances of returns, summed over the two.
        v_loss: Mean squared error of the values, in the same unit.
        advantage: Mean advantage of drawn chains, in standard deviations of returns.
        kept: Share of states whose best chain was learnt.
    """

    mse: jax.Array
    diagnosis: jax.Array
    forecast: jax.Array
    plan: jax.Array
    q_loss: jax.Array
    v_loss: jax.Array
    advantage: jax.Array
    kept: jax.Array


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_think, key_act, key_critics, key_value = jax.random.split(key, 5)
    context = first_context(config, data)
    steps = context.goal.shape
    obs = data.observations[0, 0]
    return State(
        think=init_trained(_think(config, data.steps), key_think, context, jnp.zeros((*steps, LENGTH), jnp.int32)),
        act=init_trained(_act(config, data.spec, data.steps), key_act, context, no_thoughts(steps)),
        critics=init_trained(_critics(config), key_critics, obs, data.actions[0, 0]),
        value=init_trained(_value(config), key_value, obs),
        goals=fit_goals(data),
        common=init_common(data, key),
    )


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch, key_chains = jax.random.split(state.common.key, 3)
    episode, last = draw_windows(config, data, key_batch)
    context, windows = contexts_at(config, state.goals, data, episode, last)
    assert config.reader is not None
    chain = annotate(config.reader, data, episode, windows.time)
    rate = learning_rate(config, state.common.steps)
    critics, value, q_loss, v_loss = _judge(config, state, windows, rate)
    act, mse, _ = descend(lambda params: _act_loss(config, data, params, context, chain), state.act, rate)
    place = jax.random.randint(jax.random.fold_in(key_chains, config.chains), (config.batch,), 0, config.context)
    best, kept, advantage = _grade(config, data, state, (context, windows.action, chain), place, key_chains)
    begun = state.common.steps >= config.behaviour_steps
    anchor, learnt = jnp.where(begun, config.anchor, 1.0), kept * begun

    def think_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        module = _think(config, data.steps)
        read = applied_method(module, params, "read", context)
        surprise = _surprise(applied_method(module, params, "follow", read, chain), chain)
        chosen = _surprise(applied_method(module, params, "follow", _taken(read, place), best), best)
        return anchor * surprise.mean() + config.graded * (learnt[:, None] * chosen).mean(), surprise.mean((0, 1))

    think, _, surprise = descend(think_loss, state.think, rate)
    kinds = {kind: jnp.mean(surprise[_of_kind(kind)]) for kind in ("diagnosis", "forecast", "plan")}
    metrics = Metrics(mse, **kinds, q_loss=q_loss, v_loss=v_loss, advantage=advantage, kept=learnt.mean())
    common = advanced(state.common, key)
    return State(think, act, critics, value, state.goals, common), metrics


def make_policy(config: Config, spec: Spec, state: State) -> ReasoningPolicy:
    """The bidder, which thinks middle words; ``state`` may be stacked over seeds."""
    steps = state.goals.mean.shape[-2]
    return reasoning_policy(
        config,
        spec,
        _think(config, steps),
        _act(config, spec, steps),
        think=state.think.params,
        act=state.act.params,
        goals=state.goals,
        common=state.common,
    )


def applied_method(module: Any, params: Any, method: str, *inputs: Any) -> Any:
    """What one method of a network says of ``inputs``."""
    return module.apply({"params": params}, *inputs, method=method)


def _act_loss(config: Config, data: Data, params: Any, context: Context, chain: jax.Array) -> tuple[jax.Array, None]:
    told = encode(chain) * config.thoughts
    chosen = applied(_act(config, data.spec, data.steps), params, context, told)
    return jnp.square(chosen - context.action).sum(-1).mean(), None


def _judge(
    config: Config, state: State, windows: Windows, rate: jax.Array
) -> tuple[Trained, Trained, jax.Array, jax.Array]:
    """Critics and values after a gradient step, and the losses before it."""
    goals = state.goals
    brought = windows.returns_to_go / goals.unit - goals.forecast(windows.obs, windows.time)

    def critic_loss(params: Any) -> tuple[jax.Array, None]:
        said = applied(_critics(config), params, windows.obs, windows.action)
        return jnp.square(said - brought).mean((-1, -2)).sum(), None

    def value_loss(params: Any) -> tuple[jax.Array, None]:
        return jnp.square(applied(_value(config), params, windows.obs) - brought).mean(), None

    critics, q_loss, _ = descend(critic_loss, state.critics, rate)
    value, v_loss, _ = descend(value_loss, state.value, rate)
    return critics, value, q_loss, v_loss


def _grade(
    config: Config,
    data: Data,
    state: State,
    logged: tuple[Context, jax.Array, jax.Array],
    place: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws chains at one step of each window, ``place`` ``[B]``, and grades them beside the logged ones.

    Returns:
        The best chains, ``[B, L]``; whether each is to be learnt, ``[B]`` float32; the drawn chains' mean advantage.
    """
    context, action, chain = logged
    think, act = _think(config, data.steps), _act(config, data.spec, data.steps)
    read = applied_method(think, state.think.params, "read", context)
    read, known = _taken(read, place), _taken(applied_method(act, state.act.params, "read", context), place)
    obs, truth = _taken(context.obs, place), _taken(chain, place)

    def drawn(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        said, _ = applied_method(think, state.think.params, "say", read, key)
        return said, applied_method(act, state.act.params, "decide", known, encode(said) * config.thoughts)

    chains, actions = jax.vmap(drawn)(jax.random.split(key, config.chains))
    chains = jnp.concatenate([truth[None], chains])
    actions = jnp.concatenate([_taken(action, place)[None], actions])
    q = applied(_critics(config), state.critics.params, jnp.broadcast_to(obs, (len(chains), *obs.shape)), actions).min(
        0
    )
    advantage = q - applied(_value(config), state.value.params, obs)
    grade = advantage / jnp.maximum(advantage.std(), 1e-6) + config.truth_weight * closeness(chains, truth)
    first = jnp.argmax(grade, 0)[None]
    best = jnp.take_along_axis(chains, first[..., None], 0)[0]
    kept = jnp.take_along_axis(advantage, first, 0)[0] > 0.0
    return best, kept.astype(jnp.float32), advantage[1:].mean()


def _taken(values: jax.Array, place: jax.Array) -> jax.Array:
    """One step of each window: ``[B, K, ...]`` at ``[B]``, to ``[B, ...]``."""
    return jnp.take_along_axis(values, place[:, None, None], 1)[:, 0]


def _surprise(chances: tuple[jax.Array, ...], chain: jax.Array) -> jax.Array:
    """Negative log-chances of words ``[..., L]``, of the same shape."""
    found = [jnp.take_along_axis(slot, chain[..., n, None], -1)[..., 0] for n, slot in enumerate(chances)]
    return -jnp.stack(found, -1)


def _of_kind(kind: str) -> jax.Array:
    return jnp.asarray([n for n, slot in enumerate(SLOTS) if slot.kind == kind])


def _think(config: Config, steps: int) -> Think:
    return Think(encoder_of(config, steps))


def _act(config: Config, spec: Spec, steps: int) -> Act:
    return Act(encoder_of(config, steps), spec.actions)


def _critics(config: Config) -> Critics:
    return Critics(config.critic_hidden, 2, "relu", True)


def _value(config: Config) -> Value:
    return Value(config.critic_hidden, "relu", True)
