"""Previews: what the player draws for a few held-out captions, so that a run that goes wrong is seen early."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from PIL import Image

from spin.data.cache import Cache
from spin.data.manifest import read_prompts
from spin.models.conditioning import square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.schema import Params
from spin.runtime.files import replacing_file
from spin.runtime.images import contact_sheet
from spin.runtime.sheets import labelled_sheet
from spin.sampling.sampler import Guidance, sample_images
from spin.seeding import generator_for
from spin.tracking.notes import current_run
from spin.training.ema import averaged
from spin.training.loop import TrainState

logger = logging.getLogger(__name__)

PREVIEW_CAPTIONS = 8
START = "start.png"
"""What was drawn before the first update, on one strip, for the sheets of a run that goes on after it was killed."""


def make_preview(
    params: Params, data: Path, cache: Cache, diffusion: LatentDiffusion, folder: Path
) -> Callable[[TrainState, Accelerator], None]:
    """A function that draws `folder`/step-000025.png with the player of `diffusion` as it is, or with its average.

    The first captions of the validation set, each from the same noise every time, by the sampler of `evaluate`, beside
    what was drawn before the first update, if it was. It changes nothing that training reads, and whatever goes wrong
    in it is a warning.
    """
    prompts = read_prompts(data, "val").head(PREVIEW_CAPTIONS)

    def preview(state: TrainState, accelerator: Accelerator) -> None:
        try:
            with averaged(state.ema, state.trainable), torch.random.fork_rng(devices=[]):
                images = _draw(params, prompts, cache, diffusion, accelerator)
            if not accelerator.is_main_process:
                return
            picture = folder / f"step-{state.step:06d}.png"
            with replacing_file(picture) as temporary:
                _sheet(images, prompts["prompt"].tolist(), state.step, folder / START).save(temporary)
            current_run().preview(picture)
        except Exception as error:
            logger.warning("no preview at update %d (%s); training goes on.", state.step, error)

    return preview


def _sheet(images: list[Image.Image], captions: list[str], step: int, start: Path) -> Image.Image:
    """A caption each: its image before the first update, which the first sheet keeps in `start`, and the one of now."""
    if step == 0:
        with replacing_file(start) as temporary:
            contact_sheet(images, columns=len(images)).save(temporary)
    rows = [[(f"update {step}", image)] for image in images]
    if step and start.is_file():
        with Image.open(start) as strip:
            side = strip.height
            before = [strip.crop((left, 0, left + side, side)) for left in range(0, strip.width, side)]
        rows = [[("update 0", first), *row] for first, row in zip(before, rows, strict=True)]
    return labelled_sheet(list(zip(captions, rows, strict=True)), columns=4 // len(rows[0]))


def _draw(
    params: Params,
    prompts: pd.DataFrame,
    cache: Cache,
    diffusion: LatentDiffusion,
    accelerator: Accelerator,
) -> list[Image.Image]:
    """The player's images, one caption at a time: memory is scarce while training."""
    empty, images = cache.text([""]), []
    geometry = square_geometry(1, params.resolution)
    was_training = diffusion.denoiser.training
    diffusion.denoiser.eval()
    diffusion.vae.to(accelerator.device)
    try:
        with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            for identifier, prompt in zip(prompts["prompt_id"], prompts["prompt"], strict=True):
                generators = [generator_for("preview", params.evaluate.seed, identifier)]
                guidance = Guidance(cache.text([prompt]), empty, geometry)
                drawn, _ = sample_images(diffusion, guidance, generators, params.evaluate, params.resolution)
                images.append(Image.fromarray(drawn[0].numpy()))
    finally:
        diffusion.vae.to("cpu")
        diffusion.denoiser.train(was_training)
    return images
