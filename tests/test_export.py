"""Tables as CSV and LaTeX: all of them, as they are for machines, readable for people."""

from __future__ import annotations

import re
from pathlib import Path

import made_up_report as made_up
import polars as pl
import pytest

from adarena.experiments.report import export

COMMITTED = Path(__file__).parents[1] / "paper_figs" / "results"


def test_every_table_is_written_in_both_forms_and_reads_back(tmp_path: Path) -> None:
    names = ("replay", "lifecycle", "ope")
    written = export.run(
        export.ExportConfig(runs=tuple(str(COMMITTED / name) for name in names), out=str(tmp_path / "out"))
    )
    tables = {file for name in names for file in (COMMITTED / name).glob("*.parquet")}
    assert {path.relative_to(tmp_path / "out") for path in written} == {
        Path(file.parent.name) / f"{file.stem}.{ending}" for file in tables for ending in ("csv", "tex")
    }
    for file in tables:
        table = pl.read_parquet(file)
        again = pl.read_csv(tmp_path / "out" / file.parent.name / f"{file.stem}.csv", schema=table.schema)
        assert again.equals(table), file


def test_latex_escapes_words_and_keeps_intervals_together() -> None:
    text = export.latex(made_up.summary_table(), "my_run", "summary")
    assert r"$34.18$ [$33.96$, $34.39$]" in text
    assert r"\textless{}b\textgreater{}50\% \& more\_\textless{}/b\textgreater{}" in text
    assert r"$-1.50$ [$-1.75$, $-1.25$]" in text
    assert r"\caption{my\_run: summary." in text
    rows = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert spec is not None
    assert spec.group(1) == "lllrrr"
    assert len(rows) == made_up.summary_table().height
    assert all(len(re.findall(r"(?<!\\)&", row)) == 5 and row.endswith(r" \\") for row in rows)
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1


def test_latex_of_a_long_table_breaks_over_pages_and_of_a_word_with_a_bracket_stays_a_row() -> None:
    text = export.latex(made_up.curve_table(), "run", "curves")
    assert r"\begin{longtable}{lrrr}" in text
    assert r"\usepackage{booktabs, longtable}" in text
    one = pl.DataFrame({"word": ["[x]", "\\~^"], "n": [123456.0, float("inf")]})
    rows = export.latex(one, "run", "odd").partition(r"\midrule")[2].splitlines()[1:3]
    assert rows == [r"{[}x] & $123{,}456$ \\", r"\textbackslash{}\textasciitilde{}\textasciicircum{} & $\infty$ \\"]


def test_damaged_folders_are_named_and_the_others_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.write_run(tmp_path / "runs", "whole")
    made_up.tear(made_up.write_run(tmp_path / "runs", "torn") / "market.parquet")
    written = export.run(export.ExportConfig(runs=(str(tmp_path / "runs"),), out=str(tmp_path / "out")))
    assert {path.parent.name for path in written} == {"whole"}
    assert "torn is damaged: market.parquet was edited or torn" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    whole = str(made_up.write_run(tmp_path / "a", "whole"))
    with pytest.raises(ValueError, match="runs must have names of their own, got 'whole' twice"):
        export.run(export.ExportConfig(runs=(whole, whole), out=str(tmp_path / "out")))
    torn = made_up.write_run(tmp_path / "b", "torn")
    made_up.tear(torn / "curves.parquet")
    with pytest.raises(ValueError, match="runs must hold a table that can be read, got none in torn"):
        export.run(export.ExportConfig(runs=(str(torn),), out=str(tmp_path / "out")))
