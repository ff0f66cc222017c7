"""A folder of its own for a run with other parameters: the project's code, its DVC cache, and outputs of the run alone.

What the stages read is copied, so that the project may be edited meanwhile; outputs and dvc.lock begin empty, and DVC fills
in from the shared cache what the other parameters leave unchanged. The rest of the project, a folder of images say, is
linked. MLflow's local store is the project's.

`dvc exp run --temp` was tried and left: it runs all stages in one go, begins anew in another folder when it is killed, and
needs git.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from flows.environment import STATE
from spin.errors import ParamsError
from tasks.project import Project

RUNS = STATE / "runs"
WEIGHTS = Path(".weights")
"""In a workspace: links to checkpoints from elsewhere."""
_OWN = {"params.yaml", "dvc.lock", "prefect.toml"}
"""Entries of the project that a workspace has of its own or does without."""


def name_of(title: str, raw: dict[str, Any]) -> str:
    """Name the workspace of these parameters: the same ones go on where they were left."""
    return f"{title}-{hashlib.sha256(_as_yaml(raw).encode()).hexdigest()[:8]}"


def project_of(folder: Path) -> Path:
    """Return the project that a workspace belongs to; any other folder is its own."""
    folder = folder.resolve()
    return folder.parents[2] if folder.parts[-3:-1] == RUNS.parts else folder


@contextmanager
def workspace(root: Path, name: str, raw: dict[str, Any], weights: dict[str, Path]) -> Iterator[Path]:
    """Yield the workspace `name` of the project at `root` with the parameters `raw`, brought up to the project's code.

    `weights` are folders to link, by the names below `WEIGHTS`. Raises `ParamsError` while another run is in it.
    """
    root = root.resolve()
    folder = root / RUNS / name
    (folder / STATE).mkdir(parents=True, exist_ok=True)
    with (folder / STATE / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the kernel, however the process ends
        except BlockingIOError:
            raise ParamsError(
                f"A run with these settings is under way in {RUNS / name}; wait for it, or cancel it."
            ) from None
        _bring_code(root, folder)
        _share_cache(root, folder)
        _link(root / STATE / "mlflow", folder / STATE / "mlflow")
        for entry, source in weights.items():
            _link(source, folder / WEIGHTS / entry)
        (folder / "params.yaml").write_text(_as_yaml(raw), encoding="utf-8")
        yield folder


def _as_yaml(raw: dict[str, Any]) -> str:
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _bring_code(root: Path, folder: Path) -> None:
    """Copy what stages read and how they are run; link everything else that they do not make."""
    project = Project(root)
    made, read = project.entries_made(), project.entries_read()
    copied = (read - _OWN) | {"dvc.yaml", ".dvcignore"}
    for entry in sorted(root.iterdir()):
        place = folder / entry.name
        if entry.name in copied:
            _copy(entry, place)
        elif not entry.name.startswith(".") and entry.name not in made | _OWN:
            _link(entry, place)


def _copy(source: Path, place: Path) -> None:
    _remove(place)
    if source.is_dir():
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, place)


def _link(source: Path, place: Path) -> None:
    source.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        source.mkdir()
    if not place.is_symlink() or os.readlink(place) != str(source):
        _remove(place)
        place.symlink_to(source)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _share_cache(root: Path, folder: Path) -> None:
    """Configure DVC as in the project, its remotes and their secrets included, with the project's cache."""
    from dvc.config import Config

    (folder / ".dvc").mkdir(exist_ok=True)
    theirs = Config(str(root / ".dvc"))
    own = Config(str(folder / ".dvc"))
    for level in ("repo", "local"):
        with own.edit(level) as written:
            written.clear()
            written.update(
                theirs.load_one(level)
            )  # relative places are relative to the file, so read resolved
            if level == "local":
                written["cache"] = {**written.get("cache", {}), "dir": Project(root).cache()}
                written["core"] = {**written.get("core", {}), "no_scm": True}
    (folder / ".dvc" / "config.local").chmod(0o600)
