"""Randomness as a function of what it is for, never of what ran before.

Every draw comes from a generator seeded by a hash of its purpose, such as ("opponent", seed, iteration, prompt id).
So a batch size, a shard, a rank or a resumed run cannot change a draw, and nothing needs to be saved to resume.
Draws are made on the CPU, whose generator gives the same numbers on every machine.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def derive_seed(*purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose; different purposes give unrelated seeds."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(*purpose: str | int) -> torch.Generator:
    """Return a CPU generator at the start of the stream of `purpose`."""
    return torch.Generator().manual_seed(derive_seed(*purpose))


def randn_rows(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Draw one row from each generator: (len(generators), *shape) standard normal, fp32."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


@lru_cache(maxsize=2)  # of ten million rows it takes a second, and every update of the epoch asks for it
def epoch_order(num_rows: int, epoch: int, *purpose: str | int) -> Tensor:
    """The order in which epoch number `epoch` visits the rows: a permutation (num_rows,) int64, not to be changed."""
    return torch.randperm(num_rows, generator=generator_for(*purpose, "epoch", epoch))


def rows_of_step(step: int, batch_size: int, num_rows: int, *purpose: str | int) -> Tensor:
    """Rows (batch_size,) that optimizer update `step` (from 0) visits: consecutive stretches of shuffled epochs."""
    first, end = step * batch_size, (step + 1) * batch_size
    stretches = []
    for epoch in range(first // num_rows, (end - 1) // num_rows + 1):
        start = epoch * num_rows
        stretches.append(epoch_order(num_rows, epoch, *purpose)[max(first - start, 0) : end - start])
    return torch.cat(stretches)
