"""A training's numbers in MLflow while it trains: from a thread that can neither hold the training up nor fail it.

The run opens with the first numbers, with status RUNNING. What cannot be sent waits and is sent at the next look. A training
that was killed and goes on continues its run: the file below `.spin` says which one it is and up to which step it has been told.
The curve on disk stays the truth; when the stage ends, `spin.tracking.runs` tells what is still missing from it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from spin.errors import FileError
from spin.paths import WORK
from spin.runtime.files import read_json, write_json
from spin.tracking.notes import finite

SECONDS_BETWEEN_LOOKS = 3.0
CLOSING_SECONDS = 30.0
"""Longest wait for what is still to be sent when the training ends."""
BATCH = 500


class Point(NamedTuple):
    """One number of one update."""

    key: str
    value: float
    time_ms: int
    step: int


class LiveRun:
    """The MLflow run of a training that is under way."""

    def __init__(
        self,
        stage: str,
        root: Path,
        configuration: str,
        connect: Callable[[Path], AbstractContextManager[Any]],
        open_run: Callable[[Any], str],
    ) -> None:
        """`connect` yields a client or None, `open_run` makes the stage's run with it and returns its id."""
        self.run_id: str | None = None
        self.sent_step = 0
        """Every number up to this step has been sent."""
        self._file = root / WORK / "mlflow" / "live" / f"{stage}.json"
        self._root, self._configuration = root, configuration
        self._connect, self._open_run = connect, open_run
        self._pending: list[Point] = []
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take in the numbers of one update; returns at once."""
        now = int(time.time() * 1000)
        points = [
            Point(key, float(value), now, step)
            for key, value in values.items()
            if key != "step" and finite(value)
        ]
        with self._lock:
            self._pending += points
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(step,), daemon=True)
            self._thread.start()

    def close(self, status: str | None = None) -> None:
        """Send what is left, for a while; `status` ends a run that did not end well."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)
        if status and self.run_id:
            try:
                with self._connect(self._root) as client:
                    client.set_terminated(self.run_id, status)
            except Exception:
                pass

    def finished(self) -> None:
        """The run is told whole: the next training of this stage gets one of its own."""
        self._file.unlink(missing_ok=True)

    def _work(self, first_step: int) -> None:
        while not self._closing.wait(SECONDS_BETWEEN_LOOKS):
            self._try(first_step)
        self._try(first_step)

    def _try(self, first_step: int) -> None:
        try:
            self._send(first_step)
        except Exception:  # whatever MLflow raises: the points stay, and the next look tries again
            return

    def _send(self, first_step: int) -> None:
        with self._lock:
            points = list(self._pending)
        if not points:
            return
        with self._connect(self._root) as client:
            if client is None:  # switched off, or not installed
                self._closing.set()
                return
            if self.run_id is None:
                self._continue_or_open(client, first_step)
            assert self.run_id is not None
            # A whole step at a time, so that `sent_step` says exactly what has been sent.
            fresh = [point for point in points if point.step > self.sent_step]
            for start in range(0, len(fresh), BATCH):
                self._log_batch(client, fresh[start : start + BATCH])
        with self._lock:
            del self._pending[: len(points)]
        self.sent_step = max(self.sent_step, points[-1].step)
        self._remember()

    def _log_batch(self, client: Any, points: list[Point]) -> None:
        from mlflow.entities import Metric

        client.log_batch(self.run_id, metrics=[Metric(*point) for point in points])

    def _continue_or_open(self, client: Any, first_step: int) -> None:
        """The run of a killed training goes on with it; one that starts over is another run."""
        told = self._told()
        if told.get("configuration") == self._configuration and first_step > 1:
            self.run_id, self.sent_step = str(told["run_id"]), int(told["sent_step"])
            client.update_run(self.run_id, status="RUNNING")
            return
        if told.get("run_id"):
            client.set_terminated(told["run_id"], "KILLED")
        self.run_id = self._open_run(client)
        self._remember()

    def _told(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = read_json(self._file)
        except FileError:
            return {}
        return told

    def _remember(self) -> None:
        told = {"run_id": self.run_id, "sent_step": self.sent_step, "configuration": self._configuration}
        write_json(self._file, told)
