"""The images of a data set: PNG files in a few uncompressed tar shards, each read from where its bytes lie.

images/shard-00000.tar, ...    in the order they came; `tar xf` unpacks them, and WebDataset's readers take them
images/spin.sha256             the hash of every shard

A place is the text `images/shard-00000.tar:1536:3012`: a file of the data set, the first byte, how many. One without numbers
is a file by itself, as images were stored before there were shards.
"""

import hashlib
import io
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from spin.data.seen import Seen
from spin.errors import DataError
from spin.runtime.images import UnusableImageError, decode_rgb
from spin.runtime.sums import SumsWriter, checked

SHARD_BYTES = 1 << 28
"""A shard ends with the image that passes 256 MiB: some 600 images of 512 pixels."""


class ImageShards:
    """Stores images by name, each name once; the same images in the same order give the same bytes."""

    def __init__(self, root: Path) -> None:
        """Make the folder images/ in the data set `root`."""
        self._folder = root / "images"
        self._folder.mkdir()
        self._sums, self._places = SumsWriter(self._folder), Seen()
        self._shard: _Shard | None = None
        self._num_shards = 0

    def add(self, name: str, png: bytes) -> str:
        """Store an encoded image, unless its name is there; return its place."""
        place = self._places.note_of(name.encode())
        if place is None:
            if self._shard is None:
                self._shard = _Shard(self._folder / f"shard-{self._num_shards:05d}.tar")
                self._num_shards += 1
            start = self._shard.add(name, png)
            place = f"images/{self._shard.path.name}:{start}:{len(png)}"
            self._places.add(name.encode(), place)
            if self._shard.size > SHARD_BYTES:
                self._end_shard()
        return place

    def _end_shard(self) -> None:
        if self._shard is not None:
            self._sums.add(self._shard.path.name, self._shard.close())
            self._shard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_shard()
        self._sums.close()
        self._places.close()


class _Shard:
    """A tar file that is hashed as it is written; no second pass over it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._stream, self._digest = path.open("wb"), hashlib.sha256()
        self._archive = tarfile.open(fileobj=self, mode="w|", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]

    def write(self, data: bytes) -> int:
        """Take bytes from the archive."""
        self._digest.update(data)
        return self._stream.write(data)

    def add(self, name: str, content: bytes) -> int:
        """Append a file; return where its first byte lies."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        start: int = self._archive.offset + tarfile.BLOCKSIZE
        self._archive.addfile(member, io.BytesIO(content))
        self._archive.members = []  # else it remembers every one
        self.size = self._archive.offset
        return start

    def close(self) -> str:
        """End the file; return its SHA-256."""
        self._archive.close()
        self._stream.close()
        return self._digest.hexdigest()


def stored_bytes(root: Path, place: str) -> bytes:
    """The encoded image at a place of the data set `root`; raises `DamagedError` for a shard that its list does not know."""
    name, *span = place.split(":")
    with checked(root / name).open("rb") as stream:
        if not span:
            return stream.read()
        start, size = map(int, span)
        stream.seek(start)
        return stream.read(size)


def open_stored(root: Path, place: str) -> Image.Image:
    """Decode the image at a place as upright RGB, transparency over white; raises `DataError` if it cannot be decoded."""
    try:
        return decode_rgb(io.BytesIO(stored_bytes(root, place)))
    except (UnusableImageError, OSError) as error:
        raise DataError(
            f"{root / place} must be an image file, but it does not decode ({error}); replace it."
        ) from None
