"""Properties of the micro-batch and of what counts as running out of memory."""

import weakref

import pytest
import torch

from spin.training.memory import MicroBatch, is_out_of_memory
from tests.training.games import training_params


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("any words"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_errors_that_say_so_count_as_running_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_size_that_is_given_never_shrinks_and_auto_starts_at_the_devices_share() -> None:
    given = MicroBatch.of(training_params(batch_size=8, micro_batch_size=4), share=8)
    assert (given.size, given.can_shrink()) == (4, False)
    found = MicroBatch.of(training_params(batch_size=8, micro_batch_size="auto"), share=6)
    assert (found.size, found.can_shrink()) == (6, True)


def test_shrinking_halves_rounding_up_until_a_single_pair_is_left() -> None:
    micro_batch, sizes = MicroBatch(13, True), []
    while micro_batch.can_shrink():
        micro_batch.shrink()
        sizes.append(micro_batch.size)
    assert sizes == [7, 4, 2, 1]


def test_shrinking_gives_back_what_the_failed_attempt_holds_in_circles() -> None:
    class Graph:
        def __init__(self) -> None:
            self.itself = self

    held = weakref.ref(Graph())
    assert held() is not None
    MicroBatch(2, True).shrink()
    assert held() is None
