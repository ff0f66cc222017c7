"""A look at a data source before a run: what it is, how many images with captions it has, what would be dropped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spin.data.dataset import captioned_rows
from spin.data.folder import METADATA, captioned_files, is_numbered, metadata_kind, unlisted_images
from spin.data.pickapic import COLUMNS, judged_rows
from spin.data.streams import Stream, image_bytes, local_files, lookup, num_rows, open_stream
from spin.errors import DataError
from spin.params.buckets import AspectBuckets
from spin.params.data import DatasetData, FolderData, PickapicData
from spin.tools.init import look
from spin.tools.init.enough import remedy
from spin.tools.init.look import Look, NamingCard, look_at

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
TEXT_COLUMNS = ("text", "caption", "prompt", "txt", "json.caption", "json.text", "json.prompt")


@dataclass
class Survey:
    """What a look found."""

    data: FolderData | DatasetData | PickapicData
    """The source as a section of params.yaml, with held-out captions in sensible numbers."""
    card: NamingCard
    kind: str
    """Where the captions are, in words."""
    look: Look
    unlisted: list[str] = field(default_factory=list)
    """Images of the folder that its metadata does not list."""
    captions: int = 0
    """Distinct captions, estimated if the source was not read to its end."""
    images: int | None = None
    """Images that can be used, one a caption of Pick-a-Pic; None if nobody knows how many rows there are."""

    @property
    def training_images(self) -> int | None:
        """Images that are left to train on when those of held-out captions are gone."""
        if self.images is None:
            return None
        data, held_out = self.data, self.data.num_val + self.data.num_test
        if isinstance(data, PickapicData):
            held_out = sum(
                number
                for number, split in ((data.num_val, data.val_split), (data.num_test, data.test_split))
                if split is None
            )
        return max(1, self.images * (self.captions - held_out) // self.captions)


def survey_source(
    source: str, resolution: int, small_images: str, pairs: bool, buckets: AspectBuckets | None = None
) -> Survey:
    """Look at a folder of images, parquet files, .tar shards or a hub id.

    `small_images` is what becomes of images that are too small, as in params.yaml; `pairs` says whether a Pick-a-Pic source
    is to keep its pairs, `buckets` what is trained on besides squares. Raises `DataError` if the source is none of these or
    has no captions.
    """
    path = Path(source)
    shared: dict[str, Any] = {
        "num_val": 1,
        "num_test": 1,
        "small_images": small_images,
        "aspect_buckets": buckets,
    }
    wanted = resolution, buckets, small_images

    # A folder of images with captions beside them.
    bare = path.is_dir() and not any(path.rglob("*.parquet")) and not any(path.rglob("*.tar"))
    if bare or any((path / name).is_file() for name in METADATA):
        folder = FolderData(kind="folder", path=source, trigger=None, repeats=is_numbered(path), **shared)
        card = NamingCard(source=source)
        rows = captioned_files(path, card, None, folder.repeats)
        looked = look_at(rows, card, *wanted, None, path)
        return _with_held_out(
            Survey(folder, card, metadata_kind(path), looked, [*unlisted_images(path)]), resolution
        )

    # A stream of rows: Pick-a-Pic by its columns, else any image and text column.
    stream = open_stream(source, None, "train")
    card = NamingCard(source=source, revision=stream.revision)
    limit = look.IMAGES_DECODED if local_files(source) else look.IMAGES_DECODED // 10
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
        rows = judged_rows(stream, judged, card, lambda _: False, set())
        looked = look_at(rows, card, *wanted, limit)
        return _with_held_out(Survey(judged, card, "Pick-a-Pic's columns", looked), resolution)
    image, text = _columns(stream, source)
    dataset = DatasetData(kind="dataset", config=None, image_column=image, text_column=text, **streamed)
    looked = look_at(captioned_rows(stream, dataset, card), card, *wanted, limit)
    return _with_held_out(Survey(dataset, card, f"columns {image} and {text}", looked), resolution)


_PICKAPIC_SPLITS = (("val", "validation_unique"), ("test", "test_unique"))


def _with_held_out(survey: Survey, resolution: int) -> Survey:
    """Hold out a tenth of the captions for evaluation and a twentieth for previews, within sensible bounds."""
    card, data, looked = survey.card, survey.data, survey.look

    # How many there are of which: counted, by the rows that the files say they have, or unknown.
    survey.captions, survey.images = looked.captions, looked.images()
    if not isinstance(data, FolderData) and not looked.complete:
        share = num_rows(data.source, data.split) / card.rows_read  # 0 where the number of rows is not known
        survey.captions = int(survey.captions * max(1.0, share))
        survey.images = int(survey.images * share) if share else None
    if isinstance(data, PickapicData) and survey.images is not None:
        survey.images = min(survey.images, survey.captions)
    if (
        isinstance(data, FolderData) and 0 < survey.captions < 3 <= looked.images()
    ):  # one subject, one caption
        survey.data = data.model_copy(update={"num_val": 0, "num_test": 0})
        return survey
    if survey.captions < 3:
        raise DataError(
            f"{card.source} must hold images of at least 3 different captions, one each to train on, to look at and "
            f"to evaluate, found {survey.captions} ({card.sentence()}); {remedy(card, looked, resolution)}."
        )

    # Which are held out.
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
