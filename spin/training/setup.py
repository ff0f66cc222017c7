"""What a training stage starts from: examples, both networks, the objective, the batches, the optimizer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from spin.data.cache import Cache
from spin.method.schedule import NoiseSchedule
from spin.models.checkpoint import load_denoiser, weights_digest
from spin.models.compiled import compile_blocks
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.objective import ObjectiveParams
from spin.params.schema import Params
from spin.params.training import DpoParams, IterationParams, SftParams, TrainingParams
from spin.runtime.devices import DTYPES, share_of
from spin.sampling.opponents import check_drawer
from spin.seeding import generator_for
from spin.training.batches import BatchSource, draw_batch
from spin.training.chains import draw_chain_batch, open_chain
from spin.training.ema import make_ema
from spin.training.examples import TrainingSet, dpo_training_set, sft_training_set, spin_training_set
from spin.training.loop import Recipe, TrainState
from spin.training.memory import MicroBatch
from spin.training.networks import Networks, load_networks
from spin.training.optim import make_lr_scheduler, make_optimizer
from spin.training.parallel import shard, shard_size
from spin.training.parts import Part, draw_parts
from spin.training.precision import store_products_in
from spin.training.steps import Objective

StagePlan = IterationParams | SftParams | DpoParams

SFT_MEASURED_EVERY = 8
"""Updates between two at which supervised fine-tuning runs its reference; each costs a quarter of an update."""


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


def open_training_set(plan: StagePlan, inputs: Inputs, cache: Cache) -> TrainingSet:
    """The examples a stage's objective asks for."""
    if isinstance(plan, IterationParams):
        drawer = inputs.reference or inputs.prev
        check_drawer(inputs.opponents, drawer.name, weights_digest(drawer))
        return spin_training_set(inputs.data, cache, inputs.opponents)
    if isinstance(plan, DpoParams):
        return dpo_training_set(inputs.data, cache)
    return sft_training_set(inputs.data, cache)


def make_objective(
    plan: StagePlan, objective: ObjectiveParams, schedule: NoiseSchedule, prediction_type: str
) -> Objective:
    """What a stage minimizes: `objective` for a self-play iteration, the papers' own for the baselines."""
    if isinstance(plan, IterationParams):
        return Objective.of(objective, plan.beta, schedule, prediction_type)
    if isinstance(plan, DpoParams):
        return Objective(plan.beta)
    gamma = plan.min_snr_gamma
    return Objective(
        None, weights=None if gamma is None else schedule.min_snr_weights(prediction_type, gamma)
    )


def set_up_networks(params: Params, name: str, prev: Path, device: torch.device) -> Networks:
    """Load both sides in the formats they train in, sharded if asked; the autoencoder stays on the CPU."""
    training, plan = params.training, params.stage(name)
    dtype, shards = DTYPES[training.precision], shard_size(training)
    reference = params.objective.reference if isinstance(plan, IterationParams) else "previous"
    loaded_on = device if shards == 1 else torch.device("cpu")  # a whole one may not fit
    networks = load_networks(prev, loaded_on, training.lora, reference, dtype, params.seed)
    networks.player.to(loaded_on)
    if training.lora is None:
        for opponent in networks.opponents:
            store_products_in(opponent, dtype)
    if training.gradient_checkpointing:
        networks.player.enable_gradient_checkpointing()  # type: ignore[operator]
    if shards > 1:
        shard([networks.player, *networks.opponents], shards)
    if training.compile:
        for network in (networks.player, *networks.opponents):
            compile_blocks(network)
    return networks


def make_state(
    networks: Networks, plan: StagePlan, params: TrainingParams, accelerator: Accelerator
) -> TrainState:
    """The player, its optimizer and its learning rate schedule, at their start."""
    trainable = networks.trainable()
    optimizer = make_optimizer(trainable, plan.learning_rate, params, accelerator.device)
    lr_scheduler = make_lr_scheduler(optimizer, plan, params)
    return TrainState(
        networks.player,
        trainable,
        accelerator.prepare_optimizer(optimizer),
        lr_scheduler,
        MicroBatch.of(params, params.batch_size // accelerator.num_processes),
        None if params.ema_decay is None else make_ema(trainable, params.ema_decay),
    )


def reference_of_update(
    opponents: list[nn.Module], plan: StagePlan, seed: int, name: str
) -> Callable[[int], nn.Module | None]:
    """Update -> the opponent it is measured against: one of them all, drawn from the stream of the update.

    Supervised fine-tuning needs none for its loss: it is measured at every `SFT_MEASURED_EVERY`th update, for the curve.
    """

    def opponent_of(step: int) -> nn.Module | None:
        if isinstance(plan, SftParams) and step % SFT_MEASURED_EVERY:
            return None
        if len(opponents) == 1:
            return opponents[0]
        generator = generator_for("reference", seed, name, step)
        return opponents[int(torch.randint(len(opponents), (), generator=generator))]

    return opponent_of


def make_source(
    params: Params, name: str, diffusion: LatentDiffusion, training_set: TrainingSet
) -> BatchSource:
    """What this process draws its places of a stage's batches from."""
    plan, training = params.stage(name), params.training
    return BatchSource(
        training_set,
        diffusion,
        diffusion.noise_schedule,
        training,
        params.objective.shared_noise or not isinstance(plan, IterationParams),
        params.seed,
        name,
        share_of(training.batch_size),
        None if isinstance(plan, SftParams) else training.reference_draws,
    )


def make_recipe(params: Params, name: str, networks: Networks, training_set: TrainingSet) -> Recipe:
    """Objective, opponents and batches of a stage."""
    plan, diffusion = params.stage(name), networks.diffusion
    source = make_source(params, name, diffusion, training_set)
    draw: Callable[[BatchSource, int], Part] = draw_batch
    if isinstance(plan, IterationParams) and params.objective.kind == "exact":
        draw = partial(draw_chain_batch, open_chain(diffusion, training_set, params, plan.num_steps))
    return Recipe(
        diffusion.predict,
        make_objective(plan, params.objective, source.schedule, diffusion.prediction_type),
        reference_of_update(networks.opponents, plan, params.seed, name),
        partial(draw, source) if training_set.shapes is None else partial(draw_parts, draw, source),
        plan.num_steps,
        params.training.max_grad_norm,
    )


def load_opponent(checkpoint: Path, device: torch.device, training: TrainingParams) -> nn.Module:
    """A frozen denoiser that is not the player's start, in the format that opponents have."""
    opponent = load_denoiser(checkpoint, device).eval().requires_grad_(False)
    store_products_in(opponent, DTYPES[training.precision])
    return opponent
