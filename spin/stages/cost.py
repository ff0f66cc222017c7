"""What a stage costs on the devices that it holds: outputs/cost/STAGE.json, told to MLflow, shown on a copy of the page.

device, precision    what it ran on, and the number format of the networks that do most of its work
processes            one for each device
device_seconds       seconds from its start to its end, loading and saving included, times processes
tflop                what its networks did, TFLOP; not what gradient checkpointing computed again, nor a safety checker
product_tflops       TFLOP/s of matrix products, measured on one device when it started
mfu                  tflop over what products would have done on its devices in its device-seconds
peak_bytes           the most that one device held: tensors on a GPU, else the process
joules               what its GPUs took; absent where one of them does not tell
not_counted          scorers whose FLOPs nobody knows; absent where there are none

All of it differs from run to run, so none of it is in an output of DVC. A killed run leaves what it had spent in its work
folder, to be added to by the one that goes on; at most `SECONDS_BETWEEN_NOTES` of it are lost.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spin import paths
from spin.models.asked import tflop_of_asked
from spin.models.bases import find_base
from spin.models.reference import read_reference
from spin.params.schema import Params
from spin.rewards.costs import scoring_costs
from spin.rewards.names import BUILT_IN, ORACLES
from spin.runtime import meter
from spin.runtime.devices import DTYPES, process_state
from spin.runtime.files import write_json
from spin.runtime.flops import TERA
from spin.runtime.gauges import device_name, forget_peak, joules, peak_bytes, product_rate
from spin.stages.cost_shown import write_shown
from spin.stages.kept_work import MARK
from spin.stages.spent import SPENT, Spent, spent_before
from spin.stages.stage import Item, Stage

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_NOTES = 5.0
_PRECISION_OF = {"train": "training", "baseline": "training", "continual": "training"}
_PRECISION_OF |= {"opponents": "opponents", "generate": "evaluate"}
"""Stage -> section of the parameters that has its precision; the others work in fp32."""
_SCORER = "scorer "
_SCORING = ("score", "reference", "continual")


@contextmanager
def recorded_cost(params: Params, stage: Stage, item: Item) -> Iterator[None]:
    """Record what the stage in the block costs, if it works on a device; only the first of several processes writes.

    Its own failure is a warning: the stage's work is done.
    """
    if not stage.gpu:
        yield
        if stage.name == "report":
            with _warning("report"):
                write_shown()
        return
    section = _PRECISION_OF.get(stage.name)
    clock = Clock(getattr(params, section).precision if section else "fp32")
    try:
        yield
    except BaseException:
        clock.stop()
        if meter.kept.folder is not None:
            _forget_if_alone(meter.kept.folder)
        raise
    clock.stop()
    spent = clock.in_all()
    if process_state().is_main_process:
        _write(clock, spent, params, stage, item)


def _write(clock: "Clock", spent: Spent, params: Params, stage: Stage, item: Item) -> None:
    with _warning(stage.label(item)):
        record = paths.COST / f"{stage.label(item)}.json"
        record.unlink(missing_ok=True)  # what an earlier run cost is not told as this one's
        told = clock.described(spent, params)
        if stage.name in _SCORING and (unknown := unknown_scorers(params)):
            told["not_counted"] = unknown
        write_json(record, told)
        clock.settle(spent)
        write_shown()


@contextmanager
def _warning(label: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a full disk, a base that is gone, a damaged record
        logger.warning("what %s cost is not recorded or shown (%s)", label, error)


class Clock:
    """What is spent from now on; the first process notes it every few seconds in the stage's work folder."""

    def __init__(self, precision: str) -> None:
        state = process_state()
        self.precision, self._device, self._processes = precision, state.device, state.num_processes
        meter.asked.clear()
        meter.kept.folder = None
        self._rate = product_rate(self._device, DTYPES[precision])
        forget_peak(self._device)
        self._started, self._joules = time.monotonic(), joules(self._device)
        self._earlier = Spent()
        meter.kept.when_opened = self._go_on_from
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._note, daemon=True, name="cost")
        if state.is_main_process:
            self._thread.start()

    def now(self) -> Spent:
        """What this process has spent."""
        seconds, taken = time.monotonic() - self._started, joules(self._device)
        known = taken is not None and self._joules is not None
        return Spent(
            seconds,
            seconds * self._rate,
            peak_bytes(self._device),
            (taken or 0.0) - (self._joules or 0.0) if known else None,
            meter.asked.copy(),
        )

    def stop(self) -> None:
        """Note nothing more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def in_all(self) -> Spent:
        """What all processes and all killed runs of this work have spent; every process must ask."""
        from accelerate.utils import gather_object

        together = sum(gather_object([self.now()]), Spent())
        return self._earlier + together

    def described(self, spent: Spent, params: Params) -> dict[str, Any]:
        """As outputs/cost has it."""
        tflop = tflop_of(spent.asked, params)
        told = {
            "device": device_name(self._device),
            "precision": self.precision,
            "processes": self._processes,
            "device_seconds": round(spent.device_seconds, 3),
            "tflop": tflop,
            "product_tflops": self._rate / TERA,
            "mfu": tflop * TERA / spent.attainable,
            "peak_bytes": spent.peak_bytes,
        }
        if spent.joules is not None:
            told["joules"] = round(spent.joules, 1)
        return told

    def settle(self, spent: Spent) -> None:
        """Leave it beside finished work that waits for DVC's record, whose rerun adds to it; else forget it."""
        folder = meter.kept.folder
        if folder is not None and (folder / MARK).is_file():
            spent.keep(folder)
        elif folder is not None:
            (folder / SPENT).unlink(missing_ok=True)

    def _go_on_from(self, folder: Path) -> None:
        """Add what killed runs had spent, before this one writes there, or finishes and removes it."""
        self._earlier = spent_before(folder)

    def _note(self) -> None:
        # The others spend as much as this one: what they spent is asked of them only at the end.
        while not self._stopped.wait(SECONDS_BETWEEN_NOTES):
            with meter.kept.lock, suppress(OSError):  # a full disk: what it stops is the stage's to say
                if meter.kept.open and meter.kept.folder is not None:
                    sum([self.now()] * self._processes, self._earlier).keep(meter.kept.folder)


def _forget_if_alone(folder: Path) -> None:
    """A failed stage that left nothing to go on from starts anew: then its folder is not kept."""
    with suppress(OSError):  # the stage's own error is the one to tell
        if [file.name for file in folder.iterdir()] == [SPENT]:
            (folder / SPENT).unlink()
            folder.rmdir()


def tflop_of(asked: Mapping[meter.Ask, int], params: Params) -> float:
    """TFLOP of all networks that were asked."""
    networks = {ask: rows for ask, rows in asked.items() if not ask.part.startswith(_SCORER)}
    scored = {ask.part.removeprefix(_SCORER): rows for ask, rows in asked.items() if ask not in networks}
    total = 0.0
    if scored:
        each = scoring_costs(params)
        total += sum(rows * (each[name] or 0.0) for name, rows in scored.items())
    if networks:
        base = find_base(read_reference(paths.CHECKPOINTS / "base"))
        shapes = getattr(params.data, "aspect_buckets", None) is not None
        resolution = params.resolution if shapes else None
        total += tflop_of_asked(networks, base, params.training.lora, resolution)
    return total


def unknown_scorers(params: Params) -> list[str]:
    """Those of a user's own, whose layers nobody here knows."""
    return sorted(set(params.scorers) - set(BUILT_IN) - set(ORACLES))
