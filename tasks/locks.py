"""DVC's list of which process reads and writes what, made readable again after a kill.

DVC writes `.dvc/tmp/rwlock` in place. A kill in that moment leaves it torn, and DVC then refuses everything, for ever:
it takes out the entries of dead processes, but only from a list that it can read.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import psutil


def mend_torn_list(root: Path) -> bool:
    """Remove the list of the project at `root` if it is torn; returns whether it was.

    Under DVC's own guard of the list, so that one which is just being written is not taken for torn; and not while another
    dvc works in the project, whose entries keep others from the outputs that its stage is writing.
    """
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc" / "tmp"
    listed = folder / "rwlock"
    if _is_whole(listed) or _another_dvc(root):
        return False
    with suppress(LockError), make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
        if not _is_whole(listed):
            listed.unlink()
            return True
    return False


def _another_dvc(root: Path) -> bool:
    """Whether a dvc command of another process works in the project."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, place = process.info["cmdline"] or [], process.info["cwd"]
        is_dvc = any(Path(part).name == "dvc" for part in command[:3])  # `dvc ...`, `python -m dvc ...`
        if is_dvc and place and process.pid != os.getpid() and Path(place).is_relative_to(root.resolve()):
            return True
    return False


def _is_whole(listed: Path) -> bool:
    try:
        return isinstance(json.loads(listed.read_text(encoding="utf-8")), dict)
    except FileNotFoundError:
        return True
    except ValueError:
        return False
