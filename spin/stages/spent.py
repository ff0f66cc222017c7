"""What a stage has spent on its devices so far, and how that is kept beside its unfinished work."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spin.errors import SpinError
from spin.runtime.files import read_json, write_json
from spin.runtime.meter import Ask

SPENT = "spent.json"
"""In a work folder."""


@dataclass(frozen=True)
class Spent:
    """Of one process, or of several one beside or after the other: `+` is for both."""

    device_seconds: float = 0.0
    attainable: float = 0.0
    """FLOP that matrix products would have done on these devices in this time."""
    peak_bytes: int = 0
    """The most that one device held."""
    joules: float | None = 0.0
    """None where a device does not tell."""
    asked: Counter[Ask] = field(default_factory=Counter)

    def __add__(self, other: "Spent") -> "Spent":
        known = self.joules is not None and other.joules is not None
        return Spent(
            self.device_seconds + other.device_seconds,
            self.attainable + other.attainable,
            max(self.peak_bytes, other.peak_bytes),
            (self.joules or 0.0) + (other.joules or 0.0) if known else None,
            self.asked + other.asked,
        )

    def keep(self, folder: Path) -> None:
        """Note it in a work folder."""
        told: dict[str, Any] = {**vars(self), "asked": [[*ask, rows] for ask, rows in self.asked.items()]}
        write_json(folder / SPENT, told)


def spent_before(folder: Path) -> Spent:
    """What stands in a work folder; nothing where it does not read or is no amount."""
    try:
        told = read_json(folder / SPENT)
        asked = Counter({Ask(*ask): int(_amount(rows)) for *ask, rows in told.pop("asked")})
        joules = told.pop("joules")
        amounts = {name: _amount(told[name]) for name in ("device_seconds", "attainable", "peak_bytes")}
        return Spent(**amounts, joules=None if joules is None else _amount(joules), asked=asked)
    except (SpinError, TypeError, ValueError, KeyError, AttributeError):
        return Spent()


def _amount(told: Any) -> Any:
    """A number that can be added to a cost; raises `ValueError` for any other."""
    if not isinstance(told, int | float) or not 0 <= told < math.inf:
        raise ValueError(told)
    return told
