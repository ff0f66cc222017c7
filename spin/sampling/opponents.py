"""The opponent's move: earlier iterates draw images for the training captions.

shard-*/images.parquet           id, row, drawn_by, flagged, png (bytes); with buckets all of a shard are of one
shard-*/latents.safetensors      mean and logvar of the posterior, (n, C, h, w), before scaling; zeros where flagged;
                                 with flips also mean_flipped and logvar_flipped, of the mirrored images
index.parquet                    id, row of the manifest, drawn_by, flagged (why it is not trained on, or empty), in the
                                 order of the shards
preview.png                      the first few images that are not flagged
opponents.json                   who drew them and how, and how many were flagged
"""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from spin.data.cache import Cache, encode, encode_both_ways
from spin.data.manifest import GEOMETRY, geometry_of, read_manifest
from spin.errors import DataError
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.sampling import OpponentParams
from spin.runtime.files import read_json, read_parquet, write_json
from spin.runtime.images import contact_sheet, to_pixel_values
from spin.runtime.progress import Progress
from spin.runtime.shards import collect_shards, shards_of, write_shards
from spin.runtime.tables import Table
from spin.runtime.tensors import ShardedTensors
from spin.sampling.draws import plan_draws
from spin.sampling.safety import SafetyChecker, reasons_to_skip
from spin.sampling.sampler import Guidance, sample_images
from spin.seeding import generator_for

PREVIEW_IMAGES = 32
INDEX_SCHEMA = pa.schema(
    [("id", pa.string()), ("row", pa.int64()), ("drawn_by", pa.string()), ("flagged", pa.string())]
)


@dataclass(frozen=True)
class OpponentStage:
    """What an iteration's opponents are drawn from."""

    iteration: str
    iterates: Sequence[str]
    """All that came before it, from the base to the previous one."""
    load: Callable[[str], LatentDiffusion]
    """An iterate by its name; one at a time is kept."""
    data: Path
    cache: Cache
    params: OpponentParams
    seed: int
    weights: Mapping[str, str]
    """SHA-256 of the weights of each iterate, to be compared when the images are trained on."""
    flips: bool = False
    """Whether each image is encoded mirrored too."""


def write_opponents(stage: OpponentStage, work: Path, checker: SafetyChecker | None = None) -> None:
    """Draw x'_0 ~ p_{theta_k}(. | c) for every caption c of the manifest, as shards in `work`.

    Each image has its own random stream, named by (seed, iteration, id). `reencode` passes the images through the
    VAE, as the real images went; `direct` keeps the sampler's own latents, with a posterior of no width. Processes
    share the shards; all of them are there on return.
    """
    manifest = read_manifest(stage.data)
    drawn, drawers, groups = plan_draws(
        manifest, stage.params.drawn_by, len(stage.iterates), stage.seed, stage.iteration
    )
    captioned = manifest.mapped("id", "caption", *GEOMETRY)

    def write_shard(rows: range, folder: Path, progress: Progress) -> None:
        mine, by = drawn[rows.start : rows.stop], drawers[rows.start : rows.stop]
        frames, parts = [], []

        # One drawer after the other: each is loaded once a shard. A thread makes PNG files while the next batch is drawn.
        with ThreadPoolExecutor(1, "png") as encoder:
            for drawer in np.unique(by):
                name, left = stage.iterates[drawer], mine[by == drawer]
                diffusion = stage.load(name)
                for start in range(0, len(left), stage.params.batch_size):
                    batch = captioned.take(left[start : start + stage.params.batch_size])
                    batch = batch.assign(row=left[start : start + len(batch)].astype(np.int64), drawn_by=name)
                    frame, part, images = _draw(stage, diffusion, batch, checker)
                    frames.append((frame, encoder.map(_png, images)))
                    parts.append(part)
                    progress.update(len(batch))
        pd.concat([frame.assign(png=list(pngs)) for frame, pngs in frames]).to_parquet(
            folder / "images.parquet", index=False
        )
        whole = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
        save_file(whole, folder / "latents.safetensors")

    label = f"opponents {stage.iteration}"
    write_shards(work, shards_of(groups, stage.params.shard_size), write_shard, label, "images")


def _draw(
    stage: OpponentStage,
    diffusion: LatentDiffusion,
    batch: pd.DataFrame,
    checker: SafetyChecker | None,
) -> tuple[pd.DataFrame, dict[str, Tensor], Tensor]:
    """Draw a batch of one iterate: its rows of images.parquet but for the PNG files, its posteriors by name, its images."""
    generators = [
        _stream(stage, identifier, name)
        for identifier, name in zip(batch["id"], batch["drawn_by"], strict=True)
    ]
    text, empty = stage.cache.text(batch["caption"]), stage.cache.text([""])
    guidance = Guidance(text, empty, geometry_of(batch))
    size = int(batch["height"].iloc[0]), int(batch["width"].iloc[0])  # of all in the batch
    images, latents = sample_images(diffusion, guidance, generators, stage.params, size)

    # Zeros stand for what must not be trained on.
    reasons = reasons_to_skip(images, latents, checker)
    kept = torch.tensor([not reason for reason in reasons]).reshape(-1, 1, 1, 1)
    posterior = _posterior(diffusion, images, latents, stage)
    frame = batch[["id", "row", "drawn_by"]].assign(flagged=reasons)
    return frame, {name: torch.where(kept, tensor, 0.0) for name, tensor in posterior.items()}, images


def _stream(stage: OpponentStage, identifier: str, drawer: str) -> torch.Generator:
    """Of one image; with `all_earlier` a caption's images start from unrelated noise."""
    purpose = ("opponent", stage.seed, stage.iteration, identifier)
    return (
        generator_for(*purpose, drawer) if stage.params.drawn_by == "all_earlier" else generator_for(*purpose)
    )


def _posterior(
    diffusion: LatentDiffusion, images: Tensor, latents: Tensor, stage: OpponentStage
) -> dict[str, Tensor]:
    if stage.params.latents == "direct":
        raw = diffusion.unscale(latents)
        return {"mean": raw, "logvar": torch.full_like(raw, -30.0)}  # exp(-15): a deviation of nothing
    pixel_values = to_pixel_values([Image.fromarray(image.numpy()) for image in images])
    return encode_both_ways(diffusion, pixel_values) if stage.flips else encode(diffusion, pixel_values)


def collect_opponents(stage: OpponentStage, work: Path, out: Path) -> None:
    """Make the existing empty folder `out` of the finished shards in `work`.

    Raises `DataError` if every image is flagged.
    """
    collect_shards(work, out)
    shards = sorted(out.glob("shard-*/images.parquet"))
    reasons, drawn = _write_index(shards, out / "index.parquet")

    # Count what must not be trained on.
    flagged = {reason: count for reason, count in reasons.most_common() if reason}
    if sum(flagged.values()) == reasons.total():
        raise DataError(
            f"the opponents of {stage.iteration} must leave something to train on, but all {reasons.total()} are flagged "
            f"({', '.join(flagged)}); look at how {stage.iterates[-1]} draws."
        )

    # Say who drew them and how.
    _write_preview(shards, out / "preview.png")
    write_json(
        out / "opponents.json",
        {
            "iteration": stage.iteration,
            "num_images": reasons.total(),
            "flagged": flagged,
            "weights": dict(stage.weights),
            "drawn": dict(drawn),
            **stage.params.model_dump(),
        },
    )


def _write_index(shards: Sequence[Path], path: Path) -> tuple[Counter[str], Counter[str]]:
    """Join what the shards list; count the images by why they are flagged, and by who drew them."""
    flagged, drawn = Counter[str](), Counter[str]()
    with pq.ParquetWriter(path, INDEX_SCHEMA) as writer:
        for shard in shards:
            frame = read_parquet(shard, columns=INDEX_SCHEMA.names)
            writer.write_table(pa.Table.from_pandas(frame, INDEX_SCHEMA, preserve_index=False))
            flagged.update(frame["flagged"])
            drawn.update(frame["drawn_by"])
    return flagged, drawn


def check_drawer(folder: Path, drawer: str, weights: str) -> None:
    """Raise `DataError` unless `drawer` had these weights when the opponents in `folder` were drawn."""
    recorded = (
        read_json(folder / "opponents.json")["weights"] if (folder / "opponents.json").is_file() else {}
    )
    if recorded.get(drawer) != weights:
        raise DataError(
            f"{folder} must hold opponents drawn by {drawer} as it is now ({weights[:12]}), but they were drawn by "
            f"{str(recorded.get(drawer, 'another model'))[:12]}; draw them again with `spin opponents`."
        )


def open_opponents(folder: Path) -> tuple[Table, ShardedTensors]:
    """The index of a folder of opponents and their posteriors, row by row; raises `DataError` if they are not whole."""
    if not (folder / "index.parquet").is_file():
        raise DataError(f"{folder} must hold opponents, found none; run `spin opponents` first.")
    index, tensors = Table(folder / "index.parquet"), ShardedTensors(folder, "latents")
    if len(tensors) != len(index):
        tensors.check()
        raise DataError(
            f"{folder} must hold the {len(index)} images of its index, found {len(tensors)}; draw the opponents again."
        )
    return index, tensors


def _png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.numpy()).save(stream, format="PNG")
    return stream.getvalue()


def _squared(image: Image.Image) -> Image.Image:
    """An image of another shape on a white square; a square as it is."""
    return ImageOps.pad(image, (max(image.size),) * 2, color="white")


def _write_preview(shards: Sequence[Path], path: Path) -> None:
    """A contact sheet, so that a look tells whether the opponent draws what it should."""
    images: list[Image.Image] = []
    for shard in shards:
        if len(images) >= PREVIEW_IMAGES:
            break
        frame = read_parquet(shard, columns=["flagged", "png"])
        kept = frame[frame["flagged"] == ""].head(PREVIEW_IMAGES - len(images))
        images += [_squared(Image.open(io.BytesIO(png))) for png in kept["png"]]
    contact_sheet(images).save(path)
