"""Where a result comes from: code revision and content hashes as DVC computes them."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from spin.errors import FileError


def git_revision(root: Path) -> tuple[str, bool]:
    """Return the commit of `root` and whether tracked files differ from it; ("unknown", False) without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def content_md5(path: Path) -> str:
    """Return the hash under which DVC keeps a file, or a folder (which ends in `.dir`)."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    files = sorted(inner.relative_to(path).as_posix() for inner in path.rglob("*") if inner.is_file())
    listing = [{"md5": content_md5(path / name), "relpath": name} for name in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def recorded_md5s(root: Path) -> dict[str, str]:
    """Return path -> md5 of every output in dvc.lock; empty where there is none.

    The output of the stage that is running stands there with the hash of its last run, or not yet.
    """
    return {path: entry["md5"] for path, entry in recorded_outputs(root).items() if "md5" in entry}


def recorded_outputs(root: Path) -> dict[str, dict[str, Any]]:
    """Return path -> entry (md5, size, nfiles of a folder) of every output in dvc.lock; raises `FileError` if it is torn."""
    return {path: entry for path, (_, entry) in _recorded(root).items()}


def recorded_stages(root: Path) -> dict[str, str]:
    """Return path -> the stage that made it (`train@iter1`) of every output in dvc.lock; raises `FileError` if it is torn."""
    return {path: stage for path, (stage, _) in _recorded(root).items()}


def made_from(root: Path, path: str, md5: str) -> dict[tuple[str, str], str]:
    """Return {(path, md5): stage that made it} of all that dvc.lock says an output came from, as far back as the hashes fit.

    Where a stage ran again since, its inputs' hashes are no longer those that were read, and the way back ends there.
    Of a folder with several stages' outputs the hash is compared with what lies there now.
    Raises `FileError` if dvc.lock is torn.
    """
    stages = _stages(root)
    makers = {
        (str(out["path"]), str(out.get("md5"))): name
        for name, stage in stages.items()
        for out in stage.get("outs", [])
    }
    found: dict[tuple[str, str], str] = {}
    waiting = [(path, md5)]
    while waiting:
        maker = makers.get(waiting.pop())
        for dep in stages[maker].get("deps", []) if maker else ():
            key = (str(dep["path"]), str(dep.get("md5")))
            inside = [each for each in makers if each[0].startswith(f"{key[0]}/")]
            if inside and key not in makers and content_md5(root / key[0]) != key[1]:
                inside = []
            for each in (key, *inside):
                if each not in found:
                    found[each] = makers.get(each, "")
                    waiting.append(each)
    return found


def _recorded(root: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        out["path"]: (name, out) for name, stage in _stages(root).items() for out in stage.get("outs", [])
    }


def _stages(root: Path) -> dict[str, dict[str, Any]]:
    lock = root / "dvc.lock"
    if not lock.is_file():
        return {}
    try:
        stages: dict[str, dict[str, Any]] = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get(
            "stages", {}
        )
        for stage in stages.values():
            [entry["path"] for kind in ("deps", "outs") for entry in stage.get(kind, [])]
        return stages
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{lock} must read as DVC wrote it, but does not ({str(error).splitlines()[0]}); `git checkout dvc.lock` "
            "brings back the recorded one, or remove it."
        ) from None
