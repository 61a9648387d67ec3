"""One functional environment under other interfaces: Gymnasium, Gymnasium's vector API, gymnax."""

from adarena.envs.adapters.gymnasium import GymnasiumEnv, reset_key, step_key
from adarena.envs.adapters.gymnax import GymnaxEnv, GymnaxParams, to_gymnax
from adarena.envs.adapters.vector import JaxVectorEnv

__all__ = ["GymnasiumEnv", "GymnaxEnv", "GymnaxParams", "JaxVectorEnv", "reset_key", "step_key", "to_gymnax"]
