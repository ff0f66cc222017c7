"""What a denoiser is told besides the noised latents: named tensors with one row per image.

SD 1.x and 2.x: encoder_hidden_states (B, L, D). SDXL adds text_embeds (B, P) and time_ids (B, 6); SD3 adds
pooled_projections (B, P). The caption and the micro-conditioning together are the c of the papers' p(x | c).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Conditioning = dict[str, Tensor]


def concat(parts: Sequence[Conditioning]) -> Conditioning:
    """Join along the rows; all parts have the same names."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def take(conditioning: Conditioning, rows: slice) -> Conditioning:
    """Some of the rows."""
    return {name: tensor[rows] for name, tensor in conditioning.items()}


def repeat_rows(conditioning: Conditioning, times: int) -> Conditioning:
    """All rows, several times over: (B, ...) -> (times * B, ...)."""
    return concat([conditioning] * times)


def expand_rows(conditioning: Conditioning, num_rows: int) -> Conditioning:
    """One row for everybody: (1, ...) -> (num_rows, ...)."""
    return {name: tensor.expand(num_rows, *tensor.shape[1:]) for name, tensor in conditioning.items()}


def to_device(conditioning: Conditioning, device: torch.device | str) -> Conditioning:
    """Move every tensor; the host does not wait where it is pinned."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in conditioning.items()}


def pinned(conditioning: Conditioning) -> Conditioning:
    """In memory that a GPU reads by itself."""
    return {name: tensor.pin_memory() for name, tensor in conditioning.items()}


def square_geometry(num_rows: int, resolution: int) -> Tensor:
    """Geometry (num_rows, 6) of uncropped square images: original size, crop corner, target size, rows before columns."""
    side = float(resolution)
    return torch.tensor([[side, side, 0.0, 0.0, side, side]]).expand(num_rows, 6)
