"""Worker processes for fits: most urgent first, bounded in time and memory, without blocking the caller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pydantic import Field

from curb.stream.settings import Settings

logger = logging.getLogger(__name__)

#: Errors of a job that its worker survives; any other ends the worker, which is replaced.
_SURVIVED = (ValueError, ArithmeticError, LookupError, TypeError, RuntimeError, ImportError, OSError, MemoryError)
#: Niceness of a worker: the daemon comes first. Chosen by hand.
_NICE = 10
#: Seconds to wait for a worker or thread to end. Chosen by hand.
_JOIN_S = 5.0


class PoolSettings(Settings):
    """Worker processes for fits."""

    workers: int = Field(default=2, ge=1, le=8, description="Worker processes; they start with the first fit.")
    timeout_s: float = Field(default=120, gt=0, description="A fit that takes longer is given up and its worker ended.")
    fits_per_worker: int = Field(default=200, ge=1, description="A worker is replaced after this many fits.")
    max_memory_mib: int = Field(default=300, ge=150, description="A worker that grew beyond this is replaced.")
    max_waiting: int = Field(default=4000, ge=1, description="Fits that wait; the least urgent are dropped beyond.")


class FitFailedError(Exception):
    """The job raised an error; the message holds it."""


class WorkerDiedError(FitFailedError):
    """The worker ended during the job, or was ended because the job took too long."""


def urgency(age_s: float, usd_per_day: float) -> float:
    """Age of a fit in hours times the dollars a day that depend on it. A first fit counts as 30 days old."""
    return min(age_s, 30 * 86400) / 3600 * max(usd_per_day, 0.0)


@dataclass
class _Job:
    key: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    urgency: float
    future: Future[Any]


class ForecastPool:
    """Runs picklable functions in spawned processes. All methods may be called from the event loop: none waits."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._waiting: dict[str, _Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._workers: dict[int, _Worker] = {}

    def __len__(self) -> int:
        """Number of waiting jobs."""
        return len(self._waiting)

    def submit(self, key: str, function: Callable[..., Any], *args: Any, urgency: float = 0.0) -> Future[Any]:
        """Queue `function(*args)`; a waiting job with the same key is replaced and its future cancelled.

        From a coroutine: `await asyncio.wrap_future(pool.submit(...))`. The future raises FitFailedError or
        WorkerDiedError; it is cancelled when the pool closes or when `max_waiting` more urgent jobs wait.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            replaced = self._waiting.pop(key, None)
            self._waiting[key] = _Job(key, function, args, urgency, future)
            dropped = self._drop_least()
            self._start_threads()
            self._changed.notify()
        for job in (replaced, dropped):
            if job is not None:
                job.future.cancel()
        return future

    async def run(self, key: str, function: Callable[..., Any], *args: Any, urgency: float = 0.0) -> Any:
        """The result of `function(*args)`, computed in a worker."""
        return await asyncio.wrap_future(self.submit(key, function, *args, urgency=urgency))

    def close(self) -> None:
        """End the workers and cancel waiting jobs. Returns within seconds; may be called twice."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
            workers = list(self._workers.values())
            self._changed.notify_all()
        for job in waiting:
            job.future.cancel()
        for worker in workers:
            worker.kill()
        for thread in self._threads:
            thread.join(_JOIN_S)

    async def aclose(self) -> None:
        """`close` without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def _drop_least(self) -> _Job | None:
        if len(self._waiting) <= self._settings.max_waiting:
            return None
        least = min(self._waiting.values(), key=lambda job: job.urgency)
        return self._waiting.pop(least.key)

    def _start_threads(self) -> None:
        while len(self._threads) < min(self._settings.workers, len(self._waiting) + len(self._workers)):
            number = len(self._threads)
            thread = threading.Thread(target=self._serve, args=(number,), name=f"forecast-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int) -> None:
        """One thread per worker: it waits so that the caller does not."""
        while (job := self._take()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            worker = self._worker(number)
            if worker is None:
                job.future.set_exception(WorkerDiedError("the pool is closed"))
                break
            outcome = worker.work(job.function, job.args, self._settings.timeout_s)
            if outcome.failure is None:
                job.future.set_result(outcome.value)
            else:
                job.future.set_exception(outcome.failure)
            if outcome.memory_mib > self._settings.max_memory_mib or worker.jobs >= self._settings.fits_per_worker:
                worker.kill()
        with self._changed:
            worker = self._workers.pop(number, None)
        if worker is not None:
            worker.kill()

    def _take(self) -> _Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            most = max(self._waiting.values(), key=lambda job: job.urgency)
            return self._waiting.pop(most.key)

    def _worker(self, number: int) -> _Worker | None:
        """The living worker of a thread; None once the pool is closed."""
        with self._changed:
            if self._closed:
                return None
            worker = self._workers.get(number)
            if worker is None or not worker.alive:
                worker = self._workers[number] = _Worker(number)
            return worker


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    failure: FitFailedError | None = None
    memory_mib: float = 0.0


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, number: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process: BaseProcess = spawn.Process(
            target=_work, args=(there,), name=f"curb-forecast-{number}", daemon=True
        )
        self._process.start()
        there.close()
        self._killing = threading.Lock()
        self.alive = True
        self.jobs = 0

    def work(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> _Outcome:
        """The outcome of a job. A worker that is late or dies gets no other."""
        self.jobs += 1
        try:
            self._here.send((function, args))
            if not self._here.poll(timeout_s):
                self.kill()
                return _Outcome(failure=WorkerDiedError(f"took longer than {timeout_s:g} s"))
            value, failure, memory_mib = self._here.recv()
        except (OSError, EOFError):
            self.kill()
            return _Outcome(failure=WorkerDiedError(f"the worker ended with {self._process.exitcode}"))
        return _Outcome(value, None if failure is None else FitFailedError(failure), memory_mib)

    def kill(self) -> None:
        """End the process and its children."""
        with self._killing:
            if not self.alive:
                return
            self.alive = False
            pid = self._process.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            self._process.kill()
            self._process.join(_JOIN_S)


def _work(pipe: Connection) -> None:
    """Main loop of a worker: run jobs until the other end of the pipe is closed."""
    # A group of its own: Ctrl-C does not reach it, and its children (Prophet's optimiser) end with it.
    os.setsid()
    os.nice(_NICE)
    logging.disable(logging.WARNING)
    while True:
        try:
            function, args = pipe.recv()
        except (EOFError, OSError):
            return
        value, failure = None, None
        try:
            value = function(*args)
        except _SURVIVED as error:
            failure = f"{type(error).__name__}: {error}"
        try:
            pipe.send((value, failure, _peak_mib()))
        except OSError:  # the daemon was killed meanwhile
            return


def _peak_mib() -> float:
    """The most memory this process has used."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, getrusage starts from the memory of the parent.
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * (1024 if sys.platform == "darwin" else 1))
