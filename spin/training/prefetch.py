"""The next update's batch is drawn in a thread while this update trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from spin.training.parts import Part, Parts

AnyBatch = Part | Parts


class Prefetch:
    """Asked for update n it gives its batch and begins to draw that of n + 1; what is drawn is the same without it."""

    def __init__(self, draw: Callable[[int], AnyBatch], num_steps: int, device: torch.device) -> None:
        """Batches for the updates 0 to `num_steps` - 1; for a CUDA `device` in pinned memory."""
        self._draw, self._num_steps, self._pin = draw, num_steps, device.type == "cuda"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[AnyBatch]] | None = None

    def __call__(self, step: int) -> AnyBatch:
        """The batch of update `step`; raises what drawing it raised."""
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._drawn, step)
        batch = self._ahead[1].result()
        if step + 1 < self._num_steps:
            self._ahead = step + 1, self._thread.submit(self._drawn, step + 1)
        return batch

    def _drawn(self, step: int) -> AnyBatch:
        batch = self._draw(step)
        return batch.pinned() if self._pin else batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
