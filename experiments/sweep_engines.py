"""What runs the cells of a sweep: the protocol of an engine, and worker processes of this machine."""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import glob
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from adarena.experiments.sweep_cells import Outcome, Task, run_cell

_READY = "ready"  # a worker's first word


class Engine(Protocol):
    """Runs tasks in other processes, several at a time, and tells how they ended."""

    def submit(self, task: Task) -> None:
        """Takes a task; it is begun when there is room."""

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Tasks that ended, each told once; returns after ``seconds`` at the latest."""

    def close(self) -> None:
        """Ends all processes at once, also those that are running a cell."""


class LocalEngine:
    """Long-lived worker processes on this machine, so that cells share imports and compiled programs.

    A worker dies with the process that made it. One that dies while it runs a cell is replaced, and the cell run again.
    Where there are several GPUs, worker ``i`` sees GPU ``i`` modulo their number; without, each has all cores.
    """

    def __init__(self, jobs: int, retries: int, log: Path) -> None:
        """``retries``: how often a cell is begun again after a worker died of it. ``log``: for what workers print."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._jobs, self._retries, self._log = jobs, retries, log
        self._never_ready = 0  # workers that died before they could take a task, one after another
        self._waiting: collections.deque[Task] = collections.deque()
        self._deaths: collections.Counter[str] = collections.Counter()
        self._workers: dict[int, _Worker] = {}

    def submit(self, task: Task) -> None:
        """Takes a task; it is begun when a worker is free."""
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Tasks that ended, each told once; returns after ``seconds`` at the latest."""
        self._begin()
        watched = [thing for worker in self._workers.values() for thing in (worker.connection, worker.process.sentinel)]
        multiprocessing.connection.wait(watched, timeout=seconds)
        ended = []
        for place, worker in list(self._workers.items()):
            alive = worker.process.is_alive()  # asked first: what a dead one said is all there
            outcome = worker.outcome()
            if outcome is not None and worker.task is not None:
                ended.append((worker.task, outcome))
                worker.task = None
            elif not alive:
                del self._workers[place]
                ended += self._died(worker)
        self._begin()
        return ended

    def close(self) -> None:
        """Kills the workers. A cell that is running can be gone on with, like one whose machine failed."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _begin(self) -> None:
        """Gives tasks to free workers, and starts workers as long as there are fewer than there may be."""
        for place in range(self._jobs):
            if not self._waiting:
                return
            if place not in self._workers:
                self._workers[place] = _Worker(_device(place, self._jobs), self._log)
            worker = self._workers[place]
            if worker.ready and worker.task is None and worker.send(self._waiting[0]):
                self._waiting.popleft()
                self._never_ready = 0

    def _died(self, worker: _Worker) -> list[tuple[Task, Outcome]]:
        """Puts the task of a dead worker first in the queue, or ends it after too many deaths."""
        task, code = worker.task, worker.close()
        if task is None:
            self._never_ready += not worker.ready
            if self._never_ready > self._retries + self._jobs:
                raise ChildProcessError(f"worker processes end before they take a cell; {self._log} says why")
            return []
        self._deaths[task.name] += 1
        if self._deaths[task.name] <= self._retries:
            self._waiting.appendleft(task)
            return []
        error = f"its worker died {self._deaths[task.name]} times, the last time with exit code {code}"
        return [(task, Outcome("failed", "machine", error, ran=True))]


class _Worker:
    """One process, and the task that it is busy with."""

    def __init__(self, device: dict[str, str], log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, str(log)), daemon=True)
        self.task: Task | None = None
        self.ready = False
        with _environment(device):  # a new process has it before it imports JAX
            self.process.start()
        theirs.close()

    def send(self, task: Task) -> bool:
        """Gives the worker a task, unless it is dead."""
        try:
            self.connection.send(task)
        except OSError:
            return False
        self.task = task
        return True

    def outcome(self) -> Outcome | None:
        """How the task ended, if it has; a worker may have said so and died then. Notes when the worker is ready."""
        try:
            said = self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None
        self.ready = self.ready or said == _READY
        return said if isinstance(said, Outcome) else None

    def close(self) -> int | None:
        """Waits for the process, which must be dead or dying, and returns its exit code."""
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self.connection.close()
        return code


def _serve(connection: multiprocessing.connection.Connection, log: str) -> None:
    """A worker's life: one task after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the sweep's own decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(
        threading.RLock()
    )  # its own is a semaphore of the system, which a worker that is killed leaves behind
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    faulthandler.enable(sys.stderr)
    connection.send(_READY)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(run_cell(task))


def _end_with_parent() -> None:
    """Ends this process when the one that made it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _device(place: int, jobs: int) -> dict[str, str]:
    """Variables that give a worker one GPU, and a share of its memory where several workers have the same."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]
    if not gpus or visible == "":
        return {}
    share = f"{0.9 / -(-jobs // len(gpus)):.2f}"  # JAX takes it at the start; its own default suits one process
    memory = {} if jobs <= len(gpus) else {"XLA_PYTHON_CLIENT_MEM_FRACTION": share}
    return {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} | {
        name: value for name, value in memory.items() if name not in os.environ
    }


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables that a process made in the block has."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
