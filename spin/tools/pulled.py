"""A checkpoint or a file by its hash: the project's own if it is that one, else brought by DVC from its cache or remote."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from spin.errors import ModelError
from spin.paths import WORK
from spin.runtime.provenance import content_md5

NO_DVC = "No module named dvc"


def bring(path: str, md5: str, configuration: Path | None) -> Path:
    """Return a file or folder with that content (DVC's hash), which stood at `path` in its project.

    Looks in the project that this process runs in: at `path`, then where an earlier call brought it, then in DVC's cache and
    remote. `configuration` is DVC's of the project that made it, for a process that runs elsewhere. Raises `ModelError`.
    """
    root, name = _project(), Path(path).name
    kept = root / WORK / "models" / md5.removesuffix(".dir")
    for place in (root / path, kept / name):
        if place.exists() and content_md5(place) == md5:
            return place
    workspace = _workspace(root, kept, configuration)
    pointer = {"outs": [{"md5": md5, "hash": "md5", "path": name}]}
    (workspace / f"{name}.dvc").write_text(yaml.safe_dump(pointer), encoding="utf-8")
    pulled = _dvc(workspace, "pull", "--force", f"{name}.dvc")
    if pulled.returncode or not (workspace / name).exists():
        said = [line for line in (pulled.stderr or pulled.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"{name} must be in DVC's cache or remote as {md5}, but `dvc pull` did not bring it "
            f"({said[-1].strip() if said else 'it said nothing'}); `dvc push` it where it was made, or set the remote."
        )
    return workspace / name


def _project() -> Path:
    """The nearest folder above that DVC knows, else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def _workspace(root: Path, folder: Path, configuration: Path | None) -> Path:
    """Make a folder of DVC's own inside the project, with the project's cache, remotes and secrets."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = _dvc(folder, "init", "--no-scm", "--quiet")
    if made.returncode:
        missing = NO_DVC in made.stderr
        raise ModelError(
            "DVC must be installed to bring a checkpoint; pip install 'spin-diffusion[ops]'."
            if missing
            else f"DVC does not work in {folder} ({made.stderr.strip().splitlines()[-1]})."
        )
    if not (root / ".dvc").is_dir():
        if configuration is not None:
            shutil.copy(configuration, folder / ".dvc" / "config")
        return folder
    for name in ("config", "config.local"):
        if (root / ".dvc" / name).is_file():
            shutil.copy(root / ".dvc" / name, folder / ".dvc" / name)
    for line in _dvc(root, "remote", "list").stdout.splitlines():  # with paths made absolute
        remote, _, url = line.partition("\t")
        if url and "://" not in url:
            _dvc(
                folder,
                "remote",
                "modify",
                "--local",
                remote.strip(),
                "url",
                url.removesuffix("(default)").strip(),
            )
    cache = _dvc(root, "cache", "dir").stdout.strip()
    _dvc(folder, "cache", "dir", "--local", cache or str(root / ".dvc" / "cache"))
    return folder


def _dvc(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
