"""A look-out for the failure in which the loss falls although the player gets worse at everything."""

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

logger = logging.getLogger(__name__)

WINDOW = 32
"""Updates looked back on: the mean of the later half is compared with that of the earlier half."""
CLEARLY = 2.0
"""Standard errors by which a mean must have risen, so that the noise of single updates raises no alarm."""


class RisingErrors:
    """Warns when the errors on real and on generated images both rise while the loss falls.

    The margin grows as long as the error on generated images rises faster than that on real ones, so the loss alone
    does not show it. Feed it every report of a run in order, those of before a resume too; it warns once per stretch.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._reports: deque[tuple[float, float, float]] = deque(maxlen=window)
        self._warned = False

    def see(self, report: Mapping[str, float]) -> bool:
        """Take in the report of one update; return whether the failure is on. Reports without pairs are passed over."""
        if "error_gen_change" not in report:
            return False
        changes = report["error_real_change"], report["error_gen_change"]
        self._reports.append((report["loss"], *changes))
        if len(self._reports) < (self._reports.maxlen or 0):
            return False
        loss, real, gen = (_rise(values) for values in zip(*self._reports, strict=True))
        failing = real > CLEARLY and gen > CLEARLY and loss < 0
        if failing and not self._warned:
            logger.warning(
                "the errors on real and on generated images both rose over the last %d updates (to %+.5f and %+.5f "
                "against the opponent) while the loss fell: the player is getting worse at real images; lower the "
                "learning rate or set objective.loser_scale.",
                len(self._reports),
                *changes,
            )
            self._warned = True
        elif real <= 0 or gen <= 0 or loss >= 0:
            # The stretch is over only when a curve has turned, not when it is merely less clear.
            self._warned = False
        return failing


def _rise(values: Sequence[float]) -> float:
    """By how many standard errors the later half lies above the earlier half."""
    half = len(values) // 2
    earlier, later = values[:half], values[half:]
    spread = math.sqrt(variance(earlier) / len(earlier) + variance(later) / len(later))
    difference = fmean(later) - fmean(earlier)
    return difference / spread if spread else math.copysign(math.inf, difference) if difference else 0.0
