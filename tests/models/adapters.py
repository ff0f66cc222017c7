"""Low-rank adapters on the tiny base: their settings, a training in miniature, and what a denoiser predicts."""

from pathlib import Path

import torch
from torch import Tensor, nn

from spin.models.checkpoint import load_model
from spin.params.training import LoraParams

CPU = torch.device("cpu")
LORA = LoraParams(rank=2, alpha=8.0, targets=["to_q", "to_k", "to_v", "to_out.0"])


def move(player: nn.Module, by: float = 0.1) -> None:
    """As an optimizer would: change the trainable parameters, and nothing else."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in player.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, 4, 8, 8, generator=generator, dtype=dtype)
    return x_t, torch.tensor([1, 400, 900]), torch.randn(3, 16, 16, generator=generator, dtype=dtype)


def predict(denoiser: nn.Module) -> Tensor:
    x_t, times, states = inputs(next(denoiser.parameters()).dtype)
    prediction: Tensor = denoiser(x_t, times, encoder_hidden_states=states).sample
    return prediction


def predicted(checkpoint: Path) -> Tensor:
    """What the finished checkpoint predicts, loaded as sampling loads it."""
    with torch.no_grad():
        return predict(load_model(checkpoint).denoiser)


def walk(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
