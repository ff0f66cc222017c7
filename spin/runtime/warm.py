"""A stage in a process that has loaded PyTorch and all else before: a flow keeps one, which forks (`spin.stages.warm`).

Loading takes longer than most stages of a small run work. The stage is still this process's: its signals go on to the fork,
the fork ends when it is killed, and its exit code is the fork's. Who keeps such a process says where in SPIN_WARM.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

VARIABLE = "SPIN_WARM"
"""Environment variable: the socket of the process that forks."""
LENGTH = struct.Struct("!I")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_warm(arguments: Sequence[str]) -> int | None:
    """Run `spin ARGUMENTS` in a fork and return its exit code; None where nobody forks, or not for this environment.

    A signal that ended the fork ends this process too.
    """
    place = os.environ.get(VARIABLE)
    if not place:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(place)
            asked = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
            request = json.dumps(asked).encode()
            socket.send_fds(connection, [LENGTH.pack(len(request))], [0, 1, 2])
            connection.sendall(request)
            answers = connection.makefile("r")
            if answers.readline() != "forked\n":
                return None
        except OSError:
            return None
        return _follow(connection, answers.readline)


def _follow(connection: socket.socket, next_line: Callable[[], str]) -> int:
    """Pass signals on until the fork has ended."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            connection.sendall(bytes([number]))

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    try:
        code = int(next_line())
    except (OSError, ValueError):
        print(
            "spin: the process that held this stage is gone; the same command goes on where it was.",
            file=sys.stderr,
        )
        return 1
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
