"""Finished work is kept until DVC has recorded what came of it.

Between a stage's end and the line in dvc.lock DVC copies the output into its cache. If that fails (its disk is full, it is
killed), DVC removes the output at the next start and runs the stage again: from the kept work, which has nothing left to do.
"""

import shutil
from pathlib import Path

from spin import paths
from spin.errors import FileError
from spin.runtime.files import read_json, write_json
from spin.runtime.provenance import recorded_outputs

MARK = "finished.json"
"""In a work folder whose output is in place: which one, how many files and bytes."""


def finish(work: Path, out: Path) -> None:
    """Mark `work` as finished, or remove it where no DVC is to record its output."""
    if not Path("dvc.yaml").is_file():
        shutil.rmtree(work, ignore_errors=True)
        return
    write_json(work / MARK, {"out": out.as_posix(), **_measure(out)})


def remove_recorded() -> None:
    """Remove finished work whose output stands in dvc.lock; its files and bytes tell that it is that one."""
    marks = sorted((paths.WORK / "work").glob(f"*/{MARK}"))
    recorded = recorded_outputs(Path()) if marks else {}
    for mark in marks:
        try:
            told = read_json(mark)
            entry = recorded.get(told["out"], {})
            known = (entry.get("nfiles", 1), entry.get("size")) == (told["nfiles"], told["size"])
        except (
            FileError,
            KeyError,
            TypeError,
        ):  # a damaged mark: the work is kept, as if it were not finished
            continue
        if known:
            shutil.rmtree(mark.parent, ignore_errors=True)


def _measure(out: Path) -> dict[str, int]:
    files = [file for file in out.rglob("*") if file.is_file()]
    return {"nfiles": len(files), "size": sum(file.stat().st_size for file in files)}
