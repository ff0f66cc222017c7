"""Floating-point operations by PyTorch's own counter, which takes a multiply-add for two."""

from collections.abc import Callable

import torch
from torch import Tensor

TERA = 1e12


def tflop_of(run: Callable[[], object]) -> float:
    """TFLOP of what `run` calls, without a backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops()) / TERA


def tflop_both_ways(run: Callable[[], Tensor]) -> float:
    """TFLOP of what `run` calls and of the backward pass from the sum of what it returns, recomputation included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run().sum().backward()
    return float(counter.get_total_flops()) / TERA
