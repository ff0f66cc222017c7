"""What runs: for tests that kill."""

import os
from pathlib import Path

import psutil


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def running(folder: Path, mark: str = "") -> list[psutil.Process]:
    """The processes that work in the folder and have `mark` in their command, supervisors left out."""
    found = []
    for process in psutil.process_iter():
        try:
            command, dead = " ".join(process.cmdline()), process.status() == psutil.STATUS_ZOMBIE
            if (
                process.cwd() == str(folder)
                and mark in command
                and not dead
                and "supervise.py" not in command
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
