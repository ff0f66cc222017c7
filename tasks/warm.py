"""A process of the flow that has loaded what stages load, and forks them: small runs are mostly loading.

It starts when a stage has been run, for those after it, and ends with the flow; whatever is wrong with it, stages run as
without it. Not on machines with GPUs (see `spin.stages.warm`).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from spin.runtime.launch import has_gpus
from spin.runtime.warm import VARIABLE
from tasks.process import let_go, start

_lock = threading.Lock()
_kept: dict[Path, tuple["subprocess.Popen[str]", Path]] = {}


def keep_warm(root: Path, command: str) -> None:
    """Start the process for the project at `root`, once, if `command` is a stage of `spin`."""
    if " -m spin " not in command or sys.platform != "linux" or has_gpus():
        return
    with _lock:
        if root in _kept or VARIABLE in os.environ:
            return
        folder = Path(tempfile.mkdtemp(prefix="spin-"))  # for this user alone; a socket's path is short
        server = [sys.executable, "-m", "spin", "warm", str(folder / "stages")]
        _kept[root] = (start(server, root, output=subprocess.DEVNULL), folder)
        os.environ[VARIABLE] = str(folder / "stages")


def let_cool(root: Path) -> None:
    """End it, if there is one."""
    with _lock:
        if root in _kept:
            process, folder = _kept.pop(root)
            os.environ.pop(VARIABLE, None)
            let_go(process)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)
