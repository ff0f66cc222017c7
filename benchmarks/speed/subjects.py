"""Contestants in processes of their own, which work in turns while the others wait.

A contestant is a function (params, turns, variant) that sets itself up and then works as long as `turns` has orders. In a
process of its own its peak of memory is its own, and nothing of it runs while another has its turn.
"""

import importlib
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

PRELOADED = [f"benchmarks.speed.{name}" for name in ("drawing_peers", "parallel_peers", "libraries")]
"""What takes seconds to import and no device: contestants are forked from a process that has done it."""
APART = "apart"
"""Variant of several processes that do not know of each other: the most that the machine gives."""
PATIENCE = 3600.0
"""Seconds to wait for a turn to end."""
PARAMS = Path("params.yaml")
"""Of the folder that a contestant works in."""


class Order(NamedTuple):
    """One turn."""

    amount: int
    """Updates, or drawings of the whole data set."""
    size: int
    """Pairs, or images, through the network at a time."""


class Result(NamedTuple):
    """What a turn took."""

    seconds: float
    cpu_seconds: float
    """Of the process, all threads; of several processes the sum."""
    items: int
    """Pairs, or images."""
    peak_bytes: int
    """The most held so far: by tensors on a GPU, else by the process."""
    asked: dict[Any, int]
    """What the networks were asked, as `spin.runtime.meter` counts."""


class OutOfMemoryTurnError(Exception):
    """A turn that memory did not suffice for."""


class Turns:
    """In a contestant's process: orders in, results out; the clock runs between the two."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._set_up = pipe, False

    def wait(self) -> Order | None:
        """The next order; None where there is no more to do. Who asks for the first one is set up."""
        from spin.runtime.devices import process_state
        from spin.runtime.gauges import forget_peak, synchronise
        from spin.runtime.meter import asked

        if not self._set_up:
            self._pipe.send("ready")
            self._set_up = True
        order: Order | None = self._pipe.recv()
        self._device = process_state().device
        synchronise(self._device)
        forget_peak(self._device)
        asked.clear()
        self._started = time.perf_counter(), time.process_time()
        return order

    def finish(self, items: int) -> None:
        """The order is done, with so many pairs or images."""
        from spin.runtime.gauges import peak_bytes, synchronise
        from spin.runtime.meter import asked

        synchronise(self._device)
        seconds, cpu_seconds = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self._pipe.send(Result(seconds, cpu_seconds, items, peak_bytes(self._device), dict(asked)))

    def fail(self) -> None:
        """Memory ran out."""
        self._pipe.send(OutOfMemoryTurnError())


@dataclass(frozen=True)
class Job:
    """Whom to start, and where."""

    contestant: str
    """Module and function, such as `benchmarks.speed.ours:training`."""
    folder: Path
    variant: str = ""
    processes: int = 1


class Subject:
    """A contestant seen from outside; `turn` lets its processes work while the caller waits."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def turn(self, amount: int, size: int) -> Result:
        """Of several processes the slowest's seconds and the pairs of all; raises `OutOfMemoryTurnError` if there is too little."""
        for pipe in self._pipes:
            pipe.send(Order(amount, size))
        results = [_received(pipe) for pipe in self._pipes]
        seconds, peak = (max(getattr(each, name) for each in results) for name in ("seconds", "peak_bytes"))
        items, spent = (sum(getattr(each, name) for each in results) for name in ("items", "cpu_seconds"))
        return Result(seconds, spent, items, peak, results[0].asked)


def _received(pipe: Connection) -> Result:
    if not pipe.poll(PATIENCE):
        raise SystemExit("a contestant did not end its turn")
    answer = pipe.recv()
    if isinstance(answer, OutOfMemoryTurnError):
        raise answer
    if not isinstance(answer, Result):
        raise SystemExit("a contestant failed; its error stands above")
    return answer


@contextmanager
def started(job: Job) -> Iterator[Subject]:
    """Keep a contestant's processes for the block; they are ready when it begins."""
    without_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # CUDA does not survive a fork
    context: Any = multiprocessing.get_context("forkserver" if without_gpu else "spawn")
    if without_gpu:
        context.set_forkserver_preload(PRELOADED)
    port = _free_port()
    with ExitStack() as stack:
        pipes = []
        for rank in range(job.processes):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, rank, port, theirs))
            process.start()
            stack.callback(_end, process, mine)
            pipes.append(mine)
            theirs.close()
        for pipe in pipes:
            if not pipe.poll(PATIENCE) or pipe.recv() != "ready":
                raise SystemExit(f"{job.contestant} could not be set up; its error stands above")
        yield Subject(pipes)


def _end(process: Any, pipe: Connection) -> None:
    with suppress(OSError):  # it may have ended
        pipe.send(None)
    process.join(20)
    if process.is_alive():
        process.kill()
        process.join()
    pipe.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _serve(job: Job, rank: int, port: int, pipe: Connection) -> None:
    """A contestant's process."""
    if job.processes > 1 and job.variant != APART:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job.processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(job.folder)
    module, _, name = job.contestant.partition(":")
    try:
        from spin.params.schema import load_params

        getattr(importlib.import_module(module), name)(load_params(PARAMS), Turns(pipe), job.variant)
    except EOFError:  # the caller is gone
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        pipe.send("failed")
        os._exit(1)
