"""An update whose images have several shapes, as with aspect-ratio buckets: in parts of one shape each.

Its rows are drawn as ever, from shuffled epochs of all rows, whatever their shapes: each is as likely as any other and comes
once an epoch, which is the paper's distribution. A micro-batch alone must be of one shape. A whole update from one bucket, taken
in proportion to its size, would keep each row's probability too; but a bucket of three photographs would fill an update of
128 with them, and the gradient of each update would be that of one shape.

The places of an update are sorted by shape, and each process takes an equal stretch of them. What a place holds depends on
seed, stage, update and place alone, so all processes together draw the same whatever their number. Their stretches differ
in shapes, and so in micro-batches; who has fewer cuts some of them in two, since sharded networks talk to each other
in every forward pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spin.training.batches import Batch, BatchSource
from spin.training.chains import ChainBatch

Part = Batch | ChainBatch
"""Pairs of one shape."""


class Parts(NamedTuple):
    """A process's share of an update."""

    parts: list[Part]
    """By shape."""
    all_rows: list[list[int]]
    """Of every process, in their order, the rows of its parts."""
    trial: Callable[[], Part]
    """Draws as many rows as this share has, all of the update's largest shape: what any update may ask of memory."""

    @property
    def num_rows(self) -> int:
        """Of all parts; the same in every process."""
        return sum(part.num_rows for part in self.parts)

    def micro_batches(self, size: int) -> Iterator[Part]:
        """Split into micro-batches of one shape and at most `size` rows: as many of them in every process."""
        wanted = max(sum(-(-rows // size) for rows in share) for share in self.all_rows)
        pieces: list[Part] = [piece for part in self.parts for piece in part.micro_batches(size)]
        while len(pieces) < wanted:
            largest = max(range(len(pieces)), key=lambda place: pieces[place].num_rows)
            half = -(-pieces[largest].num_rows // 2)
            pieces[largest : largest + 1] = pieces[largest].micro_batches(half)
        yield from pieces

    def pinned(self) -> "Parts":
        """In memory that a GPU reads by itself, while the host goes on."""
        return self._replace(parts=[part.pinned() for part in self.parts])


def split_places(shapes: npt.NDArray[np.int16], processes: int) -> list[list[list[int]]]:
    """The places of an update by process, and of each process by shape, from the shapes (B,) of the rows in its places."""
    order = np.argsort(shapes, kind="stable")
    return [
        [part.tolist() for part in np.split(stretch, np.flatnonzero(np.diff(shapes[stretch])) + 1)]
        for stretch in np.split(order, processes)
    ]


def draw_parts(draw: Callable[[BatchSource, int], Part], source: BatchSource, step: int) -> Parts:
    """Make this process's share of update `step` (from 0) on the CPU; `draw` makes the places of a source, of one shape."""
    shapes = source.shapes(step)
    share = len(source.places)
    split = split_places(shapes, len(shapes) // share)

    def at(places: list[int]) -> Part:
        return draw(replace(source, places=places), step)

    largest = int(np.argmax(shapes))
    return Parts(
        [at(places) for places in split[source.places[0] // share]],
        [[len(places) for places in each] for each in split],
        lambda: at([largest] * share),
    )
