"""Finished work is kept until DVC has recorded what came of it.

Between a stage's end and the line in dvc.lock DVC copies the output into its cache. If that fails (its disk is full, it is
killed), DVC removes the output at the next start and runs the stage again: from the kept work, which has nothing left to do.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spin import paths
from spin.errors import FileError
from spin.runtime.files import read_json, write_json
from spin.runtime.provenance import content_md5, recorded_outputs

MARK = "finished.json"
"""In a work folder whose output is in place: which one, how many files and bytes, and its hashes where those do not tell."""


def finish(work: Path, out: Path) -> None:
    """Mark `work` as finished, or remove it where no DVC is to record its output."""
    if not Path("dvc.yaml").is_file():
        shutil.rmtree(work, ignore_errors=True)
        return
    mark: dict[str, Any] = {"out": out.as_posix(), "measure": _measure(out)}
    try:
        earlier = _entries(mark["out"], recorded_outputs(Path()))
    except FileError:  # a torn dvc.lock records nothing
        earlier = {}
    if _recorded_measure(earlier) == mark["measure"]:  # as of a model that was trained again
        mark["md5"] = {path: content_md5(Path(path)) for path in earlier}
    (work / MARK).unlink(missing_ok=True)
    _remove_if(lambda told: bool(told["out"] == mark["out"]))  # of an output that this one has replaced
    write_json(work / MARK, mark)


def remove_recorded() -> None:
    """Remove finished work whose output stands in dvc.lock."""
    if any((paths.WORK / "work").glob(f"*/{MARK}")):
        recorded = recorded_outputs(Path())
        _remove_if(lambda told: _is_recorded(told, recorded))


def _remove_if(is_done_with: Callable[[dict[str, Any]], bool]) -> None:
    """Remove finished work by what its mark tells."""
    for mark in sorted((paths.WORK / "work").glob(f"*/{MARK}")):
        try:
            done_with = is_done_with(read_json(mark))
        except (FileError, KeyError, TypeError, AttributeError):
            continue  # a damaged mark: the work is kept, as if it were not finished
        if done_with:
            shutil.rmtree(mark.parent, ignore_errors=True)


def _is_recorded(told: dict[str, Any], recorded: dict[str, dict[str, Any]]) -> bool:
    entries = _entries(told["out"], recorded)
    md5s = told.get("md5", {})
    return _recorded_measure(entries) == told["measure"] and all(
        md5s.get(path, entry["md5"]) == entry["md5"] for path, entry in entries.items()
    )


def _entries(out: str, recorded: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries of a folder, or of the files in it that are outputs each by itself."""
    return {path: entry for path, entry in recorded.items() if Path(path).is_relative_to(out)}


def _recorded_measure(entries: dict[str, dict[str, Any]]) -> list[int]:
    return [
        sum(entry.get("nfiles", 1) for entry in entries.values()),
        sum(entry["size"] for entry in entries.values()),
    ]


def _measure(out: Path) -> list[int]:
    """[files, bytes] of a folder."""
    files = [file for file in out.rglob("*") if file.is_file()]
    return [len(files), sum(file.stat().st_size for file in files)]
