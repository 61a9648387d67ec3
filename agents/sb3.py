"""Stable-Baselines3 on adarena's environments, and its models as Policies.

Needs ``pip install 'adarena[sb3]'``; nothing here imports Stable-Baselines3 or torch before it is used::

    policy = train_sb3("ppo", "adarena/AutoBid-v0", total_steps=200_000, seed=1, normalise=True)
    policy.save("runs/ppo.zip")
    fast = SB3Policy.load("runs/ppo.zip").to_jax()  # the same actions inside jax.jit

``SB3VecEnv`` (in `adarena.agents.sb3_vec_env`) is also importable from here.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

if TYPE_CHECKING:
    from adarena.agents.sb3_vec_env import SB3VecEnv

ALGORITHMS = ("ppo", "sac")
BACKENDS = ("batch", "dummy")

__all__ = ["ALGORITHMS", "BACKENDS", "MlpPolicy", "ObsNormaliser", "SB3Policy", "SB3VecEnv", "train_sb3"]


def __getattr__(name: str) -> Any:
    """Imports ``SB3VecEnv`` when it is asked for: its base class is Stable-Baselines3's."""
    if name != "SB3VecEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _import()
    from adarena.agents import sb3_vec_env

    return sb3_vec_env.SB3VecEnv


def _import() -> Any:
    """Stable-Baselines3, with torch on one thread: its networks are too small for more to pay.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import stable_baselines3
        import torch
    except ImportError as error:
        raise ImportError("adarena.agents.sb3 needs stable-baselines3 and torch: pip install 'adarena[sb3]'") from error
    torch.set_num_threads(1)
    return stable_baselines3


@dataclasses.dataclass(frozen=True, eq=False)
class ObsNormaliser:
    """Observation statistics that a policy was trained with.

    Attributes:
        mean: ``[obs]`` float64.
        variance: ``[obs]`` float64.
        epsilon: Added to the variance.
        clip: Bound on the absolute value of a normalised entry.
    """

    mean: np.ndarray
    variance: np.ndarray
    epsilon: float
    clip: float

    @classmethod
    def of(cls, normalize: Any) -> ObsNormaliser | None:
        """The statistics of a ``VecNormalize``, copied; None if it does not normalise observations."""
        if normalize is None or not normalize.norm_obs:
            return None
        moments = normalize.obs_rms
        return cls(moments.mean.copy(), moments.var.copy(), float(normalize.epsilon), float(normalize.clip_obs))

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Normalised float32 observations, ``[..., obs]``."""
        scaled = (obs - self.mean) / np.sqrt(self.variance + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


class SB3Policy:
    """A Stable-Baselines3 model as an `adarena.agents.policy.Policy` that runs outside ``jax.jit``.

    Attributes:
        model: The model.
        normaliser: Statistics with which observations are normalised first, or None.
        deterministic: Whether actions are the mode of the policy; else they are drawn, from a seed that the key gives.
        jittable: False; see `to_jax`.
    """

    jittable: bool = False

    def __init__(self, model: Any, normaliser: ObsNormaliser | None = None, deterministic: bool = True) -> None:
        self.model = model
        self.normaliser = normaliser
        self.deterministic = deterministic

    @classmethod
    def load(cls, path: str | pathlib.Path, deterministic: bool = True) -> SB3Policy:
        """Reads what `save` or a model's own ``save`` wrote. Such files hold pickles: read only those you trust.

        Args:
            path: The ``.zip``; statistics are read from ``PATH.normaliser.npz`` (without ``.zip``) if that exists.
            deterministic: As for the class.

        Raises:
            FileNotFoundError: There is no such file.
            ImportError: Stable-Baselines3 is not installed.
            ValueError: The file is no archive of a PPO or SAC model.
        """
        path = _zip_path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"path must name a .zip of a Stable-Baselines3 model, got {str(path)!r}: no such file"
            )
        sb3 = _import()
        from stable_baselines3.common.save_util import load_from_zip_file

        data = load_from_zip_file(path, device="cpu")[0] or {}
        kind = getattr(data.get("policy_class"), "__module__", "")
        algorithms = {"stable_baselines3.common.policies": "PPO", "stable_baselines3.sac.policies": "SAC"}
        if kind not in algorithms:
            raise ValueError(
                f"path must name a model of PPO or SAC, got {str(path)!r} with a policy of {kind or 'none'}"
            )
        statistics, normaliser = _statistics_path(path), None
        if statistics.is_file():
            with np.load(statistics) as saved:
                numbers = float(saved["epsilon"]), float(saved["clip"])
                normaliser = ObsNormaliser(saved["mean"], saved["variance"], *numbers)
        return cls(getattr(sb3, algorithms[kind]).load(path, device="cpu"), normaliser, deterministic)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the model to ``path`` (``.zip``) and the statistics, if any, to ``PATH.normaliser.npz``."""
        path = _zip_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.model.save(path)
        _statistics_path(path).unlink(missing_ok=True)
        if self.normaliser is not None:
            np.savez(_statistics_path(path), **dataclasses.asdict(self.normaliser))

    def init(self, params: Any) -> Any:
        """No carry."""
        return ()

    def act(self, key: jax.Array, carry: Any, obs: Any) -> tuple[Any, Any]:
        """The action, a NumPy array ``[action]``, for an observation ``[obs]``; or a batch of them, ``[N, ...]``."""
        array = np.asarray(obs, np.float32)
        if self.normaliser is not None:
            array = self.normaliser(array)
        if not self.deterministic:
            import torch

            torch.manual_seed(int(jax.random.bits(key)))
        action, _ = self.model.predict(array, deterministic=self.deterministic)
        return carry, action

    def to_jax(self) -> MlpPolicy:
        """The actor as a jittable policy that takes the mode of the model's policy (up to float32 rounding).

        Raises:
            TypeError: The actor is no plain multilayer perceptron with tanh or ReLU between linear layers that gives a
                continuous action.
        """
        return _convert(self.model.policy, self.normaliser)


@struct.dataclass
class MlpPolicy:
    """A multilayer perceptron that maps an observation to an action, with no carry and no randomness.

    Attributes:
        weights: One ``[inputs, outputs]`` float32 a layer.
        biases: One ``[outputs]`` float32 a layer.
        mean: ``[obs]``, subtracted from the observation.
        deviation: ``[obs]``, divides it.
        clip: Scalar, bound on the absolute value of the quotient.
        low: ``[action]``, lower bounds of the action space.
        high: ``[action]``, upper bounds.
        activation: ``"tanh"`` or ``"relu"``, after every layer but the last. Static.
        squashed: Whether the last layer's output goes through tanh and is stretched to the bounds (SAC); else it is
            clipped to them (PPO). Static.
        jittable: Always true. Static.
    """

    weights: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    mean: jax.Array
    deviation: jax.Array
    clip: jax.Array
    low: jax.Array
    high: jax.Array
    activation: str = struct.field(pytree_node=False, default="tanh")
    squashed: bool = struct.field(pytree_node=False, default=False)
    jittable: bool = struct.field(pytree_node=False, default=True)

    def init(self, params: Any) -> Any:
        """No carry."""
        return ()

    def act(self, key: jax.Array, carry: Any, obs: jax.Array) -> tuple[Any, jax.Array]:
        """The action ``[action]`` float32 for an observation ``[obs]``."""
        activate = jnp.tanh if self.activation == "tanh" else jax.nn.relu
        hidden = jnp.clip((obs - self.mean) / self.deviation, -self.clip, self.clip)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = activate(hidden @ weight + bias)
        output = hidden @ self.weights[-1] + self.biases[-1]
        if self.squashed:
            return carry, self.low + 0.5 * (jnp.tanh(output) + 1.0) * (self.high - self.low)
        return carry, jnp.clip(output, self.low, self.high)


def train_sb3(
    algorithm: str = "ppo",
    env_id: str = "adarena/AutoBid-v0",
    *,
    changes: Mapping[str, Any] | None = None,
    total_steps: int = 100_000,
    seed: int = 0,
    num_envs: int = 8,
    backend: str = "batch",
    normalise: bool = False,
    normalise_reward: bool = False,
    hyper: Mapping[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
) -> SB3Policy:
    """Trains Stable-Baselines3's PPO or SAC, with its own defaults, on the CPU and one thread.

    Args:
        algorithm: ``"ppo"`` or ``"sac"``.
        env_id: A registered name, or ``"module:name"``.
        changes: As for `adarena.envs.make`.
        total_steps: Steps of a single environment, summed over all; rounded up to whole rollouts.
        seed: Seed of networks, exploration and environments (environment ``i`` gets ``seed + i``).
        num_envs: Number of environments.
        backend: ``"batch"``, one jitted batch (`SB3VecEnv`); or ``"dummy"``, ``DummyVecEnv`` of ``gym.make``, as users
            of Stable-Baselines3 run environments by default.
        normalise: Whether ``VecNormalize`` normalises observations; its statistics go along with the policy.
        normalise_reward: Whether it scales rewards in training.
        hyper: Arguments of the algorithm's class, ``learning_rate``, ``n_steps``, ``policy_kwargs`` and so on.
        callback: As in ``model.learn``; called with the locals and globals of the training loop at each step.
        progress: Whether to show a progress bar.

    Returns:
        The trained policy.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        KeyError, TypeError, ValueError: An argument is not allowed; the message names it, its value, and what is.
    """
    hyper = dict(hyper or {})
    _check_numbers(algorithm, total_steps, seed, num_envs, backend)
    sb3 = _import()
    cls = getattr(sb3, algorithm.upper())
    allowed = set(inspect.signature(cls).parameters) - {"policy", "env", "seed", "device", "_init_setup_model"}
    for name in hyper:
        if name not in allowed:
            raise ValueError(
                f"hyper must name arguments of {cls.__name__} ({', '.join(sorted(allowed))}), got {name!r}"
            )
    env, normalize = _environments(env_id, dict(changes or {}), seed, num_envs, backend), None
    if normalise or normalise_reward:
        from stable_baselines3.common.vec_env import VecNormalize

        gamma = float(hyper.get("gamma", inspect.signature(cls).parameters["gamma"].default))
        env = normalize = VecNormalize(env, norm_obs=normalise, norm_reward=normalise_reward, gamma=gamma)
    model = cls("MlpPolicy", env, seed=seed, device="cpu", **hyper)
    _learn(model, total_steps, callback, progress)
    env.close()
    return SB3Policy(model, ObsNormaliser.of(normalize))


def _check_numbers(algorithm: str, total_steps: int, seed: int, num_envs: int, backend: str) -> None:
    """Refuses what is not allowed before anything is built."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    for name, value, low, high in (
        ("total_steps", total_steps, 1, 2**62),
        ("seed", seed, 0, 2**32 - 1),
        ("num_envs", num_envs, 1, 2**20),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _environments(env_id: str, changes: dict[str, Any], seed: int, num_envs: int, backend: str) -> Any:
    """The ``VecEnv`` to train on."""
    if backend == "batch":
        from adarena.agents.sb3_vec_env import SB3VecEnv

        return SB3VecEnv(env_id, num_envs, **changes)
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(env_id, n_envs=num_envs, seed=seed, env_kwargs=changes)


def _learn(model: Any, total_steps: int, callback: Callable[..., Any] | None, progress: bool) -> None:
    """Trains, with a progress bar if asked."""
    from tqdm import tqdm

    with tqdm(total=total_steps, desc=type(model).__name__, unit="step", disable=not progress) as bar:

        def tick(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
            bar.update(model.num_timesteps - bar.n)
            return callback is None or callback(locals_, globals_) is not False

        model.learn(total_steps, callback=tick)


def _zip_path(path: str | pathlib.Path) -> pathlib.Path:
    """The path with ``.zip`` at its end."""
    path = pathlib.Path(path)
    return path if path.suffix == ".zip" else path.with_name(path.name + ".zip")


def _statistics_path(path: pathlib.Path) -> pathlib.Path:
    """Where the statistics that belong to a model's ``.zip`` stand."""
    return path.with_suffix(".normaliser.npz")


def _convert(policy: Any, normaliser: ObsNormaliser | None) -> MlpPolicy:
    """The actor's layers as arrays."""
    _import()
    from stable_baselines3.common.torch_layers import FlattenExtractor
    from torch import nn

    squashed = hasattr(policy, "actor")
    actor = policy.actor if squashed else policy
    extractor = actor.features_extractor if squashed else policy.pi_features_extractor
    space = policy.action_space
    if not isinstance(space, gymnasium.spaces.Box) or len(policy.observation_space.shape or ()) != 1:
        raise TypeError(f"only a Box of actions and flat observations can be converted, got {space}")
    if type(extractor) is not FlattenExtractor or actor.use_sde:
        raise TypeError(f"only MlpPolicy without gSDE can be converted, got {type(extractor).__name__}")
    body = list(actor.latent_pi if squashed else policy.mlp_extractor.policy_net)
    linear = [*body[0::2], actor.mu if squashed else policy.action_net]
    names = {nn.Tanh: "tanh", nn.ReLU: "relu"}
    between = {type(module) for module in body[1::2]} or {nn.Tanh}
    if len(between) != 1 or not between <= set(names) or not all(type(layer) is nn.Linear for layer in linear):
        raise TypeError(f"only linear layers with Tanh or ReLU between them can be converted, got {body}")

    def array(values: Any) -> jax.Array:
        return jnp.asarray(np.array(values), jnp.float32)

    size = policy.observation_space.shape
    mean, variance, epsilon, clip = np.zeros(size), np.ones(size), 0.0, np.inf
    if normaliser is not None:
        mean, variance, epsilon, clip = normaliser.mean, normaliser.variance, normaliser.epsilon, normaliser.clip
    return MlpPolicy(
        weights=tuple(array(layer.weight.detach().numpy().T) for layer in linear),
        biases=tuple(array(layer.bias.detach().numpy()) for layer in linear),
        mean=array(mean),
        deviation=array(np.sqrt(variance + epsilon)),
        clip=array(clip),
        low=array(space.low),
        high=array(space.high),
        activation=names[between.pop()],
        squashed=squashed,
    )
