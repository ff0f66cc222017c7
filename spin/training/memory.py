"""How many pairs go through the network at a time: as given, or as many as memory holds."""

import gc
import logging
from dataclasses import dataclass

import torch

from spin.errors import ParamsError
from spin.params.training import TrainingParams

logger = logging.getLogger(__name__)

_SIGNS = (
    "out of memory",  # CUDA, HIP, XPU, MPS; also cuBLAS and cuDNN, whose errors are plain RuntimeErrors
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # the CPU's allocator
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@dataclass
class MicroBatch:
    """The size in force; `auto` lets it shrink when memory runs out."""

    size: int
    auto: bool

    @classmethod
    def of(cls, params: TrainingParams, share: int) -> "MicroBatch":
        """Start at the size given, or with `auto` at `share`, the pairs of an update that one device has and the most."""
        if params.micro_batch_size == "auto":
            return cls(share, True)
        return cls(min(params.micro_batch_size, share), False)

    def can_shrink(self) -> bool:
        """Whether there is a smaller size to try."""
        return self.auto and self.size > 1

    def shrink(self) -> None:
        """Go on with half the size, rounded up, and give back what the failed attempt held."""
        logger.info(
            "memory ran out with %d pairs at a time: training goes on with %d, to the same batch",
            self.size,
            -(-self.size // 2),
        )
        self.size = -(-self.size // 2)
        give_back()

    def too_large(self) -> ParamsError:
        """What to tell of a size that does not fit and may not shrink."""
        cure = "set a smaller number" if self.auto else "lower it, or set it to auto"
        if self.size == 1:
            cure = "set training.gradient_checkpointing, train with training.lora, or lower resolution"
        return ParamsError(
            f"training.micro_batch_size must fit into memory, but it ran out with {self.size} at a time; {cure}."
        )


def give_back() -> None:
    """Return to the device what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
