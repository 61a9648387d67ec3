"""The notebook runs from top to bottom, and is committed with its pictures, small and without times or paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
from packages import script

ROOT = Path(__file__).resolve().parent.parent

SMALLER = {
    "MARKET = {}": 'MARKET = {"advertisers": 8, "categories": 2, "ticks": 8, "impressions": 8, "blocks": 8, "slots": 1}',
    "TRAIN_STEPS, TUNE_EPISODES = 100_000, 512": "TRAIN_STEPS, TUNE_EPISODES = 3_072, 352",
    '["constant", "min_pacing", "online_lp"]': '["constant", "min_pacing"]',
    "SEATS, BUDGETS = range(0, 48, 8), (0.5, 1.0, 1.5)": "SEATS, BUDGETS = range(0, 8, 4), (0.5, 1.5)",
}
"""What is made smaller here."""


def runner() -> Any:
    """`docs/run_notebook.py`."""
    return script(ROOT / "docs" / "run_notebook.py")


def kinds(notebook: Any) -> list[list[str]]:
    """What each cell shows: text, a table, a picture."""
    return [
        [
            "text" if output.output_type == "stream" else "/".join(sorted(output.data))
            for output in cell.get("outputs", [])
        ]
        for cell in notebook.cells
    ]


@pytest.mark.filterwarnings(
    "default"
)  # those of the notebook's tools are not ours; its own run in the kernel's process
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    committed, notebook = runner().read(), runner().read()
    runner().execute(notebook, tmp_path, SMALLER)
    assert kinds(notebook) == kinds(committed)
    assert sum("image/png" in kind for cell in kinds(committed) for kind in cell) == 3
    for cell in notebook.cells:
        assert all(output.get("name") != "stderr" for output in cell.get("outputs", []))
    (summary,) = [output for output in notebook.cells[11].outputs if "text/plain" in output.data]
    assert all(name in summary.data["text/plain"] for name in ("hindsight", "ppo", "constant", "min_pacing"))


def test_the_notebook_is_small_and_says_nothing_of_a_machine() -> None:
    text = (ROOT / "docs" / "first_day.ipynb").read_text()
    assert len(text) < 400_000
    assert not [word for word in ("/home/", "/root/", "/tmp/", "iopub", "execution_time") if word in text]
    code = [cell for cell in runner().read().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_a_change_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="changes must name text that is in the code once, got 'not there'"):
        runner().execute(runner().read(), tmp_path, {"not there": ""})
