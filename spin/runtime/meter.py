"""How often this process asked the networks, counted where they are asked, so that nobody has to work out what a stage did.

Counting is all that happens here: every stage depends on this code. `spin.stages.cost`, on which none depends, makes FLOPs
of it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Ask(NamedTuple):
    """One sample through a network."""

    part: str
    """`denoiser`, `encoder`, `decoder`, `text`, or a scorer's name after `scorer `."""
    side: int = 0
    """Of the square that goes in: pixels, or latents."""
    tokens: int = 0
    """Of the text that a denoiser is told."""
    trained: bool = False
    """Whether a backward pass follows."""
    adapted: bool = False
    """Whether the network carries an adapter that is not fused."""


asked: Counter[Ask] = Counter()
"""Samples since the process began."""


def count(rows: int, part: str, side: int = 0) -> None:
    """Count so many samples through a network."""
    asked[Ask(part, side)] += rows


def count_prediction(denoiser: Any, prediction: Any, tokens: int) -> None:
    """Count a denoiser's prediction, (B, C, H, W); none on the meta device, where only costs are looked up."""
    if prediction.device.type != "meta":
        network = getattr(denoiser, "module", denoiser)  # of a wrapper that averages gradients
        adapted = bool(getattr(network, "peft_config", None))
        ask = Ask("denoiser", prediction.shape[-1], tokens, prediction.requires_grad, adapted)
        asked[ask] += len(prediction)


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing of the block: a trial that is no part of the work."""
    before = asked.copy()
    try:
        yield
    finally:
        asked.clear()
        asked.update(before)


class Kept:
    """Where the stage keeps its unfinished work, and so what it has spent."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.open = False
        self.lock = threading.Lock()
        """Held by who writes there while it is open."""
        self.when_opened: Callable[[Path], None] = lambda folder: None
        """Called before any of the work is done."""


kept = Kept()


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """What is spent may be noted in `folder` during the block, and nothing is written there by another thread after it."""
    kept.when_opened(folder)
    kept.folder, kept.open = folder, True
    try:
        yield
    finally:
        with kept.lock:
            kept.open = False
