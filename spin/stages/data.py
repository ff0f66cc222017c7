"""What is made before the first iteration: the data set, the base's reference, cached latents, prompt sets."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spin import paths
from spin.errors import ParamsError
from spin.params.schema import Params
from spin.runtime.devices import default_device
from spin.runtime.files import replacing_dir, write_json, write_parquet
from spin.runtime.meter import keeping
from spin.runtime.shards import link_tree
from spin.runtime.sums import is_whole
from spin.stages.work import check_name, stage_output


def run_data(params: Params) -> None:
    """Bring the data source to a manifest with prompt sets; a killed run goes on with the images that are ready."""
    from spin.data.prepare import source_digest, write_data

    if params.data.kind in ("toy", "none"):  # made in seconds: nothing to keep
        with replacing_dir(paths.DATA) as out:
            write_data(out, params)
        return
    key = params.model_dump(include={"seed", "resolution", "data"}), source_digest(params)
    with stage_output(paths.DATA, run_data, "", *key) as (out, work):
        finished, ready = work / "set", work / "ready"
        if not is_whole(finished):
            with replacing_dir(finished) as folder:
                write_data(folder, params, ready)
            shutil.rmtree(ready, ignore_errors=True)
        link_tree(finished, out)


def run_base(params: Params) -> None:
    """Find the base model and record which weights it has."""
    from spin.models.checkpoint import reference_of
    from spin.sampling.sampler import check_samplers

    reference = reference_of(params.base)
    _check_sizes(params, reference)
    check_samplers(params, str(reference["prediction_type"]))
    with replacing_dir(paths.CHECKPOINTS / "base") as out:
        write_json(out / "model.json", reference)


def _check_sizes(params: Params, reference: Mapping[str, Any]) -> None:
    """Raise `ParamsError` for images of a size that the base cannot draw; the UNets take any."""
    from spin.data.images import sizes_of
    from spin.models.bases import find_base

    if reference["family"] != "stable-diffusion-3":
        return
    buckets = getattr(params.data, "aspect_buckets", None)
    sides = {"resolution": params.resolution} | (
        {"data.aspect_buckets.step": buckets.step} if buckets else {}
    )
    for key, side in sides.items():
        if side % 16:
            raise ParamsError(
                f"{key} must be a multiple of 16 with SD3, got {side}; its transformer pairs up latents."
            )
    most = 16 * int(find_base(reference).denoiser_config()["pos_embed_max_size"])
    longest = max(max(size) for size in sizes_of(params.resolution, buckets))
    if longest > most:
        key = "data.aspect_buckets.max_ratio" if longest > params.resolution else "resolution"
        raise ParamsError(
            f"{key} must give sides of at most {most} pixels with this base, got {longest}; its transformer knows no "
            "places beyond: lower it."
        )


def run_released(params: Params, name: str) -> None:
    """Find a published checkpoint that is only evaluated and record which weights it has."""
    from spin.models.checkpoint import released_reference

    check_name(name, params.released)
    reference = released_reference(name, params.released[name], paths.CHECKPOINTS / "base")
    with replacing_dir(paths.CHECKPOINTS / name) as out:
        write_json(out / "model.json", reference)


def run_cache(params: Params) -> None:
    """Encode the data set's images and captions with the base."""
    from spin.data.cache import write_cache
    from spin.models.checkpoint import load_model
    from spin.models.reference import read_reference

    base = paths.CHECKPOINTS / "base"
    reference = read_reference(base)
    _check_sizes(params, reference)
    diffusion = load_model(base)
    for network in diffusion.encoders():
        network.to(default_device())
    flips, tags = params.training.horizontal_flip, params.training.tags
    store = paths.WORK / "cache"
    with keeping(store):
        write_cache(
            paths.DATA, paths.CACHE, store, diffusion, reference, params.cache.batch_size, flips, tags
        )


def run_prompt_set(params: Params, name: str) -> None:
    """Bring a prompt set to a table of prompts."""
    from spin.data.manifest import read_prompts
    from spin.prompts.named import REPOSITORIES
    from spin.prompts.sets import load_prompt_set

    check_name(name, params.prompt_sets)
    chosen = params.prompt_sets[name]
    own = chosen.prompts in ("val", "test")
    copy: str | Path | None = chosen.source
    if copy is None and chosen.prompts in REPOSITORIES and paths.fetched_prompts(chosen.prompts).is_file():
        copy = paths.fetched_prompts(chosen.prompts)
    table = read_prompts(paths.DATA, chosen.prompts) if own else load_prompt_set(chosen.prompts, copy)
    place = paths.prompts_of(name)
    write_parquet(place, table, sealed_for=place)
