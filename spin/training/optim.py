"""Optimizers and learning rate schedules by their names in params.yaml."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from spin.errors import ParamsError
from spin.params.training import StageParams, TrainingParams


def make_optimizer(
    parameters: Sequence[nn.Parameter], learning_rate: float, params: TrainingParams, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of a training stage over fp32 `parameters` that are on `device`.

    adamw        Loshchilov and Hutter 2019, arXiv:1711.05101; fused into one kernel on CUDA
    adamw_8bit   the same with its two moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861): 2 bytes a weight, not 8
    adafactor    Shazeer and Stern 2018, arXiv:1804.04235: second moments by row and column, no first; its step is the
                 learning rate times the root mean square of the weight it moves, at most

    Raises `ParamsError` for adamw_8bit without CUDA or without bitsandbytes.
    """
    if params.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, lr=learning_rate, weight_decay=params.weight_decay)
    settings: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (params.adam_betas[0], params.adam_betas[1]),
        "eps": params.adam_eps,
        "weight_decay": params.weight_decay,
    }
    if params.optimizer == "adamw_8bit":
        return _adamw_8bit(parameters, settings, device)
    return torch.optim.AdamW(parameters, fused=True if device.type == "cuda" else None, **settings)


def _adamw_8bit(
    parameters: Sequence[nn.Parameter], settings: dict[str, Any], device: torch.device
) -> torch.optim.Optimizer:
    if device.type != "cuda":
        raise ParamsError(
            f"training.optimizer must be adamw or adafactor on the device {device.type}, got adamw_8bit; it needs CUDA."
        )
    try:
        import bitsandbytes
    except ImportError:
        raise ParamsError(
            "training.optimizer: adamw_8bit must have bitsandbytes, which is not installed; "
            "pip install 'spin-diffusion[gpu]' or choose adamw."
        ) from None
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, **settings)
    return optimizer


def make_lr_scheduler(
    optimizer: torch.optim.Optimizer, plan: StageParams, params: TrainingParams
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up linearly over `plan.warmup_steps`, then hold, or decay to 0 by the last update."""
    name = "constant_with_warmup" if params.lr_scheduler == "constant" else params.lr_scheduler
    scheduler: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=plan.warmup_steps, num_training_steps=plan.num_steps
    )
    return scheduler
