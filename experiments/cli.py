"""The ``adarena`` command."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

_USAGE = """adarena: a research gym for ad auctions

  adarena run autobid [--preset NAME] [--resume] [options]   train, tune, compare, draw
  adarena run coldstart [--preset NAME] [--resume] [options] the same for the placement of new ads
  adarena run lifecycle [--preset NAME] [--resume] [options] the same for the whole life of a campaign
  adarena run offline [--preset NAME] [--resume] [options]   bidders that learn from logs, compared in the live market
  adarena run ope [--preset NAME] [--resume] [options]       value of policies from logs alone, against the truth
  adarena explain RUN --episode K [options]                  a day of the reasoning bidder, its thoughts and their truth
  adarena sweep FILE.py [options]                            many configurations, on this machine or a cluster
  adarena sweep EXPERIMENT --grid FIELD=VALUE,VALUE ... [options]   the same for every combination of values
  adarena evaluate RUN [options]                             policies of a run on other markets
  adarena evaluate --policy P [--policy P ...] [options]     any policies in AuctionNet's market
  adarena collect [--preset NAME] [--resume] [options]       logged episodes with known propensities
  adarena gather RUN ... [options]                           tables of several runs in one results folder
  adarena calibrate PATH [options]                           fit a market to iPinYou logs
  adarena envs                                               registered environments, and what packages bring
  adarena figures [options]                                  redraw figures from results
  adarena report RUN ... [options]                           one HTML page: tables, figures, leaderboard, a day to scrub
  adarena export RUN ... --out DIR                           every table as CSV and LaTeX
  adarena verify [options]                                   compare the market with auction theory
  adarena bench [options]                                    measure speed
  adarena bench --compare OLD NEW                            two results of it side by side

Each takes --help."""


EXPERIMENTS = ("autobid", "coldstart", "lifecycle", "offline", "ope")
"""Modules of `adarena.experiments` with ``PRESETS`` (name to configuration) and ``run(config, resume=...)``."""


class UsageError(ValueError):
    """A command line that means nothing; the message says what would."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a wrong one ends with a clear message and exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        "run": _run,
        "explain": _explain,
        "sweep": _sweep,
        "evaluate": _evaluate,
        "collect": _collect,
        "gather": _gather,
        "calibrate": _calibrate,
        "envs": _envs,
        "figures": _figures,
        "report": _report,
        "export": _export,
        "verify": _verify,
        "bench": _bench,
    }
    try:
        if words[0] not in commands:
            raise UsageError(f"no command is called {words[0]!r}; commands are {', '.join(commands)}")
        from adarena.envs.cache import enable_compilation_cache

        enable_compilation_cache()  # off: JAX_ENABLE_COMPILATION_CACHE=false
        commands[words[0]](words[1:])
    except (ValueError, KeyError, TypeError, FileNotFoundError, ImportError) as error:
        if os.environ.get("ADARENA_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"adarena: {text}", file=sys.stderr)
        raise SystemExit(2) from error


def _run(words: list[str]) -> None:
    name = words[0] if words else "nothing"
    if name not in EXPERIMENTS:
        raise UsageError(f"run takes the name of an experiment ({', '.join(EXPERIMENTS)}), got {name!r}")
    experiment = importlib.import_module(f"adarena.experiments.{name}")
    rest, preset = _pick(words[1:], "--preset", "default")
    resume = "--resume" in rest
    rest = [word for word in rest if word != "--resume"]
    if preset not in experiment.PRESETS:
        raise UsageError(f"preset must be one of {', '.join(experiment.PRESETS)}, got {preset!r}")
    chosen = experiment.PRESETS[preset]
    config = tyro.cli(type(chosen), default=chosen, args=rest, prog=f"adarena run {name} [--preset NAME]")
    experiment.run(config, resume=resume)


def _sweep(words: list[str]) -> None:
    from adarena.experiments import sweep

    table = sweep.run_sweep(tyro.cli(sweep.SweepConfig, args=words, prog="adarena sweep"))
    if (table["state"] == "failed").any():
        raise SystemExit(1)


def _pick(words: list[str], flag: str, default: str) -> tuple[list[str], str]:
    """Takes ``flag VALUE`` (or ``flag=VALUE``) out of a command line."""
    for place, word in enumerate(words):
        if word == flag:
            if place + 1 == len(words):
                raise UsageError(f"{flag} takes a value, got nothing")
            return words[:place] + words[place + 2 :], words[place + 1]
        if word.startswith(f"{flag}="):
            return words[:place] + words[place + 1 :], word.partition("=")[2]
    return words, default


def _explain(words: list[str]) -> None:
    from adarena.experiments import explain

    explain.run(tyro.cli(explain.ExplainConfig, args=words, prog="adarena explain"))


def _evaluate(words: list[str]) -> None:
    flags = {word.partition("=")[0] for word in words}
    if flags & {"--policy", "--protocol"}:
        from adarena.experiments import auctionnet

        auctionnet.run(tyro.cli(auctionnet.AuctionNetConfig, args=words, prog="adarena evaluate"))
        return
    from adarena.experiments import evaluate

    evaluate.run(tyro.cli(evaluate.EvaluateConfig, args=words, prog="adarena evaluate"))


def _collect(words: list[str]) -> None:
    from adarena.experiments import collect

    rest, preset = _pick(words, "--preset", "default")
    resume = "--resume" in rest
    rest = [word for word in rest if word != "--resume"]
    if preset not in collect.PRESETS:
        raise UsageError(f"preset must be one of {', '.join(collect.PRESETS)}, got {preset!r}")
    default = collect.PRESETS[preset]
    config = tyro.cli(collect.CollectConfig, default=default, args=rest, prog="adarena collect [--preset NAME]")
    collect.run(config, resume=resume)


def _gather(words: list[str]) -> None:
    from adarena.experiments import gather

    gather.run(tyro.cli(gather.GatherConfig, args=words, prog="adarena gather"))


def _calibrate(words: list[str]) -> None:
    from adarena.experiments import calibrate

    calibrate.run_calibrate(tyro.cli(calibrate.CalibrateConfig, args=words, prog="adarena calibrate"))


def _verify(words: list[str]) -> None:
    from adarena.experiments import verify

    table = verify.run_verify(tyro.cli(verify.VerifyConfig, args=words, prog="adarena verify"))
    if not table["holds"].all():
        raise SystemExit(1)


def _bench(words: list[str]) -> None:
    if "--compare" in words:
        from adarena.experiments import bench_compare

        bench_compare.run_compare(tyro.cli(bench_compare.CompareConfig, args=words, prog="adarena bench"))
        return
    from adarena.experiments import bench

    bench.run_bench(tyro.cli(bench.BenchConfig, args=words, prog="adarena bench"))


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Redraws every figure from results.

    Attributes:
        results: Folder of result tables, or a run folder.
        out: Folder of the figures.
    """

    results: str = "paper_figs/results/autobid"
    out: str = "paper_figs/figures"


def _figures(words: list[str]) -> None:
    from adarena.paper_figs.make import draw_all

    config = tyro.cli(FiguresConfig, args=words, prog="adarena figures")
    if not Path(config.results).is_dir():
        raise UsageError(f"results must be a folder of result tables, got {config.results!r}")
    Console().print(f"Drawing figures from {config.results}")
    paths = draw_all(Path(config.results), Path(config.out))
    Console().print(f"{len(paths)} files are in {config.out}")


def _report(words: list[str]) -> None:
    from adarena.experiments.report import page

    page.run(tyro.cli(page.ReportConfig, args=words, prog="adarena report"))


def _export(words: list[str]) -> None:
    from adarena.experiments.report import export

    export.run(tyro.cli(export.ExportConfig, args=words, prog="adarena export"))


def _envs(words: list[str]) -> None:
    from adarena import envs
    from adarena.agents.policy import policies_of_packages
    from adarena.envs import registry
    from adarena.envs.market import auction
    from adarena.experiments import tables

    if words:
        raise UsageError(f"envs takes no arguments, got {words[0]!r}")
    table = Table(title="Registered environments")
    for column in ("name", "class", "observation", "action", "steps", "package"):
        table.add_column(column, no_wrap=column == "name")
    problems = registry.problems()
    for name, env_class in envs.registered().items():
        try:
            env, params = envs.make(name)
            spaces: list[Any] = [env.observation_space(params), env.action_space(params)]
            facts = [*(str(space.shape) for space in spaces), str(env.max_steps(params))]
        except Exception as error:  # a stranger's environment must not hide the others
            problems.append(f"{name} of {registry.package_of(name)} cannot be made: {type(error).__name__}: {error}")
            continue
        table.add_row(name, env_class.__name__, *facts, registry.package_of(name))
    tables.console().print(table)
    for kind, (brought, unusable) in {"policy": policies_of_packages(), "auction": auction.of_packages()}.items():
        problems += unusable
        for name, package in brought.items():
            print(f"{kind} {name}, of {package}")
    for problem in problems:
        print(f"adarena: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
