"""What a training stage reads: real images, and for a preference loss the images to move away from."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from spin.data.cache import Cache
from spin.data.manifest import geometry_of, read_manifest, read_pairs
from spin.errors import DataError
from spin.models.conditioning import Conditioning
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


def spin_training_set(data: Path, cache: Cache, opponents: Path) -> TrainingSet:
    """Real images against the earlier iterates' images of the same captions, one row per image that was not flagged.

    Raises `DataError` if the opponents are not those of the data set's captions.
    """
    manifest = read_manifest(data)
    cache.check_images(manifest)

    # Opponents must be those of these captions, one or more for each.
    index, generated = open_opponents(opponents)
    drawn = index["row"].to_numpy()
    whole = len(manifest) and set(drawn) == set(range(len(manifest)))
    if not whole or (manifest["id"].to_numpy()[drawn] != index["id"].to_numpy()).any():
        raise DataError(
            f"{opponents} must hold an image for each of the {len(manifest)} captions, found {len(index)} for "
            f"{index['id'].nunique()} captions, not all of them the same; draw the opponents again."
        )

    # What a filter flagged is left out.
    kept = np.flatnonzero(index["flagged"].to_numpy() == "")
    kept = kept[np.argsort(drawn[kept], kind="stable")]  # in the order of the manifest, whoever drew what
    if len(kept) < len(index):
        logger.info(
            "%d of the %d opponents are flagged (%s): they are not trained on, and neither is the pair",
            len(index) - len(kept),
            len(index),
            ", ".join(sorted(set(index["flagged"]) - {""})),
        )

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real, flip_gen = flips or (None, None)
        images = kept[list(rows)]
        chosen = manifest.iloc[drawn[images]]
        gen = posteriors_at(generated, images.tolist(), flip_gen)
        return Rows(
            cache.posteriors(chosen["image"], flip_real), gen, list(chosen["caption"]), geometry_of(chosen)
        )

    return TrainingSet(len(kept), fetch, cache.text)


def dpo_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Winners against losers of the data set's preference pairs."""
    pairs = read_pairs(data)
    cache.check_images(read_manifest(data))

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real, flip_gen = flips or (None, None)
        chosen = pairs.iloc[list(rows)]
        winners = cache.posteriors(chosen["image_w"], flip_real)
        losers = cache.posteriors(chosen["image_l"], flip_gen)
        return Rows(winners, losers, list(chosen["caption"]), geometry_of(chosen))  # the winner's

    return TrainingSet(len(pairs), fetch, cache.text)


def sft_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Real images alone."""
    manifest = read_manifest(data)
    cache.check_images(manifest)

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        flip_real = flips.real if flips else None
        chosen = manifest.iloc[list(rows)]
        return Rows(
            cache.posteriors(chosen["image"], flip_real), None, list(chosen["caption"]), geometry_of(chosen)
        )

    return TrainingSet(len(manifest), fetch, cache.text)
