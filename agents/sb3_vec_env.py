"""A jitted batch of environments as Stable-Baselines3's ``VecEnv``; imported by `adarena.agents.sb3` when needed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from adarena.envs.adapters.vector import JaxVectorEnv


class SB3VecEnv(VecEnv):
    """``num_envs`` copies of a registered environment for Stable-Baselines3.

    An environment that ends begins anew in the same step, as in ``DummyVecEnv``: ``infos[i]["terminal_observation"]``
    is what the old episode showed last, ``infos[i]["TimeLimit.truncated"]`` whether it was cut (so that its value still
    counts), ``infos[i]["episode"]`` its return, length and time, as ``Monitor`` gives them. The environment's own info
    stands in ``infos[i]`` where the episode ends, or at every step with ``full_info``.

    Attributes:
        batch: The batch underneath, an `adarena.envs.adapters.vector.JaxVectorEnv`.
        full_info: Whether every step's infos hold the environment's info; costs time for large batches.
    """

    def __init__(
        self, env_id: str, num_envs: int = 8, *, render_mode: str | None = None, full_info: bool = False, **changes: Any
    ) -> None:
        """Builds the batch.

        Args:
            env_id: A registered name, or ``"module:name"``.
            num_envs: Number of environments, at least 1.
            render_mode: None, or ``"rgb_array"`` if the environment draws a picture.
            full_info: Whether every step's infos hold the environment's info.
            **changes: As for `adarena.envs.make`.

        Raises:
            KeyError, TypeError, ValueError: As `adarena.envs.adapters.vector.JaxVectorEnv` does.
        """
        self.batch = JaxVectorEnv(
            env_id, num_envs, render_mode=render_mode, autoreset_mode=AutoresetMode.SAME_STEP, **changes
        )
        self.full_info = full_info
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._start = time.time()
        super().__init__(num_envs, self.batch.single_observation_space, self.batch.single_action_space)

    def reset(self) -> np.ndarray:
        """Starts an episode everywhere, with the seeds of ``seed`` if it was called; returns ``[num_envs, ...]``."""
        options = self._options[0] or None
        obs, _ = self.batch.reset(seed=self._seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions, ``[num_envs, ...]``, for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advances one tick; returns ``(obs, rewards, dones, infos)``, rewards float32 ``[num_envs]``.

        Raises:
            ResetNeeded: Before the first ``reset``.
            TypeError, ValueError: The actions are not allowed.
        """
        obs, rewards, terminated, truncated, raw = self.batch.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        if self.full_info:
            for i in np.flatnonzero(~dones):
                infos[i] |= _row(raw, i)
        for i in np.flatnonzero(dones):
            infos[i] |= _row(raw["final_info"], i)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["terminal_observation"] = raw["final_obs"][i]
            elapsed = round(time.time() - self._start, 6)
            infos[i]["episode"] = {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": elapsed}
        self._returns[dones] = 0.0
        self._lengths[dones] = 0
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Closes the batch."""
        self.batch.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture an environment."""
        return self.batch.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The batch's attribute, once for every environment: they share it.

        Raises:
            AttributeError: The batch has no such attribute.
        """
        return [getattr(self.batch, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not possible for one environment of a batch.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"{attr_name!r} cannot be set: the environments are one batch; build another one")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Not possible for one environment of a batch.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"{method_name!r} cannot be called: the environments are one batch, not objects")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """True for ``Monitor``, whose statistics every episode's last info holds; else false."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


def _row(infos: dict[str, Any], i: int | np.integer) -> dict[str, Any]:
    """Environment ``i``'s share of vector infos, copied; masks, and what ended episodes left, are not part of it."""
    names = [name for name in infos if f"_{name}" in infos and name not in ("final_obs", "final_info")]
    return {name: np.array(infos[name][i]) for name in names}
