"""Images for evaluation: every model draws the same prompts from the same seeds under the same protocol."""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from torch import Tensor

from spin.data.manifest import read_prompt_table
from spin.models.conditioning import square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.evaluation import EvaluateParams
from spin.params.sampling import RUN_ONLY
from spin.runtime.files import read_parquet, replacing_dir, sha256_file, write_json
from spin.runtime.progress import Progress
from spin.runtime.shards import my_shards, shards_of, share_label, wait_for_all
from spin.runtime.sums import is_whole
from spin.sampling.sampler import Guidance, sample_images
from spin.seeding import generator_for


def protocol_of(params: EvaluateParams, prompts: Path, resolution: int) -> dict[str, Any]:
    """What must be equal for two models to be compared; how it is run is not part of it."""
    chosen = params.model_dump(exclude={"models", "prompt_sets", "references", "reduction"} | RUN_ONLY)
    return {
        "prompt_set": prompts.stem,
        "prompts_sha256": sha256_file(prompts),
        "num_prompts": len(read_parquet(prompts)),
        **chosen,
        "resolution": resolution,
    }


def write_samples(
    out: Path,
    work: Path,
    diffusion: LatentDiffusion,
    prompts: Path,
    params: EvaluateParams,
    resolution: int,
    name: str,
) -> None:
    """Draw `images_per_prompt` images of every prompt of the table `prompts` into the existing empty folder `out`."""
    rows = draw_samples(work, diffusion, prompts, params, resolution, name)
    _collect(out, work, rows)
    write_json(out / "protocol.json", protocol_of(params, prompts, resolution))


def draw_samples(
    work: Path, diffusion: LatentDiffusion, prompts: Path, params: EvaluateParams, resolution: int, name: str
) -> list[dict[str, Any]]:
    """Draw this process's share of the images into `work`; returns the rows of all of them once all processes are done.

    Images are kept as they are made, so a killed run continues. The random stream of an image is named by (seed, prompt id,
    image index): equal for every model, and whoever draws it.
    """
    # A row per image, in the order of the prompts.
    rows: list[dict[str, Any]] = [
        {
            **{str(key): value for key, value in prompt.items()},
            "image_index": index,
            "seed": params.seed,
            "image": f"images/{position:05d}-{index}.png",
        }
        for position, prompt in enumerate(read_prompt_table(prompts).to_dict("records"))
        for index in range(params.images_per_prompt)
    ]

    # Draw what is missing, a batch at a time; a thread writes it while the next one is drawn.
    empty = diffusion.encode_prompts([""])
    shares = my_shards(shards_of([len(rows)], params.batch_size))
    label, total = share_label(f"generate {name}"), sum(len(part) for _, part in shares)
    with Progress(label, total, "images") as progress, ThreadPoolExecutor(1, "png") as writer:
        writing: Future[None] | None = None
        for _, part in shares:
            batch = rows[part.start : part.stop]
            shard = work / f"batch-{part.start:07d}-{params.batch_size}"
            if not is_whole(shard):
                text = diffusion.encode_prompts([str(row["prompt"]) for row in batch])
                generators = [
                    generator_for("evaluate", params.seed, str(row["prompt_id"]), int(row["image_index"]))
                    for row in batch
                ]
                guidance = Guidance(text, empty, square_geometry(len(batch), resolution))
                images, _ = sample_images(diffusion, guidance, generators, params, resolution)
                if writing is not None:
                    writing.result()  # a kill loses at most the batch before this one too
                writing = writer.submit(_write_batch, shard, batch, images)
            progress.update(len(batch))
        if writing is not None:
            writing.result()
    wait_for_all()
    return rows


def _write_batch(shard: Path, batch: Sequence[dict[str, Any]], images: Tensor) -> None:
    """Write the images uint8 (B, H, W, 3) of a batch's rows as PNG files into the folder `shard`, all or nothing."""
    with replacing_dir(shard) as folder:
        for row, image in zip(batch, images, strict=True):
            Image.fromarray(image.numpy()).save(folder / Path(str(row["image"])).name)


def _collect(out: Path, work: Path, rows: list[dict[str, Any]]) -> None:
    """Put the finished images into place and list them."""
    (out / "images").mkdir()
    for path in work.glob("batch-*/*.png"):
        shutil.copyfile(path, out / "images" / path.name)  # copied: a killed run finds them again
    missing = [row["image"] for row in rows if not (out / row["image"]).is_file()]
    assert not missing, f"{len(missing)} images were not drawn, {missing[0]} first"
    frame = pd.DataFrame(rows)  # the prompts' columns, image_index, seed, image
    frame.to_parquet(out / "manifest.parquet", index=False)
