"""The walk-through does what it says: its files are the example package's, its blocks run from outside the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packages import install, script

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "examples" / "keyword_auction"

NAMES = ("environment", "rules", "mechanisms", "learner", "fitting", "experiment")
"""Modules of the package that the page shows."""

SMALLER = {
    "total_steps=100_000": "total_steps=1_536",
    "'cap=20,40,80', 'total_steps=100000'": "'cap=20,40', 'total_steps=768', 'days=16'",
    "total_steps=20_000": "total_steps=768",
    "jax.random.key(2025), 2), 256)": "jax.random.key(2025), 2), 16)",
    "jax.random.key(7), 64)": "jax.random.key(7), 4)",
    '("gsp", "midway")': '("midway",)',  # prices of both are compared in test_mechanisms.py
}
"""What is made smaller here; `make outside` runs the page as it stands."""


def outside() -> Any:
    """`examples/outside.py`, which reads the page."""
    return script(ROOT / "examples" / "outside.py")


PAGE = (ROOT / "docs" / "walkthrough.md").read_text()


def test_files_on_the_page_are_those_of_the_package() -> None:
    shown = {title: text for _, title, text in outside().blocks(PAGE) if title}
    source = {f"src/keyword_auction/{name}.py" for name in NAMES}
    assert set(shown) == source | {"pyproject.toml"}
    for title, text in shown.items():
        assert text == (PACKAGE / title).read_text(), f"{title} on the page differs from {PACKAGE / title}"
    code = [line for line in shown["src/keyword_auction/environment.py"].splitlines() if line.strip()]
    assert len(code) < 75


def test_commands_on_the_page_are_those_that_are_run() -> None:
    said = "\n".join(text for language, _, text in outside().blocks(PAGE) if language == "sh")
    commands = [line for line in said.splitlines() if line.startswith("adarena ")]
    (sweep,) = (command for command in commands if command.startswith("adarena sweep "))
    commands.remove(sweep)
    assert commands == [" ".join(["adarena", *arguments]) for arguments in outside().COMMANDS]
    assert all(repr(word) in outside().program(PAGE) for word in sweep.split()[1:])


def entry_points() -> dict[str, dict[str, str]]:
    return tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"]


def test_the_page_runs_outside_the_repository(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install(site, "keyword-auction", "0.1.0", entry_points())
    program = outside().program(PAGE)
    for large, small in SMALLER.items():
        assert large in program
        program = program.replace(large, small)
    (work / "walkthrough.py").write_text(program)
    paths = [str(site), str(PACKAGE / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "walkthrough.py"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("even_spend", "ppo", "sb3_ppo"):
        assert re.search(rf"^{name} +\d+\.\d \[.*\]  against the rule [+-]\d+\.\d \[", done.stdout, re.M), done.stdout
    assert re.search(r"^midway: spent \d+\.\d, score \d+\.\d\d$", done.stdout, re.M)
    assert re.search(r"^evolution strategy \d+\.\d \[", done.stdout, re.M)
    assert {path.name for path in (work / "figures").iterdir()} == {"keyword.pdf", "keyword.png"}
