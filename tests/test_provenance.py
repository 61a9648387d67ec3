"""Figures say what made them, and the same results give the same bytes in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import made_up_report as made_up
import pytest
from PIL import Image

from adarena.experiments import results
from adarena.paper_figs import make, style
from adarena.paper_figs.provenance import provenance

COMMITTED = Path(__file__).parents[1] / "paper_figs"

_TWICE = """
import sys
from pathlib import Path
from adarena.experiments import results
from adarena.experiments.report import page
from adarena.paper_figs import make
make.draw_all(Path(sys.argv[1]), Path(sys.argv[2]))
(Path(sys.argv[2]) / "page.html").write_text(page.render(results.read_all([sys.argv[1]])), encoding="utf-8")
"""


def test_a_figure_names_the_command_the_configuration_and_the_versions(tmp_path: Path) -> None:
    run = made_up.write_run(tmp_path, "run")
    paths = {path.suffix: path for path in make.draw_all(run, tmp_path / "figures") if path.stem == "curves"}
    record = next(results.records_of(run))
    about = json.loads(paths[".json"].read_text(encoding="utf-8"))
    assert about["made_by"][0]["config_sha256"] == record.config_sha256
    assert about["made_by"][0]["versions"] == record.versions
    assert about["table_sha256"] == made_up.RunFolder.open(run).manifest["files"]["curves.parquet"]
    described = Image.open(paths[".png"]).text["Description"]
    pdf = paths[".pdf"].read_bytes()
    for word in (record.config_sha256, f"jax {record.versions['jax']}", about["made_by"][0]["command"]):
        assert word in described
    assert f"/Keywords ({record.config_sha256})".encode() in pdf
    assert b"CreationDate" not in pdf


def test_a_measured_table_comes_from_its_own_command() -> None:
    folder = style.DEFAULT_RESULTS
    assert [one["name"] for one in provenance(folder, "throughput", "throughput.parquet")["made_by"]] == [
        "bench_throughput"
    ]
    names = [one["name"] for one in provenance(folder, "scores", "scores.parquet")["made_by"]]
    assert names == ["paper-gsp", "paper-first_price", "paper-vcg"]


@pytest.mark.parametrize(
    "name",
    [
        "autobid",
        "coldstart",
        "lifecycle",
        "offline",
        "offline_sparse",
        "offline_auctionnet",
        "offline_auctionnet_sparse",
        "offline_markets",
        "ope",
    ],
)
def test_committed_figures_come_from_the_committed_tables(name: str) -> None:
    folder, drawn = COMMITTED / "results" / name, COMMITTED / "figures" / ("" if name == "autobid" else name)
    there = [figure for figure in make.figures_of(folder) if (folder / figure.TABLE).is_file()]
    assert there
    for figure in there:
        about = json.loads((drawn / f"{figure.NAME}.json").read_text(encoding="utf-8"))
        now = provenance(folder, figure.NAME, figure.TABLE)
        assert {key: about[key] for key in about if key != "drawn_with"} == {
            key: now[key] for key in now if key != "drawn_with"
        }


def test_the_same_results_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    run = made_up.write_run(tmp_path, "run")
    for name, seed in (("a", "1"), ("b", "2")):
        words = [sys.executable, "-c", _TWICE, str(run), str(tmp_path / name)]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["curves.json", "curves.pdf", "curves.png", "page.html"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
