"""Kept work as tests see it: what DVC records of an output, which works are finished, and damage in place."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import spin.stages.work
from spin.runtime.provenance import content_md5
from spin.stages.kept_work import MARK


def record(*outs: Path) -> None:
    """What DVC writes into dvc.lock of a finished stage."""
    entries = []
    for out in outs:
        files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
        entry = {"path": out.as_posix(), "md5": content_md5(out)}
        entry["size"] = sum(file.stat().st_size for file in files)
        entries.append(entry | ({"nfiles": len(files)} if out.is_dir() else {}))
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"some": {"outs": entries}}}))


def flip(file: Path) -> None:
    """Flip a bit in the middle, in place."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)


def works() -> set[str]:
    return {mark.parent.name.split("-")[0] for mark in Path(".spin/work").glob(f"*/{MARK}")}


def work_of(run: Callable[..., None], *arguments: Any) -> str:
    """The work folder that a stage would go on with; it is stopped there."""
    places: list[str] = []

    @contextlib.contextmanager
    def stopped(out: Path, *depends_on: Any) -> Iterator[Path]:
        places.append(spin.stages.work.work_folder(*depends_on).name)
        raise KeyboardInterrupt
        yield out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.stages.work, "kept_work", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(*arguments)
    return places[0]
