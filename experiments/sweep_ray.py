"""Cells of a sweep on a cluster, by Ray: which machine runs what, and what happens when one is lost, is Ray's to decide.

All machines must see the sweep's folder (and a sweep file) under the same path, and have adarena installed.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from typing import Any

from adarena.experiments.sweep_cells import Outcome, Task, run_cell


class RayEngine:
    """Each cell is a Ray task. Processes are reused between cells that need no GPU; with one, Ray starts a new one each."""

    def __init__(self, address: str, cpus: float, gpus: float, retries: int) -> None:
        """Connects to a cluster.

        Args:
            address: The cluster's (``HOST:PORT``, ``"auto"``, ``"local"``); nothing: that of ``RAY_ADDRESS``, or one that
                is found on this machine, or a new one of this machine alone.
            cpus: CPU cores that a cell is given.
            gpus: GPUs that a cell is given.
            retries: How often Ray begins a cell again whose process or machine died.

        Raises:
            ImportError: Ray is not installed.
            ValueError: Nothing answers at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "--engine ray needs Ray: pip install 'adarena[cluster]', or leave it out: --engine local"
            ) from error
        _check(address)
        self._ray = ray
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.WARNING)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=False)
        self._remote = remote(_run)
        self._pending: dict[Any, Task] = {}

    def submit(self, task: Task) -> None:
        """Takes a task; Ray begins it when a machine has room."""
        self._pending[self._remote.remote(task)] = task

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Tasks that ended, each told once; returns after ``seconds`` at the latest."""
        if not self._pending:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        if ready and len(self._pending) > 1:
            ready, _ = self._ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return [(self._pending.pop(reference), self._outcome(reference)) for reference in ready]

    def close(self) -> None:
        """Cancels what is not finished and leaves the cluster; a cluster that was made for this sweep ends."""
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._pending.clear()
        self._ray.shutdown()

    def _outcome(self, reference: Any) -> Outcome:
        """What the cell returned, or that Ray gave it up."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            text = " ".join(str(error).split())
            return Outcome("failed", "machine", f"{type(error).__name__}: {text}", ran=True)


def _run(task: Task) -> Outcome:
    """A cell in a process of Ray's.

    Ray ends such processes by SIGTERM, of which it makes a SystemExit in the midst of the cell: that would be taken for the
    cell's own failure. So the signal ends the process at once, and the cell is begun again.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return run_cell(task)


def _check(address: str) -> None:
    """Refuses ``HOST:PORT`` where nothing answers; Ray itself would ask for minutes and then end the process."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except OSError as error:
        raise ValueError(f"ray_address must be that of a running cluster, got {address!r}: {error}") from error
