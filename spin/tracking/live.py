"""A stage's run in MLflow while it runs: from a thread that can neither hold the stage up nor fail it.

What is told goes to the outbox at once, and from there to MLflow every few seconds. The run opens when the stage starts. A
stage that was killed and goes on continues its run.
"""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from spin.tracking.connection import connected
from spin.tracking.notes import finite
from spin.tracking.outbox import Entry, entries, new_entry
from spin.tracking.sending import send, send_waiting

SECONDS_BETWEEN_LOOKS = 3.0
CLOSING_SECONDS = 30.0
"""Longest wait for what is still to be sent when the stage ends."""


class Sampler(Protocol):
    """Looks at the machine."""

    def sample(self) -> dict[str, float]:
        """The numbers of now; empty when it is not time yet."""


class LiveRun:
    """The run of a stage that is under way, its outbox entry and the thread that sends it."""

    def __init__(self, root: Path, stage: str, opening: dict[str, Any], sampler: Sampler | None) -> None:
        """Continue the entry that a killed run of the same stage and configuration left, or open one."""
        self._root, self._stage, self._opening, self._sampler = root, stage, opening, sampler
        self._lock, self._closing = threading.Lock(), threading.Event()
        self.entry = self._continued() or new_entry(root, stage, opening)
        self._steps, self._samples = self.entry.steps("values"), len(self.entry.steps("machine"))
        self._pictures: set[str] = set()
        self.problem: BaseException | None = None
        """What kept the last look from sending."""
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take in the numbers of one update; returns at once. One that was told before the stage was killed is not told again."""
        if step == 1 and self._steps:  # the training starts over: it is another run
            self._open_anew()
        numbers = {key: float(value) for key, value in values.items() if key != "step" and finite(value)}
        if step not in self._steps and numbers:
            self._steps.add(step)
            self._add({"step": step, "values": numbers})

    def picture(self, path: Path, folder: str) -> None:
        """Show a picture at once."""
        with contextlib.suppress(OSError), self._lock:
            self.entry.add({"file": self.entry.keep(path), "folder": folder})
            self._pictures.add(path.name)

    def told(self, path: Path) -> bool:
        """Whether a picture of that name has been shown."""
        return path.name in self._pictures

    def has(self, step: int) -> bool:
        """Whether the numbers of an update have been taken in."""
        return step in self._steps

    def close(self, ending: dict[str, Any]) -> None:
        """Note how the stage ended and send what is left, for a while; `problem` says why it could not."""
        with self._lock:
            self.entry.end(ending)
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():  # it holds the entry until it, or the process, ends
            self.problem = self.problem or TimeoutError(f"no answer in {CLOSING_SECONDS:g} s")
            return
        if self.entry.folder.is_dir():
            self.problem = self.problem or RuntimeError("not sent")
        self.entry.let_go()

    def _continued(self) -> Entry | None:
        """The newest entry of the stage that has no ending, if it is of this configuration; others of the stage were killed."""
        found = None
        for entry in reversed(entries(self._root)):
            if entry.stage != self._stage or entry.ended() or not entry.hold():
                continue
            if found is None and entry.belongs_to(self._opening):
                entry.mend()
                found = entry
            else:
                _killed(entry)
        return found

    def _open_anew(self) -> None:
        with self._lock:
            _killed(self.entry)
            self.entry = new_entry(self._root, self._stage, self._opening)
        self._steps, self._pictures = set(), set()

    def _add(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(OSError), self._lock:  # a full disk ends the stage where it matters
            self.entry.add(line)

    def _work(self) -> None:
        while True:
            last = self._closing.is_set()
            self._look()
            if last:
                return
            self._closing.wait(SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        try:
            if self._sampler is not None and (numbers := self._sampler.sample()):
                self._samples += 1
                self._add({"step": self._samples, "machine": numbers})
            send_waiting(self._root)
            if not self.entry.folder.is_dir():  # told to its end at the last look
                return
            with connected(self._root) as client:
                send(client, self.entry, alive=True)
            self.problem = None
        except (
            Exception
        ) as error:  # whatever MLflow raises: it stays in the outbox, and the next look tries again
            self.problem = error


def _killed(entry: Entry) -> None:
    entry.end({"status": "KILLED"})
    entry.let_go()
