"""Training an iteration or a baseline from files to files: set up, resume, train, save."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from spin import paths
from spin.data.cache import Cache
from spin.models.checkpoint import save_checkpoint
from spin.models.reference import read_reference
from spin.params.experimental import experimental_in
from spin.params.schema import Params
from spin.params.training import NOT_THE_METHOD
from spin.runtime.devices import process_state
from spin.runtime.files import replacing_file, write_json
from spin.runtime.progress import Progress
from spin.runtime.sums import write_sum
from spin.stages.callbacks import AfterUpdate, describe_run, save_snapshot
from spin.stages.preview import make_preview
from spin.stages.resume import restore_state, save_state
from spin.stages.work import (
    CURVE_SUM,
    checkpoint_digest,
    digest_of,
    earlier_iterates,
    shared_work,
    stage_output,
    work_folder,
)
from spin.training.ema import averaged
from spin.training.loop import train
from spin.training.memory import MicroBatch, give_back
from spin.training.parallel import is_sharded, whole_state
from spin.training.precision import make_accelerator
from spin.training.reference_errors import keep_reference_errors
from spin.training.setup import (
    Inputs,
    load_opponent,
    make_recipe,
    make_source,
    make_state,
    open_training_set,
    set_up_networks,
)
from spin.training.steps import Report

logger = logging.getLogger(__name__)


def run_train(params: Params, name: str) -> list[dict[str, float]]:
    """Train an iteration or a baseline; return its curve, which also stands in outputs/curves."""
    for setting in experimental_in(params):
        logger.warning("%s is experimental: no result in benchmarks/results measures it yet", setting)

    # What is read, and where a killed run left its state.
    key = _training_key(params, name)
    work = work_folder(run_train, name, *key)
    inputs = Inputs(
        data=paths.DATA,
        cache=paths.CACHE,
        opponents=paths.OPPONENTS / name,
        prev=paths.CHECKPOINTS / params.stage(name).prev,
        work=work,
        previews=paths.PREVIEWS / name,
    )

    # Train; the checkpoint and its curve appear only when all of it is done.
    if not process_state().is_main_process:  # only the main process writes
        shared_work(run_train, name, *key)
        return run_training(params, name, inputs, Path(tempfile.gettempdir())).curve
    if not work.is_dir():
        shutil.rmtree(inputs.previews, ignore_errors=True)  # of an earlier training
    with stage_output(paths.CHECKPOINTS / name, run_train, name, *key) as (out, _):
        trained = run_training(params, name, inputs, out)
        curve = paths.CURVES / f"{name}.csv"
        write_curve(curve, trained.curve)
        write_sum(out / CURVE_SUM, curve)
    write_json(paths.TRAINING / f"{name}.json", trained.run)
    return trained.curve


def _training_key(params: Params, name: str) -> tuple[Any, ...]:
    """What the result of a training depends on."""
    plan = params.stage(name)
    training = params.training.model_dump(exclude=NOT_THE_METHOD)
    inputs = digest_of(
        paths.DATA / "manifest.parquet", paths.DATA / "pairs.parquet", paths.CACHE / "cache.json"
    )
    if name not in params.iterations:
        return plan.model_dump(), training, params.seed, checkpoint_digest(plan.prev), inputs
    # What an image's pixels were is in the manifest's digests, and what the opponents drew in their shards'.
    opponents = paths.OPPONENTS / name
    inputs += digest_of(opponents / "index.parquet", *sorted(opponents.glob("shard-*/latents.safetensors")))
    iterates = [checkpoint_digest(iterate) for iterate in earlier_iterates(params, name)]
    return plan.model_dump(), training, params.objective.model_dump(), params.seed, iterates, inputs


@dataclass(frozen=True)
class Trained:
    """What a finished training stage tells besides its checkpoint."""

    curve: list[Report]
    """One row per optimizer update."""
    run: dict[str, Any]
    """How it ran on this machine: micro-batch size, processes, pairs per second; no part of the method."""


def run_training(params: Params, name: str, inputs: Inputs, out: Path) -> Trained:
    """Train the stage `name` from `inputs.prev` into the existing empty folder `out`, which the main process writes.

    A state in `inputs.work`, left by a killed run of the same work, is continued; the result is the same to the bit.
    """
    # Set up the data, both networks and what the player minimizes.
    plan = params.stage(name)
    accelerator = make_accelerator(params.training)
    cache = Cache(inputs.cache)
    cache.check_encoders(read_reference(inputs.prev))
    training_set = open_training_set(plan, inputs, cache)
    networks = set_up_networks(params, name, inputs.prev, accelerator.device)
    if inputs.reference is not None:
        networks.opponents = [load_opponent(inputs.reference, accelerator.device, params.training)]
    recipe = make_recipe(params, name, networks, training_set)

    # The reference goes where all that it will be asked is known beforehand.
    source = make_source(params, name, networks.diffusion, training_set)
    if source.draws is not None:
        micro_batch = MicroBatch.of(params.training, len(source.places))
        recipe = keep_reference_errors(inputs.work / "reference", recipe, source, micro_batch, accelerator)
        networks.opponents.clear()
        give_back()

    # Go on where a killed run was.
    state = make_state(networks, plan, params.training, accelerator)
    reports = restore_state(inputs.work, state, accelerator)
    if reports:
        logger.info("%s: resuming from its step checkpoint at update %d", name, state.step)

    # Train, with a curve, step checkpoints and previews on the way.
    preview = make_preview(params, inputs.data, cache, networks.diffusion, inputs.previews)
    with Progress(f"train {name}", plan.num_steps, "updates", done=state.step) as progress:
        after = AfterUpdate(params.training, inputs.work, state, accelerator, reports, progress, preview)
        if inputs.snapshots is not None:
            after.snapshot = partial(
                save_snapshot, name, networks.player, inputs.prev, inputs.snapshots, inputs.snapshot_every
            )
        after.before_first()
        train(state, recipe, accelerator, after)
    writes = accelerator.is_main_process or is_sharded(networks.player)
    if writes and state.step % params.training.checkpoint_every:
        save_state(inputs.work, state, accelerator, reports)  # so that a rerun has no update left to do

    # Save the player, or the average of its weights.
    if writes:
        with averaged(state.ema, state.trainable):
            weights = whole_state(networks.player)
            if accelerator.is_main_process:
                save_checkpoint(out, name, networks.player, inputs.prev, weights)
    return Trained(reports, describe_run(state, params.training, accelerator, after.pairs_per_second()))


def write_curve(path: Path, reports: list[Report]) -> None:
    """One row per optimizer update; `dvc plots` and the report read it."""
    with replacing_file(path) as temporary:
        pd.DataFrame(reports).to_csv(temporary, index=False)
