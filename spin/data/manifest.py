"""The manifest every data source is brought to.

manifest.parquet      id, caption, image, sha256, width, height, split,          one row per image; read_manifest
                      original_width, original_height, crop_top, crop_left,      gives those of one split
                      with data.repeats also repeats
pairs.parquet         id, caption, image_w, image_l, width, height, split,       preference pairs; absent where
                      the winner's original_width, ..., crop_left and the        there are none
                      loser's original_width_l, ..., crop_left_l
prompts/val.parquet   prompt_id, prompt, category; cluster where captions        captions held out for previews
                      share something
prompts/test.parquet  the same                                                   captions held out for evaluation
images/               shards of PNG files (0.4 MB each at 512 pixels); the column image says where each lies, see `stored`
card.json             rows read, kept and dropped, and why
spin.sha256           the hash of every file; those of the shards stand in images/spin.sha256

Images of held-out captions stay in the manifest as split val or test; training reads split train only. Original size
and crop corner are SDXL's conditioning; the corner is in pixels of the resized image.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from spin.errors import DataError
from spin.runtime.files import read_parquet
from spin.runtime.tables import Table, mapped_array

ROWS_HELD = 1024
"""Rows a table writer holds before it writes them out."""

CROP = ("original_width", "original_height", "crop_top", "crop_left")
MANIFEST_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "caption", "image", "sha256")]
    + [("width", pa.int64()), ("height", pa.int64()), ("split", pa.string())]
    + [(name, pa.int64()) for name in CROP]
)
REPEATS = pa.field("repeats", pa.int64())
"""A further column of the manifest: how often an epoch shows the row."""
PAIR_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "caption", "image_w", "image_l")]
    + [("width", pa.int64()), ("height", pa.int64()), ("split", pa.string())]
    + [(name, pa.int64()) for name in (*CROP, *(f"{name}_l" for name in CROP))]
)
PROMPT_COLUMNS = ["prompt_id", "prompt", "category"]
CLUSTER = "cluster"
"""A column of the prompts that share something, such as two objects or a user: they are no independent sample."""
CHALLENGE = "challenge"
"""A column of what is hard about a prompt, as PartiPrompts has beside its category."""
FURTHER_COLUMNS = [CLUSTER, CHALLENGE]
GEOMETRY = ["original_height", "original_width", "crop_top", "crop_left", "height", "width"]
"""Columns of the manifest, in the order of SDXL's time ids (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""


class TableWriter:
    """Writes a parquet file row by row; never holds more than `ROWS_HELD` rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.num_rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._held: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; it must have the schema's columns."""
        self._held.append(row)
        self.num_rows += 1
        if len(self._held) == ROWS_HELD:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
            self._held = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._writer.close()


def uncropped_row(identifier: str, caption: str, png: bytes, place: str) -> dict[str, Any]:
    """A training row of the manifest for an encoded image, stored at `place`, that was made at its size."""
    with Image.open(io.BytesIO(png)) as opened:
        width, height = opened.size
    return {
        "id": identifier,
        "caption": caption,
        "image": place,
        "sha256": hashlib.sha256(png).hexdigest(),
        "width": width,
        "height": height,
        "split": "train",
        **dict(zip(CROP, (width, height, 0, 0), strict=True)),
    }


def pair_row(identifier: str, winner: dict[str, Any], loser: dict[str, Any]) -> dict[str, Any]:
    """A preference pair from the manifest rows of its images."""
    return {
        **{name: winner[name] for name in ("caption", "width", "height", "split", *CROP)},
        **{f"{name}_l": loser[name] for name in CROP},
        "id": identifier,
        "image_w": winner["image"],
        "image_l": loser["image"],
    }


def write_prompts(root: Path, prompts: Mapping[str, Sequence[tuple[str, ...]]]) -> None:
    """Write the prompt sets: split -> (prompt, category), perhaps with cluster and challenge, in order."""
    (root / "prompts").mkdir(exist_ok=True)
    for split, rows in prompts.items():
        named = [(f"{split}-{index:05d}", *row) for index, row in enumerate(rows)]
        frame = prompt_frame(named)
        frame.to_parquet(root / "prompts" / f"{split}.parquet", index=False)


def prompt_frame(rows: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """Make a table of prompts of rows (prompt_id, prompt, category), or of these and the first of `FURTHER_COLUMNS`."""
    columns = [*PROMPT_COLUMNS, *FURTHER_COLUMNS]
    return pd.DataFrame(rows, columns=columns[: len(rows[0]) if rows else len(PROMPT_COLUMNS)])


def read_prompt_table(path: Path) -> pd.DataFrame:
    """Read a table of prompts: `PROMPT_COLUMNS`, and the further ones it has; `FileError` if it lacks one of the first."""
    found = read_parquet(path)
    return read_parquet(path, [*PROMPT_COLUMNS, *(name for name in FURTHER_COLUMNS if name in found)])


def read_manifest(root: Path, split: str = "train") -> Table:
    """Open the rows of a split; raises `DataError` if the data stage has not run."""
    return _read_split(root / "manifest.parquet", split)


def repeats_of(manifest: Table) -> npt.NDArray[np.int32] | None:
    """How often an epoch shows each row of the manifest, or None where that is once for all."""
    if REPEATS.name not in manifest.columns:
        return None
    return mapped_array(
        (frame[REPEATS.name].to_numpy() for frame in manifest.batches(REPEATS.name)), np.int32
    )


def read_pairs(root: Path, split: str = "train") -> Table:
    """Open the preference pairs of a split; raises `DataError` if the data set has none."""
    if not (root / "pairs.parquet").is_file():
        raise DataError(
            f"Diffusion-DPO must have preference pairs, but the data set in {root} holds single images; "
            "remove the dpo baseline from params.yaml or use a data set of pairs."
        )
    return _read_split(root / "pairs.parquet", split)


def read_prompts(root: Path, split: str) -> pd.DataFrame:
    """Read a prompt set of the data set: columns prompt_id, prompt, category, and perhaps cluster."""
    return read_parquet(_existing(root / "prompts" / f"{split}.parquet"))


def _read_split(path: Path, split: str) -> Table:
    return Table(_existing(path), ("split", split))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} must exist, found none; run `spin data` first.")
    return path


def sizes_in(*tables: Table) -> list[tuple[int, int]]:
    """The sizes (height, width) of the images that manifests or pairs list, by area: one, unless there are buckets."""
    codes = {code for table in tables for part in _size_codes(table) for code in np.unique(part).tolist()}
    return [(code & _LOW, (code >> 32) // (code & _LOW)) for code in sorted(codes)]


def shapes_of(table: Table) -> npt.NDArray[np.int16] | None:
    """Of each row which of the table's `sizes_in` its image has, in a mapped file; None where all have the same."""
    sizes = sizes_in(table)
    if len(sizes) <= 1:
        return None
    codes = np.array([_size_code(*size) for size in sizes])
    return mapped_array((np.searchsorted(codes, part) for part in _size_codes(table)), np.int16)


_LOW = 2**32 - 1


def _size_code(height: Any, width: Any) -> Any:
    """A size as one number, in whose order the areas grow."""
    return height * width << 32 | height


def _size_codes(table: Table) -> Iterator[npt.NDArray[np.int64]]:
    for frame in table.batches("height", "width"):
        yield _size_code(frame["height"].to_numpy(), frame["width"].to_numpy())


def geometry_of(rows: pd.DataFrame) -> Tensor:
    """What SDXL is told of the images of manifest rows besides their captions: geometry (B, 6), in pixels."""
    return torch.tensor(rows[GEOMETRY].to_numpy(dtype="float32"))
