"""`spin toy build`: the embedded base and scorers from nothing, with the card that says how they were made."""

import logging
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spin.errors import ParamsError
from spin.runtime.files import replacing_dir, write_json
from spin.runtime.progress import Progress
from spin.runtime.provenance import git_revision
from spin.toy.world import split_scenes

logger = logging.getLogger(__name__)

VAE_STEPS, VAE_POOL = 2000, 32768
BASE_STEPS, BASE_POOL = 3000, 65536
EARLY_STEPS = 1900
QUALITY_PROMPTS = 256


def build_toy(out: Path, seed: int, scale: float) -> None:
    """Train bases and scorers and write base/, early/, scorers/, quality.json and CARD.md to `out`.

    `scale` multiplies the numbers of steps and images; 1.0 made what the package ships, in about an hour and a half
    on two CPU cores. Raises `ParamsError` for a scale that is not positive or an `out` that exists.
    """
    if scale <= 0:
        raise ParamsError(f"--scale must be > 0, got {scale}; 1.0 trains in full.")
    if out.exists():
        raise ParamsError(f"--out must be a new folder, but {out} exists; choose another name.")
    from spin.tools.toy.scorers import build_scorers

    started = time.monotonic()
    with replacing_dir(out) as folder:
        build_bases(folder / "base", folder / "early", seed, scale)
        num_prompts = max(4, round(QUALITY_PROMPTS * min(1.0, scale)))
        base_quality, early_quality = (measure_base(folder / name, num_prompts) for name in ("base", "early"))
        scorer_quality = build_scorers(folder / "scorers", seed, scale)
        quality = {"base": base_quality, "early": early_quality, "scorers": scorer_quality}
        write_json(folder / "quality.json", quality)
        (folder / "CARD.md").write_text(
            card(quality, seed, scale, f"{(time.monotonic() - started) / 60:.0f} minutes"), encoding="utf-8"
        )
    logger.info(
        "Wrote %s; copy base/, early/, scorers/, quality.json and CARD.md to spin/toy/assets to embed them.",
        out,
    )


def build_bases(base: Path, early: Path, seed: int, scale: float) -> None:
    """Train the autoencoder, then text encoder and UNet, and save them as Stable Diffusion pipelines.

    `early` has the same training stopped after `EARLY_STEPS` of the `BASE_STEPS` updates.
    """
    from spin.tools.toy.base import load_world_tokenizer, save_pipeline, train_base
    from spin.tools.toy.pool import draw_pool
    from spin.tools.toy.vae import train_vae

    def scaled(count: int) -> int:
        return max(2, round(count * scale))

    images, _ = draw_pool(min(VAE_POOL, scaled(VAE_POOL)), seed)
    with Progress("autoencoder", scaled(VAE_STEPS), "steps") as progress:
        vae = train_vae(
            images, scaled(VAE_STEPS), seed, lambda _, error: progress.update(1, f"squared error {error:.4f}")
        )
    images, scenes = draw_pool(min(BASE_POOL, scaled(BASE_POOL)), seed + 1)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_world_tokenizer(Path(scratch))
        with Progress("base", scaled(BASE_STEPS), "steps") as progress:
            stops = {early: scaled(EARLY_STEPS), base: scaled(BASE_STEPS)}
            trained = train_base(
                vae,
                tokenizer,
                images,
                scenes,
                list(stops.values()),
                seed + 1,
                lambda _, loss: progress.update(1, f"loss {loss:.4f}"),
            )
        for folder, stop in stops.items():
            save_pipeline(vae, trained[stop]["text_encoder"], tokenizer, trained[stop]["unet"], folder)


def measure_base(folder: Path, num_prompts: int) -> dict[str, dict[str, float]]:
    """What the oracle says of images of unseen captions: the base at guidance 1 and 3, and clean data through the VAE."""
    from spin.models.checkpoint import load_model, reference_of
    from spin.models.conditioning import square_geometry
    from spin.params.model import BaseParams
    from spin.params.sampling import SamplerParams
    from spin.runtime.images import to_pixel_values
    from spin.sampling.sampler import Guidance, sample_images
    from spin.seeding import generator_for
    from spin.toy.oracle import clean_image

    with tempfile.TemporaryDirectory() as scratch:
        reference = reference_of(BaseParams(source=str(folder), revision=None, config=None, unet=None))
        write_json(Path(scratch) / "model.json", reference)
        diffusion = load_model(Path(scratch))
    scenes = split_scenes()["test"][:num_prompts]
    captions = [scene.caption for scene in scenes]
    mean, _ = diffusion.encode_images(to_pixel_values([clean_image(scene) for scene in scenes]))
    quality = {"clean through the VAE": _judged(diffusion.decode_latents(diffusion.scale(mean)), captions)}
    text, empty = diffusion.encode_prompts(captions), diffusion.encode_prompts([""])
    geometry = square_geometry(num_prompts, 32)
    for guidance_scale in (1.0, 3.0):
        sampler = SamplerParams(
            scheduler="ddim",
            num_inference_steps=15,
            guidance_scale=guidance_scale,
            eta=0.0,
            precision="fp32",
            batch_size=num_prompts,
            compile=False,
        )
        generators = [generator_for("card", caption) for caption in captions]
        images, _ = sample_images(diffusion, Guidance(text, empty, geometry), generators, sampler, 32)
        quality[f"guidance {guidance_scale:g}"] = _judged(images, captions)
    return quality


def _judged(images: torch.Tensor, captions: list[str]) -> dict[str, float]:
    from spin.toy.oracle import judge

    verdicts = [
        judge(Image.fromarray(image.numpy()), text) for image, text in zip(images, captions, strict=True)
    ]
    return {
        "psnr": round(float(np.mean([verdict.psnr for verdict in verdicts])), 3),
        "attributes": round(float(np.mean([verdict.attributes for verdict in verdicts])), 4),
    }


def card(quality: dict[str, Any], seed: int, scale: float, took: str) -> str:
    """The model card: what it is, how it was made, how good it is."""
    revision, dirty = git_revision(Path.cwd())
    bases = [
        f"| {base} | {name} | {row['psnr']:.2f} | {row['attributes']:.3f} |"
        for base in ("base", "early")
        for name, row in quality[base].items()
    ]
    scorers = [
        f"| {name} | {row['quality_pair_accuracy']} | {row['fine_pair_accuracy']} | {row['content_pair_accuracy']} |"
        for name, row in quality["scorers"].items()
    ]
    return "\n".join(
        [
            "# The embedded base models and scorers",
            "",
            "Trained from nothing on the rendered world of `spin/toy/world.py`; no data from elsewhere is in them.",
            "Real classes at small size: AutoencoderKL, CLIPTextModel, UNet2DConditionModel; CLIPModel, open_clip,",
            "BLIP with a reward head, CLIP with an aesthetic head. Licence: Apache-2.0, as the code.",
            "",
            f"- command: `spin toy build --out DIR --seed {seed} --scale {scale:g}`",
            f"- code: {revision or 'unknown'}{' with uncommitted changes' if dirty else ''}",
            f"- time: {took}, {torch.get_num_threads()} thread(s), {platform.machine()}",
            f"- torch {torch.__version__}, Python {platform.python_version()}",
            "",
            f"`base.source: embedded` is base/, after {BASE_STEPS} updates; `embedded-early` is early/, the same training after",
            f"{EARLY_STEPS}. On captions of object pairs they never saw together (oracle; 15 DDIM steps):",
            "",
            "| base | images | PSNR, dB | facts right |",
            "|---|---|---|---|",
            *bases,
            "",
            "The scorers on the same captions: how often the better of two images scores higher, when they differ",
            "clearly in quality, finely in quality, or in one fact of the caption:",
            "",
            "| scorer | quality | fine quality | content |",
            "|---|---|---|---|",
            *scorers,
            "",
        ]
    )
