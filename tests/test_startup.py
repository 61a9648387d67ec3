"""First use: what importing brings along, and compiled programs kept for the next process. No timings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from adarena.envs import cache
from adarena.experiments import bench_startup
from adarena.experiments.bench import BenchConfig

_IMPORT = """
import json, sys
from jax._src import monitoring
compiled = []
monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
import adarena.envs
print(json.dumps({"modules": list(sys.modules), "compiled": [name for name in compiled if "compile" in name]}))
"""

_FIRST_STEP = """
import json, sys
from jax._src import monitoring
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
import numpy as np, gymnasium, adarena.envs
from adarena.envs.cache import enable_compilation_cache
folder = enable_compilation_cache(*sys.argv[1:])
env = gymnasium.make(
    "adarena/AutoBid-v0", advertisers=4, ticks=4, impressions=8, blocks=4, slots=2, categories=2, prediction_error=True
)
seen = [env.reset(seed=0)[0], *(np.asarray(env.step(np.asarray([a], np.float32))[i]) for a in (-0.5, 0.5) for i in (0, 1))]
print(json.dumps({
    "folder": str(folder),
    "bits": [x.tobytes().hex() for x in seen],
    "hits": sum(name.endswith("/cache_hits") for name in events),
    "misses": sum(name.endswith("/cache_misses") for name in events),
}))
"""


_FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # compiling is nearly all that these tests cost


def python(program: str, *arguments: str, **variables: str) -> Any:
    """What a fresh process prints; warnings are errors in it, and it has none of JAX's caches but those given."""
    environment = {
        name: value for name, value in os.environ.items() if not (name.startswith("JAX") and "CACHE" in name)
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a cached program should be loaded without a word"
    return json.loads(done.stdout)


def test_importing_the_environments_brings_no_heavy_library_and_compiles_nothing() -> None:
    seen = python(_IMPORT)
    assert "adarena.envs.autobid" in seen["modules"]
    heavy = {
        "torch",
        "stable_baselines3",
        "matplotlib",
        "polars",
        "scipy.stats",
        "flax",
        "optax",
        "orbax",
        "ray",
        "pettingzoo",
    }
    assert heavy & set(seen["modules"]) == set()
    assert seen["compiled"] == []


def test_names_of_data_are_imported_when_used() -> None:
    program = (
        "import json, sys; import adarena.envs.data as data; before = 'polars' in sys.modules;"
        "names = sorted(set(dir(data)) & set(data.__all__)); [getattr(data, name) for name in names];"
        "print(json.dumps([before, names == sorted(data.__all__), hasattr(data, 'nothing')]))"
    )
    assert python(program) == [False, True, False]


def test_a_second_process_finds_every_program_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    first = python(_FIRST_STEP, str(folder), **_FAST)
    kept = {path.name for path in folder.iterdir() if path.name.endswith("-cache")}
    assert first["folder"] == str(folder)
    assert first["misses"] >= len(kept)
    assert {"jit__draw", "jit_episode_key", "jit_begin", "jit_advance"} <= {name.partition("-")[0] for name in kept}
    second = python(_FIRST_STEP, str(folder), **_FAST)
    assert second["misses"] == 0
    assert second["hits"] >= len(kept)
    assert {path.name for path in folder.iterdir() if path.name.endswith("-cache")} == kept
    assert second["bits"] == first["bits"]


# Where programs are kept ---------------------------------------------------------------------------------------------


@pytest.fixture
def jax_config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for ``jax.config``, so that this process's own stays as it is."""

    class Config:
        jax_enable_compilation_cache = True
        jax_compilation_cache_dir: str | None = None

        def update(self, name: str, value: Any) -> None:
            updates[name] = value

    updates: dict[str, Any] = {"config": Config()}
    monkeypatch.setattr(cache.jax, "config", updates["config"])
    monkeypatch.setattr(cache, "reset_cache", lambda: None)
    for name in list(os.environ):
        if name.startswith("JAX"):
            monkeypatch.delenv(name)
    return updates


def test_the_default_folder_is_the_users(
    jax_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.enable_compilation_cache() == tmp_path / "adarena" / "xla"
    assert jax_config["jax_compilation_cache_dir"] == str(tmp_path / "adarena" / "xla")
    assert jax_config["jax_persistent_cache_min_compile_time_secs"] == 0.0
    assert (tmp_path / "adarena" / "xla").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.default_cache_directory() == tmp_path / "home" / ".cache" / "adarena" / "xla"


def test_what_jax_was_told_holds(jax_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax_config["config"].jax_compilation_cache_dir = str(tmp_path / "own")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    assert cache.enable_compilation_cache() == tmp_path / "own"
    assert set(jax_config) == {"config", "jax_persistent_cache_min_entry_size_bytes"}
    assert cache.enable_compilation_cache(tmp_path / "asked") == tmp_path / "asked"
    assert jax_config["jax_compilation_cache_dir"] == str(tmp_path / "asked")


def test_switched_off_means_off(jax_config: dict[str, Any], tmp_path: Path) -> None:
    jax_config["config"].jax_enable_compilation_cache = False
    assert cache.enable_compilation_cache(tmp_path / "asked") is None
    assert set(jax_config) == {"config"}
    assert not (tmp_path / "asked").exists()


def test_a_folder_that_cannot_be(jax_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"directory must be a folder that can be written, got .*file"):
        cache.enable_compilation_cache(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.enable_compilation_cache() is None, "the default is a convenience: without it things just take longer"
    assert set(jax_config) == {"config"}


# What `adarena bench` measures -----------------------------------------------------------------------------------------


def test_startup_is_measured_in_fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ("import", "empty cache", "filled cache")  # "no cache" is as slow as the empty one, and as simple
    monkeypatch.setattr(bench_startup, "STAGES", stages)
    for name, value in _FAST.items():
        monkeypatch.setenv(name, value)
    frame = bench_startup.measure_startup(BenchConfig(quick=True, repeats=1))
    assert frame["stage"].to_list() == list(stages)
    assert (frame["wall_seconds"] >= frame["import_seconds"]).all()
    assert frame["step_seconds"].null_count() == 1
    parts = frame.select("import_seconds", "make_seconds", "reset_seconds", "step_seconds").sum_horizontal()
    assert (parts - frame["wall_seconds"]).abs().max() < 1e-6  # type: ignore[operator]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process maps")
def test_programs_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[bool] = []
    monkeypatch.setattr(jax, "clear_caches", lambda: forgotten.append(True))  # other tests' programs shall stay
    assert not cache.drop_programs(10**9)
    assert forgotten == []
    assert cache.drop_programs(0)
    assert forgotten == [True]
