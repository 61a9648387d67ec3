"""Sweeps on a Ray cluster of two nodes on this machine, of which one is removed; and what else may be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_processes import PATIENCE, TESTS, command, driver, is_alive, states, until
from toy_experiment import events, pids

pytest.importorskip("ray", reason="Ray is not installed: pip install 'adarena[cluster]'")

# Ray forks to start its daemons, which are other programs from then on; where tests before these have imported JAX, JAX warns.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

_SMALL = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024}
_SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Head and one node, each with one core; processes of the cluster find `toy_experiment`."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # which would be sent over the network
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]))
        head = {**_SMALL, "include_dashboard": False, "_system_config": _SOON}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            made.node = made.add_node(**_SMALL)
            yield made
        finally:
            made.shutdown()


def on(cluster: Any, root: Path, ledger: Path, cells: int) -> list[str]:
    return command(root, ledger, cells, 0.0, "--engine", "ray", "--ray-address", cluster.address, act="gate")


def test_a_sweep_that_was_killed_is_completed(cluster: Any, tmp_path: Path) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    with driver(on(cluster, root, ledger, 3)) as process:
        until(lambda: len(events(ledger, "half")) == 2, "a cell to begin on each node")
        workers = pids(ledger)
        process.kill()
        until(lambda: not any(map(is_alive, workers.values())), "the cells to end with their sweep")
    (tmp_path / "ledger.open").touch()
    with driver(on(cluster, root, ledger, 3)) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert states(root) == dict.fromkeys(range(3), "done")
    assert sorted(events(ledger, "half")) == sorted(events(ledger, "end")) == [0, 1, 2]  # none twice; two went on


def test_cells_of_a_removed_node_and_of_a_killed_process_run_elsewhere(cluster: Any, tmp_path: Path) -> None:
    root, ledger = tmp_path / "sweep", tmp_path / "ledger"
    with driver(on(cluster, root, ledger, 4)) as process:
        until(lambda: len(events(ledger, "half")) == 2, "a cell to begin on each node")
        first = pids(ledger)
        cluster.remove_node(cluster.node, allow_graceful=False)
        until(lambda: not all(map(is_alive, first.values())), "the cell to end with its node")
        (survivor,) = [pid for pid in first.values() if is_alive(pid)]
        os.kill(survivor, signal.SIGKILL)
        (tmp_path / "ledger.open").touch()
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "4 done" in output
    assert states(root) == dict.fromkeys(range(4), "done")
    assert sorted(events(ledger, "half")) == sorted(events(ledger, "end")) == [0, 1, 2, 3]
    started = events(ledger, "start")
    assert [started.count(value) for value in range(4)] == [2 if value in first else 1 for value in range(4)]


def test_no_cluster_at_the_address_is_an_error(tmp_path: Path) -> None:
    arguments = command(tmp_path / "s", tmp_path / "ledger", 1, 0.0, "--engine", "ray", "--ray-address", "127.0.0.1:1")
    with driver(arguments) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "127.0.0.1:1" in output
    assert "Traceback" not in output
