"""A training stage from files to files: set up, resume, train, save."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from spin.after_update import AfterUpdate, describe_run, save_snapshot
from spin.batches import Batch, draw_batch
from spin.chains import ChainBatch, draw_chain_batch, open_chain
from spin.contestants import Contestants, make_contestants
from spin.data.cache import Cache
from spin.data.training import TrainingSet, dpo_training_set, sft_training_set, spin_training_set
from spin.ema import averaged, make_ema
from spin.files import read_json, replacing_file
from spin.memory import MicroBatch
from spin.models import save_checkpoint
from spin.models.checkpoint import MODEL_FILE, load_denoiser, weights_digest
from spin.opponents import check_drawer
from spin.optim import make_lr_scheduler, make_optimizer
from spin.params import DpoParams, IterationParams, ObjectiveParams, Params, SftParams, TrainingParams
from spin.precision import DTYPES, make_accelerator, store_products_in
from spin.preview import make_preview
from spin.progress import Progress
from spin.resume import restore_state
from spin.schedule import NoiseSchedule
from spin.seeding import generator_for
from spin.steps import Goal, Report
from spin.train import Game, TrainState, train

logger = logging.getLogger(__name__)

StagePlan = IterationParams | SftParams | DpoParams


@dataclass(frozen=True)
class Inputs:
    """Folders that a training stage reads and keeps its unfinished work in."""

    data: Path
    cache: Path
    opponents: Path
    prev: Path
    """The checkpoint that the player starts from."""
    work: Path
    previews: Path
    reference: Path | None = None
    """The checkpoint to be measured against, where it is not `prev`."""
    snapshots: Path | None = None
    """Where to keep a checkpoint every so many updates, or null."""
    snapshot_every: int = 0


@dataclass(frozen=True)
class Trained:
    """What a finished training stage tells besides its checkpoint."""

    curve: list[Report]
    """One row per optimizer update."""
    run: dict[str, Any]
    """How it ran on this machine: micro-batch size, processes, pairs per second; no part of the method."""


def open_training_set(plan: StagePlan, inputs: Inputs, cache: Cache) -> TrainingSet:
    """The examples a stage's objective asks for."""
    if isinstance(plan, IterationParams):
        drawer = inputs.reference or inputs.prev
        check_drawer(inputs.opponents, drawer.name, weights_digest(drawer))
        return spin_training_set(inputs.data, cache, inputs.opponents)
    if isinstance(plan, DpoParams):
        return dpo_training_set(inputs.data, cache)
    return sft_training_set(inputs.data, cache)


def make_goal(
    plan: StagePlan, objective: ObjectiveParams, schedule: NoiseSchedule, prediction_type: str
) -> Goal:
    """What a stage minimizes: `objective` for a self-play iteration, the papers' own for the baselines."""
    if isinstance(plan, IterationParams):
        return Goal.of(objective, plan.beta, schedule, prediction_type)
    return Goal(plan.beta if isinstance(plan, DpoParams) else None)


def set_up_contestants(params: Params, name: str, prev: Path, device: torch.device) -> Contestants:
    """Load both sides in the formats they train in; the text and image encoders stay on the CPU."""
    training, plan = params.training, params.stage(name)
    dtype = DTYPES[training.precision]
    reference = params.objective.reference if isinstance(plan, IterationParams) else "previous"
    contestants = make_contestants(prev, device, training.lora, reference, dtype, params.seed)
    contestants.player.to(device)
    if training.lora is None:
        for opponent in contestants.opponents:
            store_products_in(opponent, dtype)
    if training.gradient_checkpointing:
        contestants.player.enable_gradient_checkpointing()  # type: ignore[operator]
    if training.compile:
        for network in (contestants.player, *contestants.opponents):
            network.compile()  # in place, so the names of the weights stay as they are
    return contestants


def make_state(
    contestants: Contestants, plan: StagePlan, params: TrainingParams, accelerator: Accelerator
) -> TrainState:
    """The player, its optimizer and its learning rate schedule, at their start."""
    trainable = contestants.trainable()
    optimizer = make_optimizer(trainable, plan.learning_rate, params, accelerator.device)
    lr_scheduler = make_lr_scheduler(optimizer, plan, params)
    return TrainState(
        contestants.player,
        trainable,
        accelerator.prepare_optimizer(optimizer),
        lr_scheduler,
        MicroBatch.of(params, params.batch_size // accelerator.num_processes),
        None if params.ema_decay is None else make_ema(trainable, params.ema_decay),
    )


def reference_of_update(opponents: list[nn.Module], seed: int, name: str) -> Callable[[int], nn.Module]:
    """Update -> the opponent it is measured against: one of them all, drawn from the stream of the update."""

    def opponent_of(step: int) -> nn.Module:
        if len(opponents) == 1:
            return opponents[0]
        generator = generator_for("reference", seed, name, step)
        return opponents[int(torch.randint(len(opponents), (), generator=generator))]

    return opponent_of


def make_game(params: Params, name: str, contestants: Contestants, training_set: TrainingSet) -> Game:
    """Goal, opponents and batches of a stage."""
    plan, diffusion = params.stage(name), contestants.diffusion
    schedule = diffusion.noise_schedule
    shared_noise = params.objective.shared_noise or not isinstance(plan, IterationParams)
    draw: Callable[[int], Batch | ChainBatch]
    if isinstance(plan, IterationParams) and params.objective.kind == "exact":
        chain = open_chain(diffusion, training_set, params, plan.num_steps)
        draw = partial(
            draw_chain_batch, training_set, diffusion, chain, params.training, shared_noise, params.seed, name
        )
    else:
        draw = partial(
            draw_batch, training_set, diffusion, schedule, params.training, shared_noise, params.seed, name
        )
    return Game(
        diffusion.predict,
        make_goal(plan, params.objective, schedule, diffusion.prediction_type),
        reference_of_update(contestants.opponents, params.seed, name),
        draw,
        plan.num_steps,
        params.training.max_grad_norm,
    )


def run_training(params: Params, name: str, inputs: Inputs, out: Path) -> Trained:
    """Train the stage `name` from `inputs.prev` into the existing empty folder `out`, which the main process writes.

    A state in `inputs.work`, left by a killed run of the same work, is continued; the result is the same to the bit.
    """
    plan = params.stage(name)
    accelerator = make_accelerator(params.training)
    cache = Cache(inputs.cache)
    cache.check_encoders(read_json(inputs.prev / MODEL_FILE))
    training_set = open_training_set(plan, inputs, cache)
    contestants = set_up_contestants(params, name, inputs.prev, accelerator.device)
    if inputs.reference is not None:
        contestants.opponents = [load_opponent(inputs.reference, accelerator.device, params.training)]
    game = make_game(params, name, contestants, training_set)
    state = make_state(contestants, plan, params.training, accelerator)
    reports = restore_state(inputs.work, state, accelerator)
    if reports:
        logger.info("%s: resuming from its step checkpoint at update %d", name, state.step)
    preview = make_preview(params, inputs.data, cache, contestants.diffusion, inputs.previews)
    with Progress(f"train {name}", plan.num_steps, "updates", done=state.step) as progress:
        after = AfterUpdate(params.training, inputs.work, state, accelerator, reports, progress, preview)
        if inputs.snapshots is not None:
            after.snapshot = partial(
                save_snapshot, name, contestants.player, inputs.prev, inputs.snapshots, inputs.snapshot_every
            )
        train(state, game, accelerator, after)
    if accelerator.is_main_process:
        with averaged(state.ema, state.trainable):
            save_checkpoint(out, name, contestants.player, inputs.prev)
    return Trained(reports, describe_run(state, params.training, accelerator, after.pairs_per_second()))


def load_opponent(checkpoint: Path, device: torch.device, training: TrainingParams) -> nn.Module:
    """A frozen denoiser that is not the player's start, in the format that opponents have."""
    opponent = load_denoiser(checkpoint, device).eval().requires_grad_(False)
    store_products_in(opponent, DTYPES[training.precision])
    return opponent


def write_curve(path: Path, reports: list[Report]) -> None:
    """One row per optimizer update; `dvc plots` and the report read it."""
    with replacing_file(path) as temporary:
        pd.DataFrame(reports).to_csv(temporary, index=False)
