"""A training stage from files to files: set up, resume, train, save."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler

from spin.batches import draw_batch
from spin.data.cache import Cache
from spin.data.training import TrainingSet, dpo_training_set, sft_training_set, spin_training_set
from spin.errors import ParamsError
from spin.files import replacing_file
from spin.models import StableDiffusion, load_model, save_checkpoint
from spin.params import DpoParams, IterationParams, Params, SftParams, TrainingParams
from spin.progress import Progress
from spin.resume import restore_state, save_state
from spin.train import TrainState, train

logger = logging.getLogger(__name__)

StagePlan = IterationParams | SftParams | DpoParams


def open_training_set(plan: StagePlan, data: Path, cache: Cache, opponents: Path) -> TrainingSet:
    """The examples a stage's objective asks for."""
    if isinstance(plan, IterationParams):
        return spin_training_set(data, cache, opponents)
    return dpo_training_set(data, cache) if isinstance(plan, DpoParams) else sft_training_set(data, cache)


def make_accelerator(params: TrainingParams) -> Accelerator:
    """Set up devices and precision; raises `ParamsError` if the micro-batches cannot be dealt out evenly."""
    accelerator = Accelerator(mixed_precision="no" if params.precision == "fp32" else params.precision)
    parts = params.batch_size // params.micro_batch_size
    if parts % accelerator.num_processes:
        raise ParamsError(
            f"training.batch_size / training.micro_batch_size must be a multiple of the {accelerator.num_processes} "
            f"processes, got {parts}; change one of them."
        )
    return accelerator


def make_state(
    diffusion: StableDiffusion, plan: StagePlan, params: TrainingParams, accelerator: Accelerator
) -> TrainState:
    """The player at the weights of `prev`, its optimizer and its learning rate schedule."""
    player = diffusion.unet.float().requires_grad_(True)
    if params.gradient_checkpointing:
        player.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        player.parameters(),
        lr=plan.learning_rate,
        betas=(params.adam_betas[0], params.adam_betas[1]),
        eps=params.adam_eps,
        weight_decay=params.weight_decay,
    )
    name = "constant_with_warmup" if params.lr_scheduler == "constant" else params.lr_scheduler
    lr_scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=plan.warmup_steps, num_training_steps=plan.num_steps
    )
    wrapped, wrapped_optimizer = accelerator.prepare(player, optimizer)
    return TrainState(wrapped, wrapped_optimizer, lr_scheduler)


def run_training(
    params: Params, name: str, data: Path, cache_dir: Path, opponents: Path, prev: Path, work: Path, out: Path
) -> list[dict[str, float]]:
    """Train the stage `name` from the checkpoint `prev` into the existing empty folder `out`; return its curve.

    A state in `work`, left by a killed run of the same work, is continued; the result is the same to the bit.
    """
    plan = params.stage(name)
    accelerator = make_accelerator(params.training)
    training_set = open_training_set(plan, data, Cache(cache_dir), opponents)
    diffusion = load_model(prev)
    opponent = load_model(prev, accelerator.device).unet
    schedule = diffusion.noise_schedule
    state = make_state(diffusion, plan, params.training, accelerator)
    player = accelerator.unwrap_model(state.player)
    reports = restore_state(work, state, player)
    if reports:
        logger.info("%s: resuming from its step checkpoint at update %d", name, state.step)
    with Progress(f"train {name}", plan.num_steps, "updates", done=state.step) as progress:

        def on_step(report: dict[str, Any]) -> None:
            reports.append(report)
            progress.update(1, f"loss {report['loss']:.4f}, real {report['error_real_change']:+.5f}")
            if accelerator.is_main_process and state.step % params.training.checkpoint_every == 0:
                save_state(work, state, player, reports)

        train(
            state,
            opponent,
            lambda step: draw_batch(
                training_set, diffusion, schedule, params.training, params.seed, name, step
            ),
            plan.num_steps,
            None if isinstance(plan, SftParams) else plan.beta,
            params.training,
            accelerator,
            on_step,
        )
    if accelerator.is_main_process:
        save_checkpoint(out, name, player, prev)
    return reports


def write_curve(path: Path, reports: list[dict[str, float]]) -> None:
    """One row per optimizer update; `dvc plots` and the report read it."""
    with replacing_file(path) as temporary:
        pd.DataFrame(reports).to_csv(temporary, index=False)
