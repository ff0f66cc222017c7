"""A folder of captioned images, with metadata.csv, metadata.jsonl or a .txt or .caption file beside each image."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from spin.data.captions import clean_caption, with_trigger
from spin.data.card import DataCard
from spin.data.seen import Seen
from spin.data.writer import CaptionedImage, DataSetWriter
from spin.errors import DataError
from spin.params.data import FolderData
from spin.runtime.csv_rows import csv_header, csv_rows

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
FILE_COLUMN = "file_name"
TEXT_COLUMNS = ("text", "caption")
"""What the column of captions is called; where a table has both, the first counts."""
CAPTION_SUFFIXES = (".txt", ".caption")
"""Of a caption's own file; where an image has both, the first counts. kohya's scripts write the second."""
METADATA = ("metadata.csv", "metadata.jsonl")
MAX_REPEATS = 999
"""A larger number before a folder's name is a year, or a mistake."""

_TOLD = object()
"""Stands for a caption that cannot be used and has been counted."""


class _Listed(NamedTuple):
    file: object  # relative to the folder, as the metadata states it
    caption: object  # as the metadata states it, or the path of the file that holds it


def write_folder_data(root: Path, params: FolderData, resolution: int, store: Path | None = None) -> None:
    """Bring a folder of captioned images to a manifest in the existing empty folder `root`.

    Raises `DataError` if there is no folder, no caption or no image left to train on, or if the metadata is torn.
    """
    card = DataCard(source=params.path, trigger=params.trigger)
    writer = DataSetWriter(root, params, resolution, card, store=store)
    writer.write(captioned_files(Path(params.path), card, params.trigger, params.repeats))


def captioned_files(
    folder: Path, card: DataCard, trigger: str | None = None, repeats: bool = False
) -> Iterator[CaptionedImage]:
    """Yield the folder's images with usable captions; count in `card` what was read and what cannot be used.

    `trigger` and `repeats` are those of `FolderData`. Raises `DataError` if there is no folder, no caption, or a folder
    whose repeats are none.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.path must be a folder of captioned images, but there is no folder {folder}; correct it."
        )
    with closing(Seen()) as listed:
        for index, (file, text) in enumerate(_listing(folder)(folder, repeats)):
            card.rows_read += 1
            card.at = file if isinstance(file, str) else ""
            path = _inside(folder, file, card)
            if path is None:
                continue
            if not listed.add(os.fsencode(path)):
                card.drop("listed twice")
                continue
            if isinstance(text, Path):
                text = _sidecar_text(folder, text, card)
            shown = repeats_in(str(file)) if repeats else None
            if shown and (text is None or (isinstance(text, str) and not text.strip())):
                text = shown.name
            if text is not _TOLD and (caption := clean_caption(text, card)) is not None:
                times = shown.times if shown else 1
                yield CaptionedImage(index, with_trigger(caption, trigger), (path,), times)


def metadata_kind(folder: Path) -> str:
    """Which kind of captions the folder has: metadata.csv, metadata.jsonl or `.txt beside each image`."""
    return next((name for name in METADATA if (folder / name).is_file()), ".txt beside each image")


def unlisted_images(folder: Path) -> Iterator[str]:
    """Yield the images below the folder that its metadata does not list; none where captions lie beside the images."""
    if metadata_kind(folder) not in METADATA:
        return
    with closing(Seen()) as listed:
        for file, _ in _listing(folder)(folder, False):
            if isinstance(file, str):
                listed.add(os.path.normpath(file).encode("utf-8", "surrogatepass"))
        for path in images_below(folder):
            if str(path).encode("utf-8", "surrogatepass") not in listed:
                yield str(path)


class Repeats(NamedTuple):
    """What the folder `10_sks dog` says of its images, as kohya's scripts read it."""

    times: int
    """How often an epoch shows each."""
    name: str
    """The caption of those that have none."""


def repeats_in(file: str) -> Repeats | None:
    """What the nearest numbered folder that a file lies in says, or None; `file` is relative to the folder of images.

    Raises `DataError` for a number that is no sane count, such as the year of `2024_summer`.
    """
    for part in reversed(Path(file).parts[:-1]):
        if named := re.fullmatch(r"(\d+)_(.*\S.*)", part):
            if not 0 < int(named[1]) <= MAX_REPEATS:
                raise DataError(
                    f"a numbered folder must begin with 1 to {MAX_REPEATS}, how often an epoch shows its images, got {part}; "
                    "rename it or set data.repeats to false."
                )
            return Repeats(int(named[1]), named[2])
    return None


def is_numbered(folder: Path) -> bool:
    """Whether the folder is laid out as kohya's scripts want it: every image in a folder that says its repeats."""
    try:
        return all(map(repeats_in, map(str, images_below(folder)))) and any(images_below(folder))
    except DataError:
        return False


def _listing(folder: Path) -> Callable[[Path, bool], Iterator[_Listed]]:
    return {"metadata.csv": _csv_rows, "metadata.jsonl": _jsonl_rows}.get(metadata_kind(folder), _sidecars)


def _inside(folder: Path, file: object, card: DataCard) -> Path | None:
    """The listed file as a path, or None after counting why not; what leads out of the folder is not read."""
    if not isinstance(file, str) or not file:
        card.drop("without a file name")
        return None
    try:
        path = (folder / file).resolve()
        if not path.is_relative_to(folder.resolve()):
            card.drop("outside the folder")
        elif not path.is_file():
            card.drop("listed but missing")
        else:
            return path
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # too long, a NUL or half a surrogate in it, a circle of links
        card.drop("with an impossible file name")
    return None


def _csv_rows(folder: Path, _: bool) -> Iterator[_Listed]:
    path = folder / "metadata.csv"
    try:
        header = csv_header(path)
        text = next((name for name in TEXT_COLUMNS if name in header), None)
        if FILE_COLUMN not in header or text is None:
            raise _missing_columns(path, header)
        for row in csv_rows(path):
            yield _Listed(row.get(FILE_COLUMN), row.get(text))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be a UTF-8 table with the columns {FILE_COLUMN} and {TEXT_COLUMNS[0]}, but {error}; save it so."
        ) from None


def _jsonl_rows(folder: Path, _: bool) -> Iterator[_Listed]:
    path = folder / "metadata.jsonl"
    found: set[str] = set()
    number, complete = 0, False
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for line in stream:
                number += 1
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"it is {type(row).__name__}")
                found |= row.keys()
                text = next((name for name in TEXT_COLUMNS if name in row), TEXT_COLUMNS[0])
                complete = complete or (FILE_COLUMN in row and text in row)
                yield _Listed(row.get(FILE_COLUMN), row.get(text))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} must hold one JSON object a line, but not so line {number} ({error}); correct it."
        ) from None
    if not complete:
        raise _missing_columns(path, sorted(found))


def _sidecar_text(folder: Path, path: Path, card: DataCard) -> object:
    if not path.is_file():
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        card.drop("with a caption outside the folder")
        return _TOLD
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        card.drop("with a caption that is not UTF-8 text")
        return _TOLD


def _missing_columns(path: Path, found: object) -> DataError:
    names = ", ".join(map(str, found)) if isinstance(found, list) else ""
    return DataError(
        f"{path} must have the columns {FILE_COLUMN} and {' or '.join(TEXT_COLUMNS)}, found {names or 'none'}; rename them."
    )


def images_below(folder: Path) -> Iterator[Path]:
    """Every image file below a folder, relative to it, in the order of the names; what begins with a dot is passed over."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield path.relative_to(folder)


def caption_file(image: Path) -> Path:
    """The file of an image's own caption, whether it is there or not."""
    files = [image.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _sidecars(folder: Path, repeats: bool) -> Iterator[_Listed]:
    """Every image below the folder; its caption is read when asked for. With `repeats` a folder's name captions too."""
    captioned = False
    for path in images_below(folder):
        text = caption_file(folder / path)
        captioned = captioned or text.is_file() or (repeats and repeats_in(str(path)) is not None)
        yield _Listed(str(path), text)
    if not captioned:
        raise DataError(
            f"{folder} must hold captions, but it has none of {', '.join(METADATA)} and no image with a .txt file of "
            f"the same name beside it; add one of these, or let a model: `python -m spin caption --images {folder}`."
        )
