"""Run a command so that nothing of it outlives the process that asked for it.

    python -S tasks/supervise.py GRACE_SECONDS COMMAND...

The caller keeps the write end of this process's standard input open: the lifeline. When it closes, because the caller
let go, crashed or was killed with SIGKILL, the command's process group gets SIGTERM and, up to GRACE_SECONDS later,
SIGKILL. A pipe works where a parent-death signal does not: on every POSIX system, whichever thread of the caller
started the command, and for grandchildren too. Nothing but the standard library is imported: this starts once a stage.
"""

import os
import signal
import subprocess
import sys
import threading
import time


def group_is_alive(group: int) -> bool:
    """Tell whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end_group(child: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    """Ask the child's group to end, wait for all of it, and kill what is left."""
    deadline = time.monotonic() + grace_seconds
    signal_number = signal.SIGTERM
    while group_is_alive(child.pid):
        try:
            os.killpg(child.pid, signal_number)
        except ProcessLookupError:
            break
        while group_is_alive(child.pid) and time.monotonic() < deadline:
            child.poll()  # reaps it, or it would count as alive
            time.sleep(0.02)
        signal_number, deadline = signal.SIGKILL, time.monotonic() + 1.0


def hold_lifeline(let_go: threading.Event) -> None:
    """Block until the caller's end of standard input is closed."""
    while os.read(0, 4096):
        continue
    let_go.set()


def main() -> int:
    """Return the command's exit code; 128 + n when signal n ended it, as shells do."""
    grace_seconds, command = float(sys.argv[1]), sys.argv[2:]
    let_go = threading.Event()
    signals: list[
        int
    ] = []  # not the event: a handler that sets what this thread waits for can lock itself out
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: signals.append(got))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    threading.Thread(target=hold_lifeline, args=(let_go,), daemon=True).start()
    while child.poll() is None:
        if let_go.wait(0.05) or signals:
            end_group(child, grace_seconds)
    end_group(child, grace_seconds)  # what the command left behind
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
