"""What MLflow is to be told, on disk in order: one folder per run of a stage, kept until all of it has been told.

    .spin/mlflow/outbox/1764020001123-train@iter1/
        opening.json    which run it is: stage, tags, the configuration it belongs to
        lines.jsonl     one line for each thing told while it runs, with its own time
        files/          copies of the pictures and tables, since a later run replaces the outputs
        ending.json     how it ended and what is told then; not there while it runs, or if it was killed
        sent.json       the run in MLflow, and how many bytes of lines.jsonl it has been told

A line is sent again if its sending was not recorded; with the same time, value and step MLflow keeps it once.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spin.errors import FileError
from spin.runtime.files import read_json, write_json
from spin.tracking.connection import store


class Entry:
    """One run of a stage. Only who holds it may write to it or send it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self._lines = folder / "lines.jsonl"
        self._lock: Any = None

    @property
    def stage(self) -> str:
        """As dvc.yaml names it."""
        return self.folder.name.partition("-")[2]

    def hold(self) -> bool:
        """Take it for this process, until it ends or `let_go`; False if another one has it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder.parent / f".{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError, RuntimeError):  # the last one: held by this thread
            return False
        self._lock = lock
        return self.folder.is_dir()

    def let_go(self) -> None:
        """Leave it to others."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def opening(self) -> dict[str, Any]:
        """Which run it is."""
        opening: dict[str, Any] = read_json(self.folder / "opening.json")
        return opening

    def belongs_to(self, opening: dict[str, Any]) -> bool:
        """Whether it is of the same configuration as a run that opens; one that does not read is not."""
        try:
            return bool(self.opening()["parent"]["key"] == opening["parent"]["key"])
        except (FileError, KeyError, TypeError):
            return False

    def ended(self) -> bool:
        """Whether it has an ending, readable or not."""
        return (self.folder / "ending.json").is_file()

    def ending(self) -> dict[str, Any] | None:
        """How it ended; None where it runs, or was killed."""
        file = self.folder / "ending.json"
        ending: dict[str, Any] | None = read_json(file) if file.is_file() else None
        return ending

    def end(self, ending: dict[str, Any]) -> None:
        """Note how it ended; nothing is added after that."""
        write_json(self.folder / "ending.json", {"at": _now(), **ending})

    def sent(self) -> dict[str, Any]:
        """What of it has been told."""
        try:
            sent = read_json(self.folder / "sent.json")
        except FileError:  # not there: nothing
            return {}
        return sent if isinstance(sent, dict) and {"run_id", "offset", "status"} <= sent.keys() else {}

    def note_sent(self, sent: dict[str, Any]) -> None:
        """Remember what has been told."""
        write_json(self.folder / "sent.json", sent)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line with the time of now; cheap, and there even if the process is killed after it."""
        with self._lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"at": _now(), **line}) + "\n")

    def keep(self, path: Path) -> str:
        """Copy a file or folder as it is now; returns its place below `files`, of the same name."""
        place = f"{len(list(self.files.glob('*'))) if self.files.is_dir() else 0:03d}"
        target = self.files / place / path.name
        target.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        return target.relative_to(self.files).as_posix()

    def lines(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each whole line from byte `start` on, with the byte after it; a torn one is left out."""
        if not self._lines.is_file():
            return
        with self._lines.open("rb") as stream:
            stream.seek(start)
            for raw in stream:
                start += len(raw)
                try:
                    line = json.loads(raw)
                except ValueError:  # the last one of a killed process
                    continue
                if isinstance(line, dict):
                    yield line, start

    def steps(self, kind: str) -> set[int]:
        """The steps whose numbers of a kind stand in the lines."""
        return {line["step"] for line, _ in self.lines() if kind in line}

    def mend(self) -> None:
        """End a line that a killed process began, so that the next one stands alone."""
        if self._lines.is_file() and (text := self._lines.read_bytes()) and not text.endswith(b"\n"):
            with self._lines.open("ab") as stream:
                stream.write(b"\n")

    def remove(self) -> None:
        """All of it has been told."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder.parent / f".{self.folder.name}.lock").unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Keep it where nobody tries to send it again; returns that place."""
        place = self.folder.parent.parent / "refused" / self.folder.name
        place.parent.mkdir(exist_ok=True)
        self.folder.rename(place)
        return place


def new_entry(root: Path, stage: str, opening: dict[str, Any]) -> Entry:
    """Make an entry that this process holds."""
    started = _now()
    while (folder := _outbox(root) / f"{started}-{stage}").exists():
        started += 1
    entry = Entry(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    write_json(folder / "opening.json", {"at": started, "stage": stage, **opening})
    entry.hold()
    return entry


def entries(root: Path) -> list[Entry]:
    """All that wait, the oldest first."""
    opened = _outbox(root).glob("*-*/opening.json")
    return [Entry(file.parent) for file in sorted(opened, key=lambda file: _age(file.parent.name))]


def _outbox(root: Path) -> Path:
    return store(root) / "outbox"


def _age(name: str) -> int:
    first = name.partition("-")[0]
    return int(first) if first.isdigit() else 0


def _now() -> int:
    """Milliseconds, as MLflow counts."""
    return int(time.time() * 1000)
