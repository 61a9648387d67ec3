"""``adarena sweep``: what is run, what is not run twice, how a cell ends. Killed processes: `test_sweep_killed.py`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import toy_experiment
from toy_experiment import Toy, events

from adarena.experiments import locks, sweep_cells, sweep_engines, tensorboard_logs
from adarena.experiments.autobid import AutoBidExperiment
from adarena.experiments.store import RunFolder
from adarena.experiments.sweep import SweepConfig, run_sweep
from adarena.experiments.sweep_cells import Outcome, Task, known, run_cell
from adarena.experiments.sweep_plan import Cell, cells_of_file, cells_of_grid, digest_of, register


def task(root: Path, config: Any = None, **options: bool) -> Task:
    config = Toy() if config is None else config
    return Task.of(Cell("toy", config, digest_of(config)), root.absolute(), "toy_experiment", **options)


def folder_of(root: Path, one: Task) -> Path:
    return root / one.name


# What is swept ------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_the_rest_is_the_preset() -> None:
    axes = {"train_steps": ["10000", "20_000"], "mechanisms": ["gsp", "gsp+vcg"], "figures": ["false"], "hidden": ["8"]}
    cells = cells_of_grid("autobid", "", "smoke", axes)
    varied = [(cell.config.train_steps, cell.config.mechanisms) for cell in cells]
    assert varied == [(10_000, ("gsp",)), (10_000, ("gsp", "vcg")), (20_000, ("gsp",)), (20_000, ("gsp", "vcg"))]
    assert {cell.config.figures for cell in cells} == {False}
    assert {cell.config.hidden for cell in cells} == {(8,)}
    assert {cell.config.num_envs for cell in cells} == {16}
    assert len({cell.name for cell in cells}) == 4
    assert all(cell.name == f"autobid-{cell.digest[:16]}" for cell in cells)


def test_a_cell_is_the_same_wherever_it_lies_and_only_then() -> None:
    config = AutoBidExperiment()
    assert digest_of(dataclasses.replace(config, runs="elsewhere", name="x")) == digest_of(config)
    assert digest_of(dataclasses.replace(config, market_seed=1)) != digest_of(config)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"train_steps": ["many"]}, r"grid's train_steps must be of type int, got 'many'"),
        ({"mechanism": ["gsp"]}, r"grid must name fields of AutoBidExperiment \(env, .*\), got 'mechanism'"),
        ({"runs": ["here"]}, "got 'runs'"),
        ({"mechanisms": ["gsp", "auction"]}, r"mechanisms must be among .*, got 'auction'"),
    ],
)
def test_a_wrong_grid_is_refused(axes: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells_of_grid("autobid", "", "default", axes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": ("value",)}, r"grid must be made of FIELD=VALUE,VALUE, got 'value'"),
        ({"grid": ("value=1", "value=2")}, r"grid must name each field once, got 'value' twice"),
        ({"preset": "none"}, r"preset must be one of default, got 'none'"),
        ({"target": "toys"}, r"no experiment is called 'toys'; known are autobid, .*, toy"),
        ({"target": "no_such_sweep.py"}, r"there is no file no_such_sweep.py"),
    ],
)
def test_a_wrong_command_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError, FileNotFoundError), match=message):
        run_sweep(SweepConfig(**{"target": "toy_experiment:toy", "folder": str(tmp_path / "s")} | changes))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"engine": "slurm"}, "engine must be local or ray, got 'slurm'"),
        ({"gpus": -1.0}, "cpus and gpus must not be negative"),
        ({"ray_address": "a:1"}, "ray_address is of --engine ray"),
        ({"target": "x.py", "grid": ("value=1",)}, "grid and preset are of an experiment's name, and x.py is a file"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(**{"target": "autobid"} | changes)


def test_a_file_yields_configurations_of_any_experiment(tmp_path: Path) -> None:
    file = tmp_path / "mixed.py"
    file.write_text(
        "from adarena.experiments.autobid import AutoBidExperiment\nfrom adarena.experiments.ope import OpeExperiment\n"
        "from toy_experiment import Toy\n"
        "def cells():\n    yield AutoBidExperiment()\n    yield OpeExperiment()\n    yield Toy(1)\n    yield Toy(1, name='x')\n"
    )
    assert [cell.experiment for cell in cells_of_file(str(file))] == ["autobid", "ope", "toy"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("cell = 1", r"bad\d.py must define cells\(\)"),
        ("def cells(): return []", "the sweep has no cells"),
        ("def cells(): return [1]", r"cells\(\)\[0\] must be a frozen dataclass, got 1"),
        (
            "import toy\ndef cells(): return [toy.TargetEnv()]",
            r"cells\(\)\[0\], a TargetEnv, must have the field 'runs'",
        ),
        (
            "from toy_experiment import Toy\ndef cells(): return [Toy(ledger='/a/x'), Toy(ledger='/b/x')]",
            "two cells of toy differ only in folders of a path",
        ),
        (
            "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C:\n    runs: str = ''\n    name: str = ''\n"
            "def cells(): return [C()]",
            r"cells\(\)\[0\] must be a configuration of autobid, .* or of an experiment that the sweep file registers, got a C",
        ),
    ],
)
def test_a_wrong_file_is_refused(body: str, message: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = tmp_path / f"bad{request.node.callspec.indices['body']}.py"
    file.write_text(body)
    with pytest.raises((ValueError, TypeError), match=message):
        cells_of_file(str(file))


def test_only_experiments_can_be_registered() -> None:
    with pytest.raises(ValueError, match="name must not be another experiment's, got 'autobid'"):
        register("autobid", toy_experiment.this)
    with pytest.raises(ValueError, match="name must be letters"):
        register("a/b", toy_experiment.this)
    with pytest.raises(TypeError, match=r"experiment must have run\(config, \*, resume\) and PRESETS"):
        register("new", object())  # type: ignore[arg-type]


# One cell -----------------------------------------------------------------------------------------------------------


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    one = task(tmp_path, Toy(3, ledger=str(ledger)))
    first, second = run_cell(one), run_cell(one)
    assert (first.state, first.ran) == ("done", True)
    assert (second.state, second.ran) == ("done", False)
    assert second.seconds == first.seconds > 0.0
    assert known(tmp_path, one.name, one.digest) == second
    assert events(ledger, "start") == [3]
    assert sweep_cells.log_of(tmp_path, one.name).read_text() == "value 3\n"
    assert RunFolder.open(folder_of(tmp_path, one)).read_table("scores")["score"].to_list() == [3.0]
    assert list((tmp_path / "sweep" / "locks").iterdir()) == []


def test_an_exception_is_recorded_with_its_traceback_and_run_again_when_asked(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    one = task(tmp_path, Toy(7, "raise", ledger=str(ledger)))
    outcome = run_cell(one)
    assert (outcome.state, outcome.cause, outcome.error) == ("failed", "cell", "ArithmeticError: value 7 is wrong")
    log = sweep_cells.log_of(tmp_path, one.name).read_text()
    assert "Traceback" in log
    assert "in _act" in log
    assert run_cell(one).ran is False
    assert events(ledger, "start") == [7]
    assert run_cell(dataclasses.replace(one, again=True)).ran is True
    assert events(ledger, "start") == [7, 7]
    assert events(ledger, "half") == [7]  # it went on with what was there


def test_an_exit_fails_a_cell_and_not_its_process(tmp_path: Path) -> None:
    assert run_cell(task(tmp_path, Toy(act="exit"))).error == "SystemExit: 3"


def test_nan_fails_a_cell_by_name_and_it_is_set_aside_when_run_again(tmp_path: Path) -> None:
    one = task(tmp_path, Toy(2, "nan"))
    error = "NaN in scores.parquet, column score, first in row 0, policy toy"
    assert run_cell(one) == dataclasses.replace(run_cell(one), ran=True)
    outcome = run_cell(dataclasses.replace(one, again=True))
    assert (outcome.state, outcome.cause, outcome.error, outcome.ran) == ("failed", "cell", error, True)
    assert [path.name for path in (tmp_path / "sweep" / "set_aside").iterdir()] == [f"{one.name}.1"]


def test_a_full_disk_is_told_apart_and_the_cell_waits(tmp_path: Path) -> None:
    one = task(tmp_path, Toy(act="full"))
    outcome = run_cell(one)
    assert (outcome.state, outcome.cause) == ("failed", "full disk")
    assert "No space left on device" in outcome.error
    assert known(tmp_path, one.name, one.digest) is None


def test_a_missing_file_or_package_is_the_machines_fault(tmp_path: Path) -> None:
    for number, error in enumerate((FileNotFoundError("log"), ImportError("minari"), MemoryError())):
        one = task(tmp_path, Toy(number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(toy_experiment, "_act", lambda *_, error=error: (_ for _ in ()).throw(error))
            assert run_cell(one).cause == "machine"
        assert known(tmp_path, one.name, one.digest) is None
        assert run_cell(one).state == "done"


def _edit_table(folder: Path) -> None:
    content = (folder / "scores.parquet").read_bytes()
    (folder / "scores.parquet").write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])


def _tear_manifest(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content[: len(content) // 2])


def _lose_table(folder: Path) -> None:
    (folder / "scores.parquet").unlink()


def _edit_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"value": 4', '"value": 5'))


@pytest.mark.parametrize("damage", [_edit_table, _tear_manifest, _lose_table, _edit_config])
def test_a_damaged_result_is_found_set_aside_and_run_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    one = task(tmp_path, Toy(4, ledger=str(ledger)))
    run_cell(one)
    damage(folder_of(tmp_path, one))
    left = {path.name: path.read_bytes() for path in folder_of(tmp_path, one).iterdir() if path.is_file()}
    assert known(tmp_path, one.name, one.digest) is None
    outcome = run_cell(one)
    assert (outcome.state, outcome.ran) == ("done", True)
    aside = tmp_path / "sweep" / "set_aside" / f"{one.name}.1"
    assert {path.name: path.read_bytes() for path in aside.iterdir() if path.is_file()} == left
    assert RunFolder.open(folder_of(tmp_path, one)).read_table("scores")["score"].to_list() == [4.0]
    assert events(ledger, "start") == [4, 4]


def test_an_edit_that_keeps_size_and_times_is_found_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = task(tmp_path)
    run_cell(one)
    before = sweep_cells.stats(folder_of(tmp_path, one), ["scores.parquet"])["scores.parquet"]
    _edit_table(folder_of(tmp_path, one))
    stats = sweep_cells.stats
    monkeypatch.setattr(
        sweep_cells, "stats", lambda *a: {k: before if k == "scores.parquet" else v for k, v in stats(*a).items()}
    )
    assert run_cell(one).ran is False
    assert run_cell(dataclasses.replace(one, verify=True)).ran is True


def test_files_that_were_only_touched_are_verified_and_kept(tmp_path: Path) -> None:
    one = task(tmp_path)
    first = run_cell(one)
    os.utime(folder_of(tmp_path, one) / "scores.parquet", (1, 1))
    assert known(tmp_path, one.name, one.digest) is None
    assert run_cell(one) == dataclasses.replace(first, ran=False)
    assert known(tmp_path, one.name, one.digest) is not None


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: text.replace(b"done", b"dons")])
def test_a_damaged_or_lost_record_does_not_cost_a_run(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    one = task(tmp_path)
    run_cell(one)
    record = tmp_path / "sweep" / "records" / one.name
    record.write_bytes(damage(record.read_bytes()))
    assert known(tmp_path, one.name, one.digest) is None
    outcome = run_cell(one)  # as if it had been killed between the end of the run and its record
    assert (outcome.state, outcome.ran) == ("done", False)
    assert known(tmp_path, one.name, one.digest) is not None


def test_a_sweep_that_was_moved_is_still_finished_and_half_a_cell_of_it_is_begun_anew(tmp_path: Path) -> None:
    done, half = task(tmp_path / "old", Toy(1)), task(tmp_path / "old", Toy(2, "raise"))
    run_cell(done)
    run_cell(half)
    (tmp_path / "old").rename(tmp_path / "new")
    assert run_cell(dataclasses.replace(task(tmp_path / "new", Toy(1)), verify=True)).ran is False
    assert run_cell(dataclasses.replace(task(tmp_path / "new", Toy(2, "raise")), again=True)).error.startswith("Arith")
    assert (tmp_path / "new" / "sweep" / "set_aside" / f"{half.name}.1").is_dir()


def test_a_cell_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    one = task(tmp_path)
    lock = tmp_path / "sweep" / "locks" / one.name
    with locks.hold(lock) as held:
        assert held
        assert sweep_cells.is_running(tmp_path, one.name)
        assert sweep_cells.count_running(tmp_path) == 1
        assert run_cell(one) == Outcome("elsewhere")
    assert not sweep_cells.is_running(tmp_path, one.name)
    lock.write_text("")  # what a killed process leaves behind
    assert run_cell(one).state == "done"


# TensorBoard --------------------------------------------------------------------------------------------------------


def test_learning_curves_can_be_read_by_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = task(tmp_path, Toy(2), tensorboard=True)
    run_cell(one)
    logs = folder_of(tmp_path, one) / "tensorboard"
    read = accumulator.EventAccumulator(str(logs / "seed 0")).Reload()
    assert read.Tags()["scalars"] == ["loss"]  # its return is not a number, and left out
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(0, 1.0), (10, 2.0)]
    read = accumulator.EventAccumulator(str(logs / "seed 1")).Reload()
    assert sorted(read.Tags()["scalars"]) == ["episode_return", "loss"]
    tensorboard_logs.write(pl.DataFrame({"step": [1], "x": [2.0]}), logs)
    assert len(list(logs.rglob("events*"))) == 1  # older logs are replaced


def test_what_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(tensorboard_logs, "available", lambda: False)
    toys = SweepConfig("toy_experiment:toy", folder=str(tmp_path))
    with pytest.raises(ImportError, match=r"pip install 'adarena\[tensorboard\]'"):
        run_sweep(dataclasses.replace(toys, tensorboard="on"))
    with pytest.raises(ImportError, match=r"pip install 'adarena\[tensorboard\]'"):
        tensorboard_logs.write(pl.DataFrame({"step": [1]}), tmp_path / "logs")
    with pytest.raises(ImportError, match=r"pip install 'adarena\[cluster\]'"):
        run_sweep(dataclasses.replace(toys, engine="ray"))


@pytest.mark.parametrize(
    ("visible", "jobs", "expected"),
    [
        ("3,5", 2, [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]),
        ("7", 2, [{"CUDA_VISIBLE_DEVICES": "7", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}] * 2),
        ("", 2, [{}, {}]),
    ],
)
def test_each_worker_has_a_device(
    visible: str, jobs: int, expected: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert [sweep_engines._device(place, jobs) for place in range(jobs)] == expected
    with sweep_engines._environment(expected[0]):
        assert {name: os.environ[name] for name in expected[0]} == expected[0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ
