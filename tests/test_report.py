"""The report: what it reads, what it shows of whole, failed and damaged folders, and that it needs nothing else."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import made_up_report as made_up
import numpy as np
import polars as pl
import pytest

from adarena.experiments import cli, results
from adarena.experiments.report import day, format, leaderboard, page
from adarena.experiments.sweep_cells import Outcome, record_bytes

COMMITTED = Path(__file__).parents[1] / "paper_figs" / "results"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.write_run(tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    """The page of a whole run, a failed one and a damaged one."""
    root = run.parent
    made_up.write_run(root, "broken", failure="RuntimeError: loss is <nan> & more")
    made_up.tear(made_up.write_run(root, "torn") / "summary.parquet")
    return page.render(results.read_all([root]))


class Addresses(HTMLParser):
    """Collects all that a browser would fetch, all ids, and all that points at them."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            value = found.get(name)
            if value is None:
                continue
            (self.targets if value.startswith("#") else self.fetched).append(value)
        self.targets += [
            f"#{value}" for name in ("for", "aria-labelledby") for value in (found.get(name) or "").split()
        ]
        if tag == "img":
            self.images.append(found)


def test_the_page_needs_nothing_else(html: str) -> None:
    seen = Addresses()
    seen.feed(html)
    assert all(address.startswith("data:") for address in seen.fetched), seen.fetched
    assert len(seen.ids) == len(set(seen.ids))
    assert {target.removeprefix("#") for target in seen.targets} <= {*seen.ids}
    assert seen.images
    assert all(image["alt"] for image in seen.images)
    assert "default-src 'none'" in html  # a browser would refuse what were fetched nevertheless
    assert "@import" not in html
    assert re.search(r"<html lang=\"en\">", html)


def test_failed_and_damaged_runs_are_listed_with_what_is_wrong(html: str) -> None:
    text = re.sub(r"\s+", " ", html)
    assert "2 of 3 folders are failed, unfinished or damaged." in text
    assert "<strong>broken</strong> (failed): RuntimeError: loss is &lt;nan&gt; &amp; more" in text
    assert "<strong>torn</strong> (damaged): summary.parquet was edited or torn" in text
    assert text.count("policies, whole</span>") == 1
    assert "policies, broken" not in text
    assert "policies, torn" not in text


def test_tables_configuration_and_versions_are_on_the_page(html: str, run: Path) -> None:
    record = next(results.records_of(run))
    assert "34.18 [33.96, 34.39]" in html
    assert "44 % [41, 47]" in html
    assert "\N{MINUS SIGN}150 % [\N{MINUS SIGN}175, \N{MINUS SIGN}125]" in html
    assert "&lt;b&gt;50% &amp; more_&lt;/b&gt;" in html
    assert "<b>50%" not in html
    assert record.config_sha256 in html
    assert f"jax {record.versions['jax']}" in html
    assert "train_steps" in html
    assert "80 rows: seed, step, episode_return" in html  # too long to be shown


def test_a_run_that_was_killed_is_not_finished(tmp_path: Path) -> None:
    made_up.write_run(tmp_path, "killed")
    folder = made_up.RunFolder.open(tmp_path / "killed")
    folder.manifest["status"] = "running"
    folder._save()
    read = results.read(tmp_path / "killed")
    assert (read.status, read.failure) == ("running", "not finished: still running, or killed")
    assert leaderboard.boards([read]) == []


def test_cells_of_a_sweep_that_failed_before_they_had_a_folder_are_listed(tmp_path: Path) -> None:
    records = tmp_path / "sweep" / "records"
    records.mkdir(parents=True)
    for name, outcome in (
        ("autobid-1", Outcome("failed", "cell", "ValueError: no such traffic", 1.0)),
        ("autobid-2", Outcome("done", seconds=1.0)),
    ):
        (records / name).write_bytes(record_bytes("0" * 64, outcome, {}))
    (records / "autobid-3").write_bytes(b"torn")
    (lost,) = results.read_all([tmp_path])
    assert (lost.name, lost.status, lost.failure) == ("autobid-1", results.FAILED, "ValueError: no such traffic")
    html = page.render([lost])
    assert "autobid-1" in html
    assert "no such traffic" in html


def test_damaged_tables_of_a_results_folder_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED / "lifecycle", tmp_path / "life")
    made_up.tear(tmp_path / "life" / "life.parquet")
    (folder,) = results.read_all([tmp_path / "life"])
    assert folder.status == "damaged"
    assert "summary" in folder.tables
    html = page.render([folder])
    assert "life.parquet: cannot be read" in html
    assert '<span class="name">summary</span>' in html


def test_a_damaged_runs_json_is_named(tmp_path: Path) -> None:
    shutil.copytree(COMMITTED / "replay", tmp_path / "replay")
    made_up.tear(tmp_path / "replay" / "runs.json")
    (folder,) = results.read_all([tmp_path / "replay"])
    assert folder.status == "damaged"
    assert "runs.json is no valid JSON, torn or edited" in folder.failure
    assert folder.records == ()


def test_a_table_that_no_figure_can_be_drawn_from_is_a_problem_of_its_folder(tmp_path: Path) -> None:
    made_up.curve_table().drop("episode_return").write_parquet(tmp_path / "curves.parquet")
    html = page.render(results.read_all([tmp_path]))
    assert "figure curves could not be drawn" in html
    assert "episode_return not found" in html


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "runs must name at least one folder, got none"),
        (("nowhere",), "runs must be folders, got .*nowhere.*no such folder"),
        (("empty",), "runs must be run folders or folders of tables, got .*empty"),
    ],
)
@pytest.mark.parametrize("command", ["report", "export"])
def test_folders_that_are_none_are_refused(
    command: str, words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        cli.main([command, *(str(tmp_path / word) for word in words), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    if words:
        assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_extra_is_named_where_it_is_absent(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bokeh" else real(name))
    with pytest.raises(ImportError, match=r"needs bokeh: pip install 'adarena\[report\]'"):
        page.run(page.ReportConfig(runs=(str(run),), out=str(tmp_path / "page.html")))


def test_a_day_adds_up(run: Path) -> None:
    (one,) = day.days_of([results.read(run)])
    shown = day.day_json(one)
    assert shown["seat"] == made_up.SEAT
    assert shown["kind"][3] == "pid target"
    np.testing.assert_allclose(shown["spend"], made_up.SPEND)
    np.testing.assert_allclose(shown["wins"], made_up.WINS)
    assert shown["price"][3] is None  # nothing won
    assert shown["price"][1] == pytest.approx(1000.0 * made_up.SPEND[1].sum() / made_up.WINS[1].sum(), rel=1e-4)
    assert shown["hours"] == 24.0 / made_up.TICKS
    assert "PPO in the seat" in shown["title"]


def test_boards_rank_and_say_what_all_headroom_is() -> None:
    folders = results.read_all([COMMITTED / name for name in ("replay", "coldstart", "lifecycle", "verify")])
    boards = leaderboard.boards(folders)
    assert [board.folder for board in boards] == ["replay", "coldstart", "lifecycle"]
    replay, cold, life = boards
    assert replay.environment == "AutoBid-v0, ipinyou traffic, Second price"
    assert replay.reference == "hindsight"
    assert cold.reference == life.reference == "the oracle, who knows the true rates"
    summary = folders[0].tables["summary"].filter(pl.col("kind") == "learner")
    ppo = next(entry for entry in replay.entries if entry.policy == "PPO")
    assert ppo.headroom.startswith(f"{100.0 * summary['headroom'][0]:.0f} %")
    assert ppo.seeds == 10
    assert replay.entries[0].of_hindsight == "100 %"
    assert all(-1.0 <= end <= 1.0 for board in boards for entry in board.entries for end in entry.bar or ())


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((34.1761, 33.9595, 34.3934), "34.18 [33.96, 34.39]"),
        ((0.103909, 0.103543, 0.104249), "0.10391 [0.10354, 0.10425]"),
        ((2937.4, 2800.0, 3100.0), "2,937 [2,800, 3,100]"),
        ((-0.001, -0.4, 0.4), "0.00 [-0.40, 0.40]"),
        ((1.0, 1.0, 1.0), "1 [1, 1]"),
        ((5.0, None, None), "5"),
        ((5.0, float("nan"), float("nan")), "5"),
        ((None, None, None), format.UNKNOWN),
    ],
)
def test_digits_are_those_that_the_interval_can_bear(numbers: tuple[float | None, ...], text: str) -> None:
    assert format.interval(*numbers) == text


def test_numbers_and_columns_for_readers() -> None:
    numbers = [12, 0.0, -0.0, 1234.5, 0.00012345, float("inf"), float("nan"), None]
    assert [format.number(x) for x in numbers] == ["12", "0", "0", "1,234", "0.0001234", "∞", "–", "–"]
    names = [column.name for column in format.columns_of(made_up.summary_table())]
    assert names == ["mechanism", "policy", "kind", "seeds", "score", "headroom"]
    assert [column.numeric for column in format.columns_of(made_up.summary_table())] == [False] * 3 + [True] * 3
    estimates = pl.DataFrame({"estimate": [0.5], "low": [0.4], "high": [0.6], "holds": [True]})
    assert [column.cells for column in format.columns_of(estimates)] == [["yes"], ["0.50 [0.40, 0.60]"]]
