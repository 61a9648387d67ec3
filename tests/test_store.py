from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from adarena.experiments import store
from adarena.experiments.store import RunFolder, RunFolderError, portable


class Kind(enum.Enum):
    GSP = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 3e-4
    layers: tuple[int, ...] = (64, 64)


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 10
    budgets: tuple[float, ...] = (0.5, 1.0)
    kind: Kind = Kind.GSP
    inner: Inner = Inner()
    name: str | None = None
    traffic: Any = "calibrated"


TABLE = pl.DataFrame({"policy": ["pid", "ppo"], "score": [1.5, 2.5]})


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_run_leaves_what_is_needed_to_judge_it(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, Config(), "first", seeds={"train": [0, 1], "markets": 7}) as run:
        run.write_table("metrics", TABLE)
        assert run.status == "running"
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints",
        "config.json",
        "manifest.json",
        "metrics.parquet",
    ]
    again = RunFolder.open(tmp_path / "first")
    assert again.status == "done"
    assert again.tables == ("metrics",)
    assert again.read_table("metrics").equals(TABLE)
    assert again.config["class"] == "Config"
    assert again.config["fields"] == {
        "seeds": 10,
        "budgets": [0.5, 1.0],
        "kind": "GSP",
        "inner": {"rate": 3e-4, "layers": [64, 64]},
        "name": None,
        "traffic": "calibrated",
    }
    manifest = again.manifest
    assert manifest["config_sha256"] == hashlib.sha256((run.path / "config.json").read_bytes()).hexdigest()
    assert (
        manifest["files"]["metrics.parquet"] == hashlib.sha256((run.path / "metrics.parquet").read_bytes()).hexdigest()
    )
    assert manifest["seeds"] == {"train": [0, 1], "markets": 7}
    assert manifest["python"] == sys.version.split()[0]
    assert {"adarena", "jax", "numpy", "polars"} <= set(manifest["packages"])
    assert manifest["cpu_count"] == os.cpu_count()
    assert manifest["devices"]
    assert manifest["command"]
    assert manifest["wall_seconds"] > 0.0
    assert {"git", "xla_flags", "backend", "x64", "created"} <= set(manifest)


def test_equal_configurations_have_equal_hashes(tmp_path: Path) -> None:
    one = RunFolder.create(tmp_path / "a", Config())
    two = RunFolder.create(tmp_path / "b", Config())
    other = RunFolder.create(tmp_path / "b", Config(inner=Inner(rate=1e-3)))
    assert (one.path / "config.json").read_bytes() == (two.path / "config.json").read_bytes()
    assert one.path.name == two.path.name == f"Config-{one.manifest['config_sha256'][:10]}"
    assert other.path.name != two.path.name


def test_numbers_of_numpy_and_jax_are_numbers(tmp_path: Path) -> None:
    config = Config(traffic={"a": np.float32(0.5), "b": np.arange(3), "c": jnp.ones(2), "d": np.bool_(True)})
    run = RunFolder.create(tmp_path, config)
    assert run.config["fields"]["traffic"] == {"a": 0.5, "b": [0, 1, 2], "c": [1.0, 1.0], "d": True}


def test_failure_is_recorded_and_can_be_resumed(tmp_path: Path) -> None:
    def run_and_fail() -> None:
        with RunFolder.create(tmp_path, Config(), "run") as run:
            run.write_table("metrics", TABLE)
            raise OSError(f"no disk at '{tmp_path}/deep/file.csv'")

    with pytest.raises(OSError, match="disk"):
        run_and_fail()
    failed = RunFolder.open(tmp_path / "run")
    assert failed.status == "failed"
    assert failed.manifest["failure"] == "OSError: no disk at 'file.csv'"
    before = failed.manifest["wall_seconds"]
    with RunFolder.create(tmp_path, Config(), "run", resume=True) as again:
        assert again.status == "running"
        assert again.read_table("metrics").equals(TABLE)
    assert RunFolder.open(tmp_path / "run").status == "done"
    assert again.manifest["failure"] is None
    assert again.manifest["wall_seconds"] >= before


def test_resume_makes_what_is_not_there_and_keeps_what_is_done(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, Config(), "run", resume=True) as run:
        (run.checkpoints / "step_1").write_text("state")
    again = RunFolder.create(tmp_path, Config(), "run", resume=True)
    assert again.status == "done"
    assert (again.checkpoints / "step_1").read_text() == "state"


def test_a_table_can_be_replaced(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, Config(), "run")
    run.write_table("metrics", TABLE)
    run.write_table("metrics", TABLE.head(1))
    assert RunFolder.open(run.path).read_table("metrics").equals(TABLE.head(1))


def test_any_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, Config(), "run")
    seen: list[Path] = []

    def write(path: Path) -> None:
        seen.append(path)
        path.write_text("<svg/>")

    assert run.write_file("figure.svg", write).read_text() == "<svg/>"
    assert seen[0].suffix == ".svg"  # figure writers choose their format by it
    assert seen[0].name != "figure.svg"
    assert "figure.svg" in RunFolder.open(run.path).manifest["files"]
    assert run.tables == ()


@pytest.mark.parametrize("moment", ["writing", "before", "between", "after"])
@pytest.mark.parametrize("first", [True, False])
def test_killed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, first: bool) -> None:
    """Whenever a write is cut off, the folder opens and holds the old table or the new one, whole."""

    class Killed(BaseException):
        pass

    run = RunFolder.create(tmp_path, Config(), "run")
    if not first:
        run.write_table("metrics", TABLE)
    move, moves = os.replace, 0

    def cut(source: Any, target: Any) -> None:
        nonlocal moves
        moves += 1  # 1: the manifest announces, 2: the table, 3: the manifest settles
        if (moment, moves) in (("before", 1), ("between", 2), ("after", 3)):
            raise Killed
        move(source, target)

    def write(path: Path) -> None:
        TABLE.head(1).write_parquet(path)
        if moment == "writing":
            raise Killed

    monkeypatch.setattr(store.os, "replace", cut)
    with pytest.raises(Killed):
        run.write_file("metrics.parquet", write)
    monkeypatch.setattr(store.os, "replace", move)
    again = RunFolder.create(tmp_path, Config(), "run", resume=True)
    if moment == "after":
        assert again.read_table("metrics").equals(TABLE.head(1))
    elif first:
        assert again.tables == ()
    else:
        assert again.read_table("metrics").equals(TABLE)
    again.write_table("metrics", TABLE.tail(1))
    assert RunFolder.open(again.path).read_table("metrics").equals(TABLE.tail(1))
    assert not [path for path in again.path.iterdir() if ".tmp" in path.name]


def test_killed_for_good(tmp_path: Path) -> None:
    """A process that ends without a word leaves a folder that goes on."""
    code = f"""
import os, polars as pl, test_store
from adarena.experiments.store import RunFolder
run = RunFolder.create({str(tmp_path)!r}, test_store.Config(), "run")
run.write_table("metrics", test_store.TABLE)
os._exit(9)
"""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    assert subprocess.run([sys.executable, "-c", code], env=here, check=False).returncode == 9
    assert RunFolder.open(tmp_path / "run").status == "running"
    assert RunFolder.create(tmp_path, Config(), "run", resume=True).tables == ("metrics",)


def test_no_file_names_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "imp.20130606.txt"
    log.write_text("a log")
    config = Config(name=str(tmp_path / "runs"), traffic=(f"ipinyou:{log}", log))
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path}/dump --xla_cpu_enable_fast_math=false")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "adarena"), "run", f"--traffic=ipinyou:{log}"])
    run = RunFolder.create(tmp_path, config, "run", inputs={"traffic": log})
    run.finish(f"could not read {log}")
    run.write_table("metrics", TABLE)
    for path in run.path.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert run.config["fields"]["traffic"] == ["ipinyou:imp.20130606.txt", "imp.20130606.txt"]
    assert run.manifest["command"] == ["adarena", "run", "--traffic=ipinyou:imp.20130606.txt"]
    assert run.manifest["xla_flags"] == ["--xla_dump_to=dump", "--xla_cpu_enable_fast_math=false"]
    assert run.manifest["failure"] == "could not read imp.20130606.txt"
    assert run.manifest["inputs"]["traffic"]["bytes"] == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adarena/AutoBid-v0", "adarena/AutoBid-v0"),
        ("module:mine/Env-v0", "module:mine/Env-v0"),
        ("a / b", "a / b"),
        ("https://example.org/x", "https://example.org/x"),
        ("/data/my logs/imp.bz2", "imp.bz2"),
        ("ipinyou:/data/imp.bz2", "ipinyou:imp.bz2"),
        ("--out=/data/runs", "--out=runs"),
        ("C:\\data\\imp.bz2", "imp.bz2"),
        ("results/run", "results/run"),
        ("", ""),
    ],
)
def test_portable(text: str, expected: str) -> None:
    assert portable(text) == expected


# -- what is refused ---------------------------------------------------------------------------------------------------


def _run(root: Path) -> RunFolder:
    with RunFolder.create(root, Config(), "run") as run:
        run.write_table("metrics", TABLE)
    return run


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing from run: this is no run folder"),
        (lambda p: (p / "config.json").unlink(), "config.json is missing from run"),
        (
            lambda p: (p / "metrics.parquet").unlink(),
            "metrics.parquet is missing from run, whose manifest.json lists it",
        ),
        (lambda p: _edit(p / "config.json", '"seeds": 10', '"seeds": 20'), "config.json was edited"),
        (lambda p: _edit(p / "manifest.json", '"done"', '"running"'), "manifest.json was edited"),
        (lambda p: _edit(p / "manifest.json", '"schema": 1', '"schema": 2'), "manifest.json must have schema 1, got 2"),
        (lambda p: _edit(p / "manifest.json", '"schema": 1', '"schema": NaN'), "manifest.json is no valid JSON"),
        (lambda p: os.truncate(p / "manifest.json", 100), "manifest.json is no valid JSON, torn or edited"),
        (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is no valid JSON, torn or edited"),
        (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json must hold a JSON object, got list"),
        (lambda p: os.truncate(p / "metrics.parquet", 50), "metrics.parquet was edited or torn"),
        (lambda p: TABLE.head(1).write_parquet(p / "metrics.parquet"), "metrics.parquet was edited or torn"),
    ],
)
def test_damaged_folders(tmp_path: Path, damage: Any, message: str) -> None:
    run = _run(tmp_path)
    damage(run.path)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.open(run.path)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.create(tmp_path, Config(), "run", resume=True)


def test_reading_verifies_again(tmp_path: Path) -> None:
    run = _run(tmp_path)
    TABLE.head(1).write_parquet(run.path / "metrics.parquet")
    with pytest.raises(RunFolderError, match=r"metrics\.parquet was edited or torn"):
        run.read_table("metrics")
    with pytest.raises(RunFolderError, match="the run has no table 'curves'; tables are metrics"):
        run.read_table("curves")


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, Config(), "run")
    run.write_file("notes.parquet", lambda path: path.write_text("no table"))
    with pytest.raises(RunFolderError, match=r"notes\.parquet is no parquet table"):
        run.read_table("notes")


def test_wrong_places(tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(RunFolderError, match="nowhere is no run folder: there is no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="run is there already; choose another name, or go on with it"):
        RunFolder.create(tmp_path, Config(), "run")
    with pytest.raises(
        RunFolderError, match=r"run holds another configuration: inner\.rate was 0.0003 and is 0.1; choose"
    ):
        RunFolder.create(tmp_path, Config(inner=Inner(rate=0.1)), "run", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"run could not be made in .*file: Not a directory"):
        RunFolder.create(tmp_path / "file", Config(), "run")
    for name in ("", "../run", "a/b", ".hidden", "a b"):
        with pytest.raises(RunFolderError, match="name must be letters, digits"):
            RunFolder.create(tmp_path, Config(), name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]  # nothing half-made is left


def test_wrong_inputs(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(
        RunFolderError, match=r"inputs\['traffic'\] must be a file that can be read, got log.txt: No such"
    ):
        RunFolder.create(tmp_path, Config(), "run", inputs={"traffic": log})
    log.write_text("one")
    RunFolder.create(tmp_path, Config(), "run", inputs={"traffic": log})
    log.write_text("two")
    with pytest.raises(RunFolderError, match="run was begun on other inputs"):
        RunFolder.create(tmp_path, Config(), "run", inputs={"traffic": log}, resume=True)


@pytest.mark.parametrize("name", ["../metrics", "a/b", "", ".metrics"])
def test_wrong_table_names(tmp_path: Path, name: str) -> None:
    run = RunFolder.create(tmp_path, Config(), "run")
    with pytest.raises(RunFolderError, match="a file's name must be letters, digits"):
        run.write_table(name, TABLE)
    for own in ("config.json", "manifest.json", "checkpoints"):
        with pytest.raises(RunFolderError, match="none of ours"):
            run.write_file(own, lambda path: None)


@dataclasses.dataclass
class Loose:
    seeds: int = 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seeds": 1}, "config must be an instance of a frozen dataclass, got {'seeds': 1}"),
        (Config, "config must be an instance of a frozen dataclass, got <class"),
        (Loose(), "config must be frozen, got the dataclass Loose, which is not"),
        (Config(traffic=object()), "config.traffic must be made of numbers, strings"),
        (Config(traffic={1: 2}), "config.traffic must be made of numbers, strings"),
        (Config(budgets=(1.0, float("nan"))), r"config.budgets\[1\] must be finite to be stored as JSON, got nan"),
        (Config(inner=Inner(rate=float("inf"))), "config.inner.rate must be finite"),
    ],
)
def test_wrong_configurations(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        RunFolder.create(tmp_path, config, "run")
    assert not list(tmp_path.iterdir())


def test_manifest_is_canonical_json(tmp_path: Path) -> None:
    run = _run(tmp_path)
    text = (run.path / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
