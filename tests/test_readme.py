"""What README.md prints works: its environment keeps to the contract, its experiment and its commands are understood."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adarena.experiments import cli

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every ``adarena ...`` of the shell blocks, comments cut off, loops written out for their first value."""
    found = []
    for line in "\n".join(blocks("sh")).splitlines():
        loop = re.match(r"for (\w+) in (\S+).*?; do (.*); done", line)
        text = loop[3].replace(f"${loop[1]}", loop[2]) if loop else line
        words = shlex.split(text, comments=True)
        if words[:1] == ["adarena"]:
            found.append(shlex.join(words))
    return found


RUNNERS = {
    "evaluate": ("evaluate", "run"),
    "collect": ("collect", "run"),
    "gather": ("gather", "run"),
    "calibrate": ("calibrate", "run_calibrate"),
    "verify": ("verify", "run_verify"),
    "bench": ("bench", "run_bench"),
    "sweep": ("sweep", "run_sweep"),
    "report": ("report.page", "run"),
    "export": ("report.export", "run"),
    "explain": ("explain", "run"),
}
"""Command to module of `adarena.experiments` and the function that does the work."""


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_of_the_readme_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are parsed and configurations checked; nothing is run."""
    _, name, *rest = shlex.split(command)
    if name in ("envs", "figures"):
        assert name == "envs" or not rest
        return
    modules = [(rest[0], "run")] if name == "run" else [RUNNERS[name]]
    if name == "evaluate":
        modules.append(("auctionnet", "run"))
    seen: list[Any] = []

    def caught(config: Any, **options: Any) -> Any:
        seen.append(config)
        raise SystemExit(0)

    for module, function in modules:
        monkeypatch.setattr(importlib.import_module(f"adarena.experiments.{module}"), function, caught)
    with pytest.raises(SystemExit) as stop:
        cli.main([name, *rest])
    assert stop.value.code == 0
    assert len(seen) == 1


def test_the_experiment_of_the_readme_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    from adarena.experiments import autobid

    (text,) = [block for block in blocks("python") if "AutoBidExperiment" in block]
    seen: list[Any] = []
    monkeypatch.setattr(autobid, "run", lambda config: seen.append(config) or "runs/my-vcg")
    exec(compile(text, "README.md", "exec"), {})
    (config,) = seen
    assert (config.mechanisms, config.rules, config.seeds) == (("vcg",), ("min_pacing", "online_lp"), (0, 1, 2))


def test_the_environment_of_the_readme_keeps_to_the_contract(tmp_path: Path) -> None:
    (text,) = [block for block in blocks("python") if "class Keyword(Env)" in block]
    check = """
from adarena.envs.testing import check_env

check_env(Keyword(), env_id="mine/Rounds-v0")
print(batch.reset(seed=0)[0].shape)
"""
    (tmp_path / "script.py").write_text(text + check)
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[0] == "(64, 1)"
