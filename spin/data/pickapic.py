"""Pick-a-Pic v2 (Kirstain et al. 2023, arXiv:2305.01569): two images of a prompt, and which one a person preferred.

For SPIN and SFT each prompt gives one image: the first winner in the order of the files that decodes. That takes one
pass, and gives the same choice for the same revision; the first row of a prompt is the first comparison its author
made. For Diffusion-DPO every pair with a winner is kept. Ties teach neither and are dropped.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spin.data.captions import clean_caption
from spin.data.card import DataCard
from spin.data.streams import Stream, check_columns, image_bytes, open_stream
from spin.data.writer import SECOND_OF_CAPTION, CaptionedImage, DataSetWriter
from spin.errors import DataError
from spin.params.data import PickapicData

COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0")


def write_pickapic_data(root: Path, params: PickapicData, resolution: int, store: Path | None = None) -> None:
    """Bring Pick-a-Pic to a manifest of winners, and to pairs if asked for, in the existing empty folder `root`.

    Raises `DataError` if it cannot be found or read, lacks a column, or leaves no image to train on.
    """
    given = {}
    if params.val_split is not None:
        given["val"] = split_captions(params, params.val_split, params.num_val, "num_val")
    if params.test_split is not None:
        given["test"] = split_captions(params, params.test_split, params.num_test, "num_test")
    stream = open_stream(params.source, params.revision, params.split)
    card = DataCard(source=params.source, revision=stream.revision)
    writer = DataSetWriter(root, params, resolution, card, given, one_per_caption=True, store=store)
    writer.write(
        judged_rows(
            stream, params, card, writer.has_image, {text for texts in given.values() for text in texts}
        )
    )


def judged_rows(
    stream: Stream, params: PickapicData, card: DataCard, has_image: Callable[[str], bool], held_out: set[str]
) -> Iterator[CaptionedImage]:
    """Yield the winner, and with `pairs` the loser, of each row that has one; `has_image` tells of served captions."""
    check_columns(stream, {name: "as Pick-a-Pic has it" for name in COLUMNS}, params.source)
    for index, row in enumerate(itertools.islice(stream.rows, params.max_rows)):
        card.rows_read += 1
        judged = _winner_and_loser(row, card)
        if judged is None or (caption := clean_caption(row["caption"], card)) is None:
            continue
        if caption in held_out:
            card.drop("of a held-out caption")
        elif params.pairs:
            yield CaptionedImage(index, caption, judged)
        elif has_image(caption):
            card.drop(SECOND_OF_CAPTION)
        else:
            yield CaptionedImage(index, caption, judged[:1])


def _winner_and_loser(row: dict[str, Any], card: DataCard) -> tuple[bytes, bytes] | None:
    label = row["label_0"]
    if label == 0.5:
        card.drop("tied")
    elif label not in (0, 1):
        card.drop("without a preference")
    else:
        first, second = image_bytes(row["jpg_0"]), image_bytes(row["jpg_1"])
        if first is None or second is None:
            card.drop("without an image's bytes")
        elif first == second:
            card.drop("of one image against itself")
        else:
            return (first, second) if label == 1 else (second, first)
    return None


def split_captions(params: PickapicData, split: str, count: int, key: str) -> list[str]:
    """The first `count` distinct captions of a split that holds evaluation prompts."""
    stream = open_stream(params.source, params.revision, split)
    check_columns(stream, {"caption": "as Pick-a-Pic has it"}, params.source)
    ignored = DataCard(source=params.source)
    cleaned = (clean_caption(row["caption"], ignored) for row in stream.rows)
    captions: dict[str, None] = {}
    for caption in cleaned:
        if len(captions) == count:
            break
        if caption is not None:
            captions[caption] = None
    if len(captions) < count:
        raise DataError(
            f"data.{key} must be <= {len(captions)}, the distinct captions of split {split} of {params.source}, "
            f"got {count}; lower it."
        )
    return list(captions)
