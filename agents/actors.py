"""The networks that learners train: which one suits an environment, how it is made, and what its parameters say of it."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np

from adarena.agents.distributions import Family, output_size, outputs_at
from adarena.agents.networks import ActorCritic
from adarena.agents.normalise import ObsMoments, init_moments, init_set_moments
from adarena.agents.set_networks import HEADS, SetActorCritic, SetKind
from adarena.envs.core import AutoReset, Env
from adarena.envs.sets import SetLayout

NetworkKind = Literal["mlp", "deep_sets", "attention"]
"""A multilayer perceptron of the whole observation, or a network of a set of items (`adarena.agents.set_networks`)."""

NETWORKS: tuple[str, ...] = get_args(NetworkKind)
"""Every name in `NetworkKind`."""


class ActorConfig(Protocol):
    """What a learner's configuration says of its network; all static but ``initial_log_std``. See `ppo_config.Config`."""

    @property
    def network(self) -> NetworkKind: ...  # noqa: D102
    @property
    def hidden(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def activation(self) -> str: ...  # noqa: D102
    @property
    def distribution(self) -> Family: ...  # noqa: D102
    @property
    def initial_action(self) -> tuple[float, ...] | None: ...  # noqa: D102
    @property
    def initial_log_std(self) -> Any: ...  # noqa: D102


def check_network(config: ActorConfig) -> None:
    """Refuses widths that the attention cannot share among its heads.

    Raises:
        ValueError: As said.
    """
    if config.network == "attention" and config.hidden[-1] % HEADS:
        raise ValueError(f"hidden must end in a multiple of {HEADS} for network 'attention', got {config.hidden!r}")


def layout_of(env: Env) -> SetLayout | None:
    """The layout of an environment of alike items (its attribute ``layout``); None for others."""
    return getattr(_inner(env), "layout", None)


def init_network(
    config: ActorConfig, env: Env, params: Any, key: jax.Array, obs: jax.Array, actions: int
) -> tuple[Any, jax.Array | None]:
    """Fresh parameters of an actor and a critic.

    Args:
        config: What network is wanted.
        env: The environment.
        params: Its parameters.
        key: Typed key that decides the parameters.
        obs: Observations, ``[B, O]`` float32; only their shape is read.
        actions: Entries of the action, or choices.

    Returns:
        The parameters; and the action that empty places get, ``[A]`` in the environment's units (the environment's
        neutral one, else the middle of the range), None for ``"mlp"``.

    Raises:
        ValueError: The environment has no set of items and a network of a set is wanted; its layout does not fit its
            spaces; or the action to start at is none.
        TypeError: Choices, where a network of a set is wanted or an action to start at is given.
    """
    layout = _checked_layout(config, env, obs.shape[-1], actions)
    start = _initial_action(config, env, params, actions, layout)
    gaussian = config.distribution in ("gaussian", "tanh_gaussian")
    if layout is None:
        outputs, own = output_size(config.distribution, actions), actions
        module: Any = ActorCritic(config.hidden, config.activation, outputs, own if gaussian else 0)
    else:
        outputs, own = output_size(config.distribution, layout.actions), layout.actions
        module = _set_module(config, layout.context, layout.features, outputs, own if gaussian else 0)
    network = module.init(key, obs[:1])["params"]
    if gaussian:
        network = {**network, "log_std": jnp.full(own, config.initial_log_std, jnp.float32)}
    if start is not None:
        network = _started_at(config, network, start if layout is None else start[: layout.actions])
    return network, None if layout is None else resting_action(env, params, actions)


def init_obs_moments(config: ActorConfig, env: Env, obs: jax.Array) -> ObsMoments:
    """Moments that normalise observations ``[B, O]``: of each entry, or of each feature of all items together."""
    layout = None if config.network == "mlp" else layout_of(env)
    return init_moments(obs.shape[1:]) if layout is None else init_set_moments(layout)


def module_of(config: ActorConfig, network: Any) -> ActorCritic | SetActorCritic:
    """The module whose parameters ``network`` are (sizes are read off the parameters' shapes)."""
    log_stds = network["log_std"].shape[-1] if "log_std" in network else 0
    if config.network == "mlp":
        outputs = network["actor"][_last_layer(config)]["bias"].shape[-1]
        return ActorCritic(config.hidden, config.activation, outputs, log_stds)
    encoder, outputs = network["actor"]["encoder"], network["actor"]["out"]["bias"].shape[-1]
    context = encoder["context"]["kernel"].shape[-2] if "context" in encoder else 0
    return _set_module(config, context, encoder["items"]["kernel"].shape[-2], outputs, log_stds)


def _set_module(config: ActorConfig, context: int, features: int, outputs: int, log_stds: int) -> SetActorCritic:
    kind: SetKind = "attention" if config.network == "attention" else "deep_sets"
    return SetActorCritic(kind, config.hidden, config.activation, context, features, outputs, log_stds)


def _last_layer(config: ActorConfig) -> str:
    return f"Dense_{len(config.hidden)}" if config.network == "mlp" else "out"


def _inner(env: Env) -> Env:
    while isinstance(env, AutoReset):
        env = env.env
    return env


def _checked_layout(config: ActorConfig, env: Env, width: int, actions: int) -> SetLayout | None:
    if config.network == "mlp":
        return None
    layout = layout_of(env)
    if layout is None:
        name = type(_inner(env)).__name__
        raise ValueError(f"network must be 'mlp' for {name}, which has no layout of items, got {config.network!r}")
    if config.distribution == "categorical":
        raise TypeError(f"network must be 'mlp' for distribution 'categorical', got {config.network!r}")
    if layout.context + layout.items * layout.features != width or layout.items * layout.actions != actions:
        raise ValueError(f"layout must fit {width} observation and {actions} action entries, got {layout}")
    return layout


def _initial_action(
    config: ActorConfig, env: Env, params: Any, actions: int, layout: SetLayout | None
) -> np.ndarray | None:
    """Where the policy starts, ``[A]`` in [-1, 1]: what the configuration says, else the environment; None if neither."""
    if config.initial_action is not None:
        if config.distribution == "categorical":
            raise TypeError(f"initial_action must be None for a Discrete action space, got {config.initial_action!r}")
        start = _all_entries("initial_action", np.asarray(config.initial_action, np.float32), actions, layout_of(env))
    else:
        neutral = _neutral(env, actions)
        if neutral is None or config.distribution == "categorical":
            return None
        space: Any = env.action_space(params)
        start = 2.0 * (neutral - space.low) / (space.high - space.low) - 1.0
    if layout is not None and (start.reshape(layout.items, -1) != start[: layout.actions]).any():
        raise ValueError(f"initial_action must be the same for all items, got {start.tolist()!r}")
    return start


def _neutral(env: Env, actions: int) -> np.ndarray | None:
    """The environment's neutral action (its attribute ``neutral_action``), ``[A]`` in its units; None if it names none."""
    given = getattr(_inner(env), "neutral_action", None)
    return (
        None
        if given is None
        else _all_entries("neutral_action", np.asarray(given, np.float32), actions, layout_of(env))
    )


def _all_entries(name: str, given: np.ndarray, actions: int, layout: SetLayout | None) -> np.ndarray:
    """An action ``[A]`` of one number for all entries, one an action of an item, or one an entry."""
    lengths = (1, actions) if layout is None else (1, layout.actions, actions)
    if given.ndim != 1 or len(given) not in lengths:
        allowed = " or ".join(str(length) for length in sorted(set(lengths)))
        raise ValueError(f"{name} must have {allowed} numbers, got {given.tolist()!r}")
    return np.tile(given, actions // len(given))


def resting_action(env: Env, params: Any, actions: int) -> jax.Array:
    """What empty places do, ``[A]`` in the environment's units."""
    space: Any = env.action_space(params)
    neutral = _neutral(env, actions)
    return jnp.asarray(0.5 * (space.low + space.high) if neutral is None else neutral, jnp.float32)


def _started_at(config: ActorConfig, network: Any, action: np.ndarray) -> Any:
    """The parameters with the actor's last biases set for an action ``[A]``, or that of an item ``[a]``, in [-1, 1]."""
    numbers = outputs_at(config.distribution, action)
    bias = jnp.asarray((numbers.T if config.network == "mlp" else numbers).reshape(-1))
    name = _last_layer(config)
    actor = {**network["actor"], name: {**network["actor"][name], "bias": bias}}
    return {**network, "actor": actor}
