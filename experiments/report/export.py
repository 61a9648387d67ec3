"""``adarena export RUNS ... --out DIR``: every table of a folder as CSV, as it is, and as LaTeX, for people."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import tyro
from rich.console import Console
from tqdm import tqdm

from adarena.experiments import results
from adarena.experiments.report.format import UNKNOWN, columns_of
from adarena.experiments.whole_files import write_whole

_PAGE = 40  # rows that a page holds; longer tables break over pages
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", UNKNOWN: "--"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "∞": r"$\infty$"},
    **{"\n": " ", "[": "{[}"},  # a bracket at the start of a row would be read as an option of the row before
}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Which tables to export, and where to.

    Attributes:
        runs: Run folders, folders of tables, or folders of such folders.
        out: Folder of the exported tables, one folder in it for each folder of results.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str


def run(config: ExportConfig) -> list[Path]:
    """Writes ``OUT/FOLDER/TABLE.csv`` and ``.tex`` for every table; a damaged one is named and left out.

    Returns:
        What was written.

    Raises:
        ValueError: A path is no folder of results, two folders have one name, or no table can be read.
    """
    folders = results.read_all(config.runs)
    names = [folder.name for folder in folders]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"runs must have names of their own, got {twice[0]!r} twice")
    console, out = Console(), Path(config.out)
    count = sum(len(folder.tables) for folder in folders)
    console.print(f"Exporting {count} tables of {len(folders)} folders as CSV and LaTeX")
    written: list[Path] = []
    for folder in tqdm(folders, desc="folders", leave=False, delay=2.0):
        if folder.failure:
            console.print(f"{folder.name} is {folder.status}: {folder.failure}")
        for name, table in folder.tables.items():
            (out / folder.name).mkdir(parents=True, exist_ok=True)
            forms = {"csv": table.write_csv(), "tex": latex(table, folder.name, name)}
            for ending, content in forms.items():
                written.append(out / folder.name / f"{name}.{ending}")
                write_whole(written[-1], content.encode())
    if not written:
        raise ValueError(f"runs must hold a table that can be read, got none in {', '.join(names)}")
    console.print(f"{len(written)} files are in {out}")
    return written


def latex(table: pl.DataFrame, folder: str, name: str) -> str:
    r"""A table in LaTeX, for ``\usepackage{booktabs}`` (and ``longtable`` where it has more rows than a page holds).

    Args:
        table: Any table; ``X_low`` and ``X_high`` go beside ``X``, in brackets.
        folder: Name of its folder, for the caption.
        name: Its name.
    """
    columns = columns_of(table)
    spec = "".join("r" if column.numeric else "l" for column in columns)
    head = " & ".join(escape(column.name) for column in columns) + r" \\"
    set_cells = [[_number(x) if c.numeric else escape(x) for x in c.cells] for c in columns]
    body = [" & ".join(cells) + r" \\" for cells in zip(*set_cells, strict=True)]
    caption = rf"\caption{{{escape(f'{folder}: {name}')}. Brackets: the interval's ends.}}"
    label = rf"\label{{tab:{folder}-{name}}}"
    if len(body) > _PAGE:
        start = [
            rf"\begin{{longtable}}{{{spec}}}",
            f"{caption}{label} \\\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
        ]
        lines = [*start, r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
    else:
        start = [r"\begin{table}", r"\centering", caption + label, rf"\begin{{tabular}}{{{spec}}}", r"\toprule", head]
        lines = [*start, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    needs = r"booktabs, longtable" if len(body) > _PAGE else "booktabs"
    return "\n".join([rf"% \usepackage{{{needs}}}", *lines, ""])


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _number(text: str) -> str:
    """A number, or ``estimate [low, high]``, with proper minus signs and commas that make no space."""
    if text == UNKNOWN:
        return _SPECIAL[UNKNOWN]
    estimate, _, ends = text.partition(" [")
    parts = [estimate] if not ends else [estimate, *ends.removesuffix("]").split(", ")]
    numbers = [f"${part.replace(',', '{,}').replace('∞', chr(92) + 'infty')}$" for part in parts]
    return numbers[0] if not ends else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
