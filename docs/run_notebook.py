"""Executes ``docs/first_day.ipynb`` in place: ``make notebook``, or ``python docs/run_notebook.py``. Needs `adarena[dev]`.

The notebook is committed with its outputs, so that a reader on a code host sees the pictures; times, versions and progress bars
are left out, so that a second execution on the same machine changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent / "first_day.ipynb"


def read() -> nbformat.NotebookNode:
    """The notebook as it is committed."""
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: Path, changes: Mapping[str, str] | None = None) -> None:
    """Executes all cells, in place.

    Args:
        notebook: The notebook.
        folder: Where its kernel runs.
        changes: Text in code cells, each of which must be there once, and what stands there instead.

    Raises:
        ValueError: A text to change is not there, or more than once.
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in (changes or {}).items():
        found = [cell for cell in code if old in cell.source]
        if len(found) != 1 or found[0].source.count(old) != 1:
            raise ValueError(f"changes must name text that is in the code once, got {old!r}")
        found[0].source = found[0].source.replace(old, new)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, resources=resources).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def main() -> None:
    """Executes the notebook and writes it back."""
    print(f"Executing {NOTEBOOK.name}: a minute or two", flush=True)
    notebook = read()
    execute(notebook, NOTEBOOK.parent)
    scratch = NOTEBOOK.with_suffix(".ipynb.part")
    scratch.write_text(nbformat.writes(notebook) + "\n")
    scratch.replace(NOTEBOOK)
    print(f"{NOTEBOOK} holds {NOTEBOOK.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
