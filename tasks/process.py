"""Supervised subprocesses: their lines as they come, a time limit that holds, and an end to all their children."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUPERVISOR = Path(__file__).with_name("supervise.py")
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL: time for a trainer to finish the file it is writing."""

_running: set["subprocess.Popen[str]"] = set()
_running_lock = threading.Lock()
stopping = threading.Event()
"""Set while a flow that was cancelled or interrupted winds down."""


class Exit(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code; 128 + n when signal n ended it."""
    lines: list[str]
    """What it printed, standard error included."""
    timed_out: bool


def start(
    command: Sequence[str],
    cwd: Path,
    grace_seconds: float = GRACE_SECONDS,
    env: dict[str, str] | None = None,
    output: int | None = subprocess.PIPE,
) -> "subprocess.Popen[str]":
    """Start `command` under the supervisor; `let_go` ends it and all its children."""
    return subprocess.Popen(
        [sys.executable, "-S", str(SUPERVISOR), str(grace_seconds), *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # the terminal's Ctrl-C reaches the caller alone, who then decides
    )


def let_go(process: "subprocess.Popen[str]") -> None:
    """Close the lifeline: the supervisor ends the command's whole group."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def end_all() -> None:
    """End every command that `run` has under way in this process; the threads that wait for them return."""
    with _running_lock:
        for process in _running:
            let_go(process)


@contextlib.contextmanager
def _registered(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Known to `end_all` while the block runs, and ended with it whatever happens."""
    with _running_lock:
        _running.add(process)
    try:
        yield
    finally:
        with _running_lock:
            _running.discard(process)
        let_go(process)
        process.wait()


def run(
    command: Sequence[str],
    cwd: Path,
    on_line: Callable[[str], None],
    timeout: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Exit:
    """Run `command` in `cwd` to its end and hand each line it prints to `on_line`.

    After `timeout` seconds its whole process group is ended. A task's own time limit fires only when the task returns
    to Python, which a task that waits for a subprocess does not.
    """
    process = start(command, cwd, grace_seconds)
    timed_out = threading.Event()

    def expire() -> None:
        timed_out.set()
        let_go(process)

    # Pass every line on until it ends or its time is over.
    timer = threading.Timer(timeout, expire) if timeout is not None else None
    lines: list[str] = []
    with _registered(process):
        if timer:
            timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                on_line(lines[-1])
            code = process.wait()
        finally:
            if timer:
                timer.cancel()
    return Exit(code, lines, timed_out.is_set())
