"""Batches that are drawn ahead are those that would have been drawn in time."""

import threading
from typing import Any

import pytest
import torch

from spin.errors import DataError
from spin.training.prefetch import Prefetch

CPU = torch.device("cpu")


def test_the_next_batch_is_drawn_while_this_one_is_in_use_and_each_once() -> None:
    drawn: list[int] = []
    second = threading.Event()

    def draw(step: int) -> Any:
        drawn.append(step)
        if step == 4:
            second.set()
        return step

    with Prefetch(draw, 6, CPU) as batch_of:
        assert batch_of(3) == 3, "a resumed run begins anywhere"
        assert second.wait(10), "nobody has asked for it yet"
        assert [batch_of(4), batch_of(5)] == [4, 5]
    assert drawn == [3, 4, 5], "none after the last"


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    def draw(step: int) -> Any:
        if step == 1:
            raise DataError("torn")
        return step

    with Prefetch(draw, 3, CPU) as batch_of:
        assert batch_of(0) == 0
        with pytest.raises(DataError, match="torn"):
            batch_of(1)
