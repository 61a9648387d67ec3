"""Environments of adarena. Importing this package registers every one of them with Gymnasium."""

from adarena.envs.core import AutoReset, Entry, Env, StepResult
from adarena.envs.registry import make, register, registered

__all__ = ["AutoReset", "Entry", "Env", "StepResult", "make", "register", "registered"]
