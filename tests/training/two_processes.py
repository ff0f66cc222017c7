"""Two processes, or more, that talk to each other through gloo, forked from the test's own."""

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from spin.runtime.devices import process_state


def in_two_processes(folder: Path, work: Callable[[int], Any], processes: int = 2) -> list[Any]:
    """What `work` returns for ranks 0 and 1, each in a forked process that talks to the other through gloo."""
    if torch.cuda.is_available():
        pytest.skip("CUDA cannot be used in a forked process")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                AcceleratorState._reset_state(reset_partial_state=True)
                process_state()
                (folder / str(rank)).write_bytes(pickle.dumps(work(rank)))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    waiting = set(children)
    while waiting:
        for child in list(waiting):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                waiting.remove(child)
            if status:  # the others would wait for it
                for other in waiting:
                    os.kill(other, signal.SIGKILL)
            assert not status
        time.sleep(0.01)
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(processes)]
