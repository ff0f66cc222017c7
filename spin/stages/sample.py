"""Drawing images: an iteration's opponents, and each model's images for the evaluation."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from spin import paths
from spin.params.sampling import RUN_ONLY, SamplerParams
from spin.params.schema import Params
from spin.runtime.devices import default_device, process_state
from spin.runtime.files import write_json
from spin.stages.work import (
    check_item,
    checkpoint_digest,
    digest_of,
    earlier_iterates,
    shared_work,
    stage_output,
)

if TYPE_CHECKING:
    from spin.models.latent_diffusion import LatentDiffusion


def run_opponents(params: Params, name: str) -> None:
    """Let the checkpoints before iteration `name` draw images for the training captions."""
    from spin.data.cache import Cache
    from spin.models.checkpoint import weights_digest
    from spin.sampling.opponents import OpponentStage, collect_opponents, write_opponents
    from spin.sampling.safety import SafetyChecker

    # What the images depend on: unfinished work is continued by the same work alone.
    iterates, chosen = earlier_iterates(params, name), params.opponents
    key = (
        chosen.model_dump(exclude=RUN_ONLY),
        params.seed,
        params.resolution,
        params.training.horizontal_flip,
        [checkpoint_digest(iterate) for iterate in iterates],
        digest_of(paths.DATA / "manifest.parquet", paths.CACHE / "cache.json"),
    )

    # Who draws, from what.
    source = chosen.safety_checker
    checker = None if source is None else SafetyChecker(source, default_device())
    stage = OpponentStage(
        name,
        iterates,
        _one_at_a_time(chosen),
        paths.DATA,
        Cache(paths.CACHE),
        chosen,
        params.seed,
        {iterate: weights_digest(paths.CHECKPOINTS / iterate) for iterate in iterates},
        params.training.horizontal_flip,
    )

    # Processes share the shards; the first one puts them into place.
    if not process_state().is_main_process:
        return write_opponents(stage, shared_work(run_opponents, name, *key), checker)
    with stage_output(paths.OPPONENTS / name, run_opponents, name, *key) as (out, work):
        write_opponents(stage, work, checker)
        collect_opponents(stage, work, out)


def _one_at_a_time(sampler: SamplerParams) -> "Callable[[str], LatentDiffusion]":
    """A function that loads a checkpoint by name, letting go of the last one."""
    from spin.models.checkpoint import load_to_draw

    @functools.lru_cache(maxsize=1)
    def load(checkpoint: str) -> "LatentDiffusion":
        return load_to_draw(paths.CHECKPOINTS / checkpoint, default_device(), sampler, with_text=False)

    return load


def run_generate(params: Params, prompt_set: str, name: str) -> None:
    """Draw the images of a model for a prompt set."""
    from spin.models.checkpoint import load_to_draw, weights_digest
    from spin.models.digests import DENOISER
    from spin.sampling.samples import draw_samples, write_samples

    check_item(params, prompt_set, name, params.evaluate.models)
    checkpoint, prompts = paths.CHECKPOINTS / name, paths.prompts_of(prompt_set)
    evaluate = params.evaluate_on(prompt_set)
    protocol = evaluate.model_dump(exclude={"models", "reduction", "references", "prompt_sets", "compile"})
    key = protocol, params.resolution, checkpoint_digest(name), digest_of(prompts)
    diffusion = load_to_draw(checkpoint, default_device(), evaluate)
    item = f"{prompt_set}-{name}"

    # Processes share the batches; the first one puts the images into place.
    if not process_state().is_main_process:
        work = shared_work(run_generate, item, *key)
        draw_samples(work, diffusion, prompts, evaluate, params.resolution, name)
        return
    with stage_output(paths.SAMPLES / prompt_set / name, run_generate, item, *key) as (out, work):
        write_samples(out, work, diffusion, prompts, evaluate, params.resolution, name)
        write_json(out / "model.json", {"model": name, DENOISER: weights_digest(checkpoint)})
