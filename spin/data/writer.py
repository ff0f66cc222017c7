"""From rows of a source, one after the other, to a data set folder; memory does not grow with the number of rows."""

import hashlib
import logging
import os
import time
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from spin.data.captions import HeldOut, InTraining, note_length
from spin.data.card import DataCard
from spin.data.images import PreparedImage, note_shape, prepare_image, read_image, sizes_of
from spin.data.manifest import (
    CROP,
    MANIFEST_SCHEMA,
    PAIR_SCHEMA,
    REPEATS,
    ROWS_HELD,
    TableWriter,
    pair_row,
    write_prompts,
)
from spin.data.prepared import PreparedImages
from spin.data.seen import Seen
from spin.data.stored import ImageShards
from spin.errors import DataError
from spin.params.data import ImageData
from spin.runtime.images import UnusableImageError
from spin.runtime.threads import map_ordered

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0
SECOND_OF_CAPTION = "of a caption that has its image"


class CaptionedImage(NamedTuple):
    """A row of a source whose caption is clean; its images are not yet decoded."""

    number: int
    """Of the row in its source; names the row in the manifest."""
    caption: str
    images: tuple[bytes | Path, ...]
    """The image; of a preference pair the winner, then the loser."""
    repeats: int = 1
    """How often an epoch shows it."""


class _Loaded(NamedTuple):
    digest: str  # of the encoded original, so that the same file twice is the same image
    image: PreparedImage
    kept: bool  # from an earlier run


class DataSetWriter:
    """Decodes, crops and stores images in threads; keeps rows in the order of the source."""

    def __init__(
        self,
        root: Path,
        params: ImageData,
        resolution: int,
        card: DataCard,
        given_prompts: dict[str, list[str]] | None = None,
        one_per_caption: bool = False,
        store: Path | None = None,
    ) -> None:
        """Write to the existing empty folder `root`; images that are ready are kept in `store` from run to run.

        `given_prompts` maps val or test to captions that the source holds out itself; training captions are held out
        for the others. `one_per_caption` keeps the first image of a caption that decodes.
        """
        self.root, self.params, self.card = root, params, card
        self.sizes = sizes_of(resolution, params.aspect_buckets)
        self.given_prompts = given_prompts or {}
        self.one_per_caption = one_per_caption
        self._in_training = InTraining(params.num_val, params.num_test)
        self._schema = (
            MANIFEST_SCHEMA.append(REPEATS) if getattr(params, "repeats", False) else MANIFEST_SCHEMA
        )
        self._images, self._captions = Seen(), Seen()
        self._ready = None if store is None else PreparedImages(store)
        self._held_out = HeldOut(
            0 if "val" in self.given_prompts else params.num_val,
            0 if "test" in self.given_prompts else params.num_test,
        )

    def has_image(self, caption: str) -> bool:
        """Whether `caption` has its image already and needs no other."""
        return self.one_per_caption and caption.encode() in self._captions

    def write(self, rows: Iterable[CaptionedImage]) -> None:
        """Write manifest, pairs, prompts, images and card; raises `DataError` if nothing is left to train on."""
        manifest, pairs = self.root / "manifest.parquet", self.root / "pairs.parquet"
        unsplit = {path: path.with_suffix(".unsplit") for path in (manifest, pairs)}
        lines = RowLines(self.card)

        # Decode in threads, keep in the order of the source.
        with (
            closing(self._images),
            closing(self._captions),
            closing(self._ready) if self._ready else nullcontext(),
            ImageShards(self.root) as self._shards,
            TableWriter(unsplit[manifest], self._schema) as images_out,
            TableWriter(unsplit[pairs], PAIR_SCHEMA) as pairs_out,
        ):
            for row, loaded in map_ordered(self._load, rows, os.cpu_count() or 1):
                self._keep(row, loaded, images_out, pairs_out)
                lines.update()

        # Which captions are held out is known only now: fill in the split.
        splits = self._held_out.splits()
        counts = _write_split(unsplit[manifest], manifest, splits)
        self._check_enough(len(splits), counts["train"])
        num_pairs = _write_split(unsplit[pairs], pairs, splits)["train"] if pairs_out.num_rows else 0
        unsplit[pairs].unlink(missing_ok=True)

        # Prompt sets, and what was kept and dropped.
        prompts = {
            split: [key for key, value in splits.items() if value == split] for split in ("val", "test")
        }
        prompts |= self._in_training.prompts(splits) | self.given_prompts
        write_prompts(self.root, {split: [(text, "") for text in texts] for split, texts in prompts.items()})
        kept = {"train": counts["train"], "pairs": num_pairs}
        kept |= {split: len(texts) for split, texts in prompts.items()}
        self.card.write(self.root / "card.json", kept)
        logger.info("%s: %s", self.card.source, self.card.sentence())

    def _check_enough(self, num_held_out: int, num_train: int) -> None:
        source, wanted = self.card.source, self._held_out.wanted
        if not self.card.rows_kept:
            raise DataError(
                f"{source} must hold at least one captioned image to train on, got none ({self.card.sentence()})."
            )
        if num_held_out < wanted or not num_train:
            raise DataError(
                f"data.num_val + data.num_test must leave captions to train on, got {wanted} of the {num_held_out} "
                f"distinct captions in {source}; lower them or add images."
            )

    def _load(self, row: CaptionedImage) -> list[_Loaded] | UnusableImageError:
        try:
            loaded = [self._load_image(image) for image in row.images]
            if len({(each.image.width, each.image.height) for each in loaded}) > 1:  # they share their noise
                raise UnusableImageError("of two images in different buckets", f"row {row.number}")
            return loaded
        except UnusableImageError as error:
            return error

    def _load_image(self, original: bytes | Path) -> _Loaded:
        data = read_image(original) if isinstance(original, Path) else original
        digest = hashlib.sha256(data).hexdigest()
        ready = self._ready.get(digest) if self._ready else None
        image = ready or prepare_image(data, self.sizes, self.params.small_images)
        return _Loaded(digest, image, kept=ready is not None)

    def _keep(
        self,
        row: CaptionedImage,
        loaded: list[_Loaded] | UnusableImageError,
        images_out: TableWriter,
        pairs_out: TableWriter,
    ) -> None:
        # Drop what cannot be used, and count why.
        is_pair = len(row.images) == 2
        if not is_pair and self.has_image(row.caption):  # asked first, as the source may have asked already
            self.card.drop(SECOND_OF_CAPTION)
            return
        if isinstance(loaded, UnusableImageError):
            self.card.drop(loaded.reason)
            return

        # Its caption may be held out; an image met before is kept once.
        self._held_out.offer(row.caption)
        self._in_training.offer(row.caption)
        first = not self.has_image(row.caption) and self._images.add(loaded[0].digest.encode())
        if not first and not is_pair:
            self.card.drop("that repeat an earlier image")
            return

        # Store.
        note_length(row.caption, self.card)
        stored = [self._store(row, each) for each in loaded]
        if first:
            if self.one_per_caption:
                self._captions.add(row.caption.encode())
            note_shape(loaded[0].image, self.sizes, self.card)
            images_out.add(stored[0])
        if is_pair:
            pairs_out.add(pair_row(f"pair-{row.number:07d}", *stored))

    def _store(self, row: CaptionedImage, loaded: _Loaded) -> dict[str, Any]:
        """Write an image under the digest of its original, so that what appears in many pairs is kept once."""
        digest, image, kept = loaded
        sha256 = hashlib.sha256(image.png).hexdigest()
        if self._ready and not kept:
            self._ready.put(digest, image, sha256)
        place = self._shards.add(f"{digest[:24]}.png", image.png)
        return {
            "id": f"train-{row.number:07d}",
            "caption": row.caption,
            "image": place,
            "sha256": sha256,
            "width": image.width,
            "height": image.height,
            "split": "",
            REPEATS.name: row.repeats,
            **{name: getattr(image, name) for name in CROP},
        }


def _write_split(source: Path, target: Path, splits: dict[str, str]) -> dict[str, int]:
    """Copy a table with its split column filled in by caption; count the rows of each split; remove the source."""
    counts = {"train": 0, "val": 0, "test": 0}
    with pq.ParquetFile(source) as table, TableWriter(target, table.schema_arrow) as out:
        for batch in table.iter_batches(ROWS_HELD):
            for row in batch.to_pylist():
                row["split"] = splits.get(row["caption"], "train")
                counts[row["split"]] += 1
                out.add(row)
    source.unlink()
    return counts


class RowLines:
    """A line of progress now and then; how many rows a stream has is not known before its end."""

    def __init__(self, card: DataCard) -> None:
        self.card, self.started = card, time.monotonic()
        self.last = self.started

    def update(self) -> None:
        """Log the counts if the last line is a while ago."""
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            rate = self.card.rows_read / (now - self.started)
            logger.info("data: %d rows read, %d kept, %.3g/s", self.card.rows_read, self.card.rows_kept, rate)
