"""Decision Transformer: the action as the next word of a sentence that says what was asked, seen and done.

Chen et al., NeurIPS 2021 (arXiv:2106.01345), section 3 and algorithm 1: a causal transformer reads the last ``K`` steps
``(R, o, a)`` and gives the action at each observation's token; the loss is the squared error of the logged action,
``E[(a_t - pi(R_{<=t}, o_{<=t}, a_{<t}))^2]``. When it acts it is asked for a return.

Departures: the returns may be relative to what observations foretell, see `adarena.agents.offline.returns`, since raw ones
tell seats apart rather than actions; tokens of past actions may be left out; Adam without weight decay or dropout.
Windows are filled from the front and never padded: windows that would reach over an episode's ends are moved inside it,
so that first and last steps are seen about as often as others.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from adarena.agents.fields import (
    COUNT,
    FLAG,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    Rule,
    check_fields,
    checked_config,
    one_of,
)
from adarena.agents.normalise import Moments, normalise
from adarena.agents.offline.data import Data, Spec, Windows, windows_at
from adarena.agents.offline.learner import (
    Common,
    Trained,
    applied,
    bounds,
    descend,
    from_unit,
    init_common,
    init_trained,
)
from adarena.agents.offline.returns import CONDITIONINGS, Goals, Meter, fit_goals, goal_asked, goal_labels
from adarena.agents.offline.transformer import Context, SequenceEncoder, begin, push, remember


def static(default: Any) -> Any:
    """A field of a configuration that shapes the program."""
    return struct.field(pytree_node=False, default=default)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        context: Steps that the transformer reads, ``K``, at most an episode's. Static.
        width: Width of the tokens. Static.
        layers: Blocks of the transformer. Static.
        heads: Attention heads. Static.
        past_actions: Whether past actions are read, too. Static.
        conditioning: ``"to_go"``, ``"relative"`` or ``"advantage"``, see `adarena.agents.offline.returns`. Static.
        meter: Reads what was earned so far off an observation; ``"to_go"`` cannot act without. Static.
        batch: Windows of a gradient step. Static.
        learning_rate: Step size of Adam.
        warmup_steps: Gradient steps over which it rises linearly at first.
        decay_steps: Gradient steps over which it falls linearly to zero; infinite for no decay.
        target: What is asked for when acting, in standard deviations of returns above what is expected.
    """

    context: int = static(12)
    width: int = static(64)
    layers: int = static(2)
    heads: int = static(2)
    past_actions: bool = static(False)
    conditioning: str = static("relative")
    meter: Meter | None = static(None)
    batch: int = static(64)
    learning_rate: float = 1e-3
    warmup_steps: float = 100.0
    decay_steps: float = float("inf")
    target: float = 1.0

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, STATIC_RULES, NUMERIC_RULES)
        check_sizes(self)


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "decision_transformer", changes)


STATIC_RULES: dict[str, Rule] = {
    "context": COUNT,
    "width": COUNT,
    "layers": COUNT,
    "heads": COUNT,
    "past_actions": FLAG,
    "conditioning": one_of(CONDITIONINGS),
    "meter": (lambda x: x is None or isinstance(x, Meter), "None or a Meter"),
    "batch": COUNT,
}
"""Rules of the static fields of sequence models."""

NUMERIC_RULES: dict[str, Rule] = {
    "learning_rate": POSITIVE,
    "warmup_steps": POSITIVE,
    "decay_steps": POSITIVE_OR_INFINITE,
    "target": (lambda x: -10.0 <= x <= 10.0, "a number in [-10, 10]"),
}
"""Rules of the numbers of sequence models."""


def check_sizes(config: Any) -> None:
    """Rules of a sequence model's fields that concern several.

    Raises:
        ValueError: ``heads`` do not divide ``width``, or ``"to_go"`` has no meter.
    """
    if config.width % config.heads:
        raise ValueError(f"width must be a multiple of heads ({config.heads}), got {config.width}")
    if config.conditioning == "to_go" and config.meter is None:
        raise ValueError("meter must be given where conditioning is 'to_go', got None")


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        network: Parameters of `Network`, and Adam.
        goals: What returns are compared with.
        common: Moments, key and steps.
    """

    network: Trained
    goals: Goals
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        mse: Mean squared error of the batch's actions, on the scale of [-1, 1], summed over entries.
        mse_last: The same at the windows' last steps, which know most of the past.
        rate: Learning rate used.
    """

    mse: jax.Array
    mse_last: jax.Array
    rate: jax.Array


class Network(nn.Module):
    """The transformer and the head of the action.

    Attributes:
        encoder: The transformer.
        actions: ``A``.
    """

    encoder: SequenceEncoder
    actions: int

    @nn.compact
    def __call__(self, context: Context) -> jax.Array:
        """Actions in [-1, 1], ``[..., K, A]``."""
        return jnp.tanh(nn.Dense(self.actions)(self.encoder(context)))

    def mode(self, context: Context) -> jax.Array:
        """What is done at each step."""
        return self(context)


def encoder_of(config: Any, steps: int, **changes: Any) -> SequenceEncoder:
    """The transformer that a configuration describes, for episodes of ``steps``."""
    sizes = {name: getattr(config, name) for name in ("width", "layers", "heads")}
    return SequenceEncoder(**{"steps": steps, **sizes, "actions": config.past_actions, **changes})


def sample_contexts(config: Any, goals: Goals, data: Data, key: jax.Array) -> tuple[Context, Windows]:
    """A batch of windows as the transformer reads them, and all else that is known of them."""
    return contexts_at(config, goals, data, *draw_windows(config, data, key))


def draw_windows(config: Any, data: Data, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Episodes and last steps of a batch of windows, ``[B]`` int32 each."""
    key_episode, key_last = jax.random.split(key)
    episode = jax.random.randint(key_episode, (config.batch,), 0, data.count)
    last = jax.random.randint(key_last, (config.batch,), 0, data.steps + config.context - 1)
    return episode, jnp.clip(last, config.context - 1, data.steps - 1)


def contexts_at(config: Any, goals: Goals, data: Data, episode: jax.Array, last: jax.Array) -> tuple[Context, Windows]:
    """The windows of episodes ``[B]`` that end at steps ``last`` ``[B]``, as the transformer reads them."""
    windows = windows_at(data, episode, last, config.context)
    goal = goal_labels(config.conditioning, goals, data, episode, windows.time)
    return Context(goal, windows.obs, windows.action, windows.time[:, 0]), windows


def first_context(config: Any, data: Data) -> Context:
    """A context of the right shapes, to make parameters for.

    Raises:
        ValueError: It is longer than an episode.
    """
    if config.context > data.steps:
        raise ValueError(f"context must be at most an episode's {data.steps} steps, got {config.context}")
    return begin(config.context, data.spec.observations, data.spec.actions)


def learning_rate(config: Any, steps: jax.Array) -> jax.Array:
    """Step size after so many steps: a linear rise, and a linear fall to zero."""
    left = jnp.maximum(1.0 - steps / config.decay_steps, 0.0)
    return config.learning_rate * jnp.minimum((steps + 1) / config.warmup_steps, 1.0) * left


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step."""
    key, key_network = jax.random.split(key)
    network = init_trained(_network(config, data.spec, data.steps), key_network, first_context(config, data))
    return State(network, fit_goals(data), init_common(data, key))


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_batch = jax.random.split(state.common.key)
    context, windows = sample_contexts(config, state.goals, data, key_batch)
    rate = learning_rate(config, state.common.steps)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        chosen = applied(_network(config, data.spec, data.steps), params, context)
        error = jnp.square(chosen - windows.action).sum(-1)
        return error.mean(), Metrics(error.mean(), error[:, -1].mean(), rate)

    network, _, metrics = descend(loss, state.network, rate)
    return State(network, state.goals, advanced(state.common, key)), metrics


def advanced(common: Common, key: jax.Array) -> Common:
    """After one more gradient step."""
    return common.replace(key=key, steps=common.steps + 1)  # type: ignore[attr-defined, no-any-return]


def make_policy(config: Config, spec: Spec, state: State) -> SequencePolicy:
    """The model as a policy that asks for ``config.target``; ``state`` may be stacked over seeds."""
    steps = state.goals.mean.shape[-2]
    return sequence_policy(config, spec, _network(config, spec, steps), state.network.params, state.goals, state.common)


def _network(config: Config, spec: Spec, steps: int) -> Network:
    return Network(encoder_of(config, steps), spec.actions)


@struct.dataclass
class SequencePolicy:
    """A sequence model as an `adarena.agents.policy.Policy`, which remembers the last ``K`` steps.

    A pytree: ``jax.vmap`` over one made of stacked states. ``target`` is a leaf, so one program asks for any return.

    Attributes:
        network: Parameters.
        goals: What returns are compared with.
        obs_moments: Moments that normalise an observation.
        low: What -1 means in the environment, ``[A]``.
        high: What 1 means in the environment, ``[A]``.
        target: What is asked for, in standard deviations above what is expected; scalar.
        module: The network, with a method ``mode`` from a context to actions in [-1, 1]. Static.
        context: ``K``. Static.
        conditioning: As in `Config`. Static.
        meter: As in `Config`. Static.
    """

    network: Any
    goals: Goals
    obs_moments: Moments
    low: jax.Array
    high: jax.Array
    target: jax.Array
    module: nn.Module = struct.field(pytree_node=False)
    context: int = struct.field(pytree_node=False)
    conditioning: str = struct.field(pytree_node=False)
    meter: Meter | None = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[Context, jax.Array]:
        """No step so far: an empty context, and step 0."""
        return begin(self.context, self.obs_moments.mean.shape[-1], self.low.shape[-1]), jnp.zeros((), jnp.int32)

    def act(
        self, key: jax.Array, carry: tuple[Context, jax.Array], obs: jax.Array
    ) -> tuple[tuple[Context, jax.Array], jax.Array]:
        """The action, ``[A]`` float32 inside the bounds, for one observation ``[O]``."""
        context, place, step = self.look(carry, obs)
        unit = self.choose(context, place)
        return (remember(context, place, unit), step + 1), from_unit(unit, self.low, self.high)

    def choose(self, context: Context, place: jax.Array) -> jax.Array:
        """The action in [-1, 1], ``[A]``, at one place of a context."""
        chosen: Any = self.module.apply({"params": self.network}, context, method="mode")
        return chosen[place]

    def look(self, carry: tuple[Context, jax.Array], obs: jax.Array) -> tuple[Context, jax.Array, jax.Array]:
        """The context with this step's goal and observation, its place in there, and which step it is."""
        context, step = carry
        goal = goal_asked(self.conditioning, self.goals, self.meter, self.target, obs)
        context, place = push(context, step, goal, normalise(self.obs_moments, obs))
        return context, place, step


def spread(number: Any, common: Common) -> jax.Array:
    """A policy's number, repeated for each seed where a state is stacked over seeds."""
    return jnp.broadcast_to(jnp.asarray(number, jnp.float32), common.steps.shape)


def sequence_policy(
    config: Any, spec: Spec, module: nn.Module, network: Any, goals: Goals, common: Common
) -> SequencePolicy:
    """The policy of a sequence model's parameters, which may be stacked over seeds."""
    low, high = bounds(spec, common.steps)
    return SequencePolicy(
        network,
        goals,
        common.obs_moments,
        low,
        high,
        spread(config.target, common),
        module=module,
        context=config.context,
        conditioning=config.conditioning,
        meter=config.meter,
    )
