"""Where the captioned images come from."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from spin.params.buckets import AspectBuckets
from spin.params.section import NonNegativeInt, PositiveInt, Probability, Section, Text

LONGEST_TRIGGER = 200
"""Signs: no text encoder reads more than some of these words."""


class ToyData(Section):
    """Scenes rendered by the embedded world, with winners as imperfect as Pick-a-Pic's."""

    kind: Literal["toy"]
    num_train: PositiveInt
    """Training prompts, each with one winner (and one loser for Diffusion-DPO); the world has 512."""
    num_val: PositiveInt
    num_test: PositiveInt
    """Held-out prompts, of object pairs that the base has never seen together; the world has 256."""
    max_severity: Probability
    """Degradation of winners and losers is drawn from [0, this]; 0 makes every winner perfect."""
    label_accuracy: Probability
    """Share of pairs whose winner is the less degraded image, as human labels are right only mostly."""


class ImageData(Section):
    """What every source of people's own images shares."""

    num_val: PositiveInt
    """Captions held out for previews."""
    num_test: PositiveInt
    """Captions held out for evaluation; the rest trains."""
    small_images: Literal["drop", "upscale"]
    """What becomes of an image whose shorter side is below `resolution`, or that is smaller than its bucket; dropped ones
    are counted."""
    aspect_buckets: AspectBuckets | None
    """Sizes other than the square, of which each image has the nearest to its own shape; null for squares alone, as the
    paper and its peers train."""


class FolderData(ImageData):
    """A folder of images with metadata.csv or metadata.jsonl (columns file_name and text) or sidecar .txt captions."""

    kind: Literal["folder"]
    num_val: NonNegativeInt
    """Captions held out for previews. 0, as for many images of one caption, holds out none: the first 50 of the training
    captions are then drawn, which shows how well they are learned and not how well others go."""
    num_test: NonNegativeInt
    """Captions held out for evaluation; with 0 the first 500 training captions."""
    path: Text
    trigger: str | None
    """*Experimental*: a word to teach, put before every caption that has it not, held-out ones too: `sks dog` makes
    `sks dog, on a hill` of `on a hill`. Null leaves captions alone."""
    repeats: bool
    """*Experimental*: read folders named as kohya's scripts have them: an epoch shows each image of `10_sks dog` ten times,
    and one that has no caption is captioned `sks dog`."""

    @field_validator("trigger")
    @classmethod
    def _trigger_is_words(cls, trigger: str | None) -> str | None:
        if trigger is None:
            return None
        if not (0 < len(trigger) <= LONGEST_TRIGGER and trigger.isprintable()) or (
            trigger != " ".join(trigger.split()).strip(" ,")
        ):
            shown = repr(trigger[:50]) + ("..." if len(trigger) > 50 else "")
            raise ValueError(
                "data.trigger must be null or words on one line with single blanks and no comma at an end, of at most "
                f"{LONGEST_TRIGGER} printable signs, got {shown}; correct it"
            )
        return trigger


class StreamedData(ImageData):
    """Rows read one after the other, from the Hugging Face hub or from files."""

    source: Text
    """A hub id owner/name, a folder, a file, or a pattern such as `data/*.parquet`. A very large set is better fetched
    first (`hf download` resumes where it stopped) and given as a folder."""
    revision: str | None
    """Commit of the hub repository; null for the newest, or for files. What was resolved is recorded in card.json."""
    split: Text
    """Which split to train on; files that are named after no split are all `train`."""
    max_rows: PositiveInt | None
    """Rows to read at most, so that one may take a part; null for all."""


class DatasetData(StreamedData):
    """Any data set with an image and a text column: on the hub, as parquet files, or as WebDataset .tar shards."""

    kind: Literal["dataset"]
    config: str | None
    """Which configuration of a hub repository that has several; else null."""
    image_column: Text
    """A column of encoded images; in .tar shards the ending of the image files, or several as in `jpg;png`."""
    text_column: Text
    """A column of captions; a dot steps into a record, as in `json.caption`. In .tar shards usually `txt`."""


class PickapicData(StreamedData):
    """Pick-a-Pic v2, or parquet files with its columns caption, jpg_0, jpg_1 and label_0."""

    kind: Literal["pickapic"]
    pairs: bool
    """Keep every (winner, loser) for Diffusion-DPO. Without, only one winner per prompt, a fifteenth of the images."""
    val_split: Text | None
    """The split whose captions are the previews', such as validation_unique; null to hold out training captions."""
    test_split: Text | None
    """The split whose captions evaluate, such as test_unique; null to hold out training captions."""


class NoData(Section):
    """No training images: only published checkpoints are evaluated, on prompt sets from elsewhere."""

    kind: Literal["none"]


DataParams = Annotated[
    NoData | ToyData | FolderData | DatasetData | PickapicData, Field(discriminator="kind")
]


class CacheParams(Section):
    """Latents and text embeddings, computed once per data set and base."""

    batch_size: PositiveInt
    """Images, or captions, through the encoders at a time; changes speed and memory only."""
