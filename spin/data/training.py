"""What a training stage reads: real images, and for a preference loss the images to move away from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from spin.data.cache import Cache
from spin.data.manifest import read_manifest, read_pairs
from spin.errors import DataError
from spin.opponents import open_opponents

Posterior = tuple[Tensor, Tensor]
"""(mean, logvar) of the VAE, each (B, C, h, w), before scaling."""


class Rows(NamedTuple):
    """Training examples by row."""

    real: Posterior
    gen: Posterior | None
    """The opponent's images for SPIN, the losers for Diffusion-DPO, None for supervised fine-tuning."""
    captions: list[str]


@dataclass(frozen=True)
class TrainingSet:
    """Random access to examples; nothing is read before it is asked for."""

    num_rows: int
    fetch: Callable[[Sequence[int]], Rows]
    states: Callable[[Sequence[str]], Tensor]
    """Captions -> encoder_hidden_states (B, L, D)."""


def spin_training_set(data: Path, cache: Cache, opponents: Path) -> TrainingSet:
    """Real images against the previous iterate's images of the same captions."""
    manifest = read_manifest(data)
    generated = open_opponents(opponents)
    if len(generated) != len(manifest):
        raise DataError(
            f"{opponents} must hold an image for each of the {len(manifest)} captions, found {len(generated)}; "
            "draw the opponents again."
        )

    def fetch(rows: Sequence[int]) -> Rows:
        chosen = manifest.iloc[list(rows)]
        gen = generated.rows("mean", rows), generated.rows("logvar", rows)
        return Rows(cache.posteriors(chosen["image"]), gen, list(chosen["caption"]))

    return TrainingSet(len(manifest), fetch, cache.states)


def dpo_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Winners against losers of the data set's preference pairs."""
    pairs = read_pairs(data)

    def fetch(rows: Sequence[int]) -> Rows:
        chosen = pairs.iloc[list(rows)]
        winners, losers = cache.posteriors(chosen["image_w"]), cache.posteriors(chosen["image_l"])
        return Rows(winners, losers, list(chosen["caption"]))

    return TrainingSet(len(pairs), fetch, cache.states)


def sft_training_set(data: Path, cache: Cache) -> TrainingSet:
    """Real images alone."""
    manifest = read_manifest(data)

    def fetch(rows: Sequence[int]) -> Rows:
        chosen = manifest.iloc[list(rows)]
        return Rows(cache.posteriors(chosen["image"]), None, list(chosen["caption"]))

    return TrainingSet(len(manifest), fetch, cache.states)
