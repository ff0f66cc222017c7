"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from spin.runtime.launch import is_first_process

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done out of a total: `with Progress("opponents iter1", 512, "images") as bar: bar.update(8)`."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        """Start counting; `done` units were finished by an earlier run and do not count for the rate."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started
        self._bar = None
        if (
            sys.stderr.isatty() and is_first_process()
        ):  # others would draw over it, and their lines are not logged
            self._bar = tqdm(total=total, initial=done, desc=label, unit=f" {unit}", dynamic_ncols=True)

    def update(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` is shown beside the rate."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if self.done >= self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            logger.info("%s", self._line(now, note))

    def _line(self, now: float, note: str) -> str:
        elapsed = max(now - self._started, 1e-9)
        rate = (self.done - self._first) / elapsed
        left = (self.total - self.done) / rate if rate else float("inf")
        timing = f"{elapsed:.0f} s" if self.done >= self.total else f"{left:.0f} s left"
        line = f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.3g}/s, {timing}"
        return f"{line}, {note}" if note else line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
