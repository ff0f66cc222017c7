"""VAE posteriors and text embeddings of a data set, computed once and read by row.

images.parquet        key, row, image, sha256    every training image of the manifest and the pairs, by key
captions.parquet      key, row, caption          every training and held-out caption, the empty one and arrangements, by key
latents/shard-*/      posteriors.safetensors: mean and logvar, (n, C, h, w) fp32, before scaling; with flips also
                      mean_flipped and logvar_flipped, of the mirrored images; with buckets n rows of one bucket, so that
                      a shard is one tensor and a batch of the encoder has one shape
captions/shard-*/     text.safetensors: what the text says to the denoiser, such as encoder_hidden_states (n, L, D)
cache.json            the digest of every shard in order, and of the encoders

A key is 64 bits of the name's SHA-256. A shard's digest covers what it encodes (the bytes of the images, or the
captions), the preprocessing, the encoder's weights and the number format. Shards are made in a store beside the work
of unfinished stages, each in a folder named by its digest, and found there again if they are undamaged: new images cost
only the shards that they are in, and the same files are in the cache under a second name.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spin.data.index import Index
from spin.data.names import image_digests, names_in, write_index
from spin.data.stored import open_stored
from spin.errors import DataError
from spin.models.conditioning import Conditioning
from spin.models.digests import CONFIGS
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.training import TagParams
from spin.runtime.code import code_digest
from spin.runtime.devices import process_state
from spin.runtime.files import read_json, replacing_dir, write_json
from spin.runtime.images import to_pixel_values
from spin.runtime.progress import Progress
from spin.runtime.shards import link_tree, my_shards, progress_over, shards_of, wait_for_all, work_key
from spin.runtime.tables import Table
from spin.runtime.tensors import FLIPPED, ShardedTensors, holds, posteriors_at, save_shard

SHARD_SIZE = 1024
PREPROCESSING = {"latents": "rgb in [-1, 1], fp32", "captions": "as they are, fp32"}
"""What happens to an image or a caption before its encoder; part of every digest."""
_ENCODING_CODE = ("spin.models.checkpoint:load_model", "spin.models.latent_diffusion", "spin.runtime.images")
"""After a change in the meaning of this nothing that was stored before is used."""
DIGEST = "S16"
"""How a SHA-256 is compared over a whole data set: 16 of its digits, which no accident makes equal."""
_FILES = {"latents": "posteriors", "captions": "text"}


def encoder_digests(reference: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the encoders' weights and of the base's configs and tokenizers, {part: SHA-256}, from the model.json of a base
    or of what was trained from it."""
    base = reference.get("base", reference)
    weights: dict[str, str] = base["weights"]
    found = {part: digest for part, digest in weights.items() if part not in ("unet", "transformer")}
    return found | ({"configuration": base[CONFIGS]} if CONFIGS in base else {})


def write_cache(
    data: Path,
    out: Path,
    store: Path,
    diffusion: LatentDiffusion,
    reference: Mapping[str, Any],
    batch_size: int,
    flips: bool = False,
    tags: TagParams | None = None,
) -> None:
    """Encode every training image and caption of the data set in `data` and make the folder `out` of them.

    `store` keeps the shards by digest from run to run; those of the last data set that this one does not share are
    removed. `reference` is the model.json of the base that `diffusion` is; with `flips` every image is encoded mirrored too, with
    `tags` arrangements of every training caption too. Processes share the work; the first one
    writes `out`, all or nothing.
    """
    # What there is to encode, and that it is what the manifest lists.
    images, captions = names_in(data, tags)
    encoders = encoder_digests(reference)
    contents = image_digests(data, images)

    def encode_images(rows: range) -> dict[str, Tensor]:
        pixel_values = to_pixel_values([open_stored(data, image) for image in images.at(rows)])
        return encode_both_ways(diffusion, pixel_values) if flips else encode(diffusion, pixel_values)

    def encode_captions(rows: range) -> dict[str, Tensor]:
        return diffusion.encode_prompts(captions.at(rows))

    def contents_of(rows: range) -> list[str]:
        return [digest.decode() for digest in contents[rows.start : rows.stop].tolist()]

    # A single file holds both.
    vae = {part: digest for part, digest in encoders.items() if part in ("vae", "file")}
    text = {part: digest for part, digest in encoders.items() if part != "vae"}
    images_of = {**vae, "flips": flips}
    keys = {
        "latents": _write_part(
            store, "latents", images.groups, contents_of, images_of, encode_images, batch_size
        ),
        "captions": _write_part(
            store, "captions", captions.groups, captions.at, text, encode_captions, batch_size
        ),
    }

    # Once all processes are done, the first puts the shards into place.
    wait_for_all()
    if not process_state().is_main_process:
        return
    with replacing_dir(out) as folder:
        write_index(folder / "images.parquet", "image", images, contents)
        write_index(folder / "captions.parquet", "caption", captions)
        for part, part_keys in keys.items():
            _collect(store / part, folder / part, part_keys)
        write_json(folder / "cache.json", {"encoders": encoders, **keys})


def encode(diffusion: LatentDiffusion, pixel_values: Tensor) -> dict[str, Tensor]:
    """Posteriors of images (B, 3, H, W) in [-1, 1]: mean and logvar, each (B, C, h, w) on the CPU, before scaling."""
    mean, logvar = diffusion.encode_images(pixel_values)
    return {"mean": mean.cpu(), "logvar": logvar.cpu()}


def encode_both_ways(diffusion: LatentDiffusion, pixel_values: Tensor) -> dict[str, Tensor]:
    """`encode` of the images and of their mirror images: an autoencoder's latents cannot be mirrored themselves."""
    mirrored = encode(diffusion, pixel_values.flip(-1))
    named = {f"{name}{FLIPPED}": tensor for name, tensor in mirrored.items()}
    return encode(diffusion, pixel_values) | named


def _write_part(
    store: Path,
    part: str,
    groups: Sequence[int],
    contents: Callable[[range], list[str]],
    encoder: Mapping[str, object],
    encode: Callable[[range], dict[str, Tensor]],
    batch_size: int,
) -> list[str]:
    """Make the shards of this process that the store lacks or holds torn; return the digests of all shards."""

    def key_of(rows: range) -> str:
        return work_key(
            part,
            PREPROCESSING[part],
            code_digest(*_ENCODING_CODE),
            encoder,
            contents(rows),
        )

    # A shard is known by the digest of its content: what the store has is not made again.
    every = shards_of(groups, SHARD_SIZE)
    keys = [key_of(rows) for rows in every]
    places = [store / part / key for key in keys]
    shards = my_shards(every)
    file = f"{_FILES[part]}.safetensors"
    missing = [(index, rows) for index, rows in shards if not holds(places[index] / file, keys[index])]
    with progress_over(f"cache {part}", "rows", shards, missing) as progress:
        for index, rows in missing:
            with replacing_dir(places[index]) as folder:
                save_shard(folder / file, compute_rows(rows, batch_size, encode, progress), keys[index])
    return keys


def compute_rows(
    rows: range, batch_size: int, compute: Callable[[range], dict[str, Tensor]], progress: Progress
) -> dict[str, Tensor]:
    """Compute `rows` in batches and return the concatenated tensors, on the CPU."""
    batches: list[dict[str, Tensor]] = []
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        batches.append({name: tensor.cpu() for name, tensor in compute(batch).items()})
        progress.update(len(batch))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _collect(store: Path, out: Path, keys: Sequence[str]) -> None:
    """Put the shards `keys` of the store into `out` in order, and remove the others from the store."""
    for index, key in enumerate(keys):
        link_tree(store / key, out / f"shard-{index:05d}")
    wanted = set(keys)
    for place in store.glob("*"):
        if place.name not in wanted:
            shutil.rmtree(place) if place.is_dir() else place.unlink()


class Cache:
    """The cache folder of a data set, by image reference and by caption."""

    def __init__(self, folder: Path) -> None:
        """Open a cache; raises `DataError` if the cache stage has not run, or if a shard is torn or stale.

        Raises `DamagedError`, here or where rows are read, for a file that holds other bytes than were written.
        """
        if not (folder / "cache.json").is_file():
            raise DataError(f"{folder} must be a cache of latents, found none; run `spin cache` first.")
        self._folder = folder
        self._made_of = read_json(folder / "cache.json")
        self._images, self._captions = Index(folder / "images.parquet"), Index(folder / "captions.parquet")
        self._latents = ShardedTensors(folder / "latents", "posteriors", self._made_of["latents"])
        self._text = ShardedTensors(folder / "captions", "text", self._made_of["captions"])

    def check_encoders(self, reference: Mapping[str, Any]) -> None:
        """Raise `DataError` if the encoders of the model with this model.json are not those that made the cache."""
        for part, digest in encoder_digests(reference).items():
            if self._made_of["encoders"].get(part) != digest:
                raise DataError(
                    f"{self._folder} must be made by the {part} of the base in use, but another one made it; "
                    "run `spin cache` again."
                )

    def check_images(self, manifest: Table) -> None:
        """Raise `DataError` if an image of the manifest is not in the cache as the manifest lists it."""
        cached = self._images.column("sha256", DIGEST)
        for frame in manifest.batches("image", "sha256"):
            images = list(frame["image"])
            same = cached[self._images.places(images)] == frame["sha256"].to_numpy(DIGEST)
            if not same.all():
                raise DataError(
                    f"{self._folder} must hold the images of the manifest, but {images[int(np.argmin(same))]} was another "
                    "image when it was made; run `spin cache` again."
                )

    def posteriors(
        self, images: Iterable[str], flipped: Sequence[bool] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(mean, logvar) of the images, mirrored where `flipped` says so, each (B, C, h, w), before scaling."""
        return posteriors_at(self._latents, self._images.rows(list(images)), flipped)

    def text(self, captions: Iterable[str]) -> Conditioning:
        """What the captions say to the denoiser: every tensor of the family, one row a caption."""
        rows = self._captions.rows(list(captions))
        return {name: self._text.rows(name, rows) for name in self._text.names}
