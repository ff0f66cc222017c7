"""Any data set with an image and a text column."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from spin.data.captions import clean_caption
from spin.data.card import DataCard
from spin.data.streams import Stream, check_columns, image_bytes, lookup, open_stream
from spin.data.writer import CaptionedImage, DataSetWriter
from spin.params.data import DatasetData


def write_dataset_data(root: Path, params: DatasetData, resolution: int, store: Path | None = None) -> None:
    """Bring a data set from the hub, from parquet files or from .tar shards to a manifest in the folder `root`.

    Raises `DataError` if it cannot be found or read, lacks a column, or leaves no image to train on.
    """
    stream = open_stream(params.source, params.revision, params.split, params.config)
    card = DataCard(source=params.source, revision=stream.revision)
    writer = DataSetWriter(root, params, resolution, card, store=store)
    writer.write(captioned_rows(stream, params, card))


def captioned_rows(stream: Stream, params: DatasetData, card: DataCard) -> Iterator[CaptionedImage]:
    """Yield the rows with an image and a usable caption; count in `card` what was read and what cannot be used."""
    wanted = {params.image_column: "data.image_column", params.text_column: "data.text_column"}
    check_columns(stream, wanted, params.source)
    for index, row in enumerate(itertools.islice(stream.rows, params.max_rows)):
        card.rows_read += 1
        image = image_bytes(lookup(row, params.image_column))
        if image is None:
            card.drop("without an image's bytes")
            continue
        caption = clean_caption(lookup(row, params.text_column), card)
        if caption is not None:
            yield CaptionedImage(index, caption, (image,))
