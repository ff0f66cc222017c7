"""The process that forks a stage for `spin.runtime.warm`: `python -m spin warm SOCKET`.

It loads what stages load, does nothing else, and serves until it is ended. It refuses what a fork could not do as a new
process would: another folder or environment than its own, and code that has changed since it was loaded. Never on a
machine with GPUs, whose driver does not live through a fork, and whose stages are long.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import spin
from spin.runtime.warm import LENGTH, VARIABLE

ROOMS = ("data", "evaluation", "models", "rewards", "sampling", "stages", "tracking", "training")
LAZY = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "open_clip",
    "transformers.models.clip.modeling_clip",
    "torch._dynamo",
)
"""What the rooms load only when they need it, and nearly every stage does."""
MAY_DIFFER = ("SPIN_", "DVC_", "PREFECT_", "_", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES")
"""Beginnings of variables that are read when they are needed."""
PR_SET_PDEATHSIG = 1
"""Of prctl: the signal that a process gets when its parent ends."""
Stats = dict[str, tuple[int, int]]


def serve(place: str) -> list[str]:
    """Load, then serve at the socket `place` for ever; returns in a fork only, with the arguments of its stage."""
    environment = _told(dict(os.environ))
    load()
    return Server(place, environment).serve()


def load() -> None:
    """Import what a stage may need."""
    for room in ROOMS:
        package = importlib.import_module(f"spin.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"spin.{room}."):
            importlib.import_module(module.name)
    for name in LAZY:
        with suppress(ImportError):  # a machine may go without MLflow
            importlib.import_module(name)


def end_fork(code: int) -> NoReturn:
    """End as the interpreter does, but for taking apart what was frozen before the fork: libraries call that a leak."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class Server:
    """Takes requests and forks, in one thread."""

    def __init__(self, place: str, environment: dict[str, str]) -> None:
        self._environment, self._folder, self._code = environment, os.getcwd(), _code()
        self._pid = os.getpid()
        self._stages: dict[int, socket.socket] = {}
        """Forks under way by process id, with the connection of whoever asked."""
        self._poll = selectors.PollSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(place)
        self._listener.listen()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for source in (self._listener, self._woken):
            self._poll.register(source, selectors.EVENT_READ)

    def serve(self) -> list[str]:
        """Serve for ever; returns in a fork only, with the arguments of its stage."""
        gc.freeze()  # what was loaded stays shared with the forks
        while True:
            for key, _ in self._poll.select():
                if key.fileobj is self._listener:
                    arguments = self._take()
                    if arguments is not None:
                        return arguments
                elif key.fileobj is self._woken:
                    self._woken.recv(1024)
                    self._bury()
                else:
                    self._listen_to(key.fileobj)

    def _take(self) -> list[str] | None:
        """Take a request; returns its arguments in the fork, None here."""
        connection, _ = self._listener.accept()
        connection.settimeout(5)
        try:
            head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            request = json.loads(_exactly(connection, LENGTH.unpack(head)[0]))
        except (OSError, ValueError, EOFError):
            connection.close()
            return None
        child = 0
        refused = self._refuses(request)
        if not refused:
            child = os.fork()
            if not child:
                return self._become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if refused:
            connection.close()
            return None
        self._stages[child] = connection
        self._poll.register(connection, selectors.EVENT_READ)
        with suppress(OSError):
            connection.sendall(b"forked\n")
        return None

    def _refuses(self, request: dict[str, Any]) -> bool:
        return (
            request["folder"] != self._folder
            or _told(request["environment"]) != self._environment
            or threading.active_count() > 1
            or _code(self._code) != self._code
        )

    def _become(self, request: dict[str, Any], descriptors: list[int]) -> list[str]:
        """In the fork: take the place of the process that asked, and end with the server, whose word it waits for."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for held in (self._listener, self._woken, self._wake, *self._stages.values()):
            held.close()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        for name in os.environ.keys() - _told(dict(os.environ)).keys():
            del os.environ[name]
        os.environ.update(request["environment"])
        del os.environ[VARIABLE]
        return [str(each) for each in request["arguments"]]

    def _listen_to(self, connection: Any) -> None:
        """Pass a signal on; whoever hangs up was killed, and so is the fork."""
        child = next((pid for pid, asked in self._stages.items() if asked is connection), None)
        if child is None:
            return  # it ended, and was buried, since the poll
        try:
            numbers = connection.recv(16)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(child, number)
        if not numbers:
            self._poll.unregister(connection)

    def _bury(self) -> None:
        """Tell of every fork that has ended how."""
        for child, connection in list(self._stages.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            del self._stages[child]
            with suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            with suppress(KeyError):
                self._poll.unregister(connection)
            connection.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _told(environment: dict[str, str]) -> dict[str, str]:
    """What an import may have read."""
    return {name: value for name, value in environment.items() if not name.startswith(MAY_DIFFER)}


def _code(loaded: Stats | None = None) -> Stats:
    """Time and size of this project's files that are loaded, or of those of `loaded` as they are now."""
    root = str(Path(spin.__file__).parent)
    files = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    found: Stats = {}
    for file in loaded or [file for file in files if file.startswith(root)]:
        with suppress(OSError):
            stat = os.stat(file)
            found[file] = (stat.st_mtime_ns, stat.st_size)
    return found
