"""Where a result comes from: code revision, content hashes as DVC computes them, and a hash of the configuration."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from spin.params import Params


def configuration_hash(params: Params) -> str:
    """Return 16 hex digits over everything that decides the results; the names MLflow uses are left out."""
    text = json.dumps(params.model_dump(mode="json", exclude={"tracking"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flat(params: Params) -> dict[str, str]:
    """Return every leaf of the parameters by its dotted name: `iterations.iter1.beta` -> `10000.0`."""
    leaves: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            leaves[prefix] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    walk("", params.model_dump(mode="json"))
    return leaves


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
    lock = root / "dvc.lock"
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {
        out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out
    }
