"""A folder of captioned images, with metadata.csv, metadata.jsonl or a .txt file beside each image."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from spin.data.images import open_rgb, resize_and_crop
from spin.data.manifest import DataCard, image_row, write_manifest
from spin.errors import DataError
from spin.params import FolderData
from spin.seeding import derive_seed

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def write_folder_data(root: Path, params: FolderData, resolution: int) -> None:
    """Bring a folder of captioned images to a manifest; each image is cropped to `resolution` and kept as PNG.

    Images that do not decode or are smaller than the resolution, and rows without a caption, are dropped and
    counted in the card. Held-out captions are the first by a hash of the caption, whatever the files are called;
    adding images can bring others to the front, so keep a set's held-out captions by keeping the set.
    """
    source = Path(params.path)
    if not source.is_dir():
        raise DataError(
            f"data.path must be a folder of captioned images, but there is no folder {source}; correct it."
        )
    card = DataCard(source=str(source))
    captions: dict[str, str] = {}
    for file, caption in _captioned_files(source):
        card.rows_read += 1
        if file in captions:
            card.drop("listed twice")
        elif not caption.strip():
            card.drop("without a caption")
        elif not (source / file).is_file():
            card.drop("listed but missing")
        else:
            captions[file] = " ".join(caption.split())
    held_out = _hold_out(sorted(set(captions.values())), params)
    (root / "images").mkdir()
    rows = []
    for index, (file, caption) in enumerate(sorted(captions.items())):
        if caption in held_out:
            continue
        identifier = f"train-{index:06d}"
        if _write_image(source / file, root / "images" / f"{identifier}.png", resolution, card):
            rows.append(image_row(root, identifier, caption, f"images/{identifier}.png"))
    prompts: dict[str, list[dict[str, object]]] = {"val": [], "test": []}
    for caption, split in held_out.items():
        identifier = f"{split}-{len(prompts[split]):05d}"
        prompts[split].append({"prompt_id": identifier, "prompt": caption, "category": ""})
    write_manifest(root, rows, [], prompts, card)


def _write_image(source: Path, target: Path, resolution: int, card: DataCard) -> bool:
    try:
        image = open_rgb(source)
    except DataError:
        card.drop("that do not decode")
        return False
    if min(image.size) < resolution:
        card.drop(f"smaller than {resolution} pixels")
        return False
    resize_and_crop(image, resolution).save(target)
    return True


def _hold_out(captions: list[str], params: FolderData) -> dict[str, str]:
    """Choose captions for val and test: caption -> split."""
    wanted = params.num_val + params.num_test
    if wanted >= len(captions):
        raise DataError(
            f"data.num_val + data.num_test must leave captions to train on, got {wanted} of the {len(captions)} "
            f"distinct captions in {params.path}; lower them or add images."
        )
    shuffled = sorted(captions, key=lambda caption: derive_seed("hold out", caption))
    return {
        caption: "val" if index < params.num_val else "test"
        for index, caption in enumerate(shuffled[:wanted])
    }


def _captioned_files(source: Path) -> Iterator[tuple[str, str]]:
    """Yield (file name relative to the folder, caption) from whichever kind of metadata the folder has."""
    if (source / "metadata.csv").is_file():
        try:
            frame = pd.read_csv(source / "metadata.csv", dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{source / 'metadata.csv'} must be a UTF-8 table with the columns file_name and text, but {error}."
            ) from None
        yield from _rows(frame, source / "metadata.csv")
    elif (source / "metadata.jsonl").is_file():
        try:
            lines = (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame([json.loads(line) for line in lines if line.strip()]).fillna("").astype(str)
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{source / 'metadata.jsonl'} must hold one JSON object a line, but {error}."
            ) from None
        yield from _rows(frame, source / "metadata.jsonl")
    else:
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                sidecar = path.with_suffix(".txt")
                caption = sidecar.read_text(encoding="utf-8", errors="replace") if sidecar.is_file() else ""
                yield str(path.relative_to(source)), caption


def _rows(frame: pd.DataFrame, path: Path) -> Iterator[tuple[str, str]]:
    for column in ("file_name", "text"):
        if column not in frame.columns:
            found = ", ".join(map(str, frame.columns)) or "none"
            raise DataError(f"{path} must have the columns file_name and text, found {found}; rename them.")
    yield from zip(frame["file_name"], frame["text"], strict=True)
