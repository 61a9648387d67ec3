"""An environment registered from a script outside the repository reaches every interface."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import gymnasium as gym
import minimal_env
import pytest

import adarena.envs
from adarena.envs import make, register, registered

SCRIPT = """
import sys
import warnings

warnings.simplefilter("error")

import gymnasium as gym
import numpy as np

import adarena.envs
from adarena.envs.adapters import JaxVectorEnv
from adarena.envs.testing import check_env

assert "mine" not in sys.modules
env, params = adarena.envs.make("mine:mine/SecondPrice-v0", ticks=4, budget=1.5)  # imports mine, which registers
assert type(env).__module__ == "mine" and env.ticks == 4 and params.budget == 1.5
check_env(env, params, env_id="mine/SecondPrice-v0")

single = gym.make("mine/SecondPrice-v0", ticks=4)
single.reset(seed=0)
print(len(single.step(np.zeros(1, np.float32))))

batch = gym.make_vec("mine/SecondPrice-v0", num_envs=4, vectorization_mode="vector_entry_point", ticks=4)
assert isinstance(batch.unwrapped, JaxVectorEnv)
print(batch.reset(seed=0)[0].shape)
print("mine/SecondPrice-v0" in adarena.envs.registered())
"""


def test_script_outside_the_repository(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text(pathlib.Path(minimal_env.__file__).read_text())
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["5", "(4, 3)", "True"]


def test_gymnasium_imports_the_module_itself(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text(pathlib.Path(minimal_env.__file__).read_text())
    script = 'import gymnasium as gym\nprint(gym.make("mine:mine/SecondPrice-v0").reset(seed=1)[0].shape)'
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3,)"


def test_presets_are_names_with_changes() -> None:
    register("mine/SecondPriceShort-v0", minimal_env.SecondPriceEnv, ticks=3, budget=9.0)
    try:
        env, params = make("mine/SecondPriceShort-v0")
        assert (env.ticks, float(params.budget)) == (3, 9.0)  # type: ignore[attr-defined]
        assert gym.make("mine/SecondPriceShort-v0", ticks=5).unwrapped.functional.ticks == 5  # type: ignore[attr-defined]
        assert "mine/SecondPriceShort-v0" in registered()
    finally:
        adarena.envs.registry._REGISTRY.pop("mine/SecondPriceShort-v0")
        gym.registry.pop("mine/SecondPriceShort-v0")


def test_registering_the_same_class_again_is_silent() -> None:
    register(minimal_env.ENV_ID, minimal_env.SecondPriceEnv)  # a warning would be an error here
    assert registered()[minimal_env.ENV_ID] is minimal_env.SecondPriceEnv


@dataclasses.dataclass
class Thawed(adarena.envs.Env):
    ticks: int = 3


@dataclasses.dataclass(frozen=True)
class Another(minimal_env.SecondPriceEnv):
    pass


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("mine/NoVersion", minimal_env.SecondPriceEnv, ValueError, "env_id must look like 'namespace/Name-v0', got"),
    ("mine/Word-vone", minimal_env.SecondPriceEnv, ValueError, "env_id must look like"),
    (minimal_env.ENV_ID, Another, ValueError, "is taken by SecondPriceEnv; choose another name or version"),
    ("mine/Thawed-v0", Thawed, TypeError, "env_class must be a frozen dataclass"),
    ("mine/Dict-v0", dict, TypeError, "env_class must be a frozen dataclass"),
    ("mine/Instance-v0", minimal_env.SecondPriceEnv(), TypeError, "env_class must be a frozen dataclass"),
]


@pytest.mark.parametrize(("env_id", "env_class", "error", "message"), BAD)
def test_bad_registration_is_refused(env_id: str, env_class: Any, error: type[Exception], message: str) -> None:
    before = set(registered())
    with pytest.raises(error, match=message):
        register(env_id, env_class)
    assert set(registered()) == before


def test_bad_names_are_refused() -> None:
    with pytest.raises(KeyError, match="no environment is called 'mine/Nowhere-v0'; known are"):
        make("mine/Nowhere-v0")
    with pytest.raises(TypeError, match="has no field 'tick'; static fields: ticks; numeric fields: budget"):
        make(minimal_env.ENV_ID, tick=4)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        make("no_such_module:mine/SecondPrice-v0")
