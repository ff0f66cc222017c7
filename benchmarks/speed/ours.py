"""This project's contestants: training and drawing as its stages do them."""

import shutil
from pathlib import Path

from benchmarks.speed.subjects import Turns
from benchmarks.speed.workspace import ITERATION
from spin import paths
from spin.data.cache import Cache
from spin.data.manifest import read_manifest
from spin.models.checkpoint import load_to_draw, weights_digest
from spin.params.schema import Params
from spin.runtime.devices import process_state
from spin.sampling.opponents import OpponentStage, write_opponents
from spin.training.loop import Recipe, TrainState, train
from spin.training.memory import MicroBatch, is_out_of_memory
from spin.training.precision import make_accelerator
from spin.training.setup import Inputs, make_recipe, make_state, open_training_set, set_up_networks
from spin.training.steps import Report


class NoMoreError(Exception):
    """No more orders."""


def set_up(params: Params) -> tuple[TrainState, Recipe]:
    """A training of the first iteration at its start, from the files of the workspace."""
    plan, accelerator = params.stage(ITERATION), make_accelerator(params.training)
    inputs = Inputs(
        data=paths.DATA,
        cache=paths.CACHE,
        opponents=paths.OPPONENTS / ITERATION,
        prev=paths.CHECKPOINTS / "base",
        work=paths.WORK,
        previews=paths.PREVIEWS,
    )
    training_set = open_training_set(plan, inputs, Cache(paths.CACHE))
    networks = set_up_networks(params, ITERATION, inputs.prev, accelerator.device)
    return make_state(networks, plan, params.training, accelerator), make_recipe(
        params, ITERATION, networks, training_set
    )


def training(params: Params, turns: Turns, variant: str) -> None:
    """One unbroken training, which pauses between turns; `variant` is `compiled`, or else for eager networks."""
    if variant == "compiled":
        params = params.model_copy(update={"training": params.training.model_copy(update={"compile": True})})
    state, recipe = set_up(params)
    share = params.training.batch_size // process_state().num_processes
    left = amount = 0

    def next_order() -> None:
        nonlocal left, amount
        order = turns.wait()
        if order is None:
            raise NoMoreError
        left = amount = order.amount
        state.micro_batch = MicroBatch(min(order.size, share), False)

    def on_step(report: Report) -> None:
        nonlocal left
        left -= 1
        if not left:
            turns.finish(amount * share)
            next_order()

    try:
        next_order()
        while True:
            try:
                train(state, recipe, make_accelerator(params.training), on_step)
            except Exception as error:
                # A size that does not fit; what it left on the gradients counts for nothing.
                if "must fit into memory" not in str(error) and not is_out_of_memory(error):
                    raise
                state.optimizer.zero_grad(set_to_none=True)
                turns.fail()
                next_order()
    except NoMoreError:
        return


def drawing(params: Params, turns: Turns, variant: str) -> None:
    """The opponents of every caption; `variant` is `direct` (images alone) or `reencode` (with the VAE's posteriors), and
    `compiled` if so.
    """
    latents, _, compiled = variant.partition(" ")
    asked = params.opponents.model_copy(update={"latents": latents, "compile": bool(compiled)})
    base = load_to_draw(paths.CHECKPOINTS / "base", process_state().device, asked, with_text=False)
    work, images = Path("drawn") / variant, len(read_manifest(paths.DATA))
    while (order := turns.wait()) is not None:
        stage = OpponentStage(
            iteration=ITERATION,
            iterates=["base"],
            load=lambda name: base,
            data=paths.DATA,
            cache=Cache(paths.CACHE),
            params=asked.model_copy(update={"batch_size": order.size}),
            seed=params.seed,
            weights={"base": weights_digest(paths.CHECKPOINTS / "base")},
        )
        try:
            for _ in range(order.amount):
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                write_opponents(stage, work)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            turns.fail()
            continue
        turns.finish(order.amount * images)
