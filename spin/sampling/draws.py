"""Which of the earlier iterates draws the image of which caption."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from spin.data.manifest import shapes_of
from spin.runtime.tables import Table
from spin.seeding import generator_for


class Draws(NamedTuple):
    """Images in the order in which they are drawn."""

    rows: npt.NDArray[np.int32]
    """Of each its row of the manifest."""
    drawers: npt.NDArray[np.int8]
    """And the number of its iterate."""
    groups: list[int]
    """How many images in a row have one shape: those that may share a shard."""


def plan_draws(manifest: Table, drawn_by: str, num_iterates: int, seed: int, iteration: str) -> Draws:
    """Which iterate draws which image, one iterate's images after another's, and of an iterate's those of a bucket together.

    previous        the last iterate draws all, as in SPIN
    mixture         each caption's image is by an iterate drawn from the stream of (seed, iteration, id)
    all_earlier     every iterate draws every caption

    The last two are fictitious self-play (Brown 1951): the opponent is the average of all past selves.
    """
    rows, drawers = _drawers(manifest, drawn_by, num_iterates, seed, iteration)
    shapes = shapes_of(manifest)
    if shapes is None:
        return Draws(rows, drawers, [len(rows)])
    order = np.lexsort((shapes[rows], drawers))  # stable: of a bucket in the order of the manifest
    changes = np.flatnonzero(np.diff(shapes[rows[order]])) + 1
    groups = np.diff(np.concatenate([[0], changes, [len(rows)]])).tolist()
    return Draws(rows[order], drawers[order], groups)


def _drawers(
    manifest: Table, drawn_by: str, num_iterates: int, seed: int, iteration: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    rows = np.arange(len(manifest), dtype=np.int32)
    if drawn_by == "all_earlier":
        return np.tile(rows, num_iterates), np.repeat(np.arange(num_iterates, dtype=np.int8), len(rows))
    if drawn_by == "previous":
        return rows, np.full(len(rows), num_iterates - 1, dtype=np.int8)

    def drawer(identifier: str) -> int:
        generator = generator_for("drawn by", seed, iteration, identifier)
        return int(torch.randint(num_iterates, (), generator=generator))

    ids = (identifier for frame in manifest.batches("id") for identifier in frame["id"])
    drawers = np.fromiter((drawer(identifier) for identifier in ids), np.int8, len(rows))
    order = np.argsort(drawers, kind="stable")
    return rows[order], drawers[order]
