"""``adarena report RUNS ...``: one HTML page that needs nothing else, for any number of runs and folders of results."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import tyro
from rich.console import Console
from tqdm import tqdm

from adarena.experiments import results
from adarena.experiments.report.format import Column, columns_of
from adarena.experiments.report.leaderboard import boards, environment_of
from adarena.experiments.results import Folder, Record
from adarena.experiments.whole_files import write_whole
from adarena.paper_figs import make, style

_ROWS = 60  # of a table that the page shows; longer ones are what `adarena export` is for
_SVG_BYTES = 300_000  # a figure with more is shown as PNG


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What to report on.

    Attributes:
        runs: Run folders, folders of tables, or folders of such folders.
        out: The page.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str = "report.html"


class Picture(NamedTuple):
    """A figure on the page.

    Attributes:
        name: Its name.
        alt: What it shows, in words.
        source: ``data:`` address of its content.
    """

    name: str
    alt: str
    source: str


class Shown(NamedTuple):
    """A table on the page.

    Attributes:
        name: Its name.
        height: Its rows.
        columns: Its columns, for readers; empty where it is too long to be shown.
        raw: Names of its columns.
    """

    name: str
    height: int
    columns: list[Column]
    raw: list[str]


class Section(NamedTuple):
    """One folder on the page.

    Attributes:
        anchor: Id of its element.
        folder: The folder.
        environment: What it is about.
        pictures: Its figures.
        tables: Its tables, `summary` first.
        problems: What could not be shown, and why.
    """

    anchor: str
    folder: Folder
    environment: str
    pictures: list[Picture]
    tables: list[Shown]
    problems: list[str]


def run(config: ReportConfig) -> Path:
    """Writes the page; the same results give the same bytes.

    Returns:
        The page.

    Raises:
        ImportError: The extra ``report`` is not installed.
        ValueError: A path is no folder of results.
    """
    for package in ("bokeh", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"adarena report needs {package}: pip install 'adarena[report]'")
    folders = results.read_all(config.runs)
    console, out = Console(), Path(config.out)
    console.print(f"Reporting on {len(folders)} folders; days of the market that no run kept are played again")
    for folder in folders:
        if folder.failure:
            console.print(f"{folder.name} is {folder.status}: {folder.failure}")
    content = render(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content.encode())
    console.print(f"The page is {out} ({len(content.encode()) / 1e6:.1f} MB)")
    return out


def render(folders: list[Folder]) -> str:
    """The page as HTML.

    Args:
        folders: Folders of results, damaged ones included.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment, StrictUndefined

    from adarena.experiments.report import day

    sections = [_section(number, folder) for number, folder in enumerate(tqdm(folders, desc="folders", leave=False))]
    days = [day.day_json(one) for one in day.days_of(folders)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # BokehJS wants a reference's definition before its uses, so no sorting of keys.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"versions": _versions, "fields": _fields, "minus": _minus}
    here = importlib.resources.files("adarena.experiments.report")
    text = {name: (here / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    return environment.from_string(text["html"]).render(
        sections=sections,
        boards=boards(folders),
        broken=[folder for folder in folders if folder.status != results.DONE],
        days=days,
        day_titles=[(one["title"], one["note"]) for one in days],
        panels=day.panels() if days else {},
        panel_names=day.PANELS,
        css=text["css"],
        js=text["js"],
        bokeh_js=Resources(mode="inline", components=["bokeh"]).js_raw if days else [],
    )


def _section(number: int, folder: Folder) -> Section:
    pictures, problems = [], [f"{name}: {what}" for name, what in folder.damaged.items()]
    for figure in make.figures_of_tables(folder.tables):
        if Path(figure.TABLE).stem not in folder.tables:
            continue
        try:
            pictures.append(_picture(folder, figure))
        except (ValueError, FileNotFoundError, pl.exceptions.PolarsError) as error:
            problems.append(f"figure {figure.NAME} could not be drawn: {error}")
    names = sorted(folder.tables, key=lambda name: (name != "summary", "summary" not in name, name))
    tables = [_shown(name, folder.tables[name]) for name in names]
    return Section(f"folder-{number}", folder, environment_of(folder), pictures, tables, problems)


def _picture(folder: Folder, figure: Any) -> Picture:
    drawn = figure.draw(folder.path)
    content, kind = style.picture(drawn, "svg"), "svg+xml"
    if len(content) > _SVG_BYTES:
        content, kind = style.picture(drawn, "png"), "png"
    says = " ".join((figure.__doc__ or figure.NAME).partition("\n\n")[0].removeprefix("Figure: ").split())
    says = says[:1].upper() + says[1:]
    return Picture(figure.NAME, says, f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def _shown(name: str, table: pl.DataFrame) -> Shown:
    columns = columns_of(table) if table.height <= _ROWS else []
    return Shown(name, table.height, columns, table.columns)


def _minus(text: str) -> str:
    """A number with the sign that is as wide as a plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))


def _fields(record: Record) -> list[tuple[str, str]]:
    """Configuration and surroundings of a run as names and values."""
    config = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in record.config.items()]
    about = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in record.about.items()]
    return [*sorted(config), *sorted((name, value) for name, value in about if name not in record.config)]
