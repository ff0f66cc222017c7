"""VAE posteriors and text embeddings of a data set, computed once and read by row.

images.parquet        image, row      every image of the manifest and the pairs
captions.parquet      caption, row    every training and held-out caption; row 0 is the empty caption
latents/shard-*/      posteriors.safetensors: mean and logvar, (n, C, h, w) fp32, before scaling
captions/shard-*/     states.safetensors: encoder_hidden_states, (n, L, D)
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from spin.data.images import open_rgb, to_pixel_values
from spin.data.manifest import read_manifest, read_prompts
from spin.errors import DataError
from spin.models import StableDiffusion
from spin.progress import Progress
from spin.shards import write_shards

SHARD_SIZE = 1024


def write_cache(data: Path, out: Path, work: Path, diffusion: StableDiffusion, batch_size: int) -> None:
    """Encode every image and caption of the data set in `data` into the existing empty folder `out`."""
    manifest = read_manifest(data)
    images = list(manifest["image"])
    captions = ["", *manifest["caption"]]
    if (data / "pairs.parquet").is_file():
        pairs = pd.read_parquet(data / "pairs.parquet")
        images += [*pairs["image_w"], *pairs["image_l"]]
        captions += list(pairs["caption"])
    for split in ("val", "test"):
        captions += list(read_prompts(data, split)["prompt"])
    images, captions = list(dict.fromkeys(images)), list(dict.fromkeys(captions))
    pd.DataFrame({"image": images, "row": range(len(images))}).to_parquet(out / "images.parquet", index=False)
    pd.DataFrame({"caption": captions, "row": range(len(captions))}).to_parquet(
        out / "captions.parquet", index=False
    )

    def encode_images(rows: range) -> dict[str, Tensor]:
        pixel_values = to_pixel_values([open_rgb(data / images[row]) for row in rows])
        mean, logvar = diffusion.encode_images(pixel_values)
        return {"mean": mean, "logvar": logvar}

    def encode_captions(rows: range) -> dict[str, Tensor]:
        return {"states": diffusion.encode_prompts([captions[row] for row in rows])}

    parts: list[tuple[str, str, int, Callable[[range], dict[str, Tensor]]]] = [
        ("latents", "posteriors", len(images), encode_images),
        ("captions", "states", len(captions), encode_captions),
    ]
    for part, file, num_rows, encode in parts:
        with Progress(f"cache {part}", num_rows, "rows") as progress:

            def write_shard(
                rows: range,
                folder: Path,
                encode: Callable[[range], dict[str, Tensor]] = encode,
                file: str = file,
                progress: Progress = progress,
            ) -> None:
                save_tensors(folder / f"{file}.safetensors", rows, batch_size, encode, progress)

            (out / part).mkdir()
            write_shards(work / part, out / part, num_rows, SHARD_SIZE, write_shard, progress)


def save_tensors(
    path: Path,
    rows: range,
    batch_size: int,
    compute: Callable[[range], dict[str, Tensor]],
    progress: Progress,
) -> None:
    """Compute `rows` in batches and save the concatenated tensors as one safetensors file."""
    batches: list[dict[str, Tensor]] = []
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        batches.append({name: tensor.cpu() for name, tensor in compute(batch).items()})
        progress.update(len(batch))
    save_file({name: torch.cat([batch[name] for batch in batches]).contiguous() for name in batches[0]}, path)


class ShardedTensors:
    """Rows of the safetensors files of a folder of shards, read on demand; memory does not grow with the data set."""

    def __init__(self, folder: Path, file: str) -> None:
        """Open `folder`/shard-*/`file`.safetensors; raises `DataError` if there is none or one is torn."""
        paths = sorted(folder.glob(f"shard-*/{file}.safetensors"))
        if not paths:
            raise DataError(
                f"{folder} must hold shards of {file}, found none; run the stage that makes them again."
            )
        try:
            self._shards: list[Any] = [safe_open(path, framework="pt") for path in paths]
        except Exception as error:
            raise DataError(
                f"{folder} holds a torn shard ({error}); run the stage that makes it again."
            ) from None
        names = list(self._shards[0].keys())
        self._sizes = [shard.get_slice(names[0]).get_shape()[0] for shard in self._shards]

    def __len__(self) -> int:
        return sum(self._sizes)

    def rows(self, name: str, rows: Iterable[int]) -> Tensor:
        """Gather rows of the tensor `name`, in the order given: (len(rows), ...)."""
        return torch.stack([self._row(name, int(row)) for row in rows])

    def _row(self, name: str, row: int) -> Tensor:
        for shard, size in zip(self._shards, self._sizes, strict=True):
            if row < size:
                tensor: Tensor = shard.get_slice(name)[row]
                return tensor
            row -= size
        raise IndexError(row)


class Cache:
    """The cache folder of a data set, by image reference and by caption."""

    def __init__(self, folder: Path) -> None:
        """Open a cache; raises `DataError` if the cache stage has not run."""
        if not (folder / "captions.parquet").is_file():
            raise DataError(f"{folder} must be a cache of latents, found none; run `spin cache` first.")
        images = pd.read_parquet(folder / "images.parquet")
        captions = pd.read_parquet(folder / "captions.parquet")
        self._image_rows = dict(zip(images["image"], images["row"], strict=True))
        self._caption_rows = dict(zip(captions["caption"], captions["row"], strict=True))
        self._latents = ShardedTensors(folder / "latents", "posteriors")
        self._states = ShardedTensors(folder / "captions", "states")

    def posteriors(self, images: Iterable[str]) -> tuple[Tensor, Tensor]:
        """(mean, logvar) of the images, each (B, C, h, w), before scaling."""
        rows = [self._lookup(self._image_rows, image) for image in images]
        return self._latents.rows("mean", rows), self._latents.rows("logvar", rows)

    def states(self, captions: Iterable[str]) -> Tensor:
        """encoder_hidden_states of the captions, (B, L, D)."""
        return self._states.rows(
            "states", [self._lookup(self._caption_rows, caption) for caption in captions]
        )

    @staticmethod
    def _lookup(rows: dict[str, int], key: str) -> int:
        if key not in rows:
            raise DataError(
                f"the cache must hold {key!r}, but it was made of another data set; run `spin cache`."
            )
        return rows[key]
