"""One entry for every kind of data source."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from spin.data.manifest import MANIFEST_SCHEMA, PROMPT_COLUMNS, TableWriter
from spin.params.schema import Params
from spin.runtime.files import write_json


def write_data(root: Path, params: Params, store: Path | None = None) -> None:
    """Bring the data source of `params` to a manifest with prompt sets in the existing empty folder `root`.

    A person's images that are ready are kept in the folder `store`: a killed run decodes none of them again.
    """
    data = params.data
    if data.kind == "toy":
        from spin.data.toy import write_toy_data

        write_toy_data(root, data, params.seed)
    elif data.kind == "folder":
        from spin.data.folder import write_folder_data

        write_folder_data(root, data, params.resolution, store)
    elif data.kind == "dataset":
        from spin.data.dataset import write_dataset_data

        write_dataset_data(root, data, params.resolution, store)
    elif data.kind == "none":
        write_no_data(root)
    else:
        from spin.data.pickapic import write_pickapic_data

        write_pickapic_data(root, data, params.resolution, store)


def source_digest(params: Params) -> str:
    """What a person's source holds, without reading it: names, sizes and times of its files, or the hub's commit.

    Raises `DataError` if the hub cannot be reached.
    """
    data, digest = params.data, hashlib.sha256()
    files: Iterable[Path] = ()
    if data.kind == "folder":
        files = _files_below(Path(data.path))
    elif data.kind == "dataset" or data.kind == "pickapic":
        from spin.data.streams import local_files, resolve

        files = local_files(data.source)
        if not files:
            return resolve(data.source, data.revision)
    for file in files:
        stat = file.stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, file) for file in sorted(files) if Path(parent, file).is_file())


def write_no_data(root: Path) -> None:
    """Write an empty manifest and empty prompt sets, for a run that only evaluates."""
    with TableWriter(root / "manifest.parquet", MANIFEST_SCHEMA):
        pass
    (root / "images").mkdir()
    (root / "prompts").mkdir()
    for split in ("val", "test"):
        pd.DataFrame(columns=PROMPT_COLUMNS, dtype=str).to_parquet(root / "prompts" / f"{split}.parquet")
    write_json(root / "card.json", {"source": "none", "rows_read": 0, "kept": {"train": 0}, "dropped": {}})
