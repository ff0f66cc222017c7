"""The first images of a source, decoded: which can be used, how large they are, and what is dropped, by name."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spin.data.card import DataCard
from spin.data.images import check_image, nearest, read_image, sizes_of
from spin.data.seen import Seen
from spin.data.writer import CaptionedImage, RowLines
from spin.params.buckets import AspectBuckets, Size
from spin.runtime.images import UnusableImageError
from spin.runtime.threads import map_ordered

IMAGES_DECODED = 1000
"""Images that are decoded for a look; a look at the hub, which downloads them, decodes a tenth."""

TOO_SMALL = "smaller than their bucket"


@dataclass
class NamingCard(DataCard):
    """A card that remembers what was dropped."""

    names: list[tuple[str, str]] = field(default_factory=list)
    """(file below its folder, or number of the row in its source; why)."""

    def drop(self, reason: str) -> None:
        """Count one row as dropped for `reason`, and remember which."""
        super().drop(reason)
        self.names.append((self.at or f"row {self.rows_read}", reason))


@dataclass
class Look:
    """What the images of a source are like."""

    captions: int = 0
    """Distinct captions."""
    complete: bool = True
    """Whether every row was read."""
    usable: list[tuple[int, bool]] = field(default_factory=list)
    """Of each decoded image that can be used: the number of its row, and whether its caption is the first of its kind."""
    sides: list[int] = field(default_factory=list)
    """The largest resolution, in pixels, that each of the decoded images that differ is large enough for: of squares their
    shorter side. Those that are too small are among them."""
    decoded: int = 0
    """Rows whose images were decoded, or could not be."""
    undecoded: int = 0
    """Rows with a caption whose images were not decoded."""

    def images(self) -> int:
        """How many images can be used, if those that were not decoded are like the others."""
        return len(self.usable) * (self.decoded + self.undecoded) // max(1, self.decoded)


def look_at(
    rows: Iterator[CaptionedImage],
    card: NamingCard,
    resolution: int,
    buckets: AspectBuckets | None,
    small_images: str,
    limit: int | None,
    folder: Path | None = None,
) -> Look:
    """Decode the first images of `rows`, whose files are below `folder` if it has any.

    Without a limit all rows are read and counted, though only the first images are decoded.
    """
    look, lines = Look(), RowLines(card)
    too_small = TOO_SMALL if buckets else f"smaller than {resolution} pixels"

    decoded = partial(_decoded, sizes_of(resolution, buckets), resolution)
    with closing(Seen()) as seen, closing(Seen()) as captioned:
        first = itertools.islice(rows, IMAGES_DECODED if limit is None else limit)
        for row, found in map_ordered(decoded, first, os.cpu_count() or 1):
            lines.update()
            card.at = _name(row, folder)
            if isinstance(found, UnusableImageError):
                card.drop(found.reason)
            else:
                digest, side = found
                first_time = seen.add(digest)
                if first_time:
                    look.sides.append(side)
                if side < resolution and small_images == "drop":
                    card.drop(too_small)
                elif not first_time and len(row.images) == 1:
                    card.drop("that repeat an earlier image")
                else:
                    new_caption = captioned.add(row.caption.encode())
                    look.usable.append((row.number, new_caption))
                    look.captions += new_caption
            look.decoded += 1
            card.at = ""
        for row in rows:
            if limit is not None:
                look.complete = False
                break
            look.undecoded += 1
            look.captions += captioned.add(row.caption.encode())
    return look


def _decoded(
    sizes: Sequence[Size], resolution: int, row: CaptionedImage
) -> UnusableImageError | tuple[bytes, int]:
    """The hash of a row's image, and the largest resolution that it is large enough for; or what is wrong with it."""
    try:
        images = [read_image(image) if isinstance(image, Path) else image for image in row.images]
        sides = []
        for image in images:
            size = check_image(image, sizes, "upscale").size
            bucket = nearest(sizes, *size)
            sides.append(min(resolution * have // need for have, need in zip(size, bucket, strict=True)))
    except UnusableImageError as error:
        return error
    return hashlib.sha256(images[0]).digest(), min(sides)


def _name(row: CaptionedImage, folder: Path | None) -> str:
    image = row.images[0]
    if isinstance(image, Path) and folder is not None:
        return str(image.relative_to(folder.resolve()))
    return f"row {row.number + 1}"
