"""The opponent's move: the previous iterate draws one image for every training caption.

shard-*/images.parquet           id, png (bytes)
shard-*/latents.safetensors      mean and logvar of the posterior, (n, C, h, w), before scaling
preview.png                      the first few images
opponents.json                   who drew them and how
"""

import io
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from spin.data.cache import Cache, ShardedTensors
from spin.data.images import to_pixel_values
from spin.data.manifest import read_manifest
from spin.files import write_json
from spin.models import StableDiffusion
from spin.params import OpponentParams
from spin.progress import Progress
from spin.sampling import sample_images
from spin.seeding import generator_for
from spin.shards import write_shards

PREVIEW_IMAGES = 32


def write_opponents(
    out: Path,
    work: Path,
    diffusion: StableDiffusion,
    data: Path,
    cache: Cache,
    params: OpponentParams,
    resolution: int,
    seed: int,
    iteration: str,
) -> None:
    """Draw x'_0 ~ p_{theta_k}(. | c) for every caption c of the manifest into the existing empty folder `out`.

    Each image has its own random stream, named by (seed, iteration, id). `reencode` passes the images through the
    VAE, as the real images went; `direct` keeps the sampler's own latents, with a posterior of no width.
    """
    manifest = read_manifest(data)
    empty_states = cache.states([""])
    with Progress(f"opponents {iteration}", len(manifest), "images") as progress:

        def write_shard(rows: range, folder: Path) -> None:
            images, means, logvars = [], [], []
            for start in range(rows.start, rows.stop, params.batch_size):
                batch = manifest.iloc[start : min(start + params.batch_size, rows.stop)]
                states = cache.states(batch["caption"])
                generators = [
                    generator_for("opponent", seed, iteration, identifier) for identifier in batch["id"]
                ]
                drawn, latents = sample_images(
                    diffusion, states, empty_states, generators, params, resolution
                )
                mean, logvar = _posterior(diffusion, drawn, latents, params)
                images += list(drawn)
                means.append(mean)
                logvars.append(logvar)
                progress.update(len(batch))
            ids = manifest["id"].iloc[rows.start : rows.stop]
            frame = pd.DataFrame({"id": ids, "png": [_png(image) for image in images]})
            frame.to_parquet(folder / "images.parquet", index=False)
            tensors = {"mean": torch.cat(means).contiguous(), "logvar": torch.cat(logvars).contiguous()}
            save_file(tensors, folder / "latents.safetensors")

        write_shards(work, out, len(manifest), params.shard_size, write_shard, progress)
    _write_preview(out)
    write_json(
        out / "opponents.json", {"iteration": iteration, "num_images": len(manifest), **params.model_dump()}
    )


def _posterior(
    diffusion: StableDiffusion, images: Tensor, latents: Tensor, params: OpponentParams
) -> tuple[Tensor, Tensor]:
    if params.latents == "direct":
        raw = diffusion.unscale(latents)
        return raw, torch.full_like(raw, -30.0)  # exp(-15): a deviation of nothing
    mean, logvar = diffusion.encode_images(
        to_pixel_values([Image.fromarray(image.numpy()) for image in images])
    )
    return mean.cpu(), logvar.cpu()


def open_opponents(folder: Path) -> ShardedTensors:
    """Open the opponents' posteriors; row i belongs to row i of the manifest."""
    return ShardedTensors(folder, "latents")


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.numpy()).save(stream, format="PNG")
    return stream.getvalue()


def _write_preview(out: Path) -> None:
    """A contact sheet, so that a look tells whether the opponent draws what it should."""
    first = pd.read_parquet(out / "shard-00000" / "images.parquet").head(PREVIEW_IMAGES)
    images = [Image.open(io.BytesIO(png)) for png in first["png"]]
    side, columns = images[0].width, 8
    tile = max(side, 96)
    sheet = Image.new("RGB", (columns * tile, -(-len(images) // columns) * tile), "white")
    for index, image in enumerate(images):
        place = (index % columns * tile, index // columns * tile)
        sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), place)
    sheet.save(out / "preview.png")
