"""A look at a data source before a run: what it is, how many images with captions it has, what would be dropped."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin.data.card import DataCard
from spin.data.dataset import captioned_rows
from spin.data.folder import METADATA, captioned_files, metadata_kind
from spin.data.images import check_image, sizes_of
from spin.data.pickapic import COLUMNS, judged_rows
from spin.data.seen import Seen
from spin.data.streams import Stream, image_bytes, local_files, lookup, num_rows, open_stream
from spin.data.writer import CaptionedImage, RowLines, read_image
from spin.errors import DataError
from spin.params.buckets import AspectBuckets, Size
from spin.params.data import DatasetData, FolderData, PickapicData
from spin.runtime.images import UnusableImageError
from spin.runtime.threads import map_ordered

IMAGES_DECODED = 1000
"""Images that are decoded for a look; a look at the hub, which downloads them, decodes a tenth."""
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
TEXT_COLUMNS = ("text", "caption", "prompt", "txt", "json.caption", "json.text", "json.prompt")


@dataclass
class Survey:
    """What a look found."""

    data: FolderData | DatasetData | PickapicData
    """The source as a section of params.yaml, with held-out captions in sensible numbers."""
    card: DataCard
    kind: str
    """Where the captions are, in words."""
    captions: int
    """Distinct captions, estimated if the source was not read to its end."""
    complete: bool


def survey_source(source: str, resolution: int, pairs: bool, buckets: AspectBuckets | None = None) -> Survey:
    """Look at a folder of images, parquet files, .tar shards or a hub id.

    `pairs` says whether a Pick-a-Pic source is to keep its pairs, `buckets` what is trained on besides squares. Raises
    `DataError` if it is none of these or has no captions.
    """
    path = Path(source)
    shared: dict[str, Any] = {"num_val": 1, "num_test": 1, "small_images": "drop", "aspect_buckets": buckets}
    sizes = sizes_of(resolution, buckets)

    # A folder of images with captions beside them.
    bare = path.is_dir() and not any(path.rglob("*.parquet")) and not any(path.rglob("*.tar"))
    if bare or any((path / name).is_file() for name in METADATA):
        folder = FolderData(kind="folder", path=source, **shared)
        card = DataCard(source=source)
        looked = _look(captioned_files(path, card), card, sizes, None)
        return _with_held_out(Survey(folder, card, metadata_kind(path), *looked))

    # A stream of rows: Pick-a-Pic by its columns, else any image and text column.
    stream = open_stream(source, None, "train")
    card = DataCard(source=source, revision=stream.revision)
    limit = IMAGES_DECODED if local_files(source) else IMAGES_DECODED // 10
    streamed: dict[str, Any] = {
        **shared,
        "source": source,
        "revision": stream.revision,
        "split": "train",
        "max_rows": None,
    }
    if set(COLUMNS) <= set(stream.columns):
        splits: dict[str, Any] = {f"{key}_split": _split_of(source, name) for key, name in _PICKAPIC_SPLITS}
        judged = PickapicData(kind="pickapic", pairs=pairs, **splits, **streamed)
        looked = _look(judged_rows(stream, judged, card, lambda _: False, set()), card, sizes, limit)
        return _with_held_out(Survey(judged, card, "Pick-a-Pic's columns", *looked))
    image, text = _columns(stream, source)
    dataset = DatasetData(kind="dataset", config=None, image_column=image, text_column=text, **streamed)
    looked = _look(captioned_rows(stream, dataset, card), card, sizes, limit)
    return _with_held_out(Survey(dataset, card, f"columns {image} and {text}", *looked))


_PICKAPIC_SPLITS = (("val", "validation_unique"), ("test", "test_unique"))


def _look(
    rows: Iterator[CaptionedImage], card: DataCard, sizes: Sequence[Size], limit: int | None
) -> tuple[int, bool]:
    """Decode the first images; return the number of distinct captions and whether every row was read.

    Without a limit all rows are read and counted, though only the first images are decoded.
    """
    captions, complete, lines = 0, True, RowLines(card)

    def problem(row: CaptionedImage) -> str | bytes:
        try:
            images = [read_image(image) if isinstance(image, Path) else image for image in row.images]
            for image in images:
                check_image(image, sizes, "drop")
        except UnusableImageError as error:
            return error.reason
        return hashlib.sha256(images[0]).digest()

    with closing(Seen()) as seen, closing(Seen()) as captioned:
        # Decode the first ones, and only count the rest.
        decoded = itertools.islice(rows, IMAGES_DECODED if limit is None else limit)
        for row, found in map_ordered(problem, decoded, os.cpu_count() or 1):
            lines.update()
            if isinstance(found, str):
                card.drop(found)
            elif not seen.add(found) and len(row.images) == 1:
                card.drop("that repeat an earlier image")
            else:
                captions += captioned.add(row.caption.encode())
        for row in rows:
            if limit is not None:
                complete = False
                break
            captions += captioned.add(row.caption.encode())
    return captions, complete


def _with_held_out(survey: Survey) -> Survey:
    """Hold out a tenth of the captions for evaluation and a twentieth for previews, within sensible bounds."""
    card, data = survey.card, survey.data
    if not isinstance(data, FolderData) and not survey.complete:
        share = num_rows(data.source, data.split) / card.rows_read  # 0 where the number of rows is not known
        survey.captions = int(survey.captions * max(1.0, share))
    if survey.captions < 3:
        raise DataError(
            f"{card.source} must hold images of at least 3 different captions, one each to train on, to look at and "
            f"to evaluate, found {survey.captions} ({card.sentence()})."
        )
    held_out = {
        "num_val": max(1, min(50, survey.captions // 20)),
        "num_test": max(1, min(500, survey.captions // 10)),
    }
    if isinstance(data, PickapicData):
        for key, split in (("num_val", data.val_split), ("num_test", data.test_split)):
            if split is not None:
                held_out[key] = min(500 if key == "num_test" else 50, num_rows(data.source, split) or 500)
    survey.data = data.model_copy(update=held_out)
    return survey


def _split_of(source: str, split: str) -> str | None:
    """The split, if the source has it: the hub's Pick-a-Pic does, local files if they are named so."""
    files = local_files(source)
    return split if not files or any(file.name.startswith(f"{split}-") for file in files) else None


def _columns(stream: Stream, source: str) -> tuple[str, str]:
    """Guess which columns hold the images and the captions."""
    endings = [name for name in IMAGE_ENDINGS if name in stream.columns]
    named = [name for name in stream.columns if any(image_bytes(row.get(name)) for row in stream.first)]
    image = ";".join(endings) or next(iter(named), None)
    text = next(
        (name for name in TEXT_COLUMNS if any(isinstance(lookup(row, name), str) for row in stream.first)),
        None,
    )
    if image is None or text is None:
        missing = "encoded images" if image is None else f"captions (such as {', '.join(TEXT_COLUMNS[:4])})"
        raise DataError(
            f"{source} must have a column of {missing}, found {', '.join(stream.columns)}; write data.image_column and "
            "data.text_column into a copy of a profile yourself."
        )
    return image, text
