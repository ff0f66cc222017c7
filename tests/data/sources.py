"""Data sets as people publish them, small, and the stage that brings them to one manifest."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spin.data.dataset import write_dataset_data
from spin.data.pickapic import write_pickapic_data
from spin.params.data import DatasetData, PickapicData
from tests.data.images import jpeg

Row = dict[str, Any]


def bring(out: Path, **given: Any) -> Path:
    """Run a data stage at 32 pixels with a test's own settings."""
    out.mkdir()
    shared = {"revision": None, "split": "train", "max_rows": None, "small_images": "drop"}
    shared |= {"aspect_buckets": None, "num_val": 1, "num_test": 1, **given}
    if "pairs" in given:
        pickapic = {"kind": "pickapic", "val_split": None, "test_split": None, **shared}
        write_pickapic_data(out, PickapicData(**pickapic), 32)
    else:
        columns = {"config": None, "image_column": "image", "text_column": "text"}
        write_dataset_data(out, DatasetData(**{"kind": "dataset", **columns, **shared}), 32)
    return out


def judged(index: int, caption: str | None, label: float | None, **changed: Any) -> Row:
    images = {"jpg_0": jpeg(2 * index), "jpg_1": jpeg(2 * index + 1)}
    return {**images, "label_0": label, "caption": caption, "ranking_id": index, **changed}


def write_pickapic(folder: Path) -> Path:
    """12 prompts with 2 comparisons each, some of them unusable, in the names that the hub gives its files."""
    rows = [judged(index, f"prompt {index // 2}", float(index % 2)) for index in range(24)]
    rows[0]["jpg_1"] = b"torn"  # its winner: the prompt falls back on its second comparison
    rows += [judged(30, "prompt 1", 0.5), judged(31, "prompt 2", 0.5), judged(32, "prompt 3", None)]
    rows += [judged(33, "", 1.0), judged(34, "prompt 4", 1.0, jpg_1=jpeg(68)), judged(35, "test 0", 1.0)]
    rows += [judged(36, "prompt 5", 1.0, jpg_1=None)]
    (folder / "data").mkdir(parents=True)
    for part, start in enumerate((0, 20)):
        table = pa.Table.from_pylist(rows[start : start + 20])
        pq.write_table(table, folder / "data" / f"train-{part:05d}-of-00002-abc.parquet")
    for split in ("validation_unique", "test_unique"):
        held_out = [judged(40 + index, f"{split[:4]} {index}", 1.0, user_id=index // 2) for index in range(4)]
        pq.write_table(
            pa.Table.from_pylist(held_out), folder / "data" / f"{split}-00000-of-00001-abc.parquet"
        )
    return folder


def captioned(count: int) -> list[Row]:
    return [{"image": jpeg(index), "text": f"caption {index}", "other": index} for index in range(count)]


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for index, sample in enumerate(samples):
            for ending, data in sample.items():
                member = tarfile.TarInfo(f"{path.stem}/{index:06d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
