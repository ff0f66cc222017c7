"""Which of the earlier iterates draws the image of which caption."""

import numpy as np
import numpy.typing as npt
import torch

from spin.runtime.tables import Table
from spin.seeding import generator_for


def plan_draws(
    manifest: Table, drawn_by: str, num_iterates: int, seed: int, iteration: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Of each image the row of the manifest and the number of the iterate, one iterate's images after another's.

    previous        the last iterate draws all, as in SPIN
    mixture         each caption's image is by an iterate drawn from the stream of (seed, iteration, id)
    all_earlier     every iterate draws every caption

    The last two are fictitious self-play (Brown 1951): the opponent is the average of all past selves.
    """
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
