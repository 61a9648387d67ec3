"""``adarena explain RUN --episode k``: a day of the reasoning bidder: seen, thought, forecast, done, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
import tyro
from rich.text import Text

from adarena.agents import language_config
from adarena.agents.language_policy import LanguagePolicy
from adarena.agents.language_think import LanguageThink, Report
from adarena.agents.offline.thoughts import SLOTS, reader_of
from adarena.envs.autobid import AutoBid
from adarena.experiments import language_day, tables
from adarena.experiments.explain_table import FORECASTS, LEARNED, clock, column, table_of, units, value_unit
from adarena.experiments.offline_learners import REASONER
from adarena.experiments.reasoner_run import Restored, case_of, restore
from adarena.experiments.reasoning import played
from adarena.experiments.store import RunFolder
from adarena.experiments.tables import number

TICKS, LOG, ABOUT, LANGUAGE = "ticks", "log.txt", "about.json", "language.json"
"""Table, readable log, what the table's columns mean, and what a language model was asked, in the folder of an explanation."""

_FROM = (0.25, 0.5, 0.75)  # of the day: from where on the summary says what a held multiplier would have brought


@dataclasses.dataclass(frozen=True)
class ExplainConfig:
    """Which day to explain.

    Attributes:
        run: Folder of a run of ``adarena run offline`` whose learners include the reasoning bidder.
        episode: Number of the evaluation case.
        seed: Training seed of the bidder; the run's first if not given.
        out: Folder for log, table and figure; in the run's, ``explain/episode-k``, if empty, with ``-language`` behind it where
            a language model is asked.
        language: The language model that thinks in place of the learned Think, if its ``model`` is named; needs the ``llm``
            extra and a key in the environment.
    """

    run: tyro.conf.Positional[str]
    episode: int = 0
    seed: int | None = None
    out: str = ""
    language: language_config.Config = dataclasses.field(default_factory=language_config.Config)


def run(config: ExplainConfig) -> Path:
    """Plays the day, prints the log and writes log, table and figure.

    Returns:
        The folder: ``log.txt``, ``ticks.parquet``, ``about.json``, ``explain.pdf`` and ``explain.png``, and
        ``language.json`` (what became of the questions) where a language model was asked.

    Raises:
        ValueError: No such evaluation case or training seed, or a setting of the language model is not allowed.
        adarena.experiments.store.RunFolderError: No such run, or it has no reasoning bidder.
    """
    from adarena.paper_figs import fig_explain, style

    console = tables.console()
    asks = config.language != language_config.Config()
    if asks:
        config.language.validate()
    run_folder = RunFolder.open(Path(config.run))
    restored = restore(run_folder, config.seed)
    key, params = case_of(restored, config.episode)
    name = f"episode-{config.episode}" + "-language" * asks
    out = Path(config.out) if config.out else run_folder.path / "explain" / name
    case = restored.cases.table.row(config.episode, named=True)
    what = (
        f"{run_folder.path.name}, episode {config.episode} ({_case(case)}), {REASONER} of training seed {restored.seed}"
        + f", {config.language.model} as Think" * asks
    )
    console.print(f"Explaining {what}; results go to {out}")
    if asks:
        ticks, report = _asked(config.language, restored, key, params)
    else:
        reader = reader_of(restored.env, params)
        ticks, report = table_of(restored.env, *played(restored.env, params, restored.policy, reader, key)), None
    lines = [Text(what, "bold"), *log_of(restored.env, ticks)]
    for line in lines:
        console.print(line, soft_wrap=True)
    # What is explained, not how its folders were spelled: the same day goes into the same folder again.
    asked = dataclasses.replace(config, run=run_folder.path.name, seed=restored.seed, out="")
    with RunFolder.create(out.parent, asked, out.name, resume=True) as folder:
        text = "\n".join(line.plain for line in lines) + "\n"
        folder.write_file(LOG, lambda path: path.write_text(text, encoding="utf-8"))
        about = {"day": what, "columns": units(restored.env)}
        content = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        folder.write_file(ABOUT, lambda path: path.write_text(content, encoding="utf-8"))
        folder.write_table(TICKS, ticks)
        if report is not None:
            folder.write_file(LANGUAGE, report.save)
            console.print(str(report), soft_wrap=True, highlight=False)
        style.save(fig_explain.draw(folder.path), folder.path, fig_explain.NAME)
    console.print(f"Log, table and figure are in {out}")
    return folder.path


def _asked(
    config: language_config.Config, restored: Restored, key: jax.Array, params: Any
) -> tuple[pl.DataFrame, Report]:
    """The day with a language model as Think, and what became of the questions."""
    think = LanguageThink(config, restored.env.OBSERVATION)
    try:
        policy, reader = LanguagePolicy(restored.policy, think), reader_of(restored.env, params)
        return table_of(restored.env, *language_day.played(restored.env, params, policy, reader, key)), think.report
    finally:
        think.close()


def _case(case: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in case.items() if name != "case")


def log_of(env: AutoBid, ticks: pl.DataFrame) -> list[Text]:
    """The day in lines: what it began with, eight lines a tick, and what it came to.

    Args:
        env: The market.
        ticks: As `adarena.experiments.explain_table.table_of` gives them.
    """
    rows = ticks.to_dicts()
    first, unit = rows[0], value_unit(env)
    target = "no target" if first["target"] is None else f"target {number(first['target'])} per unit of value ({unit})"
    lines = [Text(f"Budget {number(first['budget'])} currency units, {target}, {len(rows)} ticks a day.")]
    before = 1.0
    for row in rows:
        lines.append(Text())
        lines += _tick(row, before, _end(rows[-1]), unit)
        before = row["multiplier"]
    return [*lines, Text(), *_summary(rows, unit)]


class End(NamedTuple):
    """How a day ended.

    Attributes:
        gone_hour: Hour at which the budget was spent; None where it lasted.
        budget_left: Share of the budget.
        cost_over_target: None where nothing was won or without target.
        score: Of the day.
    """

    gone_hour: float | None
    budget_left: float
    cost_over_target: float | None
    score: float


def _tick(row: dict[str, Any], before: float, end: End, unit: str) -> list[Text]:
    """The lines of one tick; ``before``: the last multiplier; ``end``: how the day ended."""
    plan = [_word(row, slot.name) for slot in SLOTS if slot.kind == "plan"]
    came = f"spent {number(row['spend'])} ({_percent(row['spend'] / row['budget'])} of the budget) for "
    came += f"{number(row['value'])} {unit}; left {_percent(row['budget_left'])}, {_cost(row['cost_over_target'])}"
    held = f", multiplier {number(row['held_multiplier'])} to the end of the day"
    return [
        _line(row["time"], "saw", Text(_seen(row))),
        _line("", "thought", _words(row, "diagnosis").append(_who(row["source"]))),
        _line("", "forecast", _words(row, "forecast")),
        _line("", "happened", Text(_ended(row, "true", end))),
        _line("", "if held", Text(_ended(row, "held", _held_end(row)) + held)),
        _line("", "planned", Text.assemble("multiplier ", plan[0], " for ", plan[1])),
        _line("", "did", Text(f"multiplier {number(row['multiplier'])}, before {number(before)}")),
        _line("", "came", Text(came)),
    ]


def _end(row: dict[str, Any]) -> End:
    """How the day ended, by its last row."""
    return End(row["gone_hour"], row["budget_left"], row["cost_over_target"], row["score"])


def _held_end(row: dict[str, Any]) -> End:
    """How it would have ended, had the last multiplier been held from a tick on."""
    return End(*(row[f"held_{name}"] for name in ("gone_hour", "budget_left", "cost_over_target", "score")))


def _line(time: str, label: str, text: Text) -> Text:
    return Text.assemble((f"{time:6}", "bold"), (f"{label:10}", "cyan"), text)


def _seen(row: dict[str, Any]) -> str:
    """What thoughts are about, in units that people read."""
    parts = [f"budget left {_percent(row['seen_budget_left'])}"]
    if "seen_traffic_left" in row:
        parts.append(f"traffic left {_percent(row['seen_traffic_left'])}")
    known = row["seen_progress"] > 0.0 and row["seen_has_target"] > 0.5
    parts.append(_cost(np.exp(row["seen_cost_over_target"]) if known else None))
    if row["tick"]:
        parts.append(f"last prices {number(np.exp(row['seen_market_last'] - row['seen_market_all']))} x the day's")
        parts.append(f"last win rate {_percent(row['seen_win_rate_last'])}")
    parts.append(f"traffic of the next four ticks {number(np.exp(row['seen_traffic_coming']))} x the mean")
    return ", ".join(parts)


def _words(row: dict[str, Any], kind: str) -> Text:
    parts = [Text.assemble(f"{slot.name} ", _word(row, slot.name)) for slot in SLOTS if slot.kind == kind]
    return Text("; ").join(parts)


def _who(source: str) -> str:
    """Who thought, where it was not simply the learned Think."""
    return "" if source == LEARNED else f" ({source})"


def _word(row: dict[str, Any], slot: str) -> Text:
    """A word, its chance where there is one, and what was true where it was not."""
    said, true, chance = (row[column(kind, slot)] for kind in ("thought", "true", "chance"))
    text = Text(said if chance is None else f"{said} ({_percent(chance, 0)})")
    return text if said == true else text.append(f" [it was: {true}]", "red")


def _ended(row: dict[str, Any], kind: str, end: End) -> str:
    """How a day ended, in the words of the forecast and in numbers."""
    words = ", ".join(f"{slot.name} {row[column(kind, slot.name)]}" for slot in FORECASTS)
    left = f"{_percent(end.budget_left)} of the budget left"
    budget = left if end.gone_hour is None else f"budget gone at {clock(end.gone_hour)}"
    return f"{words}: {budget}, {_cost(end.cost_over_target)}, score {number(end.score)}"


def _summary(rows: list[dict[str, Any]], unit: str) -> list[Text]:
    last, count = rows[-1], len(rows)
    gone = f"gone at {clock(last['gone_hour'])}" if last["gone_hour"] is not None else "not gone"
    parts = [f"spent {number(last['spend_so_far'])}, {_percent(1.0 - last['budget_left'])} of the budget ({gone})"]
    parts += [
        f"{number(last['value_so_far'])} {unit}",
        _cost(last["cost_over_target"]),
        f"score {number(last['score'])}",
    ]
    right = []
    for slot in SLOTS:
        hits = sum(row[column("thought", slot.name)] == row[column("true", slot.name)] for row in rows)
        right.append(f"{slot.name} {hits}")
    picked = [rows[round(share * count)] for share in _FROM]
    held = [f"from {row['time']} on {number(row['held_score'])}" for row in picked]
    return [
        _line("24:00", "day's end", Text(", ".join(parts))),
        _line("", "right", Text(f"of {count} words each: {', '.join(right)}")),
        _line(
            "",
            "if held",
            Text(f"score had the last multiplier been held {', '.join(held)}; it was {number(last['score'])}"),
        ),
    ]


def _percent(share: float, digits: int = 1) -> str:
    return f"{100.0 * share:.{digits}f} %"


def _cost(over: float | None) -> str:
    return "cost per value not known" if over is None else f"cost per value {number(over)} x target"
