"""Which images are to be scored against which prompts: a model's samples, or any folder of captioned images."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from spin.errors import ScoreError
from spin.runtime.csv_rows import csv_header, csv_rows
from spin.runtime.images import known_formats
from spin.runtime.sums import checked

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
METADATA = ("manifest.parquet", "metadata.csv", "metadata.jsonl")
FLAT = 2
"""Levels of 255 by which a channel of a single-colour image may vary: JPEG's rounding."""


def read_listing(images: Path, prompts: bool = True) -> tuple[Path, pd.DataFrame]:
    """Return (folder, listing) of a folder of images or of a manifest; the listing has columns image, prompt and others.

    A folder states its prompts in manifest.parquet (image, prompt), in metadata.csv or metadata.jsonl (file_name,
    text), or in a .txt file beside each image. Without `prompts`, which not every scorer reads, those that are not stated
    are empty. Raises `ScoreError` if there are no images or, with `prompts`, if one has none.
    """
    if images.is_dir():
        stated = next((images / name for name in METADATA if (images / name).is_file()), None)
        folder, frame = images, (_read_table(stated, prompts) if stated else _read_sidecars(images, prompts))
    elif images.is_file():
        folder, frame = images.parent, _read_table(images, prompts)
    else:
        raise ScoreError(
            f"the images must be a folder or a manifest, got {images}, which is neither; correct the path."
        )
    check_listing(folder, frame, prompts)
    return folder, frame


def check_listing(folder: Path, frame: pd.DataFrame, prompts: bool = True) -> None:
    """Refuse an empty listing, unless without `prompts` an empty prompt, and images that are listed but not there."""
    if frame.empty:
        sought = "images with prompts" if prompts else "images"
        raise ScoreError(f"{folder} must hold {sought}, found none; give another folder.")
    nameless = [image for image in frame["image"] if not isinstance(image, str) or not image]
    if nameless:
        raise ScoreError(
            f"{folder} must list its images by file name, got {nameless[0]!r} ({len(nameless)} such rows); correct the"
            " list."
        )
    for image, prompt in zip(frame["image"], frame["prompt"], strict=True) if prompts else ():
        if not isinstance(prompt, str) or not prompt.strip():
            raise ScoreError(
                f"{folder / image} must have a prompt, got an empty one; write one or leave the image out."
            )
    missing = [image for image in frame["image"] if not (folder / image).is_file()]
    if missing:
        raise ScoreError(
            f"{folder} must hold the {len(frame)} images that it lists, {len(missing)} are missing, first {missing[0]};"
            " draw them again or correct the list."
        )


def open_image(path: Path) -> Image.Image:
    """Decode an image as it is; raises `ScoreError` if it is torn or of no known format.

    Raises `DamagedError` if it lies in outputs/ and holds other bytes than were written.
    """
    checked(path)
    try:
        with Image.open(path, formats=known_formats()) as image:
            image.load()
            return image
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise ScoreError(
            f"{path} must be an image, but it does not decode ({error}); save or draw it again, or take it away."
        ) from None


def is_single_colour(image: Image.Image) -> bool:
    """Whether no channel varies: black squares of a safety checker, or a model that has collapsed."""
    extrema = image.convert("RGB").getextrema()
    return all(int(high) - int(low) <= FLAT for low, high in extrema)  # type: ignore[misc]


def _read_table(path: Path, prompts: bool) -> pd.DataFrame:
    checked(path)
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix == ".jsonl":
            # Not splitlines: a caption may hold Unicode's other line ends.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            frame = _frame(json.loads(line) for line in lines if line.strip())
        elif path.suffix == ".csv":
            frame = pd.DataFrame(list(csv_rows(path)), columns=csv_header(path))
        else:
            raise ScoreError(f"a manifest must be .parquet, .csv or .jsonl, got {path.name}; convert it.")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise ScoreError(
            f"{path} must be a readable {path.suffix[1:]} file, but is not ({error}); write it again."
        ) from None
    others = {"file_name": "image", "text": "prompt"}
    frame = frame.rename(columns={old: new for old, new in others.items() if new not in frame})
    if not prompts:
        stated = [text if isinstance(text, str) else "" for text in frame.get("prompt", [""] * len(frame))]
        frame = frame.assign(prompt=stated)
    for name in ("image", "prompt"):
        if name not in frame:
            raise ScoreError(
                f"{path} must have the columns image and prompt (or file_name and text), got"
                f" {', '.join(map(str, frame.columns)) or 'none'}; rename them."
            )
    return frame


def _frame(rows: Iterable[Mapping[Any, Any]]) -> pd.DataFrame:
    return pd.DataFrame([dict(row) for row in rows])


def _read_sidecars(folder: Path, prompts: bool) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    drawn = {path.with_suffix(".txt") for path in paths}
    alone = sorted(path for path in folder.rglob("*.txt") if path not in drawn)
    if paths and alone and prompts:
        raise ScoreError(
            f"{folder} must hold an image for every prompt, but {len(alone)} .txt files have none, first"
            f" {alone[0].relative_to(folder)}; draw it, or take the file away if it is no prompt."
        )
    rows = []
    for path in paths:
        caption = path.with_suffix(".txt")
        if not caption.is_file():
            if not prompts:
                rows.append({"image": path.relative_to(folder).as_posix(), "prompt": ""})
                continue
            raise ScoreError(
                f"{path} must have a prompt, found no {caption.name} beside it and none of {', '.join(METADATA)} in"
                f" {folder}; write one of them."
            )
        try:
            prompt = caption.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ScoreError(f"{caption} must be text in UTF-8, but is not ({error}); save it so.") from None
        rows.append({"image": path.relative_to(folder).as_posix(), "prompt": prompt})
    return pd.DataFrame(rows, columns=["image", "prompt"])
