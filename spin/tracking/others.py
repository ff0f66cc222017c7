"""TensorBoard and Weights & Biases, for those who live there, through accelerate's trackers: `SPIN_TRACKERS=tensorboard,wandb`.

They get what MLflow gets while a stage runs: the numbers of every update, and the previews. The environment switches them
on, not params.yaml, so that nothing becomes stale by it. Each is told from a thread of its own, which can neither hold the
stage up nor fail it; a run there begins with the first update of a training, so other stages make none.
"""

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from spin.errors import TrackingError
from spin.params.schema import Params
from spin.tracking.configuration import configuration_hash, flatten
from spin.tracking.connection import home
from spin.tracking.live import CLOSING_SECONDS
from spin.tracking.notes import Live, finite
from spin.tracking.sending import first_line

logger = logging.getLogger(__name__)

VARIABLE = "SPIN_TRACKERS"
FOLDER = "outputs/trackers"
"""Below the project: tensorboard/CONFIGURATION/STAGE, and W&B's own files; no output of a stage."""


def _tensorboard(params: Params, run: str, folder: Path, step: int) -> Any:
    """A run that is continued replaces what it had told from `step` on."""
    from accelerate.tracking import TensorBoardTracker

    place = folder / "tensorboard" / configuration_hash(params)[:6]
    return TensorBoardTracker(run, place, purge_step=step)


def _wandb(params: Params, run: str, folder: Path, step: int) -> Any:
    """A run of the group of its configuration; one that is continued is a second run there."""
    from accelerate.tracking import WandBTracker

    folder.mkdir(parents=True, exist_ok=True)
    key = configuration_hash(params)[:6]
    settings = flatten(params.model_dump(mode="json"))
    return WandBTracker(params.tracking.experiment, name=run, group=key, config=settings, dir=str(folder))


KNOWN: dict[str, Callable[[Params, str, Path, int], Any]] = {"tensorboard": _tensorboard, "wandb": _wandb}
"""Makers of accelerate's trackers, called like the package that each needs."""


def trackers_wanted() -> list[str]:
    """The trackers that the environment names; raises `TrackingError` for an unknown one and for one not installed."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if name not in KNOWN:
            raise TrackingError(
                f"{VARIABLE} must name some of {', '.join(KNOWN)}, got {name}; correct it, or unset it."
            )
        if importlib.util.find_spec(name) is None:
            raise TrackingError(
                f"{VARIABLE} names {name}, which must be installed, but is not; pip install 'spin-diffusion[{name}]', or "
                "unset it."
            )
    return list(dict.fromkeys(names))


@contextmanager
def other_trackers(params: Params, stage: str, root: Path) -> Iterator[list[Live]]:
    """Yield those that the environment names, and close them when the stage ends."""
    wanted = [OtherTracker(name, params, stage, home(root) / FOLDER) for name in trackers_wanted()]
    try:
        yield list(wanted)
    finally:
        for each in wanted:
            each.close()


class OtherTracker:
    """One tracker and the thread that tells it; both begin with the first that there is to tell."""

    def __init__(self, name: str, params: Params, stage: str, folder: Path) -> None:
        self._name, self._params, self._stage, self._folder = name, params, stage, folder
        self._told: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._tracker: Any = None
        self._step = self._trainings = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take in the numbers of one update; returns at once."""
        numbers = {key: float(value) for key, value in values.items() if key != "step" and finite(value)}
        self._tell(lambda: self._log(numbers, step))

    def picture(self, path: Path, folder: str) -> None:
        """Take in a preview, which stays where it is; it is shown at the last update that was told."""
        self._tell(lambda: self._show(path))

    def close(self) -> None:
        """Tell what is left, for a while."""
        if self._thread is None:
            return
        self._told.put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._warn(TimeoutError(f"no answer in {CLOSING_SECONDS:g} s"))

    def _tell(self, what: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._told.put(what)

    def _work(self) -> None:
        try:
            while (tell := self._told.get()) is not None:
                tell()
            if self._tracker is not None:
                self._tracker.finish()
        except Exception as error:  # whatever the library raises: it is told no more, and the stage goes on
            self._warn(error)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        if step == 1 and self._step:  # another training of the same stage
            self._tracker.finish()
            self._tracker = None
        self._open(step)
        self._step = step
        self._tracker.log(numbers, step=step)

    def _show(self, path: Path) -> None:
        import numpy as np
        from PIL import Image

        self._open(self._step)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[None]
        shape = {"dataformats": "NHWC"} if self._name == "tensorboard" else {}
        self._tracker.log_images({"previews": pixels}, step=self._step, **shape)

    def _open(self, step: int) -> None:
        if self._tracker is not None:
            return
        self._trainings += 1
        run = self._stage if self._trainings == 1 else f"{self._stage}-{self._trainings}"
        tracker = KNOWN[self._name](self._params, run, self._folder, step)
        tracker.start()
        self._tracker = tracker

    def _warn(self, problem: BaseException) -> None:
        logger.warning(
            "%s was not told all of %s (%s); the curve is on disk.",
            self._name,
            self._stage,
            first_line(problem),
        )
