"""Where captions of a folder's images are and go to: a .txt beside each image, or the folder's metadata.csv."""

import csv
import os
import time
import unicodedata
from pathlib import Path
from typing import Protocol

from spin.data.folder import FILE_COLUMN, TEXT_COLUMNS, caption_file, images_below
from spin.errors import DataError
from spin.runtime.csv_rows import csv_header, csv_rows
from spin.runtime.files import replacing_file

SECONDS_BETWEEN_SAVES = 10.0
"""Of captions that go to one table: what a killed run loses at most."""
LONGEST_CAPTION = 2000
"""Characters that are kept of what a model says."""


class Captions(Protocol):
    """The captions of a folder, and the images that are to get one."""

    folder: Path
    missing: list[Path]
    """Images without a caption, relative to the folder, in the order of their names."""
    num_images: int
    num_written: int
    where: str
    """Where captions go, in words."""

    def put(self, image: Path, caption: str) -> None:
        """Give an image its caption."""

    def save(self) -> None:
        """Bring to disk what is not there yet."""


def open_captions(folder: Path, write: str | None, replace: bool) -> Captions:
    """Find a folder's images and the captions it has; with `replace` all are to be made anew.

    `write` is "txt", "csv" or None for what the folder has. Raises `DataError` if there is no folder, no image, or metadata
    beside which captions written so would not be read.
    """
    if not folder.is_dir():
        raise DataError(f"--images must be a folder of images, but there is no folder {folder}; correct it.")
    images = [path for path in images_below(folder) if _is_inside(folder, path)]
    if not images:
        raise DataError(f"--images must be a folder of images, but {folder} holds none; name another.")
    has_table = (folder / "metadata.csv").is_file()
    if (folder / "metadata.jsonl").is_file() and not has_table:
        raise DataError(
            f"{folder} must hold its captions in .txt files or metadata.csv to get more, but it has metadata.jsonl, which "
            "would be read in their place; make a metadata.csv of it."
        )
    if write == "txt" and has_table:
        raise DataError(
            f"--write must be csv where the folder has a metadata.csv, got txt; {folder / 'metadata.csv'} is read in "
            "place of .txt files."
        )
    return (
        CaptionTable(folder, images, replace)
        if has_table or write == "csv"
        else CaptionTexts(folder, images, replace)
    )


class CaptionTexts:
    """A .txt beside each image, written one by one."""

    where = ".txt files beside them"

    def __init__(self, folder: Path, images: list[Path], replace: bool) -> None:
        """Raises `DataError` for two images that would share their .txt."""
        self.folder, self.num_images, self.num_written = folder, len(images), 0
        self.missing = [path for path in images if replace or not _sidecar(folder, path)]
        named: dict[Path, Path] = {}
        for path in self.missing:
            other = named.setdefault(path.with_suffix(".txt"), path)
            if other != path:
                raise DataError(
                    f"every image in {folder} must have a .txt of its own, but {other} and {path} would share one; rename "
                    "one of them or add --write csv."
                )

    def put(self, image: Path, caption: str) -> None:
        """Write the image's .txt."""
        with replacing_file((self.folder / image).with_suffix(".txt")) as temporary:
            temporary.write_text(caption + "\n", encoding="utf-8")
        self.num_written += 1

    def save(self) -> None:
        """Nothing is left to do."""


class CaptionTable:
    """metadata.csv, with a row for every image; rows and columns that were there stay, and so do captions of .txt files."""

    where = "metadata.csv"

    def __init__(self, folder: Path, images: list[Path], replace: bool) -> None:
        """Raises `DataError` for a table that cannot be read or has no file names."""
        self.folder, self.num_images, self.num_written = folder, len(images), 0
        self._path, self._saved = folder / "metadata.csv", time.monotonic()
        header, rows = self._read() if self._path.is_file() else ([FILE_COLUMN], [])
        self._text = next((name for name in TEXT_COLUMNS if name in header), TEXT_COLUMNS[0])
        self._header = list(dict.fromkeys([*header, self._text]))
        self._rows = rows
        self._row_of = {
            os.path.normpath(row.get(FILE_COLUMN, "")): row for row in reversed(rows)
        }  # the first counts
        for path in images:
            if str(path) not in self._row_of:
                row = {FILE_COLUMN: path.as_posix(), self._text: _sidecar(folder, path)}
                self._rows.append(row)
                self._row_of[str(path)] = row
        self.missing = [
            path for path in images if replace or not self._row_of[str(path)].get(self._text, "").strip()
        ]

    def put(self, image: Path, caption: str) -> None:
        """Fill in the image's row, and save the table if it was saved a while ago."""
        self._row_of[str(image)][self._text] = caption
        self.num_written += 1
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the table."""
        if self.num_written:
            with (
                replacing_file(self._path) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as stream,
            ):
                writer = csv.DictWriter(stream, self._header, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)
        self._saved = time.monotonic()

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        try:
            header = csv_header(self._path)
            if FILE_COLUMN not in header:
                raise ValueError(f"it has the columns {', '.join(header) or 'none'}")
            return header, list(csv_rows(self._path))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._path} must be a UTF-8 table with the column {FILE_COLUMN}, but {error}; save it so."
            ) from None


def _is_inside(folder: Path, path: Path) -> bool:
    """Whether a path below the folder is a file of it, and not a link that leads out of it."""
    found = folder / path
    return found.is_file() and found.resolve().is_relative_to(folder.resolve())


def _sidecar(folder: Path, path: Path) -> str:
    """The caption in an image's own file, or an empty text; one that is not UTF-8 is a caption all the same.

    A link that leads out of the folder is none, as the data stage has it.
    """
    found = caption_file(folder / path)
    if not _is_inside(folder, found.relative_to(folder)):
        return ""
    return found.read_text(encoding="utf-8-sig", errors="replace").strip()


def one_line(text: str) -> str:
    """What a model says as a caption: one line of printable text, of a sane length.

    It is written by a stranger and opened in spreadsheets: a first sign that makes a formula of it goes too.
    """
    printable = (" " if unicodedata.category(sign).startswith("C") else sign for sign in text)
    return " ".join("".join(printable).split()).lstrip("=+-@ ")[:LONGEST_CAPTION].strip()
