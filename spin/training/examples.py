"""What a training stage reads: real images, and for a preference loss the images to move away from."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.util import hash_array
from torch import Tensor

from spin.data.cache import Cache
from spin.data.manifest import GEOMETRY, geometry_of, read_manifest, read_pairs, repeats_of, shapes_of
from spin.errors import DataError
from spin.models.conditioning import Conditioning
from spin.runtime.tables import Table, mapped_array
from spin.runtime.tensors import posteriors_at
from spin.sampling.opponents import open_opponents

logger = logging.getLogger(__name__)

Posterior = tuple[Tensor, Tensor]
"""(mean, logvar) of the VAE, each (B, C, h, w), before scaling."""


class Flips(NamedTuple):
    """Which images of a batch are mirrored, each member of a pair by its own draw."""

    real: list[bool]
    gen: list[bool]


class Rows(NamedTuple):
    """Training examples by row."""

    real: Posterior
    gen: Posterior | None
    """The opponent's images for SPIN, the losers for Diffusion-DPO, None for supervised fine-tuning."""
    captions: list[str]
    geometry: Tensor
    """(B, 6) of the real images: original size, crop corner, target size; rows before columns, in pixels."""


@dataclass(frozen=True)
class TrainingSet:
    """Random access to examples; nothing is read before it is asked for."""

    num_rows: int
    fetch: Callable[[Sequence[int], Flips | None], Rows]
    """Rows, and which of their images are mirrored (None: none) -> the examples."""
    text: Callable[[Sequence[str]], Conditioning]
    """Captions -> what they say to the denoiser, one row each."""
    shapes: npt.NDArray[np.int16] | None = None
    """(num_rows,): which of several shapes a row's images have, ordered by area; None where all are alike. What is fetched
    together must have one."""


def spin_training_set(data: Path, cache: Cache, opponents: Path) -> TrainingSet:
    """Real images against the earlier iterates' images of the same captions, one row per image that was not flagged, or as
    many as the manifest repeats it.

    Raises `DataError` if the opponents are not those of the data set's captions.
    """
    manifest = read_manifest(data)
    cache.check_images(manifest)
    index, generated = open_opponents(opponents)
    if not _are_of(index, manifest):
        captions = len({name for frame in index.batches("id") for name in frame["id"]})
        raise DataError(
            f"{opponents} must hold an image for each of the {len(manifest)} captions, found {len(index)} for "
            f"{captions} captions, not all of them the same; draw the opponents again."
        )
    images, captioned = _kept(index)
    examples = manifest.mapped("image", "caption", *GEOMETRY)

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real, flip_gen = flips or (None, None)
        wanted = list(rows)
        chosen = examples.take(captioned[wanted])
        real = cache.posteriors(chosen["image"], flip_real)
        gen = posteriors_at(generated, images[wanted].tolist(), flip_gen)
        if gen[0].shape != real[0].shape:
            raise DataError(
                f"{opponents} must hold images of the data set's sizes, but for latents of {list(real[0].shape[1:])} it has "
                f"{list(gen[0].shape[1:])}; draw the opponents again."
            )
        return Rows(real, gen, list(chosen["caption"]), geometry_of(chosen))

    repeats, shapes = repeats_of(manifest), shapes_of(manifest)
    return _repeated(
        TrainingSet(len(images), fetch, cache.text, None if shapes is None else shapes[captioned]),
        None if repeats is None else repeats[captioned],
    )


def _repeated(examples: TrainingSet, repeats: npt.NDArray[np.int32] | None) -> TrainingSet:
    """The same examples, each as many rows as it is repeated: so an epoch of the shuffled rows shows it as often."""
    if repeats is None:
        return examples
    row_of = mapped_array([np.repeat(np.arange(len(repeats)), repeats)], np.int32)

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        return examples.fetch(row_of[list(rows)].tolist(), flips)

    shapes = None if examples.shapes is None else examples.shapes[row_of]
    return replace(examples, num_rows=len(row_of), fetch=fetch, shapes=shapes)


def _are_of(index: Table, manifest: Table) -> bool:
    """Whether there is an image for each row of the manifest, and each names the row's id."""
    ids = np.concatenate([np.zeros(0, np.uint64), *map(_id_hashes, manifest.batches("id"))])
    met = np.zeros(len(ids), dtype=bool)
    for frame in index.batches("row", "id"):
        rows = frame["row"].to_numpy()
        if not ((0 <= rows) & (rows < len(ids))).all() or (ids[rows] != _id_hashes(frame)).any():
            return False
        met[rows] = True
    return bool(len(met) and met.all())


def _id_hashes(frame: pd.DataFrame) -> npt.NDArray[np.uint64]:
    return hash_array(frame["id"].to_numpy(object), categorize=False)


def _kept(index: Table) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The opponents that no filter flagged, in the order of the manifest whoever drew what: their numbers, their rows."""
    rows, passed, reasons = np.empty(len(index), np.int32), np.empty(len(index), bool), set[str]()
    start = 0
    for frame in index.batches("row", "flagged"):
        part = slice(start, start := start + len(frame))
        rows[part], passed[part] = frame["row"], frame["flagged"] == ""
        reasons |= set(frame["flagged"].unique())
    kept = np.flatnonzero(passed).astype(np.int32)
    kept = kept[np.argsort(rows[kept], kind="stable")]
    if len(kept) < len(index):
        logger.info(
            "%d of the %d opponents are flagged (%s): they are not trained on, and neither is the pair",
            len(index) - len(kept),
            len(index),
            ", ".join(sorted(reasons - {""})),
        )
    return mapped_array([kept], np.int32), mapped_array([rows[kept]], np.int32)


def dpo_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Winners against losers of the data set's preference pairs."""
    pairs = read_pairs(data)
    cache.check_images(read_manifest(data))
    examples = pairs.mapped("image_w", "image_l", "caption", *GEOMETRY)

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real, flip_gen = flips or (None, None)
        chosen = examples.take(list(rows))
        winners = cache.posteriors(chosen["image_w"], flip_real)
        losers = cache.posteriors(chosen["image_l"], flip_gen)
        return Rows(winners, losers, list(chosen["caption"]), geometry_of(chosen))  # the winner's

    return TrainingSet(len(pairs), fetch, cache.text, shapes_of(pairs))


def sft_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Real images alone, each as many rows as the manifest repeats it."""
    manifest = read_manifest(data)
    cache.check_images(manifest)
    examples = manifest.mapped("image", "caption", *GEOMETRY)

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real = flips.real if flips else None
        chosen = examples.take(list(rows))
        return Rows(
            cache.posteriors(chosen["image"], flip_real), None, list(chosen["caption"]), geometry_of(chosen)
        )

    examples_of = TrainingSet(len(manifest), fetch, cache.text, shapes_of(manifest))
    return _repeated(examples_of, repeats_of(manifest))
