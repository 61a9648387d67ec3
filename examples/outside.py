"""The walk-through as a stranger meets it: adarena's wheel and the example package in a fresh virtual environment.

``make outside``, or ``python examples/outside.py [FOLDER]``. Needs pip and what pip installs. Builds both
wheels, installs them with the versions of ``constraints.txt``, checks that nothing comes from this checkout, then runs
every block of ``docs/walkthrough.md`` and the commands that the page names, in a folder of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "walkthrough.md"
PACKAGE = ROOT / "examples" / "keyword_auction"
COMMANDS = (
    ["envs"],
    [
        *("evaluate", "--policy", "share_pacer", "--policy", "min_pacing"),
        *("--markets", "2", "--seats", "4", "--tune-episodes", "256"),
    ],
)
"""What the page runs in a shell once the package is installed, sweeps apart: arguments of ``adarena``."""

_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, title (empty if there is none) and text of every fenced block."""
    return [(language, title, text) for language, title, text in _BLOCK.findall(page)]


def program(page: str) -> str:
    """The Python blocks that are not files of the package, one after another, and in their places the sweeps of the shell's."""
    parts = ["import subprocess, sys"]
    for language, title, text in blocks(page):
        if language == "python" and not title:
            parts.append(text)
        elif language == "sh" and text.startswith("adarena sweep "):
            words = ["-m", "adarena.experiments.cli", *text.split()[1:]]
            parts.append(f"subprocess.run([sys.executable, *{words!r}], check=True)")
    return "\n".join(parts)


def main() -> None:
    """Builds, installs, runs; stops at the first thing that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="where to work; a temporary folder by default, removed at the end")
    folder = parser.parse_args().folder
    print(
        "adarena from its wheel, in a fresh virtual environment: installing takes minutes, running two or three",
        flush=True,
    )
    if folder is not None:
        _check(Path(folder).resolve())
        return
    with tempfile.TemporaryDirectory(prefix="adarena-outside-") as temporary:
        _check(Path(temporary))


def _check(folder: Path) -> None:
    work, wheels = folder / "work", folder / "wheels"
    work.mkdir(parents=True, exist_ok=True)
    left_out = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder / "source", ignore=left_out, dirs_exist_ok=True)  # builds leave files where they run
    for project in (folder / "source", folder / "source" / PACKAGE.relative_to(ROOT)):
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(project)], folder)
    venv.create(folder / "venv", with_pip=True, clear=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    (adarena,), (keyword,) = wheels.glob("adarena-*.whl"), wheels.glob("keyword_auction-*.whl")
    python, pinned = str(scripts / "python"), ["-c", str(ROOT / "constraints.txt")]
    _run([python, "-m", "pip", "install", "--quiet", *pinned, f"{adarena}[sb3]", str(keyword), "pytest"], folder)
    _run([python, "-c", _WHERE, str(ROOT)], work)
    script = work / "walkthrough.py"
    script.write_text(program(PAGE.read_text()))
    _run([python, "-W", "error", str(script)], work)
    shutil.copytree(PACKAGE / "tests", work / "tests", dirs_exist_ok=True)
    _run([python, "-m", "pytest", "-q", "tests"], work)
    for arguments in COMMANDS:
        _run([str(scripts / "adarena"), *arguments], work)
    print(f"All blocks and commands of {PAGE.relative_to(ROOT)} ran outside the checkout")


_WHERE = """
import sys, pathlib, adarena.envs, keyword_auction
for module in (adarena.envs, keyword_auction):
    print(module.__name__, "is", pathlib.Path(module.__file__).relative_to(sys.prefix))
    assert not pathlib.Path(module.__file__).resolve().is_relative_to(sys.argv[1]), module.__file__
"""


def _run(command: list[str], where: Path) -> None:
    """Runs a command outside the checkout, nothing of this process's Python in its environment."""
    print(
        "$",
        " ".join(Path(command[0]).name if number == 0 else word for number, word in enumerate(command[:6])),
        flush=True,
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=where, env=inherited | {"COLUMNS": "140"}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed with status {done.returncode}")


if __name__ == "__main__":
    main()
