"""Logged episodes as arrays: what is collected, what offline learners read."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Episodes:
    """``E`` whole episodes of ``T`` steps, NumPy arrays.

    Attributes:
        observations: ``[E, T + 1, O]`` float32; the last one is what was seen after the last step.
        actions: ``[E, T, A]`` float32, as the environment was given them (inside its bounds).
        rewards: ``[E, T]`` float32, in the environment's unit.
        terminated: ``[E, T]`` bool; only the last step of an episode may be true. Where it is not, the episode was cut
            by a limit of time and the value of the last observation still counts.
        log_probs: ``[E, T]`` float32, log density of each action under the policy that chose it, in the space of
            ``actions``; NaN where none is known.
        behaviour: ``[E]`` int32, which policy played the episode.
        seeds: ``[E]`` int64, the number of the episode's case: one number, one market, one luck.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    log_probs: np.ndarray
    behaviour: np.ndarray
    seeds: np.ndarray

    def __post_init__(self) -> None:
        """Raises:
        ValueError: A field has another shape or dtype, holds NaN or infinity, or there is no step.
        """
        if self.actions.ndim != 3 or self.observations.ndim != 3:
            raise ValueError(
                "observations and actions must have shapes [E, T + 1, O] and [E, T, A], got "
                f"{self.observations.shape} and {self.actions.shape}"
            )
        episodes, steps, _ = self.actions.shape
        if not episodes or not steps:
            raise ValueError(f"actions must hold at least one episode of one step, got shape {self.actions.shape}")
        wanted = {
            "observations": ((episodes, steps + 1, self.observations.shape[2]), np.float32),
            "actions": (self.actions.shape, np.float32),
            "rewards": ((episodes, steps), np.float32),
            "terminated": ((episodes, steps), np.bool_),
            "log_probs": ((episodes, steps), np.float32),
            "behaviour": ((episodes,), np.int32),
            "seeds": ((episodes,), np.int64),
        }
        for name, (shape, dtype) in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype).name} of shape {shape}, got {array.dtype} of shape {array.shape}"
                )
        for name in ("observations", "actions", "rewards"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")
        if self.terminated[:, :-1].any():
            raise ValueError("terminated must be false before an episode's last step, got true")

    @property
    def count(self) -> int:
        """``E``."""
        return self.actions.shape[0]

    @property
    def steps(self) -> int:
        """``T``."""
        return self.actions.shape[1]

    def returns(self) -> np.ndarray:
        """``[E]`` float64, undiscounted sum of each episode's rewards."""
        return self.rewards.sum(axis=1, dtype=np.float64)

    def take(self, index: np.ndarray) -> Episodes:
        """The episodes at ``index``, in that order."""
        return Episodes(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))
