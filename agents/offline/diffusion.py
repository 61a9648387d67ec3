"""A diffusion planner: it draws the rest of the day as a good day would go, and finds the action that leads there.

Guo et al., "AIGB: Generative Auto-bidding via Conditional Diffusion Modeling" (DiffBid), KDD 2024 (arXiv:2405.16141), sec. 4.
A trajectory of states ``s_0 .. s_T`` is noised, ``x_k = sqrt(A_k) x_0 + sqrt(1 - A_k) e`` (Ho et al., NeurIPS 2020), with the
cosine schedule ``A_k`` (Nichol and Dhariwal, ICML 2021), and a network learns to undo it, told the trajectory's return ``y``
or, now and then, nothing. When it acts, steps already lived stay as they were, and the rest is drawn with classifier-free
guidance, ``(1 + w) x(y) - w x()`` (Ho and Salimans, 2022; Ajay et al., ICLR 2023); an inverse dynamics
``a_t = f(s_t, s'_{t+1})``, learnt by its squared error, turns the next planned state into an action.

Departures. The network is a small transformer rather than a U-Net, and gives the clean trajectory rather than the noise, which
is the same but for a known linear map and is steadier in few steps (Salimans and Ho, ICLR 2022). Sampling takes a few
deterministic steps (DDIM, Song et al., ICLR 2021) from noise of reduced size. In training a start of random length is known, as
in acting (compare Li et al., arXiv:2509.03348). Returns may be relative to what the first observation foretells, see
`adarena.agents.offline.returns`. The inverse dynamics reads one observation rather than the last few: the market's
observations carry their own history.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adarena.agents.fields import (
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    WIDTHS,
    check_fields,
    checked_config,
    is_count,
    one_of,
)
from adarena.agents.networks import Perceptron
from adarena.agents.normalise import Moments, normalise
from adarena.agents.offline.data import Data, Spec, sample_transitions
from adarena.agents.offline.decision_transformer import NUMERIC_RULES, advanced, learning_rate, spread, static
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
from adarena.agents.offline.returns import Goals, fit_goals, goal_labels
from adarena.agents.offline.transformer import Transformer

_LIMIT = 5.0  # planned states stay within so many standard deviations


def _places(value: Any) -> bool:
    if value is None:
        return True
    whole = isinstance(value, tuple) and all(is_count(x) or x == 0 for x in value)
    return whole and len(value) > 0 and len(set(value)) == len(value)


@struct.dataclass
class Config:
    """Hyper-parameters. A frozen pytree: sizes and names are static, numbers are leaves.

    Attributes:
        planned: Which entries of the observation are planned, by their places; None for all. Static.
        width, layers, heads: Of the transformer. Static.
        hidden: Widths of the hidden layers of the inverse dynamics. Static.
        noise_steps: Steps of noise in training, ``D``. Static.
        sample_steps: Steps in which a plan is drawn, at most ``D``. Static.
        conditioning: ``"to_go"`` (whole returns over their spread) or ``"relative"``. Static.
        batch: Episodes of a gradient step; as many times 8 transitions for the inverse dynamics. Static.
        learning_rate, warmup_steps, decay_steps, target: As in `adarena.agents.offline.decision_transformer.Config`.
        untold: Share of trajectories whose return is not told.
        guidance: ``w``.
        temperature: Size of the noise that plans start from.
    """

    planned: tuple[int, ...] | None = static(None)
    width: int = static(64)
    layers: int = static(2)
    heads: int = static(2)
    hidden: tuple[int, ...] = static((128, 128))
    noise_steps: int = static(50)
    sample_steps: int = static(8)
    conditioning: str = static("relative")
    batch: int = static(32)
    learning_rate: float = 1e-3
    warmup_steps: float = 100.0
    decay_steps: float = float("inf")
    target: float = 1.0
    untold: float = 0.2
    guidance: float = 0.5
    temperature: float = 0.5

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ValueError: A field's value is not allowed; the message names field, value and what is allowed.
        """
        check_fields(self, _STATIC_RULES, {**NUMERIC_RULES, **_NUMERIC_RULES})
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.sample_steps > self.noise_steps:
            raise ValueError(f"sample_steps must be at most noise_steps ({self.noise_steps}), got {self.sample_steps}")


_STATIC_RULES = {
    "planned": (_places, "None or a non-empty tuple of distinct whole numbers of at least 0"),
    **dict.fromkeys(("width", "layers", "heads", "noise_steps", "sample_steps", "batch"), COUNT),
    "hidden": WIDTHS,
    "conditioning": one_of(("to_go", "relative")),
}
_NUMERIC_RULES = {"untold": SHARE, "guidance": NOT_NEGATIVE, "temperature": NOT_NEGATIVE}


def make_config(**changes: Any) -> Config:
    """A checked `Config` with some fields changed from their defaults.

    Raises:
        TypeError: A name is not a field.
        ValueError: A value is not allowed.
    """
    return checked_config(Config, "diffusion", changes)


@struct.dataclass
class State:
    """All that training carries between gradient steps.

    Attributes:
        planner: Parameters of `Planner`, and Adam.
        inverse: Parameters of the inverse dynamics, and Adam.
        goals: What returns are compared with.
        common: Moments, key and steps.
    """

    planner: Trained
    inverse: Trained
    goals: Goals
    common: Common


@struct.dataclass
class Metrics:
    """What a gradient step reports: scalars, float32.

    Attributes:
        plan_mse: Mean squared error of the clean states to come, on the scale of normalised observations.
        inverse_mse: Mean squared error of the inverse dynamics' actions, on the scale of [-1, 1].
    """

    plan_mse: jax.Array
    inverse_mse: jax.Array


def signal_share(noise_steps: int) -> np.ndarray:
    """``A_k`` for ``k = 0 .. D``, falling from 1 to almost 0: the cosine schedule (Nichol and Dhariwal, eq. 17)."""
    offset = 0.008
    angle = (np.arange(noise_steps + 1) / noise_steps + offset) / (1.0 + offset) * np.pi / 2.0
    share = np.square(np.cos(angle)) / np.square(np.cos(angle[0]))
    return np.clip(share, 1e-4, 1.0).astype(np.float32)


class Planner(nn.Module):
    """Clean states from noisy ones.

    Attributes:
        steps: States of a trajectory, ``T + 1``.
        width: Width of the tokens.
        layers: Number of blocks.
        heads: Attention heads.
    """

    steps: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(
        self, noisy: jax.Array, known: jax.Array, noise: jax.Array, goal: jax.Array, told: jax.Array, first: jax.Array
    ) -> jax.Array:
        """What the trajectory was before the noise, ``[..., T + 1, P]`` float32.

        Args:
            noisy: Planned entries of states, clean where known, ``[..., T + 1, P]``.
            known: Which states are known, ``[..., T + 1]`` bool.
            noise: Share of the noise steps, ``[...]`` in [0, 1].
            goal: The return, ``[...]``, read where
            told: says so, ``[...]`` bool.
            first: First observation, normalised, ``[..., O]``.
        """
        waves = noise[..., None] * np.pi * 2.0 ** np.arange(6, dtype=np.float32)
        asked = jnp.where(told, goal, 0.0)[..., None]
        facts = jnp.concatenate([jnp.sin(waves), jnp.cos(waves), asked, told[..., None], first], -1)
        about = nn.Dense(self.width)(nn.swish(nn.Dense(2 * self.width)(facts)))
        when = self.param("when", nn.initializers.normal(0.1), (self.steps, self.width))
        tokens = nn.Dense(self.width)(jnp.concatenate([noisy, known[..., None]], -1)) + when + about[..., None, :]
        hidden = Transformer(self.width, self.layers, self.heads, causal=False)(tokens)
        return nn.Dense(noisy.shape[-1], kernel_init=nn.initializers.zeros_init())(hidden)


def init(config: Config, data: Data, key: jax.Array) -> State:
    """The state of one seed before the first gradient step.

    Raises:
        ValueError: ``planned`` names an entry that observations do not have.
    """
    places = _planned(config, data.spec)
    if max(places) >= data.spec.observations:
        raise ValueError(f"planned must be below the observation's {data.spec.observations} entries, got {places}")
    key, key_planner, key_inverse = jax.random.split(key, 3)
    plan, zero = jnp.zeros((data.steps + 1, len(places))), jnp.zeros(())
    inputs = (plan, jnp.zeros(data.steps + 1, bool), zero, zero, zero > 0.0, data.observations[0, 0])
    pair = jnp.zeros(data.spec.observations + len(places))
    return State(
        init_trained(_planner(config, data.steps), key_planner, *inputs),
        init_trained(_inverse(config, data.spec), key_inverse, pair),
        fit_goals(data),
        init_common(data, key),
    )


def update(config: Config, data: Data, state: State) -> tuple[State, Metrics]:
    """One gradient step of one seed. Pure; ``jax.vmap`` over ``config`` and ``state`` for several seeds."""
    key, key_plan, key_pairs = jax.random.split(state.common.key, 3)
    rate = learning_rate(config, state.common.steps)
    pairs = sample_transitions(data, key_pairs, 8 * config.batch)
    ahead = jnp.concatenate([pairs.obs, pairs.next_obs[:, jnp.asarray(_planned(config, data.spec))]], -1)

    def inverse_loss(params: Any) -> tuple[jax.Array, None]:
        action = jnp.tanh(applied(_inverse(config, data.spec), params, ahead))
        return jnp.square(action - pairs.action).sum(-1).mean(), None

    inputs, clean = _noised(config, data, state.goals, key_plan)

    def plan_loss(params: Any) -> tuple[jax.Array, None]:
        error = jnp.square(applied(_planner(config, data.steps), params, *inputs) - clean).mean(-1)
        to_come = ~inputs[1]
        return (error * to_come).sum() / to_come.sum(), None

    inverse, inverse_mse, _ = descend(inverse_loss, state.inverse, rate)
    planner, plan_mse, _ = descend(plan_loss, state.planner, rate)
    return State(planner, inverse, state.goals, advanced(state.common, key)), Metrics(plan_mse, inverse_mse)


def _noised(config: Config, data: Data, goals: Goals, key: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """A batch of noisy trajectories with a known start, as `Planner` reads them, and what they were."""
    batch, steps = config.batch, data.steps
    keys = jax.random.split(key, 5)
    episode = jax.random.randint(keys[0], (batch,), 0, data.count)
    clean = data.observations[episode][..., jnp.asarray(_planned(config, data.spec))]
    goal = goal_labels(config.conditioning, goals, data, episode, jnp.zeros((batch, 1), jnp.int32))[:, 0]
    known = jnp.arange(steps + 1) < jax.random.randint(keys[1], (batch, 1), 1, steps + 1)
    level = jax.random.randint(keys[2], (batch,), 1, config.noise_steps + 1)
    share = jnp.asarray(signal_share(config.noise_steps))[level][:, None, None]
    noisy = jnp.sqrt(share) * clean + jnp.sqrt(1.0 - share) * jax.random.normal(keys[3], clean.shape)
    noisy = jnp.where(known[..., None], clean, noisy)
    told = jax.random.uniform(keys[4], (batch,)) >= config.untold
    return (noisy, known, level / config.noise_steps, goal, told, data.observations[episode, 0]), clean


def make_policy(config: Config, spec: Spec, state: State) -> PlanPolicy:
    """The planner as a policy that asks for ``config.target``; ``state`` may be stacked over seeds."""
    steps = state.goals.mean.shape[-2]
    low, high = bounds(spec, state.common.steps)
    return PlanPolicy(
        state.planner.params,
        state.inverse.params,
        state.goals,
        state.common.obs_moments,
        low,
        high,
        target=spread(config.target, state.common),
        guidance=spread(config.guidance, state.common),
        temperature=spread(config.temperature, state.common),
        module=_planner(config, steps),
        dynamics=_inverse(config, spec),
        planned=_planned(config, spec),
        noise_steps=config.noise_steps,
        sample_steps=config.sample_steps,
        conditioning=config.conditioning,
    )


@struct.dataclass
class PlanPolicy:
    """A diffusion planner as an `adarena.agents.policy.Policy`; it plans anew at every step.

    A pytree: ``jax.vmap`` over one made of stacked states.

    Attributes:
        planner: Parameters of `Planner`.
        inverse: Parameters of the inverse dynamics.
        goals: What returns are compared with.
        obs_moments: Moments that normalise an observation.
        low: What -1 means in the environment, ``[A]``.
        high: What 1 means in the environment, ``[A]``.
        target: What is asked for, in standard deviations above what is expected; scalar.
        guidance: As in `Config`, scalar.
        temperature: As in `Config`, scalar.
        module: The planner. Static.
        dynamics: The inverse dynamics. Static.
        planned: Places of the planned entries. Static.
        noise_steps, sample_steps, conditioning: As in `Config`. Static.
    """

    planner: Any
    inverse: Any
    goals: Goals
    obs_moments: Moments
    low: jax.Array
    high: jax.Array
    target: jax.Array
    guidance: jax.Array
    temperature: jax.Array
    module: Planner = struct.field(pytree_node=False)
    dynamics: Perceptron = struct.field(pytree_node=False)
    planned: tuple[int, ...] = struct.field(pytree_node=False)
    noise_steps: int = struct.field(pytree_node=False)
    sample_steps: int = struct.field(pytree_node=False)
    conditioning: str = struct.field(pytree_node=False)

    jittable: ClassVar[bool] = True

    def init(self, params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """States lived, ``[T + 1, P]``; the first observation, ``[O]``; and step 0."""
        lived = jnp.zeros((self.module.steps, len(self.planned)))
        return lived, jnp.zeros_like(self.obs_moments.mean), jnp.zeros((), jnp.int32)

    def act(
        self, key: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array], obs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        """The action, ``[A]`` float32 inside the bounds, for one observation ``[O]``."""
        lived, first, step = carry
        seen = normalise(self.obs_moments, obs)
        first = jnp.where(step == 0, seen, first)
        lived = lived.at[step].set(seen[jnp.asarray(self.planned)])
        plan = self.plan(key, lived, first, step)
        unit: Any = self.dynamics.apply({"params": self.inverse}, jnp.concatenate([seen, plan[step + 1]]))
        return (lived, first, step + 1), from_unit(jnp.tanh(unit), self.low, self.high)

    def plan(self, key: jax.Array, lived: jax.Array, first: jax.Array, step: jax.Array) -> jax.Array:
        """A trajectory ``[T + 1, P]`` of normalised states, as lived up to ``step`` and as drawn from then on."""
        known = jnp.arange(self.module.steps) <= step
        goal = self.target
        if self.conditioning == "to_go":
            goal = self.goals.expected / self.goals.unit + self.target
        shares = signal_share(self.noise_steps)
        levels = np.linspace(self.noise_steps, 0, self.sample_steps + 1).round().astype(int)
        told = jnp.asarray([True, False])

        def cleaned(noisy: jax.Array, level: jax.Array) -> jax.Array:
            def one(told: jax.Array) -> Any:
                return self.module.apply({"params": self.planner}, noisy, known, level, goal, told, first)

            with_goal, without = jax.vmap(one)(told)
            clean = jnp.clip(with_goal + self.guidance * (with_goal - without), -_LIMIT, _LIMIT)
            return jnp.where(known[:, None], lived, clean)

        def denoise(noisy: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            level, share, next_share = at
            clean = cleaned(noisy, level)
            noise = (noisy - jnp.sqrt(share) * clean) / jnp.sqrt(1.0 - share)
            less = jnp.sqrt(next_share) * clean + jnp.sqrt(1.0 - next_share) * noise
            return jnp.where(known[:, None], lived, less), None

        start = jnp.where(known[:, None], lived, self.temperature * jax.random.normal(key, lived.shape))
        schedule = (levels[:-1] / self.noise_steps, shares[levels[:-1]], shares[levels[1:]])
        return jax.lax.scan(denoise, start, tuple(jnp.asarray(x, jnp.float32) for x in schedule))[0]


def _planned(config: Config, spec: Spec) -> tuple[int, ...]:
    return tuple(range(spec.observations)) if config.planned is None else config.planned


def _planner(config: Config, steps: int) -> Planner:
    return Planner(steps + 1, config.width, config.layers, config.heads)


def _inverse(config: Config, spec: Spec) -> Perceptron:
    return Perceptron(config.hidden, spec.actions, "swish", 1.0)
